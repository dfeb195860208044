//! Random commands: mostly what a driver, a node or an operator would do next,
//! sometimes anything at all.

use std::collections::BTreeSet;

use osmoda_types::{NodeId, NodeState, RolloutState};

use crate::testing::{By, Cmd, End, NODES, SPECS, Said, Short, VOTERS, node, raft_id};
use crate::{FleetState, Phase, Rollout, Running};

/// Most rollouts of one history.
const ROLLOUTS: u8 = 8;

/// SplitMix64: small, fast, and the same everywhere.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// True in so many of a hundred cases.
    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    fn small(&mut self, bound: u8) -> u8 {
        self.below(usize::from(bound)) as u8
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())]) }
    }
}

/// A command, who leads, and whether a plan of `view` made it.
pub(super) struct Step {
    pub(super) cmd: Cmd,
    pub(super) leader: u8,
    pub(super) planned: bool,
}

pub(super) struct Generator<'a> {
    pub(super) rng: &'a mut Rng,
    pub(super) state: &'a FleetState,
    pub(super) serial: &'a mut u64,
}

pub(super) fn number_of(rollout: &Rollout) -> u8 {
    rollout.id.as_bytes()[0]
}

fn numbers(nodes: &[NodeId]) -> Vec<u8> {
    nodes.iter().map(|node| node.as_bytes()[0]).collect()
}

