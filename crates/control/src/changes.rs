//! Every change to the rows, each a pure function from the state to the operations that make it.
//!
//! Together they are a deploy's and an app's life as the store sees it. Whatever is half done when
//! the engine dies, [`settle`] ends, from the rows alone.

use ace_api::{Built, Interpreter};
use ace_store::Op;
use ace_types::{AppName, BuildId, InstanceId, ReleaseNumber, TenantName};
use axum::http::StatusCode;
use jiff::Timestamp;

use crate::refusal::Refusal;
use crate::rows::{AppRow, DeployRow, DeployState, IdsOwner, IdsRow, InstanceRow, ReleaseRow};
use crate::state::{Row, State, create};

/// Releases that are kept for each app besides those in use.
const RELEASES_KEPT: usize = 10;

/// A deploy that is to begin.
#[derive(Debug, Clone)]
pub struct Begin {
    pub app: AppName,
    pub tenant: TenantName,
    pub build: BuildId,
    pub now: Timestamp,
    /// Ranges of user ids that the engine has.
    pub ranges: u32,
    /// Where the search for a free one starts, so that a range rests before it is used again.
    pub first_range: u32,
}

/// What a deploy that has begun may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Begun {
    pub release: ReleaseNumber,
    /// The number of the build's range of user ids.
    pub build_ids: u32,
    /// The Python to keep to.
    pub python: Option<Interpreter>,
}

/// An app gets a deploy; a new name becomes an app.
pub fn begin_deploy(state: &State, begin: &Begin) -> Result<(Vec<Op>, Begun), Refusal> {
    let mut free = free_ranges(state, begin);
    let mut take = || free.next().ok_or_else(no_ranges);
    let build_ids = take()?;
    let mut ops =
        vec![create(&IdsRow { index: build_ids, owner: IdsOwner::Build(begin.build.clone()) })];
    let app = match state.app(&begin.app) {
        Some(row) => {
            check_owner(row, begin)?;
            let app = AppRow { next_release: row.next_release.next(), ..AppRow::clone(row) };
            ops.push(row.replace(&app));
            app
        }
        None => {
            let app = new_app(begin, take()?);
            ops.push(create(&IdsRow { index: app.ids, owner: IdsOwner::App(app.name.clone()) }));
            ops.push(create(&app));
            app
        }
    };
    let release = ReleaseNumber(app.next_release.0 - 1);
    let deploy = DeployRow {
        app: begin.app.clone(),
        tenant: begin.tenant.clone(),
        release,
        build: begin.build.clone(),
        started_at: begin.now,
        state: DeployState::Building,
    };
    ops.push(match state.deploy(&begin.app) {
        Some(row) => row.replace(&deploy),
        None => create(&deploy),
    });
    Ok((ops, Begun { release, build_ids, python: app.python }))
}

/// The build has ended well, and the app has something to run before its release starts. Returns that
/// release as it will be kept.
pub fn prepare(
    state: &State,
    app: &AppName,
    built: &Built,
    now: Timestamp,
) -> Result<(Vec<Op>, ReleaseRow), Refusal> {
    let (_, deploy) = running_deploy(state, app)?;
    let preparing = DeployRow { state: DeployState::Preparing, ..DeployRow::clone(deploy) };
    Ok((vec![deploy.replace(&preparing)], release(deploy, built, now)))
}

/// The build has ended well: its release is kept, and an instance of it is to run.
pub fn propose(
    state: &State,
    app: &AppName,
    built: &Built,
    instance: &InstanceId,
    now: Timestamp,
) -> Result<Vec<Op>, Refusal> {
    let (_, deploy) = running_deploy(state, app)?;
    let candidate = InstanceRow {
        id: instance.clone(),
        app: app.clone(),
        tenant: deploy.tenant.clone(),
        release: deploy.release,
        replaced: 0,
    };
    let starting = DeployState::Starting { instance: instance.clone() };
    let mut ops = vec![
        create(&release(deploy, built, now)),
        create(&candidate),
        deploy.replace(&DeployRow { state: starting, ..DeployRow::clone(deploy) }),
    ];
    ops.extend(free_build_ids(state, &deploy.build));
    Ok(ops)
}

/// The build has ended well, and made files alone: its release is kept, and served from this commit
/// on.
pub fn publish(
    state: &State,
    app: &AppName,
    built: &Built,
    now: Timestamp,
) -> Result<Vec<Op>, Refusal> {
    let (app, deploy) = running_deploy(state, app)?;
    let mut ops = vec![create(&release(deploy, built, now))];
    ops.extend(serve_from_now_on(app, deploy, None, now));
    ops.extend(free_build_ids(state, &deploy.build));
    Ok(ops)
}

