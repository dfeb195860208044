//! Commands in short words: small numbers for rollouts, nodes and targets.
//!
//! [`Cmd::body`](super::Cmd::body) makes real, signed commands of them.

/// Who signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The operator with every right.
    Ann,
    /// A principal without the right.
    Bob,
    /// Somebody.
    Eve,
    /// Somebody, in the name of the operator.
    Forged,
}

/// What a node says about its closure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// The expected baseline.
    Expected,
    /// Another one.
    Other,
    /// That it cannot.
    Cannot,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It runs the target.
    Committed,
    /// It runs the baseline.
    RolledBack,
    /// Rolled back because it lost contact.
    CutOff,
    /// It began nothing: another activation held the host.
    Busy,
    /// It could not go back.
    RollbackFailed,
    /// It runs neither.
    Quarantined,
}

/// An operator's order, shortly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// Hold a rollout.
    Pause(u8),
    /// Let it go on.
    Resume(u8),
    /// Undo it.
    Abort(u8),
    /// Take a node out of a rollout.
    Exclude(u8, u8),
    /// Nothing moves: everywhere, or in scope `a`.
    Freeze(bool),
    /// The end of that.
    Unfreeze(bool),
    /// Take a node's target from the deny-list.
    Allow(u8, u8),
}

/// A command, shortly. Rollouts and nodes are small numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the command with the same name")]
pub enum Cmd {
    /// A rollout of a kind, on a parent epoch.
    Propose { rollout: u8, spec: u8, parent: u64, by: By },
    /// A voter's vote.
    Ballot { rollout: u8, voter: u8, yes: bool, forged: bool },
    /// What a node says about its closure.
    Staged { rollout: u8, node: u8, said: Said },
    /// The next wave.
    Open { rollout: u8, wave: u32, eligible: Vec<u8>, deferred: Vec<u8> },
    /// Nodes that may move.
    Grant { rollout: u8, wave: u32, nodes: Vec<u8> },
    /// A node may keep the target.
    Accept { rollout: u8, node: u8, attempt: u64 },
    /// How an attempt ended.
    Report { rollout: u8, node: u8, attempt: u64, end: End, observed_right: bool },
    /// The period of a phase is over.
    StateDeadline { rollout: u8, state_epoch: u64 },
    /// A node was silent for too long.
    NodeDeadline { rollout: u8, node: u8, attempt: u64 },
    /// The quorum was away.
    Hold { rollout: u8 },
    /// An operator's order.
    Order { order: Short, serial: u64, by: By },
}
