//! Checkpoints and their cosignatures, in a database of their own beside the
//! ledger: saving one never holds up a commit of rows.
//!
//! Invariant: a checkpoint is durable here before anybody is shown it, so after
//! a crash the ledger remembers everything it ever signed and can never sign
//! another history of the same size unknowingly.
//!
//! Blocks; callers run it off the async threads.

use std::path::Path;

use osmoda_ledger::checkpoint::{Checkpoint, CheckpointError};
use osmoda_ledger::note::{Note, NoteError, NoteSignature};
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::ledger::file::Mark;

/// Name of the file in the daemon's state folder.
pub const FILE_NAME: &str = "checkpoints.db";

/// Checkpoints kept one by one: an hour and a half of a busy ledger. Of older
/// ones the newest of every 4,096 rows stays, so a day of a busy ledger costs
/// a few hundred kilobytes and any old proof has a signed head near it.
const KEPT_NEWEST: i64 = 5_000;

/// Checkpoints between two looks at what may go.
const THINNED_EVERY: u64 = 500;

const MIGRATIONS: &[(u32, &str)] = &[(
    1,
    "CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, note TEXT NOT NULL);
     CREATE TABLE cosignatures (
        size INTEGER NOT NULL REFERENCES checkpoints (size) ON DELETE CASCADE,
        name TEXT NOT NULL,
        time_s INTEGER NOT NULL,
        line TEXT NOT NULL,
        PRIMARY KEY (size, name)
     ) WITHOUT ROWID;",
)];