/// The new instance is ready: the app serves the new release from this commit on.
pub fn switch(state: &State, app: &AppName, now: Timestamp) -> Result<Vec<Op>, Refusal> {
    let (app, deploy) = running_deploy(state, app)?;
    let release = state.release(&app.name, deploy.release);
    let python = release.and_then(|row| Some(row.built.serving.runtime()?.python.clone()));
    Ok(serve_from_now_on(app, deploy, python, now).into())
}

/// Ends the newest deploy of an app, wherever it was left.
///
/// Before the switch it has failed because of `error`: what it made goes, and with it an app that
/// never had a release. After the switch it is done: what served before goes. Says nothing to do
/// where it has ended.
pub fn settle(state: &State, app: &AppName, error: &str, now: Timestamp) -> Vec<Op> {
    let (Some(app), Some(deploy)) = (state.app(app), state.deploy(app)) else {
        return Vec::new();
    };
    let ended = match &deploy.state {
        DeployState::Building | DeployState::Preparing | DeployState::Starting { .. } => {
            DeployState::Failed { ended_at: now, error: error.to_owned() }
        }
        DeployState::Draining => DeployState::Done { ended_at: now },
        DeployState::Done { .. } | DeployState::Failed { .. } => return Vec::new(),
    };
    let failed = matches!(ended, DeployState::Failed { .. });
    let mut ops = vec![deploy.replace(&DeployRow { state: ended, ..DeployRow::clone(deploy) })];
    ops.extend(free_build_ids(state, &deploy.build));
    let instances = state.instances_of(&app.name);
    ops.extend(instances.filter(|row| Some(row.release) != app.serving).map(Row::delete));
    if failed {
        ops.extend(state.release(&app.name, deploy.release).map(Row::delete));
    } else {
        ops.extend(surplus_releases(state, app).map(Row::delete));
    }
    if failed && app.serving.is_none() && !app.destroying {
        ops.push(app.replace(&AppRow { destroying: true, ..AppRow::clone(app) }));
    }
    ops
}

/// An app is to go: from this commit on it has no route, and nothing of it should run.
pub fn begin_destroy(state: &State, app: &AppName) -> Option<Vec<Op>> {
    let row = state.app(app)?;
    if row.destroying {
        return Some(Vec::new());
    }
    let mut ops = vec![row.replace(&AppRow { destroying: true, ..AppRow::clone(row) })];
    ops.extend(state.instances_of(app).map(Row::delete));
    Some(ops)
}

/// Nothing of an app that is being destroyed is left on the machine: its rows go, and its user ids
/// and its name are free.
pub fn forget_app(state: &State, app: &AppName) -> Vec<Op> {
    let Some(row) = state.app(app).filter(|row| row.destroying) else {
        return Vec::new();
    };
    let owner = IdsOwner::App(app.clone());
    let mut ops = vec![row.delete()];
    ops.extend(state.ids().filter(|ids| ids.owner == owner).map(Row::delete));
    ops.extend(state.releases_of(app).map(Row::delete));
    ops.extend(state.deploy(app).map(Row::delete));
    ops.extend(state.instances_of(app).map(Row::delete));
    ops
}

/// A new instance takes the place of one that has failed.
pub fn replace_instance(
    state: &State,
    app: &AppName,
    failed: &InstanceId,
    instance: &InstanceId,
) -> Vec<Op> {
    let Some(row) = state.instances_of(app).find(|row| row.id == *failed) else {
        return Vec::new();
    };
    let replaced = row.replaced.saturating_add(1);
    let successor = InstanceRow { id: instance.clone(), replaced, ..InstanceRow::clone(row) };
    vec![row.delete(), create(&successor)]
}

fn release(deploy: &DeployRow, built: &Built, now: Timestamp) -> ReleaseRow {
    ReleaseRow {
        app: deploy.app.clone(),
        tenant: deploy.tenant.clone(),
        number: deploy.release,
        build: deploy.build.clone(),
        built: built.clone(),
        created_at: now,
    }
}

/// `app` keeps its Python where the release that `deploy` brings has none.
fn serve_from_now_on(
    app: &Row<AppRow>,
    deploy: &Row<DeployRow>,
    python: Option<Interpreter>,
    now: Timestamp,
) -> [Op; 2] {
    let switched = AppRow {
        serving: Some(deploy.release),
        deployed_at: Some(now),
        python: python.or_else(|| app.python.clone()),
        ..AppRow::clone(app)
    };
    let draining = DeployRow { state: DeployState::Draining, ..DeployRow::clone(deploy) };
    [app.replace(&switched), deploy.replace(&draining)]
}

/// The rows of an app and its deploy, if the deploy is one that can still go on.
fn running_deploy<'a>(
    state: &'a State,
    name: &AppName,
) -> Result<(&'a Row<AppRow>, &'a Row<DeployRow>), Refusal> {
    let app = state.app(name).filter(|app| !app.destroying);
    let deploy = state.deploy(name).filter(|deploy| {
        matches!(
            deploy.state,
            DeployState::Building | DeployState::Preparing | DeployState::Starting { .. }
        )
    });
    app.zip(deploy).ok_or_else(|| Refusal::being_destroyed(name))
}

