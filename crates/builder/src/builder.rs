//! [`ContainerBuilder`]: the steps of a build in their order, and what stays of them on disk.
//!
//! | folder | what it holds | comes and goes |
//! |---|---|---|
//! | `DATA/builds/ID`, `DATA/builds/ID.img` | a build's scratch, and the disk that is mounted there | with the build |
//! | `DATA/releases/APP/ID/code` | a release's code | by a rename; [`Builder::remove`] |
//! | `DATA/environments/APP/HASH` | an environment and its lock ([`Kept`]) | by a rename; [`Builder::remove`] |
//! | `DATA/caches/APP` | the installer's cache of an app | lent to each build; [`Caches`]; [`Builder::remove_app`] |
//! | `DATA/servers`, `DATA/tools` | what all apps share | stays |
//!
//! What has its name in the right-hand places is whole: a build cut short leaves only scratch, which
//! [`Builder::recover`] removes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ace_api::{
    BuildError, BuildRequest, Builder, Built, Interpreter, KnownPython, Program, PythonState,
    RebuildRequest, Runtime, Serving,
};
use ace_sandbox::cgroup::CgroupTree;
use ace_sandbox::launch::LauncherProgram;
use ace_types::{
    AppName, AppYaml, BuildId, Bytes, IdRange, Limits, PythonRange, ServerChoice, StaticRule,
};
use async_trait::async_trait;
use rustix::fs::{Mode, OFlags};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::spawn_blocking;

use crate::caches::Caches;
use crate::callable::suitable_server;
use crate::container::{Bench, Command, Network, RunError, Workshop};
use crate::describe::describe;
use crate::entry::{self, Search};
use crate::environment::{DOWNLOADS, ENVIRONMENT, Installer, Lock, PYTHON, check_end, see_python};
use crate::files;
use crate::kept::Kept;
use crate::log::BuildLog;
use crate::pip::Pip;
use crate::python::{self, Places, Python, Pythons, choose};
use crate::servers::{self, Servers};
use crate::serving::{self, Found, Origin};
use crate::site::{Site, blocking, engine};
use crate::statics;
use crate::tools::Tools;
use crate::unpack::{CODE, Inspection, NamedPython, Report, Requirements};
use crate::uv::Uv;
use crate::wheels;

/// The argument that makes `ace` run [`crate::unpack_main`].
pub const UNPACK_COMMAND: &str = "__unpack";

/// The hidden command of [`crate::compress_main`].
pub const COMPRESS_COMMAND: &str = "__compress";

const DEFAULT_INDEX: &str = "https://pypi.org/simple";
/// Where our own program stands in the container that unpacks.
const ACE: &str = "/ace/bin/ace";
const REPORT_MAX: usize = 16 << 20;
/// What the names of builds' control groups begin with.
const GROUP_PREFIX: &str = "build-";
/// How long the kernel may take to end what a dead engine's build left running.
const RECOVER_DEADLINE: Duration = Duration::from_secs(10);

/// What a builder is given.
pub struct BuilderConfig {
    /// The engine's data folder. All in it is on one file system.
    pub data: PathBuf,
    pub launcher: Arc<LauncherProgram>,
    pub cgroups: Arc<CgroupTree>,
    pub network: Arc<dyn Network>,
    pub nameservers: Vec<Ipv4Addr>,
    /// Our own program as a file, which knows the hidden command [`UNPACK_COMMAND`].
    pub executable: PathBuf,
    /// The package index; `None` is PyPI.
    pub index_url: Option<String>,
    /// Where Pythons are looked for.
    pub places: Places,
}

/// Builds in containers. Cheap to clone; all clones are one builder.
#[derive(Clone)]
pub struct ContainerBuilder {
    inner: Arc<Inner>,
}

struct Inner {
    data: PathBuf,
    workshop: Arc<Workshop>,
    network: Arc<dyn Network>,
    executable: PathBuf,
    index: String,
    pythons: Pythons,
    tools: Tools,
    making_pip: Mutex<()>,
    servers: Servers,
    caches: Arc<Caches>,
}

