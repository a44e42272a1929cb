//! One command in a container of its own: made, fed and listened to, ended, and all of it removed.
//!
//! It belongs to this process: its init ends it once the engine is gone, and what a killed engine has
//! left of it the next one removes. Its folder is there before anything else is, so that it's found.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ace_api::{
    CommandControl, CommandEnd, CommandError, CommandIo, CommandOutput, CommandSignal, CommandSpec,
};
use ace_sandbox::cgroup::Cgroup;
use ace_sandbox::launch::{Handles, launch, launch_on_terminal};
use ace_sandbox::process::{self, ProcessRef};
use ace_sandbox::spec::ExitRecord;
use ace_types::{AppName, InstanceId, error_chain};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::addresses::AddressLease;
use crate::container::{World, attach_volume, make_groups, surroundings};
use crate::instance::blocking;
use crate::old_logs::OldLogs;
use crate::record::InstanceFolder;
use crate::shape;
use crate::streams::{Console, read_pipe, write_pipe};

/// How long a command that is asked to end may take.
pub const STOP_GRACE: Duration = Duration::from_secs(5);
/// What its init gets beyond that before its cgroup is killed.
const KILL_MARGIN: Duration = Duration::from_secs(3);
/// How long its cgroup may take to become empty and go.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);
/// An [`ExitRecord`] is smaller, whatever the tenant has reported.
const EXIT_RECORD_MAX: u64 = 16 << 10;
/// SIGKILL's number, the same on every architecture.
const KILL: i32 = 9;

/// One command that is to run.
pub struct Command {
    pub spec: CommandSpec,
    pub folder: InstanceFolder,
    pub world: Arc<World>,
    pub address: AddressLease,
}

/// `DATA/run/ID/command.json`: what a command that an engine has left was.
#[derive(Debug, Serialize, Deserialize)]
pub struct CommandRecord {
    app: AppName,
    name: String,
}

/// Why a command could not be run, with what was being done.
fn failed<E>(doing: &'static str) -> impl FnOnce(E) -> CommandError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |source| CommandError { doing, source: source.into() }
}

impl CommandRecord {
    fn of(spec: &CommandSpec) -> Self {
        Self { app: spec.like.app.clone(), name: spec.name.clone() }
    }

    fn path(folder: &InstanceFolder) -> PathBuf {
        folder.path().join("command.json")
    }

    /// Writes it and waits until it is on disk.
    fn write(&self, folder: &InstanceFolder) -> io::Result<()> {
        fs::create_dir_all(folder.path())?;
        let mut file = File::create(Self::path(folder))?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        File::open(folder.path())?.sync_all()
    }

    /// Tells the app's log that the command has ended with the engine that ran it, where `folder` is
    /// a command's.
    pub fn tell_end(folder: &InstanceFolder, id: &InstanceId, logs: &OldLogs) {
        let text = fs::read(Self::path(folder)).unwrap_or_default();
        if let Ok(Self { app, name }) = serde_json::from_slice(&text) {
            say(logs, &app, id, &format!("{name} ended with the engine that ran it"));
        }
    }
}

/// Adds a line to the app's log. A disk that refuses keeps nobody from running a command.
fn say(logs: &OldLogs, app: &AppName, id: &InstanceId, text: &str) {
    if let Err(error) = logs.say(app, id, text) {
        tracing::warn!(command = %id, "could not write to the app's log: {error}");
    }
}

/// A launched command.
struct Launched {
    init: Option<OwnedFd>,
    cgroup: Cgroup,
    exit: pipe::Receiver,
    streams: Streams,
}

enum Streams {
    Pipes { stdin: pipe::Sender, stdout: pipe::Receiver, stderr: pipe::Receiver },
    Terminal(Arc<Console>),
}

/// Why a command that still runs is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Unwanted,
    Deadline,
}

impl Command {
    /// Runs it to its end. All that it had is gone when this returns.
    pub async fn run(self, io: CommandIo) -> Result<CommandEnd, CommandError> {
        let (app, id) = (self.spec.like.app.clone(), self.spec.like.id.clone());
        let record = CommandRecord::of(&self.spec);
        let logs = &self.world.command_logs;
        say(logs, &app, &id, &format!("{} started, as a command of its own", record.name));
        let ended = self.run_to_end(&record, io).await;
        self.clean_up().await;
        match &ended {
            Ok(end) => say(logs, &app, &id, &format!("{} is gone: {end}", record.name)),
            Err(error) => {
                tracing::error!(command = %id, %app, "not run: {}", error_chain(error));
                say(logs, &app, &id, &format!("{} could not be started", record.name));
            }
        }
        ended
    }

