//! A checkpoint: what a ledger says about itself at one size, and signs
//! (C2SP tlog-checkpoint). *Pure.*
//!
//! ```text
//! osmoda.ledger/5f0c…            origin: the name of the ledger's key
//! 1234                           rows
//! CsUYapGGPo4d…                  root of the tree, base64
//! chain 9af1…                    hash of the last row: ties tree and chain together
//!
//! — osmoda.ledger/5f0c… Az3grl…
//! ```
//! Invariant: the text has exactly these four lines in exactly this spelling;
//! nothing else is a checkpoint of a ledger of ours.

use std::fmt;

use crate::note::{KeyKind, Note, NoteError, Signer, VerifierKey, is_name};
use crate::record::ChainHash;
use crate::tree::TreeHash;

/// What the line with the chain's hash begins with.
const CHAIN_MARK: &str = "chain ";

/// A text is no checkpoint, or is not signed as one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The text is not one of the four lines.
    #[error("no checkpoint: {0}")]
    Form(&'static str),
    /// It is of another ledger than the key.
    #[error("the checkpoint is of {origin}, the key of {expected}")]
    Origin {
        /// What the checkpoint says.
        origin: String,
        /// The name of the key.
        expected: String,
    },
    /// The key did not sign.
    #[error("the checkpoint is not signed by {0}")]
    Unsigned(String),
    /// The note is none, or a signature is wrong.
    #[error(transparent)]
    Note(#[from] NoteError),
}

/// A ledger at one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which ledger: the name of its key.
    pub origin: String,
    /// How many rows.
    pub size: u64,
    /// The root of the tree over them.
    pub root: TreeHash,
    /// The chain hash of the last of them.
    pub chain: ChainHash,
}

impl Checkpoint {
    /// Reads the text of a note.
    ///
    /// # Errors
    /// [`CheckpointError::Form`].
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let form = |what| CheckpointError::Form(what);
        let body = text.strip_suffix('\n').ok_or(form("the last line does not end"))?;
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root), Some(chain), None) =
            (lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(form("it has not four lines"));
        };
        if !is_name(origin) {
            return Err(form("the origin is empty, too long, or has a space or a plus"));
        }
        let size = decimal(size).ok_or(form("the size is not a plain decimal number"))?;
        let root = TreeHash::from_base64(root).ok_or(form("the root is not the base64 of 32 bytes"))?;
        let chain = chain
            .strip_prefix(CHAIN_MARK)
            .and_then(|hex| ChainHash::from_stored(hex.as_bytes()))
            .ok_or(form("the chain line is not a chain hash"))?;
        Ok(Self { origin: origin.to_owned(), size, root, chain })
    }

    /// Signs it as its ledger.
    ///
    /// # Errors
    /// [`NoteError::Key`] when the origin may not be a key's name.
    pub fn sign(&self, signer: &dyn Signer) -> Result<Note, NoteError> {
        Note::sign(&self.to_string(), &self.origin, signer)
    }

    /// Reads a note that the ledger with that key must have signed.
    ///
    /// # Errors
    /// Each [`CheckpointError`].
    pub fn open(note: &Note, key: &VerifierKey) -> Result<Self, CheckpointError> {
        let checkpoint = Self::parse(note.text())?;
        if key.kind() != KeyKind::Log || checkpoint.origin != key.name() {
            return Err(CheckpointError::Origin { origin: checkpoint.origin, expected: key.name().to_owned() });
        }
        match note.check(key)? {
            Some(_) => Ok(checkpoint),
            None => Err(CheckpointError::Unsigned(key.name().to_owned())),
        }
    }
}

impl fmt::Display for Checkpoint {
    /// The text that is signed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}\n{CHAIN_MARK}{}", self.origin, self.size, self.root, self.chain)
    }
}

/// A decimal number in its one spelling: no sign, no leading zero.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}
