//! What the benchmark and its voters say to each other: one JSON line each way.

use std::net::SocketAddr;
use std::time::Duration;

use osmoda_mesh_protocol::Members;
use serde::{Deserialize, Serialize};

/// Bytes of a command: about a report of one node's outcome.
pub(super) const COMMAND_BYTES: usize = 64;

/// A question to a voter; each gets one [`Answer`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Take these members and link to all of them.
    Meet(Members),
    /// Begin the group and make every member a voter.
    Begin,
    /// Wait until there is a leader and say its place among the members.
    Leader,
    /// Say the running totals.
    Totals,
    /// Propose.
    Load(Load),
}

/// What a voter says; the first one comes unasked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It runs and listens here.
    Listens(SocketAddr),
    /// Done.
    Done,
    /// The leader's place.
    Leader(usize),
    /// The totals.
    Totals(Totals),
    /// The proposals of one window.
    Loaded(Loaded),
    /// It could not; the reason.
    Failed(String),
}

/// How to propose.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Load {
    /// Proposers, each with one command on its way at a time.
    pub(super) proposers: usize,
    /// How long before the window opens.
    pub(super) warm_up: Duration,
    /// How long it is open.
    pub(super) window: Duration,
}

/// What came of it, inside the window.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Loaded {
    /// Commands committed, applied and answered per second.
    pub(super) commits_per_s: f64,
    /// Median time from proposing to the answer.
    pub(super) p50_ms: f64,
    /// 99th percentile of it.
    pub(super) p99_ms: f64,
}

/// Running totals of one voter.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Totals {
    /// Syncs of its log file.
    pub(super) syncs: u64,
    /// Commands it proposed.
    pub(super) commands: u64,
    /// Entries it proposed.
    pub(super) batches: u64,
}
