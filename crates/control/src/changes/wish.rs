//! What can be wanted of an app besides a deploy, and how each begins.

use ace_api::ErrorCode;
use ace_api::http::{ApiError, DeployKind, ReleaseCause};
use ace_store::Op;
use ace_types::{
    AppName, ConfigChange, ConfigError, InstanceId, LimitChange, LimitError, ReleaseNumber,
};
use std::time::Duration;

use super::arrival::{arrived, candidates, promoted, retired_beyond};
use super::ceilings::check_wish;
use super::rebuild::Rebuilt;
use super::{Asked, SCALE_MAX, create_app, free_ranges, new_app, no_ranges, put_deploy};
use crate::names;
use crate::refusal::Refusal;
use crate::rows::{AppRow, DeployRow, DeployState, ReleaseRow};
use crate::state::{Row, State, create};

/// What is wanted.
#[derive(Debug, Clone)]
pub enum Wish {
    /// `None`: to the release that served before the one that does.
    Rollback {
        to: Option<ReleaseNumber>,
    },
    /// Back from a new release that has died, as long as it serves.
    Retreat {
        from: ReleaseNumber,
        reason: String,
    },
    Configure(ConfigChange),
    Limit(LimitChange),
    /// The release that serves, with its environment made anew for what its Python has become.
    Rebuild,
    Restart,
    Stop,
    Start,
    Scale {
        instances: u16,
    },
}

impl Wish {
    /// What it's called once it's under way.
    pub fn kind(&self) -> DeployKind {
        match self {
            Self::Rollback { .. } => DeployKind::Rollback,
            Self::Retreat { from, reason } => {
                DeployKind::Retreat { from: *from, reason: reason.clone() }
            }
            Self::Configure(_) => DeployKind::Configure,
            Self::Limit(_) => DeployKind::Limit,
            Self::Rebuild => DeployKind::Rebuild,
            Self::Restart => DeployKind::Restart,
            Self::Stop => DeployKind::Stop,
            Self::Start => DeployKind::Start,
            Self::Scale { instances } => DeployKind::Scale { instances: *instances },
        }
    }
}

/// How something begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// Nothing has to move, for this reason.
    Noted(String),
    /// These are to be ready before the switch.
    Starting { release: ReleaseNumber, candidates: Vec<InstanceId>, startup: Duration },
    /// Nothing new had to start: it has switched.
    Switched { release: ReleaseNumber },
}

/// The release whose contents `wish` would start anew, if it starts any.
pub fn started_by<'a>(state: &'a State, name: &AppName, wish: &Wish) -> Option<&'a ReleaseRow> {
    let app = state.app(name).filter(|app| !app.destroying)?;
    let serving = app.serving?;
    let runs = !app.stopped;
    let number = match wish {
        Wish::Rollback { to } => {
            let to = to.or(app.served_before)?;
            (to != serving || app.stopped).then_some(to)
        }
        Wish::Configure(change) => (runs && changes_config(app, change)).then_some(serving),
        Wish::Limit(change) => (runs && changes_limits(app, change)).then_some(serving),
        Wish::Rebuild => Some(serving),
        Wish::Restart => runs.then_some(serving),
        Wish::Start => app.stopped.then_some(serving),
        Wish::Scale { instances } => (runs && *instances > app.scale).then_some(serving),
        Wish::Retreat { from, .. } => {
            app.trial.as_ref().filter(|_| runs && serving == *from).map(|trial| trial.serving)
        }
        Wish::Stop => None,
    };
    state.release(name, number?).map(|row| &**row)
}

/// Begins `wish`, with what it starts as it was built anew, if it had to be.
pub fn begin(
    state: &State,
    asked: &Asked,
    wish: &Wish,
    rebuilt: Option<&Rebuilt>,
) -> Result<(Vec<Op>, Begun), Refusal> {
    let Some(app) = state.app(&asked.app) else {
        return match wish {
            Wish::Configure(change) => configure_new(state, asked, change),
            _ => Err(no_such_app(state, asked)),
        };
    };
    super::check_owner(app, asked.tenant.as_ref())?;
    let on = On { state, asked, app, rebuilt };
    let (mut ops, begun) = match wish {
        Wish::Rollback { to } => on.roll_back(*to),
        Wish::Retreat { from, reason } => on.retreat(*from, reason),
        Wish::Configure(change) => on.configure(change),
        Wish::Limit(change) => on.limit(change),
        Wish::Rebuild => on.rebuild(),
        Wish::Restart => on.restart(),
        Wish::Stop => on.stop(),
        Wish::Start => on.start(),
        Wish::Scale { instances } => on.scale(*instances),
    }?;
    ops.extend(rebuilt.into_iter().flat_map(|rebuilt| rebuilt.ended(state, asked)));
    Ok((ops, begun))
}

