//! The launcher: a process of one thread, root on the host, that makes one container and leaves.
//!
//! ```text
//! engine ──order──▶ launcher ──fork──▶ init ──fork──▶ the tenant's program
//!        ◀─report──     └ends                └stays
//! ```
//!
//! It joins the control groups and makes the network, then forks process 1 of the container, which
//! builds the root file system ([`crate::rootfs`]) and enters the user namespace last. That needs
//! someone outside to write its maps of ids, so the two talk: see [`Word`].

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use ace_types::IdRange;
use rustix::fs::Mode;
use rustix::process::{
    Pid, Resource, Rlimit, getpriority_process, getrlimit, setpriority_process, setrlimit, setsid,
    umask,
};
use rustix::system::sethostname;
use rustix::thread::UnshareFlags;

use crate::cgroup::{self, Cgroup};
use crate::channel::{self, Report};
use crate::failure::{Failure, Step};
use crate::id_map::IdMap;
use crate::init::Init;
use crate::launch::Launched;
use crate::network::{self, HostNetlink};
use crate::process::ProcessRef;
use crate::spec::{ContainerSpec, NetworkSpec, SocketUse};
use crate::sys::{self, Fork};

/// How much sooner than the host's own services a container's processes are chosen when the whole
/// machine is out of memory.
const OOM_SCORE_ADJUSTMENT: &str = "300";

/// What launcher and init say to each other: one byte each, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Word {
    /// Init: I am in my user namespace, which has no ids yet.
    Entered = b'e',
    /// Launcher: now it has.
    Mapped = b'm',
    /// Init: all that could fail has been done.
    Ready = b'r',
    /// Launcher: the engine knows of you; start the tenant's program.
    Go = b'g',
}

/// The process of the hidden command: standard input is the engine's socket.
pub fn main() -> ExitCode {
    // Whatever the engine's other threads had open by chance stops here.
    let engine = sys::close_descriptors_from(3).and_then(|()| take_standard_input());
    let Ok(engine) = engine else { return ExitCode::FAILURE };
    match run(&engine) {
        Ok(Side::Launcher) => ExitCode::SUCCESS,
        Ok(Side::Init(init)) => {
            drop(engine); // No tenant may find it, and the engine waits for its end.
            init.run()
        }
        Err(Ended::Silent) => ExitCode::FAILURE,
        Err(Ended::Failed(failure)) => {
            // Nobody listens if this fails.
            let _ = channel::send_report(&engine, &Report::Failed(failure.into()));
            ExitCode::FAILURE
        }
    }
}

/// Which of the two processes this is, after the fork.
enum Side {
    Launcher,
    Init(Box<Init>),
}

/// Why launcher or init ends before there is a container.
pub enum Ended {
    /// The other one has ended first, and tells the engine why.
    Silent,
    Failed(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Word {
    pub fn send(self, mut to: &UnixStream) -> io::Result<()> {
        to.write_all(&[self as u8])
    }

    /// Waits for this word. Errors: the other side has ended, or said something else.
    pub fn expect(self, mut from: &UnixStream) -> io::Result<()> {
        let mut word = [0];
        from.read_exact(&mut word)?;
        if word == [self as u8] { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

fn run(engine: &UnixStream) -> Result<Side, Ended> {
    let (order, descriptors) = channel::receive_order(engine).step("read what to launch")?;
    let spec = order.spec;

    setsid().step("leave the terminal's session")?; // Its Ctrl-C is not for apps.
    set_process_attributes(&spec).step("set the container's resource limits")?;
    let app_groups = enter_cgroups(&spec.cgroup).step("join the container's control groups")?;
    enter_network(&spec.network)?;
    let id_map = map_layers(&spec)?;
    enter_namespaces(&spec)?;

    let (ours, theirs) = UnixStream::pair().step("make a socket pair")?;
    match sys::fork().step("fork process 1")? {
        Fork::Child => {
            drop(ours);
            let init = Init::prepare(spec, id_map, descriptors, app_groups, theirs)?;
            Ok(Side::Init(Box::new(init)))
        }
        Fork::Parent { child } => {
            drop(theirs);
            see_through(child, spec.ids, &ours, engine)?;
            Ok(Side::Launcher)
        }
    }
}

/// Moves the engine's socket off number 0, where `/dev/null` comes to stand.
fn take_standard_input() -> io::Result<UnixStream> {
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let null = fs::File::open("/dev/null")?;
    sys::install_descriptor(null.as_fd(), 0)?;
    Ok(UnixStream::from(socket))
}

/// What the processes inside inherit and may no longer raise.
fn set_process_attributes(spec: &ContainerSpec) -> io::Result<()> {
    umask(Mode::WGRP | Mode::WOTH);
    // The tenant's process takes it down to its own limit; raising needs a capability of the host.
    let wanted = u64::from(spec.process.open_files_max).max(descriptors_of_init(spec));
    let files = getrlimit(Resource::Nofile);
    if files.maximum.is_some_and(|maximum| maximum < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: Some(wanted) })?;
    } else if files.current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..files })?;
    }
    leave_priority()?;
    // Whose processes these are, for getlogin(3) inside and the host's audit. A kernel without audit
    // has no such file, and where an administrator has fixed it, it stays as it is.
    let _ = fs::write("/proc/self/loginuid", spec.ids.host_id(IdRange::APP).to_string());
    fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJUSTMENT)
}

