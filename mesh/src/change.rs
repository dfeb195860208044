//! New keys for a running node: prepared, ordered by the log, in use.
//!
//! ```text
//! prepare ─► the log ─► commit on disk ─► the endpoint changes over
//! ```
//! Invariant: keys are committed only when the log has them: by the answer to
//! the statement, or by a snapshot of the members. So whatever dies in between,
//! the node comes back: with the old keys while the log has those, with the
//! prepared ones once it has these (`state::load`, and the dialler, which shows
//! both when it meets refusals). The id stays. How a statement reaches the log is
//! the caller's.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use osmoda_kit::error::ApiError;
use osmoda_kit::tasks::Tasks;
use osmoda_mesh_protocol::{Members, Succession};
use osmoda_types::{ErrorCode, NetworkId};
use tokio::sync::Semaphore;

use crate::handle::MeshHandle;
use crate::identity::Identity;
use crate::rotation;
use crate::state::{self, StateError};

/// Changes a node's keys.
pub struct KeyChange {
    handle: MeshHandle,
    network: NetworkId,
    dir: PathBuf,
    tasks: Tasks,
    /// One change at a time: two would prepare, and one would abandon, the same
    /// keys.
    asked: Semaphore,
    /// One commit at a time, asked for or learned of.
    committing: Semaphore,
}

impl std::fmt::Debug for KeyChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyChange({:?})", self.handle.local_id())
    }
}

impl KeyChange {
    /// Of the node whose mesh that is, with its keys in `dir`.
    #[must_use]
    pub fn new(handle: MeshHandle, network: NetworkId, dir: PathBuf, tasks: Tasks) -> Self {
        Self { handle, network, dir, tasks, asked: Semaphore::new(1), committing: Semaphore::new(1) }
    }

    /// Does it all, or leaves it so that it can be asked for again. `order` puts
    /// the statement into the log and says why the log refused it, if it did.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`] while another change runs; the log's code; those of
    /// `order`, which say nothing about the log: the keys stay prepared then; and
    /// those of the files.
    ///
    /// # Cancel safety
    /// Dropped anywhere, it can be asked for again.
    pub async fn run<O, F>(&self, order: O) -> Result<Arc<Identity>, ApiError>
    where
        O: FnOnce(Succession) -> F,
        F: Future<Output = Result<Option<ErrorCode>, ApiError>>,
    {
        let busy = |_| ApiError::new(ErrorCode::Busy, "the keys are being changed already");
        let _turn = self.asked.try_acquire().map_err(busy)?;
        let (dir, network) = (self.dir.clone(), self.network);
        self.blocking("prepare keys", move || rotation::prepare(&dir, &network)).await?;
        let dir = self.dir.clone();
        let prepared = self.blocking("read prepared keys", move || rotation::prepared(&dir)).await?;
        // None when a snapshot came in between with these very keys.
        let Some((succession, next)) = prepared else { return Ok(self.handle.identity()) };
        self.handle.prepare_identity(Some(next))?;
        let Some(code) = order(succession).await? else { return self.commit().await };
        // What is refused for now may be asked again, and an earlier try of the
        // same statement may still be on its way; other keys would then be lost.
        if code != ErrorCode::AttemptConflict {
            self.abandon().await?;
        }
        Err(ApiError::new(code, format!("the fleet refused the new keys: {code}")))
    }

    /// Commits the prepared keys if the snapshot has them; to be called before it
    /// comes into force here.
    ///
    /// # Errors
    /// `StateDirUnusable` and others of the files: the snapshot must come again.
    pub async fn members_come(&self, members: &Members) -> Result<(), ApiError> {
        let (own, now) = (members.by_node(&self.handle.local_id()), self.handle.identity());
        if own.is_none_or(|own| own.mesh_key == now.mesh_key()) {
            return Ok(());
        }
        match self.handle.prepared_identity() {
            Some(next) if rotation::is_logged(members, &next) => self.commit().await.map(drop),
            _ => {
                let text = "the fleet has keys for this node that are not here; revoke it if nobody knows why";
                tracing::error!("{text}");
                Ok(())
            }
        }
    }

    async fn commit(&self) -> Result<Arc<Identity>, ApiError> {
        let _turn = self.committing.acquire().await.map_err(ApiError::internal)?;
        if self.handle.prepared_identity().is_none() {
            return Ok(self.handle.identity());
        }
        let dir = self.dir.clone();
        let committed = move || match rotation::commit(&dir) {
            // The endpoint did not hear of it then.
            Err(StateError::NothingPrepared(_)) => state::load_identity(&dir),
            committed => committed,
        };
        let identity = self.blocking("commit keys", committed).await?;
        self.handle.change_identity(identity.clone()).await?;
        Ok(identity)
    }

    async fn abandon(&self) -> Result<(), ApiError> {
        let _turn = self.committing.acquire().await.map_err(ApiError::internal)?;
        self.handle.prepare_identity(None)?;
        let dir = self.dir.clone();
        self.blocking("abandon keys", move || rotation::abandon(&dir)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, ApiError> {
        Ok(self.tasks.blocking(name, work).await.map_err(ApiError::internal)??)
    }
}
