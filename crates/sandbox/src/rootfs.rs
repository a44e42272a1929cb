//! The root file system of a container: a small read-only tmpfs with binds in it.
//!
//! Built by the container's process 1 while it is still root on the host, in a mount namespace of
//! its own, which therefore belongs to the host's user namespace: nobody inside may change it.
//! What the host has (`/usr`, parts of `/etc`) is bound, not copied: its pages are shared by all.
//!
//! Every mount's target is reached one name at a time, following no link, from a descriptor of the
//! new root. Names are made in our own tmpfs only, never below a bind.

mod etc;
mod layer;
mod mount;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ace_types::{Bytes, IdRange};
use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, fstat, open};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{chdir, fchdir, pivot_root};
use rustix::thread::UnshareFlags;

use crate::failure::{Failure, Step};
use crate::id_map::IdMap;
use crate::spec::{
    Bind, ContainerSpec, Layer, OutputSpec, RootSpec, Tmpfs, VolumeMount, VolumeSource,
};
use crate::sys;
use mount::Tree;

/// Where the new root is mounted until it is the root. Any folder would do that is there on every
/// host and that no bind has its source below.
const STAGING: &str = "/sys/kernel";

/// Where the tenant finds its log.
const LOG: &str = "/ace/log";

/// Where a program opens a new terminal.
pub const PTMX: &str = "/dev/ptmx";

/// What the rendered files may take. They are a few kilobytes.
const ROOT_OPTIONS: &str = "mode=755,size=4m,nr_inodes=1024";

/// Folders of a distribution that are links into `/usr`, or, where it has not merged them, folders.
const USR_LINKS: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Devices that a program may expect.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const DEVICE_LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Of `/proc`, what tells of the host or lets root do something to it. While `locks` is read, nobody on the machine takes or
/// gives back a lock of a file.
const PROC_MASKED: [&str; 19] = [
    "acpi",
    "asound",
    "buddyinfo",
    "fs",
    "interrupts",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "latency_stats",
    "locks",
    "sched_debug",
    "scsi",
    "sysrq-trigger",
    "timer_list",
    "timer_stats",
    "vmallocinfo",
    "zoneinfo",
];

const PROC_READ_ONLY: [&str; 3] = ["bus", "irq", "sys"];

/// What no mount has but the few that need it.
const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const READ_ONLY: MountFlags = PLAIN.union(MountFlags::RDONLY);

/// Of a device file. Read-only keeps its mode and times; what is written to it is not the mount's.
const DEVICE: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC).union(MountFlags::RDONLY);

/// What leads out of a new root, for init alone.
pub struct Ways {
    /// The log's folder, writable, where the container has one. Inside it is read-only.
    pub log: Option<OwnedFd>,
    pub layers: Vec<OpenLayer>,
}

/// A layer that is in place.
pub struct OpenLayer {
    pub target: PathBuf,
    /// All that is written to it, and nothing else. A file of it can't be changed by this way.
    pub written: OwnedFd,
}

/// Makes the container's root and enters it. The caller is process 1 of its pid namespace, and root.
///
/// `id_map` is what layers need, and a container without any doesn't.
pub fn enter(spec: &ContainerSpec, id_map: Option<&IdMap>) -> Result<Ways, Failure> {
    let host_root = enter_mount_namespace().step("make a mount namespace")?;
    let root = Tree::create(Path::new(STAGING), ROOT_OPTIONS).step("mount the new root")?;

    add_system(&root)?;
    etc::add(&root, spec)?;
    add_devices(&root)?;
    add_terminals(&root, spec.root.terminals, spec.ids)?;
    add_proc(&root)?;
    let layers = add_tenants(&root, &spec.root, id_map, spec.ids)?;
    let log = add_log(&root, &spec.output)?;

    root.seal().step("make the new root read-only")?;
    pivot(&root, &host_root).step("enter the new root")?;
    Ok(Ways { log, layers })
}

