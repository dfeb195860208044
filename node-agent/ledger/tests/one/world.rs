//! A ledger in memory, and witnesses beside it.

use std::convert::Infallible;

use ed25519_dalek::SigningKey;
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::exchange::{AddCheckpoint, Response};
use osmoda_ledger::note::{KeyKind, Note, Signer, VerifierKey};
use osmoda_ledger::record::{ChainHash, Head, Row};
use osmoda_ledger::tree::{Frontier, HashSource, Node, TreeHash, consistency};
use osmoda_ledger::verify::{Report, Verifier};
use osmoda_ledger::witness::{Decision, Witness, WitnessedHead};

pub(crate) const ORIGIN: &str = "osmoda.ledger/test";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: i64,
    pub(crate) ts: String,
    pub(crate) kind: String,
    pub(crate) actor: String,
    pub(crate) payload: String,
    pub(crate) prev_hash: String,
    pub(crate) hash: String,
}

impl Entry {
    pub(crate) fn row(&self) -> Row<'_> {
        Row {
            id: self.id,
            ts: self.ts.as_bytes(),
            kind: self.kind.as_bytes(),
            actor: self.actor.as_bytes(),
            payload: self.payload.as_bytes(),
            prev_hash: self.prev_hash.as_bytes(),
            hash: self.hash.as_bytes(),
        }
    }

    pub(crate) fn seal(&mut self) {
        self.hash = self.row().expected_hash().to_string();
    }

    pub(crate) fn leaf(&self) -> TreeHash {
        let Entry { id, ts, kind, actor, payload, prev_hash, .. } = self;
        TreeHash::of_leaf(format!("{id}|{ts}|{kind}|{actor}|{payload}|{prev_hash}").as_bytes())
    }
}

/// A ledger whose owner holds its key, as root on its host does.
#[derive(Clone)]
pub(crate) struct Ledger {
    pub(crate) rows: Vec<Entry>,
    pub(crate) key: SigningKey,
}

impl Ledger {
    pub(crate) fn of(size: usize) -> Self {
        let mut ledger = Self { rows: Vec::new(), key: SigningKey::from_bytes(&[1; 32]) };
        (0..size).for_each(|n| ledger.append(&format!(r#"{{"n":{n}}}"#)));
        ledger
    }

    pub(crate) fn append(&mut self, payload: &str) {
        let id = self.rows.len() as i64 + 1;
        let prev_hash = self.rows.last().map_or_else(|| ChainHash::GENESIS.to_string(), |row| row.hash.clone());
        let mut entry = Entry {
            id,
            ts: format!("2026-01-01T00:{:02}:{:02}.000Z", id / 60 % 60, id % 60),
            kind: "test.row".to_owned(),
            actor: "watch".to_owned(),
            payload: payload.to_owned(),
            prev_hash,
            hash: String::new(),
        };
        entry.seal();
        self.rows.push(entry);
    }

    /// What root does who has read the source: makes every link and hash right again.
    pub(crate) fn rehash(&mut self) {
        let mut last = ChainHash::GENESIS.to_string();
        for (n, row) in self.rows.iter_mut().enumerate() {
            row.id = n as i64 + 1;
            row.prev_hash = last;
            row.seal();
            last = row.hash.clone();
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.rows.len() as u64
    }

    pub(crate) fn verifier(&self) -> VerifierKey {
        VerifierKey::new(ORIGIN, KeyKind::Log, &Signer::public(&self.key)).unwrap()
    }

    pub(crate) fn root(&self) -> TreeHash {
        let mut frontier = Frontier::new();
        self.rows.iter().for_each(|row| frontier.append(row.leaf()));
        frontier.root()
    }

    pub(crate) fn note(&self) -> Note {
        let chain = self.rows.last().map_or(ChainHash::GENESIS, |row| row.row().expected_hash());
        let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size: self.size(), root: self.root(), chain };
        checkpoint.sign(&self.key).unwrap()
    }

    pub(crate) fn request(&self, old: u64) -> AddCheckpoint {
        let proof = consistency(&mut Leaves(&self.rows), old.min(self.size()), self.size()).unwrap();
        AddCheckpoint { old, proof, note: self.note() }
    }

    pub(crate) fn report(&self) -> Report {
        let mut verifier = Verifier::new();
        self.rows.iter().for_each(|row| {
            verifier.feed(&row.row(), |_| {});
        });
        verifier.finish(None, |_| {})
    }

    pub(crate) fn head(&self) -> Head {
        self.report().head
    }
}

struct Leaves<'a>(&'a [Entry]);

impl HashSource for Leaves<'_> {
    type Error = Infallible;

    fn hash(&mut self, node: Node) -> Result<TreeHash, Infallible> {
        let from = (node.index << node.level) as usize;
        let mut frontier = Frontier::new();
        self.0[from..from + (1 << node.level)].iter().for_each(|row| frontier.append(row.leaf()));
        Ok(frontier.root())
    }
}

/// A witness that does its caller's two duties.
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) key: SigningKey,
    pub(crate) held: Option<WitnessedHead>,
    pub(crate) known: VerifierKey,
}

impl Peer {
    pub(crate) fn of(ledger: &Ledger, n: u8) -> Self {
        let key = SigningKey::from_bytes(&[100 + n; 32]);
        Self { name: format!("osmoda.witness/{n}"), key, held: None, known: ledger.verifier() }
    }

    pub(crate) fn verifier(&self) -> VerifierKey {
        VerifierKey::new(&self.name, KeyKind::Witness, &Signer::public(&self.key)).unwrap()
    }

    pub(crate) fn judge(&self, request: &AddCheckpoint, now_s: u64) -> Decision {
        let witness = Witness { name: &self.name, signer: &self.key };
        witness.judge(Some(&self.known), self.held.as_ref(), request, now_s).unwrap()
    }

    pub(crate) fn answer(&mut self, request: &AddCheckpoint) -> Response {
        // Over the wire and back, as in life.
        let request = AddCheckpoint::parse(request.to_string().as_bytes()).unwrap();
        let decision = self.judge(&request, 1_800_000_000);
        if let Decision::Accept { new, .. } = &decision {
            self.held = Some((**new).clone());
        }
        let response = decision.response();
        assert_eq!(Response::parse(response.status(), &response.body()).unwrap(), response);
        response
    }
}
