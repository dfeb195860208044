//! Words of the fleet: ids, units, states, error codes, the release manifest,
//! signed statements and the commands of the log.
//!
//! This crate is layer 0: no async, no I/O, nothing of the workspace below it.
//! A type lives here only when two other crates need the same word.

mod bytes;
mod check;
mod code;
pub mod command;
mod ids;
pub mod manifest;
pub mod member;
pub mod policy;
pub mod principal;
pub mod statement;
mod store_path;
mod word;

pub use bytes::IdError;
pub use check::{CheckError, HealthCheck};
pub use code::ErrorCode;
pub use ids::{
    AttemptId, CallHash, FleetEpoch, InviteId, LedgerHash, ManifestHash, MeshEpoch, MeshKey, NetworkId, NodeId,
    PermitId, PublicKey, RaftId, RequestId, Role, RolloutId, SecretHash, Signature, UnknownRole,
};
pub use manifest::{Manifest, ManifestError};
pub use member::{Invite, Member, Purpose, Subkey, Succession};
pub use policy::{Policy, Timings, Wave};
pub use principal::{Principal, Right};
pub use statement::Vote;
pub use store_path::{STORE_PATH_BYTES_MAX, StorePath, StorePathError};
pub use word::{NodeState, RolloutState};
