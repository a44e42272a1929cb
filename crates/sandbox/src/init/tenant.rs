//! The fork that becomes the tenant's program.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::process::{Pid, Resource, Rlimit, chdir, setrlimit, setsid, umask};

use super::privileges;
use crate::cgroup;
use crate::failure::{Failure, Step};
use crate::seccomp::Filter;
use crate::spec::ProcessSpec;
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
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    working_directory: PathBuf,
    stdin: Option<OwnedFd>,
    /// The listening socket, and the number it is to have. Init keeps it open while it lives.
    socket: Option<(OwnedFd, i32)>,
    app_groups: Vec<OwnedFd>,
    limits: Vec<(Resource, u64)>,
    filter: Filter,
}

impl Tenant {
    pub fn new(
        spec: &ProcessSpec,
        stdin: Option<OwnedFd>,
        socket: Option<OwnedFd>,
        app_groups: Vec<OwnedFd>,
    ) -> Result<Self, Failure> {
        let arguments = spec.argv.iter().map(|it| CString::new(it.as_str()));
        let arguments = arguments.collect::<Result<Vec<_>, _>>().step("read the arguments")?;
        let no_program = || io::Error::from(io::ErrorKind::InvalidInput);
        let program = arguments.first().cloned().ok_or_else(no_program);
        let environment =
            spec.env.iter().map(|(key, value)| CString::new(format!("{key}={value}")));
        Ok(Self {
            program: program.step("find a program among no arguments")?,
            arguments,
            environment: environment.collect::<Result<_, _>>().step("read the environment")?,
            working_directory: spec.working_directory.clone(),
            stdin,
            socket: socket.zip(spec.socket_fd),
            app_groups,
            limits: limits(spec),
            filter: Filter::compile().step("compile the system call filter")?,
        })
    }

    /// Starts the program, with `outputs` as its standard output and error, or init's own.
    pub fn start(&mut self, outputs: Option<(OwnedFd, OwnedFd)>) -> io::Result<Pid> {
        match sys::fork()? {
            Fork::Parent { child } => {
                self.stdin = None;
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

    /// Returns only if the program could not be run.
    fn become_program(&self, outputs: Option<(OwnedFd, OwnedFd)>) -> Failure {
        match self.enter(outputs) {
            Ok(()) => Failure {
                step: format!("run {}", self.program.to_string_lossy()),
                source: sys::execve(&self.program, &self.arguments, &self.environment),
            },
            Err(failure) => failure,
        }
    }

    /// Sheds init, step by step.
    fn enter(&self, outputs: Option<(OwnedFd, OwnedFd)>) -> Result<(), Failure> {
        self.install_outputs(outputs).step("connect the output")?;
        setsid().step("start a session")?;
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
        chdir(&self.working_directory)
            .step(format!("enter {}", self.working_directory.display()))?;
        sys::reset_signals().step("reset signals")?;
        self.filter.install().step("install the system call filter")
    }

    fn install_outputs(&self, outputs: Option<(OwnedFd, OwnedFd)>) -> io::Result<()> {
        let Some((out, err)) = outputs else { return Ok(()) };
        sys::install_descriptor(out.as_fd(), 1)?;
        sys::install_descriptor(err.as_fd(), 2)
    }

    /// Standard input and the socket. After it, no other descriptor of init's is for use: the
    /// socket's number may have been any of theirs.
    fn install_inputs(&self) -> io::Result<()> {
        match &self.stdin {
            Some(stdin) => sys::install_descriptor(stdin.as_fd(), 0)?,
            None => sys::install_descriptor(File::open("/dev/null")?.as_fd(), 0)?,
        }
        sys::close_on_exec_from(3);
        self.socket
            .as_ref()
            .map_or(Ok(()), |(socket, number)| sys::install_descriptor(socket.as_fd(), *number))
    }
}

fn limits(spec: &ProcessSpec) -> Vec<(Resource, u64)> {
    let always = [
        (Resource::Nofile, u64::from(spec.open_files_max)),
        (Resource::Core, CORE_SIZE_OF_NONE),
        (Resource::Memlock, LOCKED_MEMORY_MAX_BYTES),
    ];
    let file_size = spec.file_size_max.map(|max| (Resource::Fsize, max.0));
    always.into_iter().chain(file_size).collect()
}