/// What is noted where `wish` is to turn an app back and can't even begin, because of `error`. It isn't tried again.
pub fn refuse_retreat(state: &State, asked: &Asked, wish: &Wish, error: &ApiError) -> Vec<Op> {
    let (Wish::Retreat { from, .. }, Some(app)) = (wish, state.app(&asked.app)) else {
        return Vec::new();
    };
    let Some(trial) = app.trial.as_ref().filter(|_| app.serving == Some(*from)) else {
        return Vec::new();
    };
    let (code, told) = (error.code.clone(), error.message.clone());
    let deploy = DeployRow {
        app: app.name.clone(),
        tenant: app.tenant.clone(),
        kind: wish.kind(),
        by: asked.by.clone(),
        release: trial.serving,
        build: None,
        started_at: asked.now,
        state: DeployState::Failed { ended_at: asked.now, code, error: told },
    };
    vec![put_deploy(state, &deploy), app.replace(&AppRow { trial: None, ..AppRow::clone(app) })]
}

/// Whether so many instances can be wanted.
pub fn check_scale(instances: u16) -> Result<(), Refusal> {
    if (1..=SCALE_MAX).contains(&instances) {
        return Ok(());
    }
    let message = format!("an app has 1 to {SCALE_MAX} instances; for none, stop it: ace stop APP");
    Err(Refusal::bad_request(message))
}

/// Why a configuration can't be had.
pub fn bad_config(error: ConfigError) -> Refusal {
    match error {
        ConfigError::Count { .. } | ConfigError::Size { .. } => {
            Refusal::new(ErrorCode::ConfigFull, error.to_string())
        }
        ConfigError::Both { .. } => Refusal::new(ErrorCode::Contradiction, error.to_string()),
        _ => Refusal::bad_request(error.to_string()),
    }
}

/// Why limits can't be had.
pub fn bad_limits(error: LimitError) -> Refusal {
    match error {
        LimitError::Both(_) => Refusal::new(ErrorCode::Contradiction, error.to_string()),
        _ => Refusal::bad_request(error.to_string()),
    }
}

fn changes_config(app: &AppRow, change: &ConfigChange) -> bool {
    app.config.with(change).is_ok_and(|config| !app.config.difference(&config).is_empty())
}

fn changes_limits(app: &AppRow, change: &LimitChange) -> bool {
    app.limits.with(change).is_ok_and(|limits| !app.limits.difference(&limits).is_empty())
}

/// What every wish looks at.
struct On<'a> {
    state: &'a State,
    asked: &'a Asked,
    app: &'a Row<AppRow>,
    rebuilt: Option<&'a Rebuilt>,
}

type Begins = Result<(Vec<Op>, Begun), Refusal>;

