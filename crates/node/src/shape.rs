//! The shape of an instance's container: what of the host it sees, and where.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ace_api::{CommandSpec, InstanceSpec, Program, Runtime, VolumeSpec};
use ace_sandbox::ContainerSpec;
use ace_sandbox::cgroup::Cgroup;
use ace_sandbox::network::Wire;
use ace_sandbox::spec::{
    Bind, Keep, Layer, LogSpec, NetworkSpec, OutputSpec, ProcessSpec, RootSpec, SignalTarget,
    SocketUse, Tmpfs, VolumeMount, VolumeSource,
};
use ace_types::Bytes;
use ace_types::limits::TMP_INODES;

use crate::server;

/// Where an app finds its code and its volume.
const CODE: &str = "/ace/code";
pub const VOLUME: &str = "/ace/data";
/// What is kept of the code lies in this folder of the volume.
const KEPT: &str = ".keep";

/// What the reports of a server's start may take: a page for each worker that makes one.
const REPORT_BYTES: u64 = 64 << 10;
const REPORT_INODES: u64 = 32;

/// What is found out or made for one launch.
pub struct Surroundings {
    pub cgroup: Cgroup,
    pub wire: Wire,
    pub nameservers: Vec<Ipv4Addr>,
    /// What the volume is, where the app has one.
    pub volume: Option<VolumeSource>,
    pub log: PathBuf,
}

/// Terminals of a command's container: one that it runs on, and some for `script` and the like.
const TERMINALS: u32 = 16;

/// Requests of an app that init forwards at once, at most: what it takes for that is in no limit of the
/// app's.
const FORWARDED_MAX: u32 = 1024;
/// Connections besides those with requests: such as the gateway keeps for later ones, and a probe's.
const GATEWAYS_SPARE: u32 = 96;

/// The container of `spec` in these `surroundings`.
pub fn container(spec: &InstanceSpec, surroundings: Surroundings) -> ContainerSpec {
    ContainerSpec {
        host_name: spec.app.to_string(),
        ids: spec.ids,
        cgroup: surroundings.cgroup,
        root: root(spec, surroundings.nameservers, surroundings.volume),
        network: NetworkSpec::Veth(surroundings.wire),
        process: ProcessSpec {
            argv: server::command(spec),
            env: server::environment(spec),
            working_directory: CODE.into(),
            keep: spec.volume.as_ref().map(keep),
            socket: Some(socket_use(spec)),
            open_files_max: spec.limits.files,
            file_size_max: None, // The volume and /tmp are bounded as a whole.
            signals: signals(&spec.runtime.program),
        },
        output: OutputSpec::Log(LogSpec {
            folder: surroundings.log,
            size_max: spec.limits.log,
            rate_max_per_second: spec.limits.log_per_second,
        }),
        stop_grace: spec.stop_grace,
    }
}

/// The container of a command: as that of the instance it's like, without a socket or a log, and with
/// terminals. It takes up to `stop_grace` to end.
pub fn command(
    spec: &CommandSpec,
    surroundings: Surroundings,
    stop_grace: Duration,
) -> ContainerSpec {
    let like = container(&spec.like, surroundings);
    let mut env = like.process.env;
    env.retain(|(name, _)| !spec.env.iter().any(|(ours, _)| ours == name));
    env.extend(spec.env.iter().cloned());
    ContainerSpec {
        root: RootSpec { terminals: TERMINALS, ..like.root },
        process: ProcessSpec {
            argv: spec.argv.clone(),
            env,
            socket: None,
            signals: SignalTarget::Group,
            ..like.process
        },
        output: spec.terminal.map_or(OutputSpec::Inherit, OutputSpec::Terminal),
        stop_grace,
        ..like
    }
}

/// A server takes connections itself; for a command, init does.
/// Who is told to end: a server tells its workers, and a shell tells nobody.
fn signals(program: &Program) -> SignalTarget {
    match program {
        Program::Server { .. } => SignalTarget::Program,
        Program::Command { .. } => SignalTarget::Group,
    }
}

fn socket_use(spec: &InstanceSpec) -> SocketUse {
    match spec.runtime.program {
        Program::Server { .. } => SocketUse::Inherit { descriptor: server::SOCKET_FD },
        Program::Command { port, .. } => {
            let connections = spec.limits.connections.min(FORWARDED_MAX);
            SocketUse::Forward { port, connections_max: connections + GATEWAYS_SPARE }
        }
    }
}

fn root(spec: &InstanceSpec, nameservers: Vec<Ipv4Addr>, volume: Option<VolumeSource>) -> RootSpec {
    let Runtime { python, environment, program, .. } = &spec.runtime;
    let mut binds = vec![read_only(environment, "/ace/user/virtualenv")];
    if let Program::Server { packages, .. } = program {
        binds.push(read_only(packages, "/ace/server"));
    }
    // An interpreter below /usr is there already.
    if !python.prefix.starts_with("/usr") {
        binds.push(read_only(&python.prefix, &python.prefix));
    }
    let limits = &spec.limits;
    let code = Layer {
        source: spec.code.clone(),
        target: CODE.into(),
        size: limits.tmp,
        inodes: TMP_INODES,
    };
    RootSpec {
        binds,
        layers: vec![code],
        tmpfs: vec![
            Tmpfs { target: "/tmp".into(), size: limits.tmp, inodes: TMP_INODES },
            Tmpfs { target: "/dev/shm".into(), size: limits.shm, inodes: 1024 },
            Tmpfs { target: "/ace/run".into(), size: Bytes(REPORT_BYTES), inodes: REPORT_INODES },
        ],
        volume: volume.map(|source| VolumeMount { source, target: VOLUME.into() }),
        files: Vec::new(),
        terminals: 0,
        nameservers,
    }
}

/// Where something is mounted in the container of `spec` that the app can't do without.
pub fn mounts(spec: &InstanceSpec) -> BTreeSet<PathBuf> {
    let RootSpec { binds, layers, tmpfs, .. } = root(spec, Vec::new(), None);
    let binds = binds.into_iter().map(|bind| bind.target);
    let layers = layers.into_iter().map(|layer| layer.target);
    let tmpfs = tmpfs.into_iter().map(|tmpfs| tmpfs.target);
    let volume = spec.volume.as_ref().map(|_| PathBuf::from(VOLUME));
    binds.chain(layers).chain(tmpfs).chain(volume).collect()
}

/// What of the code is kept on `volume`.
fn keep(volume: &VolumeSpec) -> Keep {
    Keep {
        code: CODE.into(),
        store: Path::new(VOLUME).join(KEPT),
        paths: volume.keep.iter().map(PathBuf::from).collect(),
    }
}

fn read_only(source: &Path, target: impl AsRef<Path>) -> Bind {
    Bind {
        source: source.to_owned(),
        target: target.as_ref().to_owned(),
        writable: false,
        noexec: false,
    }
}
