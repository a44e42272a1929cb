//! What instances use of the machine, and what they were refused: as the kernel counts it.

use std::collections::BTreeMap;

use ace_types::{AppName, InstanceId};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the instances of a node use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeUsage {
    /// Those that have a container.
    pub instances: BTreeMap<InstanceId, InstanceUsage>,
    /// What all instances of an app have used and met since the engine started, those that are gone
    /// included.
    pub apps: BTreeMap<AppName, AppUsage>,
}

/// What one instance uses. What counts up does so since its container was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceUsage {
    /// When all this was read.
    pub at: Timestamp,
    /// Processor time over the last seconds, in thousandths of a core.
    pub cpu_millicores: u64,
    pub cpu_limit_millicores: u64,
    pub cpu_usec: u64,
    /// How long it was kept waiting for having used up its share, all of its processors together.
    pub throttled_usec: u64,
    /// How much of that was in the last minute.
    pub throttled_last_minute_usec: u64,
    /// What its processes, `/tmp` and `/dev/shm` take, and files that the kernel keeps for it and
    /// can let go of.
    pub memory_bytes: u64,
    /// The most that was; `None` where the kernel does not keep it.
    pub memory_peak_bytes: Option<u64>,
    pub memory_limit_bytes: u64,
    /// Processes that the kernel ended for going past the limit.
    pub memory_kills: u64,
    /// The last of them, where the kernel's log tells of it.
    pub last_memory_kill: Option<MemoryKill>,
    /// Processes and threads.
    pub pids: u64,
    pub pids_limit: u64,
    /// Processes and threads that the kernel refused.
    pub pids_refused: u64,
    /// What stands in `/tmp`; `None` where it can't be seen, and so with the next two.
    pub tmp: Option<SpaceUsage>,
    /// What stands in `/dev/shm`.
    pub shm: Option<SpaceUsage>,
    /// What stands in `/ace/data`, where it has a volume.
    pub volume: Option<SpaceUsage>,
    /// Bytes a second from or to a disk; `None` where the kernel does not count it, and so with the next two.
    pub io: Option<FlowUsage>,
    /// Operations a second, likewise.
    pub iops: Option<FlowUsage>,
    /// Bits a second to or from the network.
    pub bandwidth: Option<FlowUsage>,
    /// How often packets waited or were dropped because `bandwidth` was used up.
    pub packets_held_back: u64,
    /// Lines of output that its log had no room for.
    pub log_lines_dropped: u64,
    /// What it has written beside its code and would lose with its container, as far as that is known.
    pub written: Option<WrittenFiles>,
}

/// Files that go with their container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WrittenFiles {
    /// The first of them, below `/ace/code`. Chosen by the app; fit to be shown.
    pub names: Vec<String>,
    /// How many there are.
    pub count: u64,
    /// What `keep` in `app.yaml` would name for those in `names`.
    pub keep: Vec<String>,
}

impl WrittenFiles {
    /// What they are and how they can be kept, in a sentence. Where the app has no volume, that is told, too.
    pub fn told(&self, has_volume: bool) -> String {
        let more = self.count.saturating_sub(self.names.len() as u64);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let volume = if has_volume { "" } else { "\"volume: 1G\" and " };
        let keep = if self.keep.is_empty() { "…".to_owned() } else { self.keep.join(", ") };
        format!(
            "written beside the code, and gone with the container, as at a restart: {}{more}; to keep it, \
             add {volume}\"keep: [{keep}]\" to app.yaml",
            self.names.join(", ")
        )
    }
}

/// How fast something flows, for which there is a limit a second: of all ways, and all disks, the one that comes
/// nearest to it, since the limit is of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowUsage {
    /// Over the last seconds.
    pub per_second: u64,
    pub limit_per_second: u64,
    /// How long it has been as fast as it may be, as far as the engine that runs has seen: on all disks together, since what
    /// goes to a volume waits at its limit and then at its disk's.
    pub at_limit_usec: u64,
    /// How much of that was in the last minute.
    pub at_limit_last_minute_usec: u64,
}

/// A process that the kernel ended for want of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryKill {
    /// Its name, which it may have chosen itself: may hold control characters.
    pub process: String,
    /// What it had in memory.
    pub memory_bytes: u64,
}

/// What is left of a file system that counts as full.
const LEFT_BYTES: u64 = 64 << 10;

/// How full a file system is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SpaceUsage {
    pub used_bytes: u64,
    pub size_bytes: u64,
    /// `None` where nothing bounds their number.
    pub files: Option<FilesUsage>,
}

/// How many files, folders and links a file system has, and can have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FilesUsage {
    pub used: u64,
    pub most: u64,
}

impl SpaceUsage {
    /// Whether there is no room for another file, however large the last one is.
    pub fn is_full(&self) -> bool {
        let left_bytes = self.size_bytes.saturating_sub(self.used_bytes);
        left_bytes < LEFT_BYTES.min(self.size_bytes / 100) || self.has_no_file_left()
    }

    /// Whether no further file can be made, whatever room there is.
    pub fn has_no_file_left(&self) -> bool {
        self.files.is_some_and(|files| files.used >= files.most)
    }
}

/// What an app's instances have used and met, all together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppUsage {
    pub cpu_usec: u64,
    pub throttled_usec: u64,
    pub memory_kills: u64,
    pub pids_refused: u64,
    pub log_lines_dropped: u64,
    /// How long an instance was at each of these limits.
    pub io_at_limit_usec: u64,
    pub iops_at_limit_usec: u64,
    pub bandwidth_at_limit_usec: u64,
    pub packets_held_back: u64,
    /// How often each of these was found full, having been found with room before.
    pub tmp_full: u64,
    pub shm_full: u64,
    pub volume_full: u64,
    /// How often an instance was started again after it had ended by itself.
    pub restarts: u64,
    /// How often an instance ended by itself, by [`EndReason::code`](crate::EndReason::code).
    pub ends: BTreeMap<String, u64>,
}
