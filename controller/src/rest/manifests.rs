//! Manifests: exact bytes under their hash.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use osmoda_controller_api::StoredManifest;
use osmoda_kit::error::ApiError;
use osmoda_types::manifest::MANIFEST_BYTES_MAX;
use osmoda_types::{ErrorCode, Manifest, ManifestHash};

use super::body::{id, whole};
use super::{Answer, App, stored};

/// `PUT /manifests`.
pub(super) async fn put(State(app): State<App>, request: Request) -> Answer<(StatusCode, Json<StoredManifest>)> {
    let bytes = whole(request, &app).await.map_err(|_| too_large())?;
    let (_, hash) = Manifest::parse(&bytes).map_err(|error| ApiError::new(error.code, error.to_string()))?;
    let length = bytes.len() as u64;
    app.store.put_manifest(hash, bytes.to_vec(), app.clock.now_wall().as_millis()).await.map_err(stored)?;
    Ok((StatusCode::CREATED, Json(StoredManifest { hash, bytes: length })))
}

fn too_large() -> ApiError {
    ApiError::new(ErrorCode::ManifestTooLarge, format!("a manifest has at most {MANIFEST_BYTES_MAX} bytes"))
}

/// `GET /manifests/{hash}`.
pub(super) async fn get(State(app): State<App>, Path(text): Path<String>) -> Answer<impl IntoResponse> {
    let hash: ManifestHash = id("the manifest hash", &text)?;
    Ok(([(CONTENT_TYPE, "application/json")], bytes_of(&app, hash).await?))
}

/// The exact bytes of a stored manifest.
pub(super) async fn bytes_of(app: &App, hash: ManifestHash) -> Result<Vec<u8>, ApiError> {
    let found = app.store.manifest(hash).await.map_err(stored)?;
    found.ok_or_else(|| ApiError::new(ErrorCode::ManifestUnknown, "no stored manifest has this hash"))
}
