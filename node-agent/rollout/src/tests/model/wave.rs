//! Waves: which open, who may move, and what is at risk meanwhile.

use std::collections::BTreeSet;

use osmoda_types::NodeState;

use super::Class::{self, Again, Fresh, No};
use super::Model;
use super::rollout::{AWAY, CHARGED, Stage};
use crate::testing::VOTERS;

impl Model {
    pub(super) fn open(&mut self, number: u8, wave: u32, eligible: &[u8], deferred: &[u8]) -> Class {
        let Some(rollout) = self.rollouts.get_mut(&number) else { return No };
        if rollout.paused.is_some() {
            return No;
        }
        let members: Vec<u8> =
            rollout.nodes.iter().filter(|(_, node)| node.wave == Some(wave)).map(|(who, _)| *who).collect();
        if rollout.stage == Stage::Wave && rollout.wave == wave && members == eligible {
            return Again;
        }
        let next = match rollout.stage {
            Stage::Prefetch => 0,
            Stage::Passed => rollout.wave + 1,
            _ => return No,
        };
        let named: Vec<u8> = eligible.iter().chain(deferred).copied().collect();
        let distinct: BTreeSet<u8> = named.iter().copied().collect();
        let free: BTreeSet<u8> = rollout.nodes.iter().filter(|(_, node)| node.free()).map(|(who, _)| *who).collect();
        let last = rollout.last(wave);
        let proven = rollout.nodes.values().any(|node| node.word == NodeState::Committed);
        if wave != next
            || distinct.len() != named.len()
            || !distinct.is_subset(&free)
            || eligible.iter().any(|who| !rollout.nodes[who].recorded)
            || eligible.len() as u32 > rollout.room(wave)
            || (last && distinct != free)
            || (eligible.is_empty() && !(last && proven))
        {
            return No;
        }
        for who in eligible {
            rollout.nodes.get_mut(who).expect("checked").wave = Some(wave);
            rollout.mark(*who, NodeState::Staged);
        }
        for who in deferred {
            rollout.mark(*who, NodeState::Deferred);
        }
        rollout.stage = Stage::Wave;
        rollout.wave = wave;
        self.go_on(number);
        Fresh
    }

    pub(super) fn grant(&mut self, number: u8, wave: u32, nodes: &[u8], place: u64, leader: u8) -> Class {
        let Some(rollout) = self.rollouts.get(&number) else { return No };
        let size = nodes.len() as u32;
        let distinct: BTreeSet<u8> = nodes.iter().copied().collect();
        let spec = rollout.spec();
        if rollout.paused.is_some()
            || rollout.stage != Stage::Wave
            || rollout.wave != wave
            || self.is_frozen(spec.scope)
            || size == 0
            || distinct.len() != nodes.len()
            || rollout.charged + size > spec.max_unavailable
            || spec.max_parallel.is_some_and(|most| rollout.flying + size > most)
        {
            return No;
        }
        for who in nodes {
            let Some(node) = rollout.nodes.get(who) else { return No };
            let waits = node.wave == Some(wave) && node.word == NodeState::Staged && node.recorded;
            if !waits || self.denied.contains(&(*who, node.goal)) || self.held(*who, number) {
                return No;
            }
        }
        let voters = distinct.iter().filter(|who| **who < VOTERS).count();
        if voters > 0 {
            let risky = (0..VOTERS).filter(|who| self.at_risk(*who)).count();
            if risky + voters > 1 || leader >= VOTERS || distinct.contains(&leader) {
                return No;
            }
        }
        let rollout = self.rollouts.get_mut(&number).expect("found above");
        for who in nodes {
            rollout.mark(*who, NodeState::Granted);
            let node = rollout.nodes.get_mut(who).expect("found above");
            (node.attempt, node.accepted, node.excused) = (place, false, false);
        }
        Fresh
    }

    fn at_risk(&self, who: u8) -> bool {
        self.rollouts.values().any(|rollout| rollout.nodes.get(&who).is_some_and(|node| CHARGED.contains(&node.word)))
    }

    /// Another rollout has the node in flight, lost it, or wants it back.
    fn held(&self, who: u8, here: u8) -> bool {
        self.rollouts.iter().any(|(number, rollout)| {
            *number != here
                && rollout.nodes.get(&who).is_some_and(|node| {
                    CHARGED.contains(&node.word) || (rollout.backwards() && AWAY.contains(&node.word))
                })
        })
    }
}