    async fn run_to_end(
        &self,
        record: &CommandRecord,
        io: CommandIo,
    ) -> Result<CommandEnd, CommandError> {
        // The intent, before anything exists.
        record.write(&self.folder).map_err(failed("write down what is to run"))?;
        let Launched { init, cgroup, exit, streams } = self.launch().await?;
        let CommandIo { input, controls, output } = io;
        let console = match &streams {
            Streams::Terminal(console) => Some(Arc::clone(console)),
            Streams::Pipes { .. } => None,
        };
        let mut feeding = JoinSet::new();
        let mut printing = JoinSet::new();
        streams.connect(input, output, &mut feeding, &mut printing);
        let running = Running { init, console, cgroup: cgroup.clone() };
        let (exit, cause) = running.wait(exit, controls, self.spec.deadline).await;
        let end = self.end(exit, cause, &cgroup);
        // Whatever else has the pipes open goes, so that the output comes to its end.
        self.remove_cgroup().await;
        drop(running);
        while printing.join_next().await.is_some() {}
        Ok(end)
    }

    async fn launch(&self) -> Result<Launched, CommandError> {
        let (world, spec) = (Arc::clone(&self.world), self.spec.clone());
        let address = self.address.address();
        blocking(move || {
            let like = &spec.like;
            // Held until the launcher has mounted it; then the mount holds it.
            let volume = attach_volume(&world, like).map_err(failed("attach the app's volume"))?;
            let cgroup = make_groups(&world, like, volume.as_ref());
            let cgroup = cgroup.map_err(failed("make the control group"))?;
            let log = PathBuf::new(); // A command has none of its own.
            let surroundings = surroundings(&world, like, &cgroup, address, volume.as_ref(), log);
            let container = shape::command(&spec, surroundings, STOP_GRACE);
            let (exit, exit_writer) = our_reading_end().map_err(failed("make a pipe"))?;
            let (launched, streams) = if spec.terminal.is_some() {
                let (launched, master) =
                    launch_on_terminal(&world.launcher, &container, exit_writer)
                        .map_err(failed("launch it"))?;
                let console = Console::new(master).map_err(failed("watch its terminal"))?;
                (launched, Streams::Terminal(Arc::new(console)))
            } else {
                let (handles, streams) = pipes(exit_writer).map_err(failed("make a pipe"))?;
                let launched = launch(&world.launcher, &container, handles);
                (launched.map_err(failed("launch it"))?, streams)
            };
            let init = ProcessRef { pid: launched.pid, start_time: launched.start_time };
            let init = init.open().map_err(failed("watch it"))?;
            Ok(Launched { init, cgroup, exit, streams })
        })
        .await
    }

    fn end(&self, exit: Option<ExitRecord>, cause: Option<Cause>, cgroup: &Cgroup) -> CommandEnd {
        let killed = exit.as_ref().is_none_or(|exit| exit.signal == Some(KILL));
        let excess = self.world.cgroups.take_excess(self.spec.like.id.as_str());
        match (cause, exit) {
            (Some(Cause::Deadline), _) => CommandEnd::TooLong { after: self.spec.deadline },
            (Some(Cause::Unwanted), _) => CommandEnd::Stopped,
            (None, _) if let Some(what) = excess => CommandEnd::KernelMemory { what },
            (None, _) if killed && cgroup.oom_kills() > 0 => {
                CommandEnd::OutOfMemory { limit: self.spec.like.limits.memory }
            }
            (None, Some(ExitRecord { status: Some(status), .. })) => CommandEnd::Exited { status },
            (None, Some(ExitRecord { signal: Some(signal), .. })) => {
                CommandEnd::Signalled { signal }
            }
            // Init itself was killed before it could write.
            (None, _) => CommandEnd::Signalled { signal: KILL },
        }
    }

    async fn remove_cgroup(&self) {
        let cgroup = self.world.cgroups.get(self.spec.like.id.as_str());
        let removed = blocking(move || cgroup.remove(REMOVE_DEADLINE)).await;
        if let Err(error) = removed {
            tracing::warn!(command = %self.spec.like.id, "could not remove its cgroup: {error}");
        }
    }

