//! Runs one command of a build in a container, from its start to its last trace.
//!
//! A build has one [`Bench`]. Its commands run one after the other, each in a new container of the
//! same name, and share a deadline and a bound on what the scratch folder takes. A dropped
//! [`Bench::run`] kills what runs; [`Bench::clear`] then waits until it is gone.

use std::any::Any;
use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ace_sandbox::ContainerSpec;
use ace_sandbox::cgroup::{Cgroup, CgroupError, CgroupTree};
use ace_sandbox::launch::{Handles, LaunchError, LauncherProgram, launch};
use ace_sandbox::spec::{
    Bind, ExitRecord, NetworkSpec, OutputSpec, ProcessSpec, RootSpec, SignalTarget, Tmpfs,
};
use ace_sandbox::volume::scratch::Room;
use ace_types::limits::TMP_INODES;
use ace_types::{Bytes, IdRange, Limits};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use crate::files;
use crate::left_behind;
use crate::log::BuildLog;
use crate::site::{ENTRIES_MAX, SIZE_MAX, Site};

/// How often a scratch folder is measured that has no disk of its own: a fast writer gets past its limit by what
/// it writes in that time.
const DISK_PAUSE: Duration = Duration::from_secs(2);
/// With less room on its disk than this, a build has filled it.
const ROOM_LEAST: Room = Room { bytes: 1 << 20, inodes: 16 };
/// What a build leaves free of the disk that all share. A file that has no name any more is in no
/// folder to be counted; this bounds what such files take.
pub const FREE_LEAST: Bytes = Bytes::gib(1);
/// How often the free space is asked for: a disk writes far less than [`FREE_LEAST`] in that time.
const FREE_PAUSE: Duration = Duration::from_millis(250);
/// How often it's looked for what a command has left behind, and how often in a row that has to be there while the command
/// has no process at work: it may be about to start one.
const LEFT_BEHIND_PAUSE: Duration = Duration::from_secs(3);
const LEFT_BEHIND_LOOKS: u32 = 4;
/// How long the kernel may take to end and forget a container's processes.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);
const STOP_GRACE: Duration = Duration::from_secs(1);
const EXIT_RECORD_MAX: usize = 4096;

/// Lends the containers of builds a way to the internet.
pub trait Network: Send + Sync {
    /// A network for the containers of the build `name`, nobody else's until the lease is dropped;
    /// `None` when all are taken.
    fn lease(&self, name: &str) -> Option<NetworkLease>;
}

/// A network that is somebody's until this is dropped.
pub struct NetworkLease {
    pub spec: NetworkSpec,
    /// Gives it back when dropped.
    pub held: Box<dyn Any + Send + Sync>,
}

/// What the containers of all builds share.
pub struct Workshop {
    pub launcher: Arc<LauncherProgram>,
    pub cgroups: Arc<CgroupTree>,
    pub nameservers: Vec<Ipv4Addr>,
    pub limits: Limits,
}

/// Where one build's commands run.
pub struct Bench {
    workshop: Arc<Workshop>,
    /// Of the control group and the container's host.
    name: String,
    ids: IdRange,
    network: NetworkLease,
    site: Site,
    deadline: Instant,
    log: Arc<BuildLog>,
    /// Held while a launcher runs, which can't be interrupted.
    launching: Arc<Mutex<()>>,
}

/// One command in a container.
#[derive(Default)]
pub struct Command {
    /// The program's absolute path inside, and its arguments.
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_directory: PathBuf,
    pub binds: Vec<Bind>,
    /// Small files rendered into the root.
    pub files: Vec<(PathBuf, String)>,
    pub stdin: Option<OwnedFd>,
    /// Whether it reaches the internet.
    pub network: bool,
    /// Keeps at most this much of what it prints, instead of logging it; more is an error.
    pub keep_stdout: Option<usize>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub success: bool,
    /// The kernel ended a process of it that went past the memory limit.
    pub out_of_memory: bool,
    /// What it printed, where that was asked for.
    pub stdout: Vec<u8>,
}

