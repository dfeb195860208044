//! The Raft log on disk: vote, entries, commit mark, purge mark.
//!
//! Invariant: nothing is reported durable before the commit that holds it
//! returned (`LogFlushed`, vote, truncate). Invariant: writes reach the disk in
//! the order they were made, through one writer thread. Invariant: after the
//! first failed write the store is poisoned: every later write fails, and the
//! program has to stop ([`Health`]); a failed fsync is never tried again,
//! because what the kernel then holds in its cache is unknown.
//!
//! Snapshots and the state machine are elsewhere (`machine`, `snapshot`).

mod engine;
mod health;
mod tail;
mod writer;

pub(crate) use engine::{Engine, Loaded};
pub use health::StoreFault;
pub(crate) use health::{Counters, Health};

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, OptionalSend, RaftLogReader, StorageError, StorageIOError};
use osmoda_kit::error::chain;
use osmoda_kit::fsio;

use crate::types::{Entry, LogId, TypeConfig, Vote};
use tail::Tail;
use writer::{Op, Writer};

/// Bytes of entries one replication message takes.
///
/// One megabyte crosses a gigabit link in 10 ms; a follower far behind is then
/// sent many messages, each inside the heartbeat's deadline.
const REPLICATE_BYTES_MAX: usize = 1024 * 1024;

/// Free space below which a log is not opened.
///
/// One message of replication. On a full disk small writes fit now and then into
/// pages that an earlier transaction gave back: such a voter would answer once,
/// stop on the next entry and be started again, while the others count on it.
/// Larger keeps voters out that could work; smaller lets them come and go.
const FREE_BYTES_MIN: u64 = REPLICATE_BYTES_MAX as u64;

/// File name of the log inside the data directory.
const FILE: &str = "raft.redb";

/// The log store that openraft writes to and replication reads from.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

/// What the handle, the readers and the writer thread share.
struct Shared {
    tail: Arc<Mutex<Tail>>,
    engine: Arc<Engine>,
    writer: Writer,
    health: Health,
}

/// What a data directory holds before Raft starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSummary {
    /// Whether the directory holds neither a vote nor an entry: a new voter.
    /// With `genesis.done` beside it this is amnesia, and the voter must not
    /// take part.
    pub is_pristine: bool,
    /// Index of the last entry, if any was ever written.
    pub last_index: Option<u64>,
    /// Highest term this voter has seen.
    pub term: u64,
}

impl LogStore {
    /// Opens or creates the log of `raft_id` in `dir`.
    ///
    /// # Errors
    /// [`StoreFault::Corrupt`] for a damaged file, [`StoreFault::Foreign`] for
    /// the log of another Raft id and [`StoreFault::DiskFull`] without a
    /// megabyte of free space; nothing is changed then.
    pub(crate) fn open(dir: &Path, raft_id: u64, counters: Arc<Counters>) -> Result<Self, StoreFault> {
        let free = fsio::free_bytes(dir)
            .map_err(|error| StoreFault::Io { doing: "looking for space", reason: chain(&error) })?;
        has_room(free)?;
        Self::start(Engine::open(&dir.join(FILE), raft_id, counters.clone())?, counters)
    }

    /// Runs on an engine that is already open.
    pub(crate) fn start((engine, loaded): (Engine, Loaded), counters: Arc<Counters>) -> Result<Self, StoreFault> {
        let engine = Arc::new(engine);
        let health = Health::default();
        let tail = Arc::new(Mutex::new(Tail::new(loaded)));
        let writer = Writer::start(engine.clone(), tail.clone(), health.clone(), counters)?;
        Ok(Self { shared: Arc::new(Shared { tail, engine, writer, health }) })
    }

    /// Whether and why the store stopped working.
    pub(crate) fn health(&self) -> &Health {
        &self.shared.health
    }

    /// What is there now.
    pub(crate) fn summary(&self) -> LogSummary {
        let tail = self.tail();
        LogSummary {
            is_pristine: tail.vote().is_none() && tail.last().is_none(),
            last_index: tail.last().map(|id| id.index),
            term: tail.vote().map_or(0, |vote| vote.leader_id.term),
        }
    }

    /// The last purged entry: everything up to it is only in the snapshot.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.tail().purged()
    }

    /// Writes what is queued, marks the end and stops the writer thread.
    pub(crate) async fn close(&self) {
        self.shared.writer.close().await;
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.shared.tail.lock().expect("no code panics while it holds the tail")
    }

    /// Entries from `start` until `end`, at most `bytes_max` of them but at
    /// least one; purged or missing ones are left out.
    pub(crate) async fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, StoreFault> {
        let (on_disk, mut in_memory) = self.tail().split(start, end, bytes_max);
        if on_disk.is_empty() {
            return Ok(in_memory);
        }
        let engine = self.shared.engine.clone();
        let wanted = on_disk.clone();
        let read = tokio::task::spawn_blocking(move || engine.read(wanted, bytes_max)).await;
        let mut entries =
            read.map_err(|error| StoreFault::Corrupt { reason: format!("reader panicked: {error}") })??;
        // Only join the two parts when the disk part was not cut short.
        if entries.last().is_none_or(|entry| entry.log_id.index + 1 == on_disk.end) {
            entries.append(&mut in_memory);
        }
        Ok(entries)
    }
}

/// Whether a log may be opened on a disk with this much free space.
const fn has_room(free_bytes: u64) -> Result<(), StoreFault> {
    if free_bytes < FREE_BYTES_MIN { Err(StoreFault::DiskFull) } else { Ok(()) }
}

fn read_error(fault: &StoreFault) -> StorageError<u64> {
    StorageIOError::read_logs(AnyError::new(fault)).into()
}

fn write_error(fault: &StoreFault) -> StorageError<u64> {
    StorageIOError::write_logs(AnyError::new(fault)).into()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError<u64>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await.map_err(|fault| read_error(&fault))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError<u64>> {
        self.read(start, end, REPLICATE_BYTES_MAX).await.map_err(|fault| read_error(&fault))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError<u64>> {
        let tail = self.tail();
        Ok(LogState { last_purged_log_id: tail.purged(), last_log_id: tail.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError<u64>> {
        self.shared.writer.run(|done| Op::Vote(*vote, done)).await.map_err(|fault| write_error(&fault))?;
        self.tail().set_vote(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError<u64>> {
        Ok(self.tail().vote())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError<u64>> {
        // Not a commit of its own: the mark rides on the next append and only
        // saves replay time after a restart. Losing it loses nothing.
        self.tail().set_committed(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError<u64>> {
        Ok(self.tail().committed())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.tail().append(&entries);
        self.shared.writer.submit(Op::Append(entries, callback)).await;
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError<u64>> {
        // The entry that will be last may be on disk only: read it first.
        let before = match log_id.index.checked_sub(1) {
            Some(last) => self.read(last, log_id.index, usize::MAX).await.map_err(|fault| read_error(&fault))?,
            None => Vec::new(),
        };
        self.tail().truncate(log_id.index, before.last().map(|entry| entry.log_id));
        self.shared.writer.run(|done| Op::Truncate(log_id.index, done)).await.map_err(|fault| write_error(&fault))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError<u64>> {
        self.tail().purge(log_id);
        self.shared.writer.run(|done| Op::Purge(log_id, done)).await.map_err(|fault| write_error(&fault))
    }
}

#[cfg(test)]
pub(crate) mod disk;
#[cfg(test)]
mod power_loss_tests;
#[cfg(test)]
mod tests;
