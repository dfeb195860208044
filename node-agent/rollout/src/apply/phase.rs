//! How a rollout moves on: verdicts, undoing, and the periods of its states.
//!
//! Invariant I1: a terminal phase is never left. Invariant I10: a rollout is
//! undone once at most, only by failures past the budget, an abort, or a pause
//! that nobody ended; trouble of the control plane pauses.

use osmoda_types::{ErrorCode, NodeState, RolloutId, RolloutState};

use super::{Cx, Done, Handled};
use crate::outcome::What;
use crate::rollout::{Cause, PauseReason, Phase, Running};
use crate::state::{DENIED_MAX, Denied, FleetState};

impl FleetState {
    /// Moves a rollout to a phase; every change of phase goes through here.
    pub(super) fn enter(&mut self, cx: &mut Cx, id: RolloutId, phase: Phase, reason: &'static str) {
        if let Some(from) = self.rollouts.get(&id).map(|rollout| rollout.phase.word()) {
            self.enter_from(cx, id, from, phase, reason);
        }
    }

    /// The same, from a state that is passed through within one entry.
    pub(super) fn enter_from(
        &mut self,
        cx: &mut Cx,
        id: RolloutId,
        from: RolloutState,
        phase: Phase,
        reason: &'static str,
    ) {
        let Some(rollout) = self.rollouts.get_mut(&id) else { return };
        self.state_epochs += 1;
        rollout.state_epoch = self.state_epochs;
        rollout.phase = phase;
        if phase.is_terminal() {
            rollout.decided_index = Some(cx.index);
        }
        cx.event(What::Rollout { rollout: id, from: Some(from), to: phase.word(), wave: phase.wave() }, reason);
    }

    /// Says that a state was passed through.
    fn pass(cx: &mut Cx, id: RolloutId, from: RolloutState, to: RolloutState, reason: &'static str) {
        cx.event(What::Rollout { rollout: id, from: Some(from), to, wave: None }, reason);
    }

    /// Pauses; a pause keeps where the rollout goes on.
    pub(super) fn pause(&mut self, cx: &mut Cx, id: RolloutId, from: Running, reason: PauseReason) {
        self.enter(cx, id, Phase::Paused { from, reason }, reason.as_str());
    }

    /// After a change of rows: takes every step that needs no further word.
    pub(super) fn settle(&mut self, cx: &mut Cx, id: RolloutId) {
        let Some(rollout) = self.rollouts.get(&id) else { return };
        match rollout.phase {
            Phase::Running(running) => {
                if rollout.failures() > rollout.policy.failure_budget {
                    self.undo(cx, id, Cause::Failed);
                } else if let Running::Wave(wave) = running
                    && rollout.of_wave(wave).all(|(_, row)| row.is_settled())
                {
                    self.enter(cx, id, Phase::Running(Running::Soak(wave)), "wave_done");
                }
            }
            Phase::RollingBack if !rollout.rows.values().any(|row| row.must_return()) => {
                self.end_undoing(cx, id, "returned");
            }
            _ => {}
        }
    }

    /// Begins to undo: every node that moved returns to its own recorded
    /// baseline. What failed is denied; what was aborted is not.
    pub(super) fn undo(&mut self, cx: &mut Cx, id: RolloutId, cause: Cause) {
        let Some(rollout) = self.rollouts.get_mut(&id) else { return };
        rollout.cause = Some(cause);
        let from = rollout.phase.word();
        if cause == Cause::Failed {
            self.deny(cx, id);
            self.enter(cx, id, Phase::RollingBack, cause.as_str());
        } else {
            Self::pass(cx, id, from, RolloutState::Aborting, cause.as_str());
            self.enter_from(cx, id, RolloutState::Aborting, Phase::RollingBack, cause.as_str());
        }
        self.settle(cx, id);
    }

    fn end_undoing(&mut self, cx: &mut Cx, id: RolloutId, reason: &'static str) {
        let Some(rollout) = self.rollouts.get(&id) else { return };
        let partial = rollout.rows.values().any(|row| row.must_return() || row.is_given_up());
        let phase = if partial { Phase::RolledBackPartial } else { Phase::RolledBack };
        self.enter(cx, id, phase, reason);
    }

