//! The store in one SQLite file: the embedded default.
//!
//! Write-ahead log and `synchronous=FULL`: what [`Store::commit`] has acknowledged survives a kill
//! and a loss of power. One thread writes; another reads beside it.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior};
use tokio::sync::watch;

use crate::leases::{self, Alarm};
use crate::schema::{self, MigrateError};
use crate::worker::Worker;
use crate::{
    BackendError, Change, Changes, CommitError, Entry, Expect, Lease, LeaseError, Listing, Op,
    ReadError, Revision, Store, Watch, check_commit,
};

/// Deletions that are remembered. Past this, the older half is forgotten.
const TOMBSTONES_MAX: u32 = 4096;
/// Changes in one answer, unless one commit alone made more.
const CHANGES_MAX: u32 = 1024;
/// How long to wait for another process that holds the file, such as a backup.
const LOCKED_WITHIN: Duration = Duration::from_secs(10);
/// Sorts after every byte that stands in a key.
const AFTER_KEYS: char = '\u{7f}';

/// A [`Store`] in a file. Dropping it closes the file once what was asked of it has been done.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    writer: Worker,
    reader: Worker,
    /// Behind the last commit; only the writer's thread sends.
    newest: watch::Receiver<Revision>,
    sender: watch::Sender<Revision>,
    alarm: Alarm,
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("could not create or open {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("could not open the database {path}")]
    Sqlite { path: PathBuf, source: rusqlite::Error },
    #[error("could not use the database {path}")]
    Migrate { path: PathBuf, source: MigrateError },
}