/// Whether `folder` can have a layer; see [`Layer`]. Enters a mount namespace of its own, so the calling
/// thread is of no use afterwards.
pub fn can_have_layer(folder: &Path, ids: IdRange) -> Result<bool, Failure> {
    let id_map = IdMap::of_root(ids.host_id(IdRange::APP)).step("make a map of owners")?;
    enter_mount_namespace().step("make a mount namespace")?;
    let root = Tree::create(Path::new(STAGING), ROOT_OPTIONS).step("mount a root")?;
    let (source, target) = (folder.to_owned(), "/layer".into());
    let layer = Layer { source, target, size: Bytes::mib(1), inodes: 16 };
    layer::add(&root, &layer, &id_map, ids).map(|layer| layer.is_some())
}

/// Returns the old root.
fn enter_mount_namespace() -> io::Result<OwnedFd> {
    sys::unshare(UnshareFlags::NEWNS)?;
    // Else what we mount appears on the host.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The host's programs and libraries.
fn add_system(root: &Tree) -> Result<(), Failure> {
    bind(root, Path::new("/usr"), Path::new("/usr"), READ_ONLY)?;
    for name in USR_LINKS {
        let path = Path::new("/").join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                let to = fs::read_link(&path).step(format!("read {}", path.display()))?;
                root.link(&path, &to).step(format!("link {}", path.display()))?;
            }
            Ok(_) => bind(root, &path, &path, READ_ONLY)?,
            Err(_) => {}
        }
    }
    // The C library counts processors here.
    bind_where_present(root, Path::new("/sys/devices/system/cpu"), READ_ONLY)
}

fn add_devices(root: &Tree) -> Result<(), Failure> {
    for name in DEVICES {
        bind_where_present(root, &Path::new("/dev").join(name), DEVICE)?;
    }
    for (path, to) in DEVICE_LINKS {
        root.link(Path::new(path), Path::new(to)).step(format!("link {path}"))?;
    }
    Ok(())
}

/// The container's own `/dev/pts`: no terminal of the host's, nor of another container's, is in it.
fn add_terminals(root: &Tree, most: u32, ids: IdRange) -> Result<(), Failure> {
    if most == 0 {
        return Ok(());
    }
    let owner = ids.host_id(IdRange::APP);
    let options = format!("newinstance,ptmxmode=0666,mode=0600,uid={owner},gid={owner},max={most}");
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    root.mount_new("devpts", Path::new("/dev/pts"), flags, &options).step("mount /dev/pts")?;
    root.link(Path::new(PTMX), Path::new("pts/ptmx")).step(format!("link {PTMX}"))
}

/// `/proc` of the container's own processes. Those of other users, which is init, are not shown.
fn add_proc(root: &Tree) -> Result<(), Failure> {
    let flags = PLAIN | MountFlags::NOEXEC;
    let proc = Path::new("/proc");
    root.mount_new("proc", proc, flags, "hidepid=2").step("mount /proc")?;
    for name in PROC_READ_ONLY {
        bind_over(root, &proc.join(name), READ_ONLY | MountFlags::NOEXEC)?;
    }
    for name in PROC_MASKED {
        let path = proc.join(name);
        let step = format!("mask {}", path.display());
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {
                let flags = READ_ONLY | MountFlags::NOEXEC;
                root.mount_new("tmpfs", &path, flags, "mode=0,size=4k,nr_inodes=2").step(step)?;
            }
            Ok(_) => root.bind(Path::new("/dev/null"), &path, DEVICE).step(step)?,
            Err(_) => {}
        }
    }
    Ok(())
}

/// What this container has beyond the others.
fn add_tenants(
    root: &Tree,
    spec: &RootSpec,
    id_map: Option<&IdMap>,
    ids: IdRange,
) -> Result<Vec<OpenLayer>, Failure> {
    for (path, content) in &spec.files {
        root.write(path, content).step(format!("write {}", path.display()))?;
    }
    for Bind { source, target, writable, noexec } in &spec.binds {
        let mut flags = if *writable { PLAIN } else { READ_ONLY };
        flags.set(MountFlags::NOEXEC, *noexec);
        let step = format!("bind {} at {}", source.display(), target.display());
        root.bind_no_link(source, target, flags).step(step)?;
    }
    let layers = add_layers(root, &spec.layers, id_map, ids)?;
    for tmpfs in &spec.tmpfs {
        add_tmpfs(root, tmpfs, ids)?;
    }
    if let Some(volume) = &spec.volume {
        add_volume(root, volume, ids)?;
    }
    Ok(layers)
}

