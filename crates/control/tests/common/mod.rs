//! A `control` whose node, gateway and builder are stand-ins in memory, and a client of its API.
//!
//! An archive's text says how its app behaves:
//!
//! | text | the build | the instance |
//! |---|---|---|
//! | `run` | succeeds | runs |
//! | `fail` | succeeds | prints a traceback and fails |
//! | `library` | succeeds | lacks one of the system's libraries, and fails |
//! | `hang` | succeeds | never gets ready |
//! | `choosy` | succeeds | runs, and answered with 400 |
//! | `files` | succeeds, with files alone | |
//! | `reject` | is rejected | |
//! | `slow` | never ends | |
//! | `panic` | panics | |
//! | `outdated` | succeeds, with a Python that is replaced then | runs |
//! | `predeploy COMMAND` | succeeds, and runs it | runs |
#![allow(dead_code)] // Each test program uses its own part.

pub mod client;
pub mod fakes;
pub mod mortal;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ace_api::http::{AppState, AppView, AppsView, DoctorReport, ServedBy};
use ace_control::{ApiSocket, ControlConfig, Listeners, Outcome, Parts};
use ace_store::{SqliteStore, Store};
use ace_types::IdRange;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use fakes::{FakeBuilder, FakeGateway, FakeNode};

/// Long enough for anything that will happen at all.
pub const SOON: Duration = Duration::from_secs(10);

/// A machine: what outlives an engine.
pub struct Machine {
    pub folder: TempDir,
    pub store: Arc<dyn Store>,
    pub node: Arc<FakeNode>,
    pub builder: Arc<FakeBuilder>,
}

/// An engine that runs on a machine.
pub struct Life {
    runtime: Option<Runtime>,
    pub gateway: Arc<FakeGateway>,
    pub socket: PathBuf,
    /// Where the API is served with tokens.
    pub tcp: SocketAddr,
    stop: watch::Sender<bool>,
    ended: Option<JoinHandle<Outcome>>,
}

impl Machine {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        Self {
            store: Arc::new(SqliteStore::open(&folder.path().join("ace.db")).unwrap()),
            node: Arc::new(FakeNode::new(folder.path())),
            builder: Arc::new(FakeBuilder::new(folder.path())),
            folder,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts an engine.
    pub fn live(&self) -> Life {
        self.live_on(Arc::clone(&self.store))
    }

    /// Starts an engine that sees `store`.
    pub fn live_on(&self, store: Arc<dyn Store>) -> Life {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let gateway = Arc::new(FakeGateway::default());
        let parts = Parts {
            store,
            node: self.node.clone(),
            gateway: gateway.clone(),
            builder: self.builder.clone(),
            doctor: Arc::new(|| DoctorReport { checks: vec![] }),
            clock: Arc::new(jiff::Timestamp::now),
        };
        let socket = self.path("ace.sock");
        let _ = std::fs::remove_file(&socket);
        let _entered = runtime.enter();
        let tcp = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = tcp.local_addr().unwrap();
        let listeners = Listeners { socket: ApiSocket::bind(&socket).unwrap(), tcp: Some(tcp) };
        let (stop, stopped) = watch::channel(false);
        let config = config(self.folder.path());
        let run = async move { ace_control::run(config, parts, listeners, stopped).await.unwrap() };
        let ended = Some(runtime.spawn(run));
        Life { runtime: Some(runtime), gateway, socket, tcp: address, stop, ended }
    }

    /// What stands in a folder of the machine's.
    pub fn entries(&self, name: &str) -> usize {
        std::fs::read_dir(self.path(name)).map_or(0, Iterator::count)
    }

    /// The rows of an app's releases.
    pub fn releases(&self, app: &str) -> Vec<serde_json::Value> {
        let listing = block_on(self.store.list(&format!("releases/{app}/"))).unwrap();
        listing.entries.iter().map(|row| serde_json::from_slice(&row.value).unwrap()).collect()
    }

