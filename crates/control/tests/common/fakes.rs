//! Stand-ins for node, gateway and builder, which do at once what they are told.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ace_api::{
    BuildError, BuildRequest, Builder, Built, CommandEnd, CommandError, CommandIo, CommandOutput,
    CommandSpec, EndReason, Gateway, InstanceSpec, InstanceState, InstanceStatus, Interpreter,
    KeptLog, KnownPython, Node, NodeUsage, Program, PythonState, RebuildRequest, RouteTable,
    Runtime, Serving, Traffic,
};
use ace_types::{AppName, AppYaml, Bytes, InstanceId, Server};
use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

const BEHAVIOUR: &str = "BEHAVIOUR";

type Statuses = Arc<BTreeMap<InstanceId, InstanceStatus>>;

/// Runs nothing, and says it does.
pub struct FakeNode {
    data: PathBuf,
    statuses: watch::Sender<Statuses>,
    /// What should run.
    specs: Mutex<Vec<InstanceSpec>>,
    pub removed_volumes: Mutex<Vec<PathBuf>>,
    /// What it says that instances use.
    pub usage: Mutex<NodeUsage>,
    /// What `down` can't remove.
    pub stuck: Mutex<Vec<String>>,
}

impl FakeNode {
    pub fn new(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
            statuses: watch::Sender::default(),
            specs: Mutex::default(),
            removed_volumes: Mutex::default(),
            usage: Mutex::default(),
            stuck: Mutex::default(),
        }
    }

    pub fn running(&self) -> usize {
        self.statuses.borrow().len()
    }

    /// The only instance there is.
    pub fn only(&self) -> (InstanceId, InstanceStatus) {
        let statuses = self.statuses.borrow();
        let (id, status) = statuses.first_key_value().unwrap();
        (id.clone(), status.clone())
    }

    /// Lets every instance be in `state`.
    pub fn all_become(&self, state: InstanceState) {
        self.statuses.send_modify(|all| {
            for status in Arc::make_mut(all).values_mut() {
                status.state = state.clone();
                // Long ago, so that no pause is left.
                status.since = Timestamp::UNIX_EPOCH;
            }
        });
    }

    /// Lets every instance of `release` crash.
    pub fn crash(&self, release: u32) {
        self.statuses.send_modify(|all| {
            let of_release = |status: &&mut InstanceStatus| status.release.0 == release;
            for status in Arc::make_mut(all).values_mut().filter(of_release) {
                let now = Timestamp::now();
                status.state = InstanceState::Crashed { retry_at: now };
                status.since = now;
                status.last_end = Some(EndReason::Exited { status: 1 });
            }
        });
    }

    /// What the instances of `release` were told to be.
    pub fn specs(&self, release: u32) -> Vec<InstanceSpec> {
        let specs = self.specs.lock().unwrap();
        specs.iter().filter(|spec| spec.release.0 == release).cloned().collect()
    }

    fn start(&self, spec: &InstanceSpec) -> InstanceStatus {
        let log = self.data.join("run").join(spec.id.as_str()).join("log");
        fs::create_dir_all(&log).unwrap();
        let (state, last_end, said) = match spec.env[BEHAVIOUR].as_str() {
            "fail" => {
                let end = EndReason::Exited { status: 1 };
                (InstanceState::Failed, Some(end), "ImportError: no module named shop")
            }
            "library" => {
                let end = EndReason::ImportFailed { error: "ImportError".to_owned() };
                let said = "ImportError: libGL.so.1: cannot open shared object file: No such file";
                (InstanceState::Failed, Some(end), said)
            }
            "hang" => (InstanceState::Starting, None, "thinking"),
            _ => (InstanceState::Running, None, "hello"),
        };
        let first_answer = (spec.env[BEHAVIOUR] == "choosy").then_some(400);
        let line = format!("{} out {said}\n", Timestamp::now());
        fs::write(log.join("current"), line).unwrap();
        InstanceStatus {
            app: spec.app.clone(),
            release: spec.release,
            state,
            since: Timestamp::now(),
            socket: self.data.join("run").join(spec.id.as_str()).join("socket"),
            log,
            first_answer,
            restarts: 0,
            last_end,
            memory_kills: 0,
        }
    }
}

#[async_trait]
impl Node for FakeNode {
    fn set_desired(&self, instances: Vec<InstanceSpec>) {
        *self.specs.lock().unwrap() = instances.clone();
        self.statuses.send_modify(|all| {
            let all = Arc::make_mut(all);
            all.retain(|id, _| instances.iter().any(|spec| spec.id == *id));
            for spec in instances {
                all.entry(spec.id.clone()).or_insert_with(|| self.start(&spec));
            }
        });
    }