impl On<'_> {
    fn roll_back(&self, to: Option<ReleaseNumber>) -> Begins {
        let app = &self.app;
        let serving = self.serving()?;
        let Some(to) = to.or(app.served_before) else {
            let message =
                format!("{} has no release from before release {}", app.name, serving.number);
            return Err(Refusal::new(ErrorCode::NoEarlierRelease, message));
        };
        let release = self.state.release(&app.name, to);
        let release = release.ok_or_else(|| self.no_such_release(to))?;
        if to == serving.number && !app.stopped {
            return noted(format!("{} serves release {to} already", app.name));
        }
        self.start_all(DeployKind::Rollback, release)
    }

    fn retreat(&self, from: ReleaseNumber, reason: &str) -> Begins {
        let app = &self.app;
        let trial = app.trial.as_ref().filter(|_| app.serving == Some(from) && !app.stopped);
        let fallback = trial.and_then(|trial| self.state.release(&app.name, trial.serving));
        match fallback {
            Some(release) => {
                let kind = DeployKind::Retreat { from, reason: reason.to_owned() };
                self.start_all(kind, release)
            }
            None => noted(format!("{} has moved on from release {from}", app.name)),
        }
    }

    fn configure(&self, change: &ConfigChange) -> Begins {
        let app = &self.app;
        let config = app.config.with(change).map_err(bad_config)?;
        let names = app.config.difference(&config);
        if names.is_empty() {
            return noted(format!("the configuration of {} is so already", app.name));
        }
        let Ok(serving) = self.serving() else {
            let op = app.replace(&AppRow { config, ..AppRow::clone(app) });
            return Ok((vec![op], Begun::Noted(kept_for_first(&app.name))));
        };
        let cause = ReleaseCause::Configured { names };
        self.start_new(
            DeployKind::Configure,
            ReleaseRow { config, cause, ..ReleaseRow::clone(serving) },
            usize::from(app.scale),
        )
    }

    fn limit(&self, change: &LimitChange) -> Begins {
        let app = &self.app;
        let limits = app.limits.with(change).map_err(bad_limits)?;
        let names = app.limits.difference(&limits);
        if names.is_empty() {
            return noted(format!("the limits of {} are so already", app.name));
        }
        let Ok(serving) = self.serving() else {
            let op = app.replace(&AppRow { limits, ..AppRow::clone(app) });
            return Ok((vec![op], Begun::Noted(kept_for_first(&app.name))));
        };
        let cause = ReleaseCause::Limited { names };
        self.start_new(
            DeployKind::Limit,
            ReleaseRow { limits, cause, ..ReleaseRow::clone(serving) },
            usize::from(app.scale),
        )
    }

    fn rebuild(&self) -> Begins {
        let serving = self.serving()?;
        match self.rebuilt {
            Some(_) => self.start_all(DeployKind::Rebuild, serving),
            None => noted(format!("the Python of {} is as it was", self.app.name)),
        }
    }

    fn restart(&self) -> Begins {
        let serving = self.serving()?;
        if self.app.stopped {
            let name = &self.app.name;
            let message = format!("{name} is stopped; start it: ace start {name}");
            return Err(Refusal::new(ErrorCode::Stopped, message));
        }
        self.start_all(DeployKind::Restart, serving)
    }

    fn start(&self) -> Begins {
        let serving = self.serving()?;
        if !self.app.stopped {
            return noted(format!("{} is not stopped", self.app.name));
        }
        self.start_all(DeployKind::Start, serving)
    }

    fn stop(&self) -> Begins {
        let serving = self.serving()?;
        if self.app.stopped {
            return noted(format!("{} is stopped already", self.app.name));
        }
        let ops = promoted(self.state, self.app, None).collect();
        self.arrive_at_once(DeployKind::Stop, serving, ops)
    }

    fn scale(&self, instances: u16) -> Begins {
        let app = &self.app;
        check_scale(instances)?;
        if app.scale == instances {
            return noted(format!("{} is set to {instances} already", app.name));
        }
        let serving = self.serving().ok().filter(|_| !app.stopped);
        let Some(serving) = serving else {
            let op = app.replace(&AppRow { scale: instances, ..AppRow::clone(app) });
            let message = format!("{} will have {instances} when it starts", app.name);
            return Ok((vec![op], Begun::Noted(message)));
        };
        let (kind, wanted) = (DeployKind::Scale { instances }, usize::from(instances));
        if instances < app.scale {
            let ops = retired_beyond(self.state, app, wanted).collect();
            return self.arrive_at_once(kind, serving, ops);
        }
        // Instances of a release that was built anew don't join those that it had before.
        let running = if self.rebuilt.is_some() { 0 } else { usize::from(app.scale) };
        self.start_instances(kind, serving, wanted - running)
    }

    /// The release that serves.
    fn serving(&self) -> Result<&Row<ReleaseRow>, Refusal> {
        let name = &self.app.name;
        let release = self.app.serving.and_then(|number| self.state.release(name, number));
        release.ok_or_else(|| {
            let message =
                format!("{name} has no release yet; deploy one: ace deploy DIR --app {name}");
            Refusal::new(ErrorCode::NoRelease, message)
        })
    }

    /// As many instances of `release`, or of what it was made anew as, as the app has are to start.
    fn start_all(&self, kind: DeployKind, release: &ReleaseRow) -> Begins {
        self.start_instances(kind, release, usize::from(self.app.scale))
    }

    /// So many instances of `release`, or of what it was made anew as, are to start.
    fn start_instances(&self, kind: DeployKind, release: &ReleaseRow, count: usize) -> Begins {
        match self.rebuilt {
            Some(rebuilt) => {
                let cause = rebuilt.cause();
                self.start_new(kind, ReleaseRow { cause, ..release.clone() }, count)
            }
            None => self.start_some(kind, release, count, Vec::new()),
        }
    }

    /// `count` instances of a release like `like`, under a new number, are to start; of an app that stays stopped
    /// it's only kept.
    fn start_new(&self, kind: DeployKind, like: ReleaseRow, count: usize) -> Begins {
        let like = match self.rebuilt {
            Some(rebuilt) => rebuilt.over(&like),
            None => ReleaseRow { number: self.app.next_release, ..like },
        };
        let by = self.asked.by.clone();
        let release = ReleaseRow { by, created_at: self.asked.now, withdrawn: None, ..like };
        let ops = vec![create(&release)];
        let starts = matches!(kind, DeployKind::Rollback | DeployKind::Start);
        if self.app.stopped && !starts {
            return self.arrive_at_once(kind, &release, ops);
        }
        self.start_some(kind, &release, count, ops)
    }

    fn start_some(
        &self,
        kind: DeployKind,
        release: &ReleaseRow,
        count: usize,
        mut ops: Vec<Op>,
    ) -> Begins {
        check_wish(self.state, self.asked, self.app, release, &kind)?;
        let candidates = candidates(self.app, release, count, &self.asked.fresh);
        ops.extend(candidates.iter().map(create));
        ops.push(self.deploy(kind, release, DeployState::Starting));
        if release.number == self.app.next_release {
            ops.push(self.app.replace(&self.after(release)));
        }
        let begun = Begun::Starting {
            release: release.number,
            candidates: candidates.into_iter().map(|row| row.id).collect(),
            startup: release.built.app_yaml.startup,
        };
        Ok((ops, begun))
    }

    fn arrive_at_once(&self, kind: DeployKind, release: &ReleaseRow, mut ops: Vec<Op>) -> Begins {
        let arrived = arrived(&self.after(release), &kind, release, self.asked.now);
        ops.push(self.app.replace(&arrived));
        ops.push(self.deploy(kind, release, DeployState::Draining));
        Ok((ops, Begun::Switched { release: release.number }))
    }

    /// The app once `release` has its number.
    fn after(&self, release: &ReleaseRow) -> AppRow {
        let next_release = self.app.next_release.max(release.number.next());
        AppRow { next_release, ..AppRow::clone(self.app) }
    }

    fn deploy(&self, kind: DeployKind, release: &ReleaseRow, state: DeployState) -> Op {
        let deploy = DeployRow {
            app: self.app.name.clone(),
            tenant: self.app.tenant.clone(),
            kind,
            by: self.asked.by.clone(),
            release: release.number,
            build: self.rebuilt.map(|rebuilt| rebuilt.build.clone()),
            started_at: self.asked.now,
            state,
        };
        put_deploy(self.state, &deploy)
    }

    fn no_such_release(&self, wanted: ReleaseNumber) -> Refusal {
        let name = &self.app.name;
        let releases = self.state.releases_of(name);
        let kept: Vec<String> = releases.map(|row| row.number.to_string()).collect();
        let message = format!("{name} has no release {wanted}; there are {}", kept.join(", "));
        Refusal::new(ErrorCode::NoSuchRelease, message)
    }
}

