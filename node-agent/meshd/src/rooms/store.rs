//! Where rooms are kept: one SQLite database, `rooms.db` in the daemon's state.
//!
//! Invariant: what was answered as kept is on disk: one commit, one sync, for
//! everything that waits at that moment. A write that fails changes nothing; the
//! caller throws its memory away and reads this again.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use osmoda_kit::error::ApiError;
use osmoda_kit::sqlite::{self, Migration, OpenError};
use osmoda_mesh_rooms::limits::BATCH_BYTES_MAX;
use osmoda_mesh_rooms::{Blob, MessageId, RecordError, RoomId, RoomLog, Signed, Summary, Unverified};
use osmoda_types::{ErrorCode, PublicKey};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

/// Messages are appended in the order in which they come and found by an index:
/// their ids are hashes, and a table sorted by them writes a page per message.
const MIGRATIONS: &[Migration] = &[(
    1,
    "CREATE TABLE rooms (
        id BLOB PRIMARY KEY, record BLOB NOT NULL, horizon_ms INTEGER NOT NULL,
        pruned INTEGER NOT NULL, pruned_bytes INTEGER NOT NULL, pruned_digest BLOB NOT NULL
     ) WITHOUT ROWID;
     CREATE TABLE messages (
        room BLOB NOT NULL, id BLOB NOT NULL, late INTEGER NOT NULL, received_ms INTEGER NOT NULL,
        wire BLOB NOT NULL
     );
     CREATE UNIQUE INDEX messages_by_id ON messages (room, id);
     CREATE TABLE authors (
        room BLOB NOT NULL, author BLOB NOT NULL, seq INTEGER NOT NULL, head BLOB, forked INTEGER NOT NULL,
        PRIMARY KEY (room, author)
     ) WITHOUT ROWID;",
)];

/// Rooms that were left without their creators. Beside the migrations: an older
/// program, which a rolled back host runs, opens the database and goes by the records.
const LEFT: &str = "CREATE TABLE IF NOT EXISTS left_rooms (room BLOB PRIMARY KEY) WITHOUT ROWID";

