//! What drivers and nodes read from the state: pure functions of the log.
//!
//! Invariant: a plan made here by the leader of the moment is accepted by
//! `apply` of the same state, and what a node should do depends on the log
//! alone, so every voter gives it the same answer.

use std::collections::BTreeSet;
use std::time::Duration;

use osmoda_types::command::{Deadline, NodeAttempt, OpenWave};
use osmoda_types::{AttemptId, FleetEpoch, ManifestHash, NodeId, NodeState, RaftId, RolloutId, StorePath};

use crate::rollout::{Phase, Rollout, Row, Running};
use crate::state::FleetState;

/// What a node should be doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Desired {
    /// Nothing.
    Stay,
    /// Fetch the closure and report it.
    Stage {
        /// For which rollout.
        rollout: RolloutId,
        /// Its manifest.
        manifest: ManifestHash,
        /// What to fetch.
        target: StorePath,
        /// What it should be running.
        baseline: StorePath,
    },
    /// Move to the target and prove it.
    Attempt(Move),
    /// Keep the target: the boot default may move.
    Accepted(Move),
    /// Go back, or stay back.
    Baseline(Move),
}

/// One permitted change of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// In which rollout.
    pub rollout: RolloutId,
    /// Its manifest.
    pub manifest: ManifestHash,
    /// Its fleet epoch; a node refuses older ones (I3).
    pub epoch: FleetEpoch,
    /// The try; a node refuses older ones (I3).
    pub attempt: AttemptId,
    /// The release.
    pub target: StorePath,
    /// Where to go back to, recorded before the change (I8).
    pub baseline: StorePath,
}

/// A period that runs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// The command to submit when it is over.
    pub deadline: Deadline,
    /// How long it runs from the moment it is first seen by a leader.
    pub after: Duration,
}

impl FleetState {
    /// What the node should be doing. The latest attempt decides; a node that
    /// must go back does so before it stages anything newer.
    #[must_use]
    pub fn desired(&self, node: &NodeId) -> Desired {
        let mut rows: Vec<(&Rollout, &Row)> =
            self.rollouts.values().filter_map(|rollout| Some((rollout, rollout.rows.get(node)?))).collect();
        rows.sort_by_key(|(rollout, row)| std::cmp::Reverse((row.attempt, rollout.epoch)));
        for (rollout, row) in &rows {
            if let Some(attempt) = row.attempt
                && let Some(desired) = self.desired_of(node, rollout, row, attempt)
            {
                return desired;
            }
        }
        let waits = |(rollout, row): &&(&Rollout, &Row)| {
            let open = matches!(rollout.phase, Phase::Running(_) | Phase::Paused { .. });
            open && row.recorded.is_none() && row.is_remaining()
        };
        match rows.iter().find(waits) {
            Some((rollout, row)) => Desired::Stage {
                rollout: rollout.id,
                manifest: rollout.manifest,
                target: row.target.clone(),
                baseline: row.expected.clone(),
            },
            None => Desired::Stay,
        }
    }

    fn desired_of(&self, node: &NodeId, rollout: &Rollout, row: &Row, attempt: AttemptId) -> Option<Desired> {
        let there = || Move {
            rollout: rollout.id,
            manifest: rollout.manifest,
            epoch: rollout.epoch,
            attempt,
            target: row.target.clone(),
            // Recorded before the grant (I8); the fallback is never reached.
            baseline: row.recorded.clone().unwrap_or_else(|| row.expected.clone()),
        };
        if rollout.phase.is_undoing() {
            let returns = row.must_return() && !self.waits_for_voter(node, rollout, row);
            return match (returns, row.state) {
                (true, _) => Some(Desired::Baseline(there())),
                // It keeps the target until the voter before it is back.
                (false, NodeState::Committed) => Some(Desired::Stay),
                (false, _) => None,
            };
        }
        match row.state {
            NodeState::Granted => Some(Desired::Attempt(there())),
            NodeState::Accepted => Some(Desired::Accepted(there())),
            NodeState::Lost if row.accepted => Some(Desired::Accepted(there())),
            NodeState::Lost | NodeState::RollbackFailed => Some(Desired::Baseline(there())),
            _ => None,
        }
    }

