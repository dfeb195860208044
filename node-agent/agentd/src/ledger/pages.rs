//! Reading rows by their place in the chain: after an id, by ids, since a time.
//!
//! What other parts of the daemon derive from the ledger (search, incidents,
//! receipts) is made from these rows and from nothing else. Each query is
//! bounded in rows and in bytes. Blocks; runs on a reader's thread.

use std::ops::Range;

use osmoda_node_api::agentd::Event;
use rusqlite::{OptionalExtension, Rows};

use super::file::{COLUMNS, FileError, LedgerFile, event};
use super::record::Row;

/// Whether the row still hashes to what it carries. A row that does not was
/// changed under the daemon, and nothing derived may show it.
#[must_use]
pub fn is_sound(event: &Event) -> bool {
    let row = Row {
        id: event.id,
        ts: event.ts.as_bytes(),
        kind: event.kind.as_bytes(),
        actor: event.actor.as_bytes(),
        payload: event.payload.as_bytes(),
        prev_hash: event.prev_hash.as_bytes(),
        hash: event.hash.as_bytes(),
    };
    row.expected_hash().as_bytes() == row.hash
}

/// The rows, until one would make them larger than that; the first in any case.
fn within(rows: &mut Rows<'_>, bytes_max: usize) -> rusqlite::Result<Vec<Event>> {
    let (mut events, mut bytes) = (Vec::new(), 0_usize);
    while let Some(row) = rows.next()? {
        let event = event(row)?;
        bytes += event.payload.len();
        if bytes > bytes_max && !events.is_empty() {
            break;
        }
        events.push(event);
    }
    Ok(events)
}

impl LedgerFile {
    /// Rows behind `id`, oldest first: at most `rows_max` of them and, after the
    /// first, at most `bytes_max` of payload.
    ///
    /// # Errors
    /// [`FileError::Read`].
    pub fn after(&self, id: i64, rows_max: usize, bytes_max: usize) -> Result<Vec<Event>, FileError> {
        let read = || {
            let mut statement = self.conn.prepare_cached(&format!("{COLUMNS} WHERE id > ?1 ORDER BY id LIMIT ?2"))?;
            let mut rows = statement.query((id, i64::try_from(rows_max).unwrap_or(i64::MAX)))?;
            within(&mut rows, bytes_max)
        };
        read().map_err(FileError::Read)
    }

    /// The newest rows of these ids, in their order, at most so many and, but for the
    /// newest, of at most so many bytes of payload.
    ///
    /// # Errors
    /// [`FileError::Read`].
    pub fn newest(&self, ids: Range<i64>, rows_max: usize, bytes_max: usize) -> Result<Vec<Event>, FileError> {
        let read = || {
            let sql = format!("{COLUMNS} WHERE id >= ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3");
            let mut statement = self.conn.prepare_cached(&sql)?;
            let mut rows = statement.query((ids.start, ids.end, i64::try_from(rows_max).unwrap_or(i64::MAX)))?;
            let mut events = within(&mut rows, bytes_max)?;
            events.reverse();
            Ok(events)
        };
        read().map_err(FileError::Read)
    }

