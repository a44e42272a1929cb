//! The fork that becomes the tenant's program.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::process::{
    Pid, Resource, Rlimit, chdir, getpgrp, ioctl_tiocsctty, setpgid, setrlimit, setsid, umask,
};
use rustix::termios::tcsetpgrp;

use super::{keep, privileges};
use crate::cgroup;
use crate::failure::{Failure, Step};
use crate::seccomp::Filter;
use crate::spec::{Keep, ProcessSpec};
use crate::sys::{self, Fork};

/// What a shell says of a program that it can't run.
const CANNOT_RUN: i32 = 127;

/// Memory that no app may take from the machine by locking it.
const LOCKED_MEMORY_MAX_BYTES: u64 = 64 << 10;

/// The limit at which the kernel gives neither a core file nor the core to the host's handler. At 0
/// it would still run a handler, as the host's root, on every crash of a tenant's.
const CORE_SIZE_OF_NONE: u64 = 1;

/// Everything the tenant's program needs, ready before the fork.
pub struct Tenant {
    /// Where the program may be, in the order of looking.
    programs: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    working_directory: PathBuf,
    keep: Option<Keep>,
    input: Input,
    /// The listening socket, and the number it is to have. Init keeps it open while it lives.
    socket: Option<(OwnedFd, i32)>,
    app_groups: Vec<OwnedFd>,
    limits: Vec<(Resource, u64)>,
    filter: Filter,
}

/// The program's standard input.
pub enum Input {
    Nothing,
    Given(OwnedFd),
    /// A terminal, which is for output as well.
    Terminal(OwnedFd),
}

impl Tenant {
    pub fn new(
        spec: &ProcessSpec,
        input: Input,
        socket: Option<(OwnedFd, i32)>,
        app_groups: Vec<OwnedFd>,
    ) -> Result<Self, Failure> {
        let arguments = spec.argv.iter().map(|it| CString::new(it.as_str()));
        let arguments = arguments.collect::<Result<Vec<_>, _>>().step("read the arguments")?;
        let environment =
            spec.env.iter().map(|(key, value)| CString::new(format!("{key}={value}")));
        Ok(Self {
            programs: places_of_program(spec).step("read the program's name")?,
            arguments,
            environment: environment.collect::<Result<_, _>>().step("read the environment")?,
            working_directory: spec.working_directory.clone(),
            keep: spec.keep.clone(),
            input,
            socket,
            app_groups,
            limits: limits(spec),
            filter: Filter::compile().step("compile the system call filter")?,
        })
    }

    /// Starts the program, with `outputs` as its standard output and error, or init's own.
    pub fn start(&mut self, outputs: Option<(OwnedFd, OwnedFd)>) -> io::Result<Pid> {
        if let Input::Terminal(terminal) = &self.input {
            // Init leads the terminal's session: where a leader ends, the kernel hangs up, and what
            // was written last and not yet read is lost.
            setsid()?;
            ioctl_tiocsctty(terminal)?;
        }
        match sys::fork()? {
            Fork::Parent { child } => {
                if !matches!(self.input, Input::Terminal(_)) {
                    self.input = Input::Nothing;
                }
                self.app_groups.clear();
                Ok(child)
            }
            Fork::Child => {
                let outcome = self.become_program(outputs);
                // The tenant reads this in the app's log.
                let _ =
                    writeln!(io::stderr(), "ace: could not {}: {}", outcome.step, outcome.source);
                sys::exit_now(CANNOT_RUN)
            }
        }
    }

    /// Gives up the terminal, if there is one. What was written to it can still be read.
    pub fn release_terminal(&mut self) {
        if let Input::Terminal(terminal) = std::mem::replace(&mut self.input, Input::Nothing) {
            // It fails where the engine has hung up, and there is nobody left to read.
            let _ = sys::leave_terminal(terminal.as_fd());
        }
    }

    /// Returns only if the program could not be run.
    fn become_program(&self, outputs: Option<(OwnedFd, OwnedFd)>) -> Failure {
        match self.enter(outputs) {
            Ok(()) => self.execute(),
            Err(failure) => failure,
        }
    }