    fn statuses(&self) -> watch::Receiver<Statuses> {
        self.statuses.subscribe()
    }

    fn usage(&self) -> NodeUsage {
        self.usage.lock().unwrap().clone()
    }

    async fn down(&self) -> Result<(), Vec<String>> {
        let stuck = std::mem::take(&mut *self.stuck.lock().unwrap());
        if !stuck.is_empty() {
            return Err(stuck);
        }
        self.statuses.send_replace(Statuses::default());
        Ok(())
    }

    fn old_logs(&self, _app: &AppName) -> io::Result<Vec<KeptLog>> {
        Ok(Vec::new())
    }

    /// Says its own arguments, and then what it's told. `hang` in them lets it run until it is ended,
    /// `fail` lets it fail.
    async fn run(
        &self,
        command: CommandSpec,
        mut io: CommandIo,
    ) -> Result<CommandEnd, CommandError> {
        let said = command.argv.join(" ");
        io.output.send(CommandOutput::Out(format!("{said}\n").into_bytes())).await.unwrap();
        if said.contains("hang") {
            while io.controls.recv().await.is_some() {}
            return Ok(CommandEnd::Stopped);
        }
        while let Some(piece) = io.input.recv().await {
            io.output.send(CommandOutput::Out(piece)).await.unwrap();
        }
        Ok(CommandEnd::Exited { status: if said.contains("fail") { 3 } else { 0 } })
    }

    fn command_logs(&self, _app: &AppName) -> io::Result<Vec<KeptLog>> {
        Ok(Vec::new())
    }

    async fn kill_app(&self, _app: &AppName) -> io::Result<()> {
        Ok(())
    }

    async fn copy_volume(&self, image: PathBuf, to: PathBuf) -> io::Result<Duration> {
        fs::copy(image, to).map(|_| Duration::from_millis(1))
    }

    async fn remove_app(&self, _app: &AppName, volume: PathBuf) -> io::Result<()> {
        self.removed_volumes.lock().unwrap().push(volume);
        Ok(())
    }
}

/// Keeps its routes, and has no requests.
#[derive(Default)]
pub struct FakeGateway {
    routes: Mutex<RouteTable>,
    /// What it says that it has counted.
    pub traffic: Mutex<Traffic>,
    pub drained: Mutex<Vec<InstanceId>>,
}

impl FakeGateway {
    pub fn routes(&self) -> RouteTable {
        self.routes.lock().unwrap().clone()
    }
}

#[async_trait]
impl Gateway for FakeGateway {
    fn set_routes(&self, routes: RouteTable) {
        *self.routes.lock().unwrap() = routes;
    }

    fn traffic(&self) -> Traffic {
        self.traffic.lock().unwrap().clone()
    }

    async fn drained(&self, instance: &InstanceId, _: Duration) -> bool {
        let routes = self.routes();
        let mut routed = routes.routes.iter().flat_map(|route| route.backend.instances());
        assert!(!routed.any(|to| to.id == *instance), "{instance} still has its route");
        self.drained.lock().unwrap().push(instance.clone());
        true
    }

    fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], 8080).into()
    }
}

/// Makes releases of an archive's text.
pub struct FakeBuilder {
    data: PathBuf,
    pub building: watch::Sender<usize>,
    /// What the only Python has become.
    pub upgraded: Mutex<Option<Interpreter>>,
    /// It is gone.
    pub is_gone: AtomicBool,
    /// No environment can be made anew.
    pub rejects_rebuilds: AtomicBool,
}

impl FakeBuilder {
    pub fn new(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
            building: watch::Sender::new(0),
            upgraded: Mutex::default(),
            is_gone: AtomicBool::default(),
            rejects_rebuilds: AtomicBool::default(),
        }
    }

    /// Lets its only Python be upgraded to `version`.
    pub fn upgrade(&self, version: &str) {
        *self.upgraded.lock().unwrap() = Some(upgraded(version));
    }

    /// Lets its only Python be another program.
    pub fn replace(&self, program: &str) {
        *self.upgraded.lock().unwrap() = Some(interpreter(program));
    }

    fn python(&self) -> Interpreter {
        let now = self.upgraded.lock().unwrap().clone();
        now.unwrap_or_else(|| interpreter("/usr/bin/python3"))
    }
}

/// Counts a build for as long as it's there.
struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

fn interpreter(program: &str) -> Interpreter {
    Interpreter {
        version: "3.13.1".to_owned(),
        program: program.into(),
        prefix: "/usr".into(),
        build: 1,
    }
}

