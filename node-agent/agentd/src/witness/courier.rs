//! Brings this ledger's checkpoints to its witnesses, and believes them when
//! they show that they remember more than the ledger does.
//!
//! One actor owns what each witness has cosigned; one request to each witness is
//! on its way at a time, so a slow one holds up nobody else.
//! Invariant: a ledger whose witnesses or whose fleet hold a newer or another
//! past than it has is sealed: it takes no row until a person has looked. The seal is
//! tried again each second, and at a stop once more, until it is on disk.
//! Invariant: only a note that this ledger's own key signed seals it. A refusal
//! alone is a word, and any witness may lie (`tests::lies`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::Tasks;
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::exchange::{AddCheckpoint, Response};
use osmoda_ledger::note::{KeyKind, Note, VerifierKey};
use osmoda_node_api::witness::{LoggedHead, Question, Reply, Roster};
use osmoda_types::{ErrorCode, NodeId, PublicKey};
use tokio::sync::watch;

use super::coverage::Coverage;
use super::logged;
use super::operator::{Operators, Told};
use crate::checkpoint::Checkpoints;
use crate::ledger::Ledger;
use crate::ledger_key;

/// How long a witness that failed is left alone. The mesh lets one peer ask
/// twice a second; this leaves room for the checkpoints of acts that wait.
const PAUSE: Duration = Duration::from_secs(1);

/// Times a witness is asked within one turn: its answer says which size it holds, or
/// which head of the log it wants to be shown, so the next request fits unless one of
/// them moved again.
const TRIES: usize = 4;

/// How a witness is reached: the mesh, or in tests something that misbehaves.
pub trait Post: Clone + Send + Sync + 'static {
    /// Asks one question.
    fn ask(&self, witness: NodeId, question: Question) -> BoxFuture<'static, Result<Reply, ApiError>>;
}

/// What a turn with one witness came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It cosigned that many rows.
    Cosigned(u64),
    /// It did not, and nothing is wrong with the ledger.
    Failed,
    /// It does not until the fleet's log has a new head of the ledger.
    Unlogged,
    /// It holds a past that this ledger does not have.
    Denied(&'static str),
}

/// The actor.
pub(crate) struct Courier<P> {
    pub(crate) ledger: Ledger,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) roster: watch::Receiver<Option<Arc<Roster>>>,
    pub(crate) coverage: watch::Sender<Coverage>,
    pub(crate) post: P,
    pub(crate) operators: Operators,
    pub(crate) tasks: Tasks,
}

/// One witness, as the courier sees it.
#[derive(Debug, Clone, Default)]
struct Standing {
    cosigned: u64,
    is_busy: bool,
    rests_until: Option<tokio::time::Instant>,
}

impl Standing {
    fn rest(&mut self) {
        self.rests_until = Some(tokio::time::Instant::now() + PAUSE);
    }
}

