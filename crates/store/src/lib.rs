//! What is desired and what is observed, kept safe: a trait, and SQLite behind it.
//!
//! A store maps keys to JSON documents. [`Store::commit`] changes several at once or none, and gives
//! the change a [`Revision`]: the one number that orders everything. Whoever wants to follow the
//! store lists it once, then asks [`Store::changes_since`] whenever [`Store::watch`] wakes it.
//!
//! Not here: what the documents mean (`control`).

#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
mod leases;
#[cfg(feature = "conformance")]
mod memory;
mod schema;
pub mod sqlite;
mod worker;

use std::fmt;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

#[cfg(feature = "conformance")]
pub use memory::MemoryStore;
pub use sqlite::SqliteStore;

/// The longest key, in bytes.
pub const KEY_MAX: usize = 512;
/// The largest value, in bytes.
pub const VALUE_MAX: usize = 1 << 20;
/// The most operations in one commit.
pub const OPS_MAX: usize = 1024;
/// The most bytes of values in one commit.
pub const COMMIT_MAX: usize = 16 << 20;

/// Documents under keys. See the crate's own words for how one follows it.
#[async_trait]
pub trait Store: Send + Sync {
    /// The entry at `key`, or `None`.
    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError>;

    /// All entries whose key begins with `prefix`, in the order of their keys' bytes, all of one
    /// moment. An empty prefix lists everything.
    async fn list(&self, prefix: &str) -> Result<Listing, ReadError>;

    /// Does all of `ops` or nothing, and returns the new revision once that is safe on disk.
    ///
    /// Every precondition is checked against what was there before the commit.
    /// Errors: [`CommitError::Conflict`] where one of them does not hold.
    async fn commit(&self, ops: Vec<Op>) -> Result<Revision, CommitError>;

    /// Takes the key of `lease` for its holder, or, where that has it, holds it for another `ttl`.
    ///
    /// A key that is held is an entry like others, `{"holder": …}`. It's deleted when `ttl` has passed without
    /// this being called again, by the machine's clock and also while nobody has the store open; and by
    /// [`Op::Delete`], which gives it back. Writing the entry by [`Op::Put`] makes it one that stays.
    ///
    /// Returns the commit that took it, the same for as long as it's held without a gap: who finds another
    /// revision there has lost it meanwhile.
    async fn lease(&self, lease: Lease) -> Result<Revision, LeaseError>;

    /// Wakes whoever has seen everything up to `from` as soon as there is more.
    fn watch(&self, from: Revision) -> Watch;

    /// What has changed after `since`, oldest first, each key once with its newest state.
    ///
    /// A long history comes in parts: ask again from [`Changes::through`] until it moves no more.
    /// Errors: [`ReadError::Compacted`] where deletions after `since` have been forgotten; then
    /// only a whole [`Store::list`] tells.
    async fn changes_since(&self, since: Revision) -> Result<Changes, ReadError>;
}

/// The number of a commit. The first is 1, and an empty store stands at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Parts of `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`, with `/` between them.
    pub key: String,
    /// JSON, at most [`VALUE_MAX`] bytes.
    pub value: Vec<u8>,
    /// The commit that last wrote it.
    pub revision: Revision,
}

/// What a [`Store::list`] saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The newest commit that it shows.
    pub revision: Revision,
    pub entries: Vec<Entry>,
}

/// What a [`Store::changes_since`] saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Nothing up to here is missing.
    pub through: Revision,
    pub changes: Vec<Change>,
}

/// A key that was written or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    /// `None`: it has been deleted.
    pub value: Option<Vec<u8>>,
    pub revision: Revision,
}

/// A key that one holder has for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub key: String,
    /// Who wants it: a name that nobody else goes by.
    pub holder: String,
    pub ttl: Duration,
}

/// What stands at a key that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub holder: String,
}

/// One step of a commit. No two steps of one commit name the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put {
        key: String,
        value: Vec<u8>,
        expect: Expect,
    },
    /// Deleting what is not there is no error by itself.
    Delete {
        key: String,
        expect: Expect,
    },
}

/// What must be true of a key before its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    /// It was last written by exactly this commit.
    Revision(Revision),
}

/// Why the store could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("changes since revision {since} are no longer kept")]
    Compacted { since: Revision },
    #[error("could not read the store")]
    Backend(#[source] BackendError),
}