    /// Becomes the first of the programs that there is. Returns only why it could not.
    fn execute(&self) -> Failure {
        let name = self.arguments.first().map(|name| name.to_string_lossy()).unwrap_or_default();
        let mut source = io::Error::from_raw_os_error(libc::ENOENT);
        for program in &self.programs {
            let error = sys::execve(program, &self.arguments, &self.environment);
            let is_missing = matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR));
            if !is_missing {
                source = error;
                break;
            }
        }
        Failure { step: format!("run {name}"), source }
    }

    /// Sheds init, step by step.
    fn enter(&self, outputs: Option<(OwnedFd, OwnedFd)>) -> Result<(), Failure> {
        self.install_outputs(outputs).step("connect the output")?;
        self.lead_group().step("start a session")?;
        cgroup::move_into(&self.app_groups).step("join the app's control groups")?;
        self.install_inputs().step("connect the input")?;
        for (resource, max) in &self.limits {
            let limit = Rlimit { current: Some(*max), maximum: Some(*max) };
            setrlimit(*resource, limit).step("set a resource limit")?;
        }
        privileges::become_tenant().step("give up the last privileges")?;
        umask(Mode::WGRP | Mode::WOTH);
        // Without keyrings in the kernel there is none to leave.
        let _ = sys::join_new_keyring();
        self.keep.as_ref().map_or(Ok(()), keep::link)?;
        chdir(&self.working_directory)
            .step(format!("enter {}", self.working_directory.display()))?;
        sys::reset_signals().step("reset signals")?;
        self.filter.install().step("install the system call filter")
    }

    /// Makes this process the first of its session or, on a terminal, of the group in front of it.
    fn lead_group(&self) -> io::Result<()> {
        let Input::Terminal(terminal) = &self.input else {
            return Ok(setsid().map(drop)?);
        };
        setpgid(None, None)?;
        // Allowed from behind, as SIGTTOU is still blocked.
        Ok(tcsetpgrp(terminal, getpgrp())?)
    }

    fn install_outputs(&self, outputs: Option<(OwnedFd, OwnedFd)>) -> io::Result<()> {
        let (out, err) = match (&self.input, &outputs) {
            (Input::Terminal(terminal), _) => (terminal, terminal),
            (_, Some((out, err))) => (out, err),
            (_, None) => return Ok(()),
        };
        sys::install_descriptor(out.as_fd(), 1)?;
        sys::install_descriptor(err.as_fd(), 2)
    }

    /// Standard input and the socket. After it, no other descriptor of init's is for use: the
    /// socket's number may have been any of theirs.
    fn install_inputs(&self) -> io::Result<()> {
        match &self.input {
            Input::Given(input) | Input::Terminal(input) => {
                sys::install_descriptor(input.as_fd(), 0)?;
            }
            Input::Nothing => sys::install_descriptor(File::open("/dev/null")?.as_fd(), 0)?,
        }
        sys::close_on_exec_from(3);
        self.socket
            .as_ref()
            .map_or(Ok(()), |(socket, number)| sys::install_descriptor(socket.as_fd(), *number))
    }
}

/// Where the program of `spec` may be: one path, or one in each folder of `PATH`.
fn places_of_program(spec: &ProcessSpec) -> io::Result<Vec<CString>> {
    let name = spec.argv.first().map(String::as_str).unwrap_or_default();
    if name.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if name.contains('/') {
        return Ok(vec![CString::new(name)?]);
    }
    let path = spec.env.iter().find(|(key, _)| key == "PATH").map(|(_, value)| value.as_str());
    let folders = path.unwrap_or_default().split(':').filter(|folder| folder.starts_with('/'));
    Ok(folders.map(|folder| CString::new(format!("{folder}/{name}"))).collect::<Result<_, _>>()?)
}

fn limits(spec: &ProcessSpec) -> Vec<(Resource, u64)> {
    let always = [
        (Resource::Nofile, u64::from(spec.open_files_max)),
        (Resource::Core, CORE_SIZE_OF_NONE),
        (Resource::Memlock, LOCKED_MEMORY_MAX_BYTES),
        // The engine may have been given more than a user has.
        (Resource::Nice, 0),
        (Resource::Rtprio, 0),
    ];
    let file_size = spec.file_size_max.map(|max| (Resource::Fsize, max.0));
    always.into_iter().chain(file_size).collect()
}
