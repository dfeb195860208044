//! Evidence that a ledger lied: two checkpoints with its own signature that
//! cannot both be true. *Pure.*
//!
//! Anybody can check it from the two notes alone (same size, two histories), or
//! from the notes and the ledger's rows (the older one is no beginning).

use std::fmt;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::note::{Note, VerifierKey};
use crate::tree::TreeHash;

/// How two checkpoints contradict each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contradiction {
    /// One size, two roots or two last rows. The notes alone prove it.
    SameSize,
    /// The older is no beginning of the newer, whose rows have this root at the
    /// older's size. The notes and the rows prove it.
    NotABeginning {
        /// The root of the newer ledger at the older size.
        recomputed: TreeHash,
    },
    /// The ledger shown is shorter than one that it signed before.
    Shorter,
}

/// Two signed notes of one ledger that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// What was signed, or witnessed, before.
    pub held: Note,
    /// What is shown now.
    pub shown: Note,
    /// How they contradict each other.
    pub contradiction: Contradiction,
}

impl Evidence {
    /// The contradiction that two notes prove by themselves, if they do.
    ///
    /// # Errors
    /// [`CheckpointError`] when one is not a checkpoint signed by the key.
    pub fn from_notes(held: &Note, shown: &Note, key: &VerifierKey) -> Result<Option<Self>, CheckpointError> {
        let (a, b) = (Checkpoint::open(held, key)?, Checkpoint::open(shown, key)?);
        let is_fork = a.size == b.size && (a.root != b.root || a.chain != b.chain);
        Ok(is_fork.then(|| Self { held: held.clone(), shown: shown.clone(), contradiction: Contradiction::SameSize }))
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.contradiction {
            Contradiction::SameSize => writeln!(f, "two histories of one size, both signed by the ledger")?,
            Contradiction::NotABeginning { recomputed } => {
                writeln!(
                    f,
                    "what was signed before is no beginning of what is shown now; the rows shown give {recomputed} there"
                )?;
            }
            Contradiction::Shorter => writeln!(f, "the ledger shown is shorter than what was signed before")?,
        }
        write!(f, "--- signed before ---\n{}--- shown now ---\n{}", self.held, self.shown)
    }
}
