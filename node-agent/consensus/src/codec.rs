//! Between openraft's types and the messages of `osmoda-proto`, and the frame
//! around a stored record.
//!
//! Invariant: a stored record is its BLAKE3 check (8 bytes) and then the
//! message, which begins with its format version; a record that fails the
//! check, or is of another version, is a corrupt log and never skipped.
//! `*_to_wire` cannot fail; `*_from_wire` refuses what openraft could not hold.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{EntryPayload, LeaderId};
use osmoda_proto::log::v1 as log;
use osmoda_types::{NodeId, RaftId};
use prost::Message;

use crate::types::{Batch, Entry, Item, LogId, Membership, Seat, SnapshotMeta, StoredMembership, Vote};

/// Format version of stored entries and snapshot heads. A reader refuses any
/// other; a new format gets a new number and keeps its reader for one release.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Bytes of the check in front of a stored record.
const CHECK_BYTES: usize = 8;

/// Why bytes are not the record they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The check in front does not match the record.
    #[error("record fails its check")]
    Check,
    /// The bytes are no such message.
    #[error("record does not decode")]
    Decode(#[from] prost::DecodeError),
    /// The record was written in a format this program does not know.
    #[error("record has format {got}, this program reads {FORMAT_VERSION}")]
    Version {
        /// The version found.
        got: u32,
    },
    /// A field that every writer sets is missing or has a wrong length.
    #[error("field {0} is missing or malformed")]
    Field(&'static str),
}

/// Puts the check in front of an encoded message.
pub(crate) fn frame<M: Message>(message: &M) -> Vec<u8> {
    let mut out = vec![0; CHECK_BYTES];
    out.reserve(message.encoded_len());
    message.encode(&mut out).expect("a Vec grows to what encoding needs");
    let check = blake3::hash(&out[CHECK_BYTES..]);
    out[..CHECK_BYTES].copy_from_slice(&check.as_bytes()[..CHECK_BYTES]);
    out
}

/// Verifies the check and decodes.
pub(crate) fn unframe<M: Message + Default>(bytes: &[u8]) -> Result<M, CodecError> {
    let (check, body) = bytes.split_at_checked(CHECK_BYTES).ok_or(CodecError::Check)?;
    if blake3::hash(body).as_bytes()[..CHECK_BYTES] != *check {
        return Err(CodecError::Check);
    }
    Ok(M::decode(body)?)
}

/// An entry as it is stored.
pub(crate) fn store_entry(entry: &Entry) -> Vec<u8> {
    frame(&log::StoredEntry { version: FORMAT_VERSION, entry: Some(entry_to_wire(entry)) })
}

/// Reads back what [`store_entry`] wrote.
pub(crate) fn load_entry(bytes: &[u8]) -> Result<Entry, CodecError> {
    let stored: log::StoredEntry = unframe(bytes)?;
    check_version(stored.version)?;
    entry_from_wire(stored.entry.ok_or(CodecError::Field("entry"))?)
}

/// Refuses other format versions.
pub(crate) fn check_version(got: u32) -> Result<(), CodecError> {
    if got == FORMAT_VERSION { Ok(()) } else { Err(CodecError::Version { got }) }
}

pub(crate) fn log_id_to_wire(id: &LogId) -> log::LogId {
    log::LogId { term: id.leader_id.term, node_id: id.leader_id.node_id, index: id.index }
}

pub(crate) fn log_id_from_wire(id: log::LogId) -> LogId {
    LogId::new(LeaderId::new(id.term, id.node_id), id.index)
}

pub(crate) fn vote_to_wire(vote: &Vote) -> log::Vote {
    log::Vote { term: vote.leader_id.term, node_id: vote.leader_id.node_id, committed: vote.committed }
}

pub(crate) fn vote_from_wire(vote: log::Vote) -> Vote {
    Vote { leader_id: LeaderId::new(vote.term, vote.node_id), committed: vote.committed }
}

pub(crate) fn entry_to_wire(entry: &Entry) -> log::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => log::entry::Payload::Blank(log::Blank {}),
        EntryPayload::Normal(batch) => log::entry::Payload::Batch(batch_to_wire(batch)),
        EntryPayload::Membership(membership) => log::entry::Payload::Membership(membership_to_wire(membership)),
    };
    log::Entry { log_id: Some(log_id_to_wire(&entry.log_id)), payload: Some(payload) }
}

pub(crate) fn entry_from_wire(entry: log::Entry) -> Result<Entry, CodecError> {
    let payload = match entry.payload.ok_or(CodecError::Field("payload"))? {
        log::entry::Payload::Blank(log::Blank {}) => EntryPayload::Blank,
        log::entry::Payload::Batch(batch) => EntryPayload::Normal(batch_from_wire(batch)?),
        log::entry::Payload::Membership(membership) => EntryPayload::Membership(membership_from_wire(membership)?),
    };
    Ok(Entry { log_id: log_id_from_wire(entry.log_id.ok_or(CodecError::Field("log_id"))?), payload })
}

