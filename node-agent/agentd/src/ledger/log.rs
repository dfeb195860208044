//! The write-ahead log: how long it is, and the thread that copies it into the file
//! while the writer goes on.
//!
//! Copying a long log takes as long as ten commits, most of it waiting for the disk.
//! So a thread of its own copies what is there; what was appended meanwhile is less,
//! is copied the same way, and so on; the last few pages are the writer's own, after
//! which SQLite begins the log again. Nobody waits for more than those. While somebody
//! reads an old state (a walk over all rows, a backup) nothing behind that can be copied,
//! and the log grows as long as the reading takes; afterwards it is copied and cut to
//! [`FILE_BYTES_MAX`].
//!
//! Always holds: nothing is durable because of a copy. Rows are durable once they
//! are in the log, which is begun again only after a whole copy was synced.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::store::StoreError;

/// Pages in the log after which it is copied into the file. 1000 pages are 4 MB,
/// SQLite's own choice: a longer log slows readers and the next start, a shorter one
/// makes more of the two extra syncs each copy costs.
const LONG_PAGES: u64 = 1000;

/// Pages up to which the writer copies the rest itself: a millisecond or two.
const REST_PAGES: u64 = 100;

/// Copies beside the writer before the writer copies the rest, however much it is.
/// Each leaves what is written while it runs, a half or less of what it copied.
const ROUNDS_MAX: u32 = 4;

/// Pages at which the writer waits for a copy that goes on: a disk that syncs a
/// commit in time but not 4 MB must not make the log grow without end. A reader of an
/// old state is not waited for: it may take minutes.
pub(super) const PAGES_MAX: u32 = 8000;

/// What the log's file keeps when it begins again: as much as it may have grown to.
pub(super) const FILE_BYTES_MAX: u32 = PAGES_MAX * 4096;

/// What a copy found and left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Copied {
    /// Pages in the log when it began.
    log: u64,
    /// How many of them are in the file.
    copied: u64,
}

/// How long the log is, as far as one knows without asking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LogLength {
    pages: u64,
    /// [`LogLength::pages`] when the copy beside the writer began.
    begun_at: u64,
    copied: u64,
    rounds: u32,
}

/// What a commit leaves to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The log is short.
    Nothing,
    /// A copy beside the writer.
    Beside,
    /// The rest, by the writer.
    Rest,
}

impl LogLength {
    /// A commit wrote about that many pages.
    pub(super) fn add(&mut self, pages: u64) {
        self.pages += pages;
    }

    /// A copy beside the writer ended. It knows what was only reckoned here.
    pub(super) fn copied(&mut self, Copied { log, copied }: Copied) {
        self.pages = log + self.pages.saturating_sub(self.begun_at);
        self.copied = copied;
    }

    /// What is to be done now; a copy beside the writer counts as begun.
    pub(super) fn due(&mut self) -> Due {
        if self.pages < LONG_PAGES {
            return Due::Nothing;
        }
        let is_short = self.rounds > 0 && self.pages.saturating_sub(self.copied) <= REST_PAGES;
        if is_short || self.rounds == ROUNDS_MAX || self.is_too_long() {
            *self = Self::default();
            return Due::Rest;
        }
        (self.rounds, self.begun_at) = (self.rounds + 1, self.pages);
        Due::Beside
    }

    /// Whether the writer waits for a copy that goes on.
    pub(super) const fn is_too_long(&self) -> bool {
        self.pages >= PAGES_MAX as u64
    }
}

/// Copies the log without the lock that commits need.
pub(super) fn copy(conn: &Connection) -> Result<Copied, StoreError> {
    let counts = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
    let (log, copied) = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], counts).map_err(StoreError::from_write)?;
    // Negative while somebody else copies: nothing was learnt.
    let count = |pages| u64::try_from(pages).unwrap_or(0);
    Ok(Copied { log: count(log), copied: count(copied) })
}

/// The thread that copies, as the writer holds it.
#[derive(Debug)]
pub(super) struct Copier {
    orders: SyncSender<()>,
    results: Receiver<Result<Copied, StoreError>>,
    is_running: bool,
    thread: JoinHandle<()>,
}

