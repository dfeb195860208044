//! Waves: closures are there, a wave opens, nodes are granted and accepted.
//!
//! Invariants checked here for every entry, whoever wrote it: I2 (budget), I11
//! (voters), I13 (no grant before the verdict of the wave before).

use std::collections::BTreeSet;

use osmoda_types::command::{GRANT_NODES_MAX, Grant, NodeAttempt, OpenWave, Staged};
use osmoda_types::{ErrorCode, NodeId, NodeState, RolloutId};

use super::{Cx, Done, Handled};
use crate::mutant::{self, Mutant};
use crate::outcome::Signer;
use crate::rollout::{Phase, Rollout, Row, Running};
use crate::state::FleetState;

impl FleetState {
    /// Records what a node runs, before anything is changed on it (I8).
    pub(super) fn staged(&mut self, cx: &mut Cx, staged: &Staged) -> Handled {
        let rollout = self.rollouts.get_mut(&staged.rollout).ok_or(ErrorCode::RolloutUnknown)?;
        let row = rollout.rows.get_mut(&staged.node).ok_or(ErrorCode::NodeUnknown)?;
        cx.signer = Signer::Node(staged.node);
        match &staged.result {
            Ok(baseline) if row.recorded.as_ref() == Some(baseline) => return Done::BEFORE,
            Err(code) if row.code == Some(*code) && row.state == NodeState::Pending => return Done::BEFORE,
            Ok(_) | Err(_) => {}
        }
        if !matches!(rollout.phase, Phase::Running(_) | Phase::Paused { .. }) {
            return Err(ErrorCode::RolloutState);
        }
        let may_change = row.recorded.is_none() && row.is_remaining();
        if !may_change && !mutant::is(Mutant::BaselineRecordedLate) {
            return Err(ErrorCode::Conflict);
        }
        match &staged.result {
            Err(code) => row.code = Some(*code),
            Ok(baseline) if *baseline != row.expected && !mutant::is(Mutant::BaselineRecordedLate) => {
                return Err(ErrorCode::Conflict);
            }
            Ok(baseline) => {
                row.recorded = Some(baseline.clone());
                row.code = None;
                if may_change {
                    set_state(cx, staged.rollout, staged.node, row, NodeState::Staged, "staged");
                }
            }
        }
        Done::NOW
    }

    pub(super) fn open_wave(&mut self, cx: &mut Cx, open: &OpenWave) -> Handled {
        let rollout = self.rollouts.get(&open.rollout).ok_or(ErrorCode::RolloutUnknown)?;
        let running = running(rollout)?;
        if running == Running::Wave(open.wave) && rollout.of_wave(open.wave).map(|(node, _)| node).eq(&open.eligible) {
            return Done::BEFORE;
        }
        let expected = match running {
            Running::Prefetch => Some(0),
            Running::Verdict(wave) => Some(wave + 1),
            Running::Soak(wave) if mutant::is(Mutant::VerdictSkipped) => Some(wave + 1),
            Running::Wave(_) | Running::Soak(_) => None,
        };
        if expected != Some(open.wave) {
            return Err(ErrorCode::WaveClosed);
        }
        check_wave_nodes(rollout, open)?;
        let (eligible, deferred) = (set(&open.eligible), set(&open.deferred));
        let Some(rollout) = self.rollouts.get_mut(&open.rollout) else { return Err(ErrorCode::RolloutUnknown) };
        for (node, row) in &mut rollout.rows {
            if eligible.contains(node) {
                row.wave = Some(open.wave);
                if row.state != NodeState::Staged {
                    set_state(cx, open.rollout, *node, row, NodeState::Staged, "eligible");
                }
            } else if deferred.contains(node) && row.state != NodeState::Deferred {
                set_state(cx, open.rollout, *node, row, NodeState::Deferred, "away");
            }
        }
        self.enter(cx, open.rollout, Phase::Running(Running::Wave(open.wave)), "opened");
        self.settle(cx, open.rollout);
        Done::NOW
    }

    pub(super) fn grant(&mut self, cx: &mut Cx, grant: &Grant) -> Handled {
        let rollout = self.rollouts.get(&grant.rollout).ok_or(ErrorCode::RolloutUnknown)?;
        if running(rollout)? != Running::Wave(grant.wave) {
            return Err(ErrorCode::WaveClosed);
        }
        if self.is_frozen(&rollout.scope) {
            return Err(ErrorCode::FreezeLocked);
        }
        let nodes = set(&grant.nodes);
        if nodes.is_empty() || nodes.len() != grant.nodes.len() || nodes.len() > GRANT_NODES_MAX {
            return Err(ErrorCode::BadRequest);
        }
        for node in &nodes {
            self.check_grantable(rollout, node, grant.wave)?;
        }
        self.check_voter_rule(cx, &nodes)?;
        let slack = u32::from(mutant::is(Mutant::BudgetOffByOne));
        if nodes.len() as u32 > rollout.headroom() + slack {
            return Err(ErrorCode::BudgetExceeded);
        }
        let Some(rollout) = self.rollouts.get_mut(&grant.rollout) else { return Err(ErrorCode::RolloutUnknown) };
        for (node, row) in rollout.rows.iter_mut().filter(|(node, _)| nodes.contains(node)) {
            row.attempt = Some(cx.place);
            row.accepted = false;
            row.excused = false;
            row.code = None;
            set_state(cx, grant.rollout, *node, row, NodeState::Granted, "granted");
        }
        Ok(Done { attempt: Some(cx.place), ..Done::default() })
    }

