//! What one instance, or one build, may use. Every limit is on by default.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{BitRate, Bytes};

/// The limits of one container. The defaults are those of the table in `docs/REFERENCE.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Processor time, in thousandths of a core: 1000 is one core.
    pub cpu_millicores: u32,
    /// Memory, page cache included; no swap.
    pub memory: Bytes,
    /// Processes and threads.
    pub pids: u32,
    /// `/tmp`, held in memory and counted there too.
    pub tmp: Bytes,
    /// `/dev/shm`, held in memory and counted there too.
    pub shm: Bytes,
    /// Open files of one process.
    pub files: u32,
    /// Bytes a second that it may read from a disk, and as many that it may write.
    pub io: Bytes,
    /// Operations a second, likewise.
    pub iops: u32,
    /// What it may send to the network, and as much that it may receive.
    pub bandwidth: BitRate,
    /// Log kept on disk, all rotated files together.
    pub log: Bytes,
    /// Log accepted per second, sustained.
    pub log_per_second: Bytes,
    /// Connections that the gateway holds open for the app at once.
    pub connections: u32,
    /// The largest request body; `None` is no bound.
    pub body: Option<Bytes>,
    /// How long the gateway waits for the first byte of an answer, and then between two.
    pub timeout: Duration,
}

/// A limit was asked for that can't be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {asked} is out of bounds; it can be from {least} to {most}")]
pub struct OutOfBounds {
    pub key: &'static str,
    pub asked: String,
    pub least: String,
    pub most: String,
}

impl Limits {
    /// What an instance of an app gets unless its `app.yaml` says otherwise.
    pub fn for_app() -> Self {
        Self {
            cpu_millicores: 1000,
            memory: Bytes::mib(512),
            pids: 256,
            tmp: Bytes::mib(64),
            shm: Bytes::mib(16),
            files: 4096,
            io: Bytes::mib(20),
            iops: 1000,
            bandwidth: BitRate::mega(50),
            log: Bytes::mib(50),
            log_per_second: Bytes::kib(64),
            connections: 1000,
            body: Some(Bytes::mib(32)),
            timeout: Duration::from_secs(60),
        }
    }

    /// What a build gets.
    pub fn for_build() -> Self {
        Self {
            cpu_millicores: 2000,
            memory: Bytes::gib(2),
            pids: 512,
            tmp: Bytes::mib(256),
            shm: Bytes::mib(16),
            files: 8192,
            io: Bytes::mib(60),
            iops: 3000,
            bandwidth: BitRate::mega(200),
            log: Bytes::mib(8),
            log_per_second: Bytes::mib(1),
            connections: 0,
            body: None,
            timeout: Duration::from_secs(15 * 60),
        }
    }
}

/// What a build may take on disk, the installer's cache included.
pub const BUILD_DISK: Bytes = Bytes::gib(4);

/// Files, folders and links on that disk.
pub const BUILD_INODES: u64 = 256 * 1024;

/// Inodes that go with `size` of a tmpfs or a volume: 64 Ki a GiB, at least 1 Ki.
///
/// For `/tmp`, whose files are small, see [`TMP_INODES`].
pub fn inodes_for(size: Bytes) -> u64 {
    (size.0 >> 14).max(1024)
}

/// Inodes of `/tmp`.
pub const TMP_INODES: u64 = 16 * 1024;
