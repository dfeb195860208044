//! The independent oracle: the rules of `rollout.md` 5.2 written a second time,
//! on small numbers, with running counters instead of recounting, and with the
//! pause as a flag beside the stage. It shares no code with `apply`.

mod attempt;
mod order;
mod proposal;
mod rollout;
mod wave;

use std::collections::{BTreeMap, BTreeSet};

use osmoda_types::{NodeState, RolloutState};

use crate::testing::Cmd;
use rollout::Rollout;

/// What the oracle says about a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// It has an effect.
    Fresh,
    /// It had its effect before.
    Again,
    /// It is refused.
    No,
}

/// The oracle's fleet.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    rollouts: BTreeMap<u8, Rollout>,
    pub(super) epoch: u64,
    serial: u64,
    frozen: BTreeSet<bool>,
    pub(super) denied: BTreeSet<(u8, u8)>,
}

impl Model {
    /// The words of every rollout and of its nodes.
    pub(super) fn words(&self) -> impl Iterator<Item = (u8, RolloutState, Vec<(u8, NodeState)>)> {
        self.rollouts.iter().map(|(number, rollout)| {
            (*number, rollout.word(), rollout.nodes.iter().map(|(who, node)| (*who, node.word)).collect())
        })
    }

    /// Takes a command that stands at `place` in the log, written by voter
    /// `leader`; `current` says whether a named state epoch is the present one.
    pub(super) fn take(&mut self, cmd: &Cmd, place: u64, leader: u8, current: bool) -> Class {
        match cmd {
            Cmd::Propose { rollout, spec, parent, by } => self.propose(*rollout, *spec, *parent, *by),
            Cmd::Ballot { rollout, voter, yes, forged } => self.vote(*rollout, *voter, *yes, *forged),
            Cmd::Staged { rollout, node, said } => self.staged(*rollout, *node, *said),
            Cmd::Open { rollout, wave, eligible, deferred } => self.open(*rollout, *wave, eligible, deferred),
            Cmd::Grant { rollout, wave, nodes } => self.grant(*rollout, *wave, nodes, place, leader),
            Cmd::Accept { rollout, node, attempt } => self.accept(*rollout, *node, *attempt),
            Cmd::Report { rollout, node, attempt, end, observed_right } => {
                self.report(*rollout, *node, *attempt, *end, *observed_right)
            }
            Cmd::StateDeadline { rollout, .. } => self.time_up(*rollout, current),
            Cmd::NodeDeadline { rollout, node, attempt } => self.silent(*rollout, *node, *attempt),
            Cmd::Hold { rollout } => self.hold(*rollout),
            Cmd::Order { order, serial, by } => self.order(*order, *serial, *by),
        }
    }

    fn is_frozen(&self, scope: &str) -> bool {
        self.frozen.contains(&true) || (scope == "a" && self.frozen.contains(&false))
    }
}
