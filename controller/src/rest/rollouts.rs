//! Rollouts: the list, one, its ballot, and the start of one.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use osmoda_controller_api::{Page, Rollout, RolloutSummary, StartRollout, Vote};
use osmoda_controller_store::RolloutRow;
use osmoda_kit::error::ApiError;
use osmoda_types::command::{Body, Command, Proposal};
use osmoda_types::{ErrorCode, FleetEpoch, Manifest, RequestId, RolloutId, Signature, statement};
use sha2::{Digest, Sha256};

use super::body::{Object, id};
use super::paging::{Paging, encode};
use super::{Answer, App, manifests, stored};
use crate::projection::document;

/// How long an answer waits until this controller has applied what it wrote:
/// the log is at most a round trip ahead.
const APPLY_LIMIT: Duration = Duration::from_secs(5);

/// `GET /rollouts`.
pub(super) async fn list(State(app): State<App>, paging: Paging) -> Answer<Json<Page<RolloutSummary>>> {
    let below = paging.after.as_deref().map(place).transpose()?;
    let limit = paging.limit;
    // One more than shown tells whether there is a next page.
    let mut rows = app.store.rollouts(below, limit as u32 + 1).await.map_err(stored)?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| more).map(|row| encode(&format!("{}:{}", row.proposed_index, row.id)));
    let items = rows.iter().map(|row| picture(row).map(|rollout| rollout.summary)).collect::<Result<_, _>>()?;
    Ok(Json(Page { items, next_cursor }))
}

fn place(cursor: &str) -> Result<(u64, RolloutId), ApiError> {
    let parsed = cursor.split_once(':').and_then(|(index, id)| Some((index.parse().ok()?, id.parse().ok()?)));
    parsed.ok_or_else(|| ApiError::new(ErrorCode::BadRequest, "cursor is none of ours"))
}

fn picture(row: &RolloutRow) -> Result<Rollout, ApiError> {
    document(row).map_err(ApiError::internal)
}

/// `GET /rollouts/{id}`.
pub(super) async fn show(State(app): State<App>, Path(text): Path<String>) -> Answer<Json<Rollout>> {
    Ok(Json(find(&app, id("the rollout id", &text)?).await?))
}

/// `GET /rollouts/{id}/votes`.
pub(super) async fn votes(
    State(app): State<App>,
    Path(text): Path<String>,
    paging: Paging,
) -> Answer<Json<Page<Vote>>> {
    let rollout = find(&app, id("the rollout id", &text)?).await?;
    Ok(Json(paging.page(rollout.votes.into_iter().map(|vote| (format!("{} {}", vote.name, vote.voter), vote)))))
}

/// One stored rollout.
pub(super) async fn find(app: &App, id: RolloutId) -> Result<Rollout, ApiError> {
    let row = app.store.rollout(id).await.map_err(stored)?;
    row.as_ref().map(picture).transpose()?.ok_or_else(unknown)
}

pub(super) fn unknown() -> ApiError {
    ApiError::new(ErrorCode::RolloutUnknown, "no rollout has this id")
}

/// `POST /rollouts`.
pub(super) async fn start(
    State(app): State<App>,
    Object(order): Object<StartRollout>,
) -> Answer<(StatusCode, Json<Rollout>)> {
    let bytes = manifests::bytes_of(&app, order.manifest).await?;
    let (manifest, hash) = Manifest::parse(&bytes).map_err(|error| ApiError::new(error.code, error.to_string()))?;
    let parent = FleetEpoch(order.parent_epoch);
    let message = statement::rollout(&hash, &order.id, parent, &app.network);
    // apply and every host check again; here it only spares the fleet the trip.
    verify(&order.operator_key, &message, &order.signature)?;
    app.fleet.put_manifest(hash, &bytes).await?;
    let proposal = Proposal::of(&manifest, hash, order.id, parent, order.operator_key, order.signature);
    let body = Body::Propose(Box::new(proposal));
    submit(&app, body, &order.signature).await?;
    tracing::info!(rollout = %order.id, manifest = %hash, "rollout proposed");
    Ok((StatusCode::ACCEPTED, Json(find(&app, order.id).await?)))
}

/// Checks a signature before anything is sent.
pub(super) fn verify(key: &osmoda_types::PublicKey, message: &[u8], signature: &Signature) -> Result<(), ApiError> {
    statement::verify(key, message, signature)
        .map_err(|code| ApiError::new(code, "the signature does not verify over this order and this fleet"))
}

/// Writes a command and waits until this controller has applied it, so that
/// what is read next shows it.
///
/// The request id follows from the signature: the same order sent twice, by
/// whomever, is one request.
pub(super) async fn submit(app: &App, body: Body, signature: &Signature) -> Result<(), ApiError> {
    let digest = Sha256::digest(signature.as_bytes());
    let request = RequestId::try_from(&digest[..RequestId::LEN]).map_err(ApiError::internal)?;
    let command = osmoda_proto::encode_command(&Command { request, body });
    let reply = app.fleet.submit(command).await?;
    let mut view = app.published.view.clone();
    let applied = view.wait_for(|view| view.applied_index >= reply.index);
    match tokio::time::timeout(APPLY_LIMIT, applied).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(ApiError::new(
            ErrorCode::OutcomeUnknown,
            format!("the fleet wrote it at index {}, but this controller has not read it yet", reply.index),
        )),
    }
}