/// Why nothing was committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("{key} is not as it was expected to be")]
    Conflict { key: String },
    #[error("the commit is malformed: {0}")]
    Invalid(#[from] InvalidCommit),
    /// Where it is [`BackendError::Stopped`] or [`BackendError::Sqlite`], the commit may have been
    /// done all the same; only reading tells.
    #[error("could not write to the store")]
    Backend(#[source] BackendError),
}

/// Why a lease could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("{key} is held by another, or is no lease")]
    Taken { key: String },
    #[error("the lease is malformed: {0}")]
    Invalid(#[from] InvalidCommit),
    #[error("could not write to the store")]
    Backend(#[source] BackendError),
}

/// What is wrong with a commit's shape, whatever the store holds.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCommit {
    #[error("{key:?} is no key")]
    Key { key: String },
    #[error("{key} stands in it twice")]
    Twice { key: String },
    #[error("the value of {key} has {len} bytes; the limit is {VALUE_MAX}")]
    Value { key: String, len: usize },
    #[error("the value of {key} is not JSON")]
    Json { key: String },
    #[error("it has {count} operations; it can have 1 to {OPS_MAX}")]
    Count { count: usize },
    #[error("its values have {len} bytes together; the limit is {COMMIT_MAX}")]
    Size { len: usize },
}

/// What is wrong with what keeps the data.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("too much is waiting for it")]
    Busy,
    #[error("it has been closed")]
    Stopped,
    /// Nothing was written.
    #[error("its disk can't be written")]
    Disk(#[source] io::Error),
    #[error("the database refused")]
    Sqlite(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for BackendError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Disk(io::ErrorKind::StorageFull.into()),
            Some(rusqlite::ErrorCode::ReadOnly) => {
                Self::Disk(io::ErrorKind::ReadOnlyFilesystem.into())
            }
            _ => Self::Sqlite(error),
        }
    }
}

impl Lease {
    /// The operation that takes it.
    fn entry(&self) -> Result<Op, InvalidCommit> {
        // A name always has a JSON form.
        let value = serde_json::to_vec(&Held { holder: self.holder.clone() }).unwrap_or_default();
        let op = Op::Put { key: self.key.clone(), value, expect: Expect::Absent };
        check_commit(std::slice::from_ref(&op))?;
        Ok(op)
    }
}

/// Tells when there is more than its owner has seen. Wake-ups may be merged; none is lost.
#[derive(Debug)]
pub struct Watch {
    newest: watch::Receiver<Revision>,
    seen: Revision,
}

impl Watch {
    /// For implementers of [`Store`]: `newest` carries the revision of the last commit.
    pub fn new(newest: watch::Receiver<Revision>, seen: Revision) -> Self {
        Self { newest, seen }
    }

    /// Waits until the store is past what has been seen, and returns where it is now, which then
    /// counts as seen. `None`: the store has been closed.
    ///
    /// May be dropped while it waits, without loss.
    pub async fn next(&mut self) -> Option<Revision> {
        let seen = self.seen;
        let newest = *self.newest.wait_for(|newest| *newest > seen).await.ok()?;
        self.seen = newest;
        Some(newest)
    }
}

/// Whether `ops` are well-formed, whatever the store holds.
pub fn check_commit(ops: &[Op]) -> Result<(), InvalidCommit> {
    if ops.is_empty() || ops.len() > OPS_MAX {
        return Err(InvalidCommit::Count { count: ops.len() });
    }
    let mut keys = std::collections::BTreeSet::new();
    let mut size = 0;
    for op in ops {
        let (Op::Put { key, .. } | Op::Delete { key, .. }) = op;
        if !is_key(key) {
            return Err(InvalidCommit::Key { key: key.chars().take(KEY_MAX).collect() });
        }
        if !keys.insert(key) {
            return Err(InvalidCommit::Twice { key: key.clone() });
        }
        if let Op::Put { value, .. } = op {
            check_value(key, value)?;
            size += value.len();
        }
    }
    if size > COMMIT_MAX { Err(InvalidCommit::Size { len: size }) } else { Ok(()) }
}

fn check_value(key: &str, value: &[u8]) -> Result<(), InvalidCommit> {
    if value.len() > VALUE_MAX {
        return Err(InvalidCommit::Value { key: key.to_owned(), len: value.len() });
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(value)
        .map(|_| ())
        .map_err(|_| InvalidCommit::Json { key: key.to_owned() })
}

fn is_key(key: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    key.len() <= KEY_MAX && key.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &[u8]) -> Op {
        Op::Put { key: key.to_owned(), value: value.to_vec(), expect: Expect::Any }
    }

    #[test]
    fn a_key_is_parts_between_slashes() {
        for good in ["a", "apps/shop", "releases/shop/0000000001", "x_Y-z.1"] {
            assert_eq!(check_commit(&[put(good, b"1")]), Ok(()), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "a b", "\u{e4}", "a\0", "a%"] {
            assert!(matches!(check_commit(&[put(bad, b"1")]), Err(InvalidCommit::Key { .. })));
        }
    }

    #[test]
    fn a_commit_has_bounds() {
        let long = "k".repeat(KEY_MAX + 1);
        assert!(matches!(check_commit(&[put(&long, b"1")]), Err(InvalidCommit::Key { .. })));
        let large = format!("\"{}\"", "v".repeat(VALUE_MAX));
        let error = check_commit(&[put("k", large.as_bytes())]);
        assert!(matches!(error, Err(InvalidCommit::Value { .. })));
        assert_eq!(check_commit(&[]), Err(InvalidCommit::Count { count: 0 }));
        let error = check_commit(&[put("k", b"1"), put("k", b"2")]);
        assert!(matches!(error, Err(InvalidCommit::Twice { .. })));
    }

    #[test]
    fn a_value_is_json() {
        assert_eq!(check_commit(&[put("k", br#"{"a": [1, null]}"#)]), Ok(()));
        assert!(matches!(check_commit(&[put("k", b"{")]), Err(InvalidCommit::Json { .. })));
    }
}
