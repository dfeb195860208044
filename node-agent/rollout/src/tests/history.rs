//! Random histories beside the model: 100,000 of them, or `OSMODA_HISTORIES`.
//!
//! After each command the answer, every rollout, every node and the deny-list
//! are what the model says, and the invariants hold. Every transition of
//! `rollout.md` 5.2 is reached at least 1,000 times per 100,000 histories. A
//! failure prints the seed of its history and its last commands.

use std::collections::BTreeMap;

use osmoda_types::command::Command;
use osmoda_types::{NodeState, RolloutState};

use super::generate::{Generator, Rng, Step};
use super::invariants::Invariants;
use super::model::{Class, Model};
use crate::mutant::{self, Mutant};
use crate::testing::{Cmd, Log, node, raft_id, rollout, target};
use crate::{FleetState, Outcome, Reply, What};

/// Histories of a full run.
const HISTORIES: u64 = 100_000;
/// How often each transition is reached in a full run, at least.
const HITS: u64 = 1_000;

fn histories() -> u64 {
    std::env::var("OSMODA_HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(HISTORIES)
}

/// One change that can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Rollout(Option<RolloutState>, RolloutState),
    Paused(&'static str),
    Node(NodeState, NodeState),
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rollout(from, to) => write!(f, "{} -> {to}", from.map_or("new", RolloutState::as_str)),
            Self::Paused(reason) => write!(f, "paused: {reason}"),
            Self::Node(from, to) => write!(f, "node {from} -> {to}"),
        }
    }
}

type Coverage = BTreeMap<Change, u64>;

struct History {
    rng: Rng,
    log: Log,
    model: Model,
    invariants: Invariants,
    serial: u64,
    position: u64,
    told: Vec<(u64, u8, Cmd, Reply)>,
}

fn class(outcome: &Outcome) -> Class {
    match (outcome.reply.refused, outcome.reply.repeated) {
        (Some(_), _) => Class::No,
        (None, true) => Class::Again,
        (None, false) => Class::Fresh,
    }
}

impl History {
    fn new(fleet: &FleetState, seed: u64) -> Self {
        Self {
            rng: Rng(seed),
            log: Log { state: fleet.clone(), requests: 1000 },
            model: Model::default(),
            invariants: Invariants::default(),
            serial: 0,
            position: 0,
            told: Vec::new(),
        }
    }

    /// Runs one history.
    fn run(&mut self, coverage: &mut Coverage) -> Result<u64, String> {
        let length = 40 + self.rng.below(41) as u64;
        for _ in 0..length {
            let Step { cmd, leader, planned } =
                Generator { rng: &mut self.rng, state: &self.log.state, serial: &mut self.serial }.step();
            self.step(&cmd, leader, planned, coverage)?;
        }
        if self.rng.percent(5) {
            let copy = FleetState::decode(&self.log.state.encode()).map_err(|error| error.to_string())?;
            if copy != self.log.state {
                return Err("a snapshot is not the state it was made of".into());
            }
        }
        Ok(length)
    }

    fn step(&mut self, cmd: &Cmd, leader: u8, planned: bool, coverage: &mut Coverage) -> Result<(), String> {
        let state = &mut self.log.state;
        // Some entries carry several commands.
        let same_entry = self.rng.percent(20);
        self.position = if same_entry { self.position + 1 } else { 0 };
        let index = state.last_index() + u64::from(!same_entry);
        let place = (index << 16) | self.position;
        let current = match cmd {
            Cmd::StateDeadline { rollout: number, state_epoch } => {
                state.rollout(&rollout(*number)).is_some_and(|it| it.state_epoch == *state_epoch)
            }
            _ => false,
        };
        let command = Command { request: self.log.request(), body: cmd.body(&self.log.state) };
        let state = &mut self.log.state;
        let outcome = state.apply(index, raft_id(leader), &command);
        self.told.push((place, leader, cmd.clone(), outcome.reply));
        let expected = self.model.take(cmd, place, leader, current);
        let got = class(&outcome);
        if got != expected {
            return Err(format!("apply says {got:?}, the model {expected:?}"));
        }
        if planned && got != Class::Fresh {
            return Err(format!("a plan was answered with {got:?}"));
        }
        check_attempt(cmd, &outcome, place)?;
        self.compare()?;
        self.invariants.check(cmd, &outcome, &self.log.state)?;
        count(&outcome, coverage);
        if self.rng.percent(3) {
            self.repeat(&command, &outcome, leader)?;
        }
        Ok(())
    }

