//! The ledger file as a reader sees it: its schema, the walk over rows, queries.
//!
//! The table `events` has the earlier product's columns, names and types, so
//! that either verifier reads either file. Reading never writes: the file is
//! opened read-only, with the write-ahead log taken into account.
//!
//! This file does not append; that is `store.rs`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use osmoda_ledger::audit::Auditor;
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::look::{Batch, Looked};
use osmoda_ledger::tree::{Frontier, TreeHash};
use osmoda_ledger::walk::{Threads, walk};
use osmoda_node_api::agentd::{Event, EventQuery};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::base::{self, Beginning};
use super::record::{ChainHash, Row};
use super::verify::{ChainFault, Fault, Report, Verifier};

/// Name of the file in the daemon's state folder.
pub const FILE_NAME: &str = "ledger.db";

/// The schema, as numbered migrations. Only ever appended to.
///
/// The triggers guard against accidents, not against root: whoever can write
/// the file can drop them (`trust.md` 1.3, L5). The insert trigger is there
/// because `INSERT OR REPLACE` deletes a row without firing a delete trigger.
pub(crate) const MIGRATIONS: &[(u32, &str)] = &[
    (1, EVENTS),
    (2, crate::approval::SCHEMA),
    // The tree beside the chain: its right frontier, of the same commit as the rows.
    (3, "CREATE TABLE tree (one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL, frontier BLOB NOT NULL);"),
    (4, super::base::SCHEMA),
];

const EVENTS: &str = "CREATE TABLE events (
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
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;";

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
    pub(super) conn: Connection,
    path: PathBuf,
    threads: Threads,
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
        Ok(Self { conn, path: path.to_owned(), threads: Threads::Two })
    }

    /// Verifies on that many threads; two, unless it is measured.
    #[must_use]
    pub const fn on(mut self, threads: Threads) -> Self {
        self.threads = threads;
        self
    }

    /// Where the rows begin; `None` when every row is there.
    ///
    /// # Errors
    /// [`FileError::Read`].
    pub fn beginning(&self) -> Result<Option<Beginning>, FileError> {
        base::load(&self.conn).map_err(FileError::Read)
    }

    /// Bytes of the pages that hold something.
    ///
    /// # Errors
    /// [`FileError::Read`].
    pub fn used_bytes(&self) -> Result<u64, FileError> {
        let pragma = |name: &str| self.conn.query_row(&format!("PRAGMA {name}"), [], |row| unsigned(row, 0));
        let used = || Ok(pragma("page_count")?.saturating_sub(pragma("freelist_count")?) * pragma("page_size")?);
        used().map_err(FileError::Read)
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
        self.verify_against(&[], found, |_| {})
    }

    /// As [`LedgerFile::verify`], and compares the rows with checkpoints that
    /// were signed over them, oldest first. Hands each leaf to `leaf`.
    ///
    /// # Errors
    /// As [`LedgerFile::verify`].
    pub fn verify_against(
        &self,
        marks: &[Mark],
        found: impl FnMut(Fault),
        leaf: impl FnMut(TreeHash),
    ) -> Result<Report, FileError> {
        let walked = || {
            // One view of the file: rows and tree are of one commit, while others go on.
            let _view = self.conn.unchecked_transaction()?;
            verify(&self.conn)?.walk(self.threads, marks, found, leaf)
        };
        walked().map(|walked| walked.report).map_err(FileError::Read)
    }

    /// Feeds every row to an auditor, and compares the tree that storage keeps.
    /// Returns the id of the last row that storage remembers writing.
    ///
    /// # Errors
    /// [`FileError::Read`] when the file is damaged below the level of rows.
    pub fn audit(&self, auditor: &mut Auditor, mut found: impl FnMut(Fault)) -> Result<Option<u64>, FileError> {
        let mut walked = || {
            let _view = self.conn.unchecked_transaction()?;
            let Walk { mut statement, last_written, stored, .. } = verify(&self.conn)?;
            let mut rows = statement.query([])?;
            walk(
                self.threads,
                |batch| fill(&mut rows, batch),
                |row, looked| {
                    auditor.take(row, looked, &mut found);
                    Ok::<_, rusqlite::Error>(())
                },
            )?;
            let tree = auditor.tree();
            if stored.is_some_and(|(size, bytes)| size != tree.size() || bytes != tree.to_bytes()) {
                auditor.tell_wrong_tree();
            }
            Ok(last_written)
        };
        walked().map_err(FileError::Read)
    }

    /// Hands the leaves of the rows after `size` up to `to` to `each`.
    ///
    /// # Errors
    /// [`FileError::Read`], or what `each` returned.
    pub fn leaves<E: From<FileError>>(
        &self,
        size: u64,
        to: u64,
        mut each: impl FnMut(TreeHash) -> Result<(), E>,
    ) -> Result<(), E> {
        self.between(size, to, |record| each(TreeHash::of_leaf(record)))
    }

    /// Hands the records of the rows up to `size` to `each`, oldest first.
    ///
    /// # Errors
    /// [`FileError::Read`], or what `each` returned.
    pub fn records<E: From<FileError>>(&self, size: u64, each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.between(0, size, each)
    }

    /// The records of the rows after `size` up to `to`.
    fn between<E: From<FileError>>(
        &self,
        size: u64,
        to: u64,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let read = |e| E::from(FileError::Read(e));
        let bound = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let query = format!("{COLUMNS} WHERE id > ?1 AND id <= ?2 ORDER BY id");
        let mut statement = self.conn.prepare_cached(&query).map_err(read)?;
        let mut rows = statement.query((bound(size), bound(to))).map_err(read)?;
        let mut record = Vec::new();
        while let Some(row) = rows.next().map_err(read)? {
            columns(row).map_err(read)?.record_into(&mut record);
            each(&record)?;
        }
        Ok(())
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
        let query_text = format!(
            "{COLUMNS} WHERE (?1 IS NULL OR type = ?1) AND (?2 IS NULL OR actor = ?2) AND (?3 IS NULL OR id < ?3)
             ORDER BY id DESC LIMIT ?4"
        );
        let mut statement = self.conn.prepare_cached(&query_text)?;
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

    /// Hands the rows from id `from` up to, not including, `to` to `each`, oldest
    /// first.
    ///
    /// # Errors
    /// [`FileError::Read`], or what `each` returned.
    pub fn range<E: From<FileError>>(
        &self,
        from: u64,
        to: u64,
        mut each: impl FnMut(Event) -> Result<(), E>,
    ) -> Result<(), E> {
        let read = |e| E::from(FileError::Read(e));
        let bound = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let query = format!("{COLUMNS} WHERE id >= ?1 AND id < ?2 ORDER BY id");
        let mut statement = self.conn.prepare_cached(&query).map_err(read)?;
        let mut rows = statement.query((bound(from), bound(to))).map_err(read)?;
        while let Some(row) = rows.next().map_err(read)? {
            each(event(row).map_err(read)?)?;
        }
        Ok(())
    }

    /// The hash of a row; `None` when there is no such row.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn hash_at(&self, id: u64) -> Result<Option<String>, FileError> {
        let Ok(id) = i64::try_from(id) else { return Ok(None) };
        let read = || {
            let mut statement = self.conn.prepare_cached("SELECT hash FROM events WHERE id = ?1")?;
            if let Some(hash) = statement.query_row([id], |row| row.get(0)).optional()? {
                return Ok(Some(hash));
            }
            let last_dropped = base::load(&self.conn)?.map(|beginning| beginning.base.head);
            let head = last_dropped.filter(|head| i64::try_from(head.size) == Ok(id));
            Ok(head.map(|head| head.hash.to_string()))
        };
        read().map_err(FileError::Read)
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

/// What a checkpoint says about the rows: tree and chain at one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// How many rows.
    pub size: u64,
    /// The root over them.
    pub root: TreeHash,
    /// The hash of the last of them.
    pub chain: ChainHash,
}