    /// Rows in the store whose key begins with `prefix`.
    pub fn rows(&self, prefix: &str) -> usize {
        block_on(self.store.list(prefix)).unwrap().entries.len()
    }
}

fn config(data: &Path) -> ControlConfig {
    ControlConfig {
        data: data.to_owned(),
        domain: "localhost".parse().unwrap(),
        public_port: 8080,
        id_ranges: (0..64).filter_map(IdRange::new).collect(),
        stop_grace: Duration::from_secs(1),
        builds_max: 2,
        ceilings: Default::default(),
        python_check: Duration::from_millis(50),
    }
}

impl Life {
    /// Ends the engine where it stands, as `kill -9` would.
    pub fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_timeout(SOON);
    }

    /// Asks the engine to stop, and waits until it has.
    pub fn stop(self) -> Outcome {
        self.stop.send_replace(true);
        self.wait()
    }

    /// Waits until the engine ends.
    pub fn wait(mut self) -> Outcome {
        let runtime = self.runtime.take().unwrap();
        let ended = self.ended.take().unwrap();
        let outcome = runtime.block_on(async { tokio::time::timeout(SOON * 3, ended).await });
        runtime.shutdown_timeout(SOON);
        outcome.unwrap().unwrap()
    }

    pub fn apps(&self) -> Vec<AppView> {
        client::get(&self.socket, "/v1/apps").json::<AppsView>().apps
    }

    /// The release that requests for `app` reach, and by how many instances.
    pub fn routed(&self, app: &str) -> Option<(u32, usize)> {
        let routes = self.gateway.routes();
        let route = routes.routes.iter().find(|route| route.app.as_str() == app)?;
        Some((route.release.0, route.backend.instances().len()))
    }
}

/// How many instances an app should have.
fn wanted(app: &AppView) -> usize {
    match (app.state, &app.served_by) {
        (AppState::New | AppState::Stopped, _) | (_, Some(ServedBy::Files)) => 0,
        _ => usize::from(app.scale),
    }
}

/// Waits until nothing is under way, and checks that nothing is left over: every app has just the
/// instances, the route, the files and the user ids of the release that it serves.
pub fn assert_sound(machine: &Machine, life: &Life) {
    let is_settled = |app: &AppView| {
        let deploying = app.last_deploy.as_ref().is_some_and(|deploy| deploy.ended_at.is_none());
        let settled = matches!(app.state, AppState::Running | AppState::Stopped | AppState::New);
        settled && !deploying && app.instances.len() == wanted(app)
    };
    eventually("everything is settled", || life.apps().iter().all(is_settled));
    let all_wanted = || life.apps().iter().map(wanted).sum::<usize>();
    eventually("all instances are wanted", || machine.node.running() == all_wanted());
    let apps = life.apps();
    for app in &apps {
        let route = life.routed(app.name.as_str());
        assert_eq!(route, app.release.map(|release| (release.0, wanted(app))), "{app:?}");
        let folder = format!("releases/{}", app.name);
        let releases = || machine.releases(app.name.as_str());
        eventually("only releases have code", || {
            machine.entries(&folder) == used_code(&releases())
        });
    }
    let deployed = apps.iter().filter(|app| app.release.is_some()).count();
    assert_eq!(life.gateway.routes().routes.len(), deployed);
    assert_eq!(machine.rows("apps/"), apps.len());
    assert_eq!(machine.rows("ids/"), apps.len());
    assert_eq!(machine.rows("instances/"), all_wanted());
    assert!(machine.rows("deploys/") <= apps.len());
    let apps_in = |kind: &str| used_folders(&machine.path(kind));
    eventually("the code of no app but these is kept", || apps_in("releases") == deployed);
    // Files have none, but an earlier release of the app may.
    eventually("nor an environment", || apps_in("environments") <= deployed);
    eventually("archives are removed", || machine.entries("archives") == 0);
    eventually("logs of unknown builds are removed", || {
        machine.entries("logs/builds") <= machine.rows("releases/") + machine.rows("builds/")
    });
}

/// How many folders of code these releases have between them.
fn used_code(releases: &[serde_json::Value]) -> usize {
    let code = releases.iter().map(|row| row["built"]["code"].as_str().unwrap().to_owned());
    code.collect::<std::collections::BTreeSet<String>>().len()
}

/// Folders in `path` that hold something.
fn used_folders(path: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let holds = |path: PathBuf| std::fs::read_dir(path).is_ok_and(|mut all| all.next().is_some());
    entries.filter(|entry| holds(entry.as_ref().unwrap().path())).count()
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < SOON, "not in time: {what}");
        block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