impl SqliteStore {
    /// Opens the database at `path`, making it where there is none, for its owner's eyes only.
    ///
    /// Blocks. Only one process at a time may have it open; the caller sees to that.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let file = |source| OpenError::File { path: path.to_owned(), source };
        let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
        create_private(path).map_err(file)?;
        let mut connection = connect(path).map_err(sqlite)?;
        schema::migrate(&mut connection)
            .map_err(|source| OpenError::Migrate { path: path.to_owned(), source })?;
        let (sender, newest) = watch::channel(clock(&connection).map_err(sqlite)?.0);
        let reader = connect(path).map_err(sqlite)?;
        reader.pragma_update(None, "query_only", true).map_err(sqlite)?;
        let writer = Worker::start("store-writer", connection).map_err(file)?;
        let told = sender.clone();
        let alarm = Alarm::start(&writer, move |connection| end_leases(connection, &told));
        Ok(Self {
            path: path.to_owned(),
            alarm: alarm.map_err(file)?,
            writer,
            reader: Worker::start("store-reader", reader).map_err(file)?,
            newest,
            sender,
        })
    }

    async fn read<T, F>(&self, query: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, ReadError> + Send + 'static,
    {
        let work = |connection: &mut Connection| {
            // One transaction, so that several statements see one moment.
            query(&connection.transaction().map_err(BackendError::from)?)
        };
        self.reader.call(work).await?
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        let key = key.to_owned();
        self.read(move |transaction| {
            let sql =
                "SELECT key, value, revision FROM entries WHERE key = ?1 AND value IS NOT NULL
                 AND key NOT IN (SELECT key FROM leases WHERE until_ms <= ?2)";
            let found = transaction.prepare_cached(sql)?.query_row((key, leases::now_ms()), entry);
            Ok(found.optional()?)
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, ReadError> {
        let first = prefix.to_owned();
        let end = format!("{prefix}{AFTER_KEYS}");
        self.read(move |transaction| {
            let sql = "SELECT key, value, revision FROM entries
                       WHERE key >= ?1 AND key < ?2 AND value IS NOT NULL
                       AND key NOT IN (SELECT key FROM leases WHERE until_ms <= ?3) ORDER BY key";
            let entries = transaction
                .prepare_cached(sql)?
                .query_map((first, end, leases::now_ms()), entry)?
                .collect::<Result<_, _>>()?;
            Ok(Listing { revision: clock(transaction)?.0, entries })
        })
        .await
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<Revision, CommitError> {
        check_commit(&ops)?;
        let (newest, path) = (self.sender.clone(), self.path.clone());
        // The announcement is part of the job: it must come even if the caller has left.
        let work = move |connection: &mut Connection| {
            let revision = commit(connection, &ops).map_err(|error| match error {
                CommitError::Backend(error) => CommitError::Backend(explained(error, &path)),
                error => error,
            })?;
            leases::announce(&newest, revision);
            Ok(revision)
        };
        self.writer.call(work).await.map_err(CommitError::Backend)?
    }

    async fn lease(&self, lease: Lease) -> Result<Revision, LeaseError> {
        let entry = lease.entry()?;
        let newest = self.sender.clone();
        let work = move |connection: &mut Connection| {
            let revision = take_lease(connection, &lease, &entry)?;
            leases::announce(&newest, revision);
            Ok(revision)
        };
        let taken = self.writer.call(work).await?;
        self.alarm.set();
        taken
    }

    fn watch(&self, from: Revision) -> Watch {
        Watch::new(self.newest.clone(), from)
    }

    async fn changes_since(&self, since: Revision) -> Result<Changes, ReadError> {
        self.read(move |transaction| changes_since(transaction, since)).await
    }
}

/// Creates the file beforehand, since SQLite would let the process's umask decide who may read it.
fn create_private(path: &Path) -> io::Result<()> {
    fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(|_| ())
}

/// `error`, or that the disk can only be read, which SQLite does not tell from its other failures.
fn explained(error: BackendError, path: &Path) -> BackendError {
    let is_io = |error: &rusqlite::Error| {
        error.sqlite_error_code() == Some(rusqlite::ErrorCode::SystemIoFailure)
    };
    match &error {
        BackendError::Sqlite(cause) if is_io(cause) => {
            match fs::OpenOptions::new().append(true).open(path) {
                Err(refused) if refused.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                    BackendError::Disk(refused)
                }
                _ => error,
            }
        }
        _ => error,
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(LOCKED_WITHIN)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// The newest revision, and the one up to which deletions are forgotten.
fn clock(connection: &Connection) -> rusqlite::Result<(Revision, Revision)> {
    connection
        .prepare_cached("SELECT revision, compacted FROM clock")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry { key: row.get(0)?, value: row.get(1)?, revision: row.get(2)? })
}

fn commit(connection: &mut Connection, ops: &[Op]) -> Result<Revision, CommitError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = clock(&transaction)?.0;
    // First, since what has ended is not there any more for whoever commits now.
    let expired = leases::expire(&transaction, Revision(before.0 + 1))?;
    let revision = Revision(before.0 + 1 + u64::from(expired));
    for op in ops {
        let (Op::Put { key, expect, .. } | Op::Delete { key, expect }) = op;
        check(&transaction, key, *expect)?;
    }
    for op in ops {
        apply(&transaction, op, revision)?;
    }
    transaction.prepare_cached("UPDATE clock SET revision = ?1")?.execute([revision])?;
    compact(&transaction)?;
    transaction.commit()?;
    Ok(revision)
}

/// Takes `lease`, by `entry` where nobody has it.
fn take_lease(
    connection: &mut Connection,
    lease: &Lease,
    entry: &Op,
) -> Result<Revision, LeaseError> {
    let taken = || LeaseError::Taken { key: lease.key.clone() };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = clock(&transaction)?.0;
    let expired = leases::expire(&transaction, Revision(before.0 + 1))?;
    let mut newest = Revision(before.0 + u64::from(expired));
    let revision = match leases::holder(&transaction, &lease.key)? {
        Some(holder) if holder != lease.holder => return Err(taken()),
        Some(_) => revision_of(&transaction, &lease.key)?.ok_or_else(taken)?,
        None if revision_of(&transaction, &lease.key)?.is_some() => return Err(taken()),
        None => {
            newest = Revision(newest.0 + 1);
            apply(&transaction, entry, newest)?;
            newest
        }
    };
    leases::hold(&transaction, lease)?;
    transaction.prepare_cached("UPDATE clock SET revision = ?1")?.execute([newest])?;
    compact(&transaction)?;
    transaction.commit()?;
    Ok(revision)
}

/// Ends what has to end now, and returns how long it is until the next. A disk that refuses is asked again
/// with the next commit: what has ended can't be read meanwhile.
fn end_leases(connection: &mut Connection, newest: &watch::Sender<Revision>) -> Option<Duration> {
    let end = |connection: &mut Connection| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let revision = Revision(clock(&transaction)?.0.0 + 1);
        if leases::expire(&transaction, revision)? {
            transaction.prepare_cached("UPDATE clock SET revision = ?1")?.execute([revision])?;
            transaction.commit()?;
            leases::announce(newest, revision);
        }
        Ok::<_, rusqlite::Error>(())
    };
    match leases::next_end(connection) {
        Ok(Some(left)) if left.is_zero() => match end(connection) {
            Ok(()) => leases::next_end(connection).unwrap_or(None),
            Err(_) => None,
        },
        left => left.unwrap_or(None),
    }
}

fn check(transaction: &Transaction<'_>, key: &str, expect: Expect) -> Result<(), CommitError> {
    let found = revision_of(transaction, key)?;
    let holds = match expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Revision(revision) => found == Some(revision),
    };
    if holds { Ok(()) } else { Err(CommitError::Conflict { key: key.to_owned() }) }
}

/// The commit that last wrote what stands at `key`.
fn revision_of(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<Option<Revision>> {
    let sql = "SELECT revision FROM entries WHERE key = ?1 AND value IS NOT NULL";
    transaction.prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional()
}

fn apply(transaction: &Transaction<'_>, op: &Op, revision: Revision) -> rusqlite::Result<()> {
    match op {
        Op::Put { key, value, .. } => transaction
            .prepare_cached(
                "INSERT INTO entries (key, value, revision) VALUES (?1, ?2, ?3)
                 ON CONFLICT (key) DO UPDATE SET value = ?2, revision = ?3",
            )?
            .execute((key, value, revision))?,
        Op::Delete { key, .. } => transaction
            .prepare_cached(
                "UPDATE entries SET value = NULL, revision = ?2
                 WHERE key = ?1 AND value IS NOT NULL",
            )?
            .execute((key, revision))?,
    };
    let (Op::Put { key, .. } | Op::Delete { key, .. }) = op;
    leases::forget(transaction, key)
}

/// Forgets the older half of the deletions when there are too many of them.
fn compact(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let count: u32 = transaction
        .prepare_cached("SELECT count(*) FROM entries WHERE value IS NULL")?
        .query_row([], |row| row.get(0))?;
    if count <= TOMBSTONES_MAX {
        return Ok(());
    }
    let sql =
        "SELECT revision FROM entries WHERE value IS NULL ORDER BY revision LIMIT 1 OFFSET ?1";
    let upto: Revision =
        transaction.prepare_cached(sql)?.query_row([TOMBSTONES_MAX / 2], |row| row.get(0))?;
    transaction.execute("DELETE FROM entries WHERE value IS NULL AND revision <= ?1", [upto])?;
    transaction.execute("UPDATE clock SET compacted = ?1", [upto])?;
    Ok(())
}

fn changes_since(transaction: &Transaction<'_>, since: Revision) -> Result<Changes, ReadError> {
    let (newest, compacted) = clock(transaction)?;
    if since < compacted {
        return Err(ReadError::Compacted { since });
    }
    // A commit is told whole or not at all: the part ends where a commit ends.
    let sql =
        "SELECT revision FROM entries WHERE revision > ?1 ORDER BY revision LIMIT 1 OFFSET ?2";
    let through = transaction
        .prepare_cached(sql)?
        .query_row((since, CHANGES_MAX - 1), |row| row.get(0))
        .optional()?
        .unwrap_or(newest);
    let sql = "SELECT key, value, revision FROM entries
               WHERE revision > ?1 AND revision <= ?2 ORDER BY revision, key";
    let changes = transaction
        .prepare_cached(sql)?
        .query_map([since, through], |row| {
            Ok(Change { key: row.get(0)?, value: row.get(1)?, revision: row.get(2)? })
        })?
        .collect::<Result<_, _>>()?;
    Ok(Changes { through, changes })
}

impl ToSql for Revision {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let number = i64::try_from(self.0);
        number.map(ToSqlOutput::from).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))
    }
}

impl FromSql for Revision {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = i64::column_result(value)?;
        let out_of_range = |_| rusqlite::types::FromSqlError::OutOfRange(number);
        u64::try_from(number).map(Self).map_err(out_of_range)
    }
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Backend(error.into())
    }
}

impl From<BackendError> for ReadError {
    fn from(error: BackendError) -> Self {
        Self::Backend(error)
    }
}

impl From<rusqlite::Error> for CommitError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Backend(error.into())
    }
}