/// Why a command did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The tenant's doing. A sentence for the tenant.
    #[error("{0}")]
    Exceeded(String),
    #[error("could not make a pipe")]
    Pipe(#[source] io::Error),
    #[error("could not make or remove the control group")]
    Cgroup(#[source] CgroupError),
    #[error("could not start the container")]
    Launch(#[source] LaunchError),
    #[error("could not read what the container printed")]
    Read(#[source] io::Error),
    #[error("the container ended without a word")]
    Vanished,
    #[error("the engine is stopping")]
    Stopping,
}

impl Bench {
    pub fn new(
        workshop: Arc<Workshop>,
        name: String,
        ids: IdRange,
        network: NetworkLease,
        site: Site,
        log: Arc<BuildLog>,
    ) -> Self {
        let deadline = Instant::now() + workshop.limits.timeout;
        let launching = Arc::default();
        Self { workshop, name, ids, network, site, deadline, log, launching }
    }

    pub fn memory_max(&self) -> Bytes {
        self.workshop.limits.memory
    }

    pub fn log(&self) -> &BuildLog {
        &self.log
    }

    /// Runs `command` and waits until its container is gone.
    pub async fn run(&self, command: Command) -> Result<Ended, RunError> {
        let keep_stdout = command.keep_stdout;
        let (exit, exit_writer) = pipe_of_container()?;
        let (stdout, stdout_writer) = pipe_of_container()?;
        let (stderr, stderr_writer) = pipe_of_container()?;
        let group = self.start(command, exit_writer, stdout_writer, stderr_writer).await?;
        let output = async {
            tokio::try_join!(read_exit_record(exit), self.read_stdout(stdout, keep_stdout), async {
                self.log.say_all(stderr).await;
                Ok(())
            },)
        };
        let ended = tokio::select! {
            ended = output => ended,
            () = sleep_until(self.deadline) => Err(self.too_long()),
            error = self.watch_disk() => Err(error),
            error = self.watch_free_space(FREE_LEAST) => Err(error),
            never = self.watch_left_behind(&group.0) => match never {},
        };
        let out_of_memory = group.0.oom_kills() > 0;
        let excess = self.workshop.cgroups.take_excess(&self.name);
        self.remove(group).await?;
        if let Some(what) = excess {
            return Err(RunError::Exceeded(format!(
                "the engine ended the build: it had {what}, which the kernel keeps in memory for it"
            )));
        }
        let (record, stdout, ()) = match ended {
            // The memory killer may take the whole container.
            Err(RunError::Vanished) if out_of_memory => {
                return Ok(Ended { success: false, out_of_memory, stdout: Vec::new() });
            }
            ended => ended?,
        };
        Ok(Ended { success: record.status == Some(0), out_of_memory, stdout })
    }

    /// Ends whatever an interrupted [`Bench::run`] left, and waits until it is gone.
    pub async fn clear(&self) -> Result<(), RunError> {
        let _nothing_launches = self.launching.lock().await;
        self.remove(Group(self.workshop.cgroups.get(&self.name))).await
    }

    async fn start(
        &self,
        command: Command,
        exit: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    ) -> Result<Group, RunError> {
        let launching = Arc::clone(&self.launching).lock_owned().await;
        let workshop = Arc::clone(&self.workshop);
        let (name, ids, device) = (self.name.clone(), self.ids, self.site.device());
        let network = match command.network {
            true => self.network.spec.clone(),
            false => NetworkSpec::Loopback,
        };
        spawn_blocking(move || {
            // If nobody waits for this any more, the group that it returns is dropped, and killed.
            let _launching = launching;
            let cgroup =
                workshop.cgroups.create(&name, &workshop.limits).map_err(RunError::Cgroup)?;
            let group = Group(cgroup);
            if let Some(device) = device {
                let throttled = workshop.cgroups.throttle_volume(&name, device, &workshop.limits);
                throttled.map_err(RunError::Cgroup)?;
            }
            let Command { stdin, argv, env, working_directory, binds, files, .. } = command;
            let process = process(argv, env, working_directory, &workshop.limits);
            let spec = ContainerSpec {
                host_name: "build".to_owned(),
                ids,
                cgroup: group.0.clone(),
                root: root(binds, files, &workshop),
                network,
                process,
                output: OutputSpec::Inherit,
                stop_grace: STOP_GRACE,
            };
            let handles =
                Handles { stdin, stdout: Some(stdout), stderr: Some(stderr), socket: None, exit };
            launch(&workshop.launcher, &spec, handles).map_err(RunError::Launch)?;
            Ok(group)
        })
        .await
        .map_err(|_| RunError::Stopping)?
    }

    async fn read_stdout(
        &self,
        stdout: pipe::Receiver,
        keep: Option<usize>,
    ) -> Result<Vec<u8>, RunError> {
        let Some(max) = keep else {
            self.log.say_all(stdout).await;
            return Ok(Vec::new());
        };
        let mut kept = Vec::new();
        let mut bounded = stdout.take(max as u64 + 1);
        bounded.read_to_end(&mut kept).await.map_err(RunError::Read)?;
        if kept.len() > max {
            return Err(RunError::Exceeded("the build printed too much in one place".to_owned()));
        }
        Ok(kept)
    }

    fn too_long(&self) -> RunError {
        let minutes = self.workshop.limits.timeout.as_secs() / 60;
        RunError::Exceeded(format!("the build took too long: its limit is {minutes} minutes"))
    }

    /// Returns once the build has no room left.
    async fn watch_disk(&self) -> RunError {
        match self.site.device() {
            Some(_) => self.watch_room().await,
            None => self.measure_folder().await,
        }
    }

    /// Returns once its disk is full. What fills it fails by itself; this says why.
    async fn watch_room(&self) -> RunError {
        loop {
            // What can't be asked now can be at the next turn.
            if let Some(Ok(room)) = self.site.room() {
                if room.bytes < ROOM_LEAST.bytes {
                    return too_much_disk();
                }
                if room.inodes < ROOM_LEAST.inodes {
                    return too_many_files();
                }
            }
            sleep(FREE_PAUSE).await;
        }
    }

    /// Returns once a scratch folder without a disk of its own is too large.
    async fn measure_folder(&self) -> RunError {
        loop {
            sleep(DISK_PAUSE).await;
            let scratch = self.site.folder().to_owned();
            match spawn_blocking(move || files::usage(&scratch)).await {
                Ok(Ok(usage)) if usage.size > SIZE_MAX => return too_much_disk(),
                Ok(Ok(usage)) if usage.entries > ENTRIES_MAX => return too_many_files(),
                Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                    return RunError::Exceeded(format!("the build can't go on: {error}"));
                }
                // What can't be read now can be at the next turn.
                Ok(_) => {}
                Err(_) => return RunError::Stopping,
            }
        }
    }

    /// Returns once less than `least` is free on the disk that the scratch folder is on.
    async fn watch_free_space(&self, least: Bytes) -> RunError {
        loop {
            // What can't be asked now can be at the next turn.
            let builds = self.site.folder().parent().unwrap_or(Path::new("/"));
            if files::free_space(builds).is_ok_and(|free| free < least) {
                return RunError::Exceeded(format!(
                    "the server's disk is almost full: a build leaves {least} of it free"
                ));
            }
            sleep(FREE_PAUSE).await;
        }
    }

    /// Ends what the command leaves behind and waits for.
    async fn watch_left_behind(&self, group: &Cgroup) -> Infallible {
        let mut looks = 0;
        loop {
            sleep(LEFT_BEHIND_PAUSE).await;
            let group = group.clone();
            let look = move || left_behind::find(&group.app_processes().unwrap_or_default());
            // What can't be seen now can be at the next turn.
            let left = spawn_blocking(look).await.unwrap_or_default();
            looks = if left.is_empty() { 0 } else { looks + 1 };
            if looks >= LEFT_BEHIND_LOOKS {
                left_behind::end(&left);
                let names = left_behind::names(&left);
                self.log.say(format!("ended what the build had left running: {names}")).await;
                looks = 0;
            }
        }
    }

    async fn remove(&self, group: Group) -> Result<(), RunError> {
        spawn_blocking(move || group.0.remove(REMOVE_DEADLINE).map_err(RunError::Cgroup))
            .await
            .map_err(|_| RunError::Stopping)?
    }
}

impl Command {
    /// A command with what all of them see: the system's programs, and certificates.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        let env = [
            ("PATH", "/ace/user/virtualenv/bin:/usr/local/bin:/usr/bin:/bin"),
            ("HOME", "/tmp"),
            ("LANG", "C.UTF-8"),
            ("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"),
        ];
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            working_directory: "/tmp".into(),
            ..Self::default()
        }
    }

    /// The same once more, without standard input.
    pub fn again(&self) -> Self {
        Self {
            argv: self.argv.clone(),
            env: self.env.clone(),
            working_directory: self.working_directory.clone(),
            binds: self.binds.clone(),
            files: self.files.clone(),
            stdin: None,
            network: self.network,
            keep_stdout: self.keep_stdout,
        }
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.retain(|(other, _)| other != name);
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub fn in_folder(mut self, folder: &str) -> Self {
        self.working_directory = folder.into();
        self
    }

    pub fn read_only(self, source: &Path, target: impl Into<PathBuf>) -> Self {
        self.bind(source, target.into(), false)
    }

    pub fn writable(self, source: &Path, target: impl Into<PathBuf>) -> Self {
        self.bind(source, target.into(), true)
    }

    pub fn online(mut self) -> Self {
        self.network = true;
        self
    }

    fn bind(mut self, source: &Path, target: PathBuf, writable: bool) -> Self {
        self.binds.push(Bind { source: source.to_owned(), target, writable, noexec: false });
        self
    }
}