    /// Voters that run the target go back one after the other, in the order of
    /// their ids, so that undoing does not lose the quorum (I11).
    fn waits_for_voter(&self, node: &NodeId, rollout: &Rollout, row: &Row) -> bool {
        let moved = |row: &Row| row.state == NodeState::Committed;
        rollout.phase == Phase::RollingBack
            && moved(row)
            && self.voters.contains_key(node)
            && rollout.rows.range(..node).any(|(other, row)| moved(row) && self.voters.contains_key(other))
    }

    /// The nodes of the open wave that this leader may grant now, given who is
    /// online: within the budget, at most one voter and only while every other
    /// voter is online, never the leader. Empty when nothing may be granted.
    #[must_use]
    pub fn grantable(&self, rollout: &RolloutId, online: &BTreeSet<NodeId>, leader: RaftId) -> Vec<NodeId> {
        let Some(rollout) = self.rollouts.get(rollout) else { return Vec::new() };
        let Phase::Running(Running::Wave(wave)) = rollout.phase else { return Vec::new() };
        if self.is_frozen(&rollout.scope) {
            return Vec::new();
        }
        let room = (rollout.headroom() as usize).min(osmoda_types::command::GRANT_NODES_MAX);
        let mut voter_taken = self.voters_charged() > 0;
        let mut nodes = Vec::new();
        for node in self.waiting(rollout, wave, leader) {
            if nodes.len() == room {
                break;
            }
            if !online.contains(&node) {
                continue;
            }
            if self.voters.contains_key(&node) {
                if voter_taken || !self.may_grant_voter(&node, online, leader) {
                    continue;
                }
                voter_taken = true;
            }
            nodes.push(node);
        }
        nodes
    }

    fn may_grant_voter(&self, node: &NodeId, online: &BTreeSet<NodeId>, leader: RaftId) -> bool {
        let others_online = self.voters.keys().filter(|other| *other != node).all(|other| online.contains(other));
        let leader = self.voter_by_raft_id(leader);
        others_online && leader.is_some_and(|leader| leader != *node || self.voters.len() == 1)
    }

    /// Nodes of a wave that wait for a grant: others first, then voters.
    fn waiting(&self, rollout: &Rollout, wave: u32, leader: RaftId) -> Vec<NodeId> {
        let ready = |node: &NodeId, row: &Row| {
            row.state == NodeState::Staged
                && row.recorded.is_some()
                && !self.is_held_elsewhere(node, &rollout.id)
                && !self.denied.contains_key(&row.target)
        };
        let nodes = rollout.of_wave(wave).filter(|(node, row)| ready(node, row)).map(|(node, _)| *node);
        let mut nodes: Vec<NodeId> = nodes.collect();
        nodes.sort_by_key(|node| self.rank(node, leader));
        nodes
    }

    /// Whether all that is left to grant in the open wave is this leader's own
    /// node: then it steps aside, and the next leader grants it.
    #[must_use]
    pub fn must_step_aside(&self, rollout: &RolloutId, leader: RaftId) -> bool {
        let Some(rollout) = self.rollouts.get(rollout) else { return false };
        let Phase::Running(Running::Wave(wave)) = rollout.phase else { return false };
        let waiting = self.waiting(rollout, wave, leader);
        let own = self.voter_by_raft_id(leader);
        self.voters.len() > 1 && rollout.charged() == 0 && waiting.len() == 1 && waiting.first().copied() == own
    }

