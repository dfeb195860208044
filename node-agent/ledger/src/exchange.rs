//! The words between a ledger and a witness: C2SP tlog-witness,
//! `add-checkpoint`. *Pure.*
//!
//! ```text
//! old 20852014        the size the witness is thought to have
//! PlRNCrwH…           at most 63 hashes: the proof from there to the checkpoint
//!
//! origin …            the checkpoint, signed
//! ```
//! This file carries; it does not judge. That is `witness.rs`.

use std::fmt;

use crate::checkpoint::decimal;
use crate::note::{NOTE_BYTES_MAX, Note, NoteError, NoteSignature};
use crate::tree::{CONSISTENCY_HASHES_MAX, TreeHash};

/// Largest request, in bytes: the note, 63 lines of 45 bytes, the first line.
pub const REQUEST_BYTES_MAX: usize = NOTE_BYTES_MAX + 63 * 45 + 64;

/// Largest answer, in bytes: a few signature lines.
pub const RESPONSE_BYTES_MAX: usize = 16 << 10;

/// Bytes are no request or no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// They break the form.
    #[error("no add-checkpoint message: {0}")]
    Form(&'static str),
    /// The checkpoint in it is no note.
    #[error(transparent)]
    Note(#[from] NoteError),
}

/// What a ledger asks of a witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// The size the witness cosigned last; 0 for never.
    pub old: u64,
    /// The consistency proof from there; empty when `old` is 0.
    pub proof: Vec<TreeHash>,
    /// The checkpoint, signed by the ledger.
    pub note: Note,
}

impl AddCheckpoint {
    /// Reads a request.
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ExchangeError> {
        let form = |what| ExchangeError::Form(what);
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(form("it is too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| form("it is not UTF-8"))?;
        let (head, note) = text.split_once("\n\n").ok_or(form("no empty line before the checkpoint"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old ")).and_then(decimal);
        let old = old.ok_or(form("the first line is not `old` and a plain number"))?;
        let proof = lines
            .map(|line| TreeHash::from_base64(line).ok_or(form("a proof line is not the base64 of 32 bytes")))
            .collect::<Result<Vec<_>, _>>()?;
        if proof.len() > CONSISTENCY_HASHES_MAX {
            return Err(form("more than 63 proof lines"));
        }
        Ok(Self { old, proof, note: Note::parse(note.as_bytes())? })
    }
}

impl fmt::Display for AddCheckpoint {
    /// The request as it is sent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.note)
    }
}

/// What a witness answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// 200: it has stored the head and cosigns it.
    Cosigned(Vec<NoteSignature>),
    /// 400: the request makes no sense.
    BadRequest,
    /// 403: no signature of a known key of that ledger.
    BadSignature,
    /// 404: it does not witness that ledger.
    UnknownOrigin,
    /// 409: it has another head than `old` says, of this size.
    Conflict {
        /// The size it cosigned last.
        size: u64,
    },
    /// 422: the proof does not hold.
    BadProof,
    /// 428: it is to be shown first that the checkpoint continues the head of that
    /// many rows, which the fleet's log has. Not in C2SP.
    Unanchored {
        /// The size of that head.
        size: u64,
    },
    /// 424: the fleet's log has not had a new head of this ledger for too long. Not in
    /// C2SP.
    Unlogged,
}

impl Response {
    /// The HTTP status that C2SP gives it.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Response::Cosigned(_) => 200,
            Response::BadRequest => 400,
            Response::BadSignature => 403,
            Response::UnknownOrigin => 404,
            Response::Conflict { .. } => 409,
            Response::BadProof => 422,
            Response::Unanchored { .. } => 428,
            Response::Unlogged => 424,
        }
    }

    /// The body: signature lines, the size of a head, or nothing.
    #[must_use]
    pub fn body(&self) -> String {
        match self {
            Response::Cosigned(lines) => lines.iter().map(|line| format!("{line}\n")).collect(),
            Response::Conflict { size } | Response::Unanchored { size } => format!("{size}\n"),
            _ => String::new(),
        }
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`ExchangeError`] for a status or a body that no witness gives.
    pub fn parse(status: u16, body: &str) -> Result<Self, ExchangeError> {
        let form = |what| ExchangeError::Form(what);
        match status {
            200 => {
                let lines = body.strip_suffix('\n').ok_or(form("the last signature line does not end"))?;
                Ok(Response::Cosigned(lines.split('\n').map(NoteSignature::parse).collect::<Result<_, _>>()?))
            }
            409 | 428 => {
                let size = body.strip_suffix('\n').and_then(decimal).ok_or(form("a conflict names no size"))?;
                Ok(if status == 409 { Response::Conflict { size } } else { Response::Unanchored { size } })
            }
            400 => Ok(Response::BadRequest),
            403 => Ok(Response::BadSignature),
            404 => Ok(Response::UnknownOrigin),
            422 => Ok(Response::BadProof),
            424 => Ok(Response::Unlogged),
            _ => Err(form("a status that no witness gives")),
        }
    }
}
