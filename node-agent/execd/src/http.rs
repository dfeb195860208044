//! The endpoints of `execd.sock`.

use axum::body::Bytes;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use osmoda_backup::Listed;
use osmoda_kit::error::ApiError;
use osmoda_kit::version::VERSION;
use osmoda_node_api::agentd_backup::Backup;
use osmoda_node_api::approval::AskedCall;
use osmoda_node_api::approval_files::{add_trust, load_trust};
use osmoda_node_api::execd::{Health, MadeBackup, Resolved, RunAnswer, RunRequest};
use osmoda_node_api::watch::Trusted;
use osmoda_permit::{HostTrust, TrustOrder, json};
use osmoda_types::ErrorCode;
use serde::de::DeserializeOwned;

use crate::executor::Executor;
use crate::hands::NodeBackups;

impl Executor {
    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/health", get(health))
            .route("/exec/resolve", post(resolve))
            .route("/exec/run", post(run))
            .route("/trust", get(trusted))
            .route("/trust/add", post(trust))
            .with_state(self)
    }
}

/// The routes of backups. agentd plans and records them; here they are made.
pub fn backups(backups: NodeBackups) -> Router {
    Router::new().route("/backup/create", post(create)).route("/backup/list", get(list)).with_state(backups)
}

fn shown(listed: Listed) -> Backup {
    Backup {
        backup_id: listed.id,
        path: listed.path.display().to_string(),
        size_bytes: listed.bytes,
        created_at: listed.created_at.to_string(),
        files: listed.files as u64,
        manifest_sha256: listed.manifest_sha256,
    }
}

async fn create(State(backups): State<NodeBackups>) -> Result<Json<MadeBackup>, ApiError> {
    let (listed, manifest) = backups.create().await?;
    Ok(Json(MadeBackup { backup: shown(listed), left_out: manifest.left_out.len() as u64 }))
}

async fn list(State(backups): State<NodeBackups>) -> Result<Json<Vec<Backup>>, ApiError> {
    Ok(Json(backups.list().await?.into_iter().map(shown).collect()))
}

/// Reads a body strictly: what has two readings is refused before it is hashed.
fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, ApiError> {
    let value = json::parse(bytes).map_err(|fault| ApiError::new(ErrorCode::CallMalformed, fault.to_string()))?;
    serde_json::from_value(value).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))
}

async fn health(State(executor): State<Executor>) -> Json<Health> {
    Json(Health {
        status: "ok".to_owned(),
        version: VERSION.version.to_owned(),
        commit: VERSION.commit.to_owned(),
        dirty: VERSION.dirty,
        systemd: executor.parts.hands.systemctl.is_some(),
        backups: executor.parts.hands.restore.is_some(),
    })
}

async fn resolve(State(executor): State<Executor>, bytes: Bytes) -> Result<Json<Resolved>, ApiError> {
    let asked: AskedCall = body(&bytes)?;
    Ok(Json(Resolved { object: executor.resolve(&asked).await? }))
}

async fn run(State(executor): State<Executor>, bytes: Bytes) -> Result<Json<RunAnswer>, ApiError> {
    let request: RunRequest = body(&bytes)?;
    Ok(Json(executor.run(request).await?))
}

async fn trusted(State(executor): State<Executor>) -> Result<Json<HostTrust>, ApiError> {
    let state_dir = executor.parts.state_dir.clone();
    let read = move || load_trust(&state_dir);
    Ok(Json(executor.parts.tasks.blocking("read trust", read).await.map_err(ApiError::internal)??))
}

async fn trust(State(executor): State<Executor>, bytes: Bytes) -> Result<Json<Trusted>, ApiError> {
    let order: TrustOrder = body(&bytes)?;
    let state_dir = executor.parts.state_dir.clone();
    let add = move || add_trust(&state_dir, order);
    let operators = executor.parts.tasks.blocking("add trust", add).await.map_err(ApiError::internal)??;
    Ok(Json(Trusted { operators }))
}
