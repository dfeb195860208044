//! Fleet membership, ballots, rollout driver and participant.

pub mod beginning;
pub mod manifests;
mod timers;
