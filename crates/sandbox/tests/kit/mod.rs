//! Makes containers for tests, each with user ids that no other test has.

#![allow(clippy::unwrap_used)] // All of it is for tests.
#![allow(dead_code)] // Each test program uses its own part.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::id;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ace_sandbox::cgroup::{Cgroup, CgroupTree};
use ace_sandbox::launch::{
    Handles, LaunchError, Launched, LauncherProgram, launch, launch_on_terminal,
};
use ace_sandbox::process::{self, ProcessRef};
use ace_sandbox::spec::{
    ContainerSpec, ExitRecord, NetworkSpec, OutputSpec, ProcessSpec, RootSpec, SignalTarget, Tmpfs,
};
use ace_types::{Bytes, IdRange, Limits};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use tempfile::TempDir;

pub struct Kit {
    program: LauncherProgram,
    folder: TempDir,
    ids: IdRange,
}

/// A started container. Ended when dropped.
pub struct Running {
    pub launched: Launched,
    /// `None` where the program had ended before it could be opened.
    init: Option<OwnedFd>,
    stdout: BufReader<std::io::PipeReader>,
    stderr: std::io::PipeReader,
    pub exit: std::io::PipeReader,
}

/// A started container whose program runs on a terminal. Ended when dropped.
pub struct OnTerminal {
    pub master: fs::File,
    init: Option<OwnedFd>,
    exit: std::io::PipeReader,
}

/// Control groups for one test, and the container in them. Removed when dropped.
pub struct Groups {
    tree: CgroupTree,
    pub cgroup: Cgroup,
}

/// What became of a container.
pub struct Ended {
    pub stdout: String,
    pub stderr: String,
    pub record: ExitRecord,
}

pub fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).into()
}

pub fn python(code: &str) -> Vec<String> {
    ["/usr/bin/python3", "-c", code].map(str::to_owned).into()
}

impl Kit {
    /// `None`, and a word about it, where this is not root.
    pub fn new() -> Option<Self> {
        Self::with_launcher(Path::new(env!("CARGO_BIN_EXE_ace-launcher")))
    }

    /// As [`Self::new`], with another program as the launcher.
    pub fn with_launcher(launcher: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can make containers");
            return None;
        }
        // Tests of one run may be threads or processes; these ranges are not the engine's first.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let index = 32_768 + (id() * 64 + NEXT.fetch_add(1, Ordering::Relaxed)) % 32_768;
        Some(Self {
            program: LauncherProgram::seal(launcher).unwrap(),
            folder: TempDir::new().unwrap(),
            ids: IdRange::new(index).unwrap(),
        })
    }

    pub fn ids(&self) -> IdRange {
        self.ids
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder of the host's with `files` in it: (name, content).
    pub fn folder(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir(&folder).unwrap();
        for (name, content) in files {
            fs::write(folder.join(name), content).unwrap();
        }
        folder
    }

    /// A log's folder as the engine makes it.
    pub fn log_folder(&self) -> PathBuf {
        let folder = self.folder("log", &[]);
        let init = self.ids.host_id(IdRange::INIT);
        chown(&folder, Some(init), Some(init)).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        folder
    }

    /// Makes the tenant the owner of a folder and of what is in it.
    pub fn give_to_tenant(&self, folder: &Path) {
        let app = self.ids.host_id(IdRange::APP);
        let inside = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        for path in inside.chain([folder.to_owned()]) {
            chown(path, Some(app), Some(app)).unwrap();
        }
    }

    pub fn spec(&self, argv: Vec<String>) -> ContainerSpec {
        let tmpfs =
            |target: &str| Tmpfs { target: target.into(), size: Bytes::mib(8), inodes: 100 };
        ContainerSpec {
            host_name: "test-host".to_owned(),
            ids: self.ids,
            cgroup: Cgroup { folders: Vec::new() },
            root: RootSpec { tmpfs: vec![tmpfs("/tmp"), tmpfs("/dev/shm")], ..RootSpec::default() },
            network: NetworkSpec::Loopback,
            process: ProcessSpec {
                argv,
                env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
                working_directory: "/".into(),
                keep: None,
                socket: None,
                open_files_max: 1024,
                file_size_max: None,
                signals: SignalTarget::Program,
            },
            output: OutputSpec::Inherit,
            stop_grace: Duration::from_secs(30),
        }
    }

    pub fn run(&self, argv: Vec<String>) -> Ended {
        self.run_spec(&self.spec(argv))
    }

    pub fn run_spec(&self, spec: &ContainerSpec) -> Ended {
        self.start(spec).wait()
    }

    pub fn start(&self, spec: &ContainerSpec) -> Running {
        self.try_start(spec).unwrap()
    }

    pub fn try_start(&self, spec: &ContainerSpec) -> Result<Running, LaunchError> {
        self.try_start_with(spec, |_| {})
    }

    pub fn start_with(&self, spec: &ContainerSpec, change: impl FnOnce(&mut Handles)) -> Running {
        self.try_start_with(spec, change).unwrap()
    }

    pub fn start_on_terminal(&self, spec: &ContainerSpec) -> OnTerminal {
        let (exit, exit_writer) = pipe().unwrap();
        let (launched, master) =
            launch_on_terminal(&self.program, spec, exit_writer.into()).unwrap();
        let init = ProcessRef { pid: launched.pid, start_time: launched.start_time };
        OnTerminal { master: master.into(), init: init.open().unwrap(), exit }
    }

    /// The host's processes that run as one of this kit's users.
    pub fn processes(&self) -> Vec<u32> {
        let entries = fs::read_dir("/proc").unwrap();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| self.is_ours(*pid)).collect()
    }

    fn is_ours(&self, pid: u32) -> bool {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field =
            |name| status.lines().find_map(|line| line.strip_prefix(name)?.split('\t').nth(1));
        let user = field("Uid:").and_then(|user| user.parse::<u32>().ok());
        let is_dead = field("State:").is_some_and(|state| state.starts_with('Z'));
        user.is_some_and(|user| user.wrapping_sub(self.ids.first()) < IdRange::COUNT) && !is_dead
    }

    fn try_start_with(
        &self,
        spec: &ContainerSpec,
        change: impl FnOnce(&mut Handles),
    ) -> Result<Running, LaunchError> {
        let (stdout, stdout_writer) = pipe().unwrap();
        let (stderr, stderr_writer) = pipe().unwrap();
        let (exit, exit_writer) = pipe().unwrap();
        let mut handles = Handles {
            stdin: None,
            stdout: Some(stdout_writer.into()),
            stderr: Some(stderr_writer.into()),
            socket: None,
            exit: exit_writer.into(),
        };
        change(&mut handles);
        let launched = launch(&self.program, spec, handles)?;
        let init = ProcessRef { pid: launched.pid, start_time: launched.start_time };
        let init = init.open().unwrap();
        Ok(Running { launched, init, stdout: BufReader::new(stdout), stderr, exit })
    }
}