/// A configuration makes an app of a new name, for its first deploy to find.
fn configure_new(state: &State, asked: &Asked, change: &ConfigChange) -> Begins {
    let ids = free_ranges(state, asked).next().ok_or_else(no_ranges)?;
    let app = new_app(asked, ids);
    let config = app.config.with(change).map_err(bad_config)?;
    if config.is_empty() {
        return Err(no_such_app(state, asked));
    }
    let ops = create_app(&AppRow { config, ..app }).into();
    Ok((ops, Begun::Noted(kept_for_first(&asked.app))))
}

fn no_such_app(state: &State, asked: &Asked) -> Refusal {
    names::no_such_app(state, &asked.app, asked.tenant.as_ref())
}

fn kept_for_first(app: &AppName) -> String {
    format!("kept for the first deploy of {app}: ace deploy DIR --app {app}")
}

fn noted(message: String) -> Begins {
    Ok((Vec::new(), Begun::Noted(message)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::changes::{Ending, begin_rebuild, settle, switch};
    use crate::rows::{InstanceRole, Trial};
    use crate::testing::{Rows, asked, at, build_id, built, deploy, instance_id, name};

    fn deployed(releases: u32) -> Rows {
        let mut state = Rows::default();
        (1..=releases).for_each(|n| deploy(&mut state, "shop", n));
        state
    }

    fn app(state: &State) -> &AppRow {
        state.app(&name("shop")).unwrap()
    }

    fn set(pairs: &[(&str, &str)]) -> Wish {
        let set = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Wish::Configure(ConfigChange { set: set.collect(), ..ConfigChange::default() })
    }

    fn roles(state: &State) -> Vec<(u32, InstanceRole)> {
        state.instances().map(|row| (row.release.0, row.role)).collect()
    }

    fn refusal(state: &State, wish: &Wish) -> String {
        begin(state, &asked("shop", 9), wish, None).unwrap_err().error.code
    }

    #[test]
    fn old_instances_serve_until_the_switch_and_then_retire() {
        let mut state = deployed(2);
        let begun = state.wish("shop", 3, &Wish::Rollback { to: None });
        assert!(matches!(begun, Begun::Starting { release: ReleaseNumber(1), .. }));
        use InstanceRole::{Candidate, Retired, Serving};
        assert_eq!(roles(&state), [(2, Serving), (1, Candidate)]);
        state.commit(switch(&state, &name("shop"), at(1)).unwrap());
        assert_eq!(roles(&state), [(2, Retired), (1, Serving)]);
        state.settle("shop", 2);
        assert_eq!(roles(&state), [(1, Serving)]);
    }

    #[test]
    fn what_fails_before_the_switch_takes_only_what_is_its_own() {
        for wish in [Wish::Rollback { to: None }, Wish::Restart, set(&[("A", "1")])] {
            let mut state = deployed(2);
            let before = app(&state).clone();
            state.wish("shop", 3, &wish);
            state.settle("shop", 1);
            let after = app(&state);
            assert_eq!((after.serving, &after.config), (before.serving, &before.config));
            assert_eq!(roles(&state), [(2, InstanceRole::Serving)]);
            assert_eq!(state.releases_of(&name("shop")).count(), 2, "{wish:?}");
        }
    }

    #[test]
    fn a_release_of_its_own_is_for_a_new_configuration() {
        let mut state = deployed(1);
        state.wish("shop", 2, &set(&[("A", "1")]));
        assert_eq!(app(&state).next_release, ReleaseNumber(3));
        assert!(app(&state).config.is_empty(), "not before the switch");
        state.arrive("shop", 1);
        assert_eq!(app(&state).config.iter().collect::<Vec<_>>(), [("A", "1")]);
        let rows: Vec<_> = state.releases_of(&name("shop")).map(|row| row.build.clone()).collect();
        assert_eq!(rows[0], rows[1], "of the same build");
    }

    #[test]
    fn a_configuration_makes_a_new_app_that_its_first_deploy_finds() {
        let mut state = Rows::default();
        assert!(matches!(state.wish("shop", 1, &set(&[("A", "1")])), Begun::Noted(_)));
        state.wish("shop", 1, &set(&[("B", "2")]));
        deploy(&mut state, "shop", 1);
        let release = state.release(&name("shop"), ReleaseNumber(1)).unwrap();
        assert_eq!(release.config.iter().collect::<Vec<_>>(), [("A", "1"), ("B", "2")]);
        assert_eq!(state.ids().count(), 1);
    }

    #[test]
    fn nothing_but_a_configuration_makes_an_app() {
        let state = Rows::default();
        let scale = Wish::Scale { instances: 2 };
        for wish in [Wish::Restart, Wish::Stop, scale, set(&[]), set(&[("ACE_A", "1")])] {
            assert!(begin(&state, &asked("shop", 1), &wish, None).is_err(), "{wish:?}");
        }
    }

    #[test]
    fn what_needs_a_release_says_so_of_a_new_app() {
        let mut state = Rows::default();
        state.wish("shop", 1, &set(&[("A", "1")]));
        let rollback = Wish::Rollback { to: None };
        for wish in [rollback, Wish::Restart, Wish::Stop, Wish::Start] {
            assert_eq!(refusal(&state, &wish), "no_release");
        }
    }

    #[test]
    fn more_instances_join_and_the_last_ones_leave() {
        let mut state = deployed(1);
        state.wish("shop", 2, &Wish::Scale { instances: 3 });
        assert_eq!(app(&state).scale, 1);
        state.arrive("shop", 1);
        assert_eq!(app(&state).scale, 3);
        assert_eq!(roles(&state), [(1, InstanceRole::Serving); 3]);
        let begun = state.wish("shop", 5, &Wish::Scale { instances: 1 });
        assert_eq!(begun, Begun::Switched { release: ReleaseNumber(1) });
        let serving = state.instances().filter(|row| row.role == InstanceRole::Serving);
        assert_eq!(serving.map(|row| row.id.clone()).collect::<Vec<_>>(), [instance_id(1)]);
        state.settle("shop", 2);
        assert_eq!(roles(&state).len(), 1);
    }

    #[test]
    fn instances_of_a_release_that_was_built_anew_take_the_place_of_those_before() {
        let mut state = deployed(1);
        let wish = Wish::Scale { instances: 2 };
        assert_eq!(started_by(&state, &name("shop"), &wish).unwrap().number, ReleaseNumber(1));
        let (ops, begun) =
            begin_rebuild(&state, &asked("shop", 2), wish.kind(), &build_id(2)).unwrap();
        state.commit(ops);
        let (of, build, built) = (ReleaseNumber(1), build_id(2), built("shop", 2));
        let rebuilt = Rebuilt { of, release: begun.release, build, built };
        let (ops, _) = begin(&state, &asked("shop", 2), &wish, Some(&rebuilt)).unwrap();
        state.commit(ops);
        state.arrive("shop", 1);
        assert_eq!((app(&state).scale, app(&state).serving), (2, Some(ReleaseNumber(2))));
        assert_eq!(roles(&state), [(2, InstanceRole::Serving); 2]);
        let fewer = Wish::Scale { instances: 1 };
        assert!(started_by(&state, &name("shop"), &fewer).is_none(), "it starts nothing");
    }

    #[test]
    fn a_stopped_app_takes_a_configuration_without_an_instance() {
        let mut state = deployed(1);
        state.wish("shop", 2, &Wish::Stop);
        state.settle("shop", 1);
        let begun = state.wish("shop", 2, &set(&[("A", "1")]));
        assert_eq!(begun, Begun::Switched { release: ReleaseNumber(2) });
        state.settle("shop", 2);
        let app = app(&state);
        assert_eq!((app.stopped, app.serving, &app.trial), (true, Some(ReleaseNumber(2)), &None));
        assert_eq!(roles(&state), []);
    }

    #[test]
    fn only_new_releases_are_on_trial() {
        let mut state = deployed(2);
        let first = Trial { serving: ReleaseNumber(1), served_before: None };
        assert_eq!(app(&state).trial, Some(first.clone()));
        state.wish("shop", 3, &Wish::Restart);
        state.arrive("shop", 1);
        assert_eq!(app(&state).trial, Some(first), "its minute goes on");
        state.wish("shop", 4, &Wish::Rollback { to: None });
        state.arrive("shop", 2);
        assert_eq!(app(&state).trial, None);
    }

    #[test]
    fn a_retreat_is_as_if_the_release_had_never_been_and_is_noted_with_it() {
        let mut state = deployed(3);
        let retreat = Wish::Retreat { from: ReleaseNumber(3), reason: "after 2 s".to_owned() };
        state.wish("shop", 4, &retreat);
        state.arrive("shop", 5);
        let row = app(&state);
        assert_eq!(row.serving, Some(ReleaseNumber(2)));
        assert_eq!((row.served_before, &row.trial), (Some(ReleaseNumber(1)), &None));
        let withdrawn = state.release(&name("shop"), ReleaseNumber(3)).unwrap().withdrawn.clone();
        assert_eq!(withdrawn.unwrap().reason, "after 2 s");
        assert!(matches!(state.wish("shop", 5, &retreat), Begun::Noted(_)));
    }

    #[test]
    fn a_retreat_that_fails_is_not_tried_again_but_one_that_was_interrupted_is() {
        let retreat = Wish::Retreat { from: ReleaseNumber(2), reason: String::new() };
        let failed = Ending::Failed { code: "exited", error: "no" };
        for (ending, again) in [(failed, false), (Ending::Interrupted("no"), true)] {
            let mut state = deployed(2);
            state.wish("shop", 3, &retreat);
            let ops = settle(&state, &name("shop"), ending, at(1));
            state.commit(ops);
            assert_eq!(app(&state).trial.is_some(), again);
        }
    }
}
