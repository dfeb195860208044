//! The ledger verifier: a streaming function over rows. *Pure.*
//!
//! It needs no database: rows come from a file, an export or a test, oldest
//! first. It never stops at the first fault, because a person who looks at a
//! damaged ledger wants to know all of it.
//!
//! What it proves: rows `1..=verified` are unchanged *relative to each other*.
//! It cannot see a history that was rewritten as a whole, nor a tail that was
//! cut (`trust.md` 1.2); that takes a head kept elsewhere, see
//! [`Verifier::finish`].

use std::collections::HashMap;

use serde_json::Value;

use crate::grammar::{self, GrammarFault};
use crate::payload::Payload;
use crate::record::{ChainHash, Head, Row};
use crate::tree::TreeHash;

/// A fault and the row it was found at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row {id}: {kind}")]
pub struct Fault {
    /// The row.
    pub id: i64,
    /// What is wrong with it.
    pub kind: FaultKind,
}

/// The kinds of faults, each with an exit code of its own in `agentctl`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    /// The chain does not hold.
    #[error("chain: {0}")]
    Chain(#[from] ChainFault),
    /// The row breaks rules L1–L3.
    #[error("grammar: {0}")]
    Grammar(#[from] GrammarFault),
    /// An act was recorded without the intent that must come before it.
    #[error("intent: {0}")]
    Intent(#[from] IntentFault),
}

/// How the chain can be broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// `prev_hash` is not the hash of the row before.
    #[error("prev_hash is not the hash of the row before")]
    PrevHash,
    /// `hash` is not the hash of the row.
    #[error("hash does not match the row")]
    Hash,
    /// Storage remembers a later row than the last one found.
    #[error("rows up to {last} were written, but the ledger ends at row {found}")]
    TailMissing {
        /// The id of the last row that was ever written.
        last: u64,
        /// The id of the last row found.
        found: u64,
    },
    /// The tree that storage keeps beside the rows is not theirs.
    #[error("the stored tree is not that of the rows")]
    Tree,
    /// A checkpoint that this ledger signed does not fit its rows.
    #[error("the rows up to {size} are not those of the checkpoint that was signed over them")]
    Checkpoint {
        /// The size of the checkpoint.
        size: u64,
    },
}

/// How an outcome can lack its intent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntentFault {
    /// The payload has no integer `intent`.
    #[error("an outcome names no intent")]
    Unnamed,
    /// No earlier row of the same act has that id.
    #[error("an outcome names intent {0}, which is no earlier intent of the same act")]
    Unknown(u64),
}

/// What the verifier found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Rows before the first fault of chain or grammar.
    pub verified: u64,
    /// Rows seen.
    pub total: u64,
    /// Faults of the chain.
    pub chain_faults: u64,
    /// Faults of the grammar.
    pub grammar_faults: u64,
    /// Acts without intent.
    pub intent_faults: u64,
    /// Intents without outcome: acts that were cut off, or still run. No fault.
    pub open_intents: u64,
    /// The head of the rows seen; meaningful only when `verified == total`.
    pub head: Head,
}

impl Report {
    /// Whether chain and grammar hold over every row.
    #[must_use]
    pub const fn is_intact(&self) -> bool {
        self.chain_faults == 0 && self.grammar_faults == 0
    }
}

/// Walks rows, oldest first.
///
/// Memory grows only with intents, 24 bytes each.
#[derive(Debug)]
pub struct Verifier {
    total: u64,
    verified: u64,
    last_id: i64,
    last_hash: Option<ChainHash>,
    last_ts: Vec<u8>,
    faults: Counts,
    acts: Acts,
    record: Vec<u8>,
}

#[derive(Debug, Default)]
struct Counts {
    chain: u64,
    grammar: u64,
    intent: u64,
}

impl Default for Verifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Verifier {
    /// A verifier that expects row 1.
    #[must_use]
    pub fn new() -> Self {
        Self {
            total: 0,
            verified: 0,
            last_id: 0,
            last_hash: Some(ChainHash::GENESIS),
            last_ts: Vec::new(),
            faults: Counts::default(),
            acts: Acts::default(),
            record: Vec::new(),
        }
    }

    /// A verifier of a ledger whose rows up to `head` were dropped: it expects
    /// the row after it, not before `last_ts`. Intents among the dropped rows
    /// are taken on trust, because nobody can look at them any more.
    #[must_use]
    pub fn resume(head: Head, last_ts: &[u8]) -> Self {
        Self {
            total: head.size,
            verified: head.size,
            last_id: i64::try_from(head.size).unwrap_or(i64::MAX),
            last_hash: Some(head.hash),
            last_ts: last_ts.to_vec(),
            acts: Acts { dropped_up_to: head.size, ..Acts::default() },
            ..Self::new()
        }
    }

