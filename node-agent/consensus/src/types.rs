//! What the log carries and who takes part.
//!
//! An entry is a batch of opaque commands; this crate never looks inside one.
//! Invariant: every command of an entry has its own [`command_index`], unique
//! and increasing over the life of the fleet.

use bytes::Bytes;
use osmoda_types::{NodeId, RaftId};
use serde::{Deserialize, Serialize};

/// Most commands in one log entry.
///
/// Bounded so that one entry is applied in well under a heartbeat; too small
/// wastes an fsync per entry, above 65,535 a [`command_index`] would overflow
/// its position bits.
pub const COMMANDS_PER_ENTRY_MAX: usize = 512;

/// Bytes of commands after which an entry takes no further command.
///
/// A quarter megabyte crosses a 100 Mbit/s link in 20 ms, a tenth of the LAN
/// heartbeat; larger entries would delay the proof that the leader is alive.
pub const ENTRY_BYTES_SOFT_MAX: usize = 256 * 1024;

/// Largest single command, which then travels alone in its entry.
///
/// A manifest is at most 1 MiB; half as much again leaves room for signatures
/// and encoding.
pub const COMMAND_BYTES_MAX: usize = 1536 * 1024;

/// Bits of a command index that hold the position inside the entry.
const POSITION_BITS: u32 = 16;

/// The index of one command: log index and position inside the entry.
///
/// Unique and strictly increasing in log order, so it can name whatever the
/// command creates (an attempt, for example).
#[must_use]
pub const fn command_index(log_index: u64, position: u16) -> u64 {
    (log_index << POSITION_BITS) | position as u64
}

/// The log index a command index belongs to.
#[must_use]
pub const fn log_index_of(command_index: u64) -> u64 {
    command_index >> POSITION_BITS
}

/// One command with the id under which it was submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Chosen by the submitter; a repeat carries the same one.
    pub request_id: [u8; 16],
    /// The command, opaque here.
    pub command: Bytes,
}

/// What one log entry carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch {
    /// The commands, in the order they are applied.
    pub items: Vec<Item>,
    /// The voter whose proposer made the entry.
    pub proposer: RaftId,
    /// Its wall clock, for people; applying never decides on it.
    pub ts_ms: i64,
}

/// The state machine's answers to one entry, one per command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replies(pub Vec<Bytes>);

/// Where a Raft id lives: the mesh node that must be at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seat {
    /// The mesh node.
    pub node_id: NodeId,
}

impl Default for Seat {
    /// No node; openraft needs a default, no mesh peer ever has this id.
    fn default() -> Self {
        Self { node_id: NodeId::from_bytes([0; NodeId::LEN]) }
    }
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.node_id.short())
    }
}

/// A Raft id together with its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The voter or learner.
    pub raft_id: RaftId,
    /// The mesh node it lives on.
    pub node_id: NodeId,
}

/// A state machine's bytes, as they go into a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SnapshotBytes(pub Bytes);

openraft::declare_raft_types!(
    /// The openraft types of this fleet.
    pub(crate) TypeConfig:
        D = Batch,
        R = Replies,
        NodeId = u64,
        Node = Seat,
        SnapshotData = SnapshotBytes,
);

pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Membership = openraft::Membership<u64, Seat>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, Seat>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, Seat>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type Raft = openraft::Raft<TypeConfig>;

/// A size for budgets: the commands plus what an entry costs besides.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    // Log id, map node and vector headers; only budgets depend on it.
    const OVERHEAD_BYTES: usize = 128;
    match &entry.payload {
        openraft::EntryPayload::Normal(batch) => {
            OVERHEAD_BYTES + batch.items.iter().map(|item| item.command.len() + 48).sum::<usize>()
        }
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => OVERHEAD_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_indexes_increase_and_lead_back_to_their_entry() {
        assert!(command_index(7, 511) < command_index(8, 0));
        assert_eq!(log_index_of(command_index(7, 511)), 7);
        assert!(COMMANDS_PER_ENTRY_MAX <= usize::from(u16::MAX) + 1);
    }
}
