//! Why the store stopped, and what it counted.
//!
//! Invariant: the first fault is kept and never cleared; a poisoned store
//! stays poisoned until the program starts again and reads its log anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use osmoda_types::ErrorCode;
use tokio::sync::watch;

use crate::codec::CodecError;

/// Why the log or a snapshot cannot be used. Each of these ends the program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreFault {
    /// Bytes on disk are not what was written.
    #[error("the raft log is corrupt: {reason}")]
    Corrupt {
        /// What was found.
        reason: String,
    },
    /// The directory holds the log of another voter.
    #[error("the raft log belongs to voter {found:016x}, not to {wanted:016x}")]
    Foreign {
        /// Whose log it is.
        found: u64,
        /// Who wanted to open it.
        wanted: u64,
    },
    /// No space was left for a durable write.
    #[error("no space is left for the raft log")]
    DiskFull,
    /// Another program has the log open.
    #[error("the raft log is open in another program")]
    Locked,
    /// Reading or writing failed; after a failed fsync nothing is certain.
    #[error("the raft log failed while {doing}: {reason}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The operating system's words.
        reason: String,
    },
}

impl StoreFault {
    /// The code the program stops with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::DiskFull => ErrorCode::DiskFull,
            Self::Locked => ErrorCode::RootLocked,
            Self::Corrupt { .. } | Self::Foreign { .. } | Self::Io { .. } => ErrorCode::RaftLogCorrupt,
        }
    }

    /// Sorts an operating system error.
    pub(crate) fn from_io(doing: &'static str, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull,
            // redb reports a file that is not its own like this.
            std::io::ErrorKind::InvalidData => Self::Corrupt { reason: error.to_string() },
            _ => Self::Io { doing, reason: error.to_string() },
        }
    }

    /// Sorts what redb reports.
    pub(crate) fn from_redb(doing: &'static str, error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::Io(error) => Self::from_io(doing, &error),
            redb::Error::DatabaseAlreadyOpen => Self::Locked,
            redb::Error::Corrupted(reason) => Self::Corrupt { reason },
            redb::Error::PreviousIo => Self::Io { doing, reason: "an earlier write failed".into() },
            other => Self::Corrupt { reason: other.to_string() },
        }
    }
}

impl From<CodecError> for StoreFault {
    fn from(error: CodecError) -> Self {
        Self::Corrupt { reason: error.to_string() }
    }
}

/// The first fault of a store, for whoever has to stop the program.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    fault: Arc<watch::Sender<Option<StoreFault>>>,
}

impl Default for Health {
    fn default() -> Self {
        Self { fault: Arc::new(watch::Sender::new(None)) }
    }
}

impl Health {
    /// Keeps the first fault.
    pub(crate) fn poison(&self, fault: &StoreFault) {
        self.fault.send_if_modified(|kept| {
            let is_first = kept.is_none();
            if is_first {
                *kept = Some(fault.clone());
            }
            is_first
        });
    }

    /// The first fault, if there was one.
    pub(crate) fn fault(&self) -> Option<StoreFault> {
        self.fault.borrow().clone()
    }

    /// Changes once, when the store fails.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<StoreFault>> {
        self.fault.subscribe()
    }
}

/// A running total, also exported under its name.
#[derive(Debug)]
pub(crate) struct Counter {
    total: AtomicU64,
    name: &'static str,
}

impl Counter {
    const fn new(name: &'static str) -> Self {
        Self { total: AtomicU64::new(0), name }
    }

    /// Adds; totals need no ordering among each other.
    pub(crate) fn add(&self, n: u64) {
        self.total.fetch_add(n, Ordering::Relaxed);
        metrics::counter!(self.name).increment(n);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// What one voter counted since the program started.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) fsyncs: Counter,
    pub(crate) commits: Counter,
    pub(crate) entries: Counter,
    pub(crate) commands: Counter,
    pub(crate) batches: Counter,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            fsyncs: Counter::new("osmoda_raft_fsyncs_total"),
            commits: Counter::new("osmoda_raft_commits_total"),
            entries: Counter::new("osmoda_raft_entries_total"),
            commands: Counter::new("osmoda_raft_commands_total"),
            batches: Counter::new("osmoda_raft_batches_total"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fault_is_kept() {
        let health = Health::default();
        health.poison(&StoreFault::DiskFull);
        health.poison(&StoreFault::Locked);
        assert_eq!(health.fault(), Some(StoreFault::DiskFull));
    }

    #[test]
    fn no_space_is_told_apart_from_other_failures() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(StoreFault::from_redb("writing", redb::Error::Io(full)).code(), ErrorCode::DiskFull);
        let eio = std::io::Error::other("EIO");
        assert_eq!(StoreFault::from_redb("writing", redb::Error::Io(eio)).code(), ErrorCode::RaftLogCorrupt);
    }
}
