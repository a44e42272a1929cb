//! The store in memory: for tests, which it can be told to disturb.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::{
    Change, Changes, CommitError, Entry, Expect, Lease, LeaseError, Listing, Op, ReadError,
    Revision, Store, Watch, check_commit,
};

/// Deletions that are remembered. Past this, all are forgotten.
const TOMBSTONES_MAX: usize = 4096;

/// A [`Store`] that lasts as long as its value.
#[derive(Debug)]
pub struct MemoryStore {
    content: Arc<Mutex<Content>>,
    newest: watch::Sender<Revision>,
}

#[derive(Debug, Default)]
struct Content {
    revision: Revision,
    compacted: Revision,
    /// `None`: it has been deleted.
    entries: BTreeMap<String, (Option<Vec<u8>>, Revision)>,
    /// Who holds what until when.
    leases: BTreeMap<String, (String, Instant)>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { content: Arc::default(), newest: watch::Sender::new(Revision(0)) }
    }
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, Content> {
        lock(&self.content)
    }

    /// Ends what has ended after `ttl`, and tells.
    fn expire_later(&self, ttl: Duration) {
        let (content, newest) = (Arc::clone(&self.content), self.newest.clone());
        tokio::spawn(async move {
            tokio::time::sleep(ttl).await;
            let revision = {
                let mut content = lock(&content);
                content.expire();
                content.revision
            };
            newest.send_replace(revision);
        });
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        let content = self.lock();
        Ok(content.entries.get_key_value(key).and_then(entry))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, ReadError> {
        let content = self.lock();
        let from = content.entries.range(prefix.to_owned()..);
        let entries = from.take_while(|(key, _)| key.starts_with(prefix)).filter_map(entry);
        Ok(Listing { revision: content.revision, entries: entries.collect() })
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<Revision, CommitError> {
        check_commit(&ops)?;
        let mut content = self.lock();
        content.expire();
        if let Some(key) = ops.iter().find_map(|op| content.conflict(op)) {
            return Err(CommitError::Conflict { key });
        }
        let revision = Revision(content.revision.0 + 1);
        ops.into_iter().for_each(|op| content.apply(op, revision));
        content.revision = revision;
        content.compact();
        self.newest.send_replace(revision);
        Ok(revision)
    }

    async fn lease(&self, lease: Lease) -> Result<Revision, LeaseError> {
        let entry = lease.entry()?;
        let mut content = self.lock();
        content.expire();
        let held = content.leases.get(&lease.key).map(|(holder, _)| holder == &lease.holder);
        let revision = match (held, content.entries.get(&lease.key)) {
            (Some(true), Some((_, revision))) => *revision,
            (None, None | Some((None, _))) => {
                let revision = Revision(content.revision.0 + 1);
                content.apply(entry, revision);
                content.revision = revision;
                revision
            }
            _ => return Err(LeaseError::Taken { key: lease.key }),
        };
        content.leases.insert(lease.key, (lease.holder, Instant::now() + lease.ttl));
        let newest = content.revision;
        drop(content);
        self.newest.send_replace(newest);
        self.expire_later(lease.ttl);
        Ok(revision)
    }

    fn watch(&self, from: Revision) -> Watch {
        Watch::new(self.newest.subscribe(), from)
    }

    async fn changes_since(&self, since: Revision) -> Result<Changes, ReadError> {
        let content = self.lock();
        if since < content.compacted {
            return Err(ReadError::Compacted { since });
        }
        let newer = content.entries.iter().filter(|(_, (_, revision))| *revision > since);
        let change = |(key, (value, revision)): (&String, &(Option<Vec<u8>>, Revision))| Change {
            key: key.clone(),
            value: value.clone(),
            revision: *revision,
        };
        let mut changes: Vec<Change> = newer.map(change).collect();
        changes.sort_by(|one, other| (one.revision, &one.key).cmp(&(other.revision, &other.key)));
        Ok(Changes { through: content.revision, changes })
    }
}

fn lock(content: &Mutex<Content>) -> MutexGuard<'_, Content> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Content {
    /// Deletes the entries of leases that have ended.
    fn expire(&mut self) {
        let now = Instant::now();
        let over = self.leases.iter().filter(|(_, (_, until))| *until <= now);
        let over: Vec<String> = over.map(|(key, _)| key.clone()).collect();
        if !over.is_empty() {
            self.revision = Revision(self.revision.0 + 1);
        }
        for key in over {
            self.apply(Op::Delete { key, expect: Expect::Any }, self.revision);
        }
    }

    /// The key of `op`, if that is not as it was expected to be.
    fn conflict(&self, op: &Op) -> Option<String> {
        let (Op::Put { key, expect, .. } | Op::Delete { key, expect }) = op;
        let found = self.entries.get(key).filter(|(value, _)| value.is_some());
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::Revision(revision) => found.is_some_and(|(_, at)| at == revision),
        };
        (!holds).then(|| key.clone())
    }

    fn apply(&mut self, op: Op, revision: Revision) {
        let (Op::Put { key, .. } | Op::Delete { key, .. }) = &op;
        self.leases.remove(key);
        match op {
            Op::Put { key, value, .. } => {
                self.entries.insert(key, (Some(value), revision));
            }
            Op::Delete { key, .. } => {
                if let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.0.is_some()) {
                    *entry = (None, revision);
                }
            }
        }
    }

    fn compact(&mut self) {
        if self.entries.values().filter(|(value, _)| value.is_none()).count() > TOMBSTONES_MAX {
            self.entries.retain(|_, (value, _)| value.is_some());
            self.compacted = self.revision;
        }
    }
}

fn entry((key, (value, revision)): (&String, &(Option<Vec<u8>>, Revision))) -> Option<Entry> {
    Some(Entry { key: key.clone(), value: value.clone()?, revision: *revision })
}
