//! Heads in the fleet's log, as the notes that they were signed as. *Pure.*
//!
//! Invariant: a head counts only with the signature of its ledger's key. The log
//! checks it too; but it comes by way of other daemons.

use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::note::{Note, VerifierKey};
use osmoda_ledger::record::ChainHash;
use osmoda_ledger::tree::TreeHash;
use osmoda_ledger::witness::WitnessedHead;
use osmoda_node_api::witness::LoggedHead;
use osmoda_types::{LedgerHash, Signature};

/// The head that a note says, for the log.
pub(super) fn head_of(note: &Note, key: &VerifierKey) -> Option<LoggedHead> {
    let checkpoint = Checkpoint::open(note, key).ok()?;
    Some(LoggedHead {
        size: checkpoint.size,
        hash: checkpoint.chain.as_str().parse().ok()?,
        root: LedgerHash::from_bytes(*checkpoint.root.as_bytes()),
        signature: Signature::from_bytes(note.signature_of(key)?),
    })
}

/// The note that the log's head was signed as, as if it had been witnessed at that
/// time; `None` when the key did not sign it.
pub(super) fn witnessed(head: &LoggedHead, key: &VerifierKey, time_s: u64) -> Option<WitnessedHead> {
    let (size, root) = (head.size, TreeHash::new(*head.root.as_bytes()));
    let chain = ChainHash::from_stored(head.hash.to_string().as_bytes())?;
    let checkpoint = Checkpoint { origin: key.name().to_owned(), size, root, chain };
    let note = Note::of(&checkpoint.to_string(), key, head.signature.as_bytes()).ok()?;
    Some(WitnessedHead { size, root, note, time_s })
}

/// The head that the log should have next: the newest that enough witnesses cosigned.
/// Where the log has that one and a witness waits for a newer one, the newest there is:
/// fewer than enough may be up at a time, each of them may have cosigned beyond the log's
/// head for as long as it does, and then no head would ever be cosigned by enough again.
/// The witness that waits has seen that it continues what was cosigned.
pub(super) fn next(
    cosigned: Option<LoggedHead>,
    newest: Option<LoggedHead>,
    logged: Option<u64>,
    is_waited_for: bool,
) -> Option<LoggedHead> {
    let is_new = cosigned.is_some_and(|head| logged.is_none_or(|size| head.size > size));
    if is_new || !is_waited_for { cosigned } else { newest }
}

#[cfg(test)]
mod tests {
    use osmoda_ledger::note::KeyKind;
    use osmoda_types::{PublicKey, statement};

    use super::*;
    use crate::ledger_key::{History, LedgerKey, witness_name};

    #[test]
    fn the_log_has_a_head_next_that_enough_cosigned_unless_a_witness_waits_for_another() {
        let [hash, root] = [1, 2].map(|byte| LedgerHash::from_bytes([byte; 32]));
        let head = |size| Some(LoggedHead { size, hash, root, signature: Signature::from_bytes([3; 64]) });
        let size = |cosigned, logged, waited| next(cosigned, head(9), logged, waited).map(|head| head.size);
        for is_waited_for in [false, true] {
            assert_eq!(size(head(7), None, is_waited_for), Some(7));
            assert_eq!(size(head(7), Some(6), is_waited_for), Some(7));
        }
        assert_eq!(size(head(7), Some(7), false), Some(7));
        assert_eq!(size(head(7), Some(7), true), Some(9));
        assert_eq!((size(None, Some(7), false), size(None, None, false)), (None, None));
        assert_eq!((size(None, Some(7), true), size(None, None, true)), (Some(9), Some(9)));
    }

    /// What the log checks is, byte for byte, what the ledger signs.
    #[test]
    fn a_note_goes_into_the_log_and_comes_back_with_its_signature() {
        let root = osmoda_kit::testing::TempRoot::new();
        let key = LedgerKey::load_or_generate(&root.path().join("key"), History::None).unwrap();
        let public = key.verifier().unwrap();
        let chain = ChainHash::from_stored("ab".repeat(32).as_bytes()).unwrap();
        let checkpoint = Checkpoint { origin: key.origin(), size: 7, root: TreeHash::new([3; 32]), chain };
        let note = checkpoint.sign(&key).unwrap();
        let head = head_of(&note, &public).unwrap();
        let named = PublicKey::from_bytes(key.public());
        let text = statement::checkpoint(&named, head.size, &head.root, &head.hash);
        assert_eq!(text, note.text().as_bytes());
        assert_eq!(statement::verify(&named, &text, &head.signature), Ok(()));
        let back = witnessed(&head, &public, 5).unwrap();
        assert_eq!((back.size, back.root, &back.note, back.time_s), (7, checkpoint.root, &note, 5));

        for forged in [
            LoggedHead { size: 8, ..head },
            LoggedHead { root: head.hash, ..head },
            LoggedHead { hash: head.root, ..head },
            LoggedHead { signature: Signature::from_bytes([0; 64]), ..head },
        ] {
            assert_eq!(witnessed(&forged, &public, 5), None);
        }
        let other = VerifierKey::new(&witness_name(&key.public()), KeyKind::Witness, &key.public()).unwrap();
        assert_eq!(head_of(&back.note, &other), None);
    }
}
