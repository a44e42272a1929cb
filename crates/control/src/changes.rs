//! Every change to the rows, each a pure function from the state to the operations that make it.
//!
//! Together they are a deploy's and an app's life as the store sees it. Whatever is half done when
//! the engine dies, [`settle`] ends, from the rows alone. What is asked for besides deploys is in
//! `wish`, a release that must be built anew for it in `rebuild`, and how an app arrives at a release,
//! by whichever way, in `arrival`.

mod arrival;
mod ceilings;
mod difference;
mod domains;
mod rebuild;
mod wish;

use std::collections::BTreeSet;

use ace_api::http::{Author, DeployKind, ReleaseCause};
use ace_api::{Built, ErrorCode, Interpreter};
use ace_store::Op;
use ace_types::{
    AppName, BuildId, Ceilings, Config, InstanceId, LimitOverrides, ReleaseNumber, TenantName,
};
use jiff::Timestamp;

use crate::refusal::Refusal;
use crate::rows::{
    AppRow, BuildRow, BuildState, DeployRow, DeployState, IdsOwner, IdsRow, InstanceRole,
    InstanceRow, ReleaseRow,
};
use crate::state::{Row, State, create};
use arrival::{arrived, candidates, promoted};

pub use ceilings::check_built;
pub use domains::change_domains;
pub use rebuild::{Rebuilt, begin_rebuild};
pub use wish::{
    Begun, Wish, bad_config, bad_limits, begin, check_scale, refuse_retreat, started_by,
};

/// Releases that are kept for each app besides those in use.
const RELEASES_KEPT: usize = 10;
/// Builds whose logs are kept for each app besides those of its releases.
const BUILDS_KEPT: usize = 10;
/// Instances that an app may have.
pub const SCALE_MAX: u16 = 16;

/// Who wants something of which app, and what of the engine's it may use.
#[derive(Debug, Clone)]
pub struct Asked {
    pub app: AppName,
    /// Whose app it has to be; `None`: anybody's. A new one is theirs, or the default tenant's.
    pub tenant: Option<TenantName>,
    pub by: Author,
    pub now: Timestamp,
    /// [`SCALE_MAX`] ids that no instance has had.
    pub fresh: Vec<InstanceId>,
    /// What apps and tenants may have at most.
    pub ceilings: Ceilings,
    /// Ranges of user ids that the engine has.
    pub ranges: u32,
    /// Where the search for a free one starts, so that a range rests before it is used again.
    pub first_range: u32,
}

/// What a build that has begun may use.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildBegun {
    pub tenant: TenantName,
    pub release: ReleaseNumber,
    /// The number of the build's range of user ids.
    pub build_ids: u32,
    /// The Python to keep to.
    pub python: Option<Interpreter>,
}

/// The code of a deploy that was interrupted.
const INTERRUPTED: &str = "interrupted";

/// How a deploy that has not come to its switch came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending<'a> {
    /// It can't be had, because of this.
    Failed { code: &'a str, error: &'a str },
    /// Its engine went away meanwhile; this says so.
    Interrupted(&'a str),
}

/// An app gets a deploy; a new name becomes an app.
pub fn begin_deploy(
    state: &State,
    asked: &Asked,
    build: &BuildId,
) -> Result<(Vec<Op>, BuildBegun), Refusal> {
    let mut free = free_ranges(state, asked);
    let mut take = || free.next().ok_or_else(no_ranges);
    let build_ids = take()?;
    let mut ops = vec![create(&IdsRow { index: build_ids, owner: IdsOwner::Build(build.clone()) })];
    let app = match state.app(&asked.app) {
        Some(row) => {
            check_owner(row, asked.tenant.as_ref())?;
            let app = AppRow { next_release: row.next_release.next(), ..AppRow::clone(row) };
            ops.push(row.replace(&app));
            app
        }
        None => {
            let app = AppRow { next_release: ReleaseNumber(2), ..new_app(asked, take()?) };
            ops.extend(create_app(&app));
            app
        }
    };
    let release = ReleaseNumber(app.next_release.0 - 1);
    ops.extend(building(state, asked, &app.tenant, DeployKind::Deploy, release, build));
    Ok((ops, BuildBegun { tenant: app.tenant, release, build_ids, python: app.python }))
}

