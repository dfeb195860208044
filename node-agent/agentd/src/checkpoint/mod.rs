//! Checkpoints: once a second while rows come in, and at least once a minute,
//! the ledger signs what it is, so that whoever keeps one can tell later
//! whether anything before it was changed.
//!
//! `store` keeps them, `prover` makes tiles and proofs, `open` starts all of it,
//! `api` has the endpoints, `watchman` verifies the whole ledger on a timer.
//!
//! Invariant: what is signed is durable and was computed twice, by the writer
//! from the rows it wrote and by the prover from the rows it read back.

mod api;
mod open;
mod prover;
mod store;
#[cfg(test)]
pub(crate) mod tests;
mod watchman;

pub use open::{OpenAll, OpenAllError, Opened};
pub use prover::{Consistency, Inclusion, ProveError, Prover, TILES_FOLDER, TileFolder};
pub use store::{CheckpointStore, FILE_NAME, StoreError};
pub use watchman::{Watched, Watchman};

pub(crate) use api::router;
pub(crate) use watchman::EVERY;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::http::Isolation;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{BlockingFailed, Tasks};
use osmoda_ledger::checkpoint::{Checkpoint, CheckpointError};
use osmoda_ledger::exchange::AddCheckpoint;
use osmoda_ledger::note::{KeyKind, Note, NoteError, NoteSignature, VerifierKey};
use osmoda_ledger::tree::Edge;
use osmoda_types::ErrorCode;
use serde_json::{Map, json};
use tokio::sync::{mpsc, oneshot, watch};

use crate::ledger::{Ledger, LedgerError};
use crate::ledger_key::LedgerKey;

/// When the ledger signs by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// How often while it grows: the window that a cut tail can hide in.
    pub every: Duration,
    /// How long it may stay silent before it writes a row to say that it is
    /// alive. A witness takes a longer silence for one that was made.
    pub heartbeat: Duration,
}

impl Default for Rhythm {
    /// What `trust.md` 1.3 asks for: each second, and each minute.
    fn default() -> Self {
        Self { every: Duration::from_secs(1), heartbeat: Duration::from_secs(60) }
    }
}

/// Callers that may wait for a checkpoint at once. One is made for all of them,
/// so this is as many as may wait for a commit.
const ASKED_MAX: usize = 1024;

/// The type of the row that says that the ledger is alive.
const HEARTBEAT_TYPE: &str = "ledger.heartbeat";