impl<P: Post> Courier<P> {
    /// Carries until the stop.
    pub(crate) async fn run(mut self) {
        let stop = self.tasks.shutdown().token(Stage::FinishAccepted);
        let mut newest = self.checkpoints.follow();
        let mut standings: BTreeMap<NodeId, Standing> = BTreeMap::new();
        let mut turns = FuturesUnordered::new();
        let mut tick = tokio::time::interval(PAUSE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: a token's state is not consumed.
                () = stop.cancelled() => break,
                // Cancel-safe: a stream yields each turn once.
                Some((witness, turn)) = turns.next() => self.learn(&mut standings, witness, turn).await,
                // Cancel-safe: a watch keeps its newest value.
                changed = self.roster.changed() => {
                    if changed.is_err() { break }
                    self.take_roster(&mut standings).await;
                }
                // Cancel-safe: as above.
                changed = newest.changed() => if changed.is_err() { break },
                // Cancel-safe: it takes nothing unless it returns.
                told = self.operators.next() => self.take_operator(told),
                // Cancel-safe: an interval keeps its deadline.
                _ = tick.tick() => {
                    self.miss_operators();
                    if let Err(error) = self.write_seal().await {
                        tracing::debug!(error, "the seal of the ledger is still not on disk");
                    }
                }
            }
            let Some(rows) = newest.borrow().as_ref().map(|newest| newest.checkpoint.size) else { continue };
            for (witness, key) in self.witnesses() {
                let Some(standing) = standings.get_mut(&witness) else { continue };
                let rests = standing.rests_until.is_some_and(|until| until > tokio::time::Instant::now());
                if standing.is_busy || rests || standing.cosigned >= rows {
                    continue;
                }
                standing.is_busy = true;
                let (post, checkpoints, from) = (self.post.clone(), self.checkpoints.clone(), standing.cosigned);
                turns.push(async move { (witness, take_turn(&post, &checkpoints, witness, &key, from).await) });
            }
        }
        if let Err(error) = self.write_seal().await {
            tracing::error!(error, "the seal of the ledger is not on disk: a restart opens it");
        }
    }

    fn witnesses(&self) -> Vec<(NodeId, PublicKey)> {
        let roster = self.roster.borrow().clone();
        let others = roster.iter().flat_map(|roster| &roster.others);
        others.filter_map(|other| Some((other.node, other.key?))).collect()
    }

    /// Another node that joins meanwhile is a witness, and no operator is then.
    fn is_alone(&self) -> bool {
        self.roster.borrow().as_ref().is_some_and(|roster| roster.others.is_empty())
    }

    fn take_operator(&mut self, told: Told) {
        if self.is_alone() {
            let operators = &mut self.operators;
            self.coverage.send_modify(|coverage| operators.count(told, coverage));
            metrics::gauge!("osmoda_ledger_covered_rows").set(self.coverage.borrow().rows() as f64);
        }
    }

    fn miss_operators(&self) {
        for key in self.operators.silent() {
            self.coverage.send_if_modified(|coverage| {
                let before = coverage.is_ready();
                coverage.failed(key);
                before != coverage.is_ready()
            });
        }
    }

    async fn take_roster(&self, standings: &mut BTreeMap<NodeId, Standing>) {
        let Some(roster) = self.roster.borrow().clone() else { return };
        let now: Vec<NodeId> = self.witnesses().into_iter().map(|(node, _)| node).collect();
        standings.retain(|node, _| now.contains(node));
        for node in &now {
            standings.entry(*node).or_default();
        }
        self.coverage.send_modify(|coverage| match roster.others.is_empty() {
            true => self.operators.set(coverage),
            false => coverage.set_witnesses(now, roster.needed),
        });
        // The fleet's log remembers for the witnesses that are away.
        if let Some(logged) = &roster.logged
            && let Err(text) = self.compare(logged).await
        {
            self.seal(text).await;
        }
    }

    /// Whether the ledger has what it signed into the fleet's log.
    async fn compare(&self, logged: &LoggedHead) -> Result<(), &'static str> {
        if logged::witnessed(logged, self.checkpoints.verifier(), 0).is_none() {
            tracing::warn!(rows = logged.size, "the fleet's log has a head that this ledger never signed");
            return Ok(());
        }
        let (size, head) = (logged.size, self.ledger.state().head);
        if size > head.size {
            return Err("the fleet's log has a longer ledger of this node: an old disk was restored");
        }
        let hash = logged.hash.to_string();
        let found = self.ledger.read(move |file| file.hash_at(size)).await;
        match found {
            Ok(Ok(Some(found))) if found != hash => {
                Err("the fleet's log has another past of this ledger: it was rewritten")
            }
            // What cannot be read now is compared at the next roster.
            _ => Ok(()),
        }
    }

    async fn learn(&self, standings: &mut BTreeMap<NodeId, Standing>, witness: NodeId, turn: Turn) {
        let Some(standing) = standings.get_mut(&witness) else { return };
        standing.is_busy = false;
        match turn {
            Turn::Cosigned(rows) => {
                standing.cosigned = rows.max(standing.cosigned);
                self.coverage.send_modify(|coverage| coverage.cosigned(witness, rows));
                metrics::gauge!("osmoda_ledger_covered_rows").set(self.coverage.borrow().rows() as f64);
            }
            Turn::Unlogged => {
                standing.rest();
                self.coverage.send_modify(|coverage| {
                    if coverage.waits_for_log(witness) {
                        tracing::warn!(%witness, "a witness waits for a head of this ledger in the fleet's log");
                    }
                });
            }
            Turn::Failed | Turn::Denied(_) => {
                standing.rest();
                self.coverage.send_modify(|coverage| coverage.failed(witness));
                if let Turn::Denied(text) = turn {
                    tracing::error!(%witness, text, "a witness holds another past of this ledger");
                    self.seal(text).await;
                }
            }
        }
    }

    async fn seal(&self, reason: &'static str) {
        if self.ledger.seal(reason) {
            tracing::error!(reason, "the ledger is sealed: it takes no more rows");
            metrics::gauge!("osmoda_ledger_sealed").set(1.0);
            if let Err(error) = self.write_seal().await {
                tracing::error!(error, "the seal of the ledger is not on disk, it is tried again");
            }
        }
    }

    /// Puts a seal on disk that is not there yet. What kept it from being written, a
    /// full disk or too many threads, may pass.
    async fn write_seal(&self) -> Result<(), String> {
        if !self.ledger.is_seal_due() {
            return Ok(());
        }
        let ledger = self.ledger.clone();
        match self.tasks.blocking("write the seal", move || ledger.write_seal()).await {
            Ok(written) => written.map_err(|error| chain(&error)),
            Err(error) => Err(chain(&error)),
        }
    }
}

