//! A store whose engine dies at a chosen commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ace_store::{
    Changes, CommitError, Entry, Lease, LeaseError, Listing, Op, ReadError, Revision, Store, Watch,
};
use async_trait::async_trait;
use tokio::sync::watch;

/// Where in its last commit the engine dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// Nothing of the commit is there.
    Before,
    /// All of it is there, but nobody was told.
    After,
}

/// Passes everything on until so many commits have been made. From then on it never answers: the
/// engine stands still until the test kills it.
pub struct Mortal {
    store: Arc<dyn Store>,
    left: AtomicUsize,
    death: Death,
    /// It does nothing more than its last commit.
    dying: AtomicBool,
    /// Nothing of it comes any more.
    pub dead: watch::Sender<bool>,
}

impl Mortal {
    pub fn new(store: Arc<dyn Store>, commits: usize, death: Death) -> Arc<Self> {
        let left = AtomicUsize::new(commits);
        let (dying, dead) = (AtomicBool::new(false), watch::Sender::new(false));
        Arc::new(Self { store, left, death, dying, dead })
    }

    async fn alive(&self) {
        if self.dying.load(Ordering::SeqCst) {
            std::future::pending().await
        }
    }
}

#[async_trait]
impl Store for Mortal {
    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        self.alive().await;
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, ReadError> {
        self.alive().await;
        self.store.list(prefix).await
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<Revision, CommitError> {
        self.alive().await;
        let count = |left: usize| left.checked_sub(1);
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count).is_ok() {
            return self.store.commit(ops).await;
        }
        self.dying.store(true, Ordering::SeqCst);
        if self.death == Death::After {
            self.store.commit(ops).await?;
        }
        // Not before that is on disk: a killed engine's commit does not come after its death.
        self.dead.send_replace(true);
        std::future::pending().await
    }

    async fn lease(&self, lease: Lease) -> Result<Revision, LeaseError> {
        self.alive().await;
        self.store.lease(lease).await
    }

    fn watch(&self, from: Revision) -> Watch {
        self.store.watch(from)
    }

    async fn changes_since(&self, since: Revision) -> Result<Changes, ReadError> {
        self.alive().await;
        self.store.changes_since(since).await
    }
}
