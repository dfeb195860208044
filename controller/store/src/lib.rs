//! What the controller keeps, behind one trait.
//!
//! Everything here but manifests, tokens and what nodes reported is a
//! projection of the fleet log: it can be lost and made again by reading the
//! log from the beginning. Invariant: `applied_index`, the rollouts and the
//! events of one [`Projection`] become visible together or not at all, so an
//! event is never told twice (conformance `projection_is_atomic_and_in_order`).
//!
//! No rule of the fleet is decided here, and documents are opaque texts.

#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod sqlite;

use std::pin::Pin;

use osmoda_types::{ManifestHash, NodeId, RolloutId};

pub use error::StoreError;
pub use sqlite::SqliteStore;

/// What every method of [`Store`] returns: boxed, so that the trait can be a
/// `dyn` and the controller is one type whatever the database.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// How far the log has been applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rollouts and events are those of the log up to here.
    pub applied_index: u64,
    /// The state machine to start from after a restart.
    pub snapshot: Option<Snapshot>,
}

/// The state machine at one log index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The index of the last entry it contains.
    pub index: u64,
    /// The state machine's own encoding.
    pub bytes: Vec<u8>,
}

/// What a run of log entries changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Projection {
    /// The index of the last entry of the run.
    pub applied_index: u64,
    /// A new snapshot, when one is due; its index is at most `applied_index`.
    pub snapshot: Option<Snapshot>,
    /// Rollouts that are new or changed.
    pub rollouts: Vec<RolloutRow>,
    /// What happened, in order; each index is above the stored one.
    pub events: Vec<NewEvent>,
}

/// A rollout as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutRow {
    /// Its id.
    pub id: RolloutId,
    /// The text of its state.
    pub state: String,
    /// Whether it is over.
    pub terminal: bool,
    /// The log index of its proposal; the order of lists.
    pub proposed_index: u64,
    /// The log index of its last change.
    pub updated_index: u64,
    /// When it was first stored, milliseconds since 1970. Later rows of the
    /// same rollout do not change it.
    pub created_ms: i64,
    /// When it was last stored, milliseconds since 1970.
    pub updated_ms: i64,
    /// The REST document, JSON.
    pub document: String,
}

/// An event that has no id yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The log index whose entry caused it.
    pub index: u64,
    /// The rollout it belongs to.
    pub rollout: Option<RolloutId>,
    /// When it was applied, milliseconds since 1970.
    pub at_ms: i64,
    /// The event's body, JSON.
    pub body: String,
}

/// An event as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Its id: greater than that of every earlier event.
    pub id: u64,
    /// What was stored.
    pub event: NewEvent,
}

/// Which events exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventBounds {
    /// The id of the oldest kept event; 0 when there is none.
    pub oldest: u64,
    /// The id of the newest event ever stored; 0 when there was none.
    pub newest: u64,
}

/// What a node last said about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSeen {
    /// The node.
    pub node: NodeId,
    /// When it was last heard, milliseconds since 1970.
    pub last_seen_ms: i64,
    /// Its report, JSON.
    pub report: String,
}

/// The head of a node's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadRow {
    /// The node.
    pub node: NodeId,
    /// How many rows its ledger has.
    pub size: u64,
    /// The hash of its last row.
    pub hash: String,
    /// When it was received, milliseconds since 1970.
    pub seen_ms: i64,
    /// Whether any head of this node ever contradicted an earlier one.
    pub broken: bool,
}

/// What a new ledger head means beside the stored one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadChange {
    /// The first head of this node, or a larger ledger.
    Advanced,
    /// The same head again.
    Unchanged,
    /// Fewer rows than before, or another hash for the same number: the ledger
    /// was rewritten. The stored head stays and is marked broken.
    Contradicts,
}

/// What a node last said of its own ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRow {
    /// The node.
    pub node: NodeId,
    /// When it was received, milliseconds since 1970.
    pub received_ms: i64,
    /// The report, JSON.
    pub document: String,
}

/// The newest note that a witness holds of another node's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRow {
    /// The witness.
    pub witness: NodeId,
    /// Whose ledger.
    pub node: NodeId,
    /// Its size, as the witness says.
    pub size: u64,
    /// The note.
    pub note: String,
    /// When it was cosigned, in seconds since 1970.
    pub time_s: u64,
}