    /// The rows of these ids that exist, in the order asked.
    ///
    /// # Errors
    /// [`FileError::Read`].
    pub fn by_ids(&self, ids: &[i64]) -> Result<Vec<Event>, FileError> {
        let read = || {
            let mut statement = self.conn.prepare_cached(&format!("{COLUMNS} WHERE id = ?1"))?;
            let rows = ids.iter().map(|id| statement.query_row([id], event).optional());
            rows.filter_map(Result::transpose).collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(FileError::Read)
    }

    /// The id of the last row, 0 when there is none.
    ///
    /// # Errors
    /// [`FileError::Read`].
    pub fn last_id(&self) -> Result<i64, FileError> {
        let last = self.conn.query_row("SELECT coalesce(max(id), 0) FROM events", [], |row| row.get(0));
        last.map_err(FileError::Read)
    }

    /// The id of the first row that was not dropped, 1 when there is none.
    ///
    /// # Errors
    /// [`FileError::Read`].
    pub fn first_id(&self) -> Result<i64, FileError> {
        let first = self.conn.query_row("SELECT coalesce(min(id), 1) FROM events", [], |row| row.get(0));
        first.map_err(FileError::Read)
    }

    /// The id of the first row whose time is `ts` or later; one past the end
    /// when there is none. Times never go back (rule L1), so halving finds it.
    /// A prefix such as `2026-11` is a time too.
    ///
    /// # Errors
    /// [`FileError::Read`].
    pub fn first_at(&self, ts: &str) -> Result<i64, FileError> {
        let (mut low, mut high) = (self.first_id()?, self.last_id()? + 1);
        let mut statement = self.conn.prepare_cached("SELECT ts FROM events WHERE id = ?1").map_err(FileError::Read)?;
        while low < high {
            let middle = low + (high - low) / 2;
            let found: Option<String> =
                statement.query_row([middle], |row| row.get(0)).optional().map_err(FileError::Read)?;
            if found.is_some_and(|found| found.as_str() < ts) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Hands each row of one of these types to `each`, oldest first.
    ///
    /// # Errors
    /// [`FileError::Read`].
    pub fn each_of(&self, kinds: &[&str], mut each: impl FnMut(&Event)) -> Result<(), FileError> {
        let mut read = || {
            let places = vec!["?"; kinds.len()].join(",");
            let mut statement = self.conn.prepare(&format!("{COLUMNS} WHERE type IN ({places}) ORDER BY id"))?;
            let mut rows = statement.query(rusqlite::params_from_iter(kinds))?;
            while let Some(row) = rows.next()? {
                each(&event(row)?);
            }
            Ok(())
        };
        read().map_err(FileError::Read)
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::FILE_NAME;
    use super::super::payload::Payload;
    use super::super::{Ledger, NewRow, WriterOptions};
    use super::*;
    use osmoda_kit::clock::Timestamp;
    use osmoda_kit::testing::FakeClock;

    /// A ledger whose rows are a second apart from the beginning of 1970.
    async fn ledger(rows: i64) -> (tempfile::TempDir, LedgerFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let clock = std::sync::Arc::new(FakeClock::new());
        let (ledger, threads, _) = Ledger::open(&path, WriterOptions::default(), clock.clone()).unwrap();
        for n in 0..rows {
            clock.jump_wall(Timestamp::from_millis(n * 1000));
            let payload = Payload::new(&serde_json::json!({ "n": n }).as_object().unwrap().clone()).unwrap();
            let kind = if n % 2 == 0 { "t.even" } else { "t.odd" };
            ledger.append(NewRow::new(kind.to_owned(), "watch".to_owned(), payload).unwrap()).await.unwrap();
        }
        threads.close().unwrap();
        (dir, LedgerFile::open(&path).unwrap())
    }

    fn ids(events: &[Event]) -> Vec<i64> {
        events.iter().map(|event| event.id).collect()
    }

    #[tokio::test]
    async fn rows_are_read_by_place_and_within_bounds() {
        let (_dir, file) = ledger(10).await;
        assert_eq!(ids(&file.after(0, 3, usize::MAX).unwrap()), [1, 2, 3]);
        assert_eq!(ids(&file.after(8, 9, usize::MAX).unwrap()), [9, 10]);
        assert_eq!(ids(&file.after(0, 9, 1).unwrap()), [1], "one row is always given");
        assert_eq!(ids(&file.by_ids(&[7, 99, 2]).unwrap()), [7, 2]);
        assert_eq!(file.last_id().unwrap(), 10);
        let mut odd = Vec::new();
        file.each_of(&["t.odd"], |event| odd.push(event.id)).unwrap();
        assert_eq!(odd, [2, 4, 6, 8, 10]);
    }

    #[tokio::test]
    async fn a_time_finds_its_first_row() {
        let (_dir, file) = ledger(10).await;
        for (ts, id) in [("", 1), ("1970-01-01T00:00:03", 4), ("1970-01-01T00:00:03.500Z", 5), ("1971", 11)] {
            assert_eq!(file.first_at(ts).unwrap(), id, "{ts}");
        }
        assert_eq!(ledger(0).await.1.first_at("1970").unwrap(), 1);
    }

    #[tokio::test]
    async fn a_changed_row_is_not_sound() {
        let (_dir, file) = ledger(1).await;
        let mut event = file.by_ids(&[1]).unwrap().remove(0);
        assert!(is_sound(&event));
        event.actor = "mallory".to_owned();
        assert!(!is_sound(&event));
    }
}
