//! The machine that a simulated engine has: what outlives it, and the programs that it directs.
//!
//! Everything that an engine does to the world passes its [`Fate`]: at one such step it dies, before or
//! after the step, and whatever it would do later doesn't happen.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ace_api::http::DoctorReport;
use ace_api::{
    BuildError, BuildRequest, Builder, Built, CommandEnd, CommandError, CommandIo, CommandSpec,
    EndReason, Gateway, InstanceSpec, InstanceState, InstanceStatus, KeptLog, KnownPython, Node,
    NodeUsage, PythonState, RebuildRequest, RouteTable, Serving, Traffic,
};
use ace_store::{
    Changes, CommitError, Entry, Lease, LeaseError, Listing, MemoryStore, Op, ReadError, Revision,
    Store, Watch,
};
use ace_types::{AppName, AppYaml, InstanceId};
use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::dice::Dice;
use crate::Parts;
use crate::config::ControlConfig;
use crate::rows::{InstanceRole, InstanceRow};
use crate::state::State;
use crate::testing;

/// The variable that says which deploy a release is of.
pub const TAG: &str = "TAG";
/// The variable that says what becomes of a release's instances.
const BEHAVIOUR: &str = "BEHAVIOUR";

/// How long a node that has nothing to do waits until it looks again.
const IDLE: Duration = Duration::from_secs(30);

type Statuses = Arc<BTreeMap<InstanceId, InstanceStatus>>;

/// What outlives an engine.
pub struct World {
    folder: tempfile::TempDir,
    pub store: MemoryStore,
    inner: Mutex<Inner>,
}

struct Inner {
    /// When the engine of now began.
    began: Timestamp,
    containers: BTreeMap<InstanceId, (InstanceSpec, InstanceStatus)>,
    /// The build number of the only Python.
    python: u64,
    dice: Dice,
}

/// When an engine dies.
pub struct Fate {
    /// Steps until then.
    left: Mutex<u32>,
    after: bool,
    dead: watch::Sender<bool>,
}

/// What becomes of one step.
enum Turn {
    Done,
    LastAndDone,
    NotDone,
}

/// One engine's view of the world.
pub struct Life {
    world: Arc<World>,
    pub fate: Arc<Fate>,
    started: Instant,
    began: Timestamp,
    /// How many of a hundred commits the disk refuses, or the store says so.
    refuses: u64,
    statuses: watch::Sender<Statuses>,
    desired: watch::Sender<Vec<InstanceSpec>>,
    routes: Mutex<RouteTable>,
}

