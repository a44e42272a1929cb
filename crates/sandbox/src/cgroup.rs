//! Control groups on cgroup v1, hybrid and v2, found at run time.
//!
//! ```text
//! ace-ENGINE.NAME/       one a container, in the tree that shares out processors
//!   init/                our process 1: uncounted, so that no bomb of the tenant's takes it
//!   app/                 the tenant's processes: every limit is here
//! ace-ENGINE/NAME/       the same, in trees that don't
//! ```
//!
//! Containers that want more than there is share alike; one that uses much gives way to those that use
//! little, which is in [`balance`], and is why they stand by themselves. On version 2 that takes the machine's own
//! root. An engine that sees a part of the tree alone, as in a container, has all in a group of its own there: where
//! systemd owns that part, in a [`scope`].
//! Which trees there are is in [`hierarchy`]; what is read and written is bound by [`throttle`] and counted by
//! [`traffic`].

mod balance;
mod excess;
mod hierarchy;
mod scope;
mod throttle;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ace_types::{EngineId, Limits};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::process::ProcessRef;
pub use balance::Balance;
use excess::Excesses;
pub use hierarchy::{Controller, Version};
use hierarchy::{Hierarchy, choose, parse_mountinfo};
use scope::{KEEPER, Scope, ScopeError};
use throttle::Root;
pub use traffic::DiskTraffic;

use crate::disk::{self, Device};

const PROCS: &str = "cgroup.procs";
const INIT: &str = "init";
const APP: &str = "app";

/// How often the kernel gives a capped group its share anew. The usual 100 ms would let an app that
/// used up its share sleep for most of that, in the middle of a request; a fifth of it costs little.
const CPU_PERIOD_USEC: u64 = 20_000;
/// The smallest share that the kernel takes.
const CPU_QUOTA_LEAST_USEC: u64 = 1_000;
/// How long a group may take to freeze before its processes are killed unfrozen.
const FREEZE_DEADLINE: Duration = Duration::from_millis(200);
const REMOVE_ALL_DEADLINE: Duration = Duration::from_secs(10);
const PAUSE_LEAST: Duration = Duration::from_millis(1);
const PAUSE_MOST: Duration = Duration::from_millis(50);
/// How often to pass controllers on to a new group: until it passes them on itself, systemd may take them back.
const PASS_ON_ATTEMPTS: u32 = 5;

/// The groups of one container: `init` beside `app` below one folder, in each tree there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// The container's folder in each tree that it uses.
    pub folders: Vec<Folder>,
}

/// A group's folder in one tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    pub path: PathBuf,
    pub version: Version,
    /// What it limits and counts there.
    pub controllers: Vec<Controller>,
    /// Whether containers stand right below the tree's root there, each by itself: below a group of ours none could be
    /// idle without harm to the others, for which see [`balance`].
    pub stands_alone: bool,
}

/// What a container's tenant uses now, and what it was refused since the container was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub memory_bytes: u64,
    /// The most that was; `None` where the kernel does not keep it (v2 before Linux 5.19).
    pub memory_peak_bytes: Option<u64>,
    /// Processes ended for want of memory.
    pub memory_kills: u64,
    /// Processor time since the container was made.
    pub cpu_usec: u64,
    /// How long its processes were kept waiting on each processor because its share was used up.
    pub throttled_usec: u64,
    pub pids: u64,
    /// Processes and threads refused beyond the limit.
    pub pids_refused: u64,
}

/// How a container that uses much of the processor gives way to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivesWayBy {
    /// It's idle to the kernel.
    Idle,
    /// It weighs less: the kernel knows no idle groups.
    WeightForWantOfIdle,
    /// It weighs less: it stands in a group with others.
    WeightBelowAnother,
}

/// All groups of one engine.
#[derive(Debug)]
pub struct CgroupTree {
    /// The engine's own folder in each tree.
    folders: Vec<Folder>,
    /// Their trees' mount points, in the same order.
    roots: Vec<PathBuf>,
    scope: Option<Scope>,
    excesses: Excesses,
}

/// Why a group could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("could not read which cgroup trees are mounted")]
    Mounts(#[source] io::Error),
    #[error("this machine has no cgroup controller \"{}\"; {remedy}", controller.name())]
    Missing { controller: Controller, remedy: &'static str },
    #[error("{name:?} can't name a control group")]
    Name { name: String },
    #[error("could not get a delegated scope from systemd")]
    Scope(#[source] ScopeError),
    #[error("could not make {}", folder.display())]
    Make { folder: PathBuf, source: io::Error },
    #[error("could not write {value:?} to {}", file.display())]
    Write { file: PathBuf, value: String, source: io::Error },
    #[error(
        "could not pass controllers on in {}; processes stand in that group: move them to a \
         group below it",
        folder.display()
    )]
    Occupied { folder: PathBuf, source: io::Error },
    #[error("could not read {}", folder.display())]
    Read { folder: PathBuf, source: io::Error },
    #[error("could not end the processes in {}", folder.display())]
    Kill { folder: PathBuf, source: io::Error },
    #[error("could not remove {} within {} s", folder.display(), after.as_secs())]
    Remove { folder: PathBuf, after: Duration, source: io::Error },
}