impl ContainerBuilder {
    pub fn new(config: BuilderConfig) -> Self {
        let index = config.index_url.unwrap_or_else(|| DEFAULT_INDEX.to_owned());
        let workshop = Workshop {
            launcher: config.launcher,
            cgroups: config.cgroups,
            nameservers: config.nameservers,
            limits: Limits::for_build(),
        };
        let inner = Inner {
            workshop: Arc::new(workshop),
            network: config.network,
            executable: config.executable,
            pythons: Pythons::new(config.places, &config.data),
            tools: Tools::new(config.data.join("tools"), index.clone()),
            making_pip: Mutex::default(),
            servers: Servers::new(config.data.join("servers")),
            caches: Arc::new(Caches::new(config.data.join("caches"))),
            data: config.data,
            index,
        };
        Self { inner: Arc::new(inner) }
    }

    async fn run(&self, task: Task, log: mpsc::Sender<String>) -> Result<Built, BuildError> {
        // Dropped with this future; the task, which then has no one to work for, cleans up and ends.
        let (_waiting, gone) = oneshot::channel();
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move { inner.run_and_clear(task, log, gone).await })
            .await
            .unwrap_or_else(|error| Err(engine("go on with the build", error)))
    }
}

#[async_trait]
impl Builder for ContainerBuilder {
    async fn build(
        &self,
        request: BuildRequest,
        log: mpsc::Sender<String>,
    ) -> Result<Built, BuildError> {
        self.run(Task::Build(request), log).await
    }

    async fn python_of(&self, built: &Built) -> PythonState {
        let Some(runtime) = built.serving.runtime() else { return PythonState::Same };
        let pythons = self.inner.pythons.all().await;
        python::state_of(&pythons, &runtime.python, built.app_yaml.python.as_ref())
    }

    async fn rebuild(
        &self,
        request: RebuildRequest,
        log: mpsc::Sender<String>,
    ) -> Result<Built, BuildError> {
        self.run(Task::Rebuild(Box::new(request)), log).await
    }

    async fn pythons(&self) -> Vec<KnownPython> {
        self.inner.pythons.all().await.iter().map(known).collect()
    }

    async fn add_python(&self, program: &Path) -> Result<KnownPython, BuildError> {
        self.inner.pythons.add(program).await.map(|python| known(&python))
    }

    async fn remove(&self, paths: Vec<PathBuf>) -> io::Result<()> {
        let inner = Arc::clone(&self.inner);
        let remove = move || paths.iter().try_for_each(|path| inner.remove_result(path));
        spawn_blocking(remove).await.map_err(io::Error::other)?
    }

    async fn remove_app(&self, app: &AppName) -> io::Result<()> {
        let (inner, app) = (Arc::clone(&self.inner), app.clone());
        spawn_blocking(move || inner.remove_app(&app)).await.map_err(io::Error::other)?
    }

    async fn recover(&self) -> io::Result<()> {
        let inner = Arc::clone(&self.inner);
        spawn_blocking(move || inner.recover()).await.map_err(io::Error::other)?
    }
}

/// What is to be made.
enum Task {
    Build(BuildRequest),
    Rebuild(Box<RebuildRequest>),
}

/// One build: whose it is, and with what it works.
struct Job<'a> {
    id: &'a BuildId,
    app: &'a AppName,
    bench: &'a Bench,
    site: &'a Site,
}

impl Task {
    /// Its name, its app, and its user ids.
    fn parts(&self) -> (&BuildId, &AppName, IdRange) {
        match self {
            Self::Build(request) => (&request.id, &request.app, request.ids),
            Self::Rebuild(request) => (&request.id, &request.app, request.ids),
        }
    }
}