impl Groups {
    /// Groups with `limits`, of an engine named after this process and `test`, a letter.
    pub fn new(test: char, limits: &Limits) -> Self {
        let engine = format!("{test}{:03}", id() % 1000).parse().unwrap();
        let tree = CgroupTree::find(&engine).unwrap();
        let cgroup = tree.create("container", limits).unwrap();
        Self { tree, cgroup }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.tree.remove_all().unwrap();
    }
}

impl Running {
    /// The next line that the program prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    pub fn signal(&self, signal: Signal) {
        process::signal(self.init.as_ref().unwrap(), signal).unwrap();
    }

    /// Waits for its end, and gives what it has said until then.
    pub fn wait(mut self) -> Ended {
        let (mut stdout, mut stderr, mut record) = (String::new(), String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).unwrap();
        self.stderr.read_to_string(&mut stderr).unwrap();
        self.exit.read_to_string(&mut record).unwrap();
        self.wait_for_end();
        let line = record.strip_suffix('\n').unwrap_or_else(|| panic!("no record: {stderr}"));
        Ended { stdout, stderr, record: serde_json::from_str(line).unwrap() }
    }

    pub fn wait_for_end(&self) {
        self.init.iter().for_each(wait_for_end);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.init.iter().for_each(|init| drop(process::signal(init, Signal::KILL)));
    }
}

impl OnTerminal {
    /// Reads what is shown until there is `text` in it. Panics where the end comes first.
    pub fn read_until(&mut self, text: &str) -> String {
        let mut shown = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&shown).contains(text) {
            match self.master.read(&mut byte) {
                Ok(1) => shown.push(byte[0]),
                end => panic!("{text:?} never came, {end:?}: {}", String::from_utf8_lossy(&shown)),
            }
        }
        String::from_utf8(shown).unwrap()
    }

    /// Reads what is shown until nobody has the terminal any more.
    pub fn read_to_end(&mut self) -> String {
        let mut shown = Vec::new();
        // A terminal that nobody has is an error, not an end.
        assert_eq!(self.master.read_to_end(&mut shown).unwrap_err().raw_os_error(), Some(5));
        String::from_utf8(shown).unwrap()
    }

    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Lets go of the terminal, and waits for the end.
    pub fn hang_up(self) -> ExitRecord {
        drop(self.master);
        record_of(self.exit, self.init)
    }

    pub fn wait(self) -> ExitRecord {
        record_of(self.exit, self.init)
    }
}

fn record_of(mut exit: std::io::PipeReader, init: Option<OwnedFd>) -> ExitRecord {
    let mut record = String::new();
    exit.read_to_string(&mut record).unwrap();
    init.iter().for_each(wait_for_end);
    serde_json::from_str(&record).unwrap()
}

/// Waits until the process of a pidfd has ended.
pub fn wait_for_end(pidfd: &OwnedFd) {
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None).unwrap();
}