fn too_much_disk() -> RunError {
    RunError::Exceeded(format!("the build took too much disk: its limit is {SIZE_MAX}"))
}

fn too_many_files() -> RunError {
    RunError::Exceeded(format!("the build made too many files: its limit is {ENTRIES_MAX}"))
}

/// A control group whose processes are killed when this is dropped.
struct Group(Cgroup);

impl Drop for Group {
    fn drop(&mut self) {
        // Who waits for them to be gone is `Bench::clear`, or the next start of the engine.
        let _ = self.0.kill();
    }
}

fn process(
    argv: Vec<String>,
    env: Vec<(String, String)>,
    working_directory: PathBuf,
    limits: &Limits,
) -> ProcessSpec {
    ProcessSpec {
        argv,
        env,
        working_directory,
        keep: None,
        socket: None,
        open_files_max: limits.files,
        file_size_max: Some(SIZE_MAX),
        signals: SignalTarget::Program,
    }
}

fn root(binds: Vec<Bind>, files: Vec<(PathBuf, String)>, workshop: &Workshop) -> RootSpec {
    let Limits { tmp, shm, .. } = workshop.limits;
    RootSpec {
        binds,
        layers: Vec::new(),
        tmpfs: vec![
            Tmpfs { target: "/tmp".into(), size: tmp, inodes: TMP_INODES },
            Tmpfs { target: "/dev/shm".into(), size: shm, inodes: 1024 },
        ],
        volume: None,
        files,
        terminals: 0,
        nameservers: workshop.nameservers.clone(),
    }
}

/// A pipe from a container: our end, and the one to hand over.
fn pipe_of_container() -> Result<(pipe::Receiver, OwnedFd), RunError> {
    let (reader, writer) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|errno| RunError::Pipe(errno.into()))?;
    Ok((pipe::Receiver::from_owned_fd(reader).map_err(RunError::Pipe)?, writer))
}

async fn read_exit_record(exit: pipe::Receiver) -> Result<ExitRecord, RunError> {
    let mut line = Vec::new();
    exit.take(EXIT_RECORD_MAX as u64).read_to_end(&mut line).await.map_err(RunError::Read)?;
    serde_json::from_slice(&line).map_err(|_| RunError::Vanished)
}
