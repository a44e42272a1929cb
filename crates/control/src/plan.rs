//! What should run and where requests should go, worked out from the rows and what is.
//!
//! Pure: `reconcile` acts on it. Once all is as it should be, the plan stays the same.

use std::collections::BTreeMap;
use std::iter;
use std::time::Duration;

use ace_api::{
    Backend, EndReason, InstanceSocket, InstanceSpec, InstanceState, InstanceStatus, Route,
    RouteTable, Serving, VolumeSpec,
};
use ace_types::{AppName, Domain, InstanceId, ReleaseNumber};
use jiff::{SignedDuration, Timestamp};

use crate::config::ControlConfig;
use crate::rows::{AppRow, InstanceRole, InstanceRow, ReleaseRow};
use crate::state::State;

/// The pause before a serving instance that could not start is replaced; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A new release that ends by itself within this time after its switch is taken back.
const TRIAL: Duration = Duration::from_secs(60);
/// How much later that may still be noticed, by an engine that was not there for instance.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);

/// What every instance is, by id.
pub type Statuses = BTreeMap<InstanceId, InstanceStatus>;

/// What there is to bring about.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub routes: RouteTable,
    /// All that should run.
    pub instances: Vec<InstanceSpec>,
    /// Serving instances that have failed for good and whose pause is over.
    pub replace: Vec<(AppName, InstanceId)>,
    /// New releases that have died in their first minute.
    pub died: Vec<Death>,
}

/// A new release that has died in its first minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    pub app: AppName,
    pub release: ReleaseNumber,
    /// When and how, such as `after 12 s: the app server ended with status 1`.
    pub reason: String,
}

/// The plan for what `state` wants and `statuses` says, at `now`.
pub fn plan(config: &ControlConfig, state: &State, statuses: &Statuses, now: Timestamp) -> Plan {
    let parts = |row: &InstanceRow| {
        let app = state.app(&row.app)?;
        let release = state.release(&row.app, row.release)?;
        spec(config, app, release, row)
    };
    let mut domains = domains_by_app(state);
    let route = |app: &AppRow| {
        let domains = domains.remove(&app.name).unwrap_or_default();
        route(config, app, &domains, state, statuses)
    };
    let due = |row: &&InstanceRow| is_due_for_replacement(statuses, row, now);
    let rows = || state.instances().map(|row| -> &InstanceRow { row });
    Plan {
        routes: RouteTable { routes: state.apps().map(|app| &**app).filter_map(route).collect() },
        instances: rows().filter_map(parts).collect(),
        replace: rows().filter(due).map(|row| (row.app.clone(), row.id.clone())).collect(),
        died: state.apps().filter_map(|app| death(app, state, statuses, now)).collect(),
    }
}

/// The instance of `release` that a command with the id `id` runs like. `None` as for [`spec`].
pub fn like_an_instance(
    config: &ControlConfig,
    app: &AppRow,
    release: &ReleaseRow,
    id: InstanceId,
) -> Option<InstanceSpec> {
    let row = InstanceRow {
        id,
        app: app.name.clone(),
        tenant: app.tenant.clone(),
        release: release.number,
        role: InstanceRole::Candidate,
        replaced: 0,
    };
    spec(config, app, release, &row)
}

/// `None` where the engine has no such range of user ids, since its claim has shrunk under it, and
/// for files, which nothing runs for.
fn spec(
    config: &ControlConfig,
    app: &AppRow,
    release: &ReleaseRow,
    row: &InstanceRow,
) -> Option<InstanceSpec> {
    let (built, yaml) = (&release.built, &release.built.app_yaml);
    Some(InstanceSpec {
        id: row.id.clone(),
        tenant: row.tenant.clone(),
        app: row.app.clone(),
        release: row.release,
        ids: config.id_range(app.ids)?,
        code: built.code.clone(),
        runtime: built.serving.runtime()?.clone(),
        processes: yaml.processes,
        threads: yaml.threads,
        env: environment(release),
        limits: release.limits.over(&yaml.limits),
        volume: yaml.volume.map(|size| VolumeSpec {
            image: config.volume(&row.app),
            size,
            keep: yaml.keep.clone(),
        }),
        health: yaml.health.clone(),
        host: config.host(&row.app).ok()?.to_string(),
        startup: yaml.startup,
        stop_grace: config.stop_grace,
    })
}