impl From<&Checkpoint> for Mark {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self { size: checkpoint.size, root: checkpoint.root, chain: checkpoint.chain }
    }
}

/// A walk that is ready to start; see [`verify`].
pub(crate) struct Walk<'a> {
    statement: rusqlite::Statement<'a>,
    last_written: Option<u64>,
    /// The tree that storage keeps; none in a file from before there was one.
    stored: Option<(u64, Vec<u8>)>,
    beginning: Option<Beginning>,
    /// Whether there are rows that the beginning says are gone.
    has_dropped: bool,
}

/// What a walk found, and the tree of the rows it saw.
pub(crate) struct Walked {
    pub(crate) report: Report,
    pub(crate) tree: Frontier,
}

/// Prepares the walk over the chain of an open database.
pub(crate) fn verify(conn: &Connection) -> rusqlite::Result<Walk<'_>> {
    // AUTOINCREMENT makes SQLite remember the largest id ever used, so rows
    // that were cut off the end leave a trace.
    let last_written = conn
        .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'events'", [], |row| unsigned(row, 0))
        .map(Some)
        .or_else(|e| if e == rusqlite::Error::QueryReturnedNoRows { Ok(None) } else { Err(e) })?;
    let stored = conn
        .query_row("SELECT size, frontier FROM tree", [], |row| Ok((unsigned(row, 0)?, row.get(1)?)))
        .map(Some)
        .or_else(|e| match e {
            rusqlite::Error::QueryReturnedNoRows => Ok(None),
            // A file of the earlier product, or of ours before there was a tree.
            e if !has_table(conn, "tree")? => {
                drop(e);
                Ok(None)
            }
            e => Err(e),
        })?;
    let beginning = base::load(conn)?;
    let dropped = beginning.as_ref().map_or(0, |beginning| beginning.base.head.size);
    let has_dropped =
        conn.query_row(&format!("SELECT EXISTS (SELECT 1 FROM events WHERE id <= {dropped})"), [], |row| row.get(0))?;
    let statement = conn.prepare(&format!("{COLUMNS} WHERE id > {dropped} ORDER BY id"))?;
    Ok(Walk { statement, last_written, stored, beginning, has_dropped })
}