impl Inner {
    async fn run_and_clear(
        &self,
        task: Task,
        lines: mpsc::Sender<String>,
        gone: oneshot::Receiver<()>,
    ) -> Result<Built, BuildError> {
        let (id, app, ids) = task.parts();
        let name = format!("{GROUP_PREFIX}{id}");
        let network = self.network.lease(id.as_str());
        let network = network.ok_or_else(|| engine("build", "every address is taken"))?;
        let log = Arc::new(BuildLog::new(lines, self.workshop.limits.log));
        let folder = self.builds().join(id.as_str());
        let workshop = Arc::clone(&self.workshop);
        let site = Site::make(folder, self.caches.of(app), ids.host_id(IdRange::APP)).await?;
        let bench = Bench::new(workshop, name, ids, network, site.clone(), log);
        let job = Job { id, app, bench: &bench, site: &site };
        let work = async {
            match &task {
                Task::Build(request) => self.build_in(&job, request).await,
                Task::Rebuild(request) => self.rebuild_in(&job, &request.built).await,
            }
        };
        let work = async {
            match work.await {
                Err(BuildError::Rejected(message)) => {
                    Err(BuildError::Rejected(self.with_way_out(message, bench.log()).await))
                }
                result => result,
            }
        };
        let result = tokio::select! {
            result = work => result,
            _ = gone => Err(engine("go on with the build", "nobody waits for it any more")),
        };
        self.clear(&job).await;
        result
    }

    /// `message`, and for which Pythons there is what could not be built.
    async fn with_way_out(&self, message: String, log: &BuildLog) -> String {
        let Some((failed, python)) = log.failed_build() else { return message };
        match wheels::instead(&self.index, &failed, &python).await {
            Some(instead) => format!("{message}; {instead}"),
            None => message,
        }
    }

    async fn build_in(&self, job: &Job<'_>, request: &BuildRequest) -> Result<Built, BuildError> {
        let source = self.unpack(job, &request.archive).await?;
        let pin = request.python.as_ref();
        match serving::told(&source)? {
            Some(Found::Files(rules)) => self.build_files(job, source, rules).await,
            Some(Found::Program(origin)) => {
                self.build_program(job, source, pin, Some(origin)).await
            }
            None => self.build_program(job, source, pin, None).await,
        }
    }

    /// Keeps the source as it is, since nothing of it runs.
    async fn build_files(
        &self,
        job: &Job<'_>,
        source: Inspection,
        rules: Vec<StaticRule>,
    ) -> Result<Built, BuildError> {
        let app_yaml = AppYaml { statics: rules, ..source.app_yaml };
        if let Some(missing) = missing_static(job.site, &app_yaml).await? {
            return Err(BuildError::Rejected(missing));
        }
        let all = app_yaml.statics.iter().any(|rule| rule.files.is_empty());
        let of_what = if all { "the whole folder" } else { "what app.yaml declares static" };
        job.bench
            .log()
            .say(format!("files alone: nothing of it runs; {of_what} is served as it is"))
            .await;
        compress(job, &self.executable, &app_yaml).await?;
        let (code, code_size) = self.keep_code(job).await?;
        Ok(Built { code, serving: Serving::Files, app_yaml, code_size })
    }

    /// Without an `origin`, the source is searched for one first; it may turn out to be files alone.
    async fn build_program(
        &self,
        job: &Job<'_>,
        source: Inspection,
        pin: Option<&Interpreter>,
        origin: Option<Origin>,
    ) -> Result<Built, BuildError> {
        let Job { bench, site, .. } = job;
        let pythons = self.pythons.all().await;
        let wanted = wanted_python(&source, &pythons, bench).await;
        let python = choose(&pythons, pin, wanted.as_ref())
            .map_err(|error| BuildError::Rejected(error.to_string()))?;
        say_python(bench, python).await;
        if let Some(other) = source.python_of_project(python.version) {
            bench.log().say(other).await;
        }
        let origin = match origin {
            Some(origin) => origin,
            None => match search(&source, python, job).await? {
                Found::Files(rules) => return self.build_files(job, source, rules).await,
                Found::Program(origin) => origin,
            },
        };
        check_server(source.app_yaml.server, python)?;
        let installer = self.installer(job, &pythons, python).await?;
        site.borrow_cache(self.caches.of(job.app)).await?;
        let lock = match &source.requirements {
            Requirements::None => {
                bench.log().say(source.no_packages()).await;
                Lock::empty()
            }
            _ => installer.resolve(&source, python, bench, site).await?,
        };
        let env = &source.app_yaml.env;
        let kept = self.environment(job, &lock, env, python, &installer).await?;
        let standing = if kept.exists() { kept.virtualenv() } else { site.environment() };
        let program = self.program(job, &source, origin, python, &installer, &standing).await?;
        if source.undescribed {
            describe(&installer, &source.app_yaml.env, python, bench, site).await?;
        }
        self.collect_static_files(job, &source, python, &standing).await?;
        compile(job, python).await?;
        compress(job, &self.executable, &source.app_yaml).await?;
        let environment_size = keep_environment(site, lock, &kept).await?;
        let environment = kept.virtualenv();
        let (code, code_size) = self.keep_code(job).await?;
        let python = python.interpreter.clone();
        let runtime = Runtime { python, environment, environment_size, program };
        let serving = Serving::Program(runtime);
        let predeploy = predeploy(&source, bench).await;
        let app_yaml = AppYaml { predeploy, ..source.app_yaml };
        Ok(Built { code, serving, app_yaml, code_size })
    }