/// The variables of `app.yaml`, overridden by the configuration.
fn environment(release: &ReleaseRow) -> BTreeMap<String, String> {
    let mut environment = release.built.app_yaml.env.clone();
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    environment.extend(release.config.iter().map(owned));
    environment
}

fn domains_by_app(state: &State) -> BTreeMap<AppName, Vec<&Domain>> {
    let mut by_app = BTreeMap::<AppName, Vec<&Domain>>::new();
    for row in state.domains() {
        by_app.entry(row.app.clone()).or_default().push(&row.name);
    }
    by_app
}

/// The way to the release that `app` serves.
fn route(
    config: &ControlConfig,
    app: &AppRow,
    domains: &[&Domain],
    state: &State,
    statuses: &Statuses,
) -> Option<Route> {
    let number = app.serving.filter(|_| !app.destroying)?;
    let release = state.release(&app.name, number)?;
    let built = &release.built;
    let (wildcards, names): (Vec<&Domain>, Vec<_>) =
        domains.iter().copied().partition(|domain| domain.is_wildcard());
    let host = |domain: &Domain| domain.host().clone();
    Some(Route {
        // Its own name first: by that the gateway finds what it had for the app before.
        hosts: iter::once(config.host(&app.name).ok()?)
            .chain(names.into_iter().map(host))
            .collect(),
        wildcards: wildcards.into_iter().map(host).collect(),
        app: app.name.clone(),
        release: number,
        code: built.code.clone(),
        statics: built.app_yaml.statics.clone(),
        rewrites: built.app_yaml.rewrites.clone(),
        tries: built.app_yaml.tries.clone(),
        errors: built.app_yaml.errors.clone(),
        backend: match app.stopped {
            true => Backend::Stopped,
            false => backend(release, state, statuses),
        },
        limits: release.limits.over(&built.app_yaml.limits),
    })
}

/// What is behind the files of `release`: those of the instances that serve it and run.
fn backend(release: &ReleaseRow, state: &State, statuses: &Statuses) -> Backend {
    let protocol = match &release.built.serving {
        Serving::Files => return Backend::Files,
        Serving::Program(runtime) => runtime.program.protocol(),
    };
    let ready = |row: &InstanceRow| {
        let status = statuses.get(&row.id)?;
        let runs = row.role == InstanceRole::Serving && status.state == InstanceState::Running;
        let socket = || status.socket.clone();
        runs.then(|| InstanceSocket { id: row.id.clone(), socket: socket(), protocol })
    };
    Backend::Instances(state.instances_of(&release.app).filter_map(|row| ready(row)).collect())
}

/// A node never tries an instance again that has failed at its first start. For a candidate that is
/// right: its deploy fails. One that serves got here by a failure of the machine's, such as its
/// reboot, and deserves another.
fn is_due_for_replacement(statuses: &Statuses, row: &InstanceRow, now: Timestamp) -> bool {
    let serves = row.role == InstanceRole::Serving;
    let failed = statuses.get(&row.id).filter(|status| status.state == InstanceState::Failed);
    let pause = FIRST_PAUSE.saturating_mul(1 << row.replaced.min(16)).min(LONGEST_PAUSE);
    serves && failed.is_some_and(|status| now.duration_since(status.since).unsigned_abs() >= pause)
}

/// How the release that `app` serves has died, if it's new and did so in its first minute.
fn death(app: &AppRow, state: &State, statuses: &Statuses, now: Timestamp) -> Option<Death> {
    let (release, switched) = (app.serving?, app.deployed_at?);
    let is_young = now.duration_since(switched) <= signed(TRIAL + NOTICED_WITHIN);
    if app.trial.is_none() || app.destroying || !is_young {
        return None;
    }
    let serving = state.instances_of(&app.name).filter(|row| row.role == InstanceRole::Serving);
    let end = |row: &InstanceRow| {
        let status = statuses.get(&row.id)?;
        let age = status.since.duration_since(switched);
        let end = status.last_end.as_ref().filter(|end| is_of_its_own(end))?;
        (age <= signed(TRIAL)).then(|| format!("after {} s: {end}", age.as_secs().max(0)))
    };
    let reason = serving.filter_map(|row| end(row)).next()?;
    Some(Death { app: app.name.clone(), release, reason })
}

