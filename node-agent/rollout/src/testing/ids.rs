//! Ids and paths made of small numbers.

use osmoda_types::{NetworkId, NodeId, RaftId, RolloutId, StorePath};

/// The node with that number.
pub fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// The rollout with that number.
pub fn rollout(number: u8) -> RolloutId {
    RolloutId::from_bytes([number; 16])
}

/// A store path.
///
/// # Panics
/// On text that is none.
pub fn path(text: &str) -> StorePath {
    StorePath::new(text).expect("a plain path")
}

/// The toplevel with that number on a node.
pub fn target(node: u8, number: u8) -> StorePath {
    path(&format!("/t/{node}/{number}"))
}

/// What a node runs at first.
pub fn baseline(node: u8) -> StorePath {
    path(&format!("/b/{node}"))
}

/// The fleet.
pub fn network() -> NetworkId {
    NetworkId::from_bytes([77; 32])
}

/// A voter's incarnation.
pub fn raft_id(node: u8) -> RaftId {
    RaftId(1000 + u64::from(node))
}
