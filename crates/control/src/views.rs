//! Apps as the API shows them, worked out from the rows and what is.

use ace_api::http::{AppState, AppView, DeployView, InstanceView, ServedBy};
use ace_api::{Built, InstanceState, Program, Serving};
use ace_types::{AppName, ReleaseNumber};

use crate::commands::Commands;
use crate::config::ControlConfig;
use crate::plan::Statuses;
use crate::rows::{AppRow, DeployRow, DeployState};
use crate::state::State;

/// All apps, by name.
pub fn apps(
    config: &ControlConfig,
    state: &State,
    statuses: &Statuses,
    commands: &Commands,
) -> Vec<AppView> {
    state.apps().map(|app| view(config, state, statuses, commands, app)).collect()
}

/// One app; `None` where there is none of that name.
pub fn app(
    config: &ControlConfig,
    state: &State,
    statuses: &Statuses,
    commands: &Commands,
    name: &AppName,
) -> Option<AppView> {
    state.app(name).map(|app| view(config, state, statuses, commands, app))
}

fn view(
    config: &ControlConfig,
    state: &State,
    statuses: &Statuses,
    commands: &Commands,
    app: &AppRow,
) -> AppView {
    let release = app.serving.and_then(|number| state.release(&app.name, number));
    let built = release.map(|release| &release.built);
    // What follows is an instance's, and files have none.
    let runtime = built.and_then(|built| built.serving.runtime());
    let yaml = built.filter(|_| runtime.is_some()).map(|built| &built.app_yaml);
    let instances = instances(statuses, &app.name);
    AppView {
        name: app.name.clone(),
        tenant: app.tenant.clone(),
        url: config.url(&app.name),
        state: in_one_word(app, built, &instances),
        release: app.serving,
        deployed_at: app.deployed_at,
        served_by: built.map(|built| served_by(&built.serving)),
        python: runtime.map(|runtime| runtime.python.version.clone()),
        memory_limit: yaml.map(|yaml| yaml.limits.memory),
        volume: yaml.and_then(|yaml| yaml.volume),
        instances,
        commands: commands.of(&app.name),
        last_deploy: state.deploy(&app.name).map(|deploy| deploy_view(deploy)),
    }
}

fn served_by(serving: &Serving) -> ServedBy {
    match serving.runtime().map(|runtime| &runtime.program) {
        None => ServedBy::Files,
        Some(Program::Server { kind, .. }) => ServedBy::Server { name: *kind },
        Some(Program::Command { line, port }) => {
            ServedBy::Command { line: line.clone(), port: *port }
        }
    }
}

fn instances(statuses: &Statuses, app: &AppName) -> Vec<InstanceView> {
    let of_app = statuses.iter().filter(|(_, status)| status.app == *app);
    of_app
        .map(|(id, status)| InstanceView {
            id: id.clone(),
            release: status.release,
            state: status.state.clone(),
            since: status.since,
            restarts: status.restarts,
            last_end: status.last_end.clone(),
            memory_kills: status.memory_kills,
        })
        .collect()
}

fn in_one_word(app: &AppRow, built: Option<&Built>, instances: &[InstanceView]) -> AppState {
    let Some(serving) = app.serving else {
        return if app.destroying { AppState::Destroying } else { AppState::New };
    };
    if app.destroying {
        return AppState::Destroying;
    }
    let any = |is: fn(&InstanceView) -> bool| serves(instances, serving).any(is);
    let needs_none = built.is_some_and(|built| built.serving == Serving::Files);
    if needs_none || any(|instance| instance.state == InstanceState::Running) {
        AppState::Running
    } else if any(keeps_ending) {
        AppState::Crashing
    } else {
        AppState::Starting
    }
}

fn serves(
    instances: &[InstanceView],
    release: ReleaseNumber,
) -> impl Iterator<Item = &InstanceView> {
    instances.iter().filter(move |instance| instance.release == release)
}

fn keeps_ending(instance: &InstanceView) -> bool {
    match instance.state {
        InstanceState::Crashed { .. } | InstanceState::Failed => true,
        InstanceState::Starting => instance.restarts > 0,
        InstanceState::Running | InstanceState::Draining => false,
    }
}

fn deploy_view(deploy: &DeployRow) -> DeployView {
    let (ended_at, error) = match &deploy.state {
        DeployState::Building
        | DeployState::Preparing
        | DeployState::Starting { .. }
        | DeployState::Draining => (None, None),
        DeployState::Done { ended_at } => (Some(*ended_at), None),
        DeployState::Failed { ended_at, error } => (Some(*ended_at), Some(error.clone())),
    };
    DeployView { release: deploy.release, started_at: deploy.started_at, ended_at, error }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::changes;
    use crate::testing::{Rows, at, config, deploy, name, status};

    fn word(state: &State, statuses: Statuses) -> AppState {
        app(&config(), state, &statuses, &Commands::default(), &name("shop")).unwrap().state
    }

    #[test]
    fn an_app_in_one_word() {
        let mut state = Rows::default();
        state.begin("shop", 1);
        assert_eq!(word(&state, Statuses::new()), AppState::New);
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        assert_eq!(word(&state, Statuses::new()), AppState::Starting);
        let cases = [
            (InstanceState::Starting, AppState::Starting),
            (InstanceState::Running, AppState::Running),
            (InstanceState::Crashed { retry_at: at(9) }, AppState::Crashing),
            (InstanceState::Failed, AppState::Crashing),
        ];
        for (instance, wanted) in cases {
            assert_eq!(word(&state, Statuses::from([status("shop", 1, instance)])), wanted);
        }
        state.commit(changes::begin_destroy(&state, &name("shop")).unwrap());
        assert_eq!(word(&state, Statuses::new()), AppState::Destroying);
    }

    #[test]
    fn an_app_between_two_crashes_keeps_ending() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        let (id, mut again) = status("shop", 1, InstanceState::Starting);
        again.restarts = 1;
        assert_eq!(word(&state, Statuses::from([(id, again)])), AppState::Crashing);
    }

    #[test]
    fn a_view_shows_what_serves_and_how_the_last_deploy_went() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        state.begin("shop", 2);
        state.commit(changes::settle(&state, &name("shop"), "it broke", at(7)));
        let view =
            app(&config(), &state, &Statuses::new(), &Commands::default(), &name("shop")).unwrap();
        assert_eq!(view.url, "http://shop.localhost:8080");
        assert_eq!((view.release, view.deployed_at), (Some(ReleaseNumber(1)), Some(at(0))));
        assert_eq!(view.python.as_deref(), Some("3.13.1"));
        let last = view.last_deploy.unwrap();
        assert_eq!((last.release, last.ended_at), (ReleaseNumber(2), Some(at(7))));
        assert_eq!(last.error.as_deref(), Some("it broke"));
    }
}