/// A checkpoint was not made, or something about one not done.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointFailed {
    /// The ledger cannot be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The checkpoint cannot be saved or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tiles cannot be made, or no proof can.
    #[error(transparent)]
    Prove(#[from] ProveError),
    /// The key cannot sign.
    #[error("cannot sign the checkpoint")]
    Sign(#[from] NoteError),
    /// The rows read back have another root than the rows that were written.
    #[error("the rows up to {size} read back are not those that were written")]
    Disagree {
        /// At which size.
        size: u64,
    },
    /// A stored checkpoint is not one of this ledger.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// There is no checkpoint of that size.
    #[error("there is no checkpoint of {size} rows")]
    Unknown {
        /// The size.
        size: u64,
    },
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
    /// A thread was lost.
    #[error(transparent)]
    Blocking(#[from] BlockingFailed),
}

impl From<CheckpointFailed> for ApiError {
    fn from(error: CheckpointFailed) -> Self {
        let code = match &error {
            CheckpointFailed::Ledger(LedgerError::Busy) => ErrorCode::Busy,
            CheckpointFailed::Unknown { .. } | CheckpointFailed::Prove(ProveError::NotThere { .. }) => {
                ErrorCode::NotFound
            }
            CheckpointFailed::Prove(ProveError::Wrong(_)) => ErrorCode::BadRequest,
            CheckpointFailed::Disagree { .. } => ErrorCode::LedgerBroken,
            CheckpointFailed::Stopping => ErrorCode::ShuttingDown,
            CheckpointFailed::Sign(_) | CheckpointFailed::Checkpoint(_) | CheckpointFailed::Blocking(_) => {
                ErrorCode::Internal
            }
            _ => ErrorCode::LedgerUnavailable,
        };
        ApiError::new(code, error.to_string()).with_source(error)
    }
}

/// A checkpoint and its note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// The note, with the ledger's signature.
    pub note: Note,
}

type Ask = oneshot::Sender<Arc<SignedCheckpoint>>;

/// The handle; cheap to clone.
#[derive(Clone)]
pub struct Checkpoints {
    inner: Arc<Inner>,
    newest: watch::Receiver<Option<Arc<SignedCheckpoint>>>,
    asks: mpsc::Sender<Ask>,
}

struct Inner {
    ledger: Ledger,
    key: LedgerKey,
    verifier: VerifierKey,
    store: Mutex<CheckpointStore>,
    prover: Mutex<Prover>,
    tasks: Tasks,
    isolation: Isolation,
    rhythm: Rhythm,
}

/// The task that signs; run it once.
pub struct Signing {
    inner: Arc<Inner>,
    publish: watch::Sender<Option<Arc<SignedCheckpoint>>>,
    asked: mpsc::Receiver<Ask>,
}

impl Checkpoints {
    /// The handle and the task behind it.
    ///
    /// # Errors
    /// [`CheckpointFailed`] when the newest stored checkpoint is not one of this
    /// ledger's key.
    pub fn new(
        opened: Opened,
        tasks: Tasks,
        isolation: Isolation,
        rhythm: Rhythm,
    ) -> Result<(Self, Signing), CheckpointFailed> {
        let Opened { ledger, key, store, prover, .. } = opened;
        let verifier = key.verifier()?;
        let newest = match store.newest()? {
            None => None,
            Some(note) => Some(Arc::new(SignedCheckpoint { checkpoint: Checkpoint::open(&note, &verifier)?, note })),
        };
        let (publish, newest) = watch::channel(newest);
        let (asks, asked) = mpsc::channel(ASKED_MAX);
        let (store, prover) = (Mutex::new(store), Mutex::new(prover));
        let inner = Arc::new(Inner { ledger, key, verifier, store, prover, tasks, isolation, rhythm });
        Ok((Self { inner: Arc::clone(&inner), newest, asks }, Signing { inner, publish, asked }))
    }

    /// The key that checks this ledger's checkpoints.
    #[must_use]
    pub fn verifier(&self) -> &VerifierKey {
        &self.inner.verifier
    }

    /// The same key, as hex: how the fleet's log has it.
    #[must_use]
    pub fn public_key(&self) -> String {
        osmoda_types::PublicKey::from_bytes(self.inner.key.public()).to_string()
    }

    /// The newest checkpoint, without cosignatures.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<SignedCheckpoint>> {
        self.newest.borrow().clone()
    }

    /// Follows the newest checkpoint.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Option<Arc<SignedCheckpoint>>> {
        self.newest.clone()
    }

    /// A checkpoint over at least the rows that are durable now, without waiting
    /// for the second to end: what an act that must be witnessed first asks for.
    ///
    /// # Errors
    /// [`CheckpointFailed::Stopping`]; [`CheckpointFailed::Ledger`] when too
    /// many wait.
    ///
    /// # Cancel safety
    /// Dropping it takes nothing back: the checkpoint may be made all the same.
    pub async fn now(&self) -> Result<Arc<SignedCheckpoint>, CheckpointFailed> {
        let (reply, answer) = oneshot::channel();
        self.asks.try_send(reply).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => CheckpointFailed::Ledger(LedgerError::Busy),
            mpsc::error::TrySendError::Closed(_) => CheckpointFailed::Stopping,
        })?;
        answer.await.map_err(|_| CheckpointFailed::Stopping)
    }

    /// The request that brings a witness from `old` rows to that checkpoint.
    ///
    /// # Errors
    /// [`CheckpointFailed::Prove`] with [`ProveError::NotThere`] when the
    /// witness has seen more rows than this ledger has: an old disk.
    pub async fn request(&self, to: &SignedCheckpoint, old: u64) -> Result<AddCheckpoint, CheckpointFailed> {
        let size = to.checkpoint.size;
        if old > size {
            return Err(ProveError::NotThere { have: size, asked: old }.into());
        }
        let proof = if old == 0 || old == size { Vec::new() } else { self.consistency(old, size).await?.hashes };
        Ok(AddCheckpoint { old, proof, note: to.note.clone() })
    }

    /// Checks a witness's line over the checkpoint of `size` rows and saves it.
    /// Returns the checkpoint with all its cosignatures.
    ///
    /// # Errors
    /// [`CheckpointFailed::Unknown`]; [`CheckpointFailed::Sign`] when the line
    /// is not a cosignature of that key over that checkpoint.
    pub async fn add_cosignature(
        &self,
        size: u64,
        witness: VerifierKey,
        line: NoteSignature,
    ) -> Result<Note, CheckpointFailed> {
        self.blocking("cosignature", move |inner| {
            let store = inner.store();
            let note = store.at(size)?.ok_or(CheckpointFailed::Unknown { size })?;
            let signed = note.check_line(&line, &witness)?;
            let time_s = signed.time_s.filter(|_| witness.kind() == KeyKind::Witness);
            let time_s = time_s.ok_or(NoteError::Key("the key is no witness's"))?;
            store.cosign(size, &line, time_s)?;
            Ok(store.at(size)?.unwrap_or(note))
        })
        .await
    }

    /// The newest checkpoint that at least `count` witnesses cosigned, with all
    /// its cosignatures; the newest of all for 0.
    ///
    /// # Errors
    /// [`CheckpointFailed::Store`].
    pub async fn newest_cosigned(&self, count: usize) -> Result<Option<Note>, CheckpointFailed> {
        self.blocking("read checkpoints", move |inner| Ok(inner.store().newest_cosigned(count)?)).await
    }

    /// The proof that row `id` is among the first `size`.
    ///
    /// # Errors
    /// [`CheckpointFailed::Prove`].
    pub async fn inclusion(&self, id: u64, size: u64) -> Result<Inclusion, CheckpointFailed> {
        self.blocking("inclusion proof", move |inner| Ok(inner.prover().inclusion(id, size)?)).await
    }

    /// The proof that the first `from` rows are the beginning of the first `to`.
    ///
    /// # Errors
    /// [`CheckpointFailed::Prove`].
    pub async fn consistency(&self, from: u64, to: u64) -> Result<Consistency, CheckpointFailed> {
        self.blocking("consistency proof", move |inner| Ok(inner.prover().consistency(from, to)?)).await
    }

    /// Why a checkpoint that this ledger's key signed cannot be one of this ledger;
    /// `None` when it is.
    ///
    /// # Errors
    /// [`CheckpointFailed`] when it cannot be compared now.
    pub(crate) async fn denied_by(&self, held: &Checkpoint) -> Result<Option<&'static str>, CheckpointFailed> {
        let newest = match self.newest().filter(|newest| newest.checkpoint.size >= held.size) {
            Some(newest) => newest,
            // It may only be behind what is durable.
            None => self.now().await?,
        };
        let (size, root) = (newest.checkpoint.size, newest.checkpoint.root);
        if held.size > size {
            return Ok(Some("a witness has cosigned more rows than this ledger has: an old disk was restored"));
        }
        // Proven against the signed root, because tiles alone are not to be trusted.
        let own = self.consistency(held.size, size).await?;
        if own.new != root {
            return Err(CheckpointFailed::Disagree { size });
        }
        let differs = own.old != held.root;
        Ok(differs.then_some("a witness has cosigned another past of this ledger: it was rewritten"))
    }

    /// Makes sure of the tiles of the first `size` rows before they are dropped.
    ///
    /// # Errors
    /// [`CheckpointFailed::Prove`].
    pub(crate) async fn settle(&self, size: u64) -> Result<Edge, CheckpointFailed> {
        self.blocking("settle tiles", move |inner| Ok(inner.prover().settle(size)?)).await
    }

    /// The rows before this edge were dropped.
    ///
    /// # Errors
    /// [`CheckpointFailed::Blocking`].
    pub(crate) async fn begin_at(&self, base: Edge) -> Result<(), CheckpointFailed> {
        self.blocking("tiles after retention", move |inner| {
            inner.prover().begin_at(base);
            Ok(())
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce(&Inner) -> Result<T, CheckpointFailed> + Send + 'static,
    ) -> Result<T, CheckpointFailed> {
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.blocking(name, move || work(&inner)).await?
    }
}

impl std::fmt::Debug for Checkpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoints").field("origin", &self.inner.verifier.name()).finish_non_exhaustive()
    }
}