impl Generator<'_> {
    pub(super) fn step(&mut self) -> Step {
        let leader = if self.rng.percent(3) { 9 } else { self.rng.small(VOTERS) };
        if self.rng.percent(10) {
            return Step { cmd: self.anything(), leader, planned: false };
        }
        let active: Vec<&Rollout> = self.state.active().collect();
        let all: Vec<&Rollout> = self.state.rollouts().collect();
        let chosen = if self.rng.percent(4) { self.rng.pick(&all) } else { self.rng.pick(&active) };
        match chosen {
            Some(rollout) if active.len() > 1 || !self.rng.percent(4) => {
                let (cmd, planned) = self.sensible(rollout, leader);
                Step { cmd, leader, planned }
            }
            _ => Step { cmd: self.propose(), leader, planned: false },
        }
    }

    fn propose(&mut self) -> Cmd {
        let used = self.state.rollouts().count() as u8;
        if let Some((path, _)) = self.state.deny_list().next()
            && self.rng.percent(20)
        {
            let mut parts = path.as_str().split('/').skip(2).filter_map(|part| part.parse().ok());
            if let (Some(who), Some(goal)) = (parts.next(), parts.next()) {
                return self.order(Short::Allow(who, goal));
            }
        }
        if self.state.is_frozen("a") && self.rng.percent(60) {
            let all = self.rng.percent(50);
            return self.order(Short::Unfreeze(all));
        }
        let number = if self.rng.percent(90) { used.min(ROLLOUTS - 1) } else { self.rng.small(ROLLOUTS) };
        let spec = self.rng.small(SPECS.len() as u8);
        let parent = self.state.epoch().0.saturating_sub(u64::from(self.rng.percent(4)));
        let by = if self.rng.percent(94) { By::Ann } else { self.by() };
        Cmd::Propose { rollout: number, spec, parent, by }
    }

    fn by(&mut self) -> By {
        [By::Ann, By::Bob, By::Eve, By::Forged][self.rng.below(4)]
    }

    fn order(&mut self, order: Short) -> Cmd {
        let old = self.rng.percent(4);
        if !old {
            *self.serial += 1;
        }
        let by = if self.rng.percent(96) { By::Ann } else { self.by() };
        Cmd::Order { order, serial: *self.serial, by }
    }

    /// Who answers now: nearly everybody.
    fn online(&mut self) -> BTreeSet<NodeId> {
        let away = if self.rng.percent(30) { self.rng.small(NODES) } else { NODES };
        (0..NODES).filter(|number| *number != away).map(node).collect()
    }

    fn sensible(&mut self, rollout: &Rollout, leader: u8) -> (Cmd, bool) {
        let number = number_of(rollout);
        if self.rng.percent(3) {
            let order = self.orders(number);
            return (self.order(order), false);
        }
        if self.rng.percent(2) {
            return (Cmd::Hold { rollout: number }, false);
        }
        let due = Cmd::StateDeadline { rollout: number, state_epoch: rollout.state_epoch };
        let roll = self.rng.below(100);
        match rollout.phase {
            Phase::Voting if roll < 4 => (due, false),
            Phase::Voting => {
                let missing = |voter: &u8| rollout.electorate.get(&node(*voter)).is_some_and(|it| it.vote.is_none());
                let waiting: Vec<u8> = (0..VOTERS).filter(missing).collect();
                let voter = self.rng.pick(&waiting).unwrap_or_else(|| self.rng.small(NODES));
                let (yes, forged) = (self.rng.percent(88), self.rng.percent(2));
                (Cmd::Ballot { rollout: number, voter, yes, forged }, false)
            }
            Phase::Running(Running::Prefetch | Running::Verdict(_)) if roll < 2 => (due, false),
            Phase::Running(Running::Prefetch | Running::Verdict(_)) => self.before_wave(rollout, leader),
            Phase::Running(Running::Wave(_)) if roll < 1 => (due, false),
            Phase::Running(Running::Wave(wave)) => self.in_wave(rollout, wave, leader),
            Phase::Running(Running::Soak(_)) if roll < 75 => (due, false),
            Phase::Running(Running::Soak(wave)) if roll < 80 => (self.too_early(rollout, wave + 1), false),
            Phase::Paused { .. } if roll < 5 => (due, false),
            Phase::Paused { .. } if roll < 50 => (self.order(Short::Resume(number)), false),
            Phase::RollingBack if roll < 5 => (due, false),
            _ => (self.report(rollout), false),
        }
    }

    fn orders(&mut self, number: u8) -> Short {
        match self.rng.below(10) {
            0..=3 => Short::Pause(number),
            4..=6 => Short::Abort(number),
            7 => Short::Exclude(number, self.rng.small(NODES)),
            8 => Short::Resume(number),
            _ => Short::Freeze(self.rng.percent(30)),
        }
    }

    fn before_wave(&mut self, rollout: &Rollout, leader: u8) -> (Cmd, bool) {
        let number = number_of(rollout);
        let online = self.online();
        if self.rng.percent(60)
            && let Some(open) = self.state.openable(&rollout.id, &online, raft_id(leader))
        {
            let (eligible, deferred) = (numbers(&open.eligible), numbers(&open.deferred));
            return (Cmd::Open { rollout: number, wave: open.wave, eligible, deferred }, true);
        }
        if self.rng.percent(8) {
            return (self.report(rollout), false);
        }
        if self.rng.percent(4) {
            let wave = self.rng.small(3).into();
            return (
                Cmd::Open { rollout: number, wave, eligible: self.some_nodes(), deferred: self.some_nodes() },
                false,
            );
        }
        let pending: Vec<u8> =
            rollout.rows.iter().filter(|(_, row)| row.recorded.is_none()).map(|(id, _)| id.as_bytes()[0]).collect();
        let who = self.rng.pick(&pending).unwrap_or_else(|| self.rng.small(NODES));
        let said = match self.rng.below(100) {
            0..=2 => Said::Other,
            3..=8 => Said::Cannot,
            _ => Said::Expected,
        };
        (Cmd::Staged { rollout: number, node: who, said }, false)
    }

    /// The next wave, by a leader that does not wait for the verdict.
    fn too_early(&mut self, rollout: &Rollout, wave: u32) -> Cmd {
        let ready = rollout.remaining().filter(|(_, row)| row.recorded.is_some());
        let mut eligible: Vec<u8> = ready.map(|(id, _)| id.as_bytes()[0]).collect();
        eligible.truncate(rollout.wave_size(wave) as usize);
        let rest = rollout.remaining().map(|(id, _)| id.as_bytes()[0]).filter(|who| !eligible.contains(who));
        let deferred = rest.collect();
        Cmd::Open { rollout: number_of(rollout), wave, eligible, deferred }
    }

    fn some_nodes(&mut self) -> Vec<u8> {
        let size = self.rng.below(4);
        (0..size).map(|_| self.rng.small(NODES + 1)).collect()
    }

    fn in_wave(&mut self, rollout: &Rollout, wave: u32, leader: u8) -> (Cmd, bool) {
        let number = number_of(rollout);
        if self.rng.percent(6) {
            return (Cmd::Grant { rollout: number, wave, nodes: self.some_nodes() }, false);
        }
        let mut online = self.online();
        let waiting = rollout.of_wave(wave).filter(|(_, row)| row.state == NodeState::Staged);
        let waiting: Vec<u8> = waiting.map(|(id, _)| id.as_bytes()[0]).collect();
        if self.rng.percent(5) && !waiting.is_empty() {
            // As many as there are, whatever the budget says.
            return (Cmd::Grant { rollout: number, wave, nodes: waiting }, false);
        }
        if self.rng.percent(45) {
            if self.rng.percent(50) {
                online = (0..NODES).map(node).collect();
            }
            let nodes = self.state.grantable(&rollout.id, &online, raft_id(leader));
            if !nodes.is_empty() {
                return (Cmd::Grant { rollout: number, wave, nodes: numbers(&nodes) }, true);
            }
        }
        (self.report(rollout), false)
    }

    /// Something about a node that moved.
    fn report(&mut self, rollout: &Rollout) -> Cmd {
        let number = number_of(rollout);
        let undoing = rollout.phase.is_undoing();
        let moving = |word: NodeState| {
            let settled = matches!(word, NodeState::RolledBack | NodeState::Excluded);
            !settled && (undoing || word != NodeState::Committed)
        };
        let late = self.rng.percent(12);
        let rows: Vec<(u8, NodeState, u64)> = rollout
            .rows
            .iter()
            .filter_map(|(id, row)| Some((id.as_bytes()[0], row.state, row.attempt?.0)))
            .filter(|(_, word, _)| late || moving(*word))
            .collect();
        let Some((who, word, attempt)) = self.rng.pick(&rows) else {
            let said = Said::Expected;
            return Cmd::Staged { rollout: number, node: self.rng.small(NODES), said };
        };
        if self.rng.percent(5) && matches!(word, NodeState::Granted | NodeState::Accepted) {
            return Cmd::NodeDeadline { rollout: number, node: who, attempt };
        }
        if word == NodeState::Lost && self.rng.percent(5) {
            return self.order(Short::Exclude(number, who));
        }
        let live = matches!(rollout.phase.word(), RolloutState::Wave | RolloutState::Paused);
        let excused = rollout.rows.get(&node(who)).is_some_and(|row| row.excused);
        if excused && self.rng.percent(60) {
            return Cmd::Report { rollout: number, node: who, attempt, end: End::CutOff, observed_right: true };
        }
        if word == NodeState::Granted && live && self.rng.percent(78) {
            return Cmd::Accept { rollout: number, node: who, attempt };
        }
        let good = if word == NodeState::Accepted { 85 } else { 30 };
        let end = match self.rng.below(100) {
            roll if !undoing && roll < good => End::Committed,
            roll if roll < 94 => [End::RolledBack, End::CutOff, End::Busy][roll % 3],
            94..=96 => End::RollbackFailed,
            _ => End::Quarantined,
        };
        let observed_right = !self.rng.percent(4);
        Cmd::Report { rollout: number, node: who, attempt, end, observed_right }
    }

    /// A command made without looking.
    fn anything(&mut self) -> Cmd {
        let number = self.rng.small(ROLLOUTS);
        let node = self.rng.small(NODES + 1);
        let attempts = self.state.last_index() << 16;
        let attempt = (self.rng.next() % (attempts + 1)) & !0xffff;
        match self.rng.below(12) {
            0 => self.propose(),
            1 => Cmd::Ballot { rollout: number, voter: node, yes: self.rng.percent(50), forged: self.rng.percent(20) },
            2 => Cmd::Staged {
                rollout: number,
                node,
                said: [Said::Expected, Said::Other, Said::Cannot][self.rng.below(3)],
            },
            3 => Cmd::Open {
                rollout: number,
                wave: self.rng.small(4).into(),
                eligible: self.some_nodes(),
                deferred: self.some_nodes(),
            },
            4 => Cmd::Grant { rollout: number, wave: self.rng.small(4).into(), nodes: self.some_nodes() },
            5 => Cmd::Accept { rollout: number, node, attempt },
            6 => {
                let back = [End::RolledBack, End::CutOff, End::Busy];
                let ends = [&[End::Committed, End::RollbackFailed, End::Quarantined], &back[..]].concat();
                let end = ends[self.rng.below(6)];
                Cmd::Report { rollout: number, node, attempt, end, observed_right: self.rng.percent(50) }
            }
            7 => Cmd::StateDeadline { rollout: number, state_epoch: self.rng.next() % 40 },
            8 => Cmd::NodeDeadline { rollout: number, node, attempt },
            9 => Cmd::Hold { rollout: number },
            10 => {
                let order = self.orders(number);
                self.order(order)
            }
            _ => {
                let (all, goal) = (self.rng.percent(50), self.rng.small(9));
                let order = if self.rng.percent(50) { Short::Unfreeze(all) } else { Short::Allow(node, goal) };
                self.order(order)
            }
        }
    }
}
