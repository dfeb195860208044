//! Raft among voters: the only crate that names openraft.
mod codec;
mod machine;
mod snapshot;
mod store;
mod types;
pub use machine::StateMachine;
