//! The redb file: tables, one commit, recovery.
//!
//! Invariant: every commit is two-phase and immediate: when it returns, its
//! changes survive power loss, and a torn commit leaves the one before it.
//! Invariant: a file under the final name was complete once (it is made under
//! another name, synced and renamed), so an empty or foreign one is damage.
//! No retry anywhere; the writer decides what a failure means.

use std::fs::{File, OpenOptions};
use std::ops::{Bound, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use osmoda_proto::log::v1 as log;
use redb::backends::FileBackend;
use redb::{
    BackendError, Builder, Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
};

use crate::codec::{self, FORMAT_VERSION};
use crate::store::StoreFault;
use crate::store::health::Counters;
use crate::types::{Entry, LogId, Vote, entry_bytes};

/// Log entries by index; the value is a framed `StoredEntry`.
const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");

/// Marks by name; the value is a framed message.
const MARKS: TableDefinition<&str, &[u8]> = TableDefinition::new("marks");

const OWNER: &str = "owner";
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";

/// redb's page cache. Its default is 1 GiB; the log is written once and read
/// mostly from memory ([`super::tail`]), so 4 MiB covers the inner pages.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// One change of a commit.
pub(crate) enum Change<'a> {
    Vote(Vote),
    Append(&'a [Entry]),
    /// Remove this index and everything behind it.
    Truncate(u64),
    /// Remove up to and with this entry.
    Purge(LogId),
    Committed(Option<LogId>),
}

/// What was on disk at opening.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
}

/// The open file.
pub(crate) struct Engine {
    database: Database,
}

impl Engine {
    /// Opens the log at `path`, or makes it.
    pub(crate) fn open(path: &Path, raft_id: u64, counters: Arc<Counters>) -> Result<(Self, Loaded), StoreFault> {
        if !path.exists() {
            create(path, raft_id)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|error| StoreFault::from_io("opening", &error))?;
        if file.metadata().map_err(|error| StoreFault::from_io("opening", &error))?.len() == 0 {
            return Err(StoreFault::Corrupt { reason: "the file is empty".into() });
        }
        Self::open_backend(file_backend(file)?, raft_id, counters)
    }

    /// Opens whatever `backend` holds; a new one becomes a new log.
    pub(crate) fn open_backend(
        backend: impl StorageBackend,
        raft_id: u64,
        counters: Arc<Counters>,
    ) -> Result<(Self, Loaded), StoreFault> {
        // A damaged file must refuse, not unwind through the caller: redb
        // asserts on some page contents in debug builds.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let engine = Self { database: open_database(Counting { inner: backend, counters })? };
            engine.adopt(raft_id)?;
            let loaded = engine.load()?;
            Ok((engine, loaded))
        }));
        opened.unwrap_or_else(|_| Err(StoreFault::Corrupt { reason: "recovery panicked".into() }))
    }

    /// Writes the owner of a new file, or checks it.
    fn adopt(&self, raft_id: u64) -> Result<(), StoreFault> {
        let fault = |error: redb::Error| StoreFault::from_redb("adopting", error);
        let mut txn = self.database.begin_write().map_err(|error| fault(error.into()))?;
        txn.set_two_phase_commit(true);
        let found = {
            let mut marks = txn.open_table(MARKS).map_err(|error| fault(error.into()))?;
            txn.open_table(ENTRIES).map_err(|error| fault(error.into()))?;
            let found = marks.get(OWNER).map_err(|error| fault(error.into()))?.map(|bytes| bytes.value().to_vec());
            if found.is_none() {
                let owner = log::StoredOwner { version: FORMAT_VERSION, raft_id };
                marks.insert(OWNER, &codec::frame(&owner)[..]).map_err(|error| fault(error.into()))?;
            }
            found
        };
        match found {
            None => txn.commit().map_err(|error| fault(error.into())),
            Some(bytes) => {
                let owner: log::StoredOwner = codec::unframe(&bytes)?;
                codec::check_version(owner.version)?;
                if owner.raft_id == raft_id {
                    txn.abort().map_err(|error| fault(error.into()))
                } else {
                    Err(StoreFault::Foreign { found: owner.raft_id, wanted: raft_id })
                }
            }
        }
    }

    /// Reads the marks and checks every entry: decodable, in its place, no gap.
    fn load(&self) -> Result<Loaded, StoreFault> {
        let fault = |error: redb::Error| StoreFault::from_redb("reading", error);
        let txn = self.database.begin_read().map_err(|error| fault(error.into()))?;
        let marks = txn.open_table(MARKS).map_err(|error| fault(error.into()))?;
        let mark = |name| -> Result<Option<Vec<u8>>, StoreFault> {
            let value = marks.get(name).map_err(|error| fault(error.into()))?;
            Ok(value.map(|bytes| bytes.value().to_vec()))
        };
        let log_id = |name| -> Result<Option<LogId>, StoreFault> {
            let Some(bytes) = mark(name)? else { return Ok(None) };
            Ok(Some(codec::log_id_from_wire(codec::unframe(&bytes)?)))
        };
        let vote = match mark(VOTE)? {
            None => None,
            Some(bytes) => Some(codec::vote_from_wire(codec::unframe(&bytes)?)),
        };
        let mut loaded = Loaded { vote, committed: log_id(COMMITTED)?, purged: log_id(PURGED)?, last: None };
        let entries = txn.open_table(ENTRIES).map_err(|error| fault(error.into()))?;
        let mut previous = loaded.purged.map(|id| id.index);
        for item in entries.iter().map_err(|error| fault(error.into()))? {
            let (key, bytes) = item.map_err(|error| fault(error.into()))?;
            let entry = codec::load_entry(bytes.value())?;
            let index = entry.log_id.index;
            if index != key.value() || previous.is_some_and(|previous| index != previous + 1) {
                let reason = format!("entry {} is at place {} behind {previous:?}", entry.log_id, key.value());
                return Err(StoreFault::Corrupt { reason });
            }
            previous = Some(index);
            loaded.last = Some(entry.log_id);
        }
        Ok(loaded)
    }

    /// Makes the changes durable, all or none.
    pub(crate) fn commit(&self, changes: &[Change<'_>]) -> Result<(), StoreFault> {
        let fault = |error: redb::Error| StoreFault::from_redb("writing", error);
        let mut txn = self.database.begin_write().map_err(|error| fault(error.into()))?;
        // One-phase commits trust a checksum to tell a torn commit; two-phase
        // ones need not, and redb's crash bugs so far were in one-phase mode.
        txn.set_two_phase_commit(true);
        txn.set_durability(Durability::Immediate)
            .map_err(|error| StoreFault::Io { doing: "writing", reason: error.to_string() })?;
        {
            let mut entries = txn.open_table(ENTRIES).map_err(|error| fault(error.into()))?;
            let mut marks = txn.open_table(MARKS).map_err(|error| fault(error.into()))?;
            for change in changes {
                write_change(change, &mut entries, &mut marks).map_err(|error| fault(error.into()))?;
            }
        }
        txn.commit().map_err(|error| fault(error.into()))
    }

    /// Reads entries, the first one whatever its size, then up to `bytes_max`.
    pub(crate) fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, StoreFault> {
        let fault = |error: redb::Error| StoreFault::from_redb("reading", error);
        let txn = self.database.begin_read().map_err(|error| fault(error.into()))?;
        let entries = txn.open_table(ENTRIES).map_err(|error| fault(error.into()))?;
        let mut found = Vec::new();
        let mut bytes = 0_usize;
        for item in entries.range(range).map_err(|error| fault(error.into()))? {
            let (_, value) = item.map_err(|error| fault(error.into()))?;
            let entry = codec::load_entry(value.value())?;
            bytes += entry_bytes(&entry);
            if !found.is_empty() && bytes > bytes_max {
                break;
            }
            found.push(entry);
        }
        Ok(found)
    }
}

