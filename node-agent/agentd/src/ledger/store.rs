//! The ledger file as its one writer sees it: open, verify, commit, checkpoint.
//!
//! Invariant: `head` is the head of what is durable. It moves only after SQLite
//! reported the commit, and every row of a batch becomes durable together.
//!
//! This file blocks; it runs on the writer's thread.

use std::path::Path;
use std::time::Duration;

use osmoda_kit::clock::Timestamp;
use osmoda_ledger::tree::{Frontier, TreeHash};
use osmoda_ledger::walk::Threads;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode as SqliteCode, OptionalExtension};

use super::file::{self, Mark};
use super::grammar::{self, GrammarFault};
use super::insert::{Placed, Rows};
use super::log::{self, Copied, LogLength};
use super::payload::Payload;
use super::record::{ChainHash, Head, Row};
use super::verify::{Fault, Report};

/// Page size of the file, SQLite's default.
const PAGE_BYTES: u64 = 4096;

/// How long to wait for a lock somebody else holds, such as `sqlite3` on the
/// same file. Longer than any reader needs, shorter than a caller's patience.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Writes the right frontier of the tree, in the transaction of its rows.
const PUT_TREE: &str = "INSERT INTO tree (one, size, frontier) VALUES (1, ?1, ?2)
    ON CONFLICT (one) DO UPDATE SET size = excluded.size, frontier = excluded.frontier";

/// How hard a commit tries to survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synchronous {
    /// Every commit is on disk when it is acknowledged. What the daemon uses.
    Full,
    /// Nothing is synced. For measurement only: it shows what durability costs.
    Off,
}

/// A row that is fit to be appended.
///
/// Invariant: it keeps rules L2 and L3 ([`NewRow::new`] is the only way in).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRow {
    kind: String,
    actor: String,
    payload: Payload,
}

impl NewRow {
    /// Checks type and actor; the payload carries its own proof.
    ///
    /// # Errors
    /// [`GrammarFault::Type`], [`GrammarFault::Actor`].
    pub fn new(kind: String, actor: String, payload: Payload) -> Result<Self, GrammarFault> {
        if !grammar::is_name(kind.as_bytes()) {
            return Err(GrammarFault::Type);
        }
        if !grammar::is_name(actor.as_bytes()) {
            return Err(GrammarFault::Actor);
        }
        Ok(Self { kind, actor, payload })
    }

    /// Whether an act follows once this is durable: the intent of any but a rollback,
    /// or an attempt that is nothing else, which are never held up, and of the
    /// ledger's own, which make room.
    pub(crate) fn begins_act(&self) -> bool {
        let stem = grammar::intent_stem(self.kind.as_bytes());
        let is_free = |stem: &[u8]| stem.ends_with(b"rollback") || stem.starts_with(b"ledger.");
        stem.is_some_and(|stem| !is_free(stem) && !self.undoes())
    }

    /// Whether the payload says `"undo": true`, as watch's rows of an attempt do that
    /// only leads back.
    fn undoes(&self) -> bool {
        #[derive(serde::Deserialize)]
        struct Mark {
            undo: bool,
        }
        serde_json::from_str(self.payload.as_str()).is_ok_and(|mark: Mark| mark.undo)
    }

    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    pub(super) fn actor(&self) -> &str {
        &self.actor
    }

    pub(super) fn payload(&self) -> &str {
        self.payload.as_str()
    }

    fn row<'a>(&'a self, id: i64, ts: &'a str, prev_hash: &'a ChainHash) -> Row<'a> {
        Row {
            id,
            ts: ts.as_bytes(),
            kind: self.kind.as_bytes(),
            actor: self.actor.as_bytes(),
            payload: self.payload.as_str().as_bytes(),
            prev_hash: prev_hash.as_bytes(),
            hash: b"",
        }
    }

    fn bytes(&self) -> u64 {
        // Fixed columns and SQLite's own overhead are about 200 bytes a row.
        (self.kind.len() + self.actor.len() + self.payload.as_str().len()) as u64 + 200
    }
}

/// A change of other tables that is made in the transaction of a row, before
/// it, or not at all. It gets the id the row will have; `false` drops the row and
/// undoes the change, and the rest of the batch goes on.
pub(crate) type Guard = Box<dyn FnOnce(&Connection, i64) -> rusqlite::Result<bool> + Send>;

/// A row and what must hold for it to be written.
pub(crate) type Entry = (NewRow, Option<Guard>);

/// The head after each row of a batch, the time of the rows, the tree after them.
type Inserted = (Vec<Option<Head>>, String, Frontier);

