//! What a witness does with a checkpoint: a pure function from what it holds
//! and what it is asked to what it stores and answers (C2SP tlog-witness).
//!
//! The caller has two duties that no pure code can take over, and without which
//! a cosignature means nothing:
//! 1. **Persist before answering**: [`Decision::Accept`] is answered only after
//!    its head is durable.
//! 2. **Compare and store atomically**: between reading the head that `judge`
//!    was given and storing the new one, nobody else may store one for the same
//!    ledger. Otherwise an old request overtakes a new one and rolls the head
//!    back (the race that the specification shows).

use crate::checkpoint::Checkpoint;
use crate::evidence::Evidence;
use crate::exchange::{AddCheckpoint, Response};
use crate::note::{Note, NoteError, NoteSignature, Signer, VerifierKey};
use crate::tree::{TreeHash, verify_consistency};

/// What a witness holds of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessedHead {
    /// The size it cosigned last.
    pub size: u64,
    /// The root it cosigned last.
    pub root: TreeHash,
    /// The checkpoint as the ledger signed it: evidence, should it ever deny it.
    pub note: Note,
    /// When, in seconds since the epoch.
    pub time_s: u64,
}

/// What a witness does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Store the head durably, then answer with the cosignature.
    Accept {
        /// What to hold from now on.
        new: Box<WitnessedHead>,
        /// The line to answer with.
        cosignature: NoteSignature,
    },
    /// The request was made for another head than the one held.
    Conflict {
        /// The size held.
        size: u64,
        /// Set when the two notes prove that the ledger has two histories.
        evidence: Option<Box<Evidence>>,
    },
    /// Not a ledger that is witnessed here.
    UnknownOrigin,
    /// Not signed by that ledger.
    BadSignature,
    /// The ledger signed it, but what is held is not shown to be its beginning.
    /// The note is worth keeping: it may be evidence.
    BadProof,
    /// Not shown to continue the head of this ledger that the fleet's log has; see
    /// [`anchor`](crate::anchor). Not in C2SP.
    Unanchored {
        /// The size of that head.
        size: u64,
        /// Set when the two notes prove that the ledger has two histories.
        evidence: Option<Box<Evidence>>,
    },
    /// Too long ahead of the heads that the fleet's log has. Not in C2SP.
    Unlogged,
    /// The request makes no sense.
    BadRequest,
}

impl Decision {
    /// What to answer, once an accepted head is durable.
    #[must_use]
    pub fn response(&self) -> Response {
        match self {
            Decision::Accept { cosignature, .. } => Response::Cosigned(vec![cosignature.clone()]),
            Decision::Conflict { size, .. } => Response::Conflict { size: *size },
            Decision::UnknownOrigin => Response::UnknownOrigin,
            Decision::BadSignature => Response::BadSignature,
            Decision::BadProof => Response::BadProof,
            Decision::Unanchored { size, .. } => Response::Unanchored { size: *size },
            Decision::Unlogged => Response::Unlogged,
            Decision::BadRequest => Response::BadRequest,
        }
    }
}

/// A witness: a name and a key.
pub struct Witness<'a> {
    /// The name its cosignatures carry.
    pub name: &'a str,
    /// Its key.
    pub signer: &'a dyn Signer,
}

impl Witness<'_> {
    /// Judges a request. `ledger` is the key of the ledger the checkpoint names,
    /// if it is witnessed here ([`origin_of`] says which to look up); `stored`
    /// is what is held of it; `now_s` is the wall clock in seconds. What the fleet's log
    /// says of it is [`Anchor::judge`](crate::anchor::Anchor::judge)'s.
    ///
    /// A clock that was set back repeats the time of the head before.
    ///
    /// # Errors
    /// [`NoteError`] when the witness's own name or key cannot sign.
    pub fn judge(
        &self,
        ledger: Option<&VerifierKey>,
        stored: Option<&WitnessedHead>,
        request: &AddCheckpoint,
        now_s: u64,
    ) -> Result<Decision, NoteError> {
        let Ok(claimed) = Checkpoint::parse(request.note.text()) else { return Ok(Decision::BadRequest) };
        let Some(ledger) = ledger.filter(|key| key.name() == claimed.origin) else {
            return Ok(Decision::UnknownOrigin);
        };
        let Ok(checkpoint) = Checkpoint::open(&request.note, ledger) else { return Ok(Decision::BadSignature) };
        if request.old > checkpoint.size || checkpoint.size == 0 {
            return Ok(Decision::BadRequest);
        }
        let held = stored.map_or(0, |head| head.size);
        if request.old != held {
            return Ok(Decision::Conflict { size: held, evidence: fork(stored, request, ledger) });
        }
        match stored {
            None if !request.proof.is_empty() => return Ok(Decision::BadProof),
            None => {}
            Some(head) if head.size == checkpoint.size && head.root != checkpoint.root => {
                return Ok(Decision::Conflict { size: held, evidence: fork(stored, request, ledger) });
            }
            Some(head) => {
                let proof = &request.proof;
                if verify_consistency(head.size, checkpoint.size, head.root, checkpoint.root, proof).is_err() {
                    return Ok(Decision::BadProof);
                }
            }
        }
        let time_s = now_s.max(stored.map_or(0, |head| head.time_s));
        let cosignature = Note::cosign(request.note.text(), self.name, self.signer, time_s)?;
        let new = WitnessedHead { size: checkpoint.size, root: checkpoint.root, note: request.note.clone(), time_s };
        Ok(Decision::Accept { new: Box::new(new), cosignature })
    }
}

/// The ledger a request is about, for looking up its key and head.
#[must_use]
pub fn origin_of(request: &AddCheckpoint) -> Option<String> {
    Checkpoint::parse(request.note.text()).ok().map(|checkpoint| checkpoint.origin)
}

fn fork(stored: Option<&WitnessedHead>, request: &AddCheckpoint, key: &VerifierKey) -> Option<Box<Evidence>> {
    Evidence::from_notes(&stored?.note, &request.note, key).ok().flatten().map(Box::new)
}