fn write_change(
    change: &Change<'_>,
    entries: &mut redb::Table<'_, u64, &'static [u8]>,
    marks: &mut redb::Table<'_, &'static str, &'static [u8]>,
) -> Result<(), redb::StorageError> {
    match change {
        Change::Vote(vote) => {
            marks.insert(VOTE, &codec::frame(&codec::vote_to_wire(vote))[..])?;
        }
        Change::Append(batch) => {
            for entry in *batch {
                entries.insert(entry.log_id.index, &codec::store_entry(entry)[..])?;
            }
        }
        Change::Truncate(from) => entries.retain_in::<u64, _>(*from.., |_, _| false)?,
        Change::Purge(upto) => {
            entries.retain_in::<u64, _>(..=upto.index, |_, _| false)?;
            marks.insert(PURGED, &codec::frame(&codec::log_id_to_wire(upto))[..])?;
        }
        Change::Committed(Some(committed)) => {
            marks.insert(COMMITTED, &codec::frame(&codec::log_id_to_wire(committed))[..])?;
        }
        Change::Committed(None) => {
            marks.remove(COMMITTED)?;
        }
    }
    Ok(())
}

/// Makes a new log beside `path` and moves it there when it is complete.
fn create(path: &Path, raft_id: u64) -> Result<(), StoreFault> {
    let io = |error: std::io::Error| StoreFault::from_io("creating", &error);
    let unfinished = path.with_extension("new");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&unfinished).map_err(io)?;
    let (engine, _) = Engine::open_backend(file_backend(file)?, raft_id, Arc::default())?;
    engine.database.close().map_err(|error| StoreFault::from_redb("creating", error))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(&unfinished).and_then(|file| file.sync_all()).map_err(io)?;
    std::fs::rename(&unfinished, path).map_err(io)?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}

fn file_backend(file: File) -> Result<FileBackend, StoreFault> {
    FileBackend::new(file).map_err(|error| StoreFault::from_redb("opening", error))
}

fn open_database(backend: impl StorageBackend) -> Result<Database, StoreFault> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    // Every page is verified at each start: altered bytes refuse the file
    // instead of being trusted. The log is small (see the snapshot policy).
    builder.set_check_integrity_on_open(true);
    builder.create_with_backend(backend).map_err(|error| StoreFault::from_redb("opening", error))
}

/// Counts the syncs that really reach the file.
#[derive(Debug)]
struct Counting<B> {
    inner: B,
    counters: Arc<Counters>,
}

impl<B: StorageBackend> StorageBackend for Counting<B> {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.counters.fsyncs.add(1);
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> Result<(), std::io::Error> {
        self.inner.close()
    }

    // The locks are the file's: without them two programs could write it.

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
