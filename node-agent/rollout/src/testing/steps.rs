//! A rollout brought to a given point, and the single steps there.

use osmoda_types::command::Body;
use osmoda_types::{NodeState, Policy};

use super::ids::{node, rollout};
use super::log::Log;
use super::words::{By, Cmd, End, Said, Short};
use crate::Phase;

/// How far rollout 0 has come. Its canary is node 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Point {
    /// The fleet is there, the rollout is not.
    Begun,
    /// Proposed.
    Voting,
    /// Voted for.
    Prefetch,
    /// Every node holds its closure.
    Staged,
    /// The first wave is open, with node 3.
    Canary,
    /// Node 3 may move.
    Granted,
    /// Node 3 may keep its target.
    Accepted,
    /// Node 3 committed.
    Soak,
    /// The first wave passed.
    Verdict,
    /// The second wave is open, with everybody else.
    SecondWave,
}

impl Log {
    /// The fleet with rollout 0 of a kind of six nodes at that point.
    #[must_use]
    pub fn at(spec: u8, point: Point) -> Self {
        Self::at_with(spec, point, |_| {})
    }

    /// As [`Log::at`], with a changed policy.
    ///
    /// # Panics
    /// When the changed policy does not lead there.
    #[must_use]
    pub fn at_with(spec: u8, point: Point, change: impl FnOnce(&mut Policy)) -> Self {
        let mut log = Self::fleet();
        if point >= Point::Voting {
            let mut body = propose(0, spec, 0).body(&log.state);
            if let Body::Propose(proposal) = &mut body {
                change(&mut proposal.policy);
            }
            log.expect(body);
        }
        let steps: [(Point, Vec<Cmd>); 2] = [
            (Point::Prefetch, vec![vote(0, true), vote(1, true)]),
            (Point::Staged, (0..6).map(|who| staged(who, Said::Expected)).collect()),
        ];
        for (step, cmds) in &steps {
            if point >= *step {
                cmds.iter().for_each(|cmd| log.must(cmd));
            }
        }
        if point >= Point::Canary {
            log.must(&open(0, &[3], &[]));
        }
        if point >= Point::Granted {
            log.must(&grant(0, &[3]));
        }
        if point >= Point::Accepted {
            log.must(&log.accept(3));
        }
        if point >= Point::Soak {
            log.must(&log.report(3, End::Committed));
        }
        if point >= Point::Verdict {
            log.must(&log.due());
        }
        if point >= Point::SecondWave {
            log.must(&open(1, &[0, 1, 2, 4, 5], &[]));
        }
        log
    }

    /// A node's attempt in rollout 0, or 1.
    #[must_use]
    pub fn attempt(&self, who: u8) -> u64 {
        let row = self.state.rollout(&rollout(0)).and_then(|it| it.rows.get(&node(who)));
        row.and_then(|row| row.attempt).map_or(1, |attempt| attempt.0)
    }

    /// That a node may keep its target.
    #[must_use]
    pub fn accept(&self, who: u8) -> Cmd {
        Cmd::Accept { rollout: 0, node: who, attempt: self.attempt(who) }
    }

    /// How a node's attempt ended.
    #[must_use]
    pub fn report(&self, who: u8, end: End) -> Cmd {
        Cmd::Report { rollout: 0, node: who, attempt: self.attempt(who), end, observed_right: true }
    }

    /// That the present period of rollout 0 is over.
    #[must_use]
    pub fn due(&self) -> Cmd {
        let state_epoch = self.state.rollout(&rollout(0)).map_or(0, |it| it.state_epoch);
        Cmd::StateDeadline { rollout: 0, state_epoch }
    }

    /// Where rollout 0 is.
    ///
    /// # Panics
    /// Without that rollout or node.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.state.rollout(&rollout(0)).expect("rollout 0").phase
    }

    /// Where a node of rollout 0 is.
    ///
    /// # Panics
    /// Without that rollout or node.
    #[must_use]
    pub fn word(&self, who: u8) -> NodeState {
        self.state.rollout(&rollout(0)).expect("rollout 0").rows[&node(who)].state
    }
}

/// Proposes a rollout of a kind.
#[must_use]
pub fn propose(number: u8, spec: u8, parent: u64) -> Cmd {
    Cmd::Propose { rollout: number, spec, parent, by: By::Ann }
}

/// Votes on rollout 0.
#[must_use]
pub fn vote(voter: u8, yes: bool) -> Cmd {
    Cmd::Ballot { rollout: 0, voter, yes, forged: false }
}

/// A node of rollout 0 has its closure, or not.
#[must_use]
pub fn staged(who: u8, said: Said) -> Cmd {
    Cmd::Staged { rollout: 0, node: who, said }
}

/// Opens a wave of rollout 0.
#[must_use]
pub fn open(wave: u32, eligible: &[u8], deferred: &[u8]) -> Cmd {
    Cmd::Open { rollout: 0, wave, eligible: eligible.to_vec(), deferred: deferred.to_vec() }
}

/// Lets nodes of rollout 0 move.
#[must_use]
pub fn grant(wave: u32, nodes: &[u8]) -> Cmd {
    Cmd::Grant { rollout: 0, wave, nodes: nodes.to_vec() }
}

/// An operator's order.
#[must_use]
pub fn order(order: Short, serial: u64) -> Cmd {
    Cmd::Order { order, serial, by: By::Ann }
}
