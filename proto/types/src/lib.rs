//! Words of the fleet: ids, units, states, error codes.
//!
//! This crate is layer 0: no async, no I/O, nothing of the workspace below it.
//! A type lives here only when two other crates need the same word.

mod bytes;
mod code;
mod ids;
mod store_path;

pub use bytes::IdError;
pub use code::ErrorCode;
pub use ids::{
    AttemptId, FleetEpoch, InviteId, ManifestHash, MeshEpoch, MeshKey, NetworkId, NodeId, RaftId, Role, RolloutId,
    SecretHash, UnknownRole,
};
pub use store_path::{STORE_PATH_BYTES_MAX, StorePath, StorePathError};
