//! Periods that are over, a quorum that was away, and operators' orders.

use osmoda_types::{NodeState, RolloutState};

use super::Class::{self, Again, Fresh, No};
use super::Model;
use super::rollout::{CHARGED, FAILED, Node, Stage};
use crate::testing::{By, Short};

impl Model {
    pub(super) fn time_up(&mut self, number: u8, current: bool) -> Class {
        let Some(rollout) = self.rollouts.get_mut(&number) else { return No };
        if !current || rollout.over() {
            return No;
        }
        if rollout.paused.is_some() {
            rollout.undo();
            return Fresh;
        }
        match rollout.stage {
            Stage::Voting => rollout.stage = Stage::Over(RolloutState::Expired),
            Stage::Prefetch | Stage::Wave | Stage::Passed => rollout.paused = Some("stalled"),
            Stage::Undoing => rollout.undone(true),
            Stage::Over(_) => return No,
            Stage::Soak => {
                let of_wave = |set: &[NodeState]| {
                    rollout.nodes.values().any(|node| node.wave == Some(rollout.wave) && set.contains(&node.word))
                };
                let nobody = !rollout.nodes.values().any(|node| node.wave == Some(rollout.wave));
                let any_proof = rollout.nodes.values().any(|node| node.word == NodeState::Committed);
                let unproven = nobody && !(any_proof && rollout.last(rollout.wave));
                if unproven || of_wave(&FAILED) && !of_wave(&[NodeState::Committed]) {
                    rollout.paused = Some("wave_failed");
                } else if rollout.last(rollout.wave) || !rollout.nodes.values().any(Node::free) {
                    rollout.stage = Stage::Over(RolloutState::Committed);
                } else {
                    rollout.stage = Stage::Passed;
                }
            }
        }
        Fresh
    }

    pub(super) fn hold(&mut self, number: u8) -> Class {
        let Some(rollout) = self.rollouts.get_mut(&number) else { return No };
        if !rollout.live() {
            return No;
        }
        let mut effect = false;
        for node in rollout.nodes.values_mut() {
            if CHARGED.contains(&node.word) && !node.excused {
                node.excused = true;
                effect = true;
            }
        }
        match rollout.paused {
            Some("quorum_lost") => {}
            None if rollout.spec().auto_resume => {}
            Some(_) | None => {
                rollout.paused = Some("quorum_lost");
                effect = true;
            }
        }
        if effect { Fresh } else { Again }
    }

    pub(super) fn order(&mut self, order: Short, serial: u64, by: By) -> Class {
        if by != By::Ann || serial <= self.serial {
            return No;
        }
        let class = self.obey(order);
        if class != No {
            self.serial = serial;
        }
        class
    }

    fn obey(&mut self, order: Short) -> Class {
        match order {
            Short::Freeze(all) => return if self.frozen.insert(all) { Fresh } else { Again },
            Short::Unfreeze(all) => return if self.frozen.remove(&all) { Fresh } else { No },
            Short::Allow(who, goal) => return if self.denied.remove(&(who, goal)) { Fresh } else { No },
            Short::Exclude(number, who) => return self.exclude(number, who),
            Short::Pause(_) | Short::Resume(_) | Short::Abort(_) => {}
        }
        let (Short::Pause(number) | Short::Resume(number) | Short::Abort(number)) = order else { return No };
        let Some(rollout) = self.rollouts.get_mut(&number) else { return No };
        match order {
            Short::Pause(_) if rollout.live() && rollout.paused.is_some() => Again,
            Short::Pause(_) if rollout.live() => {
                rollout.paused = Some("operator");
                Fresh
            }
            Short::Resume(_) if rollout.paused.is_some() => {
                rollout.paused = None;
                self.go_on(number);
                Fresh
            }
            Short::Abort(_) if rollout.stage == Stage::Undoing => Again,
            Short::Abort(_) if !rollout.over() => {
                rollout.undo();
                Fresh
            }
            _ => No,
        }
    }

    fn exclude(&mut self, number: u8, who: u8) -> Class {
        let Some(rollout) = self.rollouts.get_mut(&number) else { return No };
        let backwards = rollout.backwards();
        let Some(node) = rollout.nodes.get(&who) else { return No };
        match node.word {
            NodeState::Excluded => Again,
            NodeState::RolledBack => No,
            NodeState::Committed if !backwards => No,
            _ => {
                rollout.mark(who, NodeState::Excluded);
                self.go_on(number);
                Fresh
            }
        }
    }
}
