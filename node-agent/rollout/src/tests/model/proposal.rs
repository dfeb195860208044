//! Before anything moves: the proposal, the votes, the closures.

use std::collections::BTreeMap;

use osmoda_types::{NodeState, RolloutState};

use super::Class::{self, Again, Fresh, No};
use super::Model;
use super::rollout::{Node, Rollout, Stage};
use crate::testing::{By, NODES, SPECS, Said, VOTERS};

impl Model {
    pub(super) fn propose(&mut self, number: u8, spec: u8, parent: u64, by: By) -> Class {
        if let Some(known) = self.rollouts.get(&number) {
            return if known.spec == spec && known.epoch == parent + 1 { Again } else { No };
        }
        let wanted = &SPECS[usize::from(spec)];
        let old = wanted.supersedes;
        let replaceable =
            |rollout: &Rollout| rollout.paused.is_none() && matches!(rollout.stage, Stage::Voting | Stage::Prefetch);
        if by != By::Ann
            || parent != self.epoch
            || self.is_frozen(wanted.scope)
            || wanted.rows.iter().any(|(who, goal)| *who >= NODES || self.denied.contains(&(*who, *goal)))
            || wanted.threshold.is_some_and(|threshold| threshold > u32::from(VOTERS))
            || old.is_some_and(|old| !self.rollouts.get(&old).is_some_and(replaceable))
        {
            return No;
        }
        for (other, rollout) in &self.rollouts {
            let meets = rollout.spec().scope == wanted.scope
                || wanted.rows.iter().any(|(who, _)| rollout.nodes.contains_key(who));
            if !rollout.over() && meets && Some(*other) != old {
                return No;
            }
        }
        if let Some(old) = old.and_then(|old| self.rollouts.get_mut(&old)) {
            old.stage = Stage::Over(RolloutState::Superseded);
        }
        self.epoch += 1;
        let node = |goal: u8| Node {
            word: NodeState::Pending,
            goal,
            recorded: false,
            cannot: false,
            attempt: 0,
            accepted: false,
            wave: None,
            excused: false,
        };
        let rollout = Rollout {
            spec,
            epoch: self.epoch,
            stage: Stage::Voting,
            wave: 0,
            paused: None,
            votes: BTreeMap::new(),
            nodes: wanted.rows.iter().map(|(who, goal)| (*who, node(*goal))).collect(),
            charged: 0,
            flying: 0,
            failed: 0,
        };
        self.rollouts.insert(number, rollout);
        Fresh
    }

    pub(super) fn vote(&mut self, number: u8, voter: u8, yes: bool, forged: bool) -> Class {
        let Some(rollout) = self.rollouts.get_mut(&number) else { return No };
        if voter >= VOTERS {
            return No;
        }
        match rollout.votes.get(&voter) {
            Some(before) if *before == yes => return Again,
            Some(_) => return No,
            None => {}
        }
        if rollout.stage != Stage::Voting || forged {
            return No;
        }
        rollout.votes.insert(voter, yes);
        let needed = rollout.spec().threshold.unwrap_or(2) as usize;
        let yeses = rollout.votes.values().filter(|yes| **yes).count();
        let noes = rollout.votes.len() - yeses;
        if yeses >= needed {
            rollout.stage = Stage::Prefetch;
        } else if usize::from(VOTERS) - noes < needed {
            rollout.stage = Stage::Over(RolloutState::Rejected);
        }
        Fresh
    }

    pub(super) fn staged(&mut self, number: u8, who: u8, said: Said) -> Class {
        let Some(rollout) = self.rollouts.get_mut(&number) else { return No };
        let live = rollout.live();
        let Some(node) = rollout.nodes.get_mut(&who) else { return No };
        if said == Said::Expected && node.recorded {
            return Again;
        }
        if said == Said::Cannot && node.cannot && node.word == NodeState::Pending {
            return Again;
        }
        if !live || node.recorded || !node.free() || said == Said::Other {
            return No;
        }
        node.cannot = said == Said::Cannot;
        if said == Said::Expected {
            node.recorded = true;
            rollout.mark(who, NodeState::Staged);
        }
        Fresh
    }
}
