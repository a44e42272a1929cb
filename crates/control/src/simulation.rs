//! Random lives of an engine that is killed at any step, by seed: nothing acknowledged is lost, nothing is
//! left over, everything comes to an end and then to rest.
//!
//! Time passes at once whenever everybody waits. A seed fixes what is asked for, when, what goes wrong and
//! at which step the engine dies; what the runtime does first of several things that could be done is not
//! fixed. `ACE_SIMULATION_SEED=17` runs that seed alone, and says what happens;
//! `ACE_SIMULATION_SEEDS=100000` runs more than usual.
#![allow(clippy::unwrap_used)]

mod dice;
mod model;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ace_api::InstanceState;
use ace_api::http::{Author, DeployEvent};
use ace_types::{AppName, Config, ConfigChange};
use axum::body::Body;
use tokio::time::{Instant, sleep};

use crate::archive::Archive;
use crate::changes::Wish;
use crate::destroy;
use crate::engine::{Engine, new_build_id};
use crate::operation::{self, OperationRequest, Source, Work};
use crate::rows::{AppRow, DeployState};
use crate::state::State;
use crate::testing::name;
use dice::Dice;
use model::{Ask, Content, Model, Possible};
use world::{Fate, Life, TAG, World};

/// Seeds that are tried.
const SEEDS: u64 = 2000;
const APPS: [&str; 2] = ["blog", "shop"];
/// Engines until all has to come right, in one seed.
const LIVES: u64 = 3;
/// What an engine is asked for in its life.
const ASKS: u64 = 4;
/// Steps at one of which an engine dies. A deploy takes about 15.
const STEPS: u64 = 60;
/// How long an app that has a ready instance may be without it in its route.
const STRANDED_MAX: Duration = Duration::from_secs(10);
/// How long it may take until everything has come to its end, in the engine's own time.
const SETTLED_WITHIN: Duration = Duration::from_secs(3600);
/// How long it's watched that nothing moves any more.
const AT_REST: Duration = Duration::from_secs(900);
/// How often it's looked while things happen, and while nothing should.
const OFTEN: Duration = Duration::from_millis(250);
const SELDOM: Duration = Duration::from_secs(4);
/// The variable that a change of configuration sets.
const VALUE: &str = "VALUE";

