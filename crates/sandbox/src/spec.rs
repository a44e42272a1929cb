//! What a container is to be. Crosses from the engine to the launcher as JSON.
//!
//! The launcher and init trust it: it comes from the engine over an inherited descriptor, never
//! from a tenant. What a tenant chose in it (arguments, environment) is only ever handed to the
//! tenant's own process.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use ace_types::{Bytes, IdRange, TerminalSize};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::network::Wire;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub host_name: String,
    pub ids: IdRange,
    /// Made beforehand by [`crate::cgroup::CgroupTree::create`].
    pub cgroup: Cgroup,
    pub root: RootSpec,
    pub network: NetworkSpec,
    pub process: ProcessSpec,
    pub output: OutputSpec,
    /// How long the tenant's processes may take between SIGTERM to init and SIGKILL.
    pub stop_grace: Duration,
}

/// The file system: a small read-only tmpfs with these things in it, besides what every container
/// has (`/proc` masked, a small `/dev`, `/usr` and its links, a rendered `/etc`).
///
/// They are put there in the order of these fields: files, binds, layers, tmpfs, the volume. Each hides what
/// was at its target before. What is missing on the way to a target is made in the container's own
/// tmpfs only: a target in a bind, or in a tmpfs of these, has to be there.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RootSpec {
    /// Small files rendered into the root, readable by all: (absolute path, content).
    pub files: Vec<(PathBuf, String)>,
    pub binds: Vec<Bind>,
    pub layers: Vec<Layer>,
    pub tmpfs: Vec<Tmpfs>,
    /// A volume at `/ace/data`.
    pub volume: Option<VolumeMount>,
    /// How many terminals may be open in the container's own `/dev/pts`; at 0 there is none.
    pub terminals: u32,
    /// Nameservers of `/etc/resolv.conf`.
    pub nameservers: Vec<Ipv4Addr>,
}

/// `source` on the host appears at `target`, without device files and set-user-id programs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bind {
    /// No link: what is bound is often a folder that a tenant's program could write to.
    pub source: PathBuf,
    /// Absolute; its parents are made.
    pub target: PathBuf,
    pub writable: bool,
    /// Nothing in it may be run as a program.
    pub noexec: bool,
}

/// `source`, a folder of the host's, appears at `target` as the tenant's own, which may change all of it:
/// what it changes is in memory, and gone with the container. `source` stays as it is. Without device
/// files and set-user-id programs.
///
/// A machine that can't do this shows `source` to be read only; see [`crate::survey`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Layer {
    /// What is in it belongs to root, and becomes the tenant's. No link, as in [`Bind::source`].
    pub source: PathBuf,
    /// Absolute; its parents are made.
    pub target: PathBuf,
    /// Of what is changed: a file counts in full once a byte of it is.
    pub size: Bytes,
    pub inodes: u64,
}

/// A writable file system in memory, owned by the tenant, mode 1777.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tmpfs {
    pub target: PathBuf,
    pub size: Bytes,
    pub inodes: u64,
}

/// What [`crate::volume::ensure`] has made ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeMount {
    pub source: VolumeSource,
    pub target: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum VolumeSource {
    /// An ext4 on a loop device, `/dev/loopN`.
    Device(PathBuf),
    /// A folder of the host's, the tenant's own.
    Folder(PathBuf),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum NetworkSpec {
    /// A loopback interface and nothing else.
    Loopback,
    /// `eth0`, whose other end is on the host. Dies with the container.
    Veth(Wire),
}

/// The tenant's process, as user [`IdRange::APP`], without capabilities.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// The program and its arguments; never empty. A program without a slash is looked for in `PATH`
    /// of `env`; otherwise it's a path inside.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    pub working_directory: PathBuf,
    pub keep: Option<Keep>,
    /// What becomes of the listening socket, where one is handed over.
    pub socket: Option<SocketUse>,
    pub open_files_max: u32,
    /// The largest file it may write, where bounded.
    pub file_size_max: Option<Bytes>,
    /// Who gets the signals that init passes on.
    pub signals: SignalTarget,
}

