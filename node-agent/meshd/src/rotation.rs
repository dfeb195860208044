//! `POST /identity/rotate`: new keys for this node, ordered by the log through
//! fleetd. The steps and what holds between them are in `osmoda_mesh::KeyChange`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use osmoda_kit::audit::Audit;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Json, UnixClient};
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh::{Identity, KeyChange, MeshHandle};
use osmoda_node_api::mesh::{RotateAnswer, RotateRequest};
use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;

/// How long fleetd may take: a forward to the leader and a commit, with one
/// election in between; as for an invite.
const ORDER_TIME: Duration = Duration::from_secs(12);

/// What the endpoint needs.
pub(crate) struct Rotation {
    handle: MeshHandle,
    change: Arc<KeyChange>,
    fleetd: UnixClient,
    audit: Audit,
    tasks: Tasks,
}

impl Rotation {
    pub(crate) fn new(
        handle: MeshHandle,
        change: Arc<KeyChange>,
        fleetd: UnixClient,
        audit: Audit,
        tasks: Tasks,
    ) -> Arc<Self> {
        Arc::new(Self { handle, change, fleetd: fleetd.with_time_limit(ORDER_TIME), audit, tasks })
    }

    async fn rotate(&self) -> Result<Rotated, ApiError> {
        let old = self.handle.identity();
        let intent = self.audit.intent("mesh.identity.rotate", json!({ "old": keys(&old) })).await?;
        let order = async |succession| {
            let answer: RotateAnswer = self.fleetd.post("/mesh/rotate", &RotateRequest { succession }).await?;
            Ok(answer.refused)
        };
        let done = self.change.run(order).await;
        let outcome = match &done {
            Ok(new) => json!({ "old": keys(&old), "new": keys(new) }),
            Err(error) => json!({ "old": keys(&old), "code": error.code }),
        };
        intent.outcome(outcome).await?;
        done.map(|new| Rotated::to(&new))
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
