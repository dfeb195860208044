//! Rows into the table, many of them in one statement.
//!
//! A statement of its own for each row takes SQLite 1.4 times as long (measured
//! 2026-12-01): each reads and writes the sequence of ids, and is begun and ended.
//!
//! Always holds: rows are written in the order in which they were given, before
//! [`Rows::flush`] returns.

use std::sync::LazyLock;

use rusqlite::Connection;

use super::record::ChainHash;
use super::store::NewRow;

/// Rows of one statement; what is less than this is written one by one. A full commit
/// is eight of them.
const AT_ONCE: usize = 32;

/// Columns of a row that are not the same for all rows of a commit.
const OWN_COLUMNS: usize = 6;

static ONE: LazyLock<String> = LazyLock::new(|| statement(1));
static MANY: LazyLock<String> = LazyLock::new(|| statement(AT_ONCE));

/// A row and where it stands in the chain.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) id: i64,
    pub(super) row: NewRow,
    pub(super) prev_hash: ChainHash,
    pub(super) hash: ChainHash,
}

/// Rows of one transaction that are to be written.
pub(super) struct Rows<'a> {
    transaction: &'a Connection,
    ts: &'a str,
    waiting: Vec<Placed>,
}

impl<'a> Rows<'a> {
    /// None yet. All will have the time `ts`.
    pub(super) fn new(transaction: &'a Connection, ts: &'a str) -> Self {
        Self { transaction, ts, waiting: Vec::with_capacity(AT_ONCE) }
    }

    /// Adds a row; it is written by now or by the next [`Rows::flush`].
    pub(super) fn add(&mut self, placed: Placed) -> rusqlite::Result<()> {
        self.waiting.push(placed);
        if self.waiting.len() < AT_ONCE {
            return Ok(());
        }
        self.write(&MANY, AT_ONCE)
    }

    /// Writes all that were added.
    pub(super) fn flush(&mut self) -> rusqlite::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.write(&ONE, 1)
    }

    fn write(&mut self, statement: &str, at_once: usize) -> rusqlite::Result<()> {
        let mut insert = self.transaction.prepare_cached(statement)?;
        for rows in self.waiting.chunks(at_once) {
            insert.raw_bind_parameter(1, self.ts)?;
            for (n, Placed { id, row, prev_hash, hash }) in rows.iter().enumerate() {
                let first = 2 + n * OWN_COLUMNS;
                insert.raw_bind_parameter(first, id)?;
                insert.raw_bind_parameter(first + 1, row.kind())?;
                insert.raw_bind_parameter(first + 2, row.actor())?;
                insert.raw_bind_parameter(first + 3, row.payload())?;
                insert.raw_bind_parameter(first + 4, prev_hash.as_str())?;
                insert.raw_bind_parameter(first + 5, hash.as_str())?;
            }
            insert.raw_execute()?;
        }
        self.waiting.clear();
        Ok(())
    }
}

/// An INSERT of so many rows: the time, then the own columns of each.
fn statement(rows: usize) -> String {
    let tuple = |n: usize| {
        let first = 2 + n * OWN_COLUMNS;
        let [kind, actor, payload, prev_hash, hash] = [1, 2, 3, 4, 5].map(|column| first + column);
        format!("(?{first}, ?1, ?{kind}, ?{actor}, ?{payload}, ?{prev_hash}, ?{hash})")
    };
    let tuples: Vec<String> = (0..rows).map(tuple).collect();
    format!("INSERT INTO events (id, ts, type, actor, payload, prev_hash, hash) VALUES {}", tuples.join(", "))
}
