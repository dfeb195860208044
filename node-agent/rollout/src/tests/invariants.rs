//! The invariants of `rollout.md` 5.4 that the log alone can keep, checked on
//! the real state after every command, without asking the model.

use std::collections::{BTreeMap, BTreeSet};

use osmoda_types::{NodeState, RolloutId, RolloutState, StorePath};

use crate::testing::{Cmd, End, Short, VOTERS, node};
use crate::{Desired, FleetState, Outcome, Phase, What};

/// What the checker remembers of one rollout.
#[derive(Default)]
struct Seen {
    ended: Option<(Phase, Option<u64>)>,
    undone: u32,
    passed: BTreeSet<u32>,
    phase: Option<(Phase, u64)>,
    recorded: BTreeMap<u8, StorePath>,
}

/// Watches one history.
#[derive(Default)]
pub(super) struct Invariants {
    rollouts: BTreeMap<RolloutId, Seen>,
}

impl Invariants {
    /// Checks one step.
    ///
    /// # Errors
    /// The invariant that broke, by name.
    pub(super) fn check(&mut self, cmd: &Cmd, outcome: &Outcome, state: &FleetState) -> Result<(), String> {
        self.check_events(cmd, outcome, state)?;
        for rollout in state.rollouts() {
            let seen = self.rollouts.entry(rollout.id).or_default();
            let at_risk = |word| matches!(word, NodeState::Granted | NodeState::Accepted | NodeState::Lost);
            let charged = rollout.rows.values().filter(|row| at_risk(row.state)).count();
            if charged > rollout.policy.max_unavailable as usize {
                return Err(format!("I2: {charged} nodes at risk"));
            }
            if let Some(ended) = seen.ended
                && ended != (rollout.phase, rollout.decided_index)
            {
                return Err(format!("I1: {:?} became {:?}", ended.0, rollout.phase));
            }
            if rollout.phase.is_terminal() {
                seen.ended = Some((rollout.phase, rollout.decided_index));
            }
            if let Some((phase, state_epoch)) = seen.phase
                && (phase != rollout.phase) != (state_epoch != rollout.state_epoch)
                && phase != rollout.phase
            {
                return Err("a new phase kept the state epoch of the old one".into());
            }
            seen.phase = Some((rollout.phase, rollout.state_epoch));
            for (id, row) in &rollout.rows {
                let who = id.as_bytes()[0];
                if row.attempt.is_none() {
                    continue;
                }
                let Some(recorded) = &row.recorded else { return Err("I8: granted without a baseline".into()) };
                let first = seen.recorded.entry(who).or_insert_with(|| recorded.clone());
                if first != recorded || *recorded == row.target {
                    return Err("I8: the recorded baseline changed, or is the target".into());
                }
            }
        }
        check_voters(state)?;
        check_desired(state)
    }

    fn check_events(&mut self, cmd: &Cmd, outcome: &Outcome, state: &FleetState) -> Result<(), String> {
        if (outcome.reply.refused.is_some() || outcome.reply.repeated) && !outcome.events.is_empty() {
            return Err("I16: a command without effect has events".into());
        }
        for event in &outcome.events {
            if event.index != outcome.reply.index || event.reason.is_empty() {
                return Err("I16: an event without its index or reason".into());
            }
            match &event.what {
                What::Rollout { rollout, from, to, wave } => {
                    let seen = self.rollouts.entry(*rollout).or_default();
                    if *to == RolloutState::Verdict
                        && let Some(wave) = wave
                    {
                        if *from != Some(RolloutState::Soak) && *from != Some(RolloutState::Paused) {
                            return Err("I13: a verdict without a soak".into());
                        }
                        seen.passed.insert(*wave);
                    }
                    if *to == RolloutState::RollingBack {
                        seen.undone += 1;
                        check_undo_cause(cmd, seen.undone)?;
                    }
                }
                What::Node { rollout, node, to: NodeState::Granted, .. } => {
                    let wave = state.rollout(rollout).and_then(|it| it.rows.get(node)?.wave).unwrap_or(0);
                    let seen = self.rollouts.entry(*rollout).or_default();
                    if wave > 0 && !seen.passed.contains(&(wave - 1)) {
                        return Err(format!("I13: a grant in wave {wave} before the verdict on the wave before"));
                    }
                }
                What::Node { to: NodeState::Committed, .. } => {
                    let right = matches!(cmd, Cmd::Report { end: End::Committed, observed_right: true, .. });
                    if !right {
                        return Err("I15: committed without showing the target".into());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// I10: depth 1, and only for a reason that is about the target or from a person.
fn check_undo_cause(cmd: &Cmd, times: u32) -> Result<(), String> {
    let reason = matches!(
        cmd,
        Cmd::Report { .. }
            | Cmd::NodeDeadline { .. }
            | Cmd::StateDeadline { .. }
            | Cmd::Order { order: Short::Abort(_) | Short::Resume(_), .. }
    );
    if times > 1 || !reason {
        return Err(format!("I10: undone {times} times, last by {cmd:?}"));
    }
    Ok(())
}

/// I11: one voter at risk at most.
fn check_voters(state: &FleetState) -> Result<(), String> {
    let at_risk = |who: &u8| {
        let mut rows = state.rollouts().filter_map(|rollout| rollout.rows.get(&node(*who)));
        rows.any(|row| matches!(row.state, NodeState::Granted | NodeState::Accepted | NodeState::Lost))
    };
    if (0..VOTERS).filter(at_risk).count() > 1 {
        return Err("I11: two voters at risk".into());
    }
    Ok(())
}

/// I8 and I6 as a node sees them: it is never sent anywhere but to its target
/// while that is permitted, or to its recorded baseline.
fn check_desired(state: &FleetState) -> Result<(), String> {
    for who in 0..crate::testing::NODES {
        let (there, back) = match state.desired(&node(who)) {
            Desired::Attempt(there) | Desired::Accepted(there) => (there, false),
            Desired::Baseline(there) => (there, true),
            Desired::Stay | Desired::Stage { .. } => continue,
        };
        let Some(rollout) = state.rollout(&there.rollout) else { return Err("desired by nobody".into()) };
        let Some(row) = rollout.rows.get(&node(who)) else { return Err("desired of nobody".into()) };
        if row.recorded.as_ref() != Some(&there.baseline) {
            return Err("I8: sent to another baseline".into());
        }
        if !back && rollout.phase.is_undoing() {
            return Err("I6: sent to a target that is being undone".into());
        }
    }
    Ok(())
}
