//! Entries that go by themselves.
//!
//! The time stands in the database, so leases end as they should when the store is opened later. A thread
//! sleeps until the next one ends; whoever reads before it wakes does not see the entry any more.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Transaction};
use tokio::sync::watch;

use crate::worker::Worker;
use crate::{BackendError, Lease, LeaseError, Revision};

/// How long the thread sleeps where nothing is leased.
const IDLE: Duration = Duration::from_secs(3600);

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Who has `lease.key`, if it's held at all.
pub fn holder(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<Option<String>> {
    transaction
        .prepare_cached("SELECT holder FROM leases WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()
}

/// Sets when `lease` ends, from now on.
pub fn hold(transaction: &Transaction<'_>, lease: &Lease) -> rusqlite::Result<()> {
    let ttl = i64::try_from(lease.ttl.as_millis()).unwrap_or(i64::MAX);
    transaction
        .prepare_cached(
            "INSERT INTO leases (key, holder, until_ms) VALUES (?1, ?2, ?3)
             ON CONFLICT (key) DO UPDATE SET holder = ?2, until_ms = ?3",
        )?
        .execute((&lease.key, &lease.holder, now_ms().saturating_add(ttl)))
        .map(drop)
}

/// `key` is no lease any more, whatever stands there.
pub fn forget(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM leases WHERE key = ?1")?.execute([key]).map(drop)
}

/// Deletes the entries of leases that have ended, as commit number `revision`. Returns whether there were
/// any.
pub fn expire(transaction: &Transaction<'_>, revision: Revision) -> rusqlite::Result<bool> {
    let now = now_ms();
    let expired = transaction
        .prepare_cached(
            "UPDATE entries SET value = NULL, revision = ?2
             WHERE key IN (SELECT key FROM leases WHERE until_ms <= ?1) AND value IS NOT NULL",
        )?
        .execute((now, revision))?;
    transaction.prepare_cached("DELETE FROM leases WHERE until_ms <= ?1")?.execute([now])?;
    Ok(expired > 0)
}

/// Wakes the thread that ends leases; it ends when this is dropped.
#[derive(Debug)]
pub struct Alarm(Sender<()>);

impl Alarm {
    /// Starts the thread, which has `writer` do `end_leases` when one is over.
    pub fn start(
        writer: &Worker,
        end_leases: impl Fn(&mut Connection) -> Option<Duration> + Send + Sync + Clone + 'static,
    ) -> io::Result<Self> {
        let (alarm, set) = channel();
        let (next, answers) = channel();
        let defer = writer.defer();
        let end = move || {
            let (end_leases, next) = (end_leases.clone(), next.clone());
            defer(Box::new(move |connection| {
                // Nobody waits for it once the store is closed.
                let _ = next.send(end_leases(connection));
            }));
        };
        let run = move || watch_leases(&set, end, &answers);
        std::thread::Builder::new().name("store-leases".to_owned()).spawn(run)?;
        Ok(Self(alarm))
    }

    /// Another lease ends some time.
    pub fn set(&self) {
        // The thread is there for as long as this is.
        let _ = self.0.send(());
    }
}

fn watch_leases(set: &Receiver<()>, end: impl Fn(), answers: &Receiver<Option<Duration>>) {
    loop {
        end();
        let Ok(pause) = answers.recv() else { return };
        match set.recv_timeout(pause.unwrap_or(IDLE)) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// How long it is until the next lease ends; `None` where there is none.
pub fn next_end(connection: &Connection) -> rusqlite::Result<Option<Duration>> {
    let until: Option<i64> = connection
        .prepare_cached("SELECT min(until_ms) FROM leases")?
        .query_row([], |row| row.get(0))?;
    let left = |until: i64| u64::try_from(until.saturating_sub(now_ms())).unwrap_or(0);
    Ok(until.map(|until| Duration::from_millis(left(until))))
}

/// Tells whoever watches, where `revision` is a new one.
pub fn announce(newest: &watch::Sender<Revision>, revision: Revision) {
    newest.send_if_modified(|newest| {
        let moved = *newest < revision;
        *newest = revision.max(*newest);
        moved
    });
}

impl From<rusqlite::Error> for LeaseError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Backend(error.into())
    }
}

impl From<BackendError> for LeaseError {
    fn from(error: BackendError) -> Self {
        Self::Backend(error)
    }
}