impl CgroupTree {
    /// Finds the trees of this machine. Makes nothing.
    ///
    /// Errors: [`CgroupError::Missing`] where processor time, memory or processes can't be limited.
    pub fn find(engine: &EngineId) -> Result<Self, CgroupError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mounts)?;
        let trees = choose(&parse_mountinfo(&mounts), available_controllers);
        for controller in [Controller::Cpu, Controller::Memory, Controller::Pids] {
            if !trees.iter().any(|tree| tree.controllers.contains(&controller)) {
                return Err(CgroupError::Missing { controller, remedy: remedy(controller) });
            }
        }
        Ok(Self::of(&format!("ace-{engine}"), trees, is_machines_root, scope::systemd_runs()))
    }

    fn of(
        name: &str,
        trees: Vec<Hierarchy>,
        is_machines_root: impl Fn(&Path) -> bool,
        systemd: bool,
    ) -> Self {
        let mut scope = None;
        let mut folders = Vec::new();
        let mut roots = Vec::new();
        for Hierarchy { mount_point, version, controllers } in trees {
            let limits_in_v2 = version == Version::V2 && !controllers.is_empty();
            let stands_alone = match version {
                Version::V1 => controllers.contains(&Controller::Cpu),
                Version::V2 => limits_in_v2 && is_machines_root(&mount_point),
            };
            let path = match limits_in_v2 && !stands_alone && systemd {
                true => scope.insert(Scope::new(name, &mount_point)).folder().to_owned(),
                false => mount_point.join(name),
            };
            folders.push(Folder { path, version, controllers, stands_alone });
            roots.push(mount_point);
        }
        Self { folders, roots, scope, excesses: Excesses::default() }
    }

    /// Makes the groups of the container `name` and sets its limits. May be called twice.
    ///
    /// After a failure, what was made goes by [`Cgroup::remove`] of [`Self::get`].
    pub fn create(&self, name: &str, limits: &Limits) -> Result<Cgroup, CgroupError> {
        let harmless = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name == KEEPER || !name.chars().all(harmless) {
            return Err(CgroupError::Name { name: name.to_owned() });
        }
        let cgroup = self.get(name);
        for ((engine, root), group) in self.folders.iter().zip(&self.roots).zip(&cgroup.folders) {
            self.make_folders(engine, root, group)?;
            for (file, value) in settings(group, limits) {
                write_setting(&group.path.join(APP).join(file), &value)?;
            }
        }
        self.throttle(&cgroup, &disks()?, limits)?;
        Ok(cgroup)
    }

    /// Bounds, by `limits`, what the container `name` may read from and write to its volume, which the loop device
    /// `device` shows. Returns whether that was not so. May be called twice.
    pub fn throttle_volume(
        &self,
        name: &str,
        device: Device,
        limits: &Limits,
    ) -> Result<bool, CgroupError> {
        let mut changed = self.throttle(&self.get(name), &[device], limits)?;
        if let Some(root) = self.kernels_own() {
            for line in root.lines(device, limits) {
                changed |= write_line(&root.0, &line)?;
            }
        }
        Ok(changed)
    }

    /// Takes away what [`Self::throttle_volume`] has left on devices that show nothing any more.
    pub fn release_devices(&self) {
        if let Some(root) = self.kernels_own() {
            root.release();
        }
    }

    /// Sets the limits of the running container `name` again where they are others. Returns whether
    /// that was so.
    pub fn restore_limits(&self, name: &str, limits: &Limits) -> Result<bool, CgroupError> {
        let mut restored = false;
        let groups = self.get(name).folders;
        for ((engine, root), group) in self.folders.iter().zip(&self.roots).zip(&groups) {
            if group.lacks_controllers() {
                self.make_folders(engine, root, group)?;
                restored = true;
            }
            let app = group.path.join(APP);
            let settings = settings(group, limits);
            // What was written last to a file is what stands in it.
            let stand: BTreeMap<_, _> =
                settings.iter().map(|(file, value)| (file, value)).collect();
            let differs = |(file, value): (&&str, &String)| {
                let file = app.join(file);
                file.exists() && read_value(&file).trim() != value
            };
            if stand.into_iter().any(differs) {
                let write = |(file, value): &(&str, String)| write_setting(&app.join(file), value);
                settings.iter().try_for_each(write)?;
                restored = true;
            }
        }
        Ok(self.throttle(&self.get(name), &disks()?, limits)? || restored)
    }

    /// The container `name`, whether it exists or not.
    pub fn get(&self, name: &str) -> Cgroup {
        Cgroup { folders: self.folders.iter().map(|engine| engine.of_container(name)).collect() }
    }

    /// Names of all containers that have a group in any tree, sorted.
    pub fn list(&self) -> io::Result<Vec<String>> {
        let mut names = BTreeSet::new();
        for folder in &self.folders {
            names.extend(folder.containers()?);
        }
        names.remove(KEEPER);
        Ok(names.into_iter().collect())
    }

    /// Ends the tenant's processes in the container `name` for having `what` no limit binds; its init lives, and says
    /// how they ended.
    pub fn end_for_excess(&self, name: &str, what: &str) -> io::Result<()> {
        // The reason first: who learns of the end asks for it.
        self.excesses.note(name, what, &self.list()?);
        self.get(name).kill_app()
    }

    /// What the container `name` was ended for by [`CgroupTree::end_for_excess`]; it's told once.
    pub fn take_excess(&self, name: &str) -> Option<String> {
        self.excesses.take(name)
    }

    /// Kills all that runs in the engine's groups and removes them, the engine's own included.
    pub fn remove_all(&self) -> Result<(), CgroupError> {
        let unreadable =
            |source| CgroupError::Read { folder: self.folders[0].path.clone(), source };
        for name in self.list().map_err(unreadable)? {
            self.get(&name).remove(REMOVE_ALL_DEADLINE)?;
        }
        if let Some(scope) = &self.scope {
            scope.remove().map_err(CgroupError::Scope)?;
        }
        let own = Cgroup { folders: self.folders.clone() };
        own.remove(REMOVE_ALL_DEADLINE)?;
        self.release_devices();
        Ok(())
    }

    /// By what each limit is kept, as in `("memory", "cgroup v2 at /sys/fs/cgroup")`.
    pub fn means(&self) -> Vec<(&'static str, String)> {
        let mut means = Vec::new();
        for (folder, root) in self.folders.iter().zip(&self.roots) {
            let by = match folder.version {
                Version::V1 => format!("cgroup v1 at {}", root.display()),
                Version::V2 => format!("cgroup v2 at {}", root.display()),
            };
            means.extend(folder.controllers.iter().map(|found| (found.name(), by.clone())));
        }
        means
    }

    /// Which version throttles disks; `None` where none does. What is written late, out of the page cache, only
    /// version 2 counts as the group's that wrote it.
    pub fn io_version(&self) -> Option<Version> {
        let has_io = |folder: &&Folder| folder.controllers.contains(&Controller::Io);
        self.folders.iter().find(has_io).map(|folder| folder.version)
    }

    /// Bounds what `cgroup` reads and writes on `devices`, where this machine can and it isn't so.
    /// Returns whether there was something to do.
    fn throttle(
        &self,
        cgroup: &Cgroup,
        devices: &[Device],
        limits: &Limits,
    ) -> Result<bool, CgroupError> {
        let Some(folder) = cgroup.with(Controller::Io) else { return Ok(false) };
        let app = folder.path.join(APP);
        let mut changed = false;
        for device in devices {
            for line in throttle::lines(folder.version, *device, limits) {
                if !throttle::stands(&app, &line) {
                    changed |= write_line(&app, &line)?;
                }
            }
        }
        Ok(changed)
    }

    /// Where a version 1 tree has what the kernel writes for all groups.
    fn kernels_own(&self) -> Option<Root> {
        let is_v1 = |folder: &Folder| {
            folder.version == Version::V1 && folder.controllers.contains(&Controller::Io)
        };
        let (_, root) = self.folders.iter().zip(&self.roots).find(|(folder, _)| is_v1(folder))?;
        Some(Root(root.clone()))
    }

    /// Makes a container's folder in the tree at `root`, and those in it, with all controllers. May be called twice.
    ///
    /// From then on nobody can take a controller away from a group above: the kernel refuses that.
    fn make_folders(
        &self,
        engine: &Folder,
        root: &Path,
        group: &Folder,
    ) -> Result<(), CgroupError> {
        for attempt in 1..=PASS_ON_ATTEMPTS {
            self.make_ready(engine, root)?;
            make_folder(&group.path)?;
            match group.pass_on(&group.path) {
                Err(CgroupError::Write { source, .. })
                    if is_gone(&source) && attempt < PASS_ON_ATTEMPTS => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
            std::thread::sleep(PAUSE_LEAST);
        }
        make_folder(&group.path.join(INIT))?;
        make_folder(&group.path.join(APP))
    }

    /// Makes the tree at `root` ready for groups of containers. May be called twice.
    fn make_ready(&self, engine: &Folder, root: &Path) -> Result<(), CgroupError> {
        if engine.stands_alone {
            return engine.pass_on(root);
        }
        if let Some(scope) = &self.scope {
            scope.ensure().map_err(CgroupError::Scope)?;
        }
        make_folder(&engine.path)?;
        if self.scope.is_none() && engine.controllers.contains(&Controller::Cpu) {
            balance::weigh_all(engine, processors())?;
        }
        // systemd has seen to what is above its scope.
        let above = if self.scope.is_none() { Some(root) } else { None };
        let folders = above.into_iter().chain([engine.path.as_path()]);
        folders.into_iter().try_for_each(|folder| engine.pass_on(folder))
    }
}