/// The build has ended well, and the app has something to run before its release starts. Returns that
/// release as it will be kept.
pub fn prepare(
    state: &State,
    app: &AppName,
    built: &Built,
    now: Timestamp,
) -> Result<(Vec<Op>, ReleaseRow), Refusal> {
    let (app, deploy) = running_deploy(state, app)?;
    let build = build_of(state, deploy)?;
    let preparing = DeployRow { state: DeployState::Preparing, ..DeployRow::clone(deploy) };
    let mut ops = vec![deploy.replace(&preparing), build.replace(&ended_build(build, now))];
    ops.extend(free_build_ids(state, &build.id));
    Ok((ops, deployed_release(state, app, deploy, built, now)?))
}

/// The build has ended well: its release is kept, and instances of it are to run. Returns these.
pub fn propose(
    state: &State,
    app: &AppName,
    built: &Built,
    fresh: &[InstanceId],
    now: Timestamp,
) -> Result<(Vec<Op>, Vec<InstanceId>), Refusal> {
    let (app, deploy) = running_deploy(state, app)?;
    let build = build_of(state, deploy)?;
    let release = deployed_release(state, app, deploy, built, now)?;
    let candidates = candidates(app, &release, usize::from(app.scale), fresh);
    let mut ops = vec![
        create(&release),
        deploy.replace(&DeployRow { state: DeployState::Starting, ..DeployRow::clone(deploy) }),
        build.replace(&ended_build(build, now)),
    ];
    ops.extend(candidates.iter().map(create));
    ops.extend(free_build_ids(state, &build.id));
    Ok((ops, candidates.into_iter().map(|row| row.id).collect()))
}

/// The new instances are ready: the app is what was asked for from this commit on.
pub fn switch(state: &State, app: &AppName, now: Timestamp) -> Result<Vec<Op>, Refusal> {
    let (app, deploy) = running_deploy(state, app)?;
    let release = state.release(&app.name, deploy.release);
    let release = release.ok_or_else(|| Refusal::being_destroyed(&app.name))?;
    let draining = DeployRow { state: DeployState::Draining, ..DeployRow::clone(deploy) };
    let mut ops =
        vec![app.replace(&arrived(app, &deploy.kind, release, now)), deploy.replace(&draining)];
    let adds = matches!(deploy.kind, DeployKind::Scale { .. });
    ops.extend(promoted(state, app, adds.then_some(deploy.release)));
    ops.extend(arrival::withdrawal(state, deploy, now));
    Ok(ops)
}

/// Ends the newest deploy of an app, wherever it was left.
///
/// Before the switch it ends as `ending` says, and what it made goes. After the switch it is done: what
/// served before goes. Says nothing to do where it has ended.
pub fn settle(state: &State, app: &AppName, ending: Ending<'_>, now: Timestamp) -> Vec<Op> {
    let (Some(app), Some(deploy)) = (state.app(app), state.deploy(app)) else {
        return Vec::new();
    };
    match &deploy.state {
        DeployState::Building | DeployState::Preparing | DeployState::Starting => {
            fail(state, app, deploy, ending, now)
        }
        DeployState::Draining => finish(state, app, deploy, now),
        DeployState::Done { .. } | DeployState::Failed { .. } => Vec::new(),
    }
}

