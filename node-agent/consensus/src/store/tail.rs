//! The log's marks and its newest entries, in memory.
//!
//! Invariant: entries that are not yet durable are always here, so a read
//! after an append sees them. Invariant: durable entries beyond the budget are
//! dropped, oldest first; the disk has them. *pure*

use std::collections::BTreeMap;
use std::ops::Range;

use crate::store::Loaded;
use crate::types::{Entry, LogId, Vote, entry_bytes};

/// Bytes of durable entries kept for replication and apply.
///
/// A follower a few seconds behind is served from memory; a larger budget
/// would only move the voter's memory target (45 MB).
const DURABLE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Durable entries kept, whatever their size.
const DURABLE_ENTRIES_MAX: usize = 4096;

/// Vote, marks and newest entries.
pub(crate) struct Tail {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
    bytes: usize,
    /// Entries below this index are durable.
    durable_until: u64,
}

impl Tail {
    pub(crate) fn new(loaded: Loaded) -> Self {
        let last = loaded.last.or(loaded.purged);
        Self {
            vote: loaded.vote,
            // The mark is written with the append after it, never ahead of it;
            // the comparison only keeps a damaged file from reaching openraft.
            committed: loaded.committed.min(last),
            purged: loaded.purged,
            last,
            entries: BTreeMap::new(),
            bytes: 0,
            durable_until: last.map_or(0, |id| id.index + 1),
        }
    }

    pub(crate) fn vote(&self) -> Option<Vote> {
        self.vote
    }

    pub(crate) fn set_vote(&mut self, vote: Vote) {
        self.vote = Some(vote);
    }

    pub(crate) fn committed(&self) -> Option<LogId> {
        self.committed
    }

    pub(crate) fn set_committed(&mut self, committed: Option<LogId>) {
        self.committed = committed;
    }

    pub(crate) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    pub(crate) fn last(&self) -> Option<LogId> {
        self.last
    }

    /// The commit mark as far as the entries below `durable_until` reach: a
    /// mark ahead of its entries must never be on disk.
    pub(crate) fn committed_below(&self, durable_until: u64) -> Option<LogId> {
        self.committed.filter(|id| id.index < durable_until)
    }

    /// Adds entries; openraft sees to it that they follow the last one (a gap
    /// would be refused at the next start).
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.bytes += entry_bytes(entry);
            let replaced = self.entries.insert(entry.log_id.index, entry.clone());
            self.bytes -= replaced.as_ref().map_or(0, entry_bytes);
        }
        self.last = self.entries.last_key_value().map(|(_, entry)| entry.log_id).or(self.last);
    }

    /// Entries below `until` are durable now.
    pub(crate) fn mark_durable(&mut self, until: u64) {
        self.durable_until = self.durable_until.max(until);
        while self.bytes > DURABLE_BYTES_MAX || self.entries.len() > DURABLE_ENTRIES_MAX {
            match self.entries.first_key_value() {
                Some((index, _)) if *index < self.durable_until => self.drop_first(),
                _ => break,
            }
        }
    }

    fn drop_first(&mut self) {
        if let Some((_, entry)) = self.entries.pop_first() {
            self.bytes -= entry_bytes(&entry);
        }
    }

    /// Drops entries from `from` on; `before` is the entry in front of it, if
    /// the log has one.
    pub(crate) fn truncate(&mut self, from: u64, before: Option<LogId>) {
        let dropped = self.entries.split_off(&from);
        self.bytes -= dropped.values().map(entry_bytes).sum::<usize>();
        self.durable_until = self.durable_until.min(from);
        self.last = before.or(self.purged);
    }

    /// Drops entries up to and with `upto`.
    pub(crate) fn purge(&mut self, upto: LogId) {
        self.purged = self.purged.max(Some(upto));
        while self.entries.first_key_value().is_some_and(|(index, _)| *index <= upto.index) {
            self.drop_first();
        }
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
            // Nothing of the log is left; what comes next is not written yet.
            self.durable_until = self.durable_until.max(upto.index + 1);
        }
    }

    /// Splits a range into what only the disk has and the entries held here,
    /// the latter cut at `bytes_max`, unless the disk part comes first.
    pub(crate) fn split(&self, start: u64, end: u64, bytes_max: usize) -> (Range<u64>, Vec<Entry>) {
        let start = start.max(self.purged.map_or(0, |id| id.index + 1));
        let end = end.min(self.last.map_or(0, |id| id.index + 1));
        if start >= end {
            return (0..0, Vec::new());
        }
        let memory_start = self.entries.first_key_value().map_or(end, |(index, _)| *index).clamp(start, end);
        let mut bytes = 0;
        let in_memory = self
            .entries
            .range(memory_start..end)
            .map(|(_, entry)| entry)
            .take_while(|entry| {
                let is_first = bytes == 0;
                bytes += entry_bytes(entry);
                is_first || bytes <= bytes_max
            })
            .cloned()
            .collect();
        (start..memory_start, if start < memory_start && bytes_max < usize::MAX { Vec::new() } else { in_memory })
    }
}