/// Why rooms cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The database cannot be opened.
    #[error("the store of rooms cannot be opened")]
    Open(#[source] OpenError),
    /// A transaction failed; it changed nothing.
    #[error("the store of rooms refused a write")]
    Write(#[source] rusqlite::Error),
    /// A query failed.
    #[error("the store of rooms cannot be read")]
    Read(#[source] rusqlite::Error),
    /// A row is not what was written.
    #[error("the store of rooms is damaged: {0}")]
    Damaged(&'static str),
}

impl StoreError {
    /// The code callers see.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            StoreError::Open(error) => error.code(),
            StoreError::Write(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) => {
                ErrorCode::DiskFull
            }
            _ => ErrorCode::StateDirUnusable,
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        ApiError::new(error.code(), error.to_string()).with_source(error)
    }
}

/// One change.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    /// A message that is new.
    Message { id: MessageId, room: RoomId, late: bool, received_ms: i64, wire: Vec<u8> },
    /// Messages that are not kept any more.
    Delete(RoomId, Vec<MessageId>),
    /// The newest record of a room.
    Record(Signed),
    /// What a room has forgotten.
    Summary(RoomId, Summary),
    /// What is known of an author.
    Author { room: RoomId, author: PublicKey, seq: u64, head: Option<MessageId>, forked: bool },
    /// Authors that a room's record does not name any more.
    ForgetAuthors(RoomId, Vec<PublicKey>),
    /// All messages and authors of a room; its record stays.
    Empty(RoomId),
    /// This node left the room, and its record does not say so.
    Left(RoomId),
    /// That is over.
    NotLeft(RoomId),
}

/// One room as it was stored.
pub(crate) struct Loaded {
    pub(crate) signed: Signed,
    pub(crate) log: RoomLog,
    pub(crate) has_left: bool,
}

/// Id, record, summary.
type RoomRow = ([u8; 16], Vec<u8>, Summary);

/// The writer.
pub(crate) struct Store {
    connection: Connection,
}

impl Store {
    /// Opens or makes the database. Blocks.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = sqlite::open(path, MIGRATIONS).map_err(StoreError::Open)?;
        connection.execute(LEFT, ()).map_err(StoreError::Write)?;
        Ok(Self { connection })
    }

    fn has_left(&self, room: &[u8; 16]) -> rusqlite::Result<bool> {
        self.connection.query_row("SELECT count(*) > 0 FROM left_rooms WHERE room = ?1", [room], |row| row.get(0))
    }

    /// Reads every room. Blocks.
    pub(crate) fn load(&self) -> Result<Vec<Loaded>, StoreError> {
        let mut rooms = Vec::new();
        for (id, record, summary) in self.rooms().map_err(StoreError::Read)? {
            let signed = match Signed::decode(&record) {
                Ok(signed) => signed,
                // Taken before there was the rule. One creator's record is no reason
                // to be without the rooms of all others.
                Err(error @ RecordError::Field(_)) => {
                    tracing::warn!(room = %RoomId::from_bytes(id), %error, "a stored room is left out");
                    continue;
                }
                Err(_) => return Err(StoreError::Damaged("a room record")),
            };
            let mut log = RoomLog::with_summary(summary);
            self.load_messages(&id, &mut log)?;
            self.load_authors(&id, &mut log).map_err(StoreError::Read)?;
            let has_left = self.has_left(&id).map_err(StoreError::Read)?;
            rooms.push(Loaded { signed, log, has_left });
        }
        Ok(rooms)
    }

    fn rooms(&self) -> rusqlite::Result<Vec<RoomRow>> {
        let sql = "SELECT id, record, horizon_ms, pruned, pruned_bytes, pruned_digest FROM rooms";
        let mut query = self.connection.prepare(sql)?;
        let rows = query.query_map([], |row| {
            let summary = Summary {
                horizon_ms: number(row.get(2)?),
                messages: number(row.get(3)?),
                bytes: number(row.get(4)?),
                digest: row.get(5)?,
            };
            Ok((row.get(0)?, row.get(1)?, summary))
        })?;
        rows.collect()
    }

    fn load_messages(&self, room: &[u8; 16], log: &mut RoomLog) -> Result<(), StoreError> {
        let sql = "SELECT late, wire FROM messages WHERE room = ?1";
        let mut query = self.connection.prepare(sql).map_err(StoreError::Read)?;
        let mut rows = query.query([room]).map_err(StoreError::Read)?;
        let mut late = Vec::new();
        while let Some(row) = rows.next().map_err(StoreError::Read)? {
            let wire: Vec<u8> = row.get(1).map_err(StoreError::Read)?;
            let message = Unverified::decode(&wire).map_err(|_| StoreError::Damaged("a room message"))?.trusted();
            log.insert(&message);
            late.push((message.id(), row.get(0).map_err(StoreError::Read)?));
        }
        for (id, late) in late {
            log.set_late(&id, late);
        }
        Ok(())
    }

    fn load_authors(&self, room: &[u8; 16], log: &mut RoomLog) -> rusqlite::Result<()> {
        let mut query = self.connection.prepare("SELECT author, seq, head, forked FROM authors WHERE room = ?1")?;
        let mut rows = query.query([room])?;
        while let Some(row) = rows.next()? {
            let head: Option<[u8; 32]> = row.get(2)?;
            let author = PublicKey::from_bytes(row.get(0)?);
            log.restore_author(author, number(row.get(1)?), head.map(MessageId::from_bytes), row.get(3)?);
        }
        Ok(())
    }

    /// Writes everything or nothing, and syncs. Blocks.
    pub(crate) fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let mut commit = || {
            let transaction = self.connection.transaction()?;
            for write in writes {
                apply(&transaction, write)?;
            }
            transaction.commit()
        };
        commit().map_err(StoreError::Write)
    }

    /// Lets the database grow to so many pages at most, as a full disk does.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: u32) {
        self.connection.pragma_update(None, "max_page_count", pages).unwrap();
    }
}

