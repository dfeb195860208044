//! Intents and their outcomes, as a walk over rows comes to them. *Pure.*

use std::collections::HashMap;

use crate::grammar;
use crate::record::Row;
use crate::verify::IntentFault;

/// The intents seen so far.
#[derive(Debug, Default)]
pub(crate) struct Acts {
    stems: HashMap<Vec<u8>, u32>,
    /// The stem that was asked for last: acts of one kind come together.
    newest: (Vec<u8>, u32),
    /// In the order of their ids, as a sound ledger has them: found by halving, in
    /// a fifth of the time and the memory of a map.
    intents: Vec<Act>,
    /// Of a ledger whose ids go back.
    stray: HashMap<u64, Act>,
    /// Rows up to here cannot be looked at.
    dropped_up_to: u64,
}

#[derive(Debug, Clone, Copy)]
struct Act {
    id: u64,
    /// The stem's number.
    stem: u32,
    has_outcome: bool,
}

impl Acts {
    /// Of a ledger whose rows up to `size` were dropped.
    pub(crate) fn dropped(size: u64) -> Self {
        Self { dropped_up_to: size, ..Self::default() }
    }

    /// Takes a row; `intent` is the one that its payload names.
    pub(crate) fn see(&mut self, row: &Row<'_>, intent: Option<u64>) -> Result<(), IntentFault> {
        if let Some(stem) = grammar::intent_stem(row.kind) {
            let stem = self.stem(stem);
            if let Ok(id) = u64::try_from(row.id) {
                self.put(Act { id, stem, has_outcome: false });
            }
        } else if let Some(stem) = grammar::outcome_stem(row.kind) {
            let id = intent.ok_or(IntentFault::Unnamed)?;
            if (1..=self.dropped_up_to).contains(&id) {
                return Ok(());
            }
            let stem = self.stem(stem);
            let act = self.get(id).filter(|act| act.stem == stem).ok_or(IntentFault::Unknown(id))?;
            act.has_outcome = true;
        }
        Ok(())
    }

    /// The later of two rows with one id counts.
    fn put(&mut self, act: Act) {
        if self.intents.last().is_none_or(|last| last.id < act.id) {
            self.intents.push(act);
        } else if let Some(known) = self.get(act.id) {
            *known = act;
        } else {
            self.stray.insert(act.id, act);
        }
    }

    fn get(&mut self, id: u64) -> Option<&mut Act> {
        match self.intents.binary_search_by_key(&id, |act| act.id) {
            Ok(at) => self.intents.get_mut(at),
            Err(_) => self.stray.get_mut(&id),
        }
    }

    fn stem(&mut self, stem: &[u8]) -> u32 {
        if self.newest.0 != stem {
            let next = u32::try_from(self.stems.len() + 1).unwrap_or(u32::MAX);
            let number = *self.stems.entry(stem.to_vec()).or_insert(next);
            self.newest = (stem.to_vec(), number);
        }
        self.newest.1
    }

    /// How many intents have no outcome.
    pub(crate) fn open(&self) -> u64 {
        self.intents.iter().chain(self.stray.values()).filter(|act| !act.has_outcome).count() as u64
    }
}
