//! What lies on the host for the attacker to find: a file, a process, services, and the facts about them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener as AbstractListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tempfile::TempDir;
use tokio::net::{TcpListener, UdpSocket, UnixStream};
use tokio::task::JoinHandle;

use crate::ServerAddress;
use crate::error::CommandError;

const CONTENT: &str = "this is the host's\n";
/// Addresses of the host that are tried: a machine may have thousands.
const ADDRESSES_MAX: usize = 16;
/// Visitors that are remembered.
const VISITORS_MAX: usize = 100;
/// The bait lives as long as its standard input, which is ours, and cleans up after a proof that was killed.
const UNTIL_WE_END: &str = "cat; rm -rf -- \"$1\"";
/// What nothing inside may change.
const SETTINGS: [&str; 6] = [
    "kernel/hostname",
    "kernel/core_pattern",
    "kernel/modprobe",
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "fs/file-max",
];
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// Gone when dropped.
pub struct Bait {
    pub facts: HostFacts,
    folder: TempDir,
    process: Child,
    settings: Vec<String>,
    visitors: Arc<Mutex<Vec<String>>>,
    services: Vec<JoinHandle<()>>,
    _abstract: AbstractListener,
}

/// What the attacker is told, so that it knows what to look for.
#[derive(Debug, Clone, Serialize)]
pub struct HostFacts {
    /// In the name of all that is laid for this run.
    pub nonce: String,
    /// A file that root alone on the host can read.
    canary: PathBuf,
    /// The engine's data folder.
    data: PathBuf,
    host_name: String,
    host_addresses: Vec<Ipv4Addr>,
    tcp_port: u16,
    udp_port: u16,
    /// Name of an abstract socket.
    r#abstract: String,
    bait_pid: u32,
    bait_name: String,
    /// Names of the engine's variables.
    environment: Vec<String>,
    /// The host's own, by name.
    namespaces: BTreeMap<String, String>,
}

impl Bait {
    /// `socket` is the engine's.
    pub async fn lay(socket: &Path) -> Result<Self, CommandError> {
        let nonce = nonce()?;
        let folder = tempfile::Builder::new().prefix("ace-prove.").tempdir()?;
        let canary = folder.path().join("canary");
        fs::write(&canary, CONTENT)?;
        let visitors = Arc::<Mutex<Vec<String>>>::default();
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let (tcp, udp) = (TcpListener::bind(any).await?, UdpSocket::bind(any).await?);
        let bait_name = format!("ace-prove-bait-{nonce}");
        let name = UnixAddr::from_abstract_name(&bait_name)?;
        let process = Command::new("sh")
            .arg0(&bait_name)
            .args(["-c", UNTIL_WE_END, &bait_name])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let facts = HostFacts {
            canary,
            data: std::path::absolute(ServerAddress::data(socket))?,
            host_name: read_trimmed("/proc/sys/kernel/hostname"),
            host_addresses: host_addresses(),
            tcp_port: tcp.local_addr()?.port(),
            udp_port: udp.local_addr()?.port(),
            r#abstract: bait_name.clone(),
            bait_pid: process.id(),
            bait_name,
            environment: environment_of_engine(socket).await,
            namespaces: namespaces("self"),
            nonce,
        };
        let services = vec![
            tokio::spawn(greet(tcp, Arc::clone(&visitors))),
            tokio::spawn(take(udp, Arc::clone(&visitors))),
        ];
        let _abstract = AbstractListener::bind_addr(&name)?;
        let settings = settings();
        Ok(Self { facts, folder, process, settings, visitors, services, _abstract })
    }

    /// Whether the file is as it was.
    pub fn is_file_whole(&self) -> bool {
        fs::read_to_string(&self.facts.canary).is_ok_and(|content| content == CONTENT)
            && fs::read_dir(self.folder.path()).is_ok_and(|entries| entries.count() == 1)
    }

    /// Whether the process still runs.
    pub fn is_process_alive(&self) -> bool {
        let command = fs::read(format!("/proc/{}/cmdline", self.process.id())).unwrap_or_default();
        command.starts_with(self.facts.bait_name.as_bytes())
    }

    /// Who came to the services of the host.
    pub fn visitors(&self) -> Vec<String> {
        self.visitors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Settings of the kernel's that have changed.
    pub fn changed_settings(&self) -> Vec<&'static str> {
        let pairs = SETTINGS.into_iter().zip(self.settings.iter().zip(settings()));
        pairs.filter(|(_, (before, now))| *before != now).map(|(name, _)| name).collect()
    }
}

impl Drop for Bait {
    fn drop(&mut self) {
        self.services.iter().for_each(JoinHandle::abort);
        // It may have been ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The namespaces of a process, as the kernel names them.
pub fn namespaces(pid: &str) -> BTreeMap<String, String> {
    let of = |name: &str| {
        let target = fs::read_link(format!("/proc/{pid}/ns/{name}")).ok()?;
        Some((name.to_owned(), target.to_string_lossy().into_owned()))
    };
    NAMESPACES.into_iter().filter_map(of).collect()
}

/// Sixteen hexadecimal digits that nobody has used before.
pub fn nonce() -> io::Result<String> {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn settings() -> Vec<String> {
    SETTINGS.iter().map(|name| read_trimmed(&format!("/proc/sys/{name}"))).collect()
}

fn read_trimmed(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The host's own IPv4 addresses but loopback.
///
/// In `/proc/net/fib_trie` an address stands in the line before `/32 host LOCAL`.
fn host_addresses() -> Vec<Ipv4Addr> {
    let text = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_local = |pair: &&[&str]| pair[1].starts_with("/32 host LOCAL");
    let address = |pair: &[&str]| pair[0].strip_prefix("|-- ").and_then(|text| text.parse().ok());
    let found: BTreeSet<Ipv4Addr> = lines.windows(2).filter(is_local).filter_map(address).collect();
    found.into_iter().filter(|address| !address.is_loopback()).take(ADDRESSES_MAX).collect()
}

/// Names of the variables that the engine's process has.
async fn environment_of_engine(socket: &Path) -> Vec<String> {
    let Ok(stream) = UnixStream::connect(socket).await else { return Vec::new() };
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).unwrap_or_default();
    let text = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let name = |variable: &[u8]| {
        let name = variable.split(|byte| *byte == b'=').next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    };
    text.split(|byte| *byte == 0).map(name).filter(|name| !name.is_empty()).collect()
}

/// A service that remembers who connected.
async fn greet(listener: TcpListener, visitors: Arc<Mutex<Vec<String>>>) {
    while let Ok((_, from)) = listener.accept().await {
        remember(&visitors, format!("a connection from {from}"));
    }
}

/// A service that remembers who sent something.
async fn take(socket: UdpSocket, visitors: Arc<Mutex<Vec<String>>>) {
    let mut text = [0; 256];
    while let Ok((_, from)) = socket.recv_from(&mut text).await {
        remember(&visitors, format!("a datagram from {from}"));
    }
}

fn remember(visitors: &Mutex<Vec<String>>, visitor: String) {
    let mut visitors = visitors.lock().unwrap_or_else(PoisonError::into_inner);
    if visitors.len() < VISITORS_MAX {
        visitors.push(visitor);
    }
}