fn fail(
    state: &State,
    app: &Row<AppRow>,
    deploy: &Row<DeployRow>,
    ending: Ending<'_>,
    now: Timestamp,
) -> Vec<Op> {
    let (code, error) = match ending {
        Ending::Failed { code, error } => (code, error),
        Ending::Interrupted(error) => (INTERRUPTED, error),
    };
    let (code, told) = (code.to_owned(), error.to_owned());
    let failed = DeployState::Failed { ended_at: now, code, error: told };
    let mut ops = vec![deploy.replace(&DeployRow { state: failed, ..DeployRow::clone(deploy) })];
    ops.extend(delete_instances(state, app, InstanceRole::Candidate));
    if makes_a_release(deploy) {
        ops.extend(state.release(&app.name, deploy.release).map(Row::delete));
    }
    if let Some(build) = &deploy.build {
        ops.extend(free_build_ids(state, build));
        let row = state.build(&app.name, deploy.release);
        ops.extend(row.map(|row| row.replace(&failed_build(row, error, now))));
        ops.extend(surplus_builds(state, app).map(Row::delete));
    }
    let is_retreat = matches!(deploy.kind, DeployKind::Retreat { .. });
    if is_retreat && matches!(ending, Ending::Failed { .. }) {
        // Once only: it's no better now than what it was to take the place of.
        ops.push(app.replace(&AppRow { trial: None, ..AppRow::clone(app) }));
    }
    ops
}

fn finish(state: &State, app: &Row<AppRow>, deploy: &Row<DeployRow>, now: Timestamp) -> Vec<Op> {
    let done = DeployState::Done { ended_at: now };
    let mut ops = vec![deploy.replace(&DeployRow { state: done, ..DeployRow::clone(deploy) })];
    ops.extend(delete_instances(state, app, InstanceRole::Retired));
    ops.extend(surplus_releases(state, app).map(Row::delete));
    ops.extend(surplus_builds(state, app).map(Row::delete));
    ops
}

/// An app is to go: from this commit on it has no route, and nothing of it should run. `None` where
/// there is none of that name, or not of `tenant`'s.
pub fn begin_destroy(state: &State, app: &AppName, tenant: Option<&TenantName>) -> Option<Vec<Op>> {
    let row = state.app(app).filter(|row| tenant.is_none_or(|tenant| row.tenant == *tenant))?;
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
    ops.extend(state.builds_of(app).map(Row::delete));
    ops.extend(state.domains_of(app).map(Row::delete));
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
    let of_app = || state.instances_of(app).filter(|row| row.role == InstanceRole::Serving);
    let Some(row) = of_app().find(|row| row.id == *failed) else {
        return Vec::new();
    };
    let replaced = row.replaced.saturating_add(1);
    let successor = InstanceRow { id: instance.clone(), replaced, ..InstanceRow::clone(row) };
    vec![row.delete(), create(&successor)]
}

/// The build `build` of `release` is under way, as the first part of what is done to the app.
fn building(
    state: &State,
    asked: &Asked,
    tenant: &TenantName,
    kind: DeployKind,
    release: ReleaseNumber,
    build: &BuildId,
) -> [Op; 2] {
    let deploy = DeployRow {
        app: asked.app.clone(),
        tenant: tenant.clone(),
        kind,
        by: asked.by.clone(),
        release,
        build: Some(build.clone()),
        started_at: asked.now,
        state: DeployState::Building,
    };
    let build = BuildRow {
        app: asked.app.clone(),
        tenant: tenant.clone(),
        number: release,
        id: build.clone(),
        started_at: asked.now,
        state: BuildState::Building,
    };
    [create(&build), put_deploy(state, &deploy)]
}

fn deployed_release(
    state: &State,
    app: &AppRow,
    deploy: &DeployRow,
    built: &Built,
    now: Timestamp,
) -> Result<ReleaseRow, Refusal> {
    let build = build_of(state, deploy)?;
    let before = app.serving.and_then(|number| state.release(&app.name, number));
    let changed = before.map_or(Vec::new(), |before| difference::between(&before.built, built));
    Ok(ReleaseRow {
        app: app.name.clone(),
        tenant: build.tenant.clone(),
        number: build.number,
        build: build.id.clone(),
        built: built.clone(),
        config: app.config.clone(),
        limits: app.limits.clone(),
        cause: ReleaseCause::Deployed { changed },
        by: deploy.by.clone(),
        created_at: now,
        withdrawn: None,
    })
}

