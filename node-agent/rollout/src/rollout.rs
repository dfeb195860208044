//! One rollout as the log knows it, and what can be counted in it.
//!
//! Invariant I8: `Row::recorded` is set before a row can be granted, differs
//! from the target, and never changes afterwards. This file decides nothing.

use std::collections::BTreeMap;

use osmoda_types::{
    AttemptId, ErrorCode, FleetEpoch, ManifestHash, NodeId, NodeState, Policy, PublicKey, RolloutId, RolloutState,
    Signature, StorePath, Vote,
};

/// A rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// Its id.
    pub id: RolloutId,
    /// What it carries out.
    pub manifest: ManifestHash,
    /// The fleet epoch its proposal made.
    pub epoch: FleetEpoch,
    /// The manifest's name.
    pub name: String,
    /// What it locks.
    pub scope: String,
    /// How it goes about it.
    pub policy: Policy,
    /// Who proposed it.
    pub proposer: PublicKey,
    /// Its signature over the proposal, which every host checks again.
    pub signature: Signature,
    /// Who may vote: the voters at the time of the proposal.
    pub electorate: BTreeMap<NodeId, Elector>,
    /// Yes-votes needed.
    pub threshold: u32,
    /// Its nodes.
    pub rows: BTreeMap<NodeId, Row>,
    /// Where it stands.
    pub phase: Phase,
    /// Changes with every change of `phase`; a deadline names it.
    pub state_epoch: u64,
    /// Why it is being, or was, undone.
    pub cause: Option<Cause>,
    /// Index of its proposal.
    pub proposed_index: u64,
    /// Index of the entry that ended it.
    pub decided_index: Option<u64>,
}

/// One voter in a frozen electorate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elector {
    /// Its ballot key at the time of the proposal.
    pub key: PublicKey,
    /// Its answer.
    pub vote: Option<Vote>,
}

/// One node of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where to.
    pub target: StorePath,
    /// Where from, as the manifest expects.
    pub expected: StorePath,
    /// Where from, as the node recorded before any change.
    pub recorded: Option<StorePath>,
    /// Where it stands.
    pub state: NodeState,
    /// The last grant.
    pub attempt: Option<AttemptId>,
    /// Whether that attempt was accepted.
    pub accepted: bool,
    /// The wave it was eligible in.
    pub wave: Option<u32>,
    /// What went wrong last.
    pub code: Option<ErrorCode>,
    /// Whether the quorum was lost while that attempt was in flight, so that
    /// losing contact says nothing about the target (I10).
    pub excused: bool,
}

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The ballot is open.
    Voting,
    /// It goes forward.
    Running(Running),
    /// It waits for a person.
    Paused {
        /// Where it goes on.
        from: Running,
        /// Why it waits.
        reason: PauseReason,
    },
    /// Every moved node returns.
    RollingBack,
    /// Done.
    Committed,
    /// The ballot was lost.
    Rejected,
    /// The ballot ran out of time.
    Expired,
    /// Gave way.
    Superseded,
    /// Undone everywhere.
    RolledBack,
    /// Undone, except on nodes that are away or broken.
    RolledBackPartial,
}

/// The states of a rollout that can be paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Running {
    /// Closures are fetched.
    Prefetch,
    /// The wave takes grants.
    Wave(u32),
    /// The wave is watched.
    Soak(u32),
    /// The wave passed; the next one may be opened.
    Verdict(u32),
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident { $($(#[$var_doc:meta])* $var:ident = $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$var_doc])* $var,)* }

        impl $name {
            /// The stable text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$var => $text,)* }
            }

            /// The value with that text.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$var),)* _ => None }
            }
        }
    )*};
}

reasons! {
    /// Why a rollout waits.
    PauseReason {
        /// An operator said so.
        Operator = "operator",
        /// The quorum was lost and is back.
        QuorumLost = "quorum_lost",
        /// A period ended without a result.
        Stalled = "stalled",
        /// A node could not go back to its baseline.
        RollbackBroken = "rollback_broken",
        /// All nodes of a wave failed, within the budget.
        WaveFailed = "wave_failed",
    }
    /// Why a rollout is undone.
    Cause {
        /// More nodes failed than the budget allows.
        Failed = "failure_budget",
        /// An operator said so.
        Aborted = "aborted",
        /// It stayed paused for too long.
        PauseDeadline = "pause_deadline",
    }
}

impl Running {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> RolloutState {
        match self {
            Self::Prefetch => RolloutState::Prefetch,
            Self::Wave(_) => RolloutState::Wave,
            Self::Soak(_) => RolloutState::Soak,
            Self::Verdict(_) => RolloutState::Verdict,
        }
    }