impl Inner {
    /// Each use is one statement or one proof, so a panic leaves nothing half-made.
    fn store(&self) -> MutexGuard<'_, CheckpointStore> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prover(&self) -> MutexGuard<'_, Prover> {
        self.prover.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs what is durable now and saves it; blocks.
    fn sign(&self) -> Result<SignedCheckpoint, CheckpointFailed> {
        let state = self.ledger.state();
        let size = state.head.size;
        if size == 0 {
            return Err(CheckpointFailed::Unknown { size });
        }
        let (have, root) = self.prover().advance(size)?;
        if have == size && root != state.root {
            return Err(CheckpointFailed::Disagree { size });
        }
        let checkpoint = Checkpoint { origin: self.key.origin(), size, root: state.root, chain: state.head.hash };
        let note = checkpoint.sign(&self.key)?;
        self.store().put(size, &note)?;
        Ok(SignedCheckpoint { checkpoint, note })
    }
}

impl Signing {
    /// Signs until the stop, and once more when everything accepted is written.
    pub async fn run(mut self) {
        let stop = self.inner.tasks.shutdown().token(Stage::FinishAccepted);
        let mut tick = tokio::time::interval(self.inner.rhythm.every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut quiet_since = tokio::time::Instant::now();
        loop {
            let mut asks = Vec::new();
            tokio::select! {
                biased;
                // Cancel-safe: a token's state is not consumed.
                () = stop.cancelled() => break,
                // Cancel-safe: `recv_many` takes nothing unless it returns.
                count = self.asked.recv_many(&mut asks, ASKED_MAX) => if count == 0 { break },
                // Cancel-safe: an interval keeps its deadline.
                _ = tick.tick() => {}
            }
            if quiet_since.elapsed() >= self.inner.rhythm.heartbeat {
                self.beat().await;
                // Where it could not be written, it is tried again in as long a time.
                quiet_since = tokio::time::Instant::now();
            }
            if self.is_dirty() || !asks.is_empty() {
                self.sign_and_tell(asks).await;
                quiet_since = tokio::time::Instant::now();
            }
        }
        if self.is_dirty() {
            self.sign_and_tell(Vec::new()).await;
        }
    }

    fn is_dirty(&self) -> bool {
        let size = self.inner.ledger.state().head.size;
        // Of a ledger without rows there is nothing to say.
        size > 0 && self.publish.borrow().as_ref().is_none_or(|newest| newest.checkpoint.size != size)
    }

    async fn sign_and_tell(&self, asks: Vec<Ask>) {
        let inner = Arc::clone(&self.inner);
        let signed = self.inner.tasks.blocking("checkpoint", move || inner.sign()).await;
        match signed.map_err(CheckpointFailed::from).and_then(|signed| signed) {
            Ok(signed) => {
                let signed = Arc::new(signed);
                metrics::gauge!("osmoda_ledger_checkpoint_rows").set(signed.checkpoint.size as f64);
                self.publish.send_replace(Some(Arc::clone(&signed)));
                for ask in asks {
                    // Whoever asked may have gone away; the checkpoint stays.
                    drop(ask.send(Arc::clone(&signed)));
                }
            }
            // Whoever asked sees a closed channel; the next second tries again.
            Err(error) => {
                metrics::counter!("osmoda_ledger_checkpoints_failed_total").increment(1);
                tracing::error!(error = chain(&error), "ledger checkpoint not made");
            }
        }
    }

    async fn beat(&self) {
        let size = self.inner.ledger.state().head.size;
        let payload = Map::from_iter([("rows".to_owned(), json!(size))]);
        let row = crate::api::new_row(HEARTBEAT_TYPE.to_owned(), payload, "agentd", self.inner.isolation);
        let written = match row {
            Ok(row) => self.inner.ledger.append(row).await.map_err(crate::api::ledger_error),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!(code = %error.code, error = %error.message, "ledger heartbeat not written");
        }
    }
}
