//! Starts a container, from the engine's side: runs the launcher, tells it what to make, and takes
//! its answer.
//!
//! The engine has many threads, so nothing but `exec` may follow a fork in it. All that makes a
//! container is done by [`crate::launcher`], in a process of its own.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::channel::{self, Descriptors, Order, Report};
use crate::failure::Failure;
use crate::spec::ContainerSpec;

pub use crate::launcher::main;

/// The argument that makes `ace` a launcher.
pub const COMMAND: &str = "__launcher";

/// How long a launcher may take. It takes milliseconds, on a busy machine tens of them.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Our own program, in a memory file that nobody can write.
///
/// Init runs from it inside containers, where `/proc/1/exe` would otherwise lead a tenant who broke
/// out of the rest to the engine's binary (CVE-2019-5736).
#[derive(Debug)]
pub struct LauncherProgram {
    file: OwnedFd,
}

/// What a container gets from its maker. Descriptors that the tenant's process is to share.
#[derive(Debug)]
pub struct Handles {
    /// `None` is `/dev/null`, as for the two after it.
    pub stdin: Option<OwnedFd>,
    /// Used with [`crate::spec::OutputSpec::Inherit`] only.
    pub stdout: Option<OwnedFd>,
    /// Used with [`crate::spec::OutputSpec::Inherit`] only.
    pub stderr: Option<OwnedFd>,
    /// The listening socket, for [`crate::spec::ProcessSpec::socket`].
    pub socket: Option<OwnedFd>,
    /// Init writes one [`crate::spec::ExitRecord`] to it as a line of JSON, and ends. A file or the
    /// writing end of a pipe; once nobody has the pipe's other end any more, init ends the container
    /// as on SIGTERM.
    pub exit: OwnedFd,
}

/// A started container: its init, as the host sees it. See [`crate::process::ProcessRef`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launched {
    pub pid: u32,
    /// Clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub start_time: u64,
}

/// Why a container could not be started. Nothing of the tenant's has run then, but an init may yet
/// be on its way out: [`crate::cgroup::Cgroup`] can end it.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("could not start the launcher")]
    Start { source: io::Error },
    #[error("could not tell the launcher what to make")]
    Order { source: io::Error },
    #[error("could not {step}")]
    Step { step: String, source: io::Error },
    #[error("the launcher ended without an answer, with {status}")]
    Silent { status: ExitStatus },
    #[error("the container was not made within {} s", DEADLINE.as_secs())]
    Deadline,
    #[error("could not take over the container's terminal")]
    Terminal { source: io::Error },
}

impl LauncherProgram {
    /// Copies `executable` into memory and seals it. The engine gives `/proc/self/exe`.
    pub fn seal(executable: &Path) -> io::Result<Self> {
        let file = File::from(executable_memfd()?);
        io::copy(&mut File::open(executable)?, &mut &file)?;
        let file = OwnedFd::from(file);
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        fcntl_add_seals(&file, seals)?;
        Ok(Self { file })
    }

    /// A path of it for this process and its children until they exec.
    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }
}

/// Starts a container, and returns once its init is about to start the tenant's program. Blocks,
/// for at most about [`DEADLINE`].
///
/// That the program can't be run is no error here: init says so on its output, and it ends with
/// status 127.
pub fn launch(
    program: &LauncherProgram,
    spec: &ContainerSpec,
    handles: Handles,
) -> Result<Launched, LaunchError> {
    let Handles { stdin, stdout, stderr, socket, exit } = handles;
    let descriptors = Descriptors { stdin, socket, terminal: None, exit };
    launch_with(program, spec, descriptors, stdout, stderr)
}

/// As [`launch`], for a container with [`crate::spec::OutputSpec::Terminal`]. Returns the terminal's
/// other side too: what is written to it is typed, what is read from it is to be shown. The container
/// opened it before anything of the tenant's ran; it leads to no file but that terminal.
///
/// `exit` as in [`Handles`].
pub fn launch_on_terminal(
    program: &LauncherProgram,
    spec: &ContainerSpec,
    exit: OwnedFd,
) -> Result<(Launched, OwnedFd), LaunchError> {
    let failed = |source| LaunchError::Terminal { source };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let terminal = Some(OwnedFd::from(theirs));
    let descriptors = Descriptors { stdin: None, socket: None, terminal, exit };
    let launched = launch_with(program, spec, descriptors, None, None)?;
    // It has been sent before the container was reported.
    ours.set_nonblocking(true).map_err(failed)?;
    Ok((launched, channel::receive_descriptor(&ours).map_err(failed)?))
}

fn launch_with(
    program: &LauncherProgram,
    spec: &ContainerSpec,
    descriptors: Descriptors,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
) -> Result<Launched, LaunchError> {
    let order = Order {
        spec: spec.clone(),
        has_stdin: descriptors.stdin.is_some(),
        has_socket: descriptors.socket.is_some(),
        has_terminal: descriptors.terminal.is_some(),
    };
    let (ours, launcher) =
        start(program, stdout, stderr).map_err(|source| LaunchError::Start { source })?;
    let answer = converse(&ours, &order, &descriptors);
    // Ours would keep the pipes among them open.
    drop(descriptors);
    let status = end(launcher, answer.is_err()).map_err(|source| LaunchError::Start { source })?;
    match answer? {
        Some(Report::Launched(launched)) => Ok(launched),
        Some(Report::Failed(report)) => {
            let Failure { step, source } = report.into();
            Err(LaunchError::Step { step, source })
        }
        None => Err(LaunchError::Silent { status }),
    }
}

/// An empty memory file whose content may be run.
fn executable_memfd() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Since 6.3 a host may make memory files unfit to run unless they are asked for so; before, the
    // flag is unknown.
    match memfd_create("ace", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => Ok(memfd_create("ace", flags)?),
        result => Ok(result?),
    }
}

/// Runs the launcher, whose standard input is the other end of the socket returned.
fn start(
    program: &LauncherProgram,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
) -> io::Result<(UnixStream, Child)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(DEADLINE))?;
    ours.set_write_timeout(Some(DEADLINE))?;
    let launcher = Command::new(program.path())
        .arg0(OsStr::new("ace"))
        .arg(COMMAND)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(stdout.map_or_else(Stdio::null, Stdio::from))
        .stderr(stderr.map_or_else(Stdio::null, Stdio::from))
        .spawn()?;
    Ok((ours, launcher))
}

/// Gives the order and takes the answer; `None` where the launcher ended without one.
fn converse(
    socket: &UnixStream,
    order: &Order,
    descriptors: &Descriptors,
) -> Result<Option<Report>, LaunchError> {
    // A launcher that has ended meanwhile may have said why, and otherwise its status does.
    match channel::send_order(socket, order, descriptors) {
        Err(error) if is_hang_up(&error) => {}
        Err(error) if is_timeout(&error) => return Err(LaunchError::Deadline),
        result => result.map_err(|source| LaunchError::Order { source })?,
    }
    match channel::receive_report(socket) {
        Ok(report) => Ok(report),
        Err(error) if is_hang_up(&error) => Ok(None),
        Err(error) if is_timeout(&error) => Err(LaunchError::Deadline),
        Err(source) => Err(LaunchError::Order { source }),
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Waits for the launcher's end, after bringing it about where it failed us. Its unfinished init
/// notices, and ends too.
fn end(mut launcher: Child, failed: bool) -> io::Result<ExitStatus> {
    if failed {
        launcher.kill()?;
    }
    launcher.wait()
}