/// A write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Storage refused the write and the file is as before: the disk is full,
    /// read-only, or the file is locked. A later write may succeed.
    #[error("storage refused the write")]
    Refused(#[source] rusqlite::Error),
    /// What is on disk is unknown: a read, write or sync failed. A sync that
    /// failed must never be tried again as if nothing had happened, because the
    /// kernel may have dropped the pages; only a restart, which reads and
    /// verifies the file, may go on.
    #[error("storage failed in the middle of a write")]
    Failed(#[source] rusqlite::Error),
    /// The file holds another head than the one that was committed last.
    #[error("the ledger was changed by somebody else")]
    Foreign,
    /// The writer's thread or the copier's panicked; its hook has said where.
    #[error("a thread of the ledger panicked")]
    Panicked,
}

impl StoreError {
    pub(super) fn from_write(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(
                SqliteCode::DiskFull
                | SqliteCode::ReadOnly
                | SqliteCode::DatabaseBusy
                | SqliteCode::DatabaseLocked
                | SqliteCode::CannotOpen
                | SqliteCode::PermissionDenied
                | SqliteCode::OutOfMemory,
            ) => Self::Refused(error),
            _ => Self::Failed(error),
        }
    }
}

/// The file could not be opened for writing.
#[derive(Debug, thiserror::Error)]
pub enum CannotOpen {
    /// SQLite, or a migration, refused it.
    #[error("cannot open the ledger for writing")]
    Database(#[source] osmoda_kit::sqlite::OpenError),
    /// It opened, but a setting was refused.
    #[error("cannot set up the ledger for writing")]
    Tune(#[source] rusqlite::Error),
}

impl CannotOpen {
    /// The code callers see.
    #[must_use]
    pub fn code(&self) -> osmoda_types::ErrorCode {
        match self {
            CannotOpen::Database(error) => error.code(),
            CannotOpen::Tune(_) => osmoda_types::ErrorCode::StateDirUnusable,
        }
    }

    /// Whether the file is there but is no database any more.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        use osmoda_kit::sqlite::OpenError;
        let (CannotOpen::Database(OpenError::Open { source, .. } | OpenError::Migrate { source, .. })
        | CannotOpen::Tune(source)) = self
        else {
            return false;
        };
        matches!(source.sqlite_error_code(), Some(SqliteCode::DatabaseCorrupt | SqliteCode::NotADatabase))
    }
}

/// The one open writer.
#[derive(Debug)]
pub(crate) struct Store {
    conn: Connection,
    head: Head,
    tree: Frontier,
    last_ts: String,
    pub(super) log: LogLength,
    #[cfg(test)]
    fails_sync: bool,
}

/// A connection that writes the ledger, or copies its log into the file.
pub(super) fn connect(path: &Path, synchronous: Synchronous) -> Result<Connection, CannotOpen> {
    let conn = osmoda_kit::sqlite::open(path, file::MIGRATIONS).map_err(CannotOpen::Database)?;
    let tune = || {
        conn.busy_timeout(LOCK_WAIT)?;
        if synchronous == Synchronous::Off {
            conn.pragma_update(None, "synchronous", "OFF")?;
        }
        // The table's triggers are for others who open the file. For one before an
        // insert SQLite copies each row once more, a third of the time of an insert;
        // here rows are only ever inserted, by a key that is unique (`insert.rs`), and
        // dropped by retention (`base.rs`).
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        // The log is copied after commits (`log.rs`); SQLite's own copy would run inside
        // one, and is the safety net.
        conn.pragma_update(None, "wal_autocheckpoint", 2 * log::PAGES_MAX)?;
        // A log that a long reader let grow beyond all is cut when it begins again.
        conn.pragma_update(None, "journal_size_limit", log::FILE_BYTES_MAX)
    };
    tune().map_err(CannotOpen::Tune)?;
    Ok(conn)
}

impl Store {
    /// Opens or creates the file. The head is not known until [`Store::verify`].
    pub(crate) fn open(path: &Path, synchronous: Synchronous) -> Result<Self, CannotOpen> {
        let conn = connect(path, synchronous)?;
        Ok(Self {
            conn,
            head: Head::EMPTY,
            tree: Frontier::new(),
            last_ts: String::new(),
            log: LogLength::default(),
            #[cfg(test)]
            fails_sync: false,
        })
    }

    /// Walks the whole chain and takes its end as the head to append to; see
    /// [`file::LedgerFile::verify_against`].
    pub(crate) fn verify(
        &mut self,
        marks: &[Mark],
        found: impl FnMut(Fault),
        leaf: impl FnMut(TreeHash),
    ) -> rusqlite::Result<Report> {
        let walked = file::verify(&self.conn)?.walk(Threads::Two, marks, found, leaf)?;
        self.head = walked.report.head;
        self.tree = walked.tree;
        // The last row has the newest time (rule L1, just checked).
        self.last_ts = self
            .conn
            .query_row("SELECT ts FROM events ORDER BY id DESC LIMIT 1", [], |row| row.get(0))
            .optional()?
            .unwrap_or_default();
        Ok(walked.report)
    }