fn apply(transaction: &Transaction<'_>, write: &Write) -> rusqlite::Result<()> {
    match write {
        Write::Message { id, room, late, received_ms, wire } => {
            let sql = "INSERT OR IGNORE INTO messages (id, room, late, received_ms, wire) VALUES (?1, ?2, ?3, ?4, ?5)";
            let mut insert = transaction.prepare_cached(sql)?;
            insert.execute(params![id.as_bytes(), room.as_bytes(), late, received_ms, wire])?;
        }
        Write::Delete(room, ids) => {
            let mut delete = transaction.prepare_cached("DELETE FROM messages WHERE room = ?1 AND id = ?2")?;
            for id in ids {
                delete.execute(params![room.as_bytes(), id.as_bytes()])?;
            }
        }
        Write::Record(signed) => {
            let sql = "INSERT INTO rooms (id, record, horizon_ms, pruned, pruned_bytes, pruned_digest)
                       VALUES (?1, ?2, 0, 0, 0, zeroblob(32)) ON CONFLICT (id) DO UPDATE SET record = ?2";
            transaction.execute(sql, params![signed.id().as_bytes(), signed.wire()])?;
        }
        Write::Summary(room, summary) => {
            let sql =
                "UPDATE rooms SET horizon_ms = ?2, pruned = ?3, pruned_bytes = ?4, pruned_digest = ?5 WHERE id = ?1";
            let Summary { horizon_ms, messages, bytes, digest } = summary;
            let numbers = [horizon_ms, messages, bytes].map(|number| i64::try_from(*number).unwrap_or(i64::MAX));
            transaction.execute(sql, params![room.as_bytes(), numbers[0], numbers[1], numbers[2], digest])?;
        }
        Write::Author { room, author, seq, head, forked } => {
            let sql = "INSERT INTO authors (room, author, seq, head, forked) VALUES (?1, ?2, ?3, ?4, ?5)
                       ON CONFLICT (room, author) DO UPDATE SET seq = ?3, head = ?4, forked = ?5";
            let seq = i64::try_from(*seq).unwrap_or(i64::MAX);
            let head = head.as_ref().map(MessageId::as_bytes);
            let mut upsert = transaction.prepare_cached(sql)?;
            upsert.execute(params![room.as_bytes(), author.as_bytes(), seq, head, forked])?;
        }
        Write::ForgetAuthors(room, authors) => {
            let mut delete = transaction.prepare_cached("DELETE FROM authors WHERE room = ?1 AND author = ?2")?;
            for author in authors {
                delete.execute(params![room.as_bytes(), author.as_bytes()])?;
            }
        }
        Write::Empty(room) => {
            transaction.execute("DELETE FROM messages WHERE room = ?1", [room.as_bytes()])?;
            transaction.execute("DELETE FROM authors WHERE room = ?1", [room.as_bytes()])?;
        }
        Write::Left(room) => {
            transaction.execute("INSERT OR IGNORE INTO left_rooms (room) VALUES (?1)", [room.as_bytes()])?;
        }
        Write::NotLeft(room) => {
            transaction.execute("DELETE FROM left_rooms WHERE room = ?1", [room.as_bytes()])?;
        }
    }
    Ok(())
}

/// Reads messages for sessions and endpoints, beside the writer.
pub(crate) struct Reader {
    connection: Mutex<Connection>,
}

impl Reader {
    /// Opens a second connection to the same database. Blocks.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = sqlite::open(path, MIGRATIONS).map_err(StoreError::Open)?;
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// Messages from the front of the list, as many as fit into a batch and at
    /// least one; how many ids that took, and the messages that are still there.
    /// Blocks.
    pub(crate) fn batch(&self, room: &RoomId, ids: &[MessageId]) -> Result<(usize, Vec<Blob>), StoreError> {
        let mut list = Vec::new();
        let mut bytes = 0;
        for (taken, id) in ids.iter().enumerate() {
            let Some(wire) = self.wire(room, id)? else { continue };
            if bytes + wire.len() > BATCH_BYTES_MAX && !list.is_empty() {
                return Ok((taken, list));
            }
            bytes += wire.len();
            list.push(Blob(wire));
        }
        Ok((ids.len(), list))
    }

    /// One message. Blocks.
    pub(crate) fn wire(&self, room: &RoomId, id: &MessageId) -> Result<Option<Vec<u8>>, StoreError> {
        // A reader that panicked left no statement half done.
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let sql = "SELECT wire FROM messages WHERE room = ?1 AND id = ?2";
        let mut query = connection.prepare_cached(sql).map_err(StoreError::Read)?;
        let found = query.query_row(params![room.as_bytes(), id.as_bytes()], |row| row.get(0)).optional();
        found.map_err(StoreError::Read)
    }
}

/// Numbers are stored as SQLite's signed ones; none of ours is negative.
fn number(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}