    /// The wave it is about.
    #[must_use]
    pub const fn wave(self) -> Option<u32> {
        match self {
            Self::Prefetch => None,
            Self::Wave(wave) | Self::Soak(wave) | Self::Verdict(wave) => Some(wave),
        }
    }
}

impl Phase {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> RolloutState {
        match self {
            Self::Voting => RolloutState::Voting,
            Self::Running(running) => running.word(),
            Self::Paused { .. } => RolloutState::Paused,
            Self::RollingBack => RolloutState::RollingBack,
            Self::Committed => RolloutState::Committed,
            Self::Rejected => RolloutState::Rejected,
            Self::Expired => RolloutState::Expired,
            Self::Superseded => RolloutState::Superseded,
            Self::RolledBack => RolloutState::RolledBack,
            Self::RolledBackPartial => RolloutState::RolledBackPartial,
        }
    }

    /// The wave it is about.
    #[must_use]
    pub const fn wave(self) -> Option<u32> {
        match self {
            Self::Running(running) | Self::Paused { from: running, .. } => running.wave(),
            _ => None,
        }
    }

    /// Whether nothing can change it any more (I1).
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        self.word().is_terminal()
    }

    /// Whether it is one of undoing.
    #[must_use]
    pub const fn is_undoing(self) -> bool {
        matches!(self, Self::RollingBack | Self::RolledBack | Self::RolledBackPartial)
    }
}

impl Row {
    /// Whether it is not in a wave yet, and can still be.
    #[must_use]
    pub fn is_remaining(&self) -> bool {
        self.wave.is_none() && matches!(self.state, NodeState::Pending | NodeState::Staged | NodeState::Deferred)
    }

    /// Whether its wave need not wait for it.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        !matches!(self.state, NodeState::Pending | NodeState::Staged | NodeState::Granted | NodeState::Accepted)
    }

    /// Whether it may run the target, so that undoing must wait for it.
    #[must_use]
    pub const fn must_return(&self) -> bool {
        matches!(
            self.state,
            NodeState::Granted
                | NodeState::Accepted
                | NodeState::Committed
                | NodeState::Lost
                | NodeState::RollbackFailed
        )
    }

    /// Whether it moved and nobody expects it back by itself.
    #[must_use]
    pub const fn is_given_up(&self) -> bool {
        match self.state {
            NodeState::Quarantined => true,
            NodeState::Excluded => self.attempt.is_some(),
            _ => false,
        }
    }
}

impl Rollout {
    fn count(&self, keep: impl Fn(&Row) -> bool) -> u32 {
        // At most 10,000 rows.
        self.rows.values().filter(|row| keep(row)).count() as u32
    }

    /// Nodes at risk: granted and not terminal, or lost (I2).
    #[must_use]
    pub fn charged(&self) -> u32 {
        self.count(|row| row.state.is_charged())
    }

    /// Nodes granted and not terminal.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.count(|row| matches!(row.state, NodeState::Granted | NodeState::Accepted))
    }

    /// Nodes that failed.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.count(|row| row.state.is_failure())
    }

    /// Nodes that run and boot the target, by their own toplevel (I15).
    #[must_use]
    pub fn committed(&self) -> u32 {
        self.count(|row| row.state == NodeState::Committed)
    }

    /// Nodes that were eligible in a wave.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.count(|row| row.wave.is_some())
    }

    /// Nodes that are in no wave yet.
    pub fn remaining(&self) -> impl Iterator<Item = (&NodeId, &Row)> {
        self.rows.iter().filter(|(_, row)| row.is_remaining())
    }

    /// Nodes of a wave.
    pub fn of_wave(&self, wave: u32) -> impl Iterator<Item = (&NodeId, &Row)> {
        self.rows.iter().filter(move |(_, row)| row.wave == Some(wave))
    }

    /// Whether it is the last wave of the policy.
    #[must_use]
    pub fn is_last_wave(&self, wave: u32) -> bool {
        wave as usize + 1 == self.policy.waves.len()
    }

    /// How many nodes a wave may take now.
    #[must_use]
    pub fn wave_size(&self, wave: u32) -> u32 {
        self.policy.wave_size(wave, self.rows.len() as u32, self.taken())
    }

    /// How many more nodes may be granted now.
    #[must_use]
    pub fn headroom(&self) -> u32 {
        let by_risk = self.policy.max_unavailable.saturating_sub(self.charged());
        match self.policy.max_parallel {
            Some(most) => by_risk.min(most.saturating_sub(self.in_flight())),
            None => by_risk,
        }
    }

    /// How many electors answered so.
    #[must_use]
    pub fn votes(&self, vote: Vote) -> u32 {
        // At most 7 electors.
        self.electorate.values().filter(|elector| elector.vote == Some(vote)).count() as u32
    }
}