impl World {
    pub fn new(seed: u64) -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["releases", "environments"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let inner = Inner {
            began: testing::at(0),
            containers: BTreeMap::new(),
            python: 1,
            dice: Dice::new(seed),
        };
        Arc::new(Self { folder, store: MemoryStore::default(), inner: Mutex::new(inner) })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn config(&self) -> ControlConfig {
        ControlConfig { data: self.folder.path().to_owned(), ..testing::config() }
    }

    pub fn containers(&self) -> Vec<InstanceId> {
        self.lock().containers.keys().cloned().collect()
    }

    /// The machine went down: every container ended.
    pub fn reboot(&self) {
        for (_, status) in self.lock().containers.values_mut() {
            if status.state == InstanceState::Running {
                status.state = InstanceState::Starting;
                status.last_end = Some(EndReason::Lost);
            }
        }
    }

    /// Which Python there is.
    pub fn python(&self) -> u64 {
        self.lock().python
    }

    /// The Python is another from now on.
    pub fn upgrade(&self) {
        self.lock().python += 1;
    }

    fn roll(&self, sides: u64) -> u64 {
        self.lock().dice.roll(sides)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

impl Fate {
    /// It dies at step number `left`, before or `after` it.
    pub fn new(left: u32, after: bool) -> Arc<Self> {
        Arc::new(Self { left: Mutex::new(left), after, dead: watch::Sender::new(false) })
    }

    /// It lives for as long as it is let.
    pub fn never() -> Arc<Self> {
        Self::new(u32::MAX, false)
    }

    pub async fn death(&self) {
        let _ = self.dead.subscribe().wait_for(|dead| *dead).await;
    }

    fn turn(&self) -> Turn {
        let mut left = self.left.lock().unwrap();
        match *left {
            0 => Turn::NotDone,
            1 => {
                *left = 0;
                if self.after {
                    return Turn::LastAndDone;
                }
                self.dead.send_replace(true);
                Turn::NotDone
            }
            u32::MAX => Turn::Done,
            _ => {
                *left -= 1;
                Turn::Done
            }
        }
    }

    /// Takes a step that takes time; an engine that is dead waits for ever.
    async fn step<T>(&self, effect: impl Future<Output = T>) -> T {
        match self.turn() {
            Turn::Done => return effect.await,
            Turn::LastAndDone => {
                effect.await;
                self.dead.send_replace(true);
            }
            Turn::NotDone => {}
        }
        std::future::pending().await
    }

    /// Takes a step at once, if the engine has it still to take.
    fn step_now(&self, effect: impl FnOnce()) {
        match self.turn() {
            Turn::Done => effect(),
            Turn::LastAndDone => {
                effect();
                self.dead.send_replace(true);
            }
            Turn::NotDone => {}
        }
    }

    fn is_over(&self) -> bool {
        *self.left.lock().unwrap() == 0
    }
}

impl Life {
    /// An engine begins on `world`. Called in the runtime that it has.
    pub fn begin(world: &Arc<World>, fate: Arc<Fate>, refuses: u64) -> Arc<Self> {
        let began = world.lock().began;
        Arc::new(Self {
            world: Arc::clone(world),
            fate,
            started: Instant::now(),
            began,
            refuses,
            statuses: watch::Sender::default(),
            desired: watch::Sender::default(),
            routes: Mutex::default(),
        })
    }

    pub fn parts(self: &Arc<Self>) -> Parts {
        let clock = Arc::clone(self);
        Parts {
            store: Arc::new(LifeStore(Arc::clone(self))),
            node: Arc::new(LifeNode(Arc::clone(self))),
            gateway: Arc::clone(self) as Arc<dyn Gateway>,
            builder: Arc::clone(self) as Arc<dyn Builder>,
            doctor: Arc::new(|| DoctorReport { checks: vec![] }),
            clock: Arc::new(move || clock.now()),
        }
    }

    pub fn now(&self) -> Timestamp {
        self.began + self.started.elapsed()
    }

    /// The engine is gone; the next one begins at this time.
    pub fn end(&self) {
        self.world.lock().began = self.now();
    }

    pub fn routes(&self) -> RouteTable {
        self.routes.lock().unwrap().clone()
    }

    pub fn statuses_now(&self) -> Statuses {
        Arc::clone(&self.statuses.borrow())
    }

    /// Ends the process of one instance that runs, if any does. Returns its app.
    pub fn crash_one(&self) -> Option<AppName> {
        let running: Vec<InstanceId> = {
            let inner = self.world.lock();
            let runs = |(_, (_, status)): &(_, &(_, InstanceStatus))| {
                status.state == InstanceState::Running
            };
            inner.containers.iter().filter(runs).map(|(id, _)| id.clone()).collect()
        };
        let sides = u64::try_from(running.len()).unwrap();
        let id = running.get(usize::try_from(self.world.roll(sides.max(1))).unwrap())?;
        let now = self.now();
        let crashed = InstanceState::Crashed { retry_at: now + Duration::from_secs(1) };
        self.set(id, |status| {
            status.state = crashed;
            status.since = now;
            status.last_end = Some(EndReason::Exited { status: 1 });
        });
        self.desired.send_modify(|_| {}); // The node looks at once.
        let inner = self.world.lock();
        inner.containers.get(id).map(|(spec, _)| spec.app.clone())
    }

    fn set(&self, id: &InstanceId, change: impl FnOnce(&mut InstanceStatus)) {
        if let Some((_, status)) = self.world.lock().containers.get_mut(id) {
            change(status);
        }
        self.report();
    }

    /// Tells what there is.
    fn report(&self) {
        let inner = self.world.lock();
        let all = inner.containers.iter().map(|(id, (_, status))| (id.clone(), status.clone()));
        let all: BTreeMap<_, _> = all.collect();
        drop(inner);
        self.statuses.send_if_modified(|before| {
            let differs = **before != all;
            if differs {
                *before = Arc::new(all);
            }
            differs
        });
    }

    /// The node's own task: brings containers to what is desired, a change at a time.
    async fn run_node(self: Arc<Self>) {
        let mut desired = self.desired.subscribe();
        loop {
            let wanted = desired.borrow_and_update().clone();
            self.look(&wanted);
            let pause = match self.is_moving() {
                true => Duration::from_millis(200 + self.world.roll(800)),
                false => IDLE,
            };
            tokio::select! {
                _ = desired.changed() => {}
                () = sleep(pause) => {}
            }
            if self.fate.is_over() {
                return;
            }
        }
    }

    /// Whether an instance may come a step further by itself.
    fn is_moving(&self) -> bool {
        let inner = self.world.lock();
        inner.containers.values().any(|(_, status)| {
            !matches!(status.state, InstanceState::Running | InstanceState::Failed)
        })
    }

    /// One look at all instances: each may come a step further.
    fn look(&self, wanted: &[InstanceSpec]) {
        let now = self.now();
        let lot = self.world.roll(1 << 20);
        let mut inner = self.world.lock();
        let containers = &mut inner.containers;
        containers.retain(|_, (_, status)| status.state != InstanceState::Draining);
        for (id, (_, status)) in containers.iter_mut() {
            if !wanted.iter().any(|spec| spec.id == *id) {
                (status.state, status.since) = (InstanceState::Draining, now);
            }
        }
        for (n, spec) in wanted.iter().enumerate() {
            let (_, status) = containers
                .entry(spec.id.clone())
                .or_insert_with(|| (spec.clone(), self.starting(spec, now)));
            // Not each at each look.
            if lot >> (n % 20) & 1 == 1 {
                advance(spec, status, now);
            }
        }
        drop(inner);
        self.report();
    }

    fn starting(&self, spec: &InstanceSpec, now: Timestamp) -> InstanceStatus {
        let folder = self.world.path("run").join(spec.id.as_str());
        InstanceStatus {
            app: spec.app.clone(),
            release: spec.release,
            state: InstanceState::Starting,
            since: now,
            socket: folder.join("socket"),
            log: folder.join("log"),
            first_answer: None,
            restarts: 0,
            last_end: None,
            memory_kills: 0,
        }
    }

    /// The apps that have an instance which serves and runs, and no route to any.
    pub fn stranded(&self, state: &State) -> Vec<AppName> {
        let (routes, statuses) = (self.routes(), self.statuses_now());
        let runs = |row: &InstanceRow| {
            statuses.get(&row.id).is_some_and(|status| status.state == InstanceState::Running)
        };
        let is_reached = |app: &AppName| {
            let mut of_app = routes.routes.iter().filter(|route| route.app == *app);
            of_app.any(|route| !route.backend.instances().is_empty())
        };
        let serving = state.instances().filter(|row| row.role == InstanceRole::Serving);
        let ready = serving.filter(|row| runs(row)).map(|row| row.app.clone());
        ready.filter(|app| !is_reached(app)).collect()
    }
}

/// What becomes of an instance next.
fn advance(spec: &InstanceSpec, status: &mut InstanceStatus, now: Timestamp) {
    let next = match (&status.state, spec.env.get(BEHAVIOUR).map(String::as_str)) {
        (InstanceState::Starting, Some("fail")) => {
            status.last_end = Some(EndReason::Exited { status: 1 });
            InstanceState::Failed
        }
        (InstanceState::Starting, Some("hang")) => return,
        (InstanceState::Starting, _) => InstanceState::Running,
        (InstanceState::Crashed { retry_at }, _) if now >= *retry_at => {
            status.restarts += 1;
            InstanceState::Starting
        }
        _ => return,
    };
    (status.state, status.since) = (next, now);
}

/// The store as one engine has it.
struct LifeStore(Arc<Life>);

#[async_trait]
impl Store for LifeStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        self.0.world.store.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, ReadError> {
        self.0.world.store.list(prefix).await
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<Revision, CommitError> {
        if self.0.world.roll(100) < self.0.refuses {
            if self.0.world.roll(2) == 0 {
                // It's kept, and yet the store says that it failed.
                self.0.fate.step(self.0.world.store.commit(ops)).await?;
            }
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(CommitError::Backend(ace_store::BackendError::Disk(full)));
        }
        self.0.fate.step(self.0.world.store.commit(ops)).await
    }

    async fn lease(&self, lease: Lease) -> Result<Revision, LeaseError> {
        self.0.fate.step(self.0.world.store.lease(lease)).await
    }

    fn watch(&self, from: Revision) -> Watch {
        self.0.world.store.watch(from)
    }

    async fn changes_since(&self, since: Revision) -> Result<Changes, ReadError> {
        self.0.world.store.changes_since(since).await
    }
}

/// The node as one engine has it: a task, as soon as it's told what should run.
struct LifeNode(Arc<Life>);

#[async_trait]
impl Node for LifeNode {
    fn set_desired(&self, instances: Vec<InstanceSpec>) {
        let life = &self.0;
        life.fate.step_now(|| {
            let routes = life.routes();
            let mut routed = routes.routes.iter().flat_map(|route| route.backend.instances());
            let lost = routed.find(|to| !instances.iter().any(|spec| spec.id == to.id));
            assert!(lost.is_none(), "{lost:?} is to stop and has requests");
            if life.desired.receiver_count() == 0 {
                tokio::spawn(Arc::clone(life).run_node());
            }
            life.desired.send_replace(instances);
        });
    }

    fn statuses(&self) -> watch::Receiver<Statuses> {
        self.0.statuses.subscribe()
    }

    fn usage(&self) -> NodeUsage {
        NodeUsage::default()
    }

    async fn down(&self) -> Result<(), Vec<String>> {
        Ok(())
    }

    async fn run(&self, _: CommandSpec, _: CommandIo) -> Result<CommandEnd, CommandError> {
        sleep(Duration::from_millis(self.0.world.roll(3000))).await;
        self.0.fate.step(async {}).await;
        Ok(CommandEnd::Exited { status: 0 })
    }

    fn command_logs(&self, _: &AppName) -> io::Result<Vec<KeptLog>> {
        Ok(Vec::new())
    }

    async fn kill_app(&self, _: &AppName) -> io::Result<()> {
        Ok(())
    }

    fn old_logs(&self, _: &AppName) -> io::Result<Vec<KeptLog>> {
        Ok(Vec::new())
    }

    async fn copy_volume(&self, _: PathBuf, _: PathBuf) -> io::Result<Duration> {
        Ok(Duration::ZERO)
    }

    async fn remove_app(&self, _: &AppName, _: PathBuf) -> io::Result<()> {
        self.0.fate.step(async {}).await;
        Ok(())
    }
}

#[async_trait]
impl Gateway for Life {
    fn set_routes(&self, routes: RouteTable) {
        self.fate.step_now(|| {
            let statuses = self.statuses_now();
            for route in &routes.routes {
                for to in route.backend.instances() {
                    assert!(statuses.contains_key(&to.id), "a route to {}, which is not", to.id);
                }
            }
            *self.routes.lock().unwrap() = routes;
        });
    }

    async fn drained(&self, _: &InstanceId, _: Duration) -> bool {
        sleep(Duration::from_millis(self.world.roll(2000))).await;
        true
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], 8080).into()
    }
}

#[async_trait]
impl Builder for Life {
    async fn build(
        &self,
        request: BuildRequest,
        _: mpsc::Sender<String>,
    ) -> Result<Built, BuildError> {
        let text = fs::read_to_string(&request.archive).unwrap();
        let (behaviour, tag) = text.split_once(' ').unwrap();
        sleep(Duration::from_millis(self.world.roll(20_000))).await;
        if behaviour == "reject" {
            return Err(BuildError::Rejected("there is nothing to run".to_owned()));
        }
        let app = request.app.as_str();
        let code = self.world.path("releases").join(app).join(request.id.as_str()).join("code");
        let environment = self.world.path("environments").join(app).join("h1").join("virtualenv");
        self.fate.step(async { fs::create_dir_all(&code).unwrap() }).await;
        self.fate.step(async { fs::create_dir_all(&environment).unwrap() }).await;
        let mut app_yaml = AppYaml { startup: Duration::from_secs(10), ..AppYaml::default() };
        app_yaml.env.insert(TAG.to_owned(), tag.to_owned());
        app_yaml.env.insert(BEHAVIOUR.to_owned(), behaviour.to_owned());
        app_yaml.predeploy = (behaviour == "predeploy").then(|| "migrate".to_owned());
        let mut built = testing::built(app, 1);
        if let Serving::Program(runtime) = &mut built.serving {
            runtime.environment = environment;
            runtime.python.build = self.world.lock().python;
        }
        if behaviour == "files" {
            built.serving = Serving::Files;
        }
        Ok(Built { code, app_yaml, ..built })
    }

