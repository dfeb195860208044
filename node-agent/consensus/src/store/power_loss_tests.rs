//! Power loss at every kind of moment, against a model.
//!
//! A seeded script of votes, appends, truncations and purges runs until a sync
//! fails; the disk then keeps any part of what was not synced. Afterwards the
//! log must be the model after the last acknowledged operation, or after the
//! one that was in flight: nothing acknowledged is lost, nothing is half done.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::LeaderId;
use openraft::testing::blank_ent;

use super::disk::{Dice, Disk};
use super::engine::Change;
use super::*;

/// Scripts per test run; `OSMODA_SCRIPTS` asks for more.
const SCRIPTS: u64 = 300;

/// Operations per script.
const STEPS: u64 = 24;

#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
enum Step {
    Vote(Vote),
    Append(Vec<Entry>),
    Truncate(u64),
    Purge(LogId),
}

impl Model {
    fn next_index(&self) -> u64 {
        let last = self.entries.last_key_value().map(|(index, _)| *index);
        last.or(self.purged.map(|id| id.index)).map_or(0, |index| index + 1)
    }

    /// A legal next step.
    fn choose(&self, term: u64, dice: &mut Dice) -> Step {
        let first = self.entries.first_key_value().map(|(index, _)| *index);
        match (dice.below(10), first) {
            (0, _) => Step::Vote(Vote::new(term, dice.below(3))),
            (1, Some(first)) => Step::Truncate(first + dice.below(self.entries.len() as u64)),
            (2, Some(first)) => {
                let upto = first + dice.below(self.entries.len() as u64);
                Step::Purge(LogId::new(LeaderId::new(term, 1), upto))
            }
            _ => {
                let next = self.next_index();
                Step::Append((next..=next + dice.below(20)).map(|index| blank_ent(term, 1, index)).collect())
            }
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Vote(vote) => self.vote = Some(*vote),
            Step::Append(entries) => self.entries.extend(entries.iter().map(|e| (e.log_id.index, e.clone()))),
            Step::Truncate(from) => drop(self.entries.split_off(from)),
            Step::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = Some(*upto);
            }
        }
    }
}

impl Step {
    fn change(&self) -> Change<'_> {
        match self {
            Step::Vote(vote) => Change::Vote(*vote),
            Step::Append(entries) => Change::Append(entries),
            Step::Truncate(from) => Change::Truncate(*from),
            Step::Purge(upto) => Change::Purge(*upto),
        }
    }
}

fn read_back(disk: &Disk) -> Result<Model, StoreFault> {
    let (engine, loaded) = Engine::open_backend(disk.clone(), 1, Arc::default())?;
    let entries = engine.read(0..u64::MAX, usize::MAX)?;
    assert_eq!(loaded.last, entries.last().map(|entry| entry.log_id));
    let entries = entries.into_iter().map(|entry| (entry.log_id.index, entry)).collect();
    Ok(Model { vote: loaded.vote, purged: loaded.purged, entries })
}

fn run_script(seed: u64) {
    let mut dice = Dice::new(seed);
    let mut disk = Disk::default();
    let mut model = Model::default();
    // Two lives: the second one starts on what the first power loss left.
    for life in 1..=2 {
        let (engine, _) = Engine::open_backend(disk.clone(), 1, Arc::default()).expect("opens with power on");
        disk.fail_at_sync(dice.below(2 * STEPS));
        let mut in_flight = model.clone();
        for _ in 0..STEPS {
            let step = model.choose(life, &mut dice);
            in_flight.apply(&step);
            if engine.commit(&[step.change()]).is_err() {
                break;
            }
            model = in_flight.clone();
        }
        let after = disk.lose_power(&mut dice);
        drop(engine);
        let found = read_back(&after).unwrap_or_else(|fault| panic!("seed {seed} life {life}: {fault}"));
        assert!(
            found == model || found == in_flight,
            "seed {seed} life {life}: found {found:?}, acknowledged {model:?}"
        );
        (disk, model) = (after, found);
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_half_done() {
    let scripts = std::env::var("OSMODA_SCRIPTS").ok().and_then(|n| n.parse().ok()).unwrap_or(SCRIPTS);
    for seed in 0..scripts {
        run_script(seed);
    }
}
