//! The ledger file as a reader sees it: its schema, the walk over rows, queries.
//!
//! The table `events` has the earlier product's columns, names and types, so
//! that either verifier reads either file. Reading never writes: the file is
//! opened read-only, with the write-ahead log taken into account.
//!
//! This file does not append; that is `store.rs`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use osmoda_node_api::agentd::{Event, EventQuery};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::record::Row;
use super::verify::{Fault, Report, Verifier};

/// Name of the file in the daemon's state folder.
pub const FILE_NAME: &str = "ledger.db";

/// The schema, as numbered migrations. Only ever appended to.
///
/// The triggers guard against accidents, not against root: whoever can write
/// the file can drop them (`trust.md` 1.3, L5). The insert trigger is there
/// because `INSERT OR REPLACE` deletes a row without firing a delete trigger.
pub(crate) const MIGRATIONS: &[(u32, &str)] = &[
    (
        1,
        "CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        ts TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
        type TEXT NOT NULL,
        actor TEXT NOT NULL,
        payload TEXT NOT NULL,
        prev_hash TEXT NOT NULL,
        hash TEXT NOT NULL
    );
    CREATE TRIGGER events_no_update BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
    CREATE TRIGGER events_no_delete BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
    CREATE TRIGGER events_no_replace BEFORE INSERT ON events
    WHEN EXISTS (SELECT 1 FROM events WHERE id = NEW.id)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;",
    ),
    (2, crate::approval::SCHEMA),
];

/// Most rows one query returns, whatever its limit says; `limit < 0` means
/// this many. Ten thousand typical rows are about 5 MB of JSON: enough for a
/// screen or a page of an export, small enough to hold in memory.
pub const QUERY_ROWS_MAX: u32 = 10_000;

/// Most bytes of columns one query returns. Payloads may be 60 KiB, so rows
/// alone would allow 600 MB; at 8 MiB a reader notices nothing and a daemon
/// under a 64 MiB limit survives.
pub const QUERY_BYTES_MAX: usize = 8 << 20;

/// How long a reader waits for a lock. Readers and the writer do not block
/// each other in WAL mode; only opening during recovery can, for milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// The file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It does not exist or cannot be opened.
    #[error("cannot open the ledger {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// It is damaged below the level of rows, or is no ledger.
    #[error("cannot read the ledger")]
    Read(#[source] rusqlite::Error),
}

/// A page of events, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The rows.
    pub events: Vec<Event>,
    /// Whether a cap of this file cut the answer short.
    pub is_truncated: bool,
}

/// Totals over the whole ledger.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Number of rows.
    pub count: u64,
    /// Time of the first row.
    pub first_ts: Option<String>,
    /// Time of the last row.
    pub last_ts: Option<String>,
    /// Rows per type, most frequent first.
    pub by_type: Vec<(String, u64)>,
    /// Size of the file with its write-ahead log, in bytes.
    pub file_bytes: u64,
}

/// A ledger file open for reading.
pub struct LedgerFile {
    conn: Connection,
    path: PathBuf,
}