    async fn python_of(&self, built: &Built) -> PythonState {
        let now = self.world.lock().python;
        match built.serving.runtime() {
            Some(runtime) if runtime.python.build != now => {
                let mut python = runtime.python.clone();
                python.build = now;
                PythonState::Replaced(python)
            }
            _ => PythonState::Same,
        }
    }

    async fn rebuild(
        &self,
        request: RebuildRequest,
        _: mpsc::Sender<String>,
    ) -> Result<Built, BuildError> {
        sleep(Duration::from_millis(self.world.roll(5000))).await;
        let now = self.world.lock().python;
        let mut built = request.built;
        if let Serving::Program(runtime) = &mut built.serving {
            let hash = format!("h{now}");
            let of_app = self.world.path("environments").join(request.app.as_str());
            runtime.environment = of_app.join(hash).join("virtualenv");
            runtime.python.build = now;
            let made = async { fs::create_dir_all(&runtime.environment).unwrap() };
            self.fate.step(made).await;
        }
        Ok(built)
    }

    async fn pythons(&self) -> Vec<KnownPython> {
        Vec::new()
    }

    async fn add_python(&self, _: &Path) -> Result<KnownPython, BuildError> {
        Err(BuildError::Rejected("there is none".to_owned()))
    }

    async fn remove(&self, paths: Vec<PathBuf>) -> io::Result<()> {
        for path in paths {
            self.fate.step(async { fs::remove_dir_all(path).unwrap() }).await;
        }
        Ok(())
    }

    async fn remove_app(&self, app: &AppName) -> io::Result<()> {
        for kind in ["releases", "environments"] {
            let folder = self.world.path(kind).join(app.as_str());
            if folder.exists() {
                self.fate.step(async { fs::remove_dir_all(folder).unwrap() }).await;
            }
        }
        Ok(())
    }

    async fn recover(&self) -> io::Result<()> {
        Ok(())
    }
}