/// Paths of a layer that outlive it. Before the program starts, and with its rights alone, each is
/// replaced by a link to the same path in `store`; where that is not there yet, it begins as what the
/// layer has at the path or, without that, as a folder or, for a name with an extension, a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// The layer's target.
    pub code: PathBuf,
    /// A folder that outlives the container; it's made.
    pub store: PathBuf,
    /// Relative to both, without `.` and `..`; none is in another.
    pub paths: Vec<PathBuf>,
}

/// Who takes the connections of the listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketUse {
    /// The tenant's process, which finds the socket under this descriptor number.
    Inherit { descriptor: i32 },
    /// Init, which passes them on, byte by byte, to a port of the container's own that the tenant's
    /// process listens on; at most `connections_max` at once. The others wait in the backlog, and so
    /// do all while nothing listens.
    Forward { port: u16, connections_max: u32 },
}

/// Whom init passes signals on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalTarget {
    /// The program alone, which sees to its children itself: a server with workers.
    Program,
    /// The program and all it has started in its process group, as Ctrl-C does: a shell's command.
    Group,
}

/// Where the tenant's standard output and error go.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum OutputSpec {
    /// The launcher's own descriptors 1 and 2, which the caller made.
    Inherit,
    /// Files in a folder of the host's, bounded in size and rate, written by init.
    Log(LogSpec),
    /// A terminal of this size in the container's own `/dev/pts`, which is standard input as well and
    /// the process's controlling terminal. See [`crate::launch::launch_on_terminal`].
    Terminal(TerminalSize),
}

/// Log files of one instance: `current`, then `1`, `2`… the older the higher.
///
/// A line is `2026-11-23T05:49:27.123456Z out text\n`: time, stream (`out`, `err`, or `ace` for
/// init's own remarks), the text without its line end, at most [`LogSpec::LINE_MAX`] bytes; what is
/// longer goes on in a further line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogSpec {
    /// On the host; made beforehand. Also bound at `/ace/log`, read-only for the tenant.
    pub folder: PathBuf,
    /// Of all files together.
    pub size_max: Bytes,
    /// Sustained; [`LogSpec::BURST`] seconds of it may come at once. What is beyond is dropped and
    /// counted in a line of stream `ace`, and in the file [`LogSpec::DROPPED`].
    pub rate_max_per_second: Bytes,
}

impl LogSpec {
    pub const LINE_MAX: usize = 8192;
    /// Files that the size is split over.
    pub const FILES: u64 = 5;
    /// Seconds of the sustained rate that may come at once.
    pub const BURST: u64 = 16;
    /// The file that is being written.
    pub const CURRENT: &str = "current";
    /// The file that says how many lines have been dropped.
    pub const DROPPED: &str = "dropped";
    /// The file that says what has been written beside the code; see [`crate::written`].
    pub const WRITTEN: &str = "written";
}

/// How a container ended: one JSON line that init writes to [`crate::launch::Handles::exit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The process's exit status, where it left by itself.
    pub status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether init had been asked to stop it before.
    pub asked: bool,
    pub found: Found,
}

/// What init found when the program had ended, or just before it killed it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// What the program has left at [`Found::REPORT`], where it has; the tenant's word.
    pub report: Option<String>,
    /// Where among the layers, the tmpfs and the volume nothing more could be written.
    pub full: Vec<PathBuf>,
}

impl Found {
    /// Where a program may leave a word on how it fares. It needs a tmpfs to be in.
    pub const REPORT: &str = "/ace/run/report";
    /// What is read of it.
    pub const REPORT_MAX_BYTES: u64 = 1024;
    /// Nothing.
    pub const NOTHING: Self = Self { report: None, full: Vec::new() };
}
