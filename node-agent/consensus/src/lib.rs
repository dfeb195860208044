//! Raft among voters: log store, batching proposer, election gate.
//!
//! The only crate that names openraft. It makes an order of opaque commands
//! and feeds them to a [`StateMachine`]; it does not know what they mean
//! (`osmoda-rollout` does), how voters reach each other ([`Transport`]), or
//! where a request that is not for this voter goes (fleetd forwards it).
//!
//! Invariants: an acknowledged command is on the disks of a majority, in one
//! place of one order, for ever. A voter that lost or cannot write its log
//! stops voting. A peer speaks only for the voter that is registered on its
//! node. A voter that was cut off deposes nobody when it comes back.

mod codec;
mod consensus;
mod core;
mod error;
mod follow;
mod gate;
mod links;
mod machine;
mod members;
mod network;
mod proposer;
mod reads;
mod service;
mod snapshot;
mod status;
mod store;
mod timing;
mod types;

pub use codec::CodecError;
pub use consensus::{Consensus, ConsensusConfig, LogExpectation};
pub use error::{MembershipError, ProposeError, ReadError, StartError};
pub use follow::{Committed, CommittedLog};
pub use links::{Transport, TransportError};
pub use machine::StateMachine;
pub use proposer::Reply;
pub use service::{PeerNode, PeerStamp, RaftService, StampedService};
pub use snapshot::SNAPSHOT_BYTES_MAX;
pub use status::{Members, Part, Status, Totals};
pub use store::{LogSummary, StoreFault};
pub use timing::{Compaction, Timing};
pub use types::{
    COMMAND_BYTES_MAX, COMMANDS_PER_ENTRY_MAX, ENTRY_BYTES_SOFT_MAX, Item, Member, command_index, log_index_of,
};
