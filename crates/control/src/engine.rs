//! What all parts of `control` share: the rows, the other programs, and who is doing what.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ace_api::http::DoctorReport;
use ace_api::{Builder, Gateway, Node};
use ace_store::{Revision, Store};
use ace_types::{AppName, BuildId, InstanceId};
use jiff::Timestamp;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::attempts::Attempts;
use crate::backup::Backups;
use crate::becomes_true;
use crate::build_queue::BuildQueue;
use crate::commands::Commands;
use crate::config::ControlConfig;
use crate::lanes::Lanes;
use crate::marks::Marks;
use crate::metrics::Tally;
use crate::records::{Records, RecordsError};
use crate::refusal::Refusal;
use crate::tasks::Tasks;
use crate::upgrades::Upgrades;
use crate::views::Observed;

/// Operations at once, those that upload or wait included.
const OPERATIONS: usize = 32;
/// How long the reconciler may take to act on a commit.
const APPLIED_WITHIN: Duration = Duration::from_secs(10);

/// The programs that `control` directs, and what it asks for the machine's sake.
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub node: Arc<dyn Node>,
    pub gateway: Arc<dyn Gateway>,
    pub builder: Arc<dyn Builder>,
    /// Examines the machine. May block.
    pub doctor: Arc<dyn Fn() -> DoctorReport + Send + Sync>,
    /// Tells the time, by which pauses and first minutes go.
    pub clock: Clock,
}

/// What time it is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// One running `control`.
pub struct Engine {
    pub config: ControlConfig,
    pub node: Arc<dyn Node>,
    pub gateway: Arc<dyn Gateway>,
    pub builder: Arc<dyn Builder>,
    pub doctor: Arc<dyn Fn() -> DoctorReport + Send + Sync>,
    clock: Clock,
    pub records: Records,
    pub lanes: Lanes,
    pub commands: Arc<Commands>,
    pub backups: Backups,
    /// Apps that turn back from a release by themselves.
    pub retreats: Marks,
    pub upgrades: Upgrades,
    /// Who may build.
    pub builds: BuildQueue,
    /// A permit for each operation that may be under way.
    pub operations: Arc<Semaphore>,
    /// Wrong tokens, by where they came from.
    pub attempts: Attempts,
    pub tasks: Tasks,
    /// What this engine has done.
    pub tally: Arc<Tally>,
    pub started_at: Timestamp,
    /// The revision whose plan the node and the gateway have.
    pub applied: watch::Sender<Revision>,
    /// No new work is begun any more, and what can be given up is.
    pub ending: watch::Sender<bool>,
    /// Everything has been brought down.
    pub is_down: watch::Sender<bool>,
    /// Held while the node is brought down.
    pub going_down: Mutex<()>,
    /// The task that tells node and gateway what to do; `None` once they are let go.
    pub reconciler: Mutex<Option<JoinHandle<()>>>,
    next_range: AtomicU32,
}

impl Engine {
    pub async fn new(config: ControlConfig, parts: Parts) -> Result<Self, RecordsError> {
        let tally = Arc::<Tally>::default();
        Ok(Self {
            builds: BuildQueue::new(config.builds_max),
            config,
            node: parts.node,
            gateway: parts.gateway,
            builder: parts.builder,
            doctor: parts.doctor,
            records: Records::open(parts.store, Arc::clone(&tally), Arc::clone(&parts.clock))
                .await?,
            clock: parts.clock,
            lanes: Lanes::default(),
            commands: Arc::default(),
            backups: Backups::default(),
            retreats: Marks::default(),
            upgrades: Upgrades::default(),
            operations: Arc::new(Semaphore::new(OPERATIONS)),
            attempts: Attempts::default(),
            tasks: Tasks::default(),
            started_at: Timestamp::now(),
            tally,
            applied: watch::Sender::new(Revision(0)),
            ending: watch::Sender::new(false),
            is_down: watch::Sender::new(false),
            going_down: Mutex::new(()),
            reconciler: Mutex::new(None),
            next_range: AtomicU32::new(0),
        })
    }

    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Waits until the engine is about to end.
    pub async fn ended(&self) {
        becomes_true(self.ending.subscribe()).await;
    }

    pub fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// Waits until node and gateway have been told what follows from `revision`.
    /// Returns whether they were in time.
    pub async fn applied(&self, revision: Revision) -> bool {
        let mut applied = self.applied.subscribe();
        let told = applied.wait_for(|applied| *applied >= revision);
        timeout(APPLIED_WITHIN, told).await.is_ok()
    }

    /// Waits until the node knows no instance of `app` that `is_meant`.
    /// Returns whether that came within `within`.
    pub async fn gone(
        &self,
        app: &AppName,
        is_meant: impl Fn(&InstanceId) -> bool,
        within: Duration,
    ) -> bool {
        let mut statuses = self.node.statuses();
        let gone = statuses
            .wait_for(|all| !all.iter().any(|(id, status)| status.app == *app && is_meant(id)));
        matches!(timeout(within, gone).await, Ok(Ok(_)))
    }

    /// How it is now.
    pub fn observed(&self) -> Observed {
        Observed::now(self.node.as_ref(), self.gateway.as_ref())
    }

    /// Where to look for a free range of user ids. Moves on, so that a range that has just been given
    /// back rests for as long as there are others.
    pub fn next_range(&self) -> u32 {
        self.next_range.fetch_add(2, Ordering::Relaxed)
    }
}

/// A fresh id for a build.
pub fn new_build_id() -> Result<BuildId, Refusal> {
    random().map(BuildId::from_random)
}

/// A fresh id for an instance.
pub fn new_instance_id() -> Result<InstanceId, Refusal> {
    random().map(InstanceId::from_random)
}

/// Bytes that nobody can guess; up to 256 of them.
pub fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    // The kernel gives so many whole.
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|error| Refusal::engine("draw a random number", &std::io::Error::from(error)))?;
    Ok(bytes)
}
