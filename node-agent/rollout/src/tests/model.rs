//! The independent oracle: the rules of `rollout.md` 5.2 written a second time,
//! on small numbers, with running counters instead of recounting, and with the
//! pause as a flag beside the stage. It shares no code with `apply`.

use std::collections::{BTreeMap, BTreeSet};

use osmoda_types::{NodeState, RolloutState, Wave};

use crate::testing::{By, Cmd, End, NODES, SPECS, Said, Short, Spec, VOTERS};

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

use Class::{Again, Fresh, No};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Voting,
    Prefetch,
    Wave,
    Soak,
    Passed,
    Undoing,
    Over(RolloutState),
}

#[derive(Debug, Clone)]
struct Node {
    word: NodeState,
    goal: u8,
    recorded: bool,
    cannot: bool,
    attempt: u64,
    accepted: bool,
    wave: Option<u32>,
    excused: bool,
}

#[derive(Debug, Clone)]
struct Rollout {
    spec: u8,
    epoch: u64,
    stage: Stage,
    wave: u32,
    /// The reason, while it waits.
    paused: Option<&'static str>,
    votes: BTreeMap<u8, bool>,
    nodes: BTreeMap<u8, Node>,
    charged: u32,
    flying: u32,
    failed: u32,
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

const CHARGED: [NodeState; 3] = [NodeState::Granted, NodeState::Accepted, NodeState::Lost];
const FLYING: [NodeState; 2] = [NodeState::Granted, NodeState::Accepted];
const FAILED: [NodeState; 4] =
    [NodeState::RolledBack, NodeState::RollbackFailed, NodeState::Quarantined, NodeState::Lost];
const AWAY: [NodeState; 5] =
    [NodeState::Granted, NodeState::Accepted, NodeState::Committed, NodeState::Lost, NodeState::RollbackFailed];

impl Node {
    fn free(&self) -> bool {
        self.wave.is_none() && [NodeState::Pending, NodeState::Staged, NodeState::Deferred].contains(&self.word)
    }
}

impl Rollout {
    fn spec(&self) -> &'static Spec {
        &SPECS[usize::from(self.spec)]
    }

    fn live(&self) -> bool {
        matches!(self.stage, Stage::Prefetch | Stage::Wave | Stage::Soak | Stage::Passed)
    }

    fn over(&self) -> bool {
        matches!(self.stage, Stage::Over(_))
    }

    /// Being undone, or undone.
    fn backwards(&self) -> bool {
        use RolloutState::{RolledBack, RolledBackPartial};
        matches!(self.stage, Stage::Undoing | Stage::Over(RolledBack | RolledBackPartial))
    }

    fn mark(&mut self, who: u8, word: NodeState) {
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

    fn last(&self, wave: u32) -> bool {
        wave as usize == self.spec().waves.len() - 1
    }

    fn room(&self, wave: u32) -> u32 {
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
    fn wave_over(&self) -> bool {
        let open = [NodeState::Pending, NodeState::Staged, NodeState::Granted, NodeState::Accepted];
        !self.nodes.values().any(|node| node.wave == Some(self.wave) && open.contains(&node.word))
    }

    fn undo(&mut self) {
        self.stage = Stage::Undoing;
        self.paused = None;
        self.undone(false);
    }

    fn undone(&mut self, late: bool) {
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

    fn word(&self) -> RolloutState {
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

    fn propose(&mut self, number: u8, spec: u8, parent: u64, by: By) -> Class {
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

    fn vote(&mut self, number: u8, voter: u8, yes: bool, forged: bool) -> Class {
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

    fn staged(&mut self, number: u8, who: u8, said: Said) -> Class {
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

    fn open(&mut self, number: u8, wave: u32, eligible: &[u8], deferred: &[u8]) -> Class {
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

    fn grant(&mut self, number: u8, wave: u32, nodes: &[u8], place: u64, leader: u8) -> Class {
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

    fn accept(&mut self, number: u8, who: u8, attempt: u64) -> Class {
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

    fn report(&mut self, number: u8, who: u8, attempt: u64, end: End, right: bool) -> Class {
        let Some(rollout) = self.rollouts.get_mut(&number) else { return No };
        let (live, wave, stage) = (rollout.live(), rollout.wave, rollout.stage);
        let Some(node) = rollout.nodes.get_mut(&who) else { return No };
        if node.attempt == 0 || node.attempt != attempt {
            return No;
        }
        let word = match end {
            End::Committed => NodeState::Committed,
            End::RolledBack | End::CutOff => NodeState::RolledBack,
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
            (End::RolledBack | End::CutOff, NodeState::Quarantined) => right,
            (End::RolledBack | End::CutOff, from) => right && AWAY.contains(&from),
            (End::RollbackFailed, from) => AWAY.contains(&from),
            (End::Quarantined, from) => AWAY.contains(&from),
        };
        if !possible || finished {
            return No;
        }
        let cut_off_by_us = end == End::CutOff && node.excused && live;
        if cut_off_by_us && node.wave == Some(wave) && stage == Stage::Wave {
            rollout.mark(who, NodeState::Staged);
        } else if cut_off_by_us {
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

    /// What follows by itself from a change of nodes.
    fn go_on(&mut self, number: u8) {
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

    fn time_up(&mut self, number: u8, current: bool) -> Class {
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
                if of_wave(&FAILED) && !of_wave(&[NodeState::Committed]) {
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

    fn silent(&mut self, number: u8, who: u8, attempt: u64) -> Class {
        let Some(rollout) = self.rollouts.get_mut(&number) else { return No };
        let Some(node) = rollout.nodes.get(&who) else { return No };
        if node.attempt != attempt || attempt == 0 || !FLYING.contains(&node.word) {
            return No;
        }
        rollout.mark(who, NodeState::Lost);
        self.go_on(number);
        Fresh
    }

    fn hold(&mut self, number: u8) -> Class {
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

    fn order(&mut self, order: Short, serial: u64, by: By) -> Class {
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
