//! Attempts of nodes, how they end, and what follows from it.

use osmoda_types::{NodeState, RolloutState};

use super::Class::{self, Again, Fresh, No};
use super::Model;
use super::rollout::{AWAY, FLYING, Stage};
use crate::testing::End;

impl Model {
    pub(super) fn accept(&mut self, number: u8, who: u8, attempt: u64) -> Class {
        let Some(rollout) = self.rollouts.get_mut(&number) else { return No };
        let live = rollout.live();
        let Some(node) = rollout.nodes.get_mut(&who) else { return No };
        if node.attempt == 0 || node.attempt != attempt {
            return No;
        }
        if node.accepted && matches!(node.word, NodeState::Accepted | NodeState::Committed) {
            return Again;
        }
        if !live || node.word != NodeState::Granted || self.denied.contains(&(who, node.goal)) {
            return No;
        }
        node.accepted = true;
        rollout.mark(who, NodeState::Accepted);
        Fresh
    }

    pub(super) fn report(&mut self, number: u8, who: u8, attempt: u64, end: End, right: bool) -> Class {
        let Some(rollout) = self.rollouts.get_mut(&number) else { return No };
        let (live, wave, stage) = (rollout.live(), rollout.wave, rollout.stage);
        let Some(node) = rollout.nodes.get_mut(&who) else { return No };
        if node.attempt == 0 || node.attempt != attempt {
            return No;
        }
        let word = match end {
            End::Committed => NodeState::Committed,
            End::RolledBack | End::CutOff | End::Busy => NodeState::RolledBack,
            End::RollbackFailed => NodeState::RollbackFailed,
            End::Quarantined => NodeState::Quarantined,
        };
        if node.word == word {
            return Again;
        }
        let finished = node.word == NodeState::Committed && stage == Stage::Over(RolloutState::Committed);
        let possible = match (end, node.word) {
            (End::Committed, NodeState::Accepted) => right,
            (End::Committed, NodeState::Lost) => right && node.accepted,
            (End::Committed, _) => false,
            (End::RolledBack | End::CutOff | End::Busy, NodeState::Quarantined) => right,
            (End::RolledBack | End::CutOff | End::Busy, from) => right && AWAY.contains(&from),
            (End::RollbackFailed, from) => AWAY.contains(&from),
            (End::Quarantined, from) => AWAY.contains(&from),
        };
        if !possible || finished {
            return No;
        }
        let forgiven = match end {
            End::CutOff => node.excused && live,
            End::Busy => node.word == NodeState::Granted && live,
            _ => false,
        };
        if forgiven && node.wave == Some(wave) && stage == Stage::Wave {
            rollout.mark(who, NodeState::Staged);
        } else if forgiven {
            node.wave = None;
            rollout.mark(who, NodeState::Deferred);
        } else {
            rollout.mark(who, word);
        }
        self.go_on(number);
        let rollout = self.rollouts.get_mut(&number).expect("found above");
        let broken = matches!(end, End::RollbackFailed | End::Quarantined);
        if broken && rollout.live() && rollout.paused.is_none() {
            rollout.paused = Some("rollback_broken");
        }
        Fresh
    }

    pub(super) fn silent(&mut self, number: u8, who: u8, attempt: u64) -> Class {
        let Some(rollout) = self.rollouts.get_mut(&number) else { return No };
        let Some(node) = rollout.nodes.get(&who) else { return No };
        if node.attempt != attempt || attempt == 0 || !FLYING.contains(&node.word) {
            return No;
        }
        rollout.mark(who, NodeState::Lost);
        self.go_on(number);
        Fresh
    }

    /// What follows by itself from a change of nodes.
    pub(super) fn go_on(&mut self, number: u8) {
        let rollout = self.rollouts.get_mut(&number).expect("it was changed");
        if rollout.stage == Stage::Undoing {
            rollout.undone(false);
        } else if rollout.live() && rollout.paused.is_none() {
            if rollout.failed > rollout.spec().failure_budget {
                self.fail(number);
            } else if rollout.stage == Stage::Wave && rollout.wave_over() {
                rollout.stage = Stage::Soak;
            }
        }
    }

    fn fail(&mut self, number: u8) {
        let rollout = self.rollouts.get_mut(&number).expect("it failed");
        self.denied.extend(rollout.nodes.iter().map(|(who, node)| (*who, node.goal)));
        rollout.undo();
    }
}