#[test]
fn a_killed_engine_loses_nothing_and_leaves_nothing() {
    if let Some(seed) = number("ACE_SIMULATION_SEED") {
        Simulation::new(seed, true).run();
        return;
    }
    let (next, end) = (AtomicU64::new(0), number("ACE_SIMULATION_SEEDS").unwrap_or(SEEDS));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(seed) =
                    Some(next.fetch_add(1, Ordering::SeqCst)).filter(|n| *n < end)
                {
                    let run = || Simulation::new(seed, false).run();
                    if catch_unwind(AssertUnwindSafe(run)).is_err() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "failed; run one with ACE_SIMULATION_SEED=N: {failed:?}");
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// One seed.
struct Simulation {
    dice: Dice,
    world: Arc<World>,
    apps: BTreeMap<AppName, Possible>,
    /// What has been asked and not been answered, in its order.
    pending: Arc<Mutex<Vec<Pending>>>,
    /// Apps of which an instance has crashed since all was at rest.
    shaky: BTreeSet<AppName>,
    asked: u64,
    says: bool,
}

/// Something that was asked for.
#[derive(Debug, Clone)]
struct Pending {
    number: u64,
    app: AppName,
    ask: Ask,
    answer: Option<Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Done,
    /// It was so already, or there was nothing to move.
    Noted,
    Failed,
}

impl Simulation {
    fn new(seed: u64, says: bool) -> Self {
        let apps = APPS.map(|app| (name(app), Possible::nothing()));
        Self {
            dice: Dice::new(seed),
            world: World::new(!seed),
            apps: apps.into(),
            pending: Arc::default(),
            shaky: BTreeSet::new(),
            asked: 0,
            says,
        }
    }

    fn run(mut self) {
        for _ in 0..2 {
            for _ in 0..=self.dice.roll(LIVES) {
                let steps = u32::try_from(1 + self.dice.roll(STEPS)).unwrap();
                let fate = Fate::new(steps, self.dice.roll(2) == 0);
                let refuses = self.dice.pick(&[0, 0, 0, 5, 30]);
                self.live(fate, refuses, async |this, life, engine| {
                    tokio::select! {
                        () = this.be_busy(life, engine) => {}
                        () = life.fate.death() => this.say("it dies"),
                    }
                });
                self.forget();
                if self.dice.roll(8) == 0 {
                    self.say("the machine goes down");
                    self.world.reboot();
                }
            }
            self.live(Fate::never(), 0, async |this, life, engine| {
                this.come_to_rest(life, engine).await;
            });
        }
    }

    /// Has an engine live for as long as `act` takes, and kills it.
    fn live(
        &mut self,
        fate: Arc<Fate>,
        refuses: u64,
        act: impl AsyncFnOnce(&mut Self, &Arc<Life>, &Arc<Engine>),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let world = Arc::clone(&self.world);
        runtime.block_on(async {
            let life = Life::begin(&world, fate, refuses);
            self.say("an engine starts");
            let started = crate::start(world.config(), life.parts());
            let engine = tokio::select! {
                started = started => started,
                () = life.fate.death() => return life.end(),
            };
            // One that can't write may not start; the next one tries again.
            if let Ok(engine) = engine {
                act(self, &life, &engine).await;
            }
            life.end();
        });
    }

    /// Asks for one thing after the other, while things go wrong.
    async fn be_busy(&mut self, life: &Arc<Life>, engine: &Arc<Engine>) {
        for _ in 0..=self.dice.roll(ASKS) {
            self.ask_something(engine).await;
            if self.dice.roll(4) == 0
                && let Some(app) = life.crash_one()
            {
                self.say(&format!("an instance of {app} crashes"));
                self.shaky.insert(app.clone());
                self.turn_back(&app);
            }
            if self.dice.roll(12) == 0 {
                self.say("the Python is upgraded");
                self.world.upgrade();
            }
            let most = self.dice.pick(&[10, 1000, 30_000, 120_000]);
            let pause = self.dice.roll(most);
            self.look_on(life, engine, Duration::from_millis(pause), OFTEN).await;
        }
    }

    /// Lets time pass, and looks that no app is without its instances.
    async fn look_on(&mut self, life: &Life, engine: &Engine, within: Duration, every: Duration) {
        let until = Instant::now() + within;
        let mut stranded: BTreeMap<AppName, Instant> = BTreeMap::new();
        while Instant::now() < until {
            sleep(every).await;
            self.take_answers();
            let state = engine.records.state().await.unwrap();
            let now: BTreeSet<AppName> = life.stranded(&state).into_iter().collect();
            stranded.retain(|app, _| now.contains(app));
            for app in now {
                let since = *stranded.entry(app.clone()).or_insert_with(Instant::now);
                assert!(since.elapsed() < STRANDED_MAX, "{app} runs and has no route");
            }
        }
    }

    async fn ask_something(&mut self, engine: &Arc<Engine>) {
        let app = name(self.dice.pick(&APPS));
        let is_going = |pending: &Pending| pending.app == app && pending.ask == Ask::Destroy;
        if self.pending.lock().unwrap().iter().any(is_going) {
            return;
        }
        self.asked += 1;
        let ask = self.choose();
        self.say(&format!("{}: {app}: {ask:?}", self.asked));
        let pending = Pending { number: self.asked, app: app.clone(), ask, answer: None };
        self.pending.lock().unwrap().push(pending);
        let (all, number) = (Arc::clone(&self.pending), self.asked);
        let (engine, work) = (Arc::clone(engine), work(engine, ask).await);
        tokio::spawn(async move {
            let answer = match work {
                Some(work) => carry_out(&engine, app, work).await,
                None => destroy_whole(&engine, app).await,
            };
            let mut all = all.lock().unwrap();
            let asked = all.iter_mut().find(|pending| pending.number == number);
            asked.unwrap().answer = Some(answer);
        });
    }

    fn choose(&mut self) -> Ask {
        let behaviours = ["run", "run", "run", "predeploy", "files", "fail", "hang", "reject"];
        match self.dice.roll(13) {
            0..=4 => Ask::Deploy { tag: self.asked, behaviour: self.dice.pick(&behaviours) },
            5 | 6 => Ask::Configure { value: self.asked },
            7 | 8 => Ask::Rollback,
            9 => Ask::Restart,
            10 => self.dice.pick(&[Ask::Stop, Ask::Start]),
            11 => Ask::Scale { instances: u16::try_from(1 + self.dice.roll(3)).unwrap() },
            _ => Ask::Destroy,
        }
    }

    /// Takes over what has been answered.
    fn take_answers(&mut self) {
        let mut pending = self.pending.lock().unwrap();
        let (answered, left) = pending.drain(..).partition(|pending| pending.answer.is_some());
        *pending = left;
        drop(pending);
        let answered: Vec<Pending> = answered;
        for Pending { app, ask, answer, number } in answered {
            self.say(&format!("{number}: {answer:?}"));
            let possible = self.apps.get_mut(&app).unwrap();
            match answer.unwrap() {
                Answer::Done => possible.done(ask),
                Answer::Noted if matches!(ask, Ask::Configure { .. } | Ask::Scale { .. }) => {
                    possible.done(ask);
                }
                Answer::Noted => {}
                Answer::Failed => possible.failed(ask),
            }
            self.turn_back(&app);
        }
    }

    /// The engine is dead, and nobody is told any more what was done.
    fn forget(&mut self) {
        self.take_answers();
        let pending = std::mem::take(&mut *self.pending.lock().unwrap());
        for Pending { app, ask, .. } in pending {
            let possible = self.apps.get_mut(&app).unwrap();
            possible.failed(ask);
            possible.may_be_done(ask);
            self.turn_back(&app);
        }
        self.pending = Arc::default();
    }

    /// What serves `app` may have died early, if any of it has crashed.
    fn turn_back(&mut self, app: &AppName) {
        if self.shaky.contains(app) {
            self.apps.get_mut(app).unwrap().may_turn_back();
        }
    }

    /// Waits until all has come to its end, and checks that it's as it should be, and stays so.
    async fn come_to_rest(&mut self, life: &Arc<Life>, engine: &Arc<Engine>) {
        let until = Instant::now() + SETTLED_WITHIN;
        loop {
            self.look_on(life, engine, Duration::from_secs(60), SELDOM).await;
            let state = engine.records.state().await.unwrap();
            let unsettled = unsettled(&state, life, self.world.python());
            if unsettled.is_empty() {
                break;
            }
            assert!(Instant::now() < until, "never settled: {unsettled:?}");
        }
        let state = engine.records.state().await.unwrap();
        self.check_apps(&state);
        self.check_leftovers(&state);
        let routes = life.routes();
        self.look_on(life, engine, AT_REST, SELDOM).await;
        let later = engine.records.state().await.unwrap();
        assert_eq!(later.revision, state.revision, "something moves though nothing was asked");
        assert_eq!(life.routes(), routes, "routes move though nothing was asked");
    }

    fn check_apps(&mut self, state: &State) {
        self.shaky.clear();
        for (app, possible) in &mut self.apps {
            let found = state.app(app).map(|row| observed(state, row));
            let before = possible.clone();
            assert!(possible.settle(found), "{app} is {found:?}, and may be {before:#?}");
        }
    }

    fn check_leftovers(&self, state: &State) {
        let names: BTreeSet<_> = state.apps().map(|app| app.name.clone()).collect();
        assert_eq!(state.ids().count(), names.len(), "ranges of user ids");
        let wanted: BTreeSet<_> = state.instances().map(|row| row.id.clone()).collect();
        let there: BTreeSet<_> = self.world.containers().into_iter().collect();
        assert_eq!(there, wanted, "containers");
        let of_none = |path: &PathBuf| !names.iter().any(|app| path.ends_with(app.as_str()));
        for kind in ["releases", "environments"] {
            let empty = |path: &PathBuf| entries(path).is_empty();
            let mut left = entries(&self.world.path(kind));
            left.retain(|path| of_none(path) && !empty(path));
            assert!(left.is_empty(), "{kind} of apps that are no more: {left:?}");
        }
        let left = entries(&self.world.path("archives"));
        assert!(left.is_empty(), "archives: {left:?}");
        let code: BTreeSet<_> = state.releases().map(|row| row.built.code.clone()).collect();
        let missing: Vec<_> = code.iter().filter(|path| !path.exists()).collect();
        assert!(missing.is_empty(), "code that a release needs is gone: {missing:?}");
        let folders =
            names.iter().flat_map(|app| entries(&self.world.path("releases").join(app.as_str())));
        let mut unused: Vec<_> = folders.collect();
        unused.retain(|folder| !code.contains(&folder.join("code")));
        assert!(unused.is_empty(), "code that no release has: {unused:?}");
    }

    fn say(&self, text: &str) {
        if self.says {
            eprintln!("{text}");
        }
    }
}

async fn work(engine: &Engine, ask: Ask) -> Option<Work> {
    Some(Work::Wish(match ask {
        Ask::Deploy { tag, behaviour } => {
            let build = new_build_id().unwrap();
            let body = Body::from(format!("{behaviour} {tag}"));
            let archive = Archive::receive(&engine.config.archives(), &build, body).await;
            return Some(Work::Deploy(Source { build, archive: archive.unwrap() }));
        }
        Ask::Configure { value } => {
            let text = format!(r#"{{"set": {{"{VALUE}": "{value}"}}}}"#);
            let change: ConfigChange = serde_json::from_str(&text).unwrap();
            Wish::Configure(change)
        }
        Ask::Rollback => Wish::Rollback { to: None },
        Ask::Restart => Wish::Restart,
        Ask::Stop => Wish::Stop,
        Ask::Start => Wish::Start,
        Ask::Scale { instances } => Wish::Scale { instances },
        Ask::Destroy => return None,
    }))
}

async fn carry_out(engine: &Arc<Engine>, app: AppName, work: Work) -> Answer {
    let Some(ticket) = engine.lanes.enter(&app, usize::MAX) else { return Answer::Failed };
    let request =
        OperationRequest { app, tenant: None, by: Author::Root, work, ticket, admission: None };
    let mut events = operation::start(engine, request);
    while let Some(event) = events.recv().await {
        match event {
            DeployEvent::Done { .. } => {
                // Whoever stays hears the end of it; what follows needs nobody.
                while events.recv().await.is_some() {}
                return Answer::Done;
            }
            DeployEvent::Noted { .. } => return Answer::Noted,
            DeployEvent::Failed { .. } => return Answer::Failed,
            _ => {}
        }
    }
    std::future::pending().await
}

async fn destroy_whole(engine: &Arc<Engine>, app: AppName) -> Answer {
    if destroy::begin(engine, &app, None, &Author::Root).await.is_err() {
        return Answer::Failed;
    }
    destroy::run(Arc::clone(engine), app).await;
    Answer::Done
}

/// What has not come to its end yet.
fn unsettled(state: &State, life: &Life, python: u64) -> Vec<String> {
    let mut found = Vec::new();
    for app in state.apps() {
        if app.destroying {
            found.push(format!("{} is being destroyed", app.name));
        }
        let deploy = state.deploy(&app.name);
        let ended = |state: &DeployState| {
            matches!(state, DeployState::Done { .. } | DeployState::Failed { .. })
        };
        if let Some(deploy) = deploy.filter(|deploy| !ended(&deploy.state)) {
            found.push(format!("{}: {:?} is {:?}", app.name, deploy.kind, deploy.state));
        }
        let release = app.serving.and_then(|number| state.release(&app.name, number));
        let runtime = release.and_then(|release| release.built.serving.runtime());
        if runtime.is_some_and(|runtime| runtime.python.build != python) && !app.stopped {
            found.push(format!("{} is to be rebuilt", app.name));
        }
        let wanted = if runtime.is_some() && !app.stopped { usize::from(app.scale) } else { 0 };
        let statuses = life.statuses_now();
        let is_up =
            |id| statuses.get(id).is_some_and(|status| status.state == InstanceState::Running);
        let up = state.instances_of(&app.name).filter(|row| is_up(&row.id)).count();
        let rows = state.instances_of(&app.name).count();
        if (up, rows) != (wanted, wanted) {
            found.push(format!("{} has {rows} instances, {up} run, of {wanted}", app.name));
        }
    }
    let known = life.statuses_now().len();
    if known != state.instances().count() {
        found.push(format!("there are {known} instances"));
    }
    found
}

fn observed(state: &State, app: &AppRow) -> Model {
    let value = |config: &Config| {
        let mut values = config.iter().filter(|(name, _)| *name == VALUE);
        values.next().map(|(_, value)| value.parse().unwrap())
    };
    let content = |number| {
        let release = state.release(&app.name, number).unwrap();
        let tag = release.built.app_yaml.env[TAG].parse().unwrap();
        Content { tag, config: value(&release.config) }
    };
    Model {
        serving: app.serving.map(content),
        before: app.served_before.map(content),
        config: value(&app.config),
        scale: app.scale,
        stopped: app.stopped,
        trial: None,
    }
}

fn entries(folder: &std::path::Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}
