//! Apps as the API shows them, worked out from the rows and what is.

mod limits;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use ace_api::http::{
    AppState, AppView, BuildResult, BuildView, BuildsView, ConfigView, DeployView, DomainView,
    DomainsView, InstanceView, ReleaseView, ReleasesView, ServedBy, VariableView, WithdrawnView,
};
use ace_api::{Gateway, InstanceState, InstanceStatus, Node, NodeUsage, Program, Serving, Traffic};
use ace_types::{AppName, Bytes};

use crate::commands::Commands;
use crate::config::ControlConfig;
use crate::plan::Statuses;
use crate::rows::{
    AppRow, BuildRow, BuildState, DeployRow, DeployState, DomainRow, InstanceRole, ReleaseRow,
};
use crate::state::State;
pub use limits::limits;

/// What node and gateway say of how it is.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    pub statuses: Arc<Statuses>,
    pub usage: NodeUsage,
    pub traffic: Traffic,
}

impl Observed {
    pub fn now(node: &dyn Node, gateway: &dyn Gateway) -> Self {
        let statuses = Arc::clone(&node.statuses().borrow());
        Self { statuses, usage: node.usage(), traffic: gateway.traffic() }
    }
}

/// One app.
pub fn app(
    config: &ControlConfig,
    state: &State,
    observed: &Observed,
    commands: &Commands,
    app: &AppRow,
) -> AppView {
    let release = app.serving.and_then(|number| state.release(&app.name, number));
    // Limits and a volume are an instance's, and files have none.
    let runtime = release.and_then(|release| release.built.serving.runtime());
    let program = release.filter(|_| runtime.is_some());
    let limits = program.map(|release| release.limits.over(&release.built.app_yaml.limits));
    AppView {
        name: app.name.clone(),
        tenant: app.tenant.clone(),
        url: config.url(&app.name),
        domains: state.domains_of(&app.name).map(|row| row.name.clone()).collect(),
        state: in_one_word(app, state, &observed.statuses),
        release: app.serving,
        deployed_at: app.deployed_at,
        withdrawn: last_withdrawn(app, state),
        scale: app.scale,
        served_by: release.map(|release| served_by(&release.built.serving)),
        python: runtime.map(|runtime| runtime.python.version.clone()),
        python_trouble: None,
        missing: Vec::new(),
        memory_limit: limits.map(|limits| limits.memory),
        volume: program.and_then(|release| release.built.app_yaml.volume),
        instances: instances(observed, &app.name),
        traffic: observed.traffic.apps.get(&app.name).cloned(),
        commands: commands.of(&app.name),
        last_deploy: state.deploy(&app.name).map(|deploy| deploy_view(deploy)),
    }
}

/// The configuration that the next release of `app` takes.
pub fn config(app: &AppRow, reveal: bool) -> ConfigView {
    let variable = |(name, value): (&str, &str)| VariableView {
        name: name.to_owned(),
        value: reveal.then(|| value.to_owned()),
    };
    ConfigView {
        app: app.name.clone(),
        tenant: app.tenant.clone(),
        variables: app.config.iter().map(variable).collect(),
    }
}

/// The domains of `app`.
pub fn domains(state: &State, app: &AppRow) -> DomainsView {
    let view = |row: &DomainRow| DomainView { name: row.name.clone(), added_at: row.added_at };
    let domains = state.domains_of(&app.name).map(|row| view(row)).collect();
    DomainsView { app: app.name.clone(), tenant: app.tenant.clone(), domains, next: None }
}

/// The builds of `app`.
pub fn builds(state: &State, app: &AppRow) -> BuildsView {
    let builds = state.builds_of(&app.name).rev().map(|row| build(row)).collect();
    BuildsView { app: app.name.clone(), tenant: app.tenant.clone(), builds, next: None }
}

/// One build.
pub fn build(row: &BuildRow) -> BuildView {
    let (state, ended_at, error) = match &row.state {
        BuildState::Building => (BuildResult::Building, None, None),
        BuildState::Built { ended_at } => (BuildResult::Built, Some(*ended_at), None),
        BuildState::Failed { ended_at, error } => {
            (BuildResult::Failed, Some(*ended_at), Some(error.clone()))
        }
        BuildState::Unfit { ended_at, error } => {
            (BuildResult::Unfit, Some(*ended_at), Some(error.clone()))
        }
    };
    let (release, id, started_at) = (row.number, row.id.clone(), row.started_at);
    BuildView { release, id, state, started_at, ended_at, error }
}

/// The releases of `app`.
pub fn releases(state: &State, app: &AppRow) -> ReleasesView {
    let name = &app.name;
    let mut known = BTreeSet::new();
    let view = |row: &ReleaseRow| release_view(app, row, &mut known);
    // The oldest first: what several share counts where it came from.
    let mut releases: Vec<ReleaseView> =
        state.releases_of(name).map(|row| &**row).map(view).collect();
    releases.reverse();
    let size = Bytes(releases.iter().map(|release| release.size.0).sum());
    ReleasesView { app: name.clone(), tenant: app.tenant.clone(), releases, size, next: None }
}

