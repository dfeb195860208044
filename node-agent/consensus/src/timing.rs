//! How long Raft waits, for two kinds of network.
//!
//! Invariant: heartbeat ≪ election time-out, and a lease is as long as the
//! longest election time-out (openraft ties them together), so from the loss of
//! a leader to the next election it takes a lease, a round of probes and a turn;
//! at most `lease + election` and one tick.

use std::time::Duration;

/// The periods of one network profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader shows that it lives; also the deadline of one append.
    pub heartbeat: Duration,
    /// Shortest election time-out.
    pub election_min: Duration,
    /// Longest election time-out, and the lease within which a follower
    /// refuses to elect anybody else.
    pub election_max: Duration,
    /// How often the election gate asks the other voters.
    pub probe_every: Duration,
    /// How old an answer may be and still count for the gate.
    pub probe_fresh: Duration,
    /// Between the voters' turns to stand once everybody's lease is over: an
    /// election takes two round trips and two fsyncs.
    pub turn: Duration,
    /// How long a proposal is waited for before its outcome is unknown.
    pub write_limit: Duration,
    /// How long a linearizable read may take.
    pub read_limit: Duration,
}

impl Timing {
    /// Voters in one data centre: about 1.3 s from loss to election, 2.1 s when
    /// votes are split.
    ///
    /// 200 ms is five times a bad LAN round trip with an fsync in it; less made
    /// appends time out and retry for ever on a busy two-core machine. The
    /// write limit outlasts one election, so that most proposals survive it.
    pub const LAN: Self = Self {
        heartbeat: Duration::from_millis(200),
        election_min: Duration::from_millis(600),
        election_max: Duration::from_millis(900),
        probe_every: Duration::from_millis(200),
        probe_fresh: Duration::from_millis(600),
        turn: Duration::from_millis(150),
        write_limit: Duration::from_secs(4),
        read_limit: Duration::from_secs(2),
    };

    /// Voters on several continents (round trips up to 300 ms): about 4.5 s,
    /// 6.8 s when votes are split.
    pub const WAN: Self = Self {
        heartbeat: Duration::from_millis(500),
        election_min: Duration::from_millis(2000),
        election_max: Duration::from_millis(3000),
        probe_every: Duration::from_millis(400),
        probe_fresh: Duration::from_millis(1200),
        turn: Duration::from_millis(800),
        write_limit: Duration::from_secs(12),
        read_limit: Duration::from_secs(6),
    };

    /// The time in which a follower trusts its leader.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        self.election_max
    }

    /// How long a leader that steps aside stays silent at most: the lease, the
    /// longest time-out, a tick of openraft (1.5 heartbeats), one more for the
    /// votes to travel.
    #[must_use]
    pub fn step_aside_limit(&self) -> Duration {
        self.lease() + self.election_max + self.heartbeat * 3
    }
}

/// When the log is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    /// Entries after the last snapshot that make the next one.
    pub snapshot_after_entries: u64,
    /// Entries kept behind a snapshot, so that a follower that was away for a
    /// short time is sent entries and not the whole state.
    pub keep_entries: u64,
}

impl Default for Compaction {
    /// A rollout of 1,000 nodes writes some 6,000 commands in far fewer
    /// entries, so a snapshot comes every few rollouts, and a voter that
    /// missed one rollout still catches up by entries. Larger values lengthen
    /// the start (every entry is verified), smaller ones rewrite the state more.
    fn default() -> Self {
        Self { snapshot_after_entries: 10_000, keep_entries: 5_000 }
    }
}
