//! The state machine behind the log, and its snapshots.
//!
//! Invariant: the state is the snapshot plus every entry after it, applied in
//! order, and nothing else; it lives in memory and is rebuilt at each start.
//! Invariant: a snapshot is durable before it is reported, so the log behind
//! it may go.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageError, StorageIOError};
use osmoda_types::RaftId;
use tokio::sync::watch;

use crate::snapshot::SnapshotFile;
use crate::store::{Health, StoreFault};
use crate::types::{
    Batch, Entry, LogId, Replies, Seat, Snapshot, SnapshotBytes, SnapshotMeta, StoredMembership, TypeConfig,
    command_index,
};

/// What the log decides about. Implementations are pure: the same commands in
/// the same order give the same state and the same answers on every voter.
pub trait StateMachine: Send + 'static {
    /// Why a snapshot could not be taken over.
    type RestoreError: std::error::Error + Send + Sync + 'static;

    /// Applies one command and answers it.
    ///
    /// `index` is the command's [`command_index`]: unique and increasing.
    /// Total: a command that cannot be obeyed is answered with a refusal, and
    /// a repeated request with its first answer. A panic stops the voter.
    fn apply(&mut self, index: u64, proposer: RaftId, command: &[u8]) -> Vec<u8>;

    /// The whole state, encoded.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the state by an encoded one.
    ///
    /// # Errors
    /// When the bytes are no state of this version; the voter then stops.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), Self::RestoreError>;
}

/// The state with the log position it stands at.
struct Inner<S> {
    state: S,
    last_applied: Option<LogId>,
    membership: StoredMembership,
}

struct Shared<S> {
    inner: Mutex<Inner<S>>,
    file: SnapshotFile,
    health: Health,
    /// The next index to apply: everything below is in the state.
    applied: watch::Sender<u64>,
}

/// The handle openraft applies through and readers read through.
pub(crate) struct Machine<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Clone for Machine<S> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<S: StateMachine> Machine<S> {
    /// Starts from the snapshot file, or from `empty` without one.
    ///
    /// # Errors
    /// [`StoreFault::Corrupt`] when the snapshot is damaged or of a version
    /// the state machine does not know.
    pub(crate) fn open(empty: S, file: SnapshotFile, health: Health) -> Result<Self, StoreFault> {
        let mut inner = Inner { state: empty, last_applied: None, membership: StoredMembership::default() };
        if let Some((meta, state)) = file.read()? {
            inner.restore(&meta, &state)?;
        }
        let applied = watch::Sender::new(inner.next_index());
        Ok(Self { shared: Arc::new(Shared { inner: Mutex::new(inner), file, health, applied }) })
    }

    /// Reads the state together with the next index to apply.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&S, u64) -> T) -> T {
        let inner = self.lock();
        read(&inner.state, inner.next_index())
    }

    /// The state encoded now, with the next index to apply.
    pub(crate) fn encode(&self) -> (u64, Bytes) {
        self.with(|state, next| (next, state.snapshot().into()))
    }

    /// The last entry that is in the state.
    pub(crate) fn last_applied(&self) -> Option<LogId> {
        self.lock().last_applied
    }

    /// Waits for a snapshot that is being written; no other one is begun.
    pub(crate) async fn close(&self) {
        let file = self.shared.file.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || file.close()).await {
            tracing::warn!(%error, "the snapshot file was not closed");
        }
    }

    /// Follows the next index to apply.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.shared.inner.lock().expect("apply panicked earlier; a half-applied state must not be used")
    }

    fn fail(&self, fault: &StoreFault) -> StorageError<u64> {
        self.shared.health.poison(fault);
        StorageIOError::write_state_machine(AnyError::new(fault)).into()
    }

    /// Runs blocking file work off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&SnapshotFile) -> Result<T, StoreFault> + Send + 'static,
    ) -> Result<T, StorageError<u64>> {
        let file = self.shared.file.clone();
        let done = tokio::task::spawn_blocking(move || work(&file)).await;
        done.unwrap_or_else(|error| Err(StoreFault::Corrupt { reason: format!("snapshot work panicked: {error}") }))
            .map_err(|fault| self.fail(&fault))
    }
}

impl<S: StateMachine> Inner<S> {
    fn next_index(&self) -> u64 {
        self.last_applied.map_or(0, |id| id.index + 1)
    }

    fn restore(&mut self, meta: &SnapshotMeta, state: &[u8]) -> Result<(), StoreFault> {
        self.state
            .restore(state)
            .map_err(|error| StoreFault::Corrupt { reason: format!("snapshot does not restore: {error}") })?;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    fn apply(&mut self, entry: Entry) -> Replies {
        let index = entry.log_id.index;
        self.last_applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Replies::default(),
            EntryPayload::Normal(batch) => self.apply_batch(index, &batch),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Replies::default()
            }
        }
    }

    fn apply_batch(&mut self, index: u64, batch: &Batch) -> Replies {
        let answers = batch.items.iter().zip(0_u16..).map(|(item, position)| {
            self.state.apply(command_index(index, position), batch.proposer, &item.command).into()
        });
        Replies(answers.collect())
    }

    fn meta(&self) -> SnapshotMeta {
        // The id tells two snapshots apart in logs; the index is enough, since
        // equal indexes mean equal states.
        let snapshot_id = self.last_applied.map_or_else(|| "empty".to_owned(), |id| id.to_string());
        SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone(), snapshot_id }
    }
}

impl<S: StateMachine> RaftStateMachine<TypeConfig> for Machine<S> {
    type SnapshotBuilder = Builder<S>;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId>, openraft::StoredMembership<u64, Seat>), StorageError<u64>> {
        let inner = self.lock();
        Ok((inner.last_applied, inner.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Replies>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut inner = self.lock();
        let replies = entries.into_iter().map(|entry| inner.apply(entry)).collect();
        self.shared.applied.send_replace(inner.next_index());
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Builder<S> {
        // The state is encoded here, between two applies, so that the builder,
        // which runs beside later ones, writes exactly this position.
        let inner = self.lock();
        Builder { meta: inner.meta(), state: inner.state.snapshot().into(), machine: self.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotBytes>, StorageError<u64>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotBytes>,
    ) -> Result<(), StorageError<u64>> {
        let (file_meta, state) = (meta.clone(), snapshot.0.clone());
        self.blocking(move |file| file.write(&file_meta, &state)).await?;
        let mut inner = self.lock();
        inner.restore(meta, &snapshot.0).map_err(|fault| self.fail(&fault))?;
        self.shared.applied.send_replace(inner.next_index());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError<u64>> {
        let found = self.blocking(SnapshotFile::read).await?;
        Ok(found.map(|(meta, state)| Snapshot { meta, snapshot: Box::new(SnapshotBytes(state)) }))
    }
}

/// Writes one snapshot beside the applying of later entries.
pub(crate) struct Builder<S> {
    meta: SnapshotMeta,
    state: Bytes,
    machine: Machine<S>,
}

impl<S: StateMachine> RaftSnapshotBuilder<TypeConfig> for Builder<S> {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError<u64>> {
        let (meta, state) = (self.meta.clone(), self.state.clone());
        self.machine.blocking(move |file| file.write(&meta, &state)).await?;
        tracing::info!(upto = self.meta.snapshot_id, bytes = self.state.len(), "snapshot written");
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(SnapshotBytes(self.state.clone())) })
    }
}