/// Brings the newest checkpoint to one witness.
async fn take_turn<P: Post>(post: &P, checkpoints: &Checkpoints, witness: NodeId, key: &PublicKey, from: u64) -> Turn {
    match try_turn(post, checkpoints, witness, key, from).await {
        Ok(turn) => turn,
        Err(error) => {
            tracing::debug!(%witness, code = %error.code, error = %error.message, "a witness did not cosign");
            Turn::Failed
        }
    }
}

async fn try_turn<P: Post>(
    post: &P,
    checkpoints: &Checkpoints,
    witness: NodeId,
    key: &PublicKey,
    mut from: u64,
) -> Result<Turn, ApiError> {
    let mut anchor = None;
    for _ in 0..TRIES {
        let Some(newest) = checkpoints.newest() else { return Ok(Turn::Failed) };
        let size = newest.checkpoint.size;
        let is_older = from > size;
        // A ledger that is shorter than it was says so by its own signature: the
        // witness keeps that as evidence.
        let request = match checkpoints.request(&newest, from).await {
            Ok(request) => request,
            Err(_) if is_older => AddCheckpoint { old: size, proof: Vec::new(), note: newest.note.clone() },
            Err(error) => return Err(error.into()),
        };
        let anchored = match anchor {
            Some(head) => Some(checkpoints.request(&newest, head).await?),
            None => None,
        };
        match answer(post, witness, &request, anchored.as_ref()).await? {
            Response::Cosigned(lines) => return keep(checkpoints, size, key, lines).await,
            Response::Conflict { size: held } if (held > size && is_older) || held == request.old => {
                return look(post, checkpoints, witness).await;
            }
            Response::Conflict { size: held } => from = held,
            // A head of more rows than there are is the roster's to judge.
            Response::Unanchored { size: head } if (1..=size).contains(&head) => anchor = Some(head),
            Response::Unanchored { .. } => return Ok(Turn::Failed),
            Response::Unlogged => return Ok(Turn::Unlogged),
            Response::BadProof => return look(post, checkpoints, witness).await,
            // The log does not have this ledger's key at that node yet.
            Response::UnknownOrigin | Response::BadRequest | Response::BadSignature => return Ok(Turn::Failed),
        }
    }
    Ok(Turn::Failed)
}

/// What a refusal is worth: the note that the witness holds, if this ledger's own
/// key signed it and this ledger does not have what it says.
async fn look<P: Post>(post: &P, checkpoints: &Checkpoints, witness: NodeId) -> Result<Turn, ApiError> {
    let Reply::Held(Some(text)) = post.ask(witness, Question::Held).await? else { return Ok(Turn::Failed) };
    let note = Note::parse(text.as_bytes()).ok();
    let held = note.and_then(|note| Checkpoint::open(&note, checkpoints.verifier()).ok());
    let denied = match held {
        Some(held) => checkpoints.denied_by(&held).await?,
        None => None,
    };
    if denied.is_none() {
        tracing::warn!(%witness, "a witness refuses this ledger and shows nothing that contradicts it");
    }
    Ok(denied.map_or(Turn::Failed, Turn::Denied))
}

async fn answer<P: Post>(
    post: &P,
    witness: NodeId,
    request: &AddCheckpoint,
    anchored: Option<&AddCheckpoint>,
) -> Result<Response, ApiError> {
    let malformed = || ApiError::new(ErrorCode::BadRequest, "the witness answered in another form");
    let request = request.to_string();
    let question = match anchored {
        Some(anchor) => Question::Anchored { request, anchor: anchor.to_string() },
        None => Question::AddCheckpoint(request),
    };
    match post.ask(witness, question).await? {
        Reply::Judged { status, body } => Response::parse(status, &body).map_err(|_| malformed()),
        Reply::Held(_) => Err(malformed()),
    }
}

/// Keeps the witness's own line; others in the answer are not asked for.
async fn keep(
    checkpoints: &Checkpoints,
    size: u64,
    key: &PublicKey,
    lines: Vec<osmoda_ledger::note::NoteSignature>,
) -> Result<Turn, ApiError> {
    let public = key.as_bytes();
    let name = ledger_key::witness_name(public);
    let verifier = VerifierKey::new(&name, KeyKind::Witness, public).map_err(ApiError::internal)?;
    let Some(line) = lines.into_iter().find(|line| line.name() == name) else { return Ok(Turn::Failed) };
    let _cosigned: Note = checkpoints.add_cosignature(size, verifier, line).await.map_err(ApiError::from)?;
    Ok(Turn::Cosigned(size))
}
