//! How attempts end: what nodes report, and silence past the bound.

use osmoda_types::command::{Deadline, Ending, NodeAttempt, Report};
use osmoda_types::{ErrorCode, NodeState, RolloutId};

use super::wave::{check_attempt, set_state};
use super::{Cx, Done, Handled};
use crate::mutant::{self, Mutant};
use crate::outcome::Signer;
use crate::rollout::{PauseReason, Phase, Row, Running};
use crate::state::FleetState;

impl FleetState {
    /// Takes a fact from a node. A fact is taken whatever the rollout does, also
    /// after its end: nodes come back later.
    pub(super) fn report(&mut self, cx: &mut Cx, report: &Report) -> Handled {
        let of = &report.attempt;
        let rollout = self.rollouts.get_mut(&of.rollout).ok_or(ErrorCode::RolloutUnknown)?;
        let row = rollout.rows.get_mut(&of.node).ok_or(ErrorCode::NodeUnknown)?;
        check_attempt(row, of)?;
        let to = ending_state(&report.ending);
        if row.state == to {
            return Done::BEFORE;
        }
        check_ending(row, rollout.phase, &report.ending)?;
        cx.signer = Signer::Node(of.node);
        let (code, reason) = match &report.ending {
            Ending::Committed { .. } => (None, "committed"),
            Ending::RolledBack { code, .. } | Ending::RollbackFailed { code } | Ending::Quarantined { code } => {
                (Some(*code), code.as_str())
            }
        };
        row.code = code;
        let to = match code {
            Some(code) if is_not_its_fault(row, code) => excused_state(row, rollout.phase, to),
            _ => to,
        };
        set_state(cx, of.rollout, of.node, row, to, reason);
        if to == NodeState::RolledBack && rollout.phase == Phase::Committed && mutant::is(Mutant::SecondRollback) {
            self.enter(cx, of.rollout, Phase::RollingBack, "mutant");
        }
        self.settle(cx, of.rollout);
        self.stop_if_broken(cx, of.rollout, to);
        Done::NOW
    }

    /// A node that could not go back stops the rollout: no other may start until
    /// a person has looked (`rollout.md` 5.7, scenario 8).
    fn stop_if_broken(&mut self, cx: &mut Cx, id: RolloutId, to: NodeState) {
        let running = self.rollouts.get(&id).and_then(|rollout| match rollout.phase {
            Phase::Running(running) => Some(running),
            _ => None,
        });
        if let Some(running) = running
            && matches!(to, NodeState::RollbackFailed | NodeState::Quarantined)
        {
            self.pause(cx, id, running, PauseReason::RollbackBroken);
        }
    }

    pub(super) fn deadline(&mut self, cx: &mut Cx, deadline: &Deadline) -> Handled {
        match deadline {
            Deadline::State { rollout, state_epoch } => self.state_deadline(cx, *rollout, *state_epoch),
            Deadline::Node(of) => self.node_deadline(cx, of),
        }
    }

    /// Silence past bound B of I5: the node is lost. It stays charged until it
    /// reports or an operator excludes it.
    fn node_deadline(&mut self, cx: &mut Cx, of: &NodeAttempt) -> Handled {
        let rollout = self.rollouts.get_mut(&of.rollout).ok_or(ErrorCode::RolloutUnknown)?;
        let row = rollout.rows.get_mut(&of.node).ok_or(ErrorCode::NodeUnknown)?;
        let in_flight = matches!(row.state, NodeState::Granted | NodeState::Accepted);
        if row.attempt != Some(of.attempt) || !in_flight {
            return Err(ErrorCode::DeadlineStale);
        }
        set_state(cx, of.rollout, of.node, row, NodeState::Lost, "deadline");
        self.settle(cx, of.rollout);
        Done::NOW
    }
}

const fn ending_state(ending: &Ending) -> NodeState {
    match ending {
        Ending::Committed { .. } => NodeState::Committed,
        Ending::RolledBack { .. } => NodeState::RolledBack,
        Ending::RollbackFailed { .. } => NodeState::RollbackFailed,
        Ending::Quarantined { .. } => NodeState::Quarantined,
    }
}

/// Whether an ending says nothing about the target. I10: the quorum was away, so
/// the node was cut off by us. Or somebody else's activation held the host, so
/// nothing was changed (`rollout.md` 4.7 no. 10: retriable, not a failure); a
/// node that is never free is bounded by the deadline of its wave.
fn is_not_its_fault(row: &Row, code: ErrorCode) -> bool {
    (row.excused && is_lost_contact(code)) || (row.state == NodeState::Granted && code == ErrorCode::LockBusy)
}

/// The node is on its baseline and may be granted again: in its wave while that
/// is open, else in a later one.
fn excused_state(row: &mut Row, phase: Phase, to: NodeState) -> NodeState {
    let running = match phase {
        Phase::Running(running) | Phase::Paused { from: running, .. } => running,
        _ => return to,
    };
    match to {
        NodeState::RolledBack if row.wave.map(Running::Wave) == Some(running) => NodeState::Staged,
        NodeState::RolledBack => {
            row.wave = None;
            NodeState::Deferred
        }
        other => other,
    }
}

/// Whether the code says that a node was cut off, and nothing else.
const fn is_lost_contact(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::GuardFired | ErrorCode::Timeout | ErrorCode::RaftUnavailable | ErrorCode::PeerOffline)
}

/// Which endings a node can have reached from where the log knows it to be.
fn check_ending(row: &Row, phase: Phase, ending: &Ending) -> Result<(), ErrorCode> {
    use NodeState::{Accepted, Committed, Granted, Lost, Quarantined, RollbackFailed};
    // After the fleet committed, a committed node that runs something else drifted.
    let held = row.state != Committed || phase != Phase::Committed || mutant::is(Mutant::SecondRollback);
    let (reachable, observed) = match ending {
        Ending::Committed { observed } => {
            let accepted = row.state == Accepted || (row.state == Lost && row.accepted);
            let same = row.target == *observed || mutant::is(Mutant::ToplevelIgnored);
            (accepted, same)
        }
        Ending::RolledBack { observed, .. } => {
            let from = matches!(row.state, Granted | Accepted | Committed | Lost | RollbackFailed | Quarantined);
            (from && held, row.recorded.as_ref() == Some(observed))
        }
        Ending::RollbackFailed { .. } => (matches!(row.state, Granted | Accepted | Committed | Lost) && held, true),
        Ending::Quarantined { .. } => {
            (matches!(row.state, Granted | Accepted | Committed | Lost | RollbackFailed) && held, true)
        }
    };
    if !reachable {
        return Err(ErrorCode::AttemptConflict);
    }
    // I15, I8: what counts is the toplevel the host itself shows.
    if observed { Ok(()) } else { Err(ErrorCode::Conflict) }
}
