//! The endpoints of backups, with the earlier product's shapes.
//!
//! `restore` keeps its shape too, but puts back only what an approver signed
//! for: the call `backup.restore` of this backup, asked for at `/permit/request`.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Router};
use osmoda_backup::{BackupError, is_id};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Caller, Json};
use osmoda_node_api::agentd_backup::{Backup, RestoreAnswer, RestoreRequest};
use osmoda_node_api::execd::ExecdClient;
use osmoda_permit::Operation;
use osmoda_types::ErrorCode;

use super::keeper::{Backups, unknown};
use crate::approval::Approvals;

/// What the endpoints stand on; cheap to clone.
#[derive(Clone)]
pub struct Restoring {
    /// The backups.
    pub backups: Backups,
    /// Who allowed what.
    pub approvals: Approvals,
    /// Who puts back.
    pub executor: ExecdClient,
}

/// The routes.
pub fn router(restoring: Restoring) -> Router {
    Router::new()
        .route("/backup/create", post(create))
        .route("/backup/list", get(list))
        .route("/backup/restore", post(restore))
        .with_state(restoring)
}

async fn create(
    State(restoring): State<Restoring>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Backup>, ApiError> {
    Ok(Json(restoring.backups.create(caller.who.to_string(), caller.isolation).await?))
}

async fn list(State(restoring): State<Restoring>) -> Result<Json<Vec<Backup>>, ApiError> {
    Ok(Json(restoring.backups.list().await?))
}

/// What can be told without a permit is told first: whether the id is one, and
/// whether the backup is what the ledger recorded.
async fn restore(
    State(restoring): State<Restoring>,
    Json(body): Json<RestoreRequest>,
) -> Result<Json<RestoreAnswer>, ApiError> {
    let id = body.backup_id;
    if !is_id(&id) {
        return Err(BackupError::BadId.into());
    }
    let listed = restoring.backups.list().await?.into_iter().find(|listed| listed.backup_id == id);
    let listed = listed.ok_or_else(|| unknown(&id))?;
    match restoring.backups.recorded_sha256(&id).await? {
        Some(recorded) if recorded == listed.manifest_sha256 => {}
        Some(_) => return Err(BackupError::Manifest("its hash differs from the ledger's".to_owned()).into()),
        None => return Err(BackupError::Manifest("the ledger does not know it".to_owned()).into()),
    }
    let wanted = Operation::BackupRestore { backup_id: id.clone() };
    let Some(run) = restoring.approvals.approved(&wanted).await? else {
        let text = "putting a backup back needs a permit: ask for the call backup.restore at /permit/request";
        return Err(ApiError::new(ErrorCode::ApprovalRequired, text));
    };
    restoring.executor.run(&run).await?;
    Ok(Json(RestoreAnswer { restored_from: id, status: "restored".to_owned() }))
}