/// The build that is part of `deploy`.
fn build_of<'a>(state: &'a State, deploy: &DeployRow) -> Result<&'a Row<BuildRow>, Refusal> {
    let build = state.build(&deploy.app, deploy.release);
    build.ok_or_else(|| Refusal::being_destroyed(&deploy.app))
}

/// `build` once it has ended well, at `now` or before.
fn ended_build(build: &BuildRow, now: Timestamp) -> BuildRow {
    let state = match &build.state {
        BuildState::Building => BuildState::Built { ended_at: now },
        ended => ended.clone(),
    };
    BuildRow { state, ..build.clone() }
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
            DeployState::Building | DeployState::Preparing | DeployState::Starting
        )
    });
    app.zip(deploy).ok_or_else(|| Refusal::being_destroyed(name))
}

/// What the owner of `app` alone may ask for, `tenant` asks for.
pub fn check_owner(app: &AppRow, tenant: Option<&TenantName>) -> Result<(), Refusal> {
    match tenant {
        // First: that it's on its way out is nobody else's business.
        Some(tenant) if app.tenant != *tenant => Err(Refusal::name_taken(&app.name, tenant)),
        _ if app.destroying => Err(Refusal::being_destroyed(&app.name)),
        _ => Ok(()),
    }
}

fn new_app(asked: &Asked, ids: u32) -> AppRow {
    AppRow {
        name: asked.app.clone(),
        tenant: asked.tenant.clone().unwrap_or_default(),
        ids,
        python: None,
        next_release: ReleaseNumber(1),
        config: Config::default(),
        limits: LimitOverrides::default(),
        scale: 1,
        stopped: false,
        serving: None,
        served_before: None,
        deployed_at: None,
        trial: None,
        destroying: false,
    }
}

fn create_app(app: &AppRow) -> [Op; 2] {
    let ids = IdsRow { index: app.ids, owner: IdsOwner::App(app.name.clone()) };
    [create(app), create(&ids)]
}

fn put_deploy(state: &State, deploy: &DeployRow) -> Op {
    match state.deploy(&deploy.app) {
        Some(row) => row.replace(deploy),
        None => create(deploy),
    }
}

/// Numbers of ranges of user ids that nobody has, beginning at `first_range` and round.
fn free_ranges(state: &State, asked: &Asked) -> impl Iterator<Item = u32> {
    let taken: BTreeSet<u32> = state.ids().map(|row| row.index).collect();
    let ranges = asked.ranges;
    let first = asked.first_range.checked_rem(ranges).unwrap_or(0);
    (first..ranges).chain(0..first).filter(move |index| !taken.contains(index))
}

fn no_ranges() -> Refusal {
    let message =
        "the engine has no user ids left for a further app; destroy one that is not needed";
    Refusal::new(ErrorCode::Full, message)
}

fn free_build_ids(state: &State, build: &BuildId) -> impl Iterator<Item = Op> {
    let owner = IdsOwner::Build(build.clone());
    state.ids().filter(move |row| row.owner == owner).map(Row::delete)
}

fn delete_instances<'a>(
    state: &'a State,
    app: &'a AppRow,
    role: InstanceRole,
) -> impl Iterator<Item = Op> + 'a {
    state.instances_of(&app.name).filter(move |row| row.role == role).map(Row::delete)
}

/// Whether what is asked for has a release of its own: by its kind, or because one had to be built.
fn makes_a_release(deploy: &DeployRow) -> bool {
    match deploy.kind {
        DeployKind::Deploy | DeployKind::Configure | DeployKind::Limit | DeployKind::Rebuild => {
            true
        }
        DeployKind::Rollback
        | DeployKind::Retreat { .. }
        | DeployKind::Restart
        | DeployKind::Start
        | DeployKind::Stop
        | DeployKind::Scale { .. } => deploy.build.is_some(),
    }
}

