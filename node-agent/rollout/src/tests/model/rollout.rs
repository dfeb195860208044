//! A rollout of the oracle: its stage, its nodes, and the running counters.

use std::collections::BTreeMap;

use osmoda_types::{NodeState, RolloutState, Wave};

use crate::testing::{SPECS, Spec};

pub(super) const CHARGED: [NodeState; 3] = [NodeState::Granted, NodeState::Accepted, NodeState::Lost];
pub(super) const FLYING: [NodeState; 2] = [NodeState::Granted, NodeState::Accepted];
pub(super) const FAILED: [NodeState; 4] =
    [NodeState::RolledBack, NodeState::RollbackFailed, NodeState::Quarantined, NodeState::Lost];
pub(super) const AWAY: [NodeState; 5] =
    [NodeState::Granted, NodeState::Accepted, NodeState::Committed, NodeState::Lost, NodeState::RollbackFailed];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Voting,
    Prefetch,
    Wave,
    Soak,
    Passed,
    Undoing,
    Over(RolloutState),
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) word: NodeState,
    pub(super) goal: u8,
    pub(super) recorded: bool,
    pub(super) cannot: bool,
    pub(super) attempt: u64,
    pub(super) accepted: bool,
    pub(super) wave: Option<u32>,
    pub(super) excused: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Rollout {
    pub(super) spec: u8,
    pub(super) epoch: u64,
    pub(super) stage: Stage,
    pub(super) wave: u32,
    /// The reason, while it waits.
    pub(super) paused: Option<&'static str>,
    pub(super) votes: BTreeMap<u8, bool>,
    pub(super) nodes: BTreeMap<u8, Node>,
    pub(super) charged: u32,
    pub(super) flying: u32,
    pub(super) failed: u32,
}

impl Node {
    pub(super) fn free(&self) -> bool {
        self.wave.is_none() && [NodeState::Pending, NodeState::Staged, NodeState::Deferred].contains(&self.word)
    }
}

impl Rollout {
    pub(super) fn spec(&self) -> &'static Spec {
        &SPECS[usize::from(self.spec)]
    }

    pub(super) fn live(&self) -> bool {
        matches!(self.stage, Stage::Prefetch | Stage::Wave | Stage::Soak | Stage::Passed)
    }

    pub(super) fn over(&self) -> bool {
        matches!(self.stage, Stage::Over(_))
    }

    /// Being undone, or undone.
    pub(super) fn backwards(&self) -> bool {
        use RolloutState::{RolledBack, RolledBackPartial};
        matches!(self.stage, Stage::Undoing | Stage::Over(RolledBack | RolledBackPartial))
    }

    pub(super) fn mark(&mut self, who: u8, word: NodeState) {
        let node = self.nodes.get_mut(&who).expect("a node of the rollout");
        let old = std::mem::replace(&mut node.word, word);
        let counters =
            [(&CHARGED[..], &mut self.charged), (&FLYING[..], &mut self.flying), (&FAILED[..], &mut self.failed)];
        for (set, counter) in counters {
            if set.contains(&old) {
                *counter -= 1;
            }
            if set.contains(&word) {
                *counter += 1;
            }
        }
    }

    pub(super) fn last(&self, wave: u32) -> bool {
        wave as usize == self.spec().waves.len() - 1
    }

    pub(super) fn room(&self, wave: u32) -> u32 {
        let all = self.nodes.len() as u32;
        let used = self.nodes.values().filter(|node| node.wave.is_some()).count() as u32;
        if self.last(wave) {
            return all - used;
        }
        match self.spec().waves[wave as usize] {
            Wave::Count(count) => count.min(all - used),
            Wave::Percent(percent) => {
                let share = (all * u32::from(percent)).div_ceil(100);
                if share > used { share - used } else { 1.min(all - used) }
            }
        }
    }

    /// Everything of the present wave has ended.
    pub(super) fn wave_over(&self) -> bool {
        let open = [NodeState::Pending, NodeState::Staged, NodeState::Granted, NodeState::Accepted];
        !self.nodes.values().any(|node| node.wave == Some(self.wave) && open.contains(&node.word))
    }

    pub(super) fn undo(&mut self) {
        self.stage = Stage::Undoing;
        self.paused = None;
        self.undone(false);
    }

    pub(super) fn undone(&mut self, late: bool) {
        let away = self.nodes.values().any(|node| AWAY.contains(&node.word));
        if away && !late {
            return;
        }
        let given_up = |node: &Node| {
            node.word == NodeState::Quarantined || (node.word == NodeState::Excluded && node.attempt != 0)
        };
        let partial = away || self.nodes.values().any(given_up);
        self.stage = Stage::Over(if partial { RolloutState::RolledBackPartial } else { RolloutState::RolledBack });
    }

    pub(super) fn word(&self) -> RolloutState {
        if self.paused.is_some() {
            return RolloutState::Paused;
        }
        match self.stage {
            Stage::Voting => RolloutState::Voting,
            Stage::Prefetch => RolloutState::Prefetch,
            Stage::Wave => RolloutState::Wave,
            Stage::Soak => RolloutState::Soak,
            Stage::Passed => RolloutState::Verdict,
            Stage::Undoing => RolloutState::RollingBack,
            Stage::Over(word) => word,
        }
    }
}