/// A ledger caught by a witness. It is kept for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlarmRow {
    /// The witness.
    pub witness: NodeId,
    /// Whose ledger.
    pub node: NodeId,
    /// `forked`, `rewritten` or `shortened`.
    pub finding: String,
    /// The note it signed before.
    pub held: String,
    /// The note it signed later.
    pub shown: String,
    /// When the witness saw it, in seconds since 1970.
    pub time_s: u64,
    /// When it was received, milliseconds since 1970.
    pub received_ms: i64,
}

/// Alarms kept of one witness about one ledger, as many as it keeps itself: one
/// that invents them must not fill the disk, and a ledger that is caught again and
/// again must not hide another.
pub const ALARMS_OF_A_WITNESS_MAX: u32 = 8;

/// Held notes kept of one witness: four times the largest fleet, for members
/// that left.
pub const HELD_OF_A_WITNESS_MAX: u32 = 4_096;

/// The controller's database.
///
/// # Cancel safety
/// Dropping a future leaves either the whole effect or none.
pub trait Store: Send + Sync + 'static {
    /// Reads how far the log has been applied.
    fn progress(&self) -> StoreFuture<'_, Progress>;

    /// Stores what a run of entries changed; returns the newest event id.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when `applied_index` is behind the stored one or
    /// an event is not above it: two controllers write one database.
    fn commit(&self, projection: Projection) -> StoreFuture<'_, u64>;

    /// Reads one rollout.
    fn rollout(&self, id: RolloutId) -> StoreFuture<'_, Option<RolloutRow>>;

    /// Reads up to `limit` rollouts, newest first, below the given position.
    fn rollouts(&self, below: Option<(u64, RolloutId)>, limit: u32) -> StoreFuture<'_, Vec<RolloutRow>>;

    /// Reads up to `limit` events after an id, oldest first, of one rollout or all.
    fn events(&self, rollout: Option<RolloutId>, after: u64, limit: u32) -> StoreFuture<'_, Vec<EventRow>>;

    /// Reads which events exist.
    fn event_bounds(&self) -> StoreFuture<'_, EventBounds>;

    /// Deletes all but the newest `keep` events; returns how many went.
    fn prune_events(&self, keep: u64) -> StoreFuture<'_, u64>;

    /// Stores a manifest. The caller has checked the hash; repeating is harmless.
    fn put_manifest(&self, hash: ManifestHash, bytes: Vec<u8>, stored_ms: i64) -> StoreFuture<'_, ()>;

    /// Reads a manifest's exact bytes.
    fn manifest(&self, hash: ManifestHash) -> StoreFuture<'_, Option<Vec<u8>>>;

    /// Stores what nodes last said, in one transaction.
    fn nodes_seen(&self, rows: Vec<NodeSeen>) -> StoreFuture<'_, ()>;

    /// Reads what all nodes last said, by id.
    fn nodes(&self) -> StoreFuture<'_, Vec<NodeSeen>>;

    /// Compares a ledger head with the stored one and stores it if it advances.
    fn record_head(&self, head: HeadRow) -> StoreFuture<'_, HeadChange>;

    /// Reads all ledger heads, by node.
    fn ledger_heads(&self) -> StoreFuture<'_, Vec<HeadRow>>;

    /// Stores what a node last said of its own ledger.
    fn record_ledger(&self, row: LedgerRow) -> StoreFuture<'_, ()>;

    /// Reads what all nodes last said of their own ledgers, by node.
    fn ledgers(&self) -> StoreFuture<'_, Vec<LedgerRow>>;

    /// Stores what witnesses hold, in one transaction; of a witness at most
    /// [`HELD_OF_A_WITNESS_MAX`], further ones are left out.
    fn record_held(&self, rows: Vec<HeldRow>) -> StoreFuture<'_, ()>;

    /// Reads what the witnesses hold of one node's ledger, by witness.
    fn held_of(&self, node: NodeId) -> StoreFuture<'_, Vec<HeldRow>>;

    /// Stores an alarm; returns whether it is new. Of a witness about one
    /// ledger at most [`ALARMS_OF_A_WITNESS_MAX`], the first ones.
    fn record_alarm(&self, row: AlarmRow) -> StoreFuture<'_, bool>;

    /// Reads the alarms, in the order they came.
    fn alarms(&self) -> StoreFuture<'_, Vec<AlarmRow>>;

    /// Reads the hash of a token.
    fn token_hash(&self, name: &str) -> StoreFuture<'_, Option<Vec<u8>>>;

    /// Sets the hash of a token.
    fn set_token_hash(&self, name: &str, hash: Vec<u8>) -> StoreFuture<'_, ()>;

    /// Closes every connection; the last step of the staged stop.
    fn close(&self) -> StoreFuture<'_, ()>;
}