    /// Who goes first: nodes without a vote, then voters, then the leader.
    fn rank(&self, node: &NodeId, leader: RaftId) -> (u8, NodeId) {
        let rank = match self.voters.get(node) {
            None => 0,
            Some(raft_id) if *raft_id != leader => 1,
            Some(_) => 2,
        };
        (rank, *node)
    }

    /// The next wave, when it can be opened: the nodes that are first in rank
    /// among those online hold their closure, and in the last wave everybody who
    /// is online does. Who is away, or could not fetch, is deferred.
    #[must_use]
    pub fn openable(&self, rollout: &RolloutId, online: &BTreeSet<NodeId>, leader: RaftId) -> Option<OpenWave> {
        let rollout = self.rollouts.get(rollout)?;
        let wave = match rollout.phase {
            Phase::Running(Running::Prefetch) => 0,
            Phase::Running(Running::Verdict(wave)) => wave + 1,
            _ => return None,
        };
        let size = rollout.wave_size(wave) as usize;
        let last = rollout.is_last_wave(wave);
        // Online, and holding its closure or still fetching it: those may be in
        // the wave. Who goes first is decided by rank, not by who was quicker.
        let may_come = rollout
            .remaining()
            .filter(|(node, row)| online.contains(node) && (row.recorded.is_some() || row.code.is_none()));
        let mut eligible: Vec<NodeId> = may_come.map(|(node, _)| *node).collect();
        eligible.sort_by_key(|node| self.rank(node, leader));
        if !last {
            eligible.truncate(size);
        }
        if eligible.iter().any(|node| rollout.rows.get(node).is_none_or(|row| row.recorded.is_none())) {
            return None;
        }
        eligible.truncate(size);
        let eligible: BTreeSet<NodeId> = eligible.into_iter().collect();
        if eligible.is_empty() && !(last && rollout.committed() > 0) {
            return None;
        }
        let away = |node: &NodeId, row: &Row| {
            // Online and still fetching is not away: it stays pending for a later wave.
            last || !online.contains(node) || (row.recorded.is_none() && row.code.is_some())
        };
        let deferred = rollout.remaining().filter(|(node, row)| !eligible.contains(node) && away(node, row));
        let deferred = deferred.map(|(node, _)| *node).collect();
        let eligible = eligible.into_iter().collect();
        Some(OpenWave { rollout: rollout.id, wave, eligible, deferred })
    }

    /// Every period that runs now. A new leader starts them all afresh; one that
    /// is no longer listed is dropped, and would be refused as stale.
    #[must_use]
    pub fn timers(&self) -> Vec<Timer> {
        self.rollouts.values().flat_map(timers_of).collect()
    }
}

fn timers_of(rollout: &Rollout) -> Vec<Timer> {
    let timings = &rollout.policy.timings;
    let after_ms = match rollout.phase {
        Phase::Voting => Some(timings.vote_deadline_ms),
        Phase::Running(Running::Prefetch) => Some(timings.prefetch_deadline_ms),
        Phase::Running(Running::Wave(_) | Running::Verdict(_)) => Some(timings.wave_deadline_ms),
        Phase::Running(Running::Soak(_)) => Some(timings.soak_ms),
        Phase::Paused { .. } => Some(timings.pause_deadline_ms),
        Phase::RollingBack => Some(timings.rollback_deadline_ms),
        _ => None,
    };
    let state = after_ms.map(|ms| Timer {
        deadline: Deadline::State { rollout: rollout.id, state_epoch: rollout.state_epoch },
        after: Duration::from_millis(ms),
    });
    let in_flight =
        rollout.rows.iter().filter(|(_, row)| matches!(row.state, NodeState::Granted | NodeState::Accepted));
    let nodes = in_flight.filter_map(|(node, row)| {
        let of = NodeAttempt { rollout: rollout.id, node: *node, attempt: row.attempt? };
        Some(Timer { deadline: Deadline::Node(of), after: Duration::from_millis(timings.lost_ms()) })
    });
    state.into_iter().chain(nodes).collect()
}
