//! The file of words: which rows have which words, and how far it has come.
//!
//! Its own database beside the ledger, without the rows' texts. It is filled
//! behind the commits because doing it inside one costs 3.8 times the commit
//! (`trust.md` 0.1). It may be deleted or damaged at any time: it is then made
//! anew from the ledger. A cut of power may take back its last steps, and with
//! them the position, so that they are done again.
//!
//! Invariant: position and words change in one transaction.

use std::path::{Path, PathBuf};

use osmoda_kit::fsio::{self, FsError};
use osmoda_kit::sqlite::{self, Migration, OpenError};
use osmoda_node_api::agentd::Event;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::NOT_SEARCHED;
use crate::ledger::file::{FileError, LedgerFile};

/// Name of the file in the daemon's state folder.
pub(super) const FILE_NAME: &str = "fts.db";

/// The columns and the tokenizer are the earlier product's.
pub(super) const WORDS_TABLE: &str = "fts5(type, actor, payload, content='', tokenize='porter unicode61')";

const MIGRATIONS: &[Migration] = &[(
    1,
    "CREATE VIRTUAL TABLE words USING fts5(type, actor, payload, content='', tokenize='porter unicode61');
    CREATE TABLE position (one INTEGER PRIMARY KEY CHECK (one = 1), id INTEGER NOT NULL, hash TEXT NOT NULL);
    INSERT INTO position VALUES (1, 0, '');",
)];

/// The index cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    /// The file cannot be opened or made.
    #[error("cannot open the index")]
    Open(#[from] OpenError),
    /// A statement failed.
    #[error("the index failed")]
    Sql(#[from] rusqlite::Error),
    /// A file that is to be made anew cannot be removed.
    #[error("cannot remove the index")]
    Remove(#[from] FsError),
    /// The rows to index cannot be read.
    #[error(transparent)]
    Ledger(#[from] FileError),
}

impl IndexError {
    /// Whether the file itself is at fault, so that a new one helps.
    pub(super) fn is_damage(&self) -> bool {
        let error = match self {
            Self::Open(OpenError::Newer { .. }) => return true,
            Self::Open(OpenError::Open { source, .. } | OpenError::Migrate { source, .. }) | Self::Sql(source) => {
                source
            }
            Self::Remove(_) | Self::Ledger(_) => return false,
        };
        // "Unknown" is SQLITE_ERROR: a table that is missing or is something else.
        matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown | ErrorCode::TypeMismatch)
        ) || error.sqlite_error_code().is_none()
    }
}

/// The index as its one writer sees it.
#[derive(Debug)]
pub(super) struct Index {
    conn: Connection,
    path: PathBuf,
    position: i64,
}

impl Index {
    /// Opens the index of a ledger. One that is damaged, or does not fit the
    /// ledger, is replaced by an empty one; the second value says so.
    pub(super) fn open(path: &Path, ledger: &LedgerFile) -> Result<(Self, bool), IndexError> {
        match Self::open_existing(path, ledger) {
            Ok(Some(index)) => Ok((index, false)),
            Ok(None) => Self::anew(path).map(|index| (index, true)),
            Err(error) if error.is_damage() => {
                tracing::warn!(error = osmoda_kit::error::chain(&error), "search index damaged, made anew");
                Self::anew(path).map(|index| (index, true))
            }
            Err(error) => Err(error),
        }
    }

    fn open_existing(path: &Path, ledger: &LedgerFile) -> Result<Option<Self>, IndexError> {
        let conn = sqlite::open(path, MIGRATIONS)?;
        // The index can be made again, so its commits need not wait for the disk.
        conn.pragma_update(None, "synchronous", "NORMAL")?;
        let (id, hash): (i64, String) =
            conn.query_row("SELECT id, hash FROM position", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        conn.query_row("SELECT count(*) FROM words WHERE words MATCH 'x' LIMIT 1", [], |_| Ok(()))?;
        let fits = id == 0 || ledger.by_ids(&[id])?.first().is_some_and(|event| event.hash == hash);
        Ok(fits.then(|| Self { conn, path: path.to_owned(), position: id }))
    }

    /// Removes the file and makes an empty one.
    pub(super) fn anew(path: &Path) -> Result<Self, IndexError> {
        for suffix in ["", "-wal", "-shm"] {
            let mut file = path.as_os_str().to_owned();
            file.push(suffix);
            fsio::remove_durable(Path::new(&file))?;
        }
        let conn = sqlite::open(path, MIGRATIONS)?;
        conn.pragma_update(None, "synchronous", "NORMAL")?;
        Ok(Self { conn, path: path.to_owned(), position: 0 })
    }

    /// The last row it knows.
    pub(super) const fn position(&self) -> i64 {
        self.position
    }

    /// Whether the file still has its name; somebody may have deleted it.
    pub(super) fn is_there(&self) -> bool {
        self.path.exists()
    }

    /// Adds rows behind the position, in order.
    pub(super) fn add(&mut self, events: &[Event]) -> Result<(), IndexError> {
        let Some(last) = events.last() else { return Ok(()) };
        let transaction = self.conn.transaction()?;
        {
            let mut insert = transaction
                .prepare_cached("INSERT INTO words (rowid, type, actor, payload) VALUES (?1, ?2, ?3, ?4)")?;
            for event in events.iter().filter(|event| is_searched(event)) {
                insert.execute((event.id, &event.kind, &event.actor, &event.payload))?;
            }
            transaction.execute("UPDATE position SET id = ?1, hash = ?2", (last.id, &last.hash))?;
        }
        transaction.commit()?;
        self.position = last.id;
        Ok(())
    }
}

/// Whether a row is looked at by searches at all.
pub(super) fn is_searched(event: &Event) -> bool {
    !NOT_SEARCHED.contains(&event.kind.as_str())
}

/// Opens the index for one search, read-only.
pub(super) fn open_for_search(path: &Path) -> Result<Connection, IndexError> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(super::SEARCH_TIME_LIMIT)?;
    Ok(conn)
}

/// The ids of the rows that fit best, with their scores (higher is better),
/// among the rows `from..until`.
pub(super) fn search(
    conn: &Connection,
    expression: &str,
    from: i64,
    until: i64,
    rows_max: usize,
) -> Result<Vec<(i64, f64)>, IndexError> {
    let mut statement = conn.prepare(
        "SELECT rowid, -rank FROM words WHERE words MATCH ?1 AND rowid >= ?2 AND rowid < ?3 ORDER BY rank LIMIT ?4",
    )?;
    let rows_max = i64::try_from(rows_max).unwrap_or(i64::MAX);
    let found = statement.query_map((expression, from, until, rows_max), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(found.collect::<Result<_, _>>()?)
}
