//! What a node is told to run and what it says of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ace_types::{AppName, Bytes, IdRange, InstanceId, Limits, ReleaseNumber, TenantName};
use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{CommandEnd, CommandError, CommandIo, CommandSpec, EndReason, NodeUsage, Runtime};

/// Runs instances. Level-triggered: it is told all that should run, and says all that does.
#[async_trait]
pub trait Node: Send + Sync {
    /// Replaces the whole of what should run. What is missing starts; what is no longer named is
    /// asked to stop, given [`InstanceSpec::stop_grace`], and killed.
    fn set_desired(&self, instances: Vec<InstanceSpec>);

    /// What is, by id. An instance that is gone and no longer desired leaves the map.
    fn statuses(&self) -> watch::Receiver<Arc<BTreeMap<InstanceId, InstanceStatus>>>;

    /// What instances use, as it was read in the last seconds.
    fn usage(&self) -> NodeUsage;

    /// Stops every instance, waits until each is gone, and removes what they had in the kernel.
    ///
    /// Errors: what could not be removed, a line each.
    async fn down(&self) -> Result<(), Vec<String>>;

    /// Runs one command in a container of its own, beside the instances. Returns when it and all that
    /// it had are gone; what is left of its output when it ends is delivered before.
    ///
    /// It ends with `io.controls`, with this process however that ends, and in [`Node::down`].
    async fn run(&self, command: CommandSpec, io: CommandIo) -> Result<CommandEnd, CommandError>;

    /// Where it stands what commands have been run for `app`, and how they ended, the oldest first. May
    /// block for a moment.
    fn command_logs(&self, app: &AppName) -> std::io::Result<Vec<KeptLog>>;

    /// Ends every process of `app`'s instances at once, whatever grace they have left. They may be
    /// gone a moment later; those still desired start again.
    async fn kill_app(&self, app: &AppName) -> std::io::Result<()>;

    /// The logs that are kept of `app`'s instances that are gone, the oldest first. May block for a
    /// moment.
    fn old_logs(&self, app: &AppName) -> std::io::Result<Vec<KeptLog>>;

    /// Copies the volume `image` as it is at one moment to `to`, which is made. Instances go on, but for
    /// a pause in which none can write to it; returns how long that was.
    async fn copy_volume(&self, image: PathBuf, to: PathBuf) -> std::io::Result<Duration>;

    /// Removes for good what outlives `app`'s instances: its old logs and, where it has one, the
    /// image of its `volume`, or the folder instead of it. No instance of it may be desired. May be called twice.
    async fn remove_app(&self, app: &AppName, volume: PathBuf) -> std::io::Result<()>;
}

/// One instance that should run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceSpec {
    pub id: InstanceId,
    pub tenant: TenantName,
    pub app: AppName,
    pub release: ReleaseNumber,
    /// The app's own user ids; all its instances share them, since they share its volume.
    pub ids: IdRange,
    /// See [`crate::Built`].
    pub code: PathBuf,
    pub runtime: Runtime,
    pub processes: u16,
    pub threads: u16,
    pub env: BTreeMap<String, String>,
    pub limits: Limits,
    pub volume: Option<VolumeSpec>,
    /// The path to probe; `None` probes `/` and takes any complete answer but 502 to 504.
    pub health: Option<String>,
    /// The host name that a probe asks for.
    pub host: String,
    pub startup: Duration,
    pub stop_grace: Duration,
}

/// A disk that outlives instances, at `/ace/data` while one exists: an ext4 image, or a folder that the disk's own
/// quota bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// The image file; a folder has its name without `.img`. Made at first use.
    pub image: PathBuf,
    pub size: Bytes,
    /// See [`ace_types::AppYaml::keep`].
    #[serde(default)]
    pub keep: Vec<String>,
}

/// One instance as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub app: AppName,
    pub release: ReleaseNumber,
    pub state: InstanceState,
    /// When it came into this state.
    pub since: Timestamp,
    /// Where its app server listens, for the gateway. Exists from before the server starts.
    pub socket: PathBuf,
    /// Folder of its log files.
    pub log: PathBuf,
    /// The status of the HTTP answer by which it showed itself ready; `None` before that, and where an earlier
    /// engine received it.
    pub first_answer: Option<u16>,
    /// How often its server has been started again after it ended by itself.
    pub restarts: u32,
    /// Why it last ended, where it did.
    pub last_end: Option<EndReason>,
    /// How many of its processes the kernel has ended for going past the memory limit, since its
    /// container was made. The server may have lived on.
    pub memory_kills: u64,
}

/// The log of an instance that is gone, or of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLog {
    pub instance: InstanceId,
    /// What it was of, as far as that was kept.
    pub release: Option<ReleaseNumber>,
    /// Folder of its log files.
    pub folder: PathBuf,
}

/// Where an instance is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "name")]
pub enum InstanceState {
    /// Its container is being made, or its server has not answered yet.
    Starting,
    /// It answered its probe, and its process lives.
    Running,
    /// It has been asked to stop.
    Draining,
    /// It ended by itself, and is started again at `retry_at`.
    Crashed { retry_at: Timestamp },
    /// It never became ready: it ended, or did not answer within its `startup`. Not tried again
    /// until it has once been absent from what is desired.
    Failed,
}
