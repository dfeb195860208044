//! The duty of a witness: cosign what other ledgers show, and catch them when
//! they contradict themselves.
//!
//! Invariant: a peer is a witnessed ledger only by the key that the fleet's log
//! has for it, whatever its question says; and what it is answered was durable
//! before. A witness that lost what it held begins with what the log remembers, and
//! one that did not lets itself be shown that the log's head is the same past
//! (`osmoda_ledger::anchor`).

use std::sync::{Arc, Mutex, PoisonError};

use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::http::Isolation;
use osmoda_kit::tasks::Tasks;
use osmoda_ledger::exchange::AddCheckpoint;
use osmoda_ledger::note::VerifierKey;
use osmoda_ledger::witness::Witness;
use osmoda_node_api::witness::{Alarm, HeldNote, LoggedHead, Peer, Question, Reply, Roster};
use osmoda_types::{ErrorCode, NodeId};
use serde_json::{Map, json};
use tokio::sync::watch;

use super::logged;
use super::store::{Asked, Judged, WitnessError, WitnessStore, text_of};
use crate::ledger::Ledger;
use crate::ledger_key::{self, LedgerKey};

/// The type of the row that says that another ledger was caught.
const ALARM_TYPE: &str = "witness.alarm";

/// The status of a body that is no request, as C2SP gives it.
const BAD_REQUEST: u16 = 400;

/// Answers peers; cheap to clone.
#[derive(Clone)]
pub(crate) struct Duty {
    inner: Arc<Inner>,
    roster: watch::Receiver<Option<Arc<Roster>>>,
}

struct Inner {
    store: Mutex<WitnessStore>,
    key: LedgerKey,
    name: String,
    ledger: Ledger,
    clock: SharedClock,
    tasks: Tasks,
    isolation: Isolation,
}

/// What a duty is done with.
pub(crate) struct DutyParts {
    pub(crate) store: WitnessStore,
    pub(crate) key: LedgerKey,
    pub(crate) ledger: Ledger,
    pub(crate) clock: SharedClock,
    pub(crate) tasks: Tasks,
    pub(crate) isolation: Isolation,
    pub(crate) roster: watch::Receiver<Option<Arc<Roster>>>,
}

impl Duty {
    pub(crate) fn new(parts: DutyParts) -> Self {
        let DutyParts { store, key, ledger, clock, tasks, isolation, roster } = parts;
        let name = ledger_key::witness_name(&key.public());
        Self { inner: Arc::new(Inner { store: Mutex::new(store), key, name, ledger, clock, tasks, isolation }), roster }
    }

    /// Answers one question of a peer.
    ///
    /// # Errors
    /// `LedgerUnavailable` when nothing can be stored; then nothing was cosigned.
    ///
    /// # Cancel safety
    /// What was stored stays; the peer asks again and is told its size.
    pub(crate) async fn answer(&self, peer: NodeId, question: Question) -> Result<Reply, ApiError> {
        let key = self.key_of(peer);
        match question {
            Question::AddCheckpoint(request) => self.add_checkpoint(peer, key, request, None).await,
            Question::Anchored { request, anchor } => self.add_checkpoint(peer, key, request, Some(anchor)).await,
            Question::Held => {
                let Some(key) = key else { return Ok(Reply::Held(None)) };
                let held = self.blocking(move |inner| inner.store().held(&key)).await?;
                Ok(Reply::Held(held.map(|head| head.note.to_string())))
            }
        }
    }

    /// What this node holds, and whom it caught.
    ///
    /// # Errors
    /// `LedgerUnavailable`.
    pub(crate) async fn report(&self) -> Result<(Vec<HeldNote>, Vec<Alarm>), ApiError> {
        self.blocking(|inner| {
            let store = inner.store();
            Ok((store.all_held()?, store.alarms()?))
        })
        .await
    }

    async fn add_checkpoint(
        &self,
        peer: NodeId,
        key: Option<VerifierKey>,
        request: String,
        anchor: Option<String>,
    ) -> Result<Reply, ApiError> {
        // A host whose own past is in doubt vouches for nobody's.
        if self.inner.ledger.sealed().is_some() {
            return Err(ApiError::new(ErrorCode::LedgerUnavailable, "the ledger of this witness is sealed"));
        }
        let parse = |body: String| AddCheckpoint::parse(body.as_bytes());
        let (Ok(request), Ok(anchor)) = (parse(request), anchor.map(parse).transpose()) else {
            return Ok(Reply::Judged { status: BAD_REQUEST, body: String::new() });
        };
        let logged = self.peer(peer).and_then(|peer| peer.logged);
        let judged = self.blocking(move |inner| inner.judge(peer, key.as_ref(), logged, (&request, anchor.as_ref())));
        let judged = judged.await?;
        if let Some(alarm) = &judged.alarm {
            self.record(alarm).await;
        }
        let response = judged.decision.response();
        Ok(Reply::Judged { status: response.status(), body: response.body() })
    }

    /// Tells this node's own ledger; the alarm itself is durable already.
    async fn record(&self, alarm: &Alarm) {
        let finding = text_of(alarm.finding);
        tracing::error!(node = %alarm.node, finding, "another node's ledger contradicts what it signed before");
        metrics::counter!("osmoda_witness_alarms_total").increment(1);
        let payload = Map::from_iter([
            ("node".to_owned(), json!(alarm.node)),
            ("finding".to_owned(), json!(finding)),
            ("held".to_owned(), json!(alarm.held)),
            ("shown".to_owned(), json!(alarm.shown)),
        ]);
        let row = crate::api::new_row(ALARM_TYPE.to_owned(), payload, "agentd", self.inner.isolation);
        let written = match row {
            Ok(row) => self.inner.ledger.append(row).await.map_err(crate::api::ledger_error),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::error!(code = %error.code, error = %error.message, "the alarm is not in the ledger");
        }
    }

    /// The key of a peer's ledger, as the fleet's log has it.
    fn key_of(&self, peer: NodeId) -> Option<VerifierKey> {
        ledger_key::verifier(self.peer(peer)?.key?.as_bytes()).ok()
    }

    fn peer(&self, peer: NodeId) -> Option<Peer> {
        let roster = self.roster.borrow().clone()?;
        roster.others.iter().find(|other| other.node == peer).cloned()
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, WitnessError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let inner = Arc::clone(&self.inner);
        let done = self.inner.tasks.blocking("witness", move || work(&inner)).await.map_err(ApiError::internal)?;
        done.map_err(|error| {
            tracing::error!(error = chain(&error), "this node cannot do its duty as a witness");
            ApiError::new(ErrorCode::LedgerUnavailable, error.to_string()).with_source(error)
        })
    }
}

impl Inner {
    /// Each use is one transaction, so a panic leaves nothing half-made.
    fn store(&self) -> std::sync::MutexGuard<'_, WitnessStore> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(
        &self,
        peer: NodeId,
        key: Option<&VerifierKey>,
        logged: Option<LoggedHead>,
        (request, anchor): (&AddCheckpoint, Option<&AddCheckpoint>),
    ) -> Result<Judged, WitnessError> {
        let witness = Witness { name: &self.name, signer: &self.key };
        let now_s = u64::try_from(self.clock.now_wall().as_millis() / 1000).unwrap_or(0);
        let mut store = self.store();
        let logged = key.zip(logged).and_then(|(key, logged)| logged::witnessed(&logged, key, now_s));
        if let (Some(key), Some(logged)) = (key, &logged) {
            store.seed(peer, key, logged)?;
        }
        store.judge(&witness, peer, key, Asked { request, anchor, logged: logged.as_ref() }, now_s)
    }
}
