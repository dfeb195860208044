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

use crate::acts::Acts;
use crate::grammar::GrammarFault;
use crate::look::Looked;
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
/// Memory grows only with intents, 16 bytes each.
#[derive(Debug)]
pub struct Verifier {
    total: u64,
    verified: u64,
    last_id: i64,
    last_hash: Option<ChainHash>,
    last_ts: Vec<u8>,
    faults: Counts,
    acts: Acts,
    buffer: Vec<u8>,
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
            buffer: Vec::new(),
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
            acts: Acts::dropped(head.size),
            ..Self::new()
        }
    }

    /// Takes the next row and tells `found` each fault in it. Returns the leaf
    /// that the row is in the tree.
    pub fn feed(&mut self, row: &Row<'_>, found: impl FnMut(Fault)) -> TreeHash {
        let looked = Looked::at(row, &mut self.buffer);
        self.take(row, &looked, found)
    }

    /// As [`Verifier::feed`], for a row that was looked at before.
    pub fn take(&mut self, row: &Row<'_>, looked: &Looked, mut found: impl FnMut(Fault)) -> TreeHash {
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
        let is_hash = looked.hash.as_bytes() == row.hash;
        if !is_hash {
            tell(&mut self.faults, ChainFault::Hash.into());
        }
        let expected = self.last_id.saturating_add(1);
        if row.id != expected {
            tell(&mut self.faults, GrammarFault::Id { expected, found: row.id }.into());
        }
        if !looked.is_ts {
            tell(&mut self.faults, GrammarFault::Ts.into());
        } else if row.ts < self.last_ts.as_slice() {
            tell(&mut self.faults, GrammarFault::TsBack.into());
        }
        if !looked.is_kind {
            tell(&mut self.faults, GrammarFault::Type.into());
        }
        if !looked.is_actor {
            tell(&mut self.faults, GrammarFault::Actor.into());
        }
        match &looked.intent {
            Err(fault) => tell(&mut self.faults, GrammarFault::from(fault.clone()).into()),
            Ok(intent) => {
                if let Err(fault) = self.acts.see(row, *intent) {
                    tell(&mut self.faults, fault.into());
                }
            }
        }
        self.total += 1;
        if self.faults.chain == 0 && self.faults.grammar == 0 {
            self.verified = self.total;
        }
        self.last_id = row.id;
        // A hash that is none leaves nothing for the next row to link to.
        self.last_hash = if is_hash { Some(looked.hash) } else { ChainHash::from_stored(row.hash) };
        if looked.is_ts {
            self.last_ts.clear();
            self.last_ts.extend_from_slice(row.ts);
        }
        looked.leaf
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