fn failed_build(row: &BuildRow, error: &str, now: Timestamp) -> BuildRow {
    let error = error.to_owned();
    let state = match row.state {
        BuildState::Built { ended_at } => BuildState::Unfit { ended_at, error },
        _ => BuildState::Failed { ended_at: now, error },
    };
    BuildRow { state, ..row.clone() }
}

/// Releases past the newest [`RELEASES_KEPT`] that are not in use.
fn surplus_releases<'a>(
    state: &'a State,
    app: &'a AppRow,
) -> impl Iterator<Item = &'a Row<ReleaseRow>> {
    let old = state.releases_of(&app.name).rev().skip(RELEASES_KEPT);
    let used = [app.serving, app.served_before, app.trial.as_ref().map(|trial| trial.serving)];
    old.filter(move |row| !used.contains(&Some(row.number)))
}

/// Builds past the newest [`BUILDS_KEPT`] that no release is of, but for those that go now, too.
fn surplus_builds<'a>(
    state: &'a State,
    app: &'a AppRow,
) -> impl Iterator<Item = &'a Row<BuildRow>> {
    let gone: BTreeSet<ReleaseNumber> =
        surplus_releases(state, app).map(|release| release.number).collect();
    let kept = state.releases_of(&app.name).filter(|release| !gone.contains(&release.number));
    let used: BTreeSet<&BuildId> = kept.map(|release| &release.build).collect();
    let old = state.builds_of(&app.name).rev().skip(BUILDS_KEPT);
    old.filter(move |row| !used.contains(&row.id))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{
        Rows, asked, at, build_id, built, built_files, deploy, fresh, instance_id, name,
    };

    /// A state in which `shop` has deployed releases `1..=releases` with success.
    fn deployed(releases: u32) -> Rows {
        let mut state = Rows::default();
        (1..=releases).for_each(|n| deploy(&mut state, "shop", n));
        state
    }

    /// Brings a deploy of `shop` as far as its instance `n`.
    fn start(state: &mut Rows, n: u32) {
        state.begin("shop", n);
        state.propose("shop", n);
    }

    fn instances(state: &State) -> Vec<u32> {
        state.instances().map(|row| row.release.0).collect()
    }

    #[test]
    fn a_deploy_of_a_new_name_makes_an_app_with_its_own_ids() {
        let mut state = Rows::default();
        let (ops, begun) = begin_deploy(&state, &asked("shop", 1), &build_id(1)).unwrap();
        state.commit(ops);
        let tenant = TenantName::default();
        let wanted = BuildBegun { tenant, release: ReleaseNumber(1), build_ids: 0, python: None };
        assert_eq!(begun, wanted);
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
        let next = Asked { first_range: 5, ranges: 3, ..asked("shop", 1) };
        assert_eq!(begin_deploy(&state, &next, &build_id(1)).unwrap().1.build_ids, 2);
        let none = Asked { ranges: 1, ..asked("shop", 1) };
        assert_eq!(begin_deploy(&state, &none, &build_id(1)).unwrap_err().error.code, "full");
        let none = Asked { ranges: 0, ..asked("shop", 1) };
        assert_eq!(begin_deploy(&state, &none, &build_id(1)).unwrap_err().error.code, "full");
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
        state.settle("shop", 6);
        assert_eq!(instances(&state), [2]);
    }

    #[test]
    fn files_are_served_without_an_instance_and_the_python_is_kept() {
        let mut state = deployed(1);
        state.begin("shop", 2);
        let files = built_files("shop", 2);
        let (ops, instances_of_files) =
            propose(&state, &name("shop"), &files, &fresh(2), at(5)).unwrap();
        state.commit(ops);
        assert_eq!(instances_of_files, []);
        state.arrive("shop", 5);
        let app = state.app(&name("shop")).unwrap();
        assert_eq!((app.serving, app.deployed_at), (Some(ReleaseNumber(2)), Some(at(5))));
        assert!(app.python.is_some());
        assert_eq!(instances(&state), [0; 0]);
        deploy(&mut state, "shop", 3);
        assert_eq!(instances(&state), [3]);
    }

    #[test]
    fn a_failed_deploy_leaves_what_was_there() {
        let mut state = deployed(1);
        start(&mut state, 2);
        state.settle("shop", 6);
        assert_eq!(instances(&state), [1]);
        assert!(state.release(&name("shop"), ReleaseNumber(2)).is_none());
        let app = state.app(&name("shop")).unwrap();
        assert_eq!((app.serving, app.destroying), (Some(ReleaseNumber(1)), false));
        let (code, error) = ("exited".to_owned(), "it broke".to_owned());
        let failed = DeployState::Failed { ended_at: at(6), code, error };
        assert_eq!(state.deploy(&name("shop")).unwrap().state, failed);
    }

    #[test]
    fn an_app_whose_first_deploy_fails_stays_with_its_build() {
        let mut state = Rows::default();
        start(&mut state, 1);
        state.settle("shop", 6);
        let app = state.app(&name("shop")).unwrap();
        assert_eq!((app.serving, app.destroying), (None, false));
        assert_eq!(instances(&state), [0; 0]);
        let unfit = BuildState::Unfit { ended_at: at(0), error: "it broke".to_owned() };
        assert_eq!(state.build(&name("shop"), ReleaseNumber(1)).unwrap().state, unfit);
        deploy(&mut state, "shop", 2);
        assert_eq!(state.app(&name("shop")).unwrap().serving, Some(ReleaseNumber(2)));
        let owners: Vec<_> = state.ids().map(|row| row.owner.clone()).collect();
        assert_eq!(owners, [IdsOwner::App(name("shop"))]);
    }

    #[test]
    fn settling_twice_changes_nothing() {
        let state = deployed(1);
        let failed = Ending::Failed { code: "", error: "" };
        assert_eq!(settle(&state, &name("shop"), failed, at(9)), []);
        assert_eq!(settle(&state, &name("none"), failed, at(9)), []);
    }

    #[test]
    fn the_ten_newest_releases_and_builds_are_kept() {
        let state = deployed(13);
        let kept: Vec<u32> = state.releases_of(&name("shop")).map(|row| row.number.0).collect();
        assert_eq!(kept, (4..=13).collect::<Vec<_>>());
        let kept: Vec<u32> = state.builds_of(&name("shop")).map(|row| row.number.0).collect();
        assert_eq!(kept, (4..=13).collect::<Vec<_>>());
    }

    #[test]
    fn the_build_of_a_release_is_kept_with_it() {
        let mut state = deployed(2);
        for n in 3..=20 {
            start(&mut state, n);
            state.settle("shop", 6);
        }
        let kept: Vec<u32> = state.builds_of(&name("shop")).map(|row| row.number.0).collect();
        assert_eq!(kept, [vec![1, 2], (11..=20).collect()].concat());
    }

    #[test]
    fn a_name_belongs_to_its_tenant() {
        let state = deployed(1);
        let other = Asked { tenant: Some("other".parse().unwrap()), ..asked("shop", 1) };
        assert_eq!(
            begin_deploy(&state, &other, &build_id(9)).unwrap_err().error.code,
            "name_taken"
        );
    }

    #[test]
    fn a_destroyed_app_runs_nothing_and_a_deploy_under_way_ends() {
        let mut state = deployed(1);
        start(&mut state, 2);
        state.commit(begin_destroy(&state, &name("shop"), None).unwrap());
        assert_eq!(instances(&state), [0; 0]);
        assert!(switch(&state, &name("shop"), at(7)).is_err());
        assert_eq!(begin_destroy(&state, &name("shop"), None), Some(vec![]));
        state.settle("shop", 8);
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