/// Whether it's the release that is to blame for its end, as far as can be told.
fn is_of_its_own(end: &EndReason) -> bool {
    match end {
        EndReason::Damaged { .. } | EndReason::Lost | EndReason::NotStarted { .. } => false,
        EndReason::Exited { .. }
        | EndReason::Signalled { .. }
        | EndReason::NotLoaded
        | EndReason::ImportFailed { .. }
        | EndReason::SyntaxError { .. }
        | EndReason::ModuleMissing { .. }
        | EndReason::EntryMissing { .. }
        | EndReason::EntryNotCallable { .. }
        | EndReason::WrongInterface
        | EndReason::StartupFailed
        | EndReason::WorkersEnd { .. }
        | EndReason::OutOfMemory { .. }
        | EndReason::KernelMemory { .. }
        | EndReason::TooManyProcesses { .. }
        | EndReason::TmpFull { .. }
        | EndReason::CodeFull { .. }
        | EndReason::ShmFull { .. }
        | EndReason::VolumeFull { .. }
        | EndReason::StillLoading { .. }
        | EndReason::NoAnswer { .. }
        | EndReason::NothingListens { .. }
        | EndReason::Unhealthy { .. } => true,
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::changes;
    use crate::testing::{Rows, at, built, config, deploy, instance_id, name, status};

    fn ids(plan: &Plan) -> Vec<InstanceId> {
        plan.instances.iter().map(|spec| spec.id.clone()).collect()
    }

    /// The instances that each app's route leads to.
    fn routed(plan: &Plan) -> Vec<(u32, Vec<InstanceId>)> {
        let sockets =
            |route: &Route| route.backend.instances().iter().map(|to| to.id.clone()).collect();
        plan.routes.routes.iter().map(|route| (route.release.0, sockets(route))).collect()
    }

    fn plan_at(second: i64, state: &State, statuses: &Statuses) -> Plan {
        plan(&config(), state, statuses, at(second))
    }

    /// `shop` serves release 1 by instance 1 and has a candidate, instance 2.
    fn upgrading() -> Rows {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        state.begin("shop", 2);
        state.propose("shop", 2);
        state
    }

    #[test]
    fn nothing_wanted_nothing_planned() {
        let plan = plan_at(0, &State::default(), &Statuses::new());
        assert_eq!(
            plan,
            Plan {
                routes: RouteTable::default(),
                instances: vec![],
                replace: vec![],
                died: vec![]
            }
        );
    }

    #[test]
    fn a_candidate_runs_but_gets_no_requests() {
        let running = InstanceState::Running;
        let statuses =
            Statuses::from([status("shop", 1, running.clone()), status("shop", 2, running)]);
        let plan = plan_at(0, &upgrading(), &statuses);
        assert_eq!(ids(&plan), [instance_id(1), instance_id(2)]);
        assert_eq!(routed(&plan), [(1, vec![instance_id(1)])]);
    }

    #[test]
    fn after_the_switch_only_the_new_instance_gets_requests_and_both_run() {
        let mut state = upgrading();
        state.commit(changes::switch(&state, &name("shop"), at(1)).unwrap());
        let running = InstanceState::Running;
        let statuses =
            Statuses::from([status("shop", 1, running.clone()), status("shop", 2, running)]);
        let plan = plan_at(0, &state, &statuses);
        assert_eq!(ids(&plan), [instance_id(1), instance_id(2)]);
        assert_eq!(routed(&plan), [(2, vec![instance_id(2)])]);
    }

    #[test]
    fn an_app_that_does_not_run_keeps_its_route() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        for state_now in [InstanceState::Starting, InstanceState::Draining, InstanceState::Failed] {
            let statuses = Statuses::from([status("shop", 1, state_now)]);
            assert_eq!(routed(&plan_at(0, &state, &statuses)), [(1, vec![])]);
        }
        assert_eq!(routed(&plan_at(0, &state, &Statuses::new())), [(1, vec![])]);
    }

    #[test]
    fn a_destroyed_app_has_neither_route_nor_instances() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        deploy(&mut state, "blog", 3);
        state.commit(changes::begin_destroy(&state, &name("shop"), None).unwrap());
        let statuses = Statuses::from([status("shop", 1, InstanceState::Running)]);
        let plan = plan_at(0, &state, &statuses);
        assert_eq!(ids(&plan), [instance_id(3)]);
        assert_eq!(plan.routes.routes.len(), 1);
        assert_eq!(plan.routes.routes[0].hosts[0].as_str(), "blog.localhost");
    }

    #[test]
    fn a_serving_instance_that_failed_is_replaced_after_a_pause_that_doubles() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        let statuses = Statuses::from([status("shop", 1, InstanceState::Failed)]);
        assert_eq!(plan_at(4, &state, &statuses).replace, []);
        assert_eq!(plan_at(5, &state, &statuses).replace, [(name("shop"), instance_id(1))]);
        let ops =
            changes::replace_instance(&state, &name("shop"), &instance_id(1), &instance_id(2));
        state.commit(ops);
        let statuses = Statuses::from([status("shop", 2, InstanceState::Failed)]);
        assert_eq!(plan_at(9, &state, &statuses).replace, []);
        assert_eq!(plan_at(10, &state, &statuses).replace.len(), 1);
    }

    #[test]
    fn a_candidate_that_failed_is_not_replaced() {
        let statuses = Statuses::from([status("shop", 2, InstanceState::Failed)]);
        assert_eq!(plan_at(999, &upgrading(), &statuses).replace, []);
    }

    #[test]
    fn an_instance_is_what_its_release_says() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        let plan = plan_at(0, &state, &Statuses::new());
        let spec = &plan.instances[0];
        assert_eq!(spec.host, "shop.localhost");
        assert_eq!(spec.code, built("shop", 1).code);
        assert_eq!(Some(spec.ids), config().id_range(state.app(&name("shop")).unwrap().ids));
        assert_eq!(spec.volume, None);
    }

    /// `shop` serves release 2 since second 0, after release 1.
    fn upgraded() -> Rows {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        deploy(&mut state, "shop", 2);
        state
    }

    /// Instance 2 of `shop`, as it came into `state` at `second` after `end`.
    fn ended(second: i64, state: InstanceState, end: EndReason) -> Statuses {
        let (id, mut status) = status("shop", 2, state);
        status.since = at(second);
        status.last_end = Some(end);
        Statuses::from([(id, status)])
    }

    const EXIT: EndReason = EndReason::Exited { status: 1 };

    fn reasons(second: i64, state: &State, statuses: &Statuses) -> Vec<String> {
        let died = plan_at(second, state, statuses).died;
        died.into_iter().map(|death| death.reason).collect()
    }

    #[test]
    fn a_new_release_dies_in_its_first_minute_and_not_later() {
        let (state, crashed) = (upgraded(), InstanceState::Crashed { retry_at: at(99) });
        let death = ["after 12 s: the app server ended with status 1"];
        assert_eq!(reasons(12, &state, &ended(12, crashed.clone(), EXIT)), death);
        assert_eq!(reasons(70, &state, &ended(12, InstanceState::Starting, EXIT)), death);
        assert_eq!(reasons(61, &state, &ended(61, crashed.clone(), EXIT)).len(), 0);
        assert_eq!(reasons(91, &state, &ended(12, InstanceState::Running, EXIT)).len(), 0);
        let running = Statuses::from([status("shop", 2, InstanceState::Running)]);
        assert_eq!(reasons(12, &state, &running).len(), 0);
    }

    #[test]
    fn what_somebody_else_did_is_no_death() {
        let damaged = EndReason::Damaged { what: "its socket".to_owned() };
        let crashed = InstanceState::Crashed { retry_at: at(13) };
        for end in [damaged, EndReason::Lost] {
            assert_eq!(reasons(12, &upgraded(), &ended(12, crashed.clone(), end)).len(), 0);
        }
    }

    #[test]
    fn only_what_has_something_to_turn_back_to_dies() {
        let crashed = InstanceState::Crashed { retry_at: at(13) };
        let mut state = Rows::default();
        deploy(&mut state, "shop", 2);
        assert_eq!(reasons(12, &state, &ended(12, crashed.clone(), EXIT)).len(), 0);
        let mut state = upgraded();
        state.wish("shop", 3, &changes::Wish::Rollback { to: None });
        state.arrive("shop", 1);
        let (_, status) = ended(12, crashed, EXIT).pop_first().unwrap();
        let statuses = Statuses::from([(instance_id(3), status)]);
        assert_eq!(reasons(12, &state, &statuses).len(), 0);
    }
}
