//! Opening a SQLite database and bringing it to its newest form.
//!
//! Invariant: an open database is in WAL mode with `synchronous=FULL`, so a
//! committed transaction survives a power cut, and has had every migration
//! applied once, in order. A database of a newer program is refused, because
//! writing to it could break what that program relies on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use osmoda_types::ErrorCode;
use rusqlite::Connection;

use crate::error::ApiError;

/// How long a statement waits for another process's lock. There is one writer
/// per database; only a reading command line program gets in between, for
/// milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// One step of the schema: its number, from 1 without gaps, and its SQL. A host may be
/// rolled back to the program before, which refuses a file with a newer number: what that
/// program can do without is a table of its own, made where it is missing, and no step.
pub type Migration = (u32, &'static str);

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite refused to open or prepare it.
    #[error("cannot open the database {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A migration failed; the database is as it was before it.
    #[error("migration {number} of {} failed", path.display())]
    Migrate {
        /// The file.
        path: PathBuf,
        /// The number of the migration.
        number: u32,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A newer program made it.
    #[error("{} has schema {found}, this program knows {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest schema known here.
        known: u32,
    },
}

impl OpenError {
    /// The code callers see.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        let (OpenError::Open { source, .. } | OpenError::Migrate { source, .. }) = self else {
            return ErrorCode::StateDirUnusable;
        };
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => ErrorCode::DiskFull,
            _ => ErrorCode::StateDirUnusable,
        }
    }
}

impl From<OpenError> for ApiError {
    fn from(error: OpenError) -> Self {
        ApiError::new(error.code(), error.to_string()).with_source(error)
    }
}

/// Opens or makes a database and applies what is missing. Blocks.
///
/// # Errors
/// [`OpenError`].
///
/// # Panics
/// When the migrations are not numbered 1, 2, 3, …: a mistake of the program.
pub fn open(path: &Path, migrations: &[Migration]) -> Result<Connection, OpenError> {
    let open_error = |source| OpenError::Open { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(open_error)?;
    prepare(&connection).map_err(open_error)?;
    migrate(&mut connection, path, migrations)?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")
}

fn migrate(connection: &mut Connection, path: &Path, migrations: &[Migration]) -> Result<(), OpenError> {
    for (place, (number, _)) in migrations.iter().enumerate() {
        assert_eq!(*number as usize, place + 1, "migrations are numbered from 1 without gaps");
    }
    let known = migrations.last().map_or(0, |(number, _)| *number);
    let found: u32 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(|source| OpenError::Open { path: path.to_owned(), source })?;
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    for (number, sql) in migrations.iter().filter(|(number, _)| *number > found) {
        step(connection, *number, sql).map_err(|source| OpenError::Migrate {
            path: path.to_owned(),
            number: *number,
            source,
        })?;
    }
    Ok(())
}

/// One migration and its number, in one transaction.
fn step(connection: &mut Connection, number: u32, sql: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(sql)?;
    transaction.pragma_update(None, "user_version", number)?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Migration = (1, "CREATE TABLE a (x INTEGER);");
    const TWO: Migration = (2, "ALTER TABLE a ADD COLUMN y TEXT; INSERT INTO a VALUES (1, 'one');");

    #[test]
    fn migrations_are_applied_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        drop(open(&path, &[ONE]).unwrap());
        drop(open(&path, &[ONE, TWO]).unwrap());
        let connection = open(&path, &[ONE, TWO]).unwrap();
        let rows: i64 = connection.query_row("SELECT count(*) FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 1);
        let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
        let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
        assert_eq!((mode.as_str(), synchronous), ("wal", 2));
    }

    #[test]
    fn a_newer_database_and_a_failing_step_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        drop(open(&path, &[ONE, TWO]).unwrap());
        assert!(matches!(open(&path, &[ONE]), Err(OpenError::Newer { found: 2, known: 1, .. })));

        let bad: Migration = (3, "CREATE TABLE b (x); SELECT nonsense FROM nowhere;");
        assert!(matches!(open(&path, &[ONE, TWO, bad]), Err(OpenError::Migrate { number: 3, .. })));
        let connection = open(&path, &[ONE, TWO]).unwrap();
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_master WHERE name = 'b'", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 0);
    }

    #[test]
    fn a_file_that_is_no_database_is_a_state_fault() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        std::fs::write(&path, vec![7u8; 8192]).unwrap();
        assert_eq!(open(&path, &[ONE]).unwrap_err().code(), ErrorCode::StateDirUnusable);
    }
}
