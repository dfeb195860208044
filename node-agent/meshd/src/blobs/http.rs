//! The blob endpoints of `mesh.sock`. Bodies are streamed, so the limit of JSON
//! bodies does not apply to them; the blob's own does.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bao_tree::blake3::Hash;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::Json;
use osmoda_node_api::blobs::{BlobStored, FetchBlob};
use osmoda_types::ErrorCode;
use tokio_stream::StreamExt as _;
use tokio_util::io::ReaderStream;

use super::store::BLOB_BYTES_MAX;
use super::{Blobs, stored};

/// Bytes per read of an answer.
const READ_BYTES: usize = 64 * 1024;

/// The blobs, or why there are none.
pub(crate) type Api = Result<Blobs, (ErrorCode, String)>;

pub(crate) fn router(blobs: Result<Blobs, ApiError>) -> Router {
    let api: Api = blobs.map_err(|error| {
        tracing::error!(error = osmoda_kit::error::chain(&error), "blobs are not available");
        (error.code, error.message)
    });
    Router::new()
        .route("/blob", put(store))
        .route("/blob/fetch", post(fetch))
        .route("/blob/{hash}", get(read))
        .with_state(Arc::new(api))
}

fn blobs(api: &Api) -> Result<&Blobs, ApiError> {
    api.as_ref().map_err(|(code, text)| ApiError::new(*code, text.clone()))
}

fn hash(text: &str) -> Result<Hash, ApiError> {
    Hash::from_hex(text).map_err(|_| ApiError::new(ErrorCode::BadRequest, "a blob is named by 64 hex digits"))
}

async fn store(State(api): State<Arc<Api>>, body: Body) -> Result<Json<BlobStored>, ApiError> {
    let blobs = blobs(&api)?;
    let mut handed = blobs.on_store(|store| store.make_place(0).and_then(|()| store.hand())).await?;
    let mut bytes = body.into_data_stream();
    while let Some(part) = bytes.next().await {
        let part =
            part.map_err(|error| ApiError::new(ErrorCode::BadRequest, "the body broke off").with_source(error))?;
        handed = blobs
            .on_store(move |_| {
                handed.write(&part)?;
                Ok(handed)
            })
            .await?;
    }
    let (hash, size) = blobs
        .on_store(move |store| {
            // Counted again with everything that came in meanwhile.
            store.make_place(0)?;
            store.keep(handed)
        })
        .await?;
    Ok(Json(stored(&hash, size)))
}

async fn fetch(State(api): State<Arc<Api>>, Json(fetch): Json<FetchBlob>) -> Result<Json<BlobStored>, ApiError> {
    let bytes_max = fetch.bytes_max.unwrap_or(BLOB_BYTES_MAX).min(BLOB_BYTES_MAX);
    blobs(&api)?.fetch(hash(&fetch.hash)?, fetch.peer, bytes_max).await.map(Json)
}

async fn read(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let (blobs, hash) = (blobs(&api)?, hash(&name)?);
    let opened = blobs
        .on_store(move |store| {
            let Some(file) = store.read(&hash)? else { return Ok(None) };
            Ok(store.size(&hash)?.map(|size| (file, size)))
        })
        .await?;
    let (file, size) = opened.ok_or_else(|| ApiError::new(ErrorCode::NotFound, "no such blob is here"))?;
    let bytes = ReaderStream::with_capacity(tokio::fs::File::from_std(file), READ_BYTES);
    let heads =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, size.to_string())];
    Ok((heads, Body::from_stream(bytes)).into_response())
}