/// The engine may go before others on this machine; a container does not.
fn leave_priority() -> io::Result<()> {
    sys::schedule_as_usual()?;
    if getpriority_process(None)? < 0 {
        setpriority_process(None, 0)?;
    }
    Ok(())
}

/// How many descriptors init may have open: two for each connection that it forwards, and its own.
fn descriptors_of_init(spec: &ContainerSpec) -> u64 {
    const OWN: u64 = 64;
    match spec.process.socket {
        Some(SocketUse::Forward { connections_max, .. }) => 2 * u64::from(connections_max) + OWN,
        Some(SocketUse::Inherit { .. }) | None => OWN,
    }
}

/// Joins the `init` groups; returns the way into the `app` groups, which are what the container's
/// cgroup namespace calls `/`.
fn enter_cgroups(cgroup: &Cgroup) -> io::Result<Vec<OwnedFd>> {
    // Opened while this process may use them: the kernel asks later what the opener might do, and
    // from the new namespace neither of them could be reached.
    let (app_groups, init_groups) = (cgroup.open_app_procs()?, cgroup.open_init_procs()?);
    cgroup::move_into(&app_groups)?;
    sys::unshare(UnshareFlags::NEWCGROUP)?;
    cgroup::move_into(&init_groups)?;
    Ok(app_groups)
}

fn enter_network(spec: &NetworkSpec) -> Result<(), Failure> {
    let host = HostNetlink::open().step("open a netlink socket")?;
    sys::unshare(UnshareFlags::NEWNET).step("make a network namespace")?;
    // Nobody inside has a capability, and an app may want port 80 of its own address.
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
        .step("open the low ports of the container's network")?;
    match spec {
        NetworkSpec::Loopback => network::bring_up_loopback(),
        // A kernel that can't bound its bandwidth has been told of by the engine.
        NetworkSpec::Veth(wire) => network::connect_veth(&host, wire).map(drop),
    }
    .map_err(io::Error::other)
    .step("connect the container's network")
}

/// What the layers' mounts need; made here, as a child of the new process namespace would be its
/// process 1.
fn map_layers(spec: &ContainerSpec) -> Result<Option<IdMap>, Failure> {
    if spec.root.layers.is_empty() {
        return Ok(None);
    }
    let id_map = IdMap::of_root(spec.ids.host_id(IdRange::APP));
    id_map.map(Some).step("make a map of owners")
}

/// The rest of the namespaces, but those of mounts and users, which are process 1's to make.
fn enter_namespaces(spec: &ContainerSpec) -> Result<(), Failure> {
    let flags = UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWPID;
    sys::unshare(flags).step("make namespaces")?;
    sethostname(spec.host_name.as_bytes()).step("set the container's host name")
}

/// The launcher's part while the child becomes init.
fn see_through(
    child: Pid,
    ids: IdRange,
    init: &UnixStream,
    engine: &UnixStream,
) -> Result<(), Ended> {
    Word::Entered.expect(init).map_err(|_| Ended::Silent)?;
    map_ids(child, ids).step("map the container's user ids")?;
    Word::Mapped.send(init).step("wake init")?;
    Word::Ready.expect(init).map_err(|_| Ended::Silent)?;

    let pid = child.as_raw_nonzero().get().unsigned_abs();
    let ProcessRef { pid, start_time } = ProcessRef::of(pid).step("read init's start time")?;
    // In this order: an init that the engine does not know of must never start anything.
    channel::send_report(engine, &Report::Launched(Launched { pid, start_time }))
        .step("report the container")?;
    Word::Go.send(init).step("let init go on").map_err(Ended::from)
}

/// Makes ids 0 to [`IdRange::COUNT`] in the child's user namespace those of the host from `ids` on.
fn map_ids(child: Pid, ids: IdRange) -> io::Result<()> {
    let map = format!("0 {} {}", ids.first(), IdRange::COUNT);
    let child = child.as_raw_nonzero();
    fs::write(format!("/proc/{child}/uid_map"), &map)?;
    fs::write(format!("/proc/{child}/gid_map"), &map)
}