/// `known` are folders that have been counted.
fn release_view(app: &AppRow, row: &ReleaseRow, known: &mut BTreeSet<PathBuf>) -> ReleaseView {
    let built = &row.built;
    let runtime = built.serving.runtime();
    let environment = runtime.map(|runtime| (&runtime.environment, runtime.environment_size));
    let folders = [Some((&built.code, built.code_size)), environment];
    let new = folders.into_iter().flatten().filter(|(folder, _)| known.insert((*folder).clone()));
    ReleaseView {
        number: row.number,
        cause: row.cause.clone(),
        by: row.by.clone(),
        created_at: row.created_at,
        serves: app.serving == Some(row.number),
        python: runtime.map(|runtime| runtime.python.version.clone()),
        size: Bytes(new.map(|(_, size)| size.0).sum()),
        withdrawn: withdrawn(row),
    }
}

fn withdrawn(row: &ReleaseRow) -> Option<WithdrawnView> {
    let withdrawn = row.withdrawn.clone()?;
    Some(WithdrawnView {
        release: row.number,
        to: withdrawn.to,
        at: withdrawn.at,
        reason: withdrawn.reason,
    })
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

/// The release that `app` has last turned back from by itself, as long as nothing has served since but
/// what it turned back to.
fn last_withdrawn(app: &AppRow, state: &State) -> Option<WithdrawnView> {
    let mut rows = state.releases_of(&app.name).filter_map(|row| withdrawn(row));
    rows.rfind(|row| Some(row.at) == app.deployed_at)
}

fn instances(observed: &Observed, app: &AppName) -> Vec<InstanceView> {
    let Observed { statuses, usage, traffic } = observed;
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
            usage: usage.instances.get(id).cloned(),
            traffic: traffic.instances.get(id).cloned(),
        })
        .collect()
}

fn in_one_word(app: &AppRow, state: &State, statuses: &Statuses) -> AppState {
    if app.destroying {
        return AppState::Destroying;
    }
    let Some(number) = app.serving else { return AppState::New };
    if app.stopped {
        return AppState::Stopped;
    }
    let of_app = state.instances_of(&app.name);
    let serving = of_app.filter(|row| row.role == InstanceRole::Serving);
    let serving: Vec<&InstanceStatus> = serving.filter_map(|row| statuses.get(&row.id)).collect();
    let release = state.release(&app.name, number);
    let needs_none = release.is_some_and(|row| row.built.serving == Serving::Files);
    if needs_none || serving.iter().any(|status| status.state == InstanceState::Running) {
        AppState::Running
    } else if serving.iter().any(|status| keeps_ending(status)) {
        AppState::Crashing
    } else {
        AppState::Starting
    }
}

fn keeps_ending(instance: &InstanceStatus) -> bool {
    match instance.state {
        InstanceState::Crashed { .. } | InstanceState::Failed => true,
        InstanceState::Starting => instance.restarts > 0,
        InstanceState::Running | InstanceState::Draining => false,
    }
}

fn deploy_view(deploy: &DeployRow) -> DeployView {
    let (ended_at, failure) = match &deploy.state {
        DeployState::Building
        | DeployState::Preparing
        | DeployState::Starting
        | DeployState::Draining => (None, None),
        DeployState::Done { ended_at } => (Some(*ended_at), None),
        DeployState::Failed { ended_at, code, error } => {
            (Some(*ended_at), Some((code.clone(), error.clone())))
        }
    };
    let (kind, release) = (deploy.kind.clone(), deploy.release);
    let (code, error) = failure.unzip();
    let by = deploy.by.clone();
    DeployView { kind, by, release, started_at: deploy.started_at, ended_at, code, error }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::changes;
    use ace_types::ReleaseNumber;

    use crate::testing::{Rows, at, config, deploy, name, status};

    fn view(state: &State, statuses: &Statuses) -> AppView {
        let row = state.app(&name("shop")).unwrap();
        let statuses = Arc::new(statuses.clone());
        let observed = Observed { statuses, ..Observed::default() };
        app(&config(), state, &observed, &Commands::default(), row)
    }

    fn word(state: &State, statuses: Statuses) -> AppState {
        view(state, &statuses).state
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
        state.commit(changes::begin_destroy(&state, &name("shop"), None).unwrap());
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
        state.settle("shop", 7);
        let view = view(&state, &Statuses::new());
        assert_eq!(view.url, "http://shop.localhost:8080");
        assert_eq!((view.release, view.deployed_at), (Some(ReleaseNumber(1)), Some(at(0))));
        assert_eq!(view.python.as_deref(), Some("3.13.1"));
        let last = view.last_deploy.unwrap();
        assert_eq!((last.release, last.ended_at), (ReleaseNumber(2), Some(at(7))));
        assert_eq!(last.error.as_deref(), Some("it broke"));
    }
}
