//! New keys for the controller: `POST /identity/rotate` on its local socket.
//!
//! Like a node's, they are ordered by the log, under the id it has; the nodes
//! that dial in follow the allow-list. The steps are in `osmoda_mesh::KeyChange`.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use osmoda_kit::error::ApiError;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh::KeyChange;
use osmoda_types::command::{Body, Command};
use osmoda_types::{MeshKey, NodeId, PublicKey, RequestId};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::voters::Fleet;

/// What the endpoint needs.
pub(crate) struct Rotation {
    /// The steps.
    pub(crate) change: Arc<KeyChange>,
    /// The way to the log.
    pub(crate) fleet: Fleet,
    /// For work that outlives a caller.
    pub(crate) tasks: Tasks,
}

/// The keys in use now.
#[derive(Debug, Serialize)]
struct Rotated {
    node: NodeId,
    mesh_key: MeshKey,
    identity_key: PublicKey,
}

impl Rotation {
    async fn rotate(&self) -> Result<Rotated, ApiError> {
        let order = async |succession| {
            let request = RequestId::from_bytes(*uuid::Uuid::new_v4().as_bytes());
            let command = Command { request, body: Body::RotateKeys(succession) };
            Ok(self.fleet.write(osmoda_proto::encode_command(&command)).await?.refused)
        };
        let now = self.change.run(order).await?;
        Ok(Rotated { node: now.node(), mesh_key: now.mesh_key(), identity_key: now.identity_key() })
    }
}

/// The router.
pub(crate) fn router(rotation: Arc<Rotation>) -> Router {
    Router::new().route("/identity/rotate", post(rotate)).with_state(rotation)
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
