//! Ledgers of other nodes whose owners show two histories all the time, to a
//! witness that is killed. Whatever it cosigned before it was gone, it must never
//! cosign a head that is not a continuation of it.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use ed25519_dalek::SigningKey;
use osmoda_agentd::ledger_key::{origin, verifier};
use osmoda_kit::error::ApiError;
use osmoda_kit::frames;
use osmoda_kit::testing::{TempRoot, wait_for};
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::exchange::{AddCheckpoint, Response};
use osmoda_ledger::note::{Note, Signer, VerifierKey};
use osmoda_ledger::record::ChainHash;
use osmoda_ledger::tree::{Frontier, HashSource, Node, TreeHash, consistency};
use osmoda_node_api::mesh::{Service, StreamPeer, deliver};
use osmoda_node_api::pipes::{AGENTD_SOCKET, WITNESS};
use osmoda_node_api::witness::{Peer, Question, Reply};
use osmoda_types::{ErrorCode, MeshEpoch, NodeId, PublicKey, Role};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::process::{LIMIT, Tokens};

/// What a ledger has: its leaves.
type History = Vec<TreeHash>;

/// A ledger with two faces.
pub(crate) struct Forker {
    pub(crate) node: NodeId,
    key: SigningKey,
    /// What the witness cosigned last, as far as it said.
    held: History,
    /// What was on its way when it was killed.
    under_way: Vec<History>,
    /// The last face that was refused: it must stay so.
    refused: Option<(u64, History)>,
    /// Leaves made so far, so that no two are the same.
    made: u64,
    pub(crate) cosigned: usize,
    pub(crate) refusals: usize,
}

/// How the witness is reached: as the mesh hands it the streams of its peers.
pub(crate) struct Road<'a> {
    pub(crate) root: &'a TempRoot,
    pub(crate) tokens: &'a Tokens,
    /// The key that the witness's cosignatures must be of.
    pub(crate) witness: &'a VerifierKey,
}

impl Road<'_> {
    async fn ask(&self, from: NodeId, question: &Question) -> Result<Reply, ApiError> {
        let broken = |error: std::io::Error| ApiError::new(ErrorCode::PeerOffline, error.to_string());
        let peer = StreamPeer { node: from, role: Role::Node, epoch: MeshEpoch(1), service: Service::Witness };
        let socket = self.root.paths().socket(AGENTD_SOCKET);
        let mut pipe = deliver(&socket, &self.tokens.credentials("mesh"), &peer, LIMIT).await?;
        frames::write(&mut pipe, question, WITNESS.question_bytes_max).await.map_err(broken)?;
        pipe.shutdown().await.map_err(broken)?;
        let answer: Value = frames::read(&mut pipe, WITNESS.answer_bytes_max).await.map_err(broken)?;
        match answer.get("ok") {
            Some(reply) => Ok(serde_json::from_value(reply.clone()).unwrap()),
            None => Err(ApiError::new(ErrorCode::Internal, answer.to_string())),
        }
    }
}

impl Forker {
    pub(crate) fn new(number: u8) -> Self {
        Self {
            node: NodeId::from_bytes([number; 32]),
            key: SigningKey::from_bytes(&[number; 32]),
            held: History::new(),
            under_way: Vec::new(),
            refused: None,
            made: 0,
            cosigned: 0,
            refusals: 0,
        }
    }

    pub(crate) fn peer(&self) -> Peer {
        let key = Some(PublicKey::from_bytes(Signer::public(&self.key)));
        Peer { node: self.node, name: format!("n{}", self.node.short()), key, logged: None }
    }

    fn note(&self, history: &History) -> Note {
        let checkpoint = Checkpoint {
            origin: origin(&Signer::public(&self.key)),
            size: history.len() as u64,
            root: root(history),
            chain: ChainHash::of_record(root(history).as_bytes()),
        };
        checkpoint.sign(&self.key).unwrap()
    }

    fn longer(&mut self, by: u64) -> History {
        let mut history = self.held.clone();
        for _ in 0..by {
            self.made += 1;
            history.push(TreeHash::of_leaf(&self.made.to_be_bytes()));
        }
        history
    }

