//! What this operator has cosigned of each ledger, in the folder of the command
//! line: where root of no host can change it.
//!
//! Invariant: a head is durable here before its cosignature is handed out, and
//! reading, judging and storing one is one step under a lock between processes.
//! A file is one head, for its owner alone (0600).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use osmoda_kit::fsio;
use osmoda_kit::lock::RootLock;
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::exchange::AddCheckpoint;
use osmoda_ledger::note::{KeyKind, Note, NoteSignature, Signer, VerifierKey};
use osmoda_ledger::witness::{Decision, Witness, WitnessedHead};
use osmoda_types::{NodeId, PublicKey};

use crate::error::CliError;

/// The folder beside the file of contexts.
const FOLDER: &str = "witness";

/// The largest head: a note has at most 64 KiB.
const HEAD_BYTES_MAX: u64 = 128 << 10;

/// What was cosigned last of one ledger.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    /// Whose ledger.
    pub(crate) node: NodeId,
    /// The key of the ledger.
    pub(crate) ledger: PublicKey,
    /// The operator's key that cosigned.
    pub(crate) by: PublicKey,
    /// The checkpoint as the ledger signed it.
    pub(crate) note: String,
    /// When, in seconds since 1970.
    pub(crate) time_s: u64,
}

/// What came of a checkpoint.
#[derive(Debug)]
pub(crate) enum Judged {
    /// It goes on from what was cosigned; this is the line for it.
    Cosigned {
        /// Its size.
        size: u64,
        /// The cosignature.
        line: NoteSignature,
    },
    /// The ledger contradicts what it signed before.
    Caught {
        /// How.
        what: String,
        /// What it signed before, and now.
        notes: [String; 2],
    },
}

/// The heads, while this process alone may change them.
#[derive(Debug)]
pub(crate) struct Kept {
    dir: PathBuf,
    _lock: RootLock,
}

/// The folder of heads beside a file of contexts.
pub(crate) fn folder(contexts: &Path) -> PathBuf {
    contexts.parent().unwrap_or(Path::new(".")).join(FOLDER)
}

/// Every head, for reading.
pub(crate) fn heads(dir: &Path) -> Result<BTreeMap<NodeId, Head>, CliError> {
    let mut heads = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(heads) };
    for entry in entries {
        let path = entry.map_err(|error| failed(dir, &error))?.path();
        if path.extension().is_some_and(|ending| ending == "json")
            && let Some(head) = read(&path)?
        {
            heads.insert(head.node, head);
        }
    }
    Ok(heads)
}

fn read(path: &Path) -> Result<Option<Head>, CliError> {
    let bytes = fsio::read_limited(path, HEAD_BYTES_MAX).map_err(|error| failed(path, &error))?;
    bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(|error| failed(path, &error))).transpose()
}

