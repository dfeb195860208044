//! The endpoints about checkpoints, proofs and the export of rows.

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use osmoda_kit::error::ApiError;
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_node_api::ledger::{
    ConsistencyProof, ConsistencyQuery, EXPORT_ROWS_MAX, ExportQuery, InclusionProof, InclusionQuery, LedgerCheckpoint,
};
use osmoda_types::ErrorCode;

use super::{CheckpointFailed, Checkpoints};
use crate::api::ledger_error;
use crate::ledger::Ledger;
use crate::ledger::file::FileError;

/// Rows read at once for an export: one read is milliseconds, so other readers
/// get their turn, and at most 15 MB of the largest rows there can be.
const PAGE_ROWS: u64 = 256;

/// The routes.
pub(crate) fn router(checkpoints: Checkpoints) -> Router {
    Router::new()
        .route("/ledger/checkpoint", get(newest))
        .route("/ledger/proof/inclusion", get(inclusion))
        .route("/ledger/proof/consistency", get(consistency))
        .route("/ledger/export", get(export))
        .with_state(checkpoints)
}

async fn newest(State(checkpoints): State<Checkpoints>) -> Result<Json<LedgerCheckpoint>, ApiError> {
    let note = checkpoints.newest_cosigned(0).await?;
    let note = note.ok_or_else(|| ApiError::new(ErrorCode::NotFound, "nothing was signed yet"))?;
    // Of the note itself: a newer checkpoint may be made while this one is read.
    let checkpoint = Checkpoint::parse(note.text()).map_err(CheckpointFailed::from)?;
    Ok(Json(LedgerCheckpoint {
        key: checkpoints.verifier().to_string(),
        size: checkpoint.size,
        cosignatures: note.signatures().len().saturating_sub(1) as u64,
        note: note.to_string(),
    }))
}

async fn inclusion(
    State(checkpoints): State<Checkpoints>,
    query: Result<Query<InclusionQuery>, QueryRejection>,
) -> Result<Json<InclusionProof>, ApiError> {
    let InclusionQuery { id, size } = read(query)?;
    let proof = checkpoints.inclusion(id, size).await?;
    let hashes = proof.hashes.iter().map(ToString::to_string).collect();
    Ok(Json(InclusionProof { id, size, leaf: proof.leaf.to_string(), root: proof.root.to_string(), hashes }))
}

async fn consistency(
    State(checkpoints): State<Checkpoints>,
    query: Result<Query<ConsistencyQuery>, QueryRejection>,
) -> Result<Json<ConsistencyProof>, ApiError> {
    let ConsistencyQuery { from, to } = read(query)?;
    let proof = checkpoints.consistency(from, to).await?;
    let hashes = proof.hashes.iter().map(ToString::to_string).collect();
    Ok(Json(ConsistencyProof { from, to, old: proof.old.to_string(), new: proof.new.to_string(), hashes }))
}

/// Rows as JSON lines, oldest first, a page at a time as the caller reads them.
async fn export(
    State(checkpoints): State<Checkpoints>,
    query: Result<Query<ExportQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let ExportQuery { from, rows } = read(query)?;
    let ledger = checkpoints.inner.ledger.clone();
    let first = from.max(1);
    let end = first.saturating_add(rows.min(EXPORT_ROWS_MAX)).min(ledger.state().head.size.saturating_add(1));
    let pages = stream::try_unfold((ledger, first), move |(ledger, next)| async move {
        if next >= end {
            return Ok(None);
        }
        let stop = next.saturating_add(PAGE_ROWS).min(end);
        let page = page(&ledger, next, stop).await?;
        Ok::<_, ApiError>(Some((page, (ledger, stop))))
    });
    let mut response = ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pages)).into_response();
    response.headers_mut().insert(osmoda_node_api::ledger::NEXT_HEADER, HeaderValue::from(end));
    Ok(response)
}

/// The rows `from .. to` as JSON lines, made on the reader's thread.
async fn page(ledger: &Ledger, from: u64, to: u64) -> Result<Bytes, ApiError> {
    let read = ledger.read(move |file| {
        let mut lines = Vec::new();
        file.range(from, to, |event| {
            serde_json::to_writer(&mut lines, &event).map_err(ApiError::internal)?;
            lines.push(b'\n');
            Ok::<_, ReadError>(())
        })
        .map(|()| Bytes::from(lines))
    });
    match read.await {
        Ok(page) => page.map_err(|ReadError(error)| error),
        Err(error) => Err(ledger_error(error)),
    }
}

struct ReadError(ApiError);

impl From<FileError> for ReadError {
    fn from(error: FileError) -> Self {
        Self(ApiError::internal(error))
    }
}

impl From<ApiError> for ReadError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

fn read<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::new(ErrorCode::BadRequest, rejection.body_text()))?;
    Ok(query)
}