fn check_owner(app: &AppRow, begin: &Begin) -> Result<(), Refusal> {
    if app.destroying {
        Err(Refusal::being_destroyed(&app.name))
    } else if app.tenant != begin.tenant {
        Err(Refusal::name_taken(&app.name, &begin.tenant))
    } else {
        Ok(())
    }
}

fn new_app(begin: &Begin, ids: u32) -> AppRow {
    AppRow {
        name: begin.app.clone(),
        tenant: begin.tenant.clone(),
        ids,
        python: None,
        next_release: ReleaseNumber(2),
        serving: None,
        deployed_at: None,
        destroying: false,
    }
}

/// Numbers of ranges of user ids that nobody has, beginning at `first_range` and round.
fn free_ranges(state: &State, begin: &Begin) -> impl Iterator<Item = u32> {
    let taken: std::collections::BTreeSet<u32> = state.ids().map(|row| row.index).collect();
    let ranges = begin.ranges;
    let first = begin.first_range.checked_rem(ranges).unwrap_or(0);
    (first..ranges).chain(0..first).filter(move |index| !taken.contains(index))
}

fn no_ranges() -> Refusal {
    let message =
        "the engine has no user ids left for a further app; destroy one that is not needed";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "full", message)
}

fn free_build_ids(state: &State, build: &BuildId) -> impl Iterator<Item = Op> {
    let owner = IdsOwner::Build(build.clone());
    state.ids().filter(move |row| row.owner == owner).map(Row::delete)
}