    /// Whether the witness cosigned this history, which it is asked to continue
    /// from `old` rows; `None` when it is gone.
    async fn show(&self, road: &Road<'_>, old: u64, history: &History) -> Option<bool> {
        let proof = consistency(&mut Leaves(history), old, history.len() as u64).unwrap();
        let request = AddCheckpoint { old, proof, note: self.note(history) };
        let Ok(reply) = road.ask(self.node, &Question::AddCheckpoint(request.to_string())).await else { return None };
        let Reply::Judged { status, body } = reply else { panic!("{reply:?}") };
        match Response::parse(status, &body).unwrap() {
            Response::Cosigned(lines) => {
                assert_eq!(lines.len(), 1);
                request.note.check_line(&lines[0], road.witness).unwrap();
                Some(true)
            }
            Response::Conflict { .. } | Response::BadProof => Some(false),
            other => panic!("{other:?}"),
        }
    }

    /// Shows two continuations at once until the witness is gone.
    pub(crate) async fn work(&mut self, road: &Road<'_>, cosigned: &AtomicUsize) {
        loop {
            let (one, two) = (self.longer(1 + self.made % 3), self.longer(1 + self.made % 2));
            let old = self.held.len() as u64;
            let (of_one, of_two) = tokio::join!(self.show(road, old, &one), self.show(road, old, &two));
            assert!((of_one, of_two) != (Some(true), Some(true)), "two histories were cosigned");
            let (winner, loser) = match (of_one, of_two) {
                (Some(true), _) => (Some(one), two),
                (_, Some(true)) => (Some(two), one),
                (None, _) | (_, None) => {
                    self.under_way = vec![one, two];
                    return;
                }
                (Some(false), Some(false)) => panic!("a continuation of what is held was refused"),
            };
            self.refused = Some((old, loser));
            self.refusals += 1;
            cosigned.fetch_add(1, SeqCst);
            self.cosigned += 1;
            self.held = winner.unwrap();
            if of_one.is_none() || of_two.is_none() {
                return;
            }
        }
    }

    /// After a restart: the witness holds what it said last, or what was under way
    /// then, and the face that it refused is still refused.
    pub(crate) async fn look_again(&mut self, road: &Road<'_>) {
        // It knows this ledger as soon as it has asked who is in the fleet.
        let held = wait_for("what the witness holds", LIMIT, || async {
            match road.ask(self.node, &Question::Held).await {
                Ok(Reply::Held(Some(note))) => Some(Some(note)),
                Ok(Reply::Held(None)) if self.held.is_empty() && !self.is_stranger(road).await => Some(None),
                _ => None,
            }
        })
        .await;
        let found = held.map(|note| {
            let note = Note::parse(note.as_bytes()).unwrap();
            Checkpoint::open(&note, &verifier(&Signer::public(&self.key)).unwrap()).unwrap()
        });
        let (size, has) = found.map_or((0, TreeHash::of_nothing()), |found| (found.size, found.root));
        let is_it = |history: &History| history.len() as u64 == size && root(history) == has;
        let candidates = std::iter::once(&self.held).chain(&self.under_way);
        let held = candidates.into_iter().find(|history| is_it(history)).cloned();
        let before = self.held.len();
        self.held = held.unwrap_or_else(|| panic!("the witness holds {size} rows, it said {before}"));
        let others = std::mem::take(&mut self.under_way).into_iter().filter(|history| !is_it(history));
        let refused: Vec<_> =
            self.refused.take().into_iter().chain(others.map(|history| (before as u64, history))).collect();
        for (old, history) in refused {
            let is_next = old == self.held.len() as u64;
            match self.show(road, old, &history).await {
                // Nothing of what was under way had been stored: it may be told now.
                Some(true) if is_next => self.held = history,
                Some(true) => panic!("a history that contradicts what was cosigned was cosigned after a restart"),
                Some(false) => self.refusals += 1,
                None => panic!("the witness is gone"),
            }
        }
    }

    /// Whether the witness does not know this ledger yet: it answers 404 then.
    async fn is_stranger(&self, road: &Road<'_>) -> bool {
        let request = AddCheckpoint { old: 1, proof: Vec::new(), note: self.note(&vec![TreeHash::of_nothing(); 2]) };
        let reply = road.ask(self.node, &Question::AddCheckpoint(request.to_string())).await;
        !matches!(reply, Ok(Reply::Judged { status: 409, .. }))
    }
}

fn root(history: &History) -> TreeHash {
    let mut frontier = Frontier::new();
    history.iter().for_each(|leaf| frontier.append(*leaf));
    frontier.root()
}

struct Leaves<'a>(&'a History);

impl HashSource for Leaves<'_> {
    type Error = Infallible;

    fn hash(&mut self, node: Node) -> Result<TreeHash, Infallible> {
        let from = (node.index << node.level) as usize;
        Ok(root(&self.0[from..from + (1 << node.level)].to_vec()))
    }
}