fn failed(path: &Path, error: &(dyn std::error::Error + 'static)) -> CliError {
    CliError::failed(format!("cannot use {}", path.display()), osmoda_kit::error::chain(error))
        .next("what was cosigned is kept there; without it a ledger that was rewritten cannot be told")
}

/// The key that checks a ledger's notes.
pub(crate) fn ledger_key(key: &PublicKey) -> Option<VerifierKey> {
    VerifierKey::new(&format!("osmoda.ledger/{key}"), KeyKind::Log, key.as_bytes()).ok()
}

/// The name under which a key cosigns.
pub(crate) fn witness_name(key: &PublicKey) -> String {
    format!("osmoda.witness/{key}")
}

impl Kept {
    /// Opens the folder, making it at the first use.
    ///
    /// # Errors
    /// The folder cannot be used, or another process cosigns.
    pub(crate) fn open(dir: &Path) -> Result<Self, CliError> {
        fsio::create_private_dir(dir).map_err(|error| failed(dir, &error))?;
        let lock = RootLock::exclusive(&dir.join("lock")).map_err(|error| {
            CliError::failed("nothing was cosigned", osmoda_kit::error::chain(&error))
                .next("another `osmoda ledger cosign` runs; wait for it or end it")
        })?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// What was cosigned last of a node's ledger.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn head(&self, node: &NodeId) -> Result<Option<Head>, CliError> {
        read(&self.path(node))
    }

    fn path(&self, node: &NodeId) -> PathBuf {
        self.dir.join(format!("{node}.json"))
    }

    /// Judges a checkpoint of a node's ledger against what is kept. A head that is
    /// accepted is durable when this returns.
    ///
    /// # Errors
    /// The folder fails, or the node asks for something that makes no sense; then
    /// nothing was cosigned.
    pub(crate) fn judge(
        &self,
        node: NodeId,
        ledger: PublicKey,
        request: &AddCheckpoint,
        (signer, by): (&dyn Signer, PublicKey),
        now_s: u64,
    ) -> Result<Judged, CliError> {
        let nothing = |why: &str| CliError::failed("nothing was cosigned", why);
        let key = ledger_key(&ledger).ok_or_else(|| nothing("the ledger's key cannot be used"))?;
        let kept = self.head(&node)?;
        let shown = request.note.to_string();
        let caught =
            |what: &str, head: &Head| Judged::Caught { what: what.to_owned(), notes: [head.note.clone(), shown] };
        if let Some(head) = kept.as_ref().filter(|head| head.ledger != ledger) {
            return Ok(caught("its ledger has another key than the one that was cosigned", head));
        }
        let stored = kept.as_ref().map(|head| opened(head, &key)).transpose()?;
        let checkpoint = Checkpoint::open(&request.note, &key)
            .map_err(|error| nothing(&format!("the checkpoint is not the ledger's: {error}")))?;
        if let (Some(head), Some(stored)) = (&kept, &stored)
            && checkpoint.size < stored.size
        {
            let what = format!("it signed {} rows after it had signed {}", checkpoint.size, stored.size);
            return Ok(caught(&what, head));
        }
        let name = witness_name(&by);
        let witness = Witness { name: &name, signer };
        let decision = witness.judge(Some(&key), stored.as_ref(), request, now_s);
        match (decision.map_err(|error| nothing(&error.to_string()))?, &kept) {
            (Decision::Accept { new, cosignature }, _) => {
                let head = Head { node, ledger, by, note: new.note.to_string(), time_s: new.time_s };
                self.store(&head)?;
                Ok(Judged::Cosigned { size: new.size, line: cosignature })
            }
            (Decision::Conflict { evidence: Some(_), size }, Some(head)) => {
                Ok(caught(&format!("it signed two histories of {size} rows"), head))
            }
            (Decision::BadProof, Some(head)) => {
                Ok(caught("it cannot show that its rows begin with those it had signed: it was rewritten", head))
            }
            (Decision::Conflict { size, .. }, _) => {
                Err(nothing(&format!("the node shows no way from the {size} rows that were cosigned last")))
            }
            (decision, _) => {
                Err(nothing(&format!("the node's request makes no sense ({})", decision.response().status())))
            }
        }
    }

    fn store(&self, head: &Head) -> Result<(), CliError> {
        let path = self.path(&head.node);
        let text = serde_json::to_vec_pretty(head).map_err(|error| failed(&path, &error))?;
        fsio::write_atomic(&path, &text, 0o600).map_err(|error| failed(&path, &error))
    }
}

/// A kept head, with its signature checked again: what somebody else wrote into
/// the folder is nothing that was cosigned.
fn opened(head: &Head, key: &VerifierKey) -> Result<WitnessedHead, CliError> {
    let wrong =
        |why: String| CliError::failed("nothing was cosigned", format!("the head that is kept is damaged: {why}"));
    let note = Note::parse(head.note.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    let checkpoint = Checkpoint::open(&note, key).map_err(|error| wrong(error.to_string()))?;
    Ok(WitnessedHead { size: checkpoint.size, root: checkpoint.root, note, time_s: head.time_s })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;
    use osmoda_ledger::record::ChainHash;
    use osmoda_ledger::tree::{Frontier, TreeHash};
    use osmoda_types::statement::public_key;

    const NODE: NodeId = NodeId::from_bytes([1; 32]);

    fn ledger() -> SigningKey {
        SigningKey::from_bytes(&[3; 32])
    }

    /// The checkpoint of a ledger whose leaves are these bytes.
    fn request(old: u64, leaves: &[u8], proof: Vec<TreeHash>) -> AddCheckpoint {
        let mut tree = Frontier::new();
        leaves.iter().for_each(|leaf| tree.append(TreeHash::of_leaf(&[*leaf])));
        let origin = format!("osmoda.ledger/{}", public_key(&ledger()));
        let checkpoint = Checkpoint { origin, size: tree.size(), root: tree.root(), chain: ChainHash::GENESIS };
        AddCheckpoint { old, proof, note: checkpoint.sign(&ledger()).unwrap() }
    }

    fn judge(kept: &Kept, request: &AddCheckpoint) -> Judged {
        let key = SigningKey::from_bytes(&[4; 32]);
        kept.judge(NODE, public_key(&ledger()), request, (&key, public_key(&key)), 100).unwrap()
    }

    fn leaf(byte: u8) -> TreeHash {
        TreeHash::of_leaf(&[byte])
    }

    #[test]
    fn a_ledger_that_grows_is_cosigned_and_its_head_is_kept_first() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        let Judged::Cosigned { size: 1, line } = judge(&kept, &request(0, &[1], vec![])) else { panic!("cosigned") };
        assert!(line.name().starts_with("osmoda.witness/"));
        assert_eq!(heads(dir.path()).unwrap()[&NODE], kept.head(&NODE).unwrap().unwrap());
        assert!(matches!(judge(&kept, &request(1, &[1, 2], vec![leaf(2)])), Judged::Cosigned { size: 2, .. }));
        assert!(matches!(judge(&kept, &request(2, &[1, 2], vec![])), Judged::Cosigned { size: 2, .. }));
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(kept.path(&NODE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(Kept::open(dir.path()).is_err(), "one process cosigns at a time");
    }

    #[test]
    fn a_ledger_that_contradicts_itself_is_caught_and_not_cosigned() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        judge(&kept, &request(0, &[1, 2], vec![]));
        let before = kept.head(&NODE).unwrap();
        let cases = [
            (request(2, &[9, 2, 3], vec![leaf(3)]), "rewritten"),
            (request(2, &[9, 2], vec![]), "two histories of 2 rows"),
            (request(1, &[1], vec![]), "1 rows after it had signed 2"),
        ];
        for (shown, says) in cases {
            let Judged::Caught { what, notes } = judge(&kept, &shown) else { panic!("{says}") };
            assert!(what.contains(says), "{what}");
            assert_eq!(notes, [before.clone().unwrap().note, shown.note.to_string()]);
            assert_eq!(kept.head(&NODE).unwrap(), before);
        }
        let key = SigningKey::from_bytes(&[5; 32]);
        let other = kept.judge(NODE, public_key(&key), &request(2, &[1, 2], vec![]), (&key, public_key(&key)), 1);
        assert!(matches!(other.unwrap(), Judged::Caught { .. }), "another key is another ledger");
    }

    #[test]
    fn a_head_that_somebody_changed_is_no_head() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        judge(&kept, &request(0, &[1, 2], vec![]));
        let mut head = kept.head(&NODE).unwrap().unwrap();
        head.note = head.note.replacen("\n2\n", "\n1\n", 1);
        kept.store(&head).unwrap();
        let key = SigningKey::from_bytes(&[4; 32]);
        let by = (&key as &dyn Signer, public_key(&key));
        let judged = kept.judge(NODE, public_key(&ledger()), &request(1, &[1, 2], vec![leaf(2)]), by, 1);
        assert!(judged.unwrap_err().why.contains("damaged"));
    }
}