    fn deny(&mut self, cx: &mut Cx, id: RolloutId) {
        let Some(rollout) = self.rollouts.get(&id) else { return };
        for row in rollout.rows.values() {
            if !self.denied.contains_key(&row.target) {
                self.denied.insert(row.target.clone(), Denied { rollout: id, index: cx.index });
                cx.event(What::Denied(row.target.clone()), "failure_budget");
            }
        }
        while self.denied.len() > DENIED_MAX {
            let oldest = self.denied.iter().min_by_key(|(_, denied)| denied.index).map(|(target, _)| target.clone());
            let Some(oldest) = oldest else { return };
            self.denied.remove(&oldest);
        }
    }

    /// The period of the present state is over. One of an earlier state says
    /// nothing any more.
    pub(super) fn state_deadline(&mut self, cx: &mut Cx, id: RolloutId, state_epoch: u64) -> Handled {
        let rollout = self.rollouts.get(&id).ok_or(ErrorCode::RolloutUnknown)?;
        if rollout.state_epoch != state_epoch || rollout.phase.is_terminal() {
            return Err(ErrorCode::DeadlineStale);
        }
        match rollout.phase {
            Phase::Voting => self.enter(cx, id, Phase::Expired, "deadline"),
            Phase::Running(Running::Soak(wave)) => self.verdict(cx, id, wave),
            Phase::Running(running) => self.pause(cx, id, running, PauseReason::Stalled),
            Phase::Paused { .. } => self.undo(cx, id, Cause::PauseDeadline),
            Phase::RollingBack => self.end_undoing(cx, id, "deadline"),
            _ => return Err(ErrorCode::DeadlineStale),
        }
        Done::NOW
    }

    /// The soak of a wave is over. Failures past the budget were acted on when
    /// they were reported, so the wave passed, unless it proved nothing.
    fn verdict(&mut self, cx: &mut Cx, id: RolloutId, wave: u32) {
        let Some(rollout) = self.rollouts.get(&id) else { return };
        let committed = rollout.of_wave(wave).any(|(_, row)| row.state == NodeState::Committed);
        let failed = rollout.of_wave(wave).any(|(_, row)| row.state.is_failure());
        // Excused nodes leave their wave; one that nobody is left of was proven
        // by nobody. The last one may be empty when others were proven.
        let deserted = rollout.of_wave(wave).next().is_none();
        let is_proven_rest = rollout.is_last_wave(wave) && rollout.committed() > 0;
        if !committed && (failed || (deserted && !is_proven_rest)) {
            return self.pause(cx, id, Running::Soak(wave), PauseReason::WaveFailed);
        }
        if !rollout.is_last_wave(wave) && rollout.remaining().next().is_some() {
            return self.enter(cx, id, Phase::Running(Running::Verdict(wave)), "passed");
        }
        Self::pass(cx, id, RolloutState::Soak, RolloutState::Verdict, "passed");
        Self::pass(cx, id, RolloutState::Verdict, RolloutState::Finalizing, "passed");
        self.enter_from(cx, id, RolloutState::Finalizing, Phase::Committed, "passed");
    }

    /// Goes on where a pause began, with fresh periods.
    pub(super) fn resume(&mut self, cx: &mut Cx, id: RolloutId) -> Handled {
        let rollout = self.rollouts.get(&id).ok_or(ErrorCode::RolloutUnknown)?;
        let Phase::Paused { from, .. } = rollout.phase else { return Err(ErrorCode::RolloutState) };
        if rollout.failures() > rollout.policy.failure_budget {
            self.undo(cx, id, Cause::Failed);
            return Done::NOW;
        }
        self.enter(cx, id, Phase::Running(from), "resumed");
        let Some(rollout) = self.rollouts.get(&id) else { return Err(ErrorCode::RolloutUnknown) };
        if let Running::Wave(wave) = from
            && rollout.of_wave(wave).all(|(_, row)| row.is_settled())
        {
            self.enter(cx, id, Phase::Running(Running::Soak(wave)), "wave_done");
        }
        Done::NOW
    }
}