/// Releases past the newest [`RELEASES_KEPT`] that nothing runs or serves.
fn surplus_releases<'a>(
    state: &'a State,
    app: &'a AppRow,
) -> impl Iterator<Item = &'a Row<ReleaseRow>> {
    let old = state.releases_of(&app.name).rev().skip(RELEASES_KEPT);
    old.filter(|row| Some(row.number) != app.serving)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Rows, at, build_id, built, built_files, instance_id, name};

    fn begin(app: &str) -> Begin {
        Begin {
            app: name(app),
            tenant: TenantName::default(),
            build: build_id(1),
            now: at(0),
            ranges: 3,
            first_range: 0,
        }
    }

    /// A state in which `shop` has deployed releases `1..=releases` with success.
    fn deployed(releases: u32) -> Rows {
        let mut state = Rows::default();
        for n in 1..=releases {
            start(&mut state, n);
            state.commit(switch(&state, &name("shop"), at(0)).unwrap());
            state.commit(settle(&state, &name("shop"), "", at(0)));
        }
        state
    }

    /// Brings a deploy of `shop` as far as its instance `n`.
    fn start(state: &mut Rows, n: u32) {
        state.commit(begin_deploy(state, &begin("shop")).unwrap().0);
        let ops = propose(state, &name("shop"), &built("shop", n), &instance_id(n), at(0));
        state.commit(ops.unwrap());
    }

    fn instances(state: &State) -> Vec<u32> {
        state.instances().map(|row| row.release.0).collect()
    }

    #[test]
    fn a_deploy_of_a_new_name_makes_an_app_with_its_own_ids() {
        let mut state = Rows::default();
        let (ops, begun) = begin_deploy(&state, &begin("shop")).unwrap();
        state.commit(ops);
        assert_eq!(begun, Begun { release: ReleaseNumber(1), build_ids: 0, python: None });
        assert_eq!(state.app(&name("shop")).unwrap().ids, 1);
        assert_eq!(state.ids().count(), 2);
    }

    #[test]
    fn a_build_has_its_ids_only_while_it_runs() {
        let mut state = Rows::default();
        start(&mut state, 1);
        let owners: Vec<_> = state.ids().map(|row| row.owner.clone()).collect();
        assert_eq!(owners, [IdsOwner::App(name("shop"))]);
    }

    #[test]
    fn ranges_of_ids_go_round_and_end() {
        let state = Rows::default();
        let next = Begin { first_range: 5, ..begin("shop") };
        assert_eq!(begin_deploy(&state, &next).unwrap().1.build_ids, 2);
        let none = Begin { ranges: 1, ..begin("shop") };
        assert_eq!(begin_deploy(&state, &none).unwrap_err().error.code, "full");
        let none = Begin { ranges: 0, ..begin("shop") };
        assert_eq!(begin_deploy(&state, &none).unwrap_err().error.code, "full");
    }

    #[test]
    fn the_switch_moves_the_route_and_keeps_the_python() {
        let mut state = deployed(1);
        start(&mut state, 2);
        assert_eq!(state.app(&name("shop")).unwrap().serving, Some(ReleaseNumber(1)));
        state.commit(switch(&state, &name("shop"), at(5)).unwrap());
        let app = state.app(&name("shop")).unwrap();
        assert_eq!((app.serving, app.deployed_at), (Some(ReleaseNumber(2)), Some(at(5))));
        let python = |n| built("shop", n).serving.runtime().map(|runtime| runtime.python.clone());
        assert_eq!(app.python, python(2));
        assert_eq!(instances(&state), [1, 2]);
        state.commit(settle(&state, &name("shop"), "", at(6)));
        assert_eq!(instances(&state), [2]);
    }

    #[test]
    fn files_are_served_without_an_instance_and_the_python_is_kept() {
        let mut state = deployed(1);
        state.commit(begin_deploy(&state, &begin("shop")).unwrap().0);
        let ops = publish(&state, &name("shop"), &built_files("shop", 2), at(5));
        state.commit(ops.unwrap());
        let app = state.app(&name("shop")).unwrap();
        assert_eq!((app.serving, app.deployed_at), (Some(ReleaseNumber(2)), Some(at(5))));
        assert!(app.python.is_some());
        assert_eq!(instances(&state), [1]);
        state.commit(settle(&state, &name("shop"), "", at(6)));
        assert_eq!(instances(&state), [0; 0]);
        start(&mut state, 3);
        state.commit(switch(&state, &name("shop"), at(7)).unwrap());
        assert_eq!(instances(&state), [3]);
    }

    #[test]
    fn a_failed_deploy_leaves_what_was_there() {
        let mut state = deployed(1);
        start(&mut state, 2);
        state.commit(settle(&state, &name("shop"), "it broke", at(6)));
        assert_eq!(instances(&state), [1]);
        assert!(state.release(&name("shop"), ReleaseNumber(2)).is_none());
        let app = state.app(&name("shop")).unwrap();
        assert_eq!((app.serving, app.destroying), (Some(ReleaseNumber(1)), false));
        let failed = DeployState::Failed { ended_at: at(6), error: "it broke".to_owned() };
        assert_eq!(state.deploy(&name("shop")).unwrap().state, failed);
    }

    #[test]
    fn an_app_whose_first_deploy_fails_goes_with_it() {
        let mut state = Rows::default();
        start(&mut state, 1);
        state.commit(settle(&state, &name("shop"), "it broke", at(6)));
        assert!(state.app(&name("shop")).unwrap().destroying);
        assert_eq!(instances(&state), [0; 0]);
        let again = begin_deploy(&state, &begin("shop")).unwrap_err();
        assert_eq!(again.error.code, "being_destroyed");
        state.commit(forget_app(&state, &name("shop")));
        assert!(state.is_empty());
    }

    #[test]
    fn settling_twice_changes_nothing() {
        let state = deployed(1);
        assert_eq!(settle(&state, &name("shop"), "", at(9)), []);
        assert_eq!(settle(&state, &name("none"), "", at(9)), []);
    }

    #[test]
    fn the_ten_newest_releases_are_kept() {
        let state = deployed(13);
        let kept: Vec<u32> = state.releases_of(&name("shop")).map(|row| row.number.0).collect();
        assert_eq!(kept, (4..=13).collect::<Vec<_>>());
    }

    #[test]
    fn a_name_belongs_to_its_tenant() {
        let state = deployed(1);
        let other = Begin { tenant: "other".parse().unwrap(), ..begin("shop") };
        assert_eq!(begin_deploy(&state, &other).unwrap_err().error.code, "name_taken");
    }

    #[test]
    fn a_destroyed_app_runs_nothing_and_a_deploy_under_way_ends() {
        let mut state = deployed(1);
        start(&mut state, 2);
        state.commit(begin_destroy(&state, &name("shop")).unwrap());
        assert_eq!(instances(&state), [0; 0]);
        assert!(switch(&state, &name("shop"), at(7)).is_err());
        assert_eq!(begin_destroy(&state, &name("shop")), Some(vec![]));
        state.commit(settle(&state, &name("shop"), "", at(8)));
        state.commit(forget_app(&state, &name("shop")));
        assert!(state.is_empty());
    }

    #[test]
    fn only_what_is_being_destroyed_is_forgotten() {
        assert_eq!(forget_app(&deployed(1), &name("shop")), []);
    }

    #[test]
    fn a_failed_instance_is_replaced_once() {
        let mut state = deployed(1);
        let ops = replace_instance(&state, &name("shop"), &instance_id(1), &instance_id(9));
        state.commit(ops);
        let rows: Vec<_> = state.instances().map(|row| (row.id.clone(), row.replaced)).collect();
        assert_eq!(rows, [(instance_id(9), 1)]);
        let again = replace_instance(&state, &name("shop"), &instance_id(1), &instance_id(8));
        assert_eq!(again, []);
    }
}