    /// The root over the rows that are durable.
    pub(crate) fn root(&self) -> TreeHash {
        self.tree.root()
    }

    pub(crate) const fn head(&self) -> Head {
        self.head
    }

    /// Appends the rows in one transaction, in order, and returns the head after
    /// each; `None` where a guard dropped the row. When this returns, they are
    /// durable.
    pub(crate) fn commit(&mut self, rows: Vec<Entry>, now: Timestamp) -> Result<Vec<Option<Head>>, StoreError> {
        let bytes: u64 = rows.iter().map(|(row, _)| row.bytes()).sum();
        match self.insert(rows, now) {
            Ok((heads, ts, tree)) => {
                self.head = heads.iter().rev().flatten().next().copied().unwrap_or(self.head);
                self.tree = tree;
                self.last_ts = ts;
                // The last leaf, its parent, the sequence's and the tree's page are written again by each commit.
                self.log.add(4 + bytes.div_ceil(PAGE_BYTES));
                Ok(heads)
            }
            Err(error) => Err(self.recover(StoreError::from_write(error))),
        }
    }

    fn insert(&mut self, rows: Vec<Entry>, now: Timestamp) -> rusqlite::Result<Inserted> {
        // A clock that was set back repeats the last time instead (rule L1).
        let ts = now.to_string().max(self.last_ts.clone());
        let transaction = self.conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let (mut heads, mut tree, mut record) = (Vec::with_capacity(rows.len()), self.tree.clone(), Vec::new());
        let (mut head, mut insert) = (self.head, Rows::new(&transaction, &ts));
        for (row, guard) in rows {
            let id = to_i64(head.size + 1)?;
            if let Some(guard) = guard {
                // It finds all rows before its own.
                insert.flush()?;
                if !hold(&transaction, guard, id)? {
                    heads.push(None);
                    continue;
                }
            }
            row.row(id, &ts, &head.hash).record_into(&mut record);
            let hash = ChainHash::of_record(&record);
            tree.append(TreeHash::of_leaf(&record));
            insert.add(Placed { id, row, prev_hash: head.hash, hash })?;
            head = Head { size: head.size + 1, hash };
            heads.push(Some(head));
        }
        insert.flush()?;
        transaction.prepare_cached(PUT_TREE)?.execute((to_i64(tree.size())?, tree.to_bytes()))?;
        #[cfg(test)]
        if self.fails_sync {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
            return Err(rusqlite::Error::SqliteFailure(code, None));
        }
        transaction.commit()?;
        Ok((heads, ts, tree))
    }

    /// After a failed commit: makes sure that the transaction is gone and that
    /// the file still ends where we think. If not, the error becomes final.
    fn recover(&self, error: StoreError) -> StoreError {
        if matches!(error, StoreError::Failed(_)) {
            return error;
        }
        let stored = || {
            if !self.conn.is_autocommit() {
                self.conn.execute_batch("ROLLBACK")?;
            }
            self.conn.query_row("SELECT coalesce(max(id), 0) FROM events", [], |row| row.get::<_, i64>(0))
        };
        match stored() {
            Ok(size) if u64::try_from(size) == Ok(self.head.size) => error,
            Ok(_) => StoreError::Foreign,
            Err(source) => StoreError::Failed(source),
        }
    }

    /// Copies what the write-ahead log has left; see [`log`].
    pub(super) fn copy_log(&self) -> Result<Copied, StoreError> {
        log::copy(&self.conn)
    }

    /// Empties the write-ahead log, so that the file alone is the ledger.
    pub(crate) fn truncate_log(&mut self) -> Result<(), StoreError> {
        self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(StoreError::from_write)
    }

    /// Makes the file full at that many pages, as a disk would be.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: u32) {
        self.conn.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).expect("a pragma of SQLite");
    }

    /// Commits fail from now on as they do when the disk reports an error on a sync.
    #[cfg(test)]
    pub(crate) const fn fail_sync(&mut self) {
        self.fails_sync = true;
    }
}

/// Runs a guard so that what it changed is gone when it does not hold. A broken
/// constraint is the guard's own fault and drops its row alone; any other fault
/// is storage's.
fn hold(transaction: &Connection, guard: Guard, id: i64) -> rusqlite::Result<bool> {
    transaction.execute_batch("SAVEPOINT guard")?;
    let held = match guard(transaction, id) {
        Err(error) if error.sqlite_error_code() == Some(SqliteCode::ConstraintViolation) => {
            tracing::error!(%error, "a guard broke a constraint");
            false
        }
        held => held?,
    };
    transaction.execute_batch(if held { "RELEASE guard" } else { "ROLLBACK TO guard; RELEASE guard" })?;
    Ok(held)
}

/// SQLite's integers are signed.
fn to_i64(n: u64) -> rusqlite::Result<i64> {
    i64::try_from(n).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, i64::MAX))
}
