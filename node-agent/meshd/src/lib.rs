//! The mesh daemon: the mesh endpoint of a node, for its other daemons.
//!
//! It alone holds the node's transport and identity keys and the secrets of the
//! network. Invariant: it starts only with whole key files, and only from its
//! own durable allow-list; it never asks another daemon whom to trust
//! (`tests::a_node_without_its_keys_does_not_start`). Invariant: a snapshot is
//! durable before it is in force (`api::members`).
//!
//! Not here: who becomes a member (fleetd, in the log) and what runs inside the
//! pipes (gRPC of fleetd).

mod added;
mod api;
mod blobs;
mod config;
mod counts;
mod enrol;
pub mod fuzz;
mod keys;
mod messages;
mod pace;
mod pipes;
mod reference;
pub mod rooms;
mod rotation;
mod service;

pub use config::Config;
pub use service::Meshd;

#[cfg(test)]
mod tests;