fn upgraded(version: &str) -> Interpreter {
    Interpreter { version: version.to_owned(), ..interpreter("/usr/bin/python3") }
}

/// An app that is built for a Python that is replaced as soon as it's there.
const OUTDATED: &str = "outdated";

fn program(python: Interpreter, environment: PathBuf, packages: PathBuf) -> Serving {
    let kind = Server::Uwsgi;
    Serving::Program(Runtime {
        python,
        environment,
        environment_size: Bytes(1),
        program: Program::Server { kind, packages, entry: Default::default() },
    })
}

fn known_python(program: &str) -> KnownPython {
    let interpreter = interpreter(program);
    KnownPython { interpreter, servers: vec!["uwsgi-2.0.30".to_owned()] }
}

#[async_trait]
impl Builder for FakeBuilder {
    async fn build(
        &self,
        request: BuildRequest,
        log: mpsc::Sender<String>,
    ) -> Result<Built, BuildError> {
        let _counted = Counted::new(&self.building);
        let behaviour = fs::read_to_string(&request.archive).unwrap();
        log.send(format!("building {}", request.app)).await.unwrap();
        match behaviour.as_str() {
            "slow" => std::future::pending().await,
            "panic" => panic!("the builder has a bug"),
            "reject" => {
                return Err(BuildError::Rejected("there is no index.py".to_owned()));
            }
            _ => {}
        }
        let app = request.app.as_str();
        let code = self.data.join("releases").join(app).join(request.id.as_str()).join("code");
        let environment = self.data.join("environments").join(app).join("none");
        fs::create_dir_all(&code).unwrap();
        fs::create_dir_all(&environment).unwrap();
        let mut app_yaml = AppYaml { startup: Duration::from_secs(1), ..AppYaml::default() };
        app_yaml.predeploy = behaviour.strip_prefix("predeploy ").map(str::to_owned);
        app_yaml.env.insert(BEHAVIOUR.to_owned(), behaviour.clone());
        Ok(Built {
            code,
            serving: match behaviour.as_str() {
                "files" | "predeploy files" => Serving::Files,
                _ => program(self.python(), environment, self.data.join("servers/uwsgi")),
            },
            app_yaml,
            code_size: Bytes(1),
        })
    }

    async fn python_of(&self, built: &Built) -> PythonState {
        let Some(runtime) = built.serving.runtime() else { return PythonState::Same };
        if self.is_gone.load(Ordering::SeqCst) {
            return PythonState::Gone("Python 3.13.1 is gone: install it again".to_owned());
        }
        let now = match built.app_yaml.env[BEHAVIOUR].as_str() {
            OUTDATED => upgraded("3.13.2"),
            _ => self.python(),
        };
        if now == runtime.python { PythonState::Same } else { PythonState::Replaced(now) }
    }

    async fn rebuild(
        &self,
        request: RebuildRequest,
        log: mpsc::Sender<String>,
    ) -> Result<Built, BuildError> {
        let _counted = Counted::new(&self.building);
        log.send(format!("rebuilding {}", request.app)).await.unwrap();
        if self.rejects_rebuilds.load(Ordering::SeqCst) {
            return Err(BuildError::Rejected("the index is away".to_owned()));
        }
        let PythonState::Replaced(python) = self.python_of(&request.built).await else {
            panic!("there is nothing to rebuild for")
        };
        let runtime = request.built.serving.runtime().unwrap().clone();
        let environment = runtime.environment.with_file_name(&python.version);
        fs::create_dir_all(&environment).unwrap();
        let serving = Serving::Program(Runtime { environment, python, ..runtime });
        Ok(Built { serving, ..request.built })
    }

    async fn pythons(&self) -> Vec<KnownPython> {
        vec![known_python("/usr/bin/python3")]
    }

    async fn add_python(&self, program: &Path) -> Result<KnownPython, BuildError> {
        match program.to_str() {
            Some(path @ "/opt/python/bin/python3") => Ok(known_python(path)),
            _ => Err(BuildError::Rejected(format!("{} can't be found", program.display()))),
        }
    }

    async fn remove(&self, paths: Vec<PathBuf>) -> io::Result<()> {
        paths.iter().try_for_each(fs::remove_dir_all)
    }

    async fn remove_app(&self, app: &AppName) -> io::Result<()> {
        let folders = ["releases", "environments"].map(|kind| self.data.join(kind));
        let of_app = folders.map(|folder| folder.join(app.as_str()));
        of_app.iter().filter(|folder| folder.exists()).try_for_each(fs::remove_dir_all)
    }

    async fn recover(&self) -> io::Result<()> {
        Ok(())
    }
}