    /// Takes the next row and tells `found` each fault in it. Returns the leaf
    /// that the row is in the tree.
    pub fn feed(&mut self, row: &Row<'_>, mut found: impl FnMut(Fault)) -> TreeHash {
        let mut tell = |faults: &mut Counts, kind: FaultKind| {
            match kind {
                FaultKind::Chain(_) => faults.chain += 1,
                FaultKind::Grammar(_) => faults.grammar += 1,
                FaultKind::Intent(_) => faults.intent += 1,
            }
            found(Fault { id: row.id, kind });
        };
        if self.last_hash.is_none_or(|last| last.as_bytes() != row.prev_hash) {
            tell(&mut self.faults, ChainFault::PrevHash.into());
        }
        row.record_into(&mut self.record);
        if ChainHash::of_record(&self.record).as_bytes() != row.hash {
            tell(&mut self.faults, ChainFault::Hash.into());
        }
        let expected = self.last_id.saturating_add(1);
        if row.id != expected {
            tell(&mut self.faults, GrammarFault::Id { expected, found: row.id }.into());
        }
        if !grammar::is_ts(row.ts) {
            tell(&mut self.faults, GrammarFault::Ts.into());
        } else if row.ts < self.last_ts.as_slice() {
            tell(&mut self.faults, GrammarFault::TsBack.into());
        }
        if !grammar::is_name(row.kind) {
            tell(&mut self.faults, GrammarFault::Type.into());
        }
        if !grammar::is_name(row.actor) {
            tell(&mut self.faults, GrammarFault::Actor.into());
        }
        // Only an outcome's payload is looked into; of the others the form is enough.
        let looked = if grammar::outcome_stem(row.kind).is_some() {
            Payload::check(row.payload).map(|payload| self.acts.see(row, payload.get("intent")))
        } else {
            Payload::check_form(row.payload).map(|()| self.acts.see(row, None))
        };
        match looked {
            Err(fault) => tell(&mut self.faults, GrammarFault::from(fault).into()),
            Ok(Err(fault)) => tell(&mut self.faults, fault.into()),
            Ok(Ok(())) => {}
        }
        self.total += 1;
        if self.faults.chain == 0 && self.faults.grammar == 0 {
            self.verified = self.total;
        }
        self.last_id = row.id;
        // A hash that is none leaves nothing for the next row to link to.
        self.last_hash = ChainHash::from_stored(row.hash);
        if grammar::is_ts(row.ts) {
            self.last_ts.clear();
            self.last_ts.extend_from_slice(row.ts);
        }
        TreeHash::of_leaf(&self.record)
    }

    /// Ends the walk. `last_written` is the id of the last row that storage
    /// remembers writing, where it remembers one.
    pub fn finish(mut self, last_written: Option<u64>, mut found: impl FnMut(Fault)) -> Report {
        if let Some(last) = last_written.filter(|last| i64::try_from(*last).is_ok_and(|last| last > self.last_id)) {
            self.faults.chain += 1;
            let fault = ChainFault::TailMissing { last, found: u64::try_from(self.last_id).unwrap_or(0) };
            found(Fault { id: self.last_id.saturating_add(1), kind: fault.into() });
        }
        Report {
            verified: self.verified,
            total: self.total,
            chain_faults: self.faults.chain,
            grammar_faults: self.faults.grammar,
            intent_faults: self.faults.intent,
            open_intents: self.acts.open(),
            head: Head { size: self.total, hash: self.last_hash.unwrap_or(ChainHash::GENESIS) },
        }
    }
}

/// The intents seen so far, by id.
#[derive(Debug, Default)]
struct Acts {
    stems: HashMap<Vec<u8>, u32>,
    intents: HashMap<u64, Act>,
    /// Rows up to here cannot be looked at.
    dropped_up_to: u64,
}

#[derive(Debug)]
struct Act {
    stem: u32,
    has_outcome: bool,
}

impl Acts {
    fn see(&mut self, row: &Row<'_>, intent: Option<&Value>) -> Result<(), IntentFault> {
        if let Some(stem) = grammar::intent_stem(row.kind) {
            let stem = self.stem(stem);
            if let Ok(id) = u64::try_from(row.id) {
                self.intents.insert(id, Act { stem, has_outcome: false });
            }
        } else if let Some(stem) = grammar::outcome_stem(row.kind) {
            let id = intent.and_then(Value::as_u64).ok_or(IntentFault::Unnamed)?;
            if (1..=self.dropped_up_to).contains(&id) {
                return Ok(());
            }
            let stem = self.stem(stem);
            let act = self.intents.get_mut(&id).filter(|act| act.stem == stem).ok_or(IntentFault::Unknown(id))?;
            act.has_outcome = true;
        }
        Ok(())
    }

    fn stem(&mut self, stem: &[u8]) -> u32 {
        if let Some(number) = self.stems.get(stem) {
            return *number;
        }
        let number = u32::try_from(self.stems.len()).unwrap_or(u32::MAX);
        self.stems.insert(stem.to_vec(), number);
        number
    }

    fn open(&self) -> u64 {
        self.intents.values().filter(|act| !act.has_outcome).count() as u64
    }
}
