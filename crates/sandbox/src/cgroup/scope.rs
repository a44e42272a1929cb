//! The systemd scope that holds an engine's groups where systemd owns the version 2 tree.
//!
//! systemd rewrites and prunes what it has not delegated, so our groups live in a scope of their
//! own with `Delegate=yes`. A scope lasts as long as a process is in it. Containers keep it while
//! they run; besides, an engine that uses it has a *keeper* there, a `cat` that reads a pipe held by
//! the engine and so ends with it, however the engine ends. When the last of them has gone, systemd
//! removes the scope: there is nothing to leak.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt;

use super::{PROCS, write_value};
use crate::tool::{Tool, ToolError};

const SYSTEMD_RUN: Tool = Tool::new("systemd-run", "systemd");
const SYSTEMCTL: Tool = Tool::new("systemctl", "systemd");
const CAT: Tool = Tool::new("cat", "coreutils");

/// How long systemd may take to make or remove a scope.
const DEADLINE: Duration = Duration::from_secs(10);
/// Tries to get hold of a scope that may just be going.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);
/// The keeper's own group: a group that passes controllers on may hold no process itself.
pub const KEEPER: &str = "keeper";

/// One engine's scope, made when first needed.
#[derive(Debug)]
pub struct Scope {
    unit: String,
    folder: PathBuf,
    keeper: Mutex<Option<Keeper>>,
}

/// Why the scope could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("could not put a process into {}", folder.display())]
    Enter { folder: PathBuf, source: io::Error },
    #[error("systemd did not make {unit} within {} s", DEADLINE.as_secs())]
    NotMade { unit: String },
    #[error("systemd did not remove {unit} within {} s", DEADLINE.as_secs())]
    NotRemoved { unit: String },
}

/// Whether systemd runs this machine. Source: sd_booted(3).
pub fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

impl Scope {
    /// The scope `NAME.scope` below the tree at `mount_point`; nothing is made yet.
    pub fn new(name: &str, mount_point: &Path) -> Self {
        let unit = format!("{name}.scope");
        let folder = mount_point.join("system.slice").join(&unit);
        Self { unit, folder, keeper: Mutex::default() }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes sure that the scope exists and stays while this value lives. May be called twice.
    pub fn ensure(&self) -> Result<(), ScopeError> {
        let mut keeper = self.lock();
        if keeper.as_mut().is_some_and(Keeper::lives) && self.folder.is_dir() {
            return Ok(());
        }
        *keeper = None;
        let mut failure = ScopeError::NotMade { unit: self.unit.clone() };
        for _ in 0..ATTEMPTS {
            // One that is just going refuses the keeper, or takes it with it; then the next try
            // makes a new one.
            match if self.folder.is_dir() { self.join() } else { self.make() } {
                Ok(found) => {
                    *keeper = Some(found);
                    return Ok(());
                }
                Err(ScopeError::Tool(error @ ToolError::Missing { .. })) => {
                    return Err(error.into());
                }
                Err(error) => failure = error,
            }
            std::thread::sleep(PAUSE);
        }
        Err(failure)
    }

    /// Lets go of the scope and waits until systemd has removed it. Its groups must be empty.
    pub fn remove(&self) -> Result<(), ScopeError> {
        *self.lock() = None;
        if self.wait_until(|| !self.folder.exists()) {
            return Ok(());
        }
        SYSTEMCTL.run(&["stop", &self.unit], &[], DEADLINE)?;
        if self.wait_until(|| !self.folder.exists()) {
            return Ok(());
        }
        Err(ScopeError::NotRemoved { unit: self.unit.clone() })
    }

    /// Starts the scope with a keeper as its first process.
    fn make(&self) -> Result<Keeper, ScopeError> {
        let mut command = SYSTEMD_RUN.command()?;
        command
            .args(["--scope", "--quiet", "--collect", "--slice=system.slice"])
            .arg(format!("--unit={}", self.unit))
            .arg("--description=Apps of an ACE engine")
            // Our groups are ours to limit; without these the scope itself would bound their sum.
            .args(["--property=Delegate=yes", "--property=TasksMax=infinity"])
            .arg("--")
            .arg(CAT.path()?);
        let mut keeper = Keeper::start(command)?;
        let cgroup = PathBuf::from(format!("/proc/{}/cgroup", keeper.child.id()));
        let in_scope = || fs::read_to_string(&cgroup).is_ok_and(|text| self.is_named_by(&text));
        let until = Instant::now() + DEADLINE;
        while !in_scope() {
            if !keeper.lives() || Instant::now() >= until {
                return Err(ScopeError::NotMade { unit: self.unit.clone() });
            }
            std::thread::sleep(PAUSE);
        }
        self.enter(&keeper)?;
        Ok(keeper)
    }

    /// Adds a keeper to the scope that containers of a former engine hold.
    fn join(&self) -> Result<Keeper, ScopeError> {
        let keeper = Keeper::start(CAT.command()?)?;
        self.enter(&keeper)?;
        // Asked after entering: a scope that is active with a process in it stays.
        SYSTEMCTL.run(&["is-active", "--quiet", &self.unit], &[], DEADLINE)?;
        Ok(keeper)
    }

    fn enter(&self, keeper: &Keeper) -> Result<(), ScopeError> {
        let folder = self.folder.join(KEEPER);
        let enter = || {
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            write_value(&folder.join(PROCS), &keeper.child.id().to_string())
        };
        enter().map_err(|source| ScopeError::Enter { folder: folder.clone(), source })
    }

    fn is_named_by(&self, proc_cgroup: &str) -> bool {
        proc_cgroup.lines().any(|line| {
            line.strip_prefix("0::").is_some_and(|path| path.ends_with(&format!("/{}", self.unit)))
        })
    }

    fn wait_until(&self, done: impl Fn() -> bool) -> bool {
        let until = Instant::now() + DEADLINE;
        while !done() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(PAUSE);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Option<Keeper>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process that sits in the scope until it is dropped or the engine ends.
#[derive(Debug)]
struct Keeper {
    /// Its standard input is a pipe that nobody writes to.
    child: Child,
}

impl Keeper {
    fn start(mut command: Command) -> Result<Self, ToolError> {
        let child = command
            .stdin(Stdio::piped())
            .process_group(0) // A terminal's Ctrl-C is for the engine alone.
            .spawn()
            .map_err(|source| ToolError::Run { program: "cat", source })?;
        Ok(Self { child })
    }

    fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
