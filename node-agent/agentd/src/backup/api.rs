//! The endpoints of backups, with the earlier product's shapes.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Router};
use osmoda_backup::{BackupError, Listed, is_id};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Caller, Json};
use osmoda_node_api::agentd_backup::{Backup, RestoreAnswer, RestoreRequest};
use osmoda_types::ErrorCode;

use super::keeper::{Backups, unknown};

/// The routes.
pub fn router(backups: Backups) -> Router {
    Router::new()
        .route("/backup/create", post(create))
        .route("/backup/list", get(list))
        .route("/backup/restore", post(restore))
        .with_state(backups)
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

async fn create(
    State(backups): State<Backups>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Backup>, ApiError> {
    let listed = backups.create(caller.who.to_string(), caller.isolation).await?;
    Ok(Json(shown(listed)))
}

async fn list(State(backups): State<Backups>) -> Result<Json<Vec<Backup>>, ApiError> {
    Ok(Json(backups.list().await?.into_iter().map(shown).collect()))
}

/// Putting state back is destructive: it needs a permit, the daemons stopped,
/// and root, none of which is here. What can be said is said: whether the id is
/// one, and whether the ledger knows the backup.
async fn restore(
    State(backups): State<Backups>,
    Json(body): Json<RestoreRequest>,
) -> Result<Json<RestoreAnswer>, ApiError> {
    if !is_id(&body.backup_id) {
        return Err(BackupError::BadId.into());
    }
    let listed = backups.list().await?.into_iter().find(|listed| listed.id == body.backup_id);
    let listed = listed.ok_or_else(|| unknown(&body.backup_id))?;
    match backups.recorded_sha256(&body.backup_id).await? {
        Some(recorded) if recorded == listed.manifest_sha256 => Err(ApiError::new(
            ErrorCode::Unsupported,
            "a backup is put back by the executor with a permit: ask for the call backup.restore",
        )),
        Some(_) => Err(BackupError::Manifest("its hash differs from the ledger's".to_owned()).into()),
        None => Err(BackupError::Manifest("the ledger does not know it".to_owned()).into()),
    }
}