/// Returns those that this machine can make.
fn add_layers(
    root: &Tree,
    layers: &[Layer],
    id_map: Option<&IdMap>,
    ids: IdRange,
) -> Result<Vec<OpenLayer>, Failure> {
    let mut open = Vec::new();
    for layer in layers {
        let id_map = id_map.ok_or(Errno::INVAL).step("map the owners of a layer")?;
        let written = layer::add(root, layer, id_map, ids)?;
        open.extend(written.map(|written| OpenLayer { target: layer.target.clone(), written }));
    }
    Ok(open)
}

fn add_tmpfs(root: &Tree, tmpfs: &Tmpfs, ids: IdRange) -> Result<(), Failure> {
    let Tmpfs { target, size, inodes } = tmpfs;
    let owner = ids.host_id(IdRange::APP);
    let options = format!("mode=1777,uid={owner},gid={owner},size={},nr_inodes={inodes}", size.0);
    root.mount_new("tmpfs", target, PLAIN, &options)
        .step(format!("mount a tmpfs at {}", target.display()))
}

fn add_volume(root: &Tree, volume: &VolumeMount, ids: IdRange) -> Result<(), Failure> {
    let VolumeMount { source, target } = volume;
    match source {
        VolumeSource::Device(device) => root
            .mount_device(device, "ext4", target, PLAIN)
            .step(format!("mount {} at {}", device.display(), target.display()))?,
        VolumeSource::Folder(folder) => root.bind_no_link(folder, target, PLAIN).step(format!(
            "bind {} at {}",
            folder.display(),
            target.display()
        ))?,
    }
    own_volume(root, target, ids).step(format!("give {} to the app", target.display()))
}

/// Gives the volume's topmost folder to the tenant, where it is still root's.
fn own_volume(root: &Tree, target: &Path, ids: IdRange) -> io::Result<()> {
    let folder = root.open_folder(target)?;
    let owner = ids.host_id(IdRange::APP);
    if fstat(&folder)?.st_uid != owner {
        fchown(&folder, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
    }
    Ok(())
}

/// The log's folder twice: a writable mount that only init's descriptor leads to, and over it a
/// read-only one that the tenant sees.
fn add_log(root: &Tree, output: &OutputSpec) -> Result<Option<OwnedFd>, Failure> {
    let OutputSpec::Log(log) = output else { return Ok(None) };
    let target = Path::new(LOG);
    bind(root, &log.folder, target, PLAIN | MountFlags::NOEXEC)?;
    let folder = root.open_folder(target).step("open the log's folder")?;
    bind_over(root, target, READ_ONLY | MountFlags::NOEXEC)?;
    Ok(Some(folder))
}

/// Exchanges the root of this process for the new one, and lets go of the old.
fn pivot(root: &Tree, host_root: &OwnedFd) -> io::Result<()> {
    fchdir(root.as_fd())?;
    pivot_root(".", ".")?;
    // The old root now lies on top of the new one, where only its descriptor reaches it.
    fchdir(host_root)?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(chdir("/")?)
}

fn bind(root: &Tree, source: &Path, target: &Path, flags: MountFlags) -> Result<(), Failure> {
    let step = format!("bind {} at {}", source.display(), target.display());
    root.bind(source, target, flags).step(step)
}

/// Binds `path` of the host at the same path, where the host has it.
fn bind_where_present(root: &Tree, path: &Path, flags: MountFlags) -> Result<(), Failure> {
    if path.exists() { bind(root, path, path, flags) } else { Ok(()) }
}

/// Binds what is at `path` in the new root over itself, with other flags.
fn bind_over(root: &Tree, path: &Path, flags: MountFlags) -> Result<(), Failure> {
    let staged = PathBuf::from(STAGING).join(path.strip_prefix("/").unwrap_or(path));
    if staged.exists() { bind(root, &staged, path, flags) } else { Ok(()) }
}
