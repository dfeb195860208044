//! New keys for this node, while it runs: prepared, ordered by the log, in use.
//!
//! ```text
//! prepare ─► fleetd: into the log ─► commit on disk ─► the endpoint changes over
//! ```
//! Invariant: keys are committed only when the log has them: by fleetd's answer
//! to the statement, or by a snapshot of the members. So whatever dies in
//! between, the node comes back: with the old keys while the log has those, with
//! the prepared ones once it has these (`state::load`, and the dialler, which
//! shows both when it meets refusals). The id stays.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use osmoda_kit::audit::Audit;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Json, UnixClient};
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh::state::{self, StateError};
use osmoda_mesh::{Identity, MeshHandle, rotation};
use osmoda_node_api::mesh::{Members, RotateAnswer, RotateRequest};
use osmoda_types::{ErrorCode, NetworkId};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

/// How long fleetd may take: a forward to the leader and a commit, with one
/// election in between; as for an invite.
const ORDER_TIME: Duration = Duration::from_secs(12);

/// Changes this node's keys. Shared by its endpoint and the members'.
pub(crate) struct Rotation {
    handle: MeshHandle,
    fleetd: UnixClient,
    network: NetworkId,
    dir: PathBuf,
    audit: Audit,
    tasks: Tasks,
    /// One change at a time: two would prepare, and one would abandon, the same
    /// keys.
    asked: Semaphore,
    /// One commit at a time, asked for or learned of.
    committing: Semaphore,
}

impl Rotation {
    pub(crate) fn new(
        handle: MeshHandle,
        fleetd: UnixClient,
        network: NetworkId,
        dir: PathBuf,
        audit: Audit,
        tasks: Tasks,
    ) -> Arc<Self> {
        let fleetd = fleetd.with_time_limit(ORDER_TIME);
        let (asked, committing) = (Semaphore::new(1), Semaphore::new(1));
        Arc::new(Self { handle, fleetd, network, dir, audit, tasks, asked, committing })
    }

    /// Does it all, or leaves it so that it can be asked for again.
    async fn rotate(&self) -> Result<Rotated, ApiError> {
        let busy = |_| ApiError::new(ErrorCode::Busy, "the keys are being changed already");
        let _turn = self.asked.try_acquire().map_err(busy)?;
        let old = self.handle.identity();
        let intent = self.audit.intent("mesh.identity.rotate", json!({ "old": keys(&old) })).await?;
        let done = self.in_order().await;
        let outcome = match &done {
            Ok(new) => json!({ "old": keys(&old), "new": keys(new) }),
            Err(error) => json!({ "old": keys(&old), "code": error.code }),
        };
        intent.outcome(outcome).await?;
        done.map(|new| Rotated::to(&new))
    }

    async fn in_order(&self) -> Result<Arc<Identity>, ApiError> {
        let (dir, network) = (self.dir.clone(), self.network);
        self.blocking("prepare keys", move || rotation::prepare(&dir, &network)).await?;
        let dir = self.dir.clone();
        let prepared = self.blocking("read prepared keys", move || rotation::prepared(&dir)).await?;
        // None when a snapshot came in between with these very keys.
        let Some((succession, next)) = prepared else { return Ok(self.handle.identity()) };
        self.handle.prepare_identity(Some(next.clone()))?;
        // An error here says nothing about the log: the keys stay prepared, and
        // asking again goes on with them.
        let answer: RotateAnswer = self.fleetd.post("/mesh/rotate", &RotateRequest { succession }).await?;
        match answer.refused {
            None => self.commit().await,
            Some(code) => {
                self.abandon().await?;
                Err(ApiError::new(code, format!("the fleet refused the new keys: {code}")))
            }
        }
    }

    /// Commits the prepared keys if the snapshot has them; called before it comes
    /// into force here.
    ///
    /// # Errors
    /// `StateDirUnusable` and others of the files: the snapshot must come again.
    pub(crate) async fn members_come(&self, members: &Members) -> Result<(), ApiError> {
        let (own, now) = (members.by_node(&self.handle.local_id()), self.handle.identity());
        if own.is_none_or(|own| own.mesh_key == now.mesh_key()) {
            return Ok(());
        }
        match self.handle.prepared_identity() {
            Some(next) if rotation::is_logged(members, &next) => self.commit().await.map(drop),
            _ => {
                tracing::error!(
                    "the fleet has keys for this node that were not made here; revoke it if nobody knows why"
                );
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

fn keys(identity: &Identity) -> serde_json::Value {
    json!({ "mesh_key": identity.mesh_key(), "identity_key": identity.identity_key() })
}

/// The router.
pub(crate) fn router(rotation: Arc<Rotation>) -> Router {
    Router::new().route("/identity/rotate", post(rotate)).with_state(rotation)
}

/// The answer, with the earlier product's fields. The id is the same as before.
#[derive(Debug, Serialize)]
struct Rotated {
    new_instance_id: String,
    new_pubkeys: NewKeys,
}

#[derive(Debug, Serialize)]
struct NewKeys {
    ed25519: String,
    noise: String,
}

impl Rotated {
    fn to(identity: &Identity) -> Self {
        let (ed25519, noise) = (identity.identity_key().to_string(), identity.mesh_key().to_string());
        Self { new_instance_id: identity.node().to_string(), new_pubkeys: NewKeys { ed25519, noise } }
    }
}

async fn rotate(State(rotation): State<Arc<Rotation>>) -> Result<Json<Rotated>, ApiError> {
    // A caller that goes away does not stop it between two steps.
    let (sender, answer) = oneshot::channel();
    let work = rotation.clone();
    rotation.tasks.spawn(TaskKind::REQUEST, "rotate identity", async move {
        if sender.send(work.rotate().await).is_err() {
            tracing::debug!("nobody waits to hear of the new keys");
        }
    });
    answer.await.map_err(ApiError::internal)?.map(Json)
}