    /// What is to listen in the app's instances, with the server's packages where it is one of ours.
    async fn program(
        &self,
        job: &Job<'_>,
        source: &Inspection,
        origin: Origin,
        python: &Python,
        installer: &Installer,
        environment: &Path,
    ) -> Result<Program, BuildError> {
        let Job { bench, site, .. } = job;
        let entry = match origin {
            Origin::Entry(entry) => entry,
            Origin::Command(line) => {
                let port = serving::port(&source.app_yaml.env)?;
                bench.log().say(format!("web: {line}, on port {port}")).await;
                return Ok(Program::Command { line, port });
            }
        };
        let kind = match source.app_yaml.server {
            Some(ServerChoice::Engine(server)) => server,
            Some(ServerChoice::None) | None => {
                suitable_server(&entry, python, environment, bench, site).await?
            }
        };
        let packages = self.servers.ensure(kind, python, installer, bench, site).await?;
        Ok(Program::Server { kind, packages, entry })
    }

    /// Moves the code to where the release has it, and says what it takes on disk.
    async fn keep_code(&self, job: &Job<'_>) -> Result<(PathBuf, Bytes), BuildError> {
        let release = self.data.join("releases").join(job.app.as_str());
        let code = release.join(job.id.as_str()).join("code");
        let size = job.site.keep(job.site.code(), code.clone()).await?.size;
        Ok((code, size))
    }

    /// What installs packages for `python`, one of `pythons`.
    async fn installer(
        &self,
        job: &Job<'_>,
        pythons: &[Python],
        python: &Python,
    ) -> Result<Installer, BuildError> {
        let program = self.tools.ensure_uv(job.bench.log()).await;
        let program = program.map_err(|error| engine("get the installer", error))?;
        let uv = Uv { program, index: self.index.clone() };
        if !python.is_python_2() {
            return Ok(Installer::Uv(uv));
        }
        let _making = self.making_pip.lock().await;
        let tools = self.data.join("tools");
        let pip = Pip::ensure(uv, pythons, python, &tools, job.bench, job.site).await?;
        Ok(Installer::Pip(pip))
    }

    /// Makes the environment of `built` for the Python that its own became. One of files has none.
    async fn rebuild_in(&self, job: &Job<'_>, built: &Built) -> Result<Built, BuildError> {
        let Some(runtime) = built.serving.runtime() else { return Ok(built.clone()) };
        let Job { bench, site, .. } = job;
        let pythons = self.pythons.all().await;
        let wanted = built.app_yaml.python.as_ref();
        let python = python::successor(&pythons, &runtime.python, wanted)
            .map_err(|gone| BuildError::Rejected(gone.to_string()))?;
        say_python(bench, python).await;
        let old = Kept::of(&runtime.environment);
        let read = old.clone();
        let lock = blocking("read the environment's lock", move || read.read_lock()).await?;
        let installer = self.installer(job, &pythons, python).await?;
        let mut program = runtime.program.clone();
        if let Program::Server { kind, packages, .. } = &mut program {
            *packages = self.servers.ensure(*kind, python, &installer, bench, site).await?;
        }
        site.borrow_cache(self.caches.of(job.app)).await?;
        // What the lock names may lie in the source, and be built there.
        copy(job, &built.code, CODE).await?;
        if old.downloads().is_dir() {
            site.add("user/downloads").await?;
            copy(job, &old.downloads(), DOWNLOADS).await?;
        }
        let env = &built.app_yaml.env;
        let kept = self.environment(job, &lock, env, python, &installer).await?;
        let environment_size = keep_environment(site, lock, &kept).await?;
        let (environment, python) = (kept.virtualenv(), python.interpreter.clone());
        let runtime = Runtime { python, environment, environment_size, program };
        Ok(Built { serving: Serving::Program(runtime), ..built.clone() })
    }