fn batch_to_wire(batch: &Batch) -> log::Batch {
    log::Batch {
        items: batch
            .items
            .iter()
            .map(|item| log::Item { request_id: item.request_id.to_vec(), command: item.command.to_vec() })
            .collect(),
        proposer: batch.proposer.0,
        ts_ms: batch.ts_ms,
        trace_context: Vec::new(),
    }
}

fn batch_from_wire(batch: log::Batch) -> Result<Batch, CodecError> {
    let items = batch
        .items
        .into_iter()
        .map(|item| {
            let request_id = item.request_id.try_into().map_err(|_| CodecError::Field("request_id"))?;
            Ok(Item { request_id, command: item.command.into() })
        })
        .collect::<Result<Vec<_>, CodecError>>()?;
    Ok(Batch { items, proposer: RaftId(batch.proposer), ts_ms: batch.ts_ms })
}

pub(crate) fn membership_to_wire(membership: &Membership) -> log::Membership {
    log::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|set| log::VoterSet { raft_ids: set.iter().copied().collect() })
            .collect(),
        peers: membership
            .nodes()
            .map(|(raft_id, seat)| log::Peer { raft_id: *raft_id, node_id: seat.node_id.as_bytes().to_vec() })
            .collect(),
    }
}

pub(crate) fn membership_from_wire(membership: log::Membership) -> Result<Membership, CodecError> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.into_iter().map(|set| set.raft_ids.into_iter().collect()).collect();
    let mut nodes = BTreeMap::new();
    for peer in membership.peers {
        let node_id = NodeId::try_from(&peer.node_id[..]).map_err(|_| CodecError::Field("peer node_id"))?;
        nodes.insert(peer.raft_id, Seat { node_id });
    }
    // openraft would fill the gap with the default seat, which no peer has.
    if configs.iter().flatten().any(|id| !nodes.contains_key(id)) {
        return Err(CodecError::Field("voter without a peer"));
    }
    Ok(Membership::new(configs, nodes))
}

fn stored_membership_to_wire(stored: &StoredMembership) -> log::StoredMembership {
    log::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(stored.membership())),
    }
}

fn stored_membership_from_wire(stored: log::StoredMembership) -> Result<StoredMembership, CodecError> {
    let membership = membership_from_wire(stored.membership.ok_or(CodecError::Field("membership"))?)?;
    Ok(StoredMembership::new(stored.log_id.map(log_id_from_wire), membership))
}

pub(crate) fn snapshot_meta_to_wire(meta: &SnapshotMeta) -> log::SnapshotMeta {
    log::SnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(log_id_to_wire),
        membership: Some(stored_membership_to_wire(&meta.last_membership)),
        snapshot_id: meta.snapshot_id.clone(),
    }
}

pub(crate) fn snapshot_meta_from_wire(meta: log::SnapshotMeta) -> Result<SnapshotMeta, CodecError> {
    Ok(SnapshotMeta {
        last_log_id: meta.last_log_id.map(log_id_from_wire),
        last_membership: stored_membership_from_wire(meta.membership.ok_or(CodecError::Field("membership"))?)?,
        snapshot_id: meta.snapshot_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_id(index: u64) -> LogId {
        LogId::new(LeaderId::new(3, 9), index)
    }

    fn membership() -> Membership {
        let seat = |n: u8| Seat { node_id: NodeId::from_bytes([n; 32]) };
        Membership::new(
            vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])],
            BTreeMap::from([(1, seat(1)), (2, seat(2)), (3, seat(3)), (4, seat(4))]),
        )
    }

    #[test]
    fn every_payload_survives_the_disk() {
        let batch = Batch {
            items: vec![Item { request_id: [7; 16], command: vec![1, 2, 3].into() }],
            proposer: RaftId(9),
            ts_ms: 1,
        };
        for payload in [EntryPayload::Blank, EntryPayload::Normal(batch), EntryPayload::Membership(membership())] {
            let entry = Entry { log_id: log_id(5), payload };
            assert_eq!(load_entry(&store_entry(&entry)), Ok(entry));
        }
    }

    #[test]
    fn snapshot_meta_survives_the_wire() {
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(8)),
            last_membership: StoredMembership::new(Some(log_id(4)), membership()),
            snapshot_id: "s".into(),
        };
        assert_eq!(snapshot_meta_from_wire(snapshot_meta_to_wire(&meta)), Ok(meta));
    }

    #[test]
    fn any_flipped_bit_of_a_stored_entry_is_noticed() {
        let stored = store_entry(&Entry { log_id: log_id(5), payload: EntryPayload::Blank });
        for bit in 0..stored.len() * 8 {
            let mut bad = stored.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(load_entry(&bad), Err(CodecError::Check));
        }
        assert_eq!(load_entry(&stored[..4]), Err(CodecError::Check));
    }

    #[test]
    fn another_format_version_is_refused() {
        let bytes = frame(&log::StoredEntry { version: 2, entry: None });
        assert_eq!(load_entry(&bytes), Err(CodecError::Version { got: 2 }));
    }

    #[test]
    fn a_voter_without_a_peer_is_refused() {
        let wire = log::Membership { configs: vec![log::VoterSet { raft_ids: vec![1] }], peers: vec![] };
        assert_eq!(membership_from_wire(wire), Err(CodecError::Field("voter without a peer")));
    }
}
