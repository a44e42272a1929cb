//! One launched container: making it, waiting for its end, finding it again.

use std::error::Error;
use std::fs::File;
use std::io;
use std::iter::successors;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ace_api::{EndReason, FilesUsage, InstanceSpec, SpaceUsage};
use ace_sandbox::cgroup::{Cgroup, CgroupError, CgroupTree};
use ace_sandbox::launch::{Handles, LauncherProgram, launch as launch_container};
use ace_sandbox::mounts;
use ace_sandbox::network::{self, WayOut, Wire};
use ace_sandbox::process::{self, ProcessRef};
use ace_sandbox::space::{Files, Space, space};
use ace_sandbox::spec::ExitRecord;
use ace_sandbox::volume::folder::{is_full_unseen, space_of_folder};
use ace_sandbox::volume::{self, Place, Store, Volume};
use ace_types::{EngineId, IdRange, error_chain};
use ace_upstream::ProbeOutcome;
use rustix::process::Signal;
use tokio::io::unix::AsyncFd;

use crate::ending::{self, Facts};
use crate::meter::{Meters, Reading};
use crate::old_logs::OldLogs;
use crate::record::{InstanceFolder, Record};
use crate::shape::{self, Surroundings};
use crate::victims::Victims;
use crate::written;

/// What all instances of a node share.
pub struct World {
    pub engine: EngineId,
    pub launcher: Arc<LauncherProgram>,
    pub cgroups: Arc<CgroupTree>,
    /// The host's end of every container's network.
    pub gateway: Ipv4Addr,
    pub nameservers: Vec<Ipv4Addr>,
    pub old_logs: OldLogs,
    pub meters: Meters,
    pub victims: Victims,
    /// What new volumes are made as.
    pub volumes: Store,
    /// What commands were run.
    pub command_logs: OldLogs,
}

/// A container whose init was seen alive.
pub struct Container {
    process: ProcessRef,
    pidfd: AsyncFd<OwnedFd>,
    cgroup: Cgroup,
    /// Where its volume is, where it has one.
    volume: Option<Place>,
}

/// How long an init may take to kill all, and write how it was.
const LAST_WORD_WITHIN: Duration = Duration::from_secs(5);