    async fn unpack(&self, job: &Job<'_>, archive: &Path) -> Result<Inspection, BuildError> {
        let archive = archive.to_owned();
        let archive = blocking("read the archive", move || File::open(archive)).await?;
        let mut command = Command::new([ACE, UNPACK_COMMAND])
            .read_only(&self.executable, ACE)
            .writable(&job.site.code(), CODE);
        command.stdin = Some(archive.into());
        command.keep_stdout = Some(REPORT_MAX);
        let ended = job.bench.run(command).await?;
        check_end(&ended, job.bench, "the source could not be unpacked")?;
        match serde_json::from_slice(&ended.stdout) {
            Ok(Report::Ok(inspection)) => {
                job.bench
                    .log()
                    .say(format!("files and folders in the source: {}", inspection.entries))
                    .await;
                Ok(*inspection)
            }
            Ok(Report::Rejected(message)) => Err(BuildError::Rejected(message)),
            Err(error) => Err(engine("read what is in the source", error)),
        }
    }

    /// Where the environment of `lock` is kept. If it isn't there, one stands in the scratch folder.
    async fn environment(
        &self,
        job: &Job<'_>,
        lock: &Lock,
        env: &BTreeMap<String, String>,
        python: &Python,
        installer: &Installer,
    ) -> Result<Kept, BuildError> {
        let Job { app, bench, site, .. } = job;
        let kept = Kept::new(lock.folder(&self.data.join("environments"), app, env, python));
        if kept.exists() {
            bench
                .log()
                .say("the requirements are those of an earlier build: nothing to install")
                .await;
            return Ok(kept);
        }
        if !site.environment().is_dir() {
            installer.make_empty(python, bench, site).await?;
        }
        if !lock.is_empty() {
            installer.install(lock, env, python, bench, site).await?;
        }
        Ok(kept)
    }

    /// Has Django collect its static files if `app.yaml` serves something that isn't in the source.
    async fn collect_static_files(
        &self,
        job: &Job<'_>,
        source: &Inspection,
        python: &Python,
        environment: &Path,
    ) -> Result<(), BuildError> {
        if missing_static(job.site, &source.app_yaml).await?.is_none() {
            return Ok(());
        }
        // Without a manage.py, the source would have been refused before.
        job.bench.log().say("python manage.py collectstatic").await;
        let words = [PYTHON, "manage.py", "collectstatic", "--noinput"];
        let mut command = see_python(Command::new(words), python)
            .read_only(environment, ENVIRONMENT)
            .writable(&job.site.code(), CODE)
            .in_folder(CODE)
            .online();
        for (name, value) in &source.app_yaml.env {
            command = command.env(name, value);
        }
        let ended = job.bench.run(command).await?;
        check_end(&ended, job.bench, "manage.py collectstatic failed")?;
        match missing_static(job.site, &source.app_yaml).await? {
            Some(message) => Err(BuildError::Rejected(message)),
            None => Ok(()),
        }
    }

    /// Ends and removes what the build left. What can't be removed now is at the engine's next start.
    async fn clear(&self, job: &Job<'_>) {
        let id = job.id;
        if let Err(error) = job.bench.clear().await {
            return tracing::error!(build = %id, %error, "a build's containers could not be removed");
        }
        if let Err(error) = self.keep_cache(job).await {
            tracing::warn!(build = %id, %error, "an installer's cache could not be kept");
        }
        if let Err(error) = job.site.remove().await {
            tracing::error!(build = %id, %error, "a build's folder could not be removed");
        }
    }