    async fn clean_up(&self) {
        self.remove_cgroup().await;
        if let Err(error) = self.folder.remove() {
            tracing::warn!(command = %self.spec.like.id, "could not remove its folder: {error}");
        }
    }
}

/// A command's life from the outside.
struct Running {
    /// `None` where it had ended before it could be opened.
    init: Option<OwnedFd>,
    console: Option<Arc<Console>>,
    cgroup: Cgroup,
}

impl Running {
    /// Waits until the command has ended, and passes on what it's told until then. Returns what init
    /// wrote about its end, and why it was ended if that was our doing.
    async fn wait(
        &self,
        mut exit: pipe::Receiver,
        mut controls: mpsc::Receiver<CommandControl>,
        deadline: Duration,
    ) -> (Option<ExitRecord>, Option<Cause>) {
        let mut record = std::pin::pin!(read_exit(&mut exit));
        let mut ends_at = Instant::now() + deadline;
        let mut cause = None;
        loop {
            let news = tokio::select! {
                record = &mut record => return (record, cause),
                control = controls.recv(), if cause.is_none() => control.ok_or(Cause::Unwanted),
                () = sleep_until(ends_at) => Err(Cause::Deadline),
            };
            match news {
                Ok(CommandControl::Resize(size)) => {
                    self.console.iter().for_each(|console| console.resize(size));
                }
                Ok(CommandControl::Signal(signal)) => self.signal(named(signal)),
                Err(why) => {
                    match cause {
                        None => self.terminate(),
                        Some(_) => self.kill().await,
                    }
                    cause.get_or_insert(why);
                    ends_at = Instant::now() + STOP_GRACE + KILL_MARGIN;
                }
            }
        }
    }

    /// Asks it to end. An interactive shell heeds nothing but its terminal's end.
    fn terminate(&self) {
        if self.console.is_some() {
            self.signal(Signal::HUP);
        }
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        let sent = self.init.as_ref().map(|init| process::signal(init, signal));
        if let Some(Err(error)) = sent {
            tracing::warn!("could not signal a command: {error}");
        }
    }

    async fn kill(&self) {
        let cgroup = self.cgroup.clone();
        if let Err(error) = blocking(move || cgroup.kill()).await {
            tracing::warn!("could not kill a command: {error}");
        }
    }
}

impl Streams {
    /// Starts what carries bytes in and out. What feeds may go on for ever; what prints ends with
    /// the container.
    fn connect(
        self,
        input: mpsc::Receiver<Vec<u8>>,
        output: mpsc::Sender<CommandOutput>,
        feeding: &mut JoinSet<()>,
        printing: &mut JoinSet<()>,
    ) {
        match self {
            Self::Pipes { stdin, stdout, stderr } => {
                feeding.spawn(write_pipe(stdin, input));
                printing.spawn(read_pipe(stdout, output.clone(), CommandOutput::Out));
                printing.spawn(read_pipe(stderr, output, CommandOutput::Err));
            }
            Self::Terminal(console) => {
                feeding.spawn(Arc::clone(&console).type_in(input));
                printing.spawn(console.show(output));
            }
        }
    }
}

fn named(signal: CommandSignal) -> Signal {
    match signal {
        CommandSignal::Hangup => Signal::HUP,
        CommandSignal::Interrupt => Signal::INT,
        CommandSignal::Quit => Signal::QUIT,
        CommandSignal::Terminate => Signal::TERM,
    }
}

/// The three pipes of a command, and our ends of them.
fn pipes(exit: OwnedFd) -> io::Result<(Handles, Streams)> {
    let (stdin, our_stdin) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stdout, stdout_writer) = our_reading_end()?;
    let (stderr, stderr_writer) = our_reading_end()?;
    let stdin_writer = pipe::Sender::from_owned_fd(our_stdin)?;
    let handles = Handles {
        stdin: Some(stdin),
        stdout: Some(stdout_writer),
        stderr: Some(stderr_writer),
        socket: None,
        exit,
    };
    Ok((handles, Streams::Pipes { stdin: stdin_writer, stdout, stderr }))
}

fn our_reading_end() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((pipe::Receiver::from_owned_fd(reader)?, writer))
}

/// What init writes at the end; `None` where it could not.
async fn read_exit(exit: &mut pipe::Receiver) -> Option<ExitRecord> {
    let mut line = Vec::new();
    exit.take(EXIT_RECORD_MAX).read_to_end(&mut line).await.ok()?;
    serde_json::from_slice(line.trim_ascii()).ok()
}