/// Why a container could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("could not prepare its folder")]
    Folder(#[source] io::Error),
    #[error("could not make its socket")]
    Socket(#[source] io::Error),
    #[error("could not attach its volume")]
    Volume(#[source] volume::VolumeError),
    #[error("could not make its control group")]
    Cgroup(#[source] CgroupError),
    #[error("could not launch it")]
    Launch(#[source] ace_sandbox::launch::LaunchError),
    #[error("it ended before it could be watched")]
    Watch(#[source] io::Error),
}

impl StartError {
    /// What a tenant may know of it: nothing of the host's, but that its disk is full.
    pub fn for_tenant(&self) -> String {
        if let Self::Volume(volume::VolumeError::Shrink { has, asked, .. }) = self {
            return format!(
                "the app's volume has {has} and can't shrink to {asked}: say \"volume: {has}\" in app.yaml"
            );
        }
        let mut causes = successors(self.source(), |cause| (*cause).source());
        let is_full = causes.any(|cause| {
            let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
            matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
        });
        match is_full {
            true => format!("the engine {self}: its disk is full"),
            false => format!("the engine {self}; its own log says why"),
        }
    }
}

/// Makes the container of `spec`. Blocks for some milliseconds; call off the event loop, within a
/// runtime.
pub fn launch(
    world: &World,
    spec: &InstanceSpec,
    folder: &InstanceFolder,
    address: Ipv4Addr,
) -> Result<Container, StartError> {
    prepare_log(folder, spec.ids).map_err(StartError::Folder)?;
    let exit = File::create(folder.exit()).map_err(StartError::Folder)?;
    let socket = bind_socket(&folder.socket()).map_err(StartError::Socket)?;
    // Held until the launcher has mounted it; then the mount holds it.
    let volume = attach_volume(world, spec).map_err(StartError::Volume)?;
    let cgroup = make_groups(world, spec, volume.as_ref()).map_err(StartError::Cgroup)?;
    let surroundings = surroundings(world, spec, &cgroup, address, volume.as_ref(), folder.log());
    let handles = Handles {
        stdin: None,
        stdout: None,
        stderr: None,
        socket: Some(socket),
        exit: exit.into(),
    };
    let launched =
        launch_container(&world.launcher, &shape::container(spec, surroundings), handles)
            .map_err(StartError::Launch)?;
    let process = ProcessRef { pid: launched.pid, start_time: launched.start_time };
    let volume = volume.map(|volume| volume.place());
    watch(process, cgroup, volume).map_err(StartError::Watch)
}

/// Makes the control groups of `spec`, with its limits.
pub fn make_groups(
    world: &World,
    spec: &InstanceSpec,
    volume: Option<&Volume>,
) -> Result<Cgroup, CgroupError> {
    let (name, limits) = (spec.id.as_str(), &spec.limits);
    let cgroup = world.cgroups.create(name, limits)?;
    // What is on a disk of the machine's is throttled with all else that is there.
    if let Some(device) = volume.and_then(|volume| volume.place().device()) {
        world.cgroups.throttle_volume(name, device, limits)?;
    }
    Ok(cgroup)
}

/// What a container of `spec` finds around it; its log goes to the folder `log`.
pub fn surroundings(
    world: &World,
    spec: &InstanceSpec,
    cgroup: &Cgroup,
    address: Ipv4Addr,
    volume: Option<&Volume>,
    log: PathBuf,
) -> Surroundings {
    Surroundings {
        cgroup: cgroup.clone(),
        wire: wire(world, spec, address),
        nameservers: world.nameservers.clone(),
        volume: volume.map(Volume::source),
        log,
    }
}

fn wire(world: &World, spec: &InstanceSpec, address: Ipv4Addr) -> Wire {
    Wire {
        host_interface: network::veth_name(&world.engine, spec.id.as_str()),
        address,
        gateway: world.gateway,
        bandwidth: spec.limits.bandwidth,
    }
}

/// What there is of the container that a record tells of.
pub enum Found {
    Alive(Container),
    Ended(EndReason),
    /// There is none: it was to be launched, or an engine that is gone has asked it to end.
    Nothing,
}

/// Finds the container that `record` tells of, or else why it ended.
pub fn find(world: &World, folder: &InstanceFolder, record: &Record) -> Found {
    let id = &record.spec.id;
    let Some(process) = record.process else { return Found::Nothing };
    let cgroup = world.cgroups.get(id.as_str());
    let volume = volume_of(&record.spec);
    let error = match watch(process, cgroup.clone(), volume.clone()) {
        Ok(container) => return Found::Alive(container),
        Err(error) => error,
    };
    if error.kind() != io::ErrorKind::NotFound {
        tracing::warn!(instance = %id, "could not look for its process: {error}");
    }
    let Some(exit) = read_exit(&folder.exit(), volume.as_ref()) else {
        return Found::Ended(EndReason::Lost);
    };
    // What the engine before this one has ended it for went with that engine.
    end_reason(facts(&record.spec, Some(&exit), &cgroup, None)).map_or(Found::Nothing, Found::Ended)
}

/// What a container has lost and can't get back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    pub what: &'static str,
}

/// Sets right what somebody outside has changed of a running container: its limits, and the host's
/// side of its network. What can't be read or set now is logged, and tried again at the next call.
///
/// Errors: what only a new container can have again.
pub fn mend(
    world: &World,
    spec: &InstanceSpec,
    folder: &InstanceFolder,
    address: Ipv4Addr,
    init: ProcessRef,
    volume: Option<&Place>,
) -> Result<(), Damage> {
    let id = spec.id.as_str();
    if matches!(folder.socket().try_exists(), Ok(false)) {
        return Err(Damage { what: "its socket" });
    }
    if matches!(world.cgroups.get(id).is_whole(init), Ok(false)) {
        return Err(Damage { what: "its control group" });
    }
    // One that can't be looked at is about to end by itself.
    if mounts::points(init).is_ok_and(|found| !shape::mounts(spec).is_subset(&found)) {
        return Err(Damage { what: "one of its mounts" });
    }
    match network::mend_way_out(&wire(world, spec, address)) {
        Ok(WayOut::Gone) => return Err(Damage { what: "its network interface" }),
        Ok(WayOut::Whole) => {}
        Ok(WayOut::Mended) => tracing::warn!(
            instance = id,
            "its route, or the bound on its bandwidth, was gone; it is set again"
        ),
        Err(error) => tracing::warn!(instance = id, "its network: {}", error_chain(&error)),
    }
    let restored = world.cgroups.restore_limits(id, &spec.limits).and_then(|restored| {
        let throttle = |device| world.cgroups.throttle_volume(id, device, &spec.limits);
        Ok(volume.and_then(Place::device).map_or(Ok(false), throttle)? || restored)
    });
    mend_quota(spec, volume.and_then(Place::folder));
    match restored {
        Ok(false) => {}
        Ok(true) => tracing::warn!(instance = id, "its limits were changed; they are set again"),
        Err(error) => tracing::warn!(instance = id, "its limits: {}", error_chain(&error)),
    }
    Ok(())
}

/// Sets the quota of a volume that is the folder `folder`, where somebody has changed it.
fn mend_quota(spec: &InstanceSpec, folder: Option<&Path>) {
    let (Some(folder), Some(wanted)) = (folder, &spec.volume) else { return };
    match volume::folder::ensure_folder(folder, wanted.size, spec.ids) {
        Ok(false) => {}
        Ok(true) => {
            tracing::warn!(instance = %spec.id, "its volume's quota was changed; it is set again")
        }
        // Another of the app's instances, or the next release, asks for more.
        Err(volume::VolumeError::Shrink { .. }) => {}
        Err(error) => tracing::warn!(instance = %spec.id, "its volume: {}", error_chain(&error)),
    }
}

impl Container {
    pub fn process(&self) -> ProcessRef {
        self.process
    }

    pub fn volume(&self) -> Option<&Place> {
        self.volume.as_ref()
    }

    /// Returns when init is gone.
    pub async fn ended(&self) {
        // The descriptor can't fail to poll; if it did, the process would be taken for gone.
        let _ = self.pidfd.readable().await;
    }

    /// Asks init to end the server.
    pub fn terminate(&self) -> io::Result<()> {
        process::signal(self.pidfd.get_ref(), Signal::TERM)
    }

    /// What there is to see of it, with its source in `code`; call that off the event loop.
    pub fn look(
        &self,
        folder: &InstanceFolder,
        code: &Path,
        host_interface: String,
    ) -> impl FnOnce() -> Reading + Send + 'static {
        let (process, cgroup, log) = (self.process, self.cgroup.clone(), folder.log());
        let code = code.to_owned();
        let volume = self.volume.clone();
        move || Reading {
            kernel: cgroup.usage(),
            disks: cgroup.disk_traffic(),
            wire: network::wire_traffic(&host_interface, process).ok().flatten(),
            tmp: space_at(process, "/tmp"),
            shm: space_at(process, "/dev/shm"),
            volume: match volume.as_ref().and_then(Place::folder) {
                Some(folder) => space_of_folder(folder).ok().map(usage),
                None => space_at(process, "/ace/data"),
            },
            log_lines_dropped: ace_sandbox::lines_dropped(&log).ok(),
            written: written::look(&log, &code),
        }
    }

    /// Ends it at once, and waits for a while until init has written how it was.
    pub async fn end_at_once(&self) {
        self.cgroup.lift_throttles(); // What it has still to write would hold up its end.
        if let Err(error) = process::end_at_once(self.pidfd.get_ref()) {
            tracing::warn!("could not signal an init: {error}");
        }
        let _ = tokio::time::timeout(LAST_WORD_WITHIN, self.ended()).await;
    }

    /// Why it ended by itself; `None` where it was asked to.
    pub fn end_reason(
        &self,
        world: &World,
        spec: &InstanceSpec,
        folder: &InstanceFolder,
    ) -> Option<EndReason> {
        let exit = read_exit(&folder.exit(), self.volume());
        let excess = world.cgroups.take_excess(spec.id.as_str());
        end_reason(facts(spec, exit.as_ref(), &self.cgroup, excess.as_deref()))
    }

    /// Why it had not become ready when it was ended for that; `last` came of the last probe.
    pub fn delay_reason(
        &self,
        world: &World,
        spec: &InstanceSpec,
        folder: &InstanceFolder,
        path: &str,
        last: &ProbeOutcome,
    ) -> EndReason {
        let exit = read_exit(&folder.exit(), self.volume());
        let excess = world.cgroups.take_excess(spec.id.as_str());
        let facts = facts(spec, exit.as_ref(), &self.cgroup, excess.as_deref());
        ending::of_timeout(facts, spec.startup, path, last)
    }
}

fn end_reason(facts: Facts) -> Option<EndReason> {
    let was_asked = facts.exit.is_some_and(|exit| exit.asked);
    (!was_asked).then(|| ending::of_end(facts))
}

/// How full what is mounted there is; `None` where nothing is, or the container is gone.
fn space_at(process: ProcessRef, mount: &str) -> Option<SpaceUsage> {
    space(process, Path::new(mount)).ok()?.map(usage)
}

fn usage(Space { used_bytes, size_bytes, files }: Space) -> SpaceUsage {
    let files = files.map(|Files { used, most }| FilesUsage { used, most });
    SpaceUsage { used_bytes, size_bytes, files }
}

fn prepare_log(folder: &InstanceFolder, ids: IdRange) -> io::Result<()> {
    folder.ensure()?;
    let init = ids.host_id(IdRange::INIT);
    chown(folder.log(), Some(init), Some(init))
}

/// Binds the socket afresh: one that a former server left would still hold its backlog.
fn bind_socket(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Whoever has the socket can ask for the name it was bound by, which is not to tell of the host.
    let folder = File::open(path.parent().unwrap_or(path))?;
    let name = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
    let listener = UnixListener::bind(name.join(path.file_name().unwrap_or_default()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    // The library's backlog is short; a second listen(2) widens it.
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener.into())
}

/// Requests that may wait in an instance's socket.
const BACKLOG: i32 = 1024;

/// Makes `spec`'s volume where it lacks, and attaches it; an app's containers share one.
pub fn attach_volume(
    world: &World,
    spec: &InstanceSpec,
) -> Result<Option<Volume>, volume::VolumeError> {
    let Some(wanted) = &spec.volume else { return Ok(None) };
    volume::ensure(&wanted.image, wanted.size, spec.ids, world.volumes).map(Some)
}

/// Where the volume of `spec` is now.
fn volume_of(spec: &InstanceSpec) -> Option<Place> {
    let image = &spec.volume.as_ref()?.image;
    volume::find(image).unwrap_or_else(|error| {
        tracing::warn!(instance = %spec.id, "its volume: {}", error_chain(&error));
        None
    })
}

fn watch(process: ProcessRef, cgroup: Cgroup, volume: Option<Place>) -> io::Result<Container> {
    let pidfd = process.open()?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe, and an OwnedFd keeps what that asks for"
    )]
    let pidfd = AsyncFd::new(pidfd)?;
    Ok(Container { process, pidfd, cgroup, volume })
}

fn facts<'a>(
    spec: &'a InstanceSpec,
    exit: Option<&'a ExitRecord>,
    cgroup: &Cgroup,
    excess: Option<&'a str>,
) -> Facts<'a> {
    Facts { spec, exit, oom_kills: cgroup.oom_kills(), pids_refused: cgroup.pids_refused(), excess }
}

/// What init has written, and what could not be seen from where init is.
fn read_exit(path: &Path, volume: Option<&Place>) -> Option<ExitRecord> {
    let text = std::fs::read(path).ok()?;
    let mut exit: ExitRecord = serde_json::from_slice(text.trim_ascii()).ok()?;
    if volume.and_then(Place::folder).is_some_and(is_full_unseen) {
        exit.found.full.push(shape::VOLUME.into());
    }
    Some(exit)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use ace_types::Bytes;

    use super::*;

    #[test]
    fn a_tenant_learns_that_a_volume_does_not_shrink_and_nothing_of_where_it_is() {
        let (image, has, asked) = (PathBuf::from("/host/shop.img"), Bytes::mib(48), Bytes::mib(32));
        let error = StartError::Volume(volume::VolumeError::Shrink { image, has, asked });
        let told = error.for_tenant();
        assert!(told.contains("48M") && told.contains("volume: 48M"), "{told}");
        assert!(!told.contains("host"), "{told}");
    }
}