    /// Keeps the app's cache for its next build, and removes others that there is no room for any more.
    async fn keep_cache(&self, job: &Job<'_>) -> Result<(), BuildError> {
        let (caches, site, app) = (Arc::clone(&self.caches), job.site.clone(), job.app.clone());
        let keep = move || match site.let_go_of_cache()? {
            Some(made) => caches.keep(&made, &app),
            None => Ok(Vec::new()),
        };
        let surplus = blocking("keep the app's cache", keep).await?;
        let builds = self.builds();
        blocking("make room for caches", move || {
            surplus.iter().try_for_each(|cache| discard(cache, &builds))
        })
        .await
    }

    fn builds(&self) -> PathBuf {
        self.data.join("builds")
    }

    /// Removes a build's result, and the folders that held nothing else.
    fn remove_result(&self, path: &Path) -> io::Result<()> {
        let app = self.app_folder_of(path)?;
        let of_app = path.strip_prefix(&app).map_err(io::Error::other)?;
        let path = match app.starts_with(self.data.join("environments")) {
            // An environment goes with its lock.
            true => app.join(of_app.components().next().unwrap_or(Component::CurDir)),
            false => path.to_owned(),
        };
        discard(&path, &self.builds())?;
        let parents = path.ancestors().skip(1).take_while(|folder| folder.starts_with(&app));
        for folder in parents {
            if fs::remove_dir(folder).is_err() {
                break; // It holds something else.
            }
        }
        Ok(())
    }

    fn remove_app(&self, app: &AppName) -> io::Result<()> {
        let folders = ["releases", "environments", "caches"].map(|kind| self.data.join(kind));
        let builds = self.builds();
        folders.iter().try_for_each(|folder| discard(&folder.join(app.as_str()), &builds))
    }

    /// `DATA/releases/APP` or `DATA/environments/APP`, if `path` lies in such a folder.
    fn app_folder_of(&self, path: &Path) -> io::Result<PathBuf> {
        let below = path.strip_prefix(&self.data).map_err(io::Error::other)?;
        let names: Vec<_> = below.components().collect();
        match names[..] {
            [Component::Normal(kind), Component::Normal(app), _, ..]
                if (kind == "releases" || kind == "environments")
                    && names.iter().all(|name| matches!(name, Component::Normal(_))) =>
            {
                Ok(self.data.join(kind).join(app))
            }
            _ => Err(io::Error::other(format!("{} is no result of a build", path.display()))),
        }
    }

    fn recover(&self) -> io::Result<()> {
        for name in self.workshop.cgroups.list()? {
            if name.starts_with(GROUP_PREFIX) {
                let group = self.workshop.cgroups.get(&name);
                group.remove(RECOVER_DEADLINE).map_err(io::Error::other)?;
            }
        }
        for folder in ["builds", "archives"] {
            for path in files::entries(&self.data.join(folder))? {
                files::remove_tree(&path)?;
            }
        }
        Ok(())
    }
}

/// Removes `path` with all in it. It loses its name first, to one in `builds`, so that nothing half removed is
/// ever used.
fn discard(path: &Path, builds: &Path) -> io::Result<()> {
    let nameless = builds.join(format!("removed-{}", nameless(path)));
    files::remove_tree(&nameless)?;
    fs::create_dir_all(builds)?;
    match fs::rename(path, &nameless) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => files::remove_tree(&nameless),
    }
}

/// Refuses a server that can't run on `python` before anything is installed.
fn check_server(chosen: Option<ServerChoice>, python: &Python) -> Result<(), BuildError> {
    let Some(ServerChoice::Engine(server)) = chosen else { return Ok(()) };
    servers::check(server, python)
        .map(drop)
        .map_err(|unfit| BuildError::Rejected(unfit.to_string()))
}

/// The Pythons that the app may run on. The one that it was written on is for other machines as well: it only
/// counts where one of `pythons` is such, and fits.
async fn wanted_python(
    source: &Inspection,
    pythons: &[Python],
    bench: &Bench,
) -> Option<PythonRange> {
    let wanted = source.python();
    let Some((NamedPython { file, minor_version }, named)) = source.named_python() else {
        return wanted;
    };
    let fits = |range: Option<&PythonRange>, python: &Python| {
        range.is_none_or(|range| range.contains(python.version))
    };
    let is_there = |python: &Python| fits(Some(&named), python) && fits(wanted.as_ref(), python);
    if pythons.iter().any(is_there) {
        bench.log().say(format!("{file}: Python {minor_version}")).await;
        return Some(named);
    }
    bench.log().say(format!("{file} names Python {minor_version}, which can't be had here")).await;
    wanted
}