impl LedgerFile {
    /// Opens a ledger for reading, whether or not a daemon has it open.
    ///
    /// # Errors
    /// [`FileError::Open`] when the file is missing or unreadable.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let opened = || {
            let conn =
                Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
            conn.busy_timeout(LOCK_WAIT)?;
            // The first statement is what really opens the file.
            conn.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
            Ok(conn)
        };
        let conn = opened().map_err(|source| FileError::Open { path: path.to_owned(), source })?;
        Ok(Self { conn, path: path.to_owned() })
    }

    /// The connection, for tables beside the chain; it only reads.
    pub(crate) fn connection(&self) -> &Connection {
        &self.conn
    }

    /// Walks the whole chain and tells `found` each fault.
    ///
    /// # Errors
    /// [`FileError::Read`] when the file is damaged below the level of rows.
    pub fn verify(&self, found: impl FnMut(Fault)) -> Result<Report, FileError> {
        verify(&self.conn).map_err(FileError::Read)?.walk(found).map_err(FileError::Read)
    }

    /// The newest rows that match, newest first, within
    /// [`QUERY_ROWS_MAX`] and [`QUERY_BYTES_MAX`].
    ///
    /// # Errors
    /// [`FileError::Read`].
    pub fn events(&self, query: &EventQuery) -> Result<Page, FileError> {
        self.page(query).map_err(FileError::Read)
    }

    fn page(&self, query: &EventQuery) -> rusqlite::Result<Page> {
        let wanted = u32::try_from(query.limit).unwrap_or(QUERY_ROWS_MAX).min(QUERY_ROWS_MAX);
        // One row more than wanted tells whether the cap cut the answer.
        let is_capped = query.limit < 0 || query.limit > i64::from(QUERY_ROWS_MAX);
        let mut statement = self.conn.prepare_cached(
            "SELECT id, ts, type, actor, payload, prev_hash, hash FROM events
             WHERE (?1 IS NULL OR type = ?1) AND (?2 IS NULL OR actor = ?2) AND (?3 IS NULL OR id < ?3)
             ORDER BY id DESC LIMIT ?4",
        )?;
        let mut rows =
            statement.query((&query.kind, &query.actor, query.before, i64::from(wanted) + i64::from(is_capped)))?;
        let mut page = Page { events: Vec::new(), is_truncated: false };
        let mut bytes = 0_usize;
        while let Some(row) = rows.next()? {
            let event = event(row)?;
            bytes += event.ts.len() + event.kind.len() + event.actor.len() + event.payload.len();
            if page.events.len() == wanted as usize || bytes > QUERY_BYTES_MAX {
                page.is_truncated = true;
                break;
            }
            page.events.push(event);
        }
        Ok(page)
    }

    /// Hands each row to `each`, oldest first: an export.
    ///
    /// # Errors
    /// [`FileError::Read`], or what `each` returned.
    pub fn for_each<E: From<FileError>>(&self, mut each: impl FnMut(Event) -> Result<(), E>) -> Result<(), E> {
        let read = |e| E::from(FileError::Read(e));
        let mut statement = self.conn.prepare(&all_rows()).map_err(read)?;
        let mut rows = statement.query([]).map_err(read)?;
        while let Some(row) = rows.next().map_err(read)? {
            each(event(row).map_err(read)?)?;
        }
        Ok(())
    }

    /// Totals over the whole ledger.
    ///
    /// # Errors
    /// [`FileError::Read`].
    pub fn stats(&self) -> Result<Stats, FileError> {
        let totals = || {
            let (count, first_ts, last_ts) =
                self.conn.query_row("SELECT count(*), min(ts), max(ts) FROM events", [], |row| {
                    Ok((unsigned(row, 0)?, row.get(1)?, row.get(2)?))
                })?;
            let mut statement =
                self.conn.prepare("SELECT type, count(*) AS n FROM events GROUP BY type ORDER BY n DESC, type")?;
            let by_type =
                statement.query_map([], |row| Ok((row.get(0)?, unsigned(row, 1)?)))?.collect::<Result<_, _>>()?;
            Ok(Stats { count, first_ts, last_ts, by_type, file_bytes: file_bytes(&self.path) })
        };
        totals().map_err(FileError::Read)
    }
}

impl std::fmt::Debug for LedgerFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LedgerFile({})", self.path.display())
    }
}

/// A walk that is ready to start; see [`verify`].
pub(crate) struct Walk<'a> {
    statement: rusqlite::Statement<'a>,
    last_written: Option<u64>,
}

/// Prepares the walk over the chain of an open database.
pub(crate) fn verify(conn: &Connection) -> rusqlite::Result<Walk<'_>> {
    // AUTOINCREMENT makes SQLite remember the largest id ever used, so rows
    // that were cut off the end leave a trace.
    let last_written = conn
        .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'events'", [], |row| unsigned(row, 0))
        .map(Some)
        .or_else(|e| if e == rusqlite::Error::QueryReturnedNoRows { Ok(None) } else { Err(e) })?;
    Ok(Walk { statement: conn.prepare(&all_rows())?, last_written })
}

impl Walk<'_> {
    pub(crate) fn walk(mut self, mut found: impl FnMut(Fault)) -> rusqlite::Result<Report> {
        let mut verifier = Verifier::new();
        let mut rows = self.statement.query([])?;
        while let Some(row) = rows.next()? {
            let column = |n: usize| row.get_ref(n).map(text_bytes);
            verifier.feed(
                &Row {
                    id: row.get(0)?,
                    ts: column(1)?,
                    kind: column(2)?,
                    actor: column(3)?,
                    payload: column(4)?,
                    prev_hash: column(5)?,
                    hash: column(6)?,
                },
                &mut found,
            );
        }
        Ok(verifier.finish(self.last_written, found))
    }
}

fn all_rows() -> String {
    "SELECT id, ts, type, actor, payload, prev_hash, hash FROM events ORDER BY id".to_owned()
}

/// A column that is not text was not written by us: it reads as empty, which
/// breaks the row's hash.
fn text_bytes(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(bytes) => bytes,
        _ => b"",
    }
}

fn event(row: &rusqlite::Row<'_>) -> rusqlite::Result<Event> {
    // Lossy: a damaged row must still be shown; judging it is the verifier's job.
    let column = |n: usize| row.get_ref(n).map(|value| String::from_utf8_lossy(text_bytes(value)).into_owned());
    Ok(Event {
        id: row.get(0)?,
        ts: column(1)?,
        kind: column(2)?,
        actor: column(3)?,
        payload: column(4)?,
        prev_hash: column(5)?,
        hash: column(6)?,
    })
}

/// SQLite's integers are signed; what counts things is never negative in a file
/// that is sound, and zero in one that is not.
fn unsigned(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or(0))
}

fn file_bytes(path: &Path) -> u64 {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    [path, Path::new(&wal)].iter().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum()
}