/// Moves the calling process into `groups`: open `cgroup.procs` files, one in each tree. The kernel
/// asks for the rights, and the cgroup namespace, of whoever opened them.
pub fn move_into(groups: &[OwnedFd]) -> io::Result<()> {
    groups.iter().try_for_each(|group| {
        // "0" is whoever writes it.
        rustix::io::write(group, b"0").map(drop).map_err(io::Error::from)
    })
}

impl Cgroup {
    /// Opens the way into the tenant's groups, for [`move_into`].
    pub fn open_app_procs(&self) -> io::Result<Vec<OwnedFd>> {
        self.open_procs(APP)
    }

    /// Opens the way into the uncounted groups beside the tenant's, for [`move_into`].
    pub fn open_init_procs(&self) -> io::Result<Vec<OwnedFd>> {
        self.open_procs(INIT)
    }

    /// Sends SIGKILL to everything in it, at once. What forks meanwhile where neither v2 nor a
    /// freezer is there may escape one call: [`Self::remove`] repeats it.
    ///
    /// Its disks are no longer throttled: what it has still to write would hold up its end.
    pub fn kill(&self) -> io::Result<()> {
        self.lift_throttles();
        if !self.kill_by_kernel()? {
            self.freeze()?;
        }
        // On a hybrid machine a launcher that was cut short may stand in v1 trees alone.
        let killed = self.kill_members();
        // Whoever has frozen them: version 1 lets none end that is frozen.
        self.thaw()?;
        killed
    }

    /// Kills all that is in it and removes it, waiting until it is empty. No error where it is
    /// absent, so it may be called twice.
    ///
    /// Errors: [`CgroupError::Remove`] after `deadline`: a process would not die.
    pub fn remove(&self, deadline: Duration) -> Result<(), CgroupError> {
        let removed = self.end_and_remove(deadline);
        self.bind_shared_volumes();
        removed
    }