async fn say_python(bench: &Bench, python: &Python) {
    bench.log().say(format!("Python {}", python.interpreter.version)).await;
    bench.log().set_python(python.minor_version());
}

/// What is to run before the release starts: what `app.yaml` says, or else the `Procfile`.
async fn predeploy(source: &Inspection, bench: &Bench) -> Option<String> {
    if source.app_yaml.predeploy.is_some() {
        return source.app_yaml.predeploy.clone();
    }
    let release = source.procfile.release()?;
    bench.log().say(format!("predeploy: {release} (release: of the Procfile)")).await;
    Some(release.to_owned())
}

/// Has a container copy what is in `from` to `to`, where a folder of the build's is.
async fn copy(job: &Job<'_>, from: &Path, to: &str) -> Result<(), BuildError> {
    let words = ["/usr/bin/cp", "--recursive", "--preserve=timestamps", "/ace/kept/.", to];
    let command = Command::new(words)
        .read_only(from, "/ace/kept")
        .writable(&job.site.code(), CODE)
        .writable(&job.site.user_folder(), "/ace/user");
    let ended = job.bench.run(command).await?;
    check_end(&ended, job.bench, "what was built before could not be copied")
}

/// Keeps a new environment, and returns its size on disk, as that of one that is kept already.
async fn keep_environment(site: &Site, lock: Lock, kept: &Kept) -> Result<Bytes, BuildError> {
    if !kept.exists() {
        return Ok(site.keep_environment(lock, kept.clone()).await?.size);
    }
    let folder = kept.folder().to_owned();
    blocking("measure the environment", move || Ok(files::usage(&folder)?.size)).await
}

/// Searches the source for what nobody has named.
async fn search(source: &Inspection, python: &Python, job: &Job<'_>) -> Result<Found, BuildError> {
    match entry::find(&source.app_yaml, python, job.bench, job.site).await? {
        Search::Found(entry) => Ok(Found::Program(Origin::Entry(entry))),
        Search::Nothing { looked } => serving::instead_of_entry(source, looked),
    }
}

/// Compiles the code to byte code. Files that don't compile may be for another Python, or no one's.
async fn compile(job: &Job<'_>, python: &Python) -> Result<(), BuildError> {
    let program = python.interpreter.program.display().to_string();
    let words = [&program, "-E", "-s", "-m", "compileall", "-qq", CODE];
    let command = see_python(Command::new(words), python).writable(&job.site.code(), CODE);
    job.bench.run(command).await?;
    Ok(())
}

/// Makes compressed siblings of what is declared static. That it fails is no reason to fail a build.
async fn compress(job: &Job<'_>, executable: &Path, app_yaml: &AppYaml) -> Result<(), BuildError> {
    if app_yaml.statics.is_empty() {
        return Ok(());
    }
    let wanted = app_yaml.statics.iter().map(|rule| rule.files.as_str());
    let command = Command::new([ACE, COMPRESS_COMMAND].into_iter().chain(wanted))
        .read_only(executable, ACE)
        .writable(&job.site.code(), CODE);
    job.bench.run(command).await?;
    Ok(())
}

/// What to tell the tenant of a static file or folder that isn't in the code.
async fn missing_static(site: &Site, app_yaml: &AppYaml) -> Result<Option<String>, BuildError> {
    let (code, rules) = (site.code(), app_yaml.statics.clone());
    blocking("look for static files", move || {
        let root = rustix::fs::open(&code, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(statics::first_missing(&root, &rules))
    })
    .await
}

fn known(python: &Python) -> KnownPython {
    KnownPython { interpreter: python.interpreter.clone(), servers: servers::names(python) }
}

/// A path as one file name.
fn nameless(path: &Path) -> String {
    path.to_string_lossy().replace('/', "-")
}

impl From<RunError> for BuildError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Exceeded(message) => Self::Rejected(message),
            error => engine("run a command of the build", error),
        }
    }
}