    /// The last commands, for people.
    fn tell(&self) -> String {
        let from = self.told.len().saturating_sub(30);
        let line = |(place, leader, cmd, reply): &(u64, u8, Cmd, Reply)| {
            format!("{}.{} by {leader}: {cmd:?} -> {reply:?}", place >> 16, place & 0xffff)
        };
        self.told[from..].iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// The same request again has the same answer and no effect.
    fn repeat(&mut self, command: &Command, first: &Outcome, leader: u8) -> Result<(), String> {
        self.position += 1;
        let before = self.log.state.clone();
        let again = self.log.state.apply(before.last_index(), raft_id(leader), command);
        let same = again.reply.index == first.reply.index && again.reply.refused == first.reply.refused;
        let mut moved = before;
        moved.position = self.log.state.position;
        if !same || !again.reply.repeated || !again.events.is_empty() || moved != self.log.state {
            return Err("a repeated request had another answer or an effect".into());
        }
        Ok(())
    }

    fn compare(&self) -> Result<(), String> {
        let state = &self.log.state;
        if state.epoch().0 != self.model.epoch {
            return Err("the fleet epoch differs".into());
        }
        let mut rollouts = 0;
        for (number, word, nodes) in self.model.words() {
            rollouts += 1;
            let Some(real) = state.rollout(&rollout(number)) else { return Err(format!("no rollout {number}")) };
            if real.phase.word() != word {
                return Err(format!("rollout {number} is {}, the model says {word}", real.phase.word()));
            }
            for (who, word) in nodes {
                let real = real.rows.get(&node(who)).map(|row| row.state);
                if real != Some(word) {
                    return Err(format!("node {who} of rollout {number} is {real:?}, the model says {word}"));
                }
            }
        }
        if rollouts != state.rollouts().count() {
            return Err("rollouts are missing from the model".into());
        }
        let denied = self.model.denied.iter().all(|(who, goal)| state.denied(&target(*who, *goal)).is_some());
        if !denied || state.deny_list().count() != self.model.denied.len() {
            return Err("the deny-list differs".into());
        }
        Ok(())
    }
}

/// A grant's attempt is its place in the log.
fn check_attempt(cmd: &Cmd, outcome: &Outcome, place: u64) -> Result<(), String> {
    let granted = matches!(cmd, Cmd::Grant { .. }) && outcome.reply.refused.is_none();
    match outcome.reply.attempt {
        Some(attempt) if granted && attempt.0 == place => Ok(()),
        None if !granted => Ok(()),
        other => Err(format!("attempt {other:?} at place {place}")),
    }
}

fn count(outcome: &Outcome, coverage: &mut Coverage) {
    for event in &outcome.events {
        let change = match &event.what {
            What::Rollout { from, to, .. } => Change::Rollout(*from, *to),
            What::Node { from, to, .. } => Change::Node(*from, *to),
            _ => continue,
        };
        *coverage.entry(change).or_default() += 1;
        if matches!(change, Change::Rollout(_, RolloutState::Paused)) {
            *coverage.entry(Change::Paused(event.reason)).or_default() += 1;
        }
    }
}

/// Runs histories until one fails.
fn run_all(count: u64, coverage: &mut Coverage) -> Result<u64, String> {
    let fleet = Log::fleet().state;
    let mut commands = 0;
    for seed in 0..count {
        let mut history = History::new(&fleet, seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        match history.run(coverage) {
            Ok(length) => commands += length,
            Err(error) => {
                return Err(format!("history {seed}: {error}\n{}", history.tell()));
            }
        }
    }
    Ok(commands)
}

/// The transitions of `rollout.md` 5.2 that the log can take.
const TRANSITIONS: &[&str] = &[
    "new -> proposed",
    "proposed -> voting",
    "voting -> approved",
    "approved -> prefetch",
    "voting -> rejected",
    "voting -> expired",
    "voting -> superseded",
    "prefetch -> superseded",
    "prefetch -> wave",
    "wave -> soak",
    "soak -> verdict",
    "verdict -> wave",
    "verdict -> finalizing",
    "finalizing -> committed",
    "wave -> rolling_back",
    "soak -> rolling_back",
    "paused -> rolling_back",
    "voting -> aborting",
    "prefetch -> aborting",
    "wave -> aborting",
    "soak -> aborting",
    "verdict -> aborting",
    "paused -> aborting",
    "aborting -> rolling_back",
    "rolling_back -> rolled_back",
    "rolling_back -> rolled_back_partial",
    "prefetch -> paused",
    "wave -> paused",
    "soak -> paused",
    "verdict -> paused",
    "paused -> prefetch",
    "paused -> wave",
    "paused -> soak",
    "paused -> verdict",
    "paused: operator",
    "paused: quorum_lost",
    "paused: stalled",
    "paused: rollback_broken",
    "paused: wave_failed",
];

/// The changes of nodes that the log can record.
const NODE_TRANSITIONS: &[(NodeState, NodeState)] = &[
    (NodeState::Pending, NodeState::Staged),
    (NodeState::Pending, NodeState::Deferred),
    (NodeState::Staged, NodeState::Deferred),
    (NodeState::Deferred, NodeState::Staged),
    (NodeState::Staged, NodeState::Granted),
    (NodeState::Granted, NodeState::Accepted),
    (NodeState::Accepted, NodeState::Committed),
    (NodeState::Granted, NodeState::RolledBack),
    (NodeState::Accepted, NodeState::RolledBack),
    (NodeState::Committed, NodeState::RolledBack),
    (NodeState::Granted, NodeState::Staged),
    (NodeState::Granted, NodeState::Lost),
    (NodeState::Accepted, NodeState::Lost),
    (NodeState::Lost, NodeState::RolledBack),
    (NodeState::Lost, NodeState::Committed),
    (NodeState::Lost, NodeState::Excluded),
    (NodeState::Granted, NodeState::RollbackFailed),
    (NodeState::RollbackFailed, NodeState::RolledBack),
    (NodeState::Granted, NodeState::Quarantined),
];

#[test]
fn random_histories_agree_with_the_model() {
    let count = histories();
    let mut coverage = Coverage::new();
    let commands = run_all(count, &mut coverage).unwrap_or_else(|error| panic!("{error}"));
    assert!(commands >= 50 * count, "histories have {commands} commands; the mean must be 50");
    if count < 2_000 {
        // Too few for a statement about coverage.
        return;
    }
    let needed = HITS * count / HISTORIES;
    let coverage: BTreeMap<String, u64> = coverage.iter().map(|(change, hits)| (change.to_string(), *hits)).collect();
    let nodes = NODE_TRANSITIONS.iter().map(|(from, to)| Change::Node(*from, *to).to_string());
    let missed: Vec<String> = TRANSITIONS
        .iter()
        .map(|name| (*name).to_owned())
        .chain(nodes)
        .map(|name| (coverage.get(&name).copied().unwrap_or(0), name))
        .filter(|(hits, _)| *hits < needed)
        .map(|(hits, name)| format!("{name}: {hits}"))
        .collect();
    assert!(missed.is_empty(), "reached less than {needed} times: {missed:#?}");
}

fn check_killed(fault: Mutant) {
    mutant::set(Some(fault));
    let result = run_all(20_000, &mut Coverage::new());
    mutant::set(None);
    assert!(result.is_err(), "{fault:?} survives");
}

/// The same fault must also be found by the invariants alone.
fn check_killed_by_invariants(fault: Mutant, name: &str) {
    mutant::set(Some(fault));
    let fleet = Log::fleet().state;
    let broken = (0..20_000_u64).find_map(|seed| {
        let mut history = History::new(&fleet, seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        history.run_without_model().err()
    });
    mutant::set(None);
    let broken = broken.unwrap_or_else(|| panic!("no invariant notices {fault:?}"));
    assert!(broken.contains(name), "{fault:?} broke {broken}");
}

impl History {
    fn run_without_model(&mut self) -> Result<(), String> {
        for _ in 0..60 {
            let Step { cmd, leader, .. } =
                Generator { rng: &mut self.rng, state: &self.log.state, serial: &mut self.serial }.step();
            let command = Command { request: self.log.request(), body: cmd.body(&self.log.state) };
            let index = self.log.state.last_index() + 1;
            let outcome = self.log.state.apply(index, raft_id(leader), &command);
            self.invariants.check(&cmd, &outcome, &self.log.state)?;
        }
        Ok(())
    }
}

#[test]
fn every_seeded_mutant_is_killed_by_the_model() {
    for fault in Mutant::ALL {
        check_killed(fault);
    }
}

#[test]
fn every_seeded_mutant_breaks_its_invariant() {
    check_killed_by_invariants(Mutant::BudgetOffByOne, "I2");
    check_killed_by_invariants(Mutant::VerdictSkipped, "I13");
    check_killed_by_invariants(Mutant::SecondRollback, "I1");
    check_killed_by_invariants(Mutant::ToplevelIgnored, "I15");
    check_killed_by_invariants(Mutant::BaselineRecordedLate, "I8");
}