pub(super) fn has_table(conn: &Connection, name: &str) -> rusqlite::Result<bool> {
    conn.query_row("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1", [name], |row| {
        row.get::<_, i64>(0).map(|count| count > 0)
    })
}

impl Walk<'_> {
    pub(crate) fn walk(
        mut self,
        threads: Threads,
        marks: &[Mark],
        mut found: impl FnMut(Fault),
        mut leaf: impl FnMut(TreeHash),
    ) -> rusqlite::Result<Walked> {
        let (mut verifier, mut tree) = match &self.beginning {
            Some(Beginning { base, .. }) => (Verifier::resume(base.head, base.ts.as_bytes()), base.tree.clone()),
            None => (Verifier::new(), Frontier::new()),
        };
        let mut wrong = Vec::new();
        // A checkpoint over dropped rows alone has nothing to be compared with;
        // the next ones hold for the tree that goes on from there.
        let dropped = tree.size();
        let mut marks = marks.iter().filter(move |mark| mark.size == 0 || mark.size > dropped).peekable();
        let mut rows = self.statement.query([])?;
        let each = |row: &Row<'_>, looked: &Looked| {
            let hash = verifier.take(row, looked, &mut found);
            tree.append(hash);
            leaf(hash);
            while let Some(mark) = marks.next_if(|mark| mark.size <= tree.size()) {
                let fits = mark.size == tree.size() && mark.root == tree.root() && mark.chain.as_bytes() == row.hash;
                if !fits {
                    wrong.push(ChainFault::Checkpoint { size: mark.size });
                }
            }
            Ok::<_, rusqlite::Error>(())
        };
        walk(threads, |batch| fill(&mut rows, batch), each)?;
        let mut report = verifier.finish(self.last_written, &mut found);
        // Signed over rows that are not there any more.
        wrong.extend(marks.map(|mark| ChainFault::Checkpoint { size: mark.size }));
        let is_same = |(size, bytes): (u64, Vec<u8>)| size == tree.size() && bytes == tree.to_bytes();
        if !self.stored.is_none_or(is_same) || self.has_dropped {
            wrong.push(ChainFault::Tree);
        }
        for fault in wrong {
            report.chain_faults += 1;
            let id = i64::try_from(tree.size()).unwrap_or(i64::MAX);
            found(Fault { id, kind: fault.into() });
        }
        Ok(Walked { report, tree })
    }
}

pub(super) const COLUMNS: &str = "SELECT id, ts, type, actor, payload, prev_hash, hash FROM events";

fn all_rows() -> String {
    format!("{COLUMNS} ORDER BY id")
}

/// Adds rows until the batch is full; whether there may be more.
fn fill(rows: &mut rusqlite::Rows<'_>, batch: &mut Batch) -> rusqlite::Result<bool> {
    while !batch.is_full() {
        let Some(row) = rows.next()? else { return Ok(false) };
        batch.push(&columns(row)?);
    }
    Ok(true)
}

fn columns<'a>(row: &'a rusqlite::Row<'_>) -> rusqlite::Result<Row<'a>> {
    let column = |n: usize| row.get_ref(n).map(text_bytes);
    Ok(Row {
        id: row.get(0)?,
        ts: column(1)?,
        kind: column(2)?,
        actor: column(3)?,
        payload: column(4)?,
        prev_hash: column(5)?,
        hash: column(6)?,
    })
}

/// A column that is not text was not written by us: it reads as empty, which
/// breaks the row's hash.
fn text_bytes(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(bytes) => bytes,
        _ => b"",
    }
}

pub(super) fn event(row: &rusqlite::Row<'_>) -> rusqlite::Result<Event> {
    // Lossy: a damaged row must still be shown; judging it is the verifier's job.
    let text = |column: &[u8]| String::from_utf8_lossy(column).into_owned();
    let Row { id, ts, kind, actor, payload, prev_hash, hash } = columns(row)?;
    Ok(Event {
        id,
        ts: text(ts),
        kind: text(kind),
        actor: text(actor),
        payload: text(payload),
        prev_hash: text(prev_hash),
        hash: text(hash),
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