    fn check_grantable(&self, rollout: &Rollout, node: &NodeId, wave: u32) -> Result<(), ErrorCode> {
        let row = rollout.rows.get(node).ok_or(ErrorCode::NodeUnknown)?;
        if row.wave != Some(wave) {
            return Err(ErrorCode::WaveClosed);
        }
        if row.state != NodeState::Staged || row.recorded.is_none() || self.is_held_elsewhere(node, &rollout.id) {
            return Err(ErrorCode::AttemptConflict);
        }
        if self.denied.contains_key(&row.target) {
            return Err(ErrorCode::TargetDenied);
        }
        Ok(())
    }

    /// I11: one voter in flight at most, and never the leader that wrote the
    /// entry. The only voter of a fleet has nobody to lead in its place.
    fn check_voter_rule(&self, cx: &Cx, nodes: &BTreeSet<NodeId>) -> Result<(), ErrorCode> {
        let voters = nodes.iter().filter(|node| self.voters.contains_key(*node)).count();
        if voters == 0 {
            return Ok(());
        }
        if self.voters_charged() + voters > 1 {
            return Err(ErrorCode::VoterRule);
        }
        let leader = self.voter_by_raft_id(cx.proposer).ok_or(ErrorCode::VoterRule)?;
        if nodes.contains(&leader) && self.voters.len() > 1 {
            return Err(ErrorCode::VoterRule);
        }
        Ok(())
    }

    /// Lets a node keep its target. In-flight nodes are accepted while paused,
    /// too: a pause stops new grants, it does not undo old ones.
    pub(super) fn accept(&mut self, cx: &mut Cx, of: &NodeAttempt) -> Handled {
        let denied = |row: &Row, state: &Self| state.denied.contains_key(&row.target);
        let rollout = self.rollouts.get(&of.rollout).ok_or(ErrorCode::RolloutUnknown)?;
        let row = rollout.rows.get(&of.node).ok_or(ErrorCode::NodeUnknown)?;
        check_attempt(row, of)?;
        if row.accepted && matches!(row.state, NodeState::Accepted | NodeState::Committed) {
            return Done::BEFORE;
        }
        if !matches!(rollout.phase, Phase::Running(_) | Phase::Paused { .. }) {
            return Err(ErrorCode::RolloutState);
        }
        if row.state != NodeState::Granted {
            return Err(ErrorCode::AttemptStale);
        }
        if denied(row, self) {
            return Err(ErrorCode::TargetDenied);
        }
        let row = self.rollouts.get_mut(&of.rollout).and_then(|rollout| rollout.rows.get_mut(&of.node));
        if let Some(row) = row {
            row.accepted = true;
            set_state(cx, of.rollout, of.node, row, NodeState::Accepted, "accepted");
        }
        Done::NOW
    }
}

fn set(nodes: &[NodeId]) -> BTreeSet<NodeId> {
    nodes.iter().copied().collect()
}

/// Where the rollout runs, or why nothing can be started in it.
fn running(rollout: &Rollout) -> Result<Running, ErrorCode> {
    match rollout.phase {
        Phase::Running(running) => Ok(running),
        _ => Err(ErrorCode::RolloutState),
    }
}

/// Moves a row and says so.
pub(super) fn set_state(
    cx: &mut Cx,
    rollout: RolloutId,
    node: NodeId,
    row: &mut Row,
    to: NodeState,
    reason: &'static str,
) {
    let what = crate::outcome::What::Node { rollout, node, attempt: row.attempt, from: row.state, to };
    row.state = to;
    cx.event(what, reason);
}

/// I3: only the last attempt of a node counts.
pub(super) fn check_attempt(row: &Row, of: &NodeAttempt) -> Result<(), ErrorCode> {
    match row.attempt {
        Some(attempt) if attempt == of.attempt => Ok(()),
        Some(attempt) if of.attempt < attempt => Err(ErrorCode::AttemptStale),
        _ => Err(ErrorCode::AttemptUnknown),
    }
}

/// The denominator of a wave is frozen here: who is there is in, who is away is
/// deferred and not charged.
fn check_wave_nodes(rollout: &Rollout, open: &OpenWave) -> Result<(), ErrorCode> {
    let (eligible, deferred) = (set(&open.eligible), set(&open.deferred));
    let once = eligible.len() == open.eligible.len() && deferred.len() == open.deferred.len();
    if !once || !eligible.is_disjoint(&deferred) {
        return Err(ErrorCode::BadRequest);
    }
    let remaining = |node: &NodeId| rollout.rows.get(node).filter(|row| row.is_remaining());
    if eligible.iter().chain(&deferred).any(|node| remaining(node).is_none()) {
        return Err(ErrorCode::NodeUnknown);
    }
    if eligible.iter().any(|node| remaining(node).is_none_or(|row| row.recorded.is_none())) {
        return Err(ErrorCode::ClosureMissing);
    }
    if eligible.len() as u32 > rollout.wave_size(open.wave) {
        return Err(ErrorCode::BudgetExceeded);
    }
    let last = rollout.is_last_wave(open.wave);
    let complete = rollout.remaining().all(|(node, _)| eligible.contains(node) || deferred.contains(node));
    if last && !complete {
        return Err(ErrorCode::BadRequest);
    }
    // A wave without nodes proves nothing; only after others did may the last one be empty.
    if eligible.is_empty() && !(last && rollout.committed() > 0) {
        return Err(ErrorCode::BadRequest);
    }
    Ok(())
}