/// The store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error("cannot open the checkpoints")]
    Open(#[from] osmoda_kit::sqlite::OpenError),
    /// It cannot be read or written.
    #[error("cannot use the checkpoints")]
    Database(#[from] rusqlite::Error),
    /// What it holds is no checkpoint.
    #[error("a stored checkpoint is damaged")]
    Checkpoint(#[from] CheckpointError),
    /// What it holds is no note.
    #[error("a stored note is damaged")]
    Note(#[from] NoteError),
}

/// The open store.
#[derive(Debug)]
pub struct CheckpointStore {
    conn: Connection,
    put: u64,
}

impl CheckpointStore {
    /// Opens or makes it.
    ///
    /// # Errors
    /// [`StoreError::Open`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { conn: osmoda_kit::sqlite::open(path, MIGRATIONS)?, put: 0 })
    }

    /// Opens it for reading only; `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn open_read_only(path: &Path) -> Result<Option<Self>, StoreError> {
        if !path.exists() {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Ok(Some(Self { conn: Connection::open_with_flags(path, flags)?, put: 0 }))
    }

    /// Saves a checkpoint; one of a size that is there already stays as it is.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn put(&mut self, size: u64, note: &Note) -> Result<(), StoreError> {
        let text = note.to_string();
        self.conn.execute("INSERT OR IGNORE INTO checkpoints (size, note) VALUES (?1, ?2)", (signed(size), &text))?;
        self.put += 1;
        if self.put.is_multiple_of(THINNED_EVERY) {
            self.thin()?;
        }
        Ok(())
    }

    /// Makes the file full at that many pages, as a disk would be.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: u32) {
        self.conn.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).expect("a pragma of SQLite");
    }

    /// Saves a cosignature, in the place of an older one of the same witness.
    ///
    /// # Errors
    /// [`StoreError::Database`], also when there is no checkpoint of that size.
    pub fn cosign(&self, size: u64, line: &NoteSignature, time_s: u64) -> Result<(), StoreError> {
        self.conn.execute(
            "INSERT INTO cosignatures (size, name, time_s, line) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (size, name) DO UPDATE SET time_s = excluded.time_s, line = excluded.line
             WHERE excluded.time_s >= time_s",
            (signed(size), line.name(), signed(time_s), line.to_string()),
        )?;
        Ok(())
    }

    /// The newest checkpoint with its cosignatures.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn newest(&self) -> Result<Option<Note>, StoreError> {
        self.note("SELECT size, note FROM checkpoints WHERE size >= ?1 ORDER BY size DESC LIMIT 1", 0)
    }

    /// The checkpoint of that size with its cosignatures.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn at(&self, size: u64) -> Result<Option<Note>, StoreError> {
        self.note("SELECT size, note FROM checkpoints WHERE size = ?1", signed(size))
    }

    /// The newest checkpoint that at least `count` witnesses cosigned.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn newest_cosigned(&self, count: usize) -> Result<Option<Note>, StoreError> {
        if count == 0 {
            return self.newest();
        }
        let query = "SELECT c.size, c.note FROM checkpoints c JOIN cosignatures s ON s.size = c.size
             GROUP BY c.size HAVING count(*) >= ?1 ORDER BY c.size DESC LIMIT 1";
        self.note(query, i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// What every stored checkpoint says about the rows, oldest first.
    ///
    /// # Errors
    /// [`StoreError`]; a note that cannot be read is one.
    pub fn marks(&self) -> Result<Vec<Mark>, StoreError> {
        let mut statement = self.conn.prepare("SELECT note FROM checkpoints ORDER BY size")?;
        let mut rows = statement.query([])?;
        let mut marks = Vec::new();
        while let Some(row) = rows.next()? {
            let note = Note::parse(row.get::<_, String>(0)?.as_bytes())?;
            marks.push(Mark::from(&Checkpoint::parse(note.text())?));
        }
        Ok(marks)
    }

    /// Every stored checkpoint with its cosignatures, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn notes(&self) -> Result<Vec<Note>, StoreError> {
        let mut statement = self.conn.prepare("SELECT size FROM checkpoints ORDER BY size")?;
        let sizes = statement.query_map([], |row| row.get::<_, i64>(0))?.collect::<Result<Vec<_>, _>>()?;
        let mut notes = Vec::with_capacity(sizes.len());
        for size in sizes {
            notes.extend(self.note("SELECT size, note FROM checkpoints WHERE size = ?1", size)?);
        }
        Ok(notes)
    }

    fn note(&self, query: &str, bound: i64) -> Result<Option<Note>, StoreError> {
        let found = self.conn.query_row(query, [bound], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)));
        let Some((size, text)) = found.optional()? else { return Ok(None) };
        let mut note = Note::parse(text.as_bytes())?;
        let mut statement = self.conn.prepare_cached("SELECT line FROM cosignatures WHERE size = ?1 ORDER BY name")?;
        let mut rows = statement.query([size])?;
        while let Some(row) = rows.next()? {
            note.add(NoteSignature::parse(&row.get::<_, String>(0)?)?);
        }
        Ok(Some(note))
    }

    /// Old checkpoints go, but for one of every 4,096 rows and the newest of each number
    /// of cosignatures: what enough witnesses cosigned last stays, however many came after.
    fn thin(&self) -> Result<(), StoreError> {
        self.conn.execute(
            "DELETE FROM checkpoints
             WHERE size < (SELECT size FROM checkpoints ORDER BY size DESC LIMIT 1 OFFSET ?1)
               AND size NOT IN (SELECT max(size) FROM checkpoints GROUP BY size >> 12)
               AND size NOT IN (SELECT max(size) FROM
                   (SELECT size, count(*) AS lines FROM cosignatures GROUP BY size) GROUP BY lines)",
            [KEPT_NEWEST],
        )?;
        Ok(())
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger_key::{History, LedgerKey};

    #[test]
    fn what_enough_witnesses_cosigned_last_outlives_all_that_came_after() {
        let root = osmoda_kit::testing::TempRoot::new();
        let key = LedgerKey::load_or_generate(&root.path().join("key"), History::None).unwrap();
        let chain = osmoda_ledger::record::ChainHash::from_stored("ab".repeat(32).as_bytes()).unwrap();
        let root_hash = osmoda_ledger::tree::TreeHash::new([3; 32]);
        let checkpoint = Checkpoint { origin: key.origin(), size: 7, root: root_hash, chain };
        let note = checkpoint.sign(&key).unwrap();
        let line = |name: &str| {
            let line = note.to_string().lines().last().unwrap().to_owned();
            NoteSignature::parse(&line.replacen(&key.origin(), name, 1)).unwrap()
        };
        let mut store = CheckpointStore::open(&root.path().join(FILE_NAME)).unwrap();
        // One commit for all of it.
        store.conn.execute_batch("BEGIN").unwrap();
        for size in [100, 130, 200] {
            store.put(size, &note).unwrap();
            store.cosign(size, &line("one.example"), 1).unwrap();
        }
        for size in [100, 130] {
            store.cosign(size, &line("two.example"), 1).unwrap();
        }
        let last = 201 + KEPT_NEWEST as u64 + THINNED_EVERY;
        (201..last).for_each(|size| store.put(size, &note).unwrap());
        store.conn.execute_batch("COMMIT").unwrap();
        let sizes = |store: &CheckpointStore| {
            let mut statement = store.conn.prepare("SELECT size FROM checkpoints WHERE size < 300").unwrap();
            let sizes = statement.query_map([], |row| row.get::<_, i64>(0)).unwrap();
            sizes.collect::<Result<Vec<_>, _>>().unwrap()
        };
        assert_eq!(sizes(&store), [130, 200]);
        let cosigners = |note: Note| note.signatures().len();
        assert_eq!(store.newest_cosigned(2).unwrap().map(cosigners), Some(3));
        assert_eq!(store.newest_cosigned(1).unwrap().map(cosigners), Some(2));
    }
}
