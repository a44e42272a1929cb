//! The database's tables, and how an older one becomes the newest.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

/// One script for each version, in order: number `n` makes version `n + 1` of version `n`.
/// A script that has been released is never edited.
const MIGRATIONS: [&str; 2] = [
    // An entry with a NULL value is a tombstone: it tells watchers of the deletion.
    "CREATE TABLE entries (
         key      TEXT    NOT NULL PRIMARY KEY,
         value    BLOB,
         revision INTEGER NOT NULL
     ) STRICT;
     CREATE INDEX entries_by_revision ON entries (revision);
     CREATE INDEX tombstones ON entries (revision) WHERE value IS NULL;
     CREATE TABLE clock (
         id        INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
         revision  INTEGER NOT NULL,
         compacted INTEGER NOT NULL
     ) STRICT;
     INSERT INTO clock VALUES (1, 0, 0);",
    // The entries that go by themselves, and when, in milliseconds since 1970.
    "CREATE TABLE leases (
         key      TEXT    NOT NULL PRIMARY KEY,
         holder   TEXT    NOT NULL,
         until_ms INTEGER NOT NULL
     ) STRICT;
     CREATE INDEX leases_by_end ON leases (until_ms);",
];

/// The version that this program writes.
pub const VERSION: u32 = MIGRATIONS.len() as u32;

/// Why a database could not be brought to [`VERSION`].
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(
        "it is of version {found}, and this program knows versions up to {VERSION}; run the `ace` that wrote it, or a newer one"
    )]
    Newer { found: u32 },
    #[error("its tables could not be made or brought up to date")]
    Sqlite(#[from] rusqlite::Error),
}

/// Brings the database to [`VERSION`], in one transaction. Does nothing to one that is there.
pub fn migrate(connection: &mut Connection) -> Result<(), MigrateError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction
        .execute_batch("CREATE TABLE IF NOT EXISTS schema (version INTEGER NOT NULL) STRICT")?;
    let found: Option<u32> = transaction
        .query_row("SELECT max(version) FROM schema", [], |row| row.get(0))
        .optional()?
        .flatten();
    let found = found.unwrap_or(0);
    if found > VERSION {
        return Err(MigrateError::Newer { found });
    }
    for version in found..VERSION {
        transaction.execute_batch(MIGRATIONS[version as usize])?;
        transaction.execute("INSERT INTO schema (version) VALUES (?1)", [version + 1])?;
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_second_migration_changes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        migrate(&mut connection).unwrap();
        let rows: u32 =
            connection.query_row("SELECT count(*) FROM schema", [], |r| r.get(0)).unwrap();
        assert_eq!(rows, VERSION);
    }

    #[test]
    fn a_newer_database_is_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        connection.execute("INSERT INTO schema (version) VALUES (?1)", [VERSION + 1]).unwrap();
        let error = migrate(&mut connection).unwrap_err();
        assert!(matches!(error, MigrateError::Newer { found } if found == VERSION + 1));
    }
}