impl Copier {
    /// Starts the thread, on a connection of its own.
    pub(super) fn start(conn: Connection) -> std::io::Result<Self> {
        // One order at a time, and so one result: neither side waits to send.
        let (orders, wanted) = sync_channel::<()>(1);
        let (say, results) = sync_channel(1);
        let work = move || {
            while wanted.recv().is_ok() {
                if say.send(copy(&conn)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("ledger-copier".to_owned()).spawn(work)?;
        Ok(Self { orders, results, is_running: false, thread })
    }

    /// Whether a copy goes on whose result was not taken.
    pub(super) const fn is_running(&self) -> bool {
        self.is_running
    }

    /// Asks for a copy. Only while none goes on.
    pub(super) fn begin(&mut self) -> Result<(), StoreError> {
        self.orders.try_send(()).map_err(|_| StoreError::Panicked)?;
        self.is_running = true;
        Ok(())
    }

    /// The result of a copy, once it has ended.
    pub(super) fn result(&mut self) -> Option<Result<Copied, StoreError>> {
        let result = match self.results.try_recv() {
            Ok(result) => result,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err(StoreError::Panicked),
        };
        self.is_running = false;
        Some(result)
    }

    /// Waits for the copy that goes on.
    pub(super) fn wait(&mut self) -> Result<Copied, StoreError> {
        self.is_running = false;
        self.results.recv().unwrap_or(Err(StoreError::Panicked))
    }

    /// Ends the thread and closes its connection, after what it does now.
    pub(super) fn stop(self) -> Result<(), StoreError> {
        let Self { orders, results, thread, .. } = self;
        drop((orders, results));
        thread.join().map_err(|_| StoreError::Panicked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is due after so many pages more.
    fn after(length: &mut LogLength, pages: u64) -> Due {
        length.add(pages);
        length.due()
    }

    #[test]
    fn a_long_log_is_copied_beside_the_writer_until_the_rest_is_short() {
        let mut length = LogLength::default();
        assert_eq!(after(&mut length, 999), Due::Nothing);
        assert_eq!(after(&mut length, 1), Due::Beside);
        length.add(400);
        length.copied(Copied { log: 1000, copied: 1000 });
        assert_eq!(length.due(), Due::Beside, "400 are left");
        length.add(100);
        length.copied(Copied { log: 1400, copied: 1400 });
        assert_eq!(length.due(), Due::Rest, "100 are left");
        assert_eq!(after(&mut length, 999), Due::Nothing, "the log begins again");
    }

    #[test]
    fn what_was_reckoned_is_corrected_by_what_a_copy_saw() {
        let mut length = LogLength::default();
        assert_eq!(after(&mut length, 1500), Due::Beside);
        length.add(50);
        // Fewer pages than were reckoned: 50 are left, not 550.
        length.copied(Copied { log: 1000, copied: 1000 });
        assert_eq!(length.due(), Due::Rest);
    }

    #[test]
    fn copies_that_do_not_catch_up_end_with_the_writer() {
        let mut length = LogLength::default();
        assert_eq!(after(&mut length, 1000), Due::Beside);
        for _ in 1..ROUNDS_MAX {
            length.add(500);
            // A reader of an old state, say: nothing can be copied past it.
            length.copied(Copied { log: length.pages - 500, copied: 0 });
            assert_eq!(length.due(), Due::Beside);
        }
        length.copied(Copied { log: length.pages, copied: 0 });
        assert_eq!(length.due(), Due::Rest);
        assert_eq!(length, LogLength::default());
    }

    #[test]
    fn a_log_without_end_waits_for_the_copy() {
        let mut length = LogLength::default();
        assert_eq!(after(&mut length, 1000), Due::Beside);
        length.add(u64::from(PAGES_MAX) - 1001);
        assert!(!length.is_too_long());
        length.add(1);
        assert!(length.is_too_long());
        length.copied(Copied { log: 1000, copied: 1000 });
        assert_eq!(length.due(), Due::Rest);
    }

    #[test]
    fn a_copy_moves_the_log_into_the_file_while_another_connection_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.db");
        let open = || osmoda_kit::sqlite::open(&path, &[(1, "CREATE TABLE t (n INTEGER)")]).unwrap();
        let writer = open();
        let mut copier = Copier::start(open()).unwrap();
        writer.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1); COMMIT; BEGIN IMMEDIATE").unwrap();
        // The writer holds its lock, which the copy does not need.
        copier.begin().unwrap();
        assert!(copier.is_running());
        let copied = copier.wait().unwrap();
        assert!(copied.log > 0 && copied.copied == copied.log, "{copied:?}");
        assert!(!copier.is_running());
        assert!(copier.result().is_none(), "taken already");
        writer.execute_batch("COMMIT").unwrap();
        copier.stop().unwrap();
    }
}