    fn end_and_remove(&self, deadline: Duration) -> Result<(), CgroupError> {
        let folder = || self.folders.first().map(|f| f.path.clone()).unwrap_or_default();
        let until = Instant::now() + deadline;
        let mut pause = PAUSE_LEAST;
        loop {
            self.kill().map_err(|source| CgroupError::Kill { folder: folder(), source })?;
            let removed = self.folders.iter().try_for_each(|group| remove_tree(&group.path));
            let Err(source) = removed else { return Ok(()) };
            if Instant::now() >= until || source.kind() != io::ErrorKind::ResourceBusy {
                return Err(CgroupError::Remove { folder: folder(), after: deadline, source });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }

    /// Whether all its groups are there, and `init`, its process 1, stands in its own of them.
    ///
    /// Errors: nothing can be read of the process, as when it is gone.
    pub fn is_whole(&self, init: ProcessRef) -> io::Result<bool> {
        let stands_in = fs::read_to_string(format!("/proc/{}/cgroup", init.pid))?;
        if ProcessRef::of(init.pid)? != init {
            return Err(io::ErrorKind::NotFound.into());
        }
        let own = |folder: &Folder| {
            let name = folder.path.file_name()?.to_str()?;
            Some(format!("/{name}/{INIT}"))
        };
        let own: BTreeSet<_> = self.folders.iter().filter_map(own).collect();
        let is_own = |line: &&str| own.iter().any(|own| line.ends_with(own));
        let within = stands_in.lines().filter(is_own).count();
        let is_there = |folder: &Folder| folder.path.join(APP).is_dir();
        Ok(within >= self.folders.len() && self.folders.iter().all(is_there))
    }

    /// Whether no process is in it, init's included. An absent group is empty.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.members("")?.is_empty())
    }

    /// The tenant's processes, as this process sees them.
    pub fn app_processes(&self) -> io::Result<Vec<u32>> {
        Ok(self.members(APP)?.into_iter().filter_map(|pid| u32::try_from(pid).ok()).collect())
    }

    /// Sends SIGKILL to the tenant's processes; what forks meanwhile may escape. Init lives, and says how they ended.
    fn kill_app(&self) -> io::Result<()> {
        self.kill_below(APP)
    }

    /// How often the kernel ended a process of the tenant's for want of memory.
    pub fn oom_kills(&self) -> u64 {
        self.with(Controller::Memory)
            .and_then(|folder| {
                let file = match folder.version {
                    Version::V1 => "memory.oom_control",
                    Version::V2 => "memory.events",
                };
                field(&read_value(&folder.path.join(APP).join(file)), "oom_kill")
            })
            .unwrap_or(0)
    }

    /// How often the kernel refused the tenant a process or thread beyond the limit.
    pub fn pids_refused(&self) -> u64 {
        self.with(Controller::Pids)
            .and_then(|folder| {
                field(&read_value(&folder.path.join(APP).join("pids.events")), "max")
            })
            .unwrap_or(0)
    }

    /// How it gives way to others when it uses much of the processor.
    pub fn gives_way_by(&self) -> GivesWayBy {
        let folder = self.with(Controller::Cpu).filter(|folder| folder.stands_alone);
        match folder.map(|folder| balance::can_be_idle(&folder.path)) {
            Some(true) => GivesWayBy::Idle,
            Some(false) => GivesWayBy::WeightForWantOfIdle,
            None => GivesWayBy::WeightBelowAnother,
        }
    }

    /// Whether the kernel keeps the tenant's memory out of swap.
    pub fn limits_swap(&self) -> bool {
        let Some(folder) = self.with(Controller::Memory) else { return false };
        let file = if folder.version == Version::V1 { MEMSW } else { SWAP_MAX };
        folder.path.join(APP).join(file).exists()
    }

    /// What the tenant's processes use; zero where it can't be read.
    pub fn usage(&self) -> Usage {
        let read = |controller, v1: &str, v2: &str| {
            let folder = self.with(controller)?;
            let file = if folder.version == Version::V1 { v1 } else { v2 };
            Some(read_value(&folder.path.join(APP).join(file)))
        };
        let number = |text: Option<String>| text.and_then(|text| text.trim().parse().ok());
        let memory = read(Controller::Memory, "memory.usage_in_bytes", "memory.current");
        let pids = read(Controller::Pids, "pids.current", "pids.current");
        let peak = read(Controller::Memory, "memory.max_usage_in_bytes", "memory.peak");
        let stat = read(Controller::Cpu, "cpu.stat", "cpu.stat").unwrap_or_default();
        let throttled_v1 = || field(&stat, "throttled_time").map(|nsec| nsec / 1000);
        Usage {
            memory_bytes: number(memory).unwrap_or(0),
            memory_peak_bytes: number(peak),
            memory_kills: self.oom_kills(),
            cpu_usec: self.cpu_usec(),
            throttled_usec: field(&stat, "throttled_usec").or_else(throttled_v1).unwrap_or(0),
            pids: number(pids).unwrap_or(0),
            pids_refused: self.pids_refused(),
        }
    }

    /// What the tenant has read from each disk and written to it; `None` where no tree counts that.
    pub fn disk_traffic(&self) -> Option<BTreeMap<Device, DiskTraffic>> {
        let folder = self.with(Controller::Io)?;
        let app = folder.path.join(APP);
        let mut all = traffic::of_group(folder.version, &app);
        if let Some(root) = folder.root_of_v1() {
            let late = traffic::of_group(folder.version, root);
            let volumes = throttle::devices(folder.version, &app);
            for device in volumes.into_iter().filter(|it| it.is_loop()) {
                let (sum, late) = (all.entry(device).or_default(), late.get(&device));
                let late = late.copied().unwrap_or_default();
                sum.written_bytes += late.written_bytes;
                sum.writes += late.writes;
            }
        }
        Some(all)
    }

    /// Microseconds of processor time that the tenant has had; zero where it can't be read.
    fn cpu_usec(&self) -> u64 {
        let read = |controller, file: &str| {
            self.with(controller).map(|folder| read_value(&folder.path.join(APP).join(file)))
        };
        let nanoseconds = read(Controller::Cpuacct, "cpuacct.usage")
            .and_then(|text| text.trim().parse::<u64>().ok());
        let of_v2 = || field(&read(Controller::Cpu, "cpu.stat")?, "usage_usec");
        nanoseconds.map(|nsec| nsec / 1000).or_else(of_v2).unwrap_or(0)
    }

    /// Lets its processes, which are to end, read and write as fast as the disk can.
    pub fn lift_throttles(&self) {
        let Some(folder) = self.with(Controller::Io) else { return };
        let app = folder.path.join(APP);
        if let Some(root) = folder.root_of_v1() {
            let devices = throttle::devices(folder.version, &app);
            let root = Root(root.to_owned());
            devices.into_iter().filter(|it| it.is_loop()).for_each(|device| root.lift(device));
        }
        throttle::lift(folder.version, &app);
    }

    /// A volume that other containers have as well is throttled again, as they are: [`Self::lift_throttles`] has lifted
    /// what they share, too, and whoever ran one command after the other would be free of it for good.
    fn bind_shared_volumes(&self) {
        let Some(folder) = self.with(Controller::Io) else { return };
        let (Some(root), Some(engine)) = (folder.root_of_v1(), folder.path.parent()) else {
            return;
        };
        let root = Root(root.to_owned());
        for other in children(engine).unwrap_or_default().iter().filter(|it| **it != folder.path) {
            root.bind_as(&other.join(APP));
        }
    }

    fn open_procs(&self, child: &str) -> io::Result<Vec<OwnedFd>> {
        let open = |folder: &Folder| {
            let file = OpenOptions::new().write(true).open(folder.path.join(child).join(PROCS))?;
            Ok(OwnedFd::from(file))
        };
        self.folders.iter().map(open).collect()
    }

    fn with(&self, controller: Controller) -> Option<&Folder> {
        self.folders.iter().find(|folder| folder.controllers.contains(&controller))
    }

    /// Kills by `cgroup.kill` (Linux 5.14). Returns whether there was one.
    fn kill_by_kernel(&self) -> io::Result<bool> {
        let mut v2 = self.folders.iter().filter(|folder| folder.version == Version::V2);
        v2.try_fold(false, |_, folder| {
            when_there(write_value(&folder.path.join("cgroup.kill"), "1"))
        })
    }

    /// Stops its processes where a tree can, so that none forks while they are killed.
    fn freeze(&self) -> io::Result<()> {
        for folder in self.folders.iter().filter(|folder| folder.freezes()) {
            if folder.set_frozen(true)? {
                folder.wait_frozen();
            }
        }
        Ok(())
    }

    /// Lets all go on that is frozen, in the groups below as well.
    fn thaw(&self) -> io::Result<()> {
        for folder in self.folders.iter().filter(|folder| folder.freezes()) {
            for group in children(&folder.path)?.into_iter().chain([folder.path.clone()]) {
                Folder { path: group, ..folder.clone() }.set_frozen(false)?;
            }
        }
        Ok(())
    }

    fn kill_members(&self) -> io::Result<()> {
        self.kill_below("")
    }

    /// Kills what is in the groups called `child`, with "" in all of them.
    fn kill_below(&self, child: &str) -> io::Result<()> {
        let open = |pid: &i32| {
            let found = Pid::from_raw(*pid)?;
            Some((*pid, pidfd_open(found, PidfdFlags::empty()).ok()?))
        };
        let opened: Vec<(i32, OwnedFd)> = self.members(child)?.iter().filter_map(open).collect();
        // Looked up again: a number that stands here still is the process that was opened, or
        // another one of this group.
        let still = self.members(child)?;
        for (_, process) in opened.iter().filter(|(pid, _)| still.contains(pid)) {
            match pidfd_send_signal(process, Signal::KILL) {
                Err(error) if error != rustix::io::Errno::SRCH => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Ids of all processes in the groups called `child`, with "" in all of them, as this process sees them.
    fn members(&self, child: &str) -> io::Result<BTreeSet<i32>> {
        let mut members = BTreeSet::new();
        for folder in &self.folders {
            collect_members(&folder.path.join(child), &mut members)?;
        }
        // 0 stands for a process of a pid namespace that we don't see into.
        members.remove(&0);
        Ok(members)
    }
}

impl Folder {
    /// The root of a container's tree, where that is of version 1.
    fn root_of_v1(&self) -> Option<&Path> {
        let above = if self.stands_alone { 1 } else { 2 };
        self.path.ancestors().nth(above).filter(|_| self.version == Version::V1)
    }

    /// With this as the engine's: the folder of its container `name`.
    fn of_container(&self, name: &str) -> Self {
        let path = match self.stands_alone {
            true => self.path.with_file_name(format!("{}{name}", self.prefix())),
            false => self.path.join(name),
        };
        Self { path, ..self.clone() }
    }

    /// With this as the engine's: the names of its containers. Where it is absent there are none.
    fn containers(&self) -> io::Result<Vec<String>> {
        let (folder, prefix) = match self.path.parent() {
            Some(root) if self.stands_alone => (root, self.prefix()),
            _ => (self.path.as_path(), String::new()),
        };
        let name =
            |path: PathBuf| Some(path.file_name()?.to_str()?.strip_prefix(&prefix)?.to_owned());
        Ok(children(folder)?.into_iter().filter_map(name).collect())
    }

    fn prefix(&self) -> String {
        format!("{}.", self.path.file_name().unwrap_or_default().to_string_lossy())
    }

    /// Lets groups below `folder`, which is of the same tree, use its controllers. Version 1 knows no such thing.
    fn pass_on(&self, folder: &Path) -> Result<(), CgroupError> {
        let file = folder.join("cgroup.subtree_control");
        let missing = self.missing_in(&file);
        if missing.is_empty() {
            return Ok(());
        }
        let value: Vec<String> = missing.iter().map(|name| format!("+{name}")).collect();
        let value = value.join(" ");
        write_value(&file, &value).map_err(|source| match source.kind() {
            io::ErrorKind::ResourceBusy => {
                CgroupError::Occupied { folder: folder.to_owned(), source }
            }
            _ => CgroupError::Write { file, value, source },
        })
    }

    /// With this as a container's: whether the tenant's group is there and was left without one of its controllers.
    fn lacks_controllers(&self) -> bool {
        let app = self.path.join(APP);
        app.is_dir() && !self.missing_in(&app.join("cgroup.controllers")).is_empty()
    }

    /// Which of its controllers are not in the list `file`. Version 1 has no such lists.
    fn missing_in(&self, file: &Path) -> Vec<&'static str> {
        if self.version == Version::V1 {
            return Vec::new();
        }
        let there = read_value(file);
        let is_missing = |name: &&str| !there.split_whitespace().any(|found| found == *name);
        self.controllers.iter().map(|wanted| wanted.name()).filter(is_missing).collect()
    }

    fn freezes(&self) -> bool {
        self.version == Version::V2 || self.controllers.contains(&Controller::Freezer)
    }

    /// Returns whether there was a group to freeze or thaw.
    fn set_frozen(&self, frozen: bool) -> io::Result<bool> {
        let (file, value) = match (self.version, frozen) {
            (Version::V1, true) => ("freezer.state", "FROZEN"),
            (Version::V1, false) => ("freezer.state", "THAWED"),
            (Version::V2, true) => ("cgroup.freeze", "1"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
        };
        when_there(write_value(&self.path.join(file), value))
    }

    fn is_frozen(&self) -> bool {
        match self.version {
            Version::V1 => read_value(&self.path.join("freezer.state")).trim() == "FROZEN",
            Version::V2 => {
                field(&read_value(&self.path.join("cgroup.events")), "frozen") == Some(1)
            }
        }
    }

    /// Waits until every process has stopped; going on without it is safe, only less certain.
    fn wait_frozen(&self) {
        let until = Instant::now() + FREEZE_DEADLINE;
        while !self.is_frozen() && Instant::now() < until {
            std::thread::sleep(PAUSE_LEAST);
        }
    }
}

/// What to write into the files of an app's group, in this order.
fn settings(group: &Folder, limits: &Limits) -> Vec<(&'static str, String)> {
    let (quota, period) = cpu_quota(limits.cpu_millicores);
    // The kernel counts in pages; written so, it reads back as it was written.
    let page = rustix::param::page_size() as u64;
    let memory = (limits.memory.0 / page * page).to_string();
    let mut settings = Vec::new();
    for controller in &group.controllers {
        settings.extend(match (controller, group.version) {
            (Controller::Cpu, Version::V1) => vec![
                ("cpu.cfs_period_us", period.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
            ],
            (Controller::Cpu, Version::V2) => vec![("cpu.max", format!("{quota} {period}"))],
            // The limit with swap may never be below the one without: it's lifted first.
            (Controller::Memory, Version::V1) => vec![
                (MEMSW, "-1".to_owned()),
                ("memory.limit_in_bytes", memory.clone()),
                (MEMSW, memory.clone()),
                (SOCKETS, (limits.memory.0 / SOCKETS_SHARE).to_string()),
            ],
            (Controller::Memory, Version::V2) => {
                vec![("memory.max", memory.clone()), (SWAP_MAX, "0".to_owned())]
            }
            (Controller::Pids, _) => vec![("pids.max", limits.pids.to_string())],
            // Its files have a line a device.
            (Controller::Cpuacct | Controller::Freezer | Controller::Io, _) => vec![],
        });
    }
    settings
}

/// Files that kernels without accounting of swap lack; the survey tells of it.
const MEMSW: &str = "memory.memsw.limit_in_bytes";
const SWAP_MAX: &str = "memory.swap.max";
/// What sockets of the internet's protocols hold, which version 1 counts apart, and only where it's
/// limited. Version 2 counts it as memory like any other.
const SOCKETS: &str = "memory.kmem.tcp.limit_in_bytes";
/// The part of a container's memory that its sockets may hold on top of it.
const SOCKETS_SHARE: u64 = 8;

/// Microseconds of processor time in each period, and the period: short, but long enough that the
/// share is one that the kernel takes.
fn cpu_quota(millicores: u32) -> (u64, u64) {
    let millicores = u64::from(millicores.max(1));
    let period = CPU_PERIOD_USEC.max((CPU_QUOTA_LEAST_USEC * 1000).div_ceil(millicores));
    (period * millicores / 1000, period)
}

fn write_setting(file: &Path, value: &str) -> Result<(), CgroupError> {
    let optional = [MEMSW, SWAP_MAX, SOCKETS].iter().any(|name| file.ends_with(name));
    match write_value(file, value) {
        Err(error) if optional && error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => {
            Err(CgroupError::Write { file: file.to_owned(), value: value.to_owned(), source })
        }
        Ok(()) => Ok(()),
    }
}

/// Returns whether there was a device to throttle: one may have gone since it was listed.
fn write_line(group: &Path, (file, line): &throttle::Line) -> Result<bool, CgroupError> {
    let file = group.join(file);
    let written = when_there(write_value(&file, line));
    written.map_err(|source| CgroupError::Write { file, value: line.clone(), source })
}

fn processors() -> u32 {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn disks() -> Result<Vec<Device>, CgroupError> {
    disk::whole_disks()
        .map_err(|source| CgroupError::Read { folder: PathBuf::from("/sys/block"), source })
}

fn make_folder(folder: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(CgroupError::Make { folder: folder.to_owned(), source }),
        Ok(()) => Ok(()),
    }
}

/// Removes a group with all groups below it. No error where it is absent.
fn remove_tree(folder: &Path) -> io::Result<()> {
    for child in children(folder)? {
        remove_tree(&child)?;
    }
    when_there(fs::remove_dir(folder)).map(drop)
}

/// The groups right below `folder`; none where it is absent.
fn children(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

fn collect_members(folder: &Path, members: &mut BTreeSet<i32>) -> io::Result<()> {
    match fs::read_to_string(folder.join(PROCS)) {
        Err(error) if is_gone(&error) => return Ok(()),
        text => members.extend(text?.lines().filter_map(|line| line.parse::<i32>().ok())),
    }
    children(folder)?.iter().try_for_each(|child| collect_members(child, members))
}

/// Writes to a file of the kernel's, which must exist.
fn write_value(file: &Path, value: &str) -> io::Result<()> {
    File::options().write(true).open(file)?.write_all(value.as_bytes())
}

/// A file's text, empty where it can't be read.
fn read_value(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

/// The number after `key` in a file of `key number` lines.
fn field(text: &str, key: &str) -> Option<u64> {
    let value = |line: &str| line.split_once(' ').filter(|(k, _)| *k == key)?.1.trim().parse().ok();
    text.lines().find_map(value)
}

/// Whether the file or folder of `result` was there; other errors stay.
fn when_there(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Err(error) if is_gone(&error) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Whether an error says that a group is not there, or has gone since its file was opened.
fn is_gone(error: &io::Error) -> bool {
    let gone = rustix::io::Errno::NODEV.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(gone)
}

/// Whether the version 2 tree at `mount_point` is shown from the machine's own root, which alone has no such file; a
/// container's root is a group like others. Source: the kernel's `Documentation/admin-guide/cgroup-v2.rst`.
fn is_machines_root(mount_point: &Path) -> bool {
    !mount_point.join("cgroup.events").exists()
}

fn available_controllers(mount_point: &Path) -> Vec<String> {
    read_value(&mount_point.join("cgroup.controllers"))
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

fn remedy(controller: Controller) -> &'static str {
    match controller {
        Controller::Memory => "boot with cgroup_enable=memory",
        _ => "use a kernel that has it, and mount it below /sys/fs/cgroup",
    }
}

#[cfg(test)]
mod tests {
    use ace_types::Bytes;

    use super::*;

    fn written(version: Version, controllers: &[Controller]) -> Vec<String> {
        let (path, controllers) = (PathBuf::new(), controllers.to_vec());
        let folder = Folder { path, version, controllers, stands_alone: false };
        let limits = Limits { memory: Bytes::mib(1), pids: 7, ..Limits::for_app() };
        settings(&folder, &limits).iter().map(|(file, value)| format!("{file}={value}")).collect()
    }

    #[test]
    fn version_2_takes_limits_in_its_own_files() {
        let all = [Controller::Cpu, Controller::Memory, Controller::Pids];
        assert_eq!(
            written(Version::V2, &all),
            ["cpu.max=20000 20000", "memory.max=1048576", "memory.swap.max=0", "pids.max=7"]
        );
    }

    #[test]
    fn version_1_bounds_memory_with_swap_to_the_same() {
        let expected = [
            "memory.memsw.limit_in_bytes=-1",
            "memory.limit_in_bytes=1048576",
            "memory.memsw.limit_in_bytes=1048576",
            "memory.kmem.tcp.limit_in_bytes=131072",
        ];
        assert_eq!(written(Version::V1, &[Controller::Memory]), expected);
    }

    #[test]
    fn a_small_share_of_a_core_has_a_longer_period() {
        assert_eq!(cpu_quota(2000), (40_000, 20_000));
        assert_eq!(cpu_quota(50), (1_000, 20_000));
        for millicores in 0..50 {
            let (quota, period) = cpu_quota(millicores);
            assert!(quota >= CPU_QUOTA_LEAST_USEC && period <= 1_000_000, "{millicores}");
        }
    }

    fn tree(at: &Path, version: Version, controllers: &[Controller]) -> Hierarchy {
        Hierarchy { mount_point: at.to_owned(), version, controllers: controllers.to_vec() }
    }

    /// Where the container `x` stands in the first of `trees`.
    fn place(trees: &[Hierarchy], is_machines: bool, systemd: bool) -> PathBuf {
        let tree = CgroupTree::of("ace-abcd", trees.to_vec(), |_| is_machines, systemd);
        tree.get("x").folders[0].path.clone()
    }

    #[test]
    fn only_at_the_machines_root_a_container_of_version_2_stands_alone() {
        let v2 = [tree(Path::new("/c"), Version::V2, &[Controller::Cpu])];
        assert_eq!(place(&v2, true, true), Path::new("/c/ace-abcd.x"));
        assert_eq!(place(&v2, true, false), Path::new("/c/ace-abcd.x"));
        assert_eq!(place(&v2, false, true), Path::new("/c/system.slice/ace-abcd.scope/x"));
        assert_eq!(place(&v2, false, false), Path::new("/c/ace-abcd/x"));
        let hybrid = [tree(Path::new("/u"), Version::V2, &[]), v2[0].clone()];
        assert_eq!(place(&hybrid, true, true), Path::new("/u/ace-abcd/x"));
    }

    #[test]
    fn where_processors_are_shared_out_containers_stand_below_the_root() {
        for version in [Version::V1, Version::V2] {
            let root = tempfile::tempdir().unwrap();
            let trees = vec![tree(root.path(), version, &[Controller::Cpu])];
            let tree = CgroupTree::of("ace-abcd", trees, |_| true, true);
            let group = &tree.get("one").folders[0];
            assert_eq!(group.path, root.path().join("ace-abcd.one"));
            assert_eq!(group.root_of_v1(), (version == Version::V1).then_some(root.path()));
            for folder in ["ace-abcd.one", "ace-abce.two", "docker"] {
                fs::create_dir(root.path().join(folder)).unwrap();
            }
            assert_eq!(tree.list().unwrap(), ["one"]);
        }
    }

    #[test]
    fn what_of_its_controllers_a_group_lacks_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list");
        let group = |version| Folder {
            path: folder.path().to_owned(),
            version,
            controllers: vec![Controller::Cpu, Controller::Memory],
            stands_alone: true,
        };
        fs::write(&list, "cpuset memory pids\n").unwrap();
        assert_eq!(group(Version::V2).missing_in(&list), ["cpu"]);
        assert_eq!(group(Version::V1).missing_in(&list), [""; 0]);
        assert!(!group(Version::V2).lacks_controllers(), "one that has gone lacks nothing");
        fs::create_dir(folder.path().join(APP)).unwrap();
        assert!(group(Version::V2).lacks_controllers());
    }

    /// An engine's groups at the machine's own root, or as one has them that sees a part of the tree; `None` where
    /// there is no version 2 tree with controllers.
    fn real_tree(name: &str, is_machines: bool, systemd: bool) -> Option<CgroupTree> {
        let v2 = Path::new("/sys/fs/cgroup");
        let controllers = [Controller::Cpu, Controller::Memory, Controller::Pids];
        let has = |found: &Controller| available_controllers(v2).contains(&found.name().to_owned());
        if !rustix::process::geteuid().is_root() || !controllers.iter().all(has) {
            eprintln!("skipped: not root, or no controllers in a version 2 tree");
            return None;
        }
        let trees = vec![tree(v2, Version::V2, &controllers)];
        Some(CgroupTree::of(name, trees, |_| is_machines, systemd))
    }

    #[test]
    fn groups_are_made_wherever_they_stand_and_leave_nothing() {
        for is_machines in [true, false] {
            let name = format!("ace-t{}", std::process::id());
            let Some(tree) = real_tree(&name, is_machines, false) else { return };
            let group = tree.create("one", &Limits::for_app()).unwrap();
            assert_eq!(read_value(&group.folders[0].path.join("app/pids.max")), "256\n");
            tree.remove_all().unwrap();
            assert!(!tree.folders[0].path.exists() && !group.folders[0].path.exists());
        }
    }

    #[test]
    fn a_controller_that_was_taken_away_is_there_again() {
        let name = format!("ace-u{}", std::process::id());
        let Some(tree) = real_tree(&name, true, false) else { return };
        let group = tree.create("one", &Limits::for_app()).unwrap();
        let path = &group.folders[0].path;
        let above = path.parent().unwrap().join("cgroup.subtree_control");
        let refused = write_value(&above, "-pids").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy, "while the container has it");
        assert!(!tree.restore_limits("one", &Limits::for_app()).unwrap());
        write_value(&path.join("cgroup.subtree_control"), "-pids").unwrap();
        assert!(!path.join("app/pids.max").exists());
        assert!(tree.restore_limits("one", &Limits::for_app()).unwrap());
        assert_eq!(read_value(&path.join("app/pids.max")), "256\n");
        tree.remove_all().unwrap();
    }

    #[test]
    fn a_scope_goes_with_the_last_who_is_in_it() {
        let name = format!("ace-v{}", std::process::id());
        let made = || real_tree(&name, false, true).filter(|_| scope::systemd_runs());
        let Some(tree) = made() else { return eprintln!("skipped: systemd does not own the tree") };
        let group = tree.create("one", &Limits::for_app()).unwrap();
        let scope = tree.folders[0].path.clone();
        let mut app = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        write_value(&group.folders[0].path.join("app").join(PROCS), &app.id().to_string()).unwrap();
        drop(tree);
        assert!(scope.is_dir(), "the engine is gone, and its app keeps the scope");
        app.kill().unwrap();
        app.wait().unwrap();
        let until = Instant::now() + REMOVE_ALL_DEADLINE;
        while scope.exists() {
            assert!(Instant::now() < until, "systemd has not removed {}", scope.display());
            std::thread::sleep(PAUSE_MOST);
        }
        let next = made().unwrap();
        next.create("two", &Limits::for_app()).unwrap();
        assert!(scope.is_dir());
        next.remove_all().unwrap();
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!(field("oom_kill_disable 0\n", "oom_kill"), None);
    }
}
