//! A small fleet with real keys, for tests here and in other crates.
//!
//! Nodes 0, 1 and 2 are voters, 3, 4 and 5 are not, 6 is unknown. Short words
//! ([`Cmd`]) become real, signed commands, and [`Log::at`] gives the state at a
//! named point of a rollout. Always holds: a state from here came out of
//! `apply`, so it is one that a real fleet can be in.

mod commands;
mod ids;
mod keys;
mod log;
mod members;
mod specs;
mod steps;
mod words;

pub use ids::{baseline, network, node, path, raft_id, rollout, target};
pub use keys::{ANN, BOB, EVE, identity, ledger_key, public, sign};
pub use log::Log;
pub use members::{genesis, head, invite, ledger_subkey, member, principal, signed, spend, subkey, succession};
pub use specs::{SPECS, Spec};
pub use steps::{Point, grant, open, order, propose, staged, vote};
pub use words::{By, Cmd, End, Said, Short};

/// The nodes below this number vote.
pub const VOTERS: u8 = 3;
/// The nodes below this number are members.
pub const NODES: u8 = 6;
