//! What the fleet's log has to do with a cosignature. *Pure.*
//!
//! Half of the fleet must cosign a checkpoint, so a ledger could show one history to
//! one half and another to the rest, at sizes that never meet. The log is what all
//! witnesses share, and has one head of each ledger, which only grows. So a witness
//! cosigns nothing that is not shown to continue the log's head, and nothing for
//! long ([`LOGGED_WITHIN_S`]) whose ledger keeps its heads out of the log.
//!
//! Invariant: a cosigned checkpoint continues both what the witness holds and every
//! head of the log that the witness knew. Two histories then have to part after the
//! newest head, and the next head ends the one that it is not of.

use crate::evidence::Evidence;
use crate::exchange::AddCheckpoint;
use crate::note::VerifierKey;
use crate::tree::verify_consistency;
use crate::witness::{Decision, WitnessedHead};

/// How long a witness cosigns rows beyond the log's head, in seconds. Nodes write
/// their heads each minute; ten of them may be missed, in elections or while a node
/// cannot reach the leader. Longer, and a ledger could keep two histories apart by
/// never writing one.
pub const LOGGED_WITHIN_S: u64 = 600;

/// How far a ledger's cosigned rows are bound to the fleet's log. What a witness
/// keeps with the head it holds; [`Anchor::default`] before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Anchor {
    /// The largest head of the log that was shown to lead to what is held, in rows.
    pub proven: u64,
    /// Since when rows beyond it have been cosigned, in seconds since the epoch.
    pub ahead_since_s: Option<u64>,
}

impl Anchor {
    /// Judges a head that continues what the witness holds: what to keep when it is
    /// cosigned, or why it is not.
    ///
    /// `logged` is the log's newest head of that ledger, with its ledger's signature;
    /// `shown` the proof from there, as a request of its own for the same checkpoint;
    /// `now_s` the wall clock in seconds. A clock that is set forward takes time away, and
    /// one that was ahead gives none when it is set right, until the next head: the time
    /// runs from the earliest time at which rows beyond the head were seen.
    ///
    /// # Errors
    /// [`Decision::Unanchored`], [`Decision::BadProof`], [`Decision::Unlogged`].
    pub fn judge(
        self,
        ledger: &VerifierKey,
        logged: Option<&WitnessedHead>,
        new: &WitnessedHead,
        shown: Option<&AddCheckpoint>,
        now_s: u64,
    ) -> Result<Self, Decision> {
        let proven = match logged.filter(|logged| logged.size > self.proven) {
            None => self.proven,
            Some(logged) => {
                continues(ledger, logged, new, shown)?;
                logged.size
            }
        };
        let ahead_since_s = match () {
            () if new.size <= proven => None,
            () if proven > self.proven => Some(now_s),
            () => Some(self.ahead_since_s.map_or(now_s, |since| since.min(now_s))),
        };
        if ahead_since_s.is_some_and(|since| now_s.saturating_sub(since) > LOGGED_WITHIN_S) {
            return Err(Decision::Unlogged);
        }
        Ok(Self { proven, ahead_since_s })
    }
}

/// Whether `new` is shown to continue `logged`.
fn continues(
    ledger: &VerifierKey,
    logged: &WitnessedHead,
    new: &WitnessedHead,
    shown: Option<&AddCheckpoint>,
) -> Result<(), Decision> {
    let unanchored = |evidence| Decision::Unanchored { size: logged.size, evidence };
    if logged.size == new.size {
        // Both were opened with this key before; what cannot be opened is no evidence.
        let evidence = Evidence::from_notes(&logged.note, &new.note, ledger).ok().flatten();
        return match logged.root == new.root && evidence.is_none() {
            true => Ok(()),
            false => Err(unanchored(evidence.map(Box::new))),
        };
    }
    let is_for_these = |shown: &&AddCheckpoint| shown.old == logged.size && shown.note.text() == new.note.text();
    let Some(shown) = shown.filter(is_for_these).filter(|_| logged.size < new.size) else {
        return Err(unanchored(None));
    };
    verify_consistency(logged.size, new.size, logged.root, new.root, &shown.proof).map_err(|_| Decision::BadProof)
}
