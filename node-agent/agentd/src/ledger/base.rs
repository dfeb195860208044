//! Where the rows of a ledger begin, when older ones were dropped.
//!
//! Kept beside the rows, of the same commit as the dropping: the last dropped
//! row's number, hash and time, and the right edge of the tree over all of them,
//! so that the rest still verifies and every old proof can still be made.
//!
//! Invariant: the one way a row goes is [`drop_rows`], and the trigger on the
//! table lets only rows go that the base covers. What the base says is not
//! believed: with the rows behind it, it must give the roots that were signed.

use osmoda_ledger::audit::Base;
use osmoda_ledger::tree::{Edge, TILE_HASHES, Tile, TileId, TileStore};
use rusqlite::{Connection, OptionalExtension};

use super::file::has_table;
use super::record::{ChainHash, Head};

/// The schema; a migration of the ledger's database.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE retained (
        one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL, hash TEXT NOT NULL, ts TEXT NOT NULL
    );
    CREATE TABLE retained_tiles (level INTEGER PRIMARY KEY, hashes BLOB NOT NULL);
    DROP TRIGGER events_no_delete;
    CREATE TRIGGER events_no_delete BEFORE DELETE ON events
    WHEN OLD.id > coalesce((SELECT size FROM retained), 0)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;";

/// The beginning of a ledger whose first rows are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// The last dropped row, its time and the tree over the dropped ones.
    pub base: Base,
    /// The same tree, as tiles go on from it.
    pub edge: Edge,
}

impl Beginning {
    /// Of a ledger whose last dropped row this is.
    #[must_use]
    pub fn new(hash: ChainHash, ts: String, edge: Edge) -> Self {
        let head = Head { size: edge.size(), hash };
        Self { base: Base { head, ts, tree: edge.frontier() }, edge }
    }
}

/// The beginning; `None` when every row is there.
pub(super) fn load(conn: &Connection) -> rusqlite::Result<Option<Beginning>> {
    if !has_table(conn, "retained")? {
        return Ok(None);
    }
    let read =
        |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?));
    let found = conn.query_row("SELECT size, hash, ts FROM retained", [], read).optional()?;
    let Some((size, hash, ts)) = found else { return Ok(None) };
    let size = u64::try_from(size).ok().filter(|size| *size > 0 && size.is_multiple_of(TILE_HASHES as u64));
    let (Some(size), Some(hash)) = (size, ChainHash::from_stored(hash.as_bytes())) else { return Err(damaged()) };
    let edge = Edge::at(&mut Stored(conn), size).map_err(|_| damaged())?;
    Ok(Some(Beginning::new(hash, ts, edge)))
}

/// Drops the rows up to the beginning and keeps it in their place. In a guard,
/// so all of it is of the commit of the row that tells of it.
pub(crate) fn drop_rows(conn: &Connection, beginning: &Beginning) -> rusqlite::Result<usize> {
    let head = beginning.base.head;
    let size = i64::try_from(head.size).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, i64::MAX))?;
    conn.execute(
        "INSERT INTO retained (one, size, hash, ts) VALUES (1, ?1, ?2, ?3)
         ON CONFLICT (one) DO UPDATE SET size = excluded.size, hash = excluded.hash, ts = excluded.ts",
        (size, head.hash.as_str(), &beginning.base.ts),
    )?;
    conn.execute("DELETE FROM retained_tiles", [])?;
    for (id, tile) in beginning.edge.partial() {
        conn.execute("INSERT INTO retained_tiles (level, hashes) VALUES (?1, ?2)", (id.level, tile.to_bytes()))?;
    }
    conn.execute("DELETE FROM events WHERE id <= ?1", [size])
}

/// The tiles of the edge, one a level.
struct Stored<'a>(&'a Connection);

impl TileStore for Stored<'_> {
    type Error = rusqlite::Error;

    fn tile(&mut self, id: TileId, width: usize) -> rusqlite::Result<Tile> {
        let mut statement = self.0.prepare_cached("SELECT hashes FROM retained_tiles WHERE level = ?1")?;
        let bytes: Vec<u8> = statement.query_row([id.level], |row| row.get(0))?;
        Tile::from_bytes(&bytes, width).ok_or_else(damaged)
    }
}

fn damaged() -> rusqlite::Error {
    let text = "the beginning of the ledger is damaged";
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, text.into())
}
