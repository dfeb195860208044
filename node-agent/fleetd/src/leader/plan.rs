//! What the leader proposes next. *Pure*: a function of the state, of what
//! nodes said, of who is online and of the clock.
//!
//! `apply` checks every proposal again; a plan that is wrong is refused and
//! costs an entry. Invariant: the plan never grants this voter's own node while
//! others could lead; it steps aside instead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use osmoda_rollout::{FleetState, Phase, Rollout, Running};
use osmoda_types::command::{Body, Deadline, Grant, NodeAttempt};
use osmoda_types::{AttemptId, NodeId, NodeState, RaftId, RolloutId};

use crate::reports::AllSeen;
use crate::timers::Timers;

/// What a deadline is for, in an order.
type TimerKey = (RolloutId, Option<NodeId>, u64);

/// What the leader remembers between two plans. A new leader begins empty.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    timers: Timers<TimerKey>,
    granted_at: BTreeMap<RolloutId, Duration>,
}

/// What the plan is made of.
pub(crate) struct Seeing<'a> {
    /// The state.
    pub(crate) state: &'a FleetState,
    /// This voter.
    pub(crate) leader: RaftId,
    /// Members with a link to this node, and this node.
    pub(crate) online: &'a BTreeSet<NodeId>,
    /// What nodes said.
    pub(crate) seen: &'a AllSeen,
    /// Time since boot.
    pub(crate) now: Duration,
}

/// What to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Commands, in order.
    pub(crate) bodies: Vec<Body>,
    /// Whether another voter should lead now.
    pub(crate) step_aside: bool,
}

impl Memory {
    /// The next steps.
    pub(crate) fn plan(&mut self, seeing: &Seeing<'_>) -> Plan {
        let mut plan = Plan::default();
        plan.bodies.extend(self.deadlines(seeing).into_iter().map(Body::Deadline));
        for rollout in seeing.state.active() {
            plan.bodies.extend(accepts(rollout, seeing.seen));
            plan.bodies.extend(seeing.state.openable(&rollout.id, seeing.online, seeing.leader).map(Body::OpenWave));
            plan.bodies.extend(self.grant(rollout, seeing).map(Body::Grant));
            plan.step_aside |= seeing.state.must_step_aside(&rollout.id, seeing.leader);
        }
        self.granted_at.retain(|id, _| seeing.state.rollout(id).is_some_and(|rollout| !rollout.phase.is_terminal()));
        plan
    }

    /// A deadline's entry was not written; it fires again.
    pub(crate) fn again(&mut self, deadline: &Deadline) {
        self.timers.again(key_of(deadline));
    }

    /// This voter no longer leads.
    pub(crate) fn clear(&mut self) {
        self.timers.clear();
        self.granted_at.clear();
    }

    fn deadlines(&mut self, seeing: &Seeing<'_>) -> Vec<Deadline> {
        let timers = seeing.state.timers();
        let wanted = timers.iter().map(|timer| (key_of(&timer.deadline), timer.after));
        let due = self.timers.due(wanted, seeing.now);
        timers.into_iter().map(|timer| timer.deadline).filter(|deadline| due.contains(&key_of(deadline))).collect()
    }

    /// The nodes that may move now. With a stagger, one at a time and not
    /// before the pause since the last grant is over; a new leader knows of no
    /// last grant and starts at once, within the budget all the same.
    fn grant(&mut self, rollout: &Rollout, seeing: &Seeing<'_>) -> Option<Grant> {
        let Phase::Running(Running::Wave(wave)) = rollout.phase else { return None };
        let mut nodes = seeing.state.grantable(&rollout.id, seeing.online, seeing.leader);
        let stagger = Duration::from_millis(rollout.policy.stagger_ms);
        if !stagger.is_zero() {
            let last = self.granted_at.get(&rollout.id);
            if last.is_some_and(|last| seeing.now.saturating_sub(*last) < stagger) {
                return None;
            }
            nodes.truncate(1);
        }
        if nodes.is_empty() {
            return None;
        }
        self.granted_at.insert(rollout.id, seeing.now);
        Some(Grant { rollout: rollout.id, wave, nodes })
    }
}

/// Attempts whose node said that it is ready.
fn accepts<'a>(rollout: &'a Rollout, seen: &'a AllSeen) -> impl Iterator<Item = Body> + 'a {
    let running = matches!(rollout.phase, Phase::Running(_) | Phase::Paused { .. });
    let granted = rollout.rows.iter().filter(move |(_, row)| running && row.state == NodeState::Granted);
    granted.filter_map(|(node, row)| {
        let attempt: AttemptId = row.attempt?;
        let of = NodeAttempt { rollout: rollout.id, node: *node, attempt };
        (seen.get(node)?.ready == Some(of)).then_some(Body::Accept(of))
    })
}

fn key_of(deadline: &Deadline) -> TimerKey {
    match deadline {
        Deadline::State { rollout, state_epoch } => (*rollout, None, *state_epoch),
        Deadline::Node(of) => (of.rollout, Some(of.node), of.attempt.0),
    }
}

#[cfg(test)]
mod tests;
