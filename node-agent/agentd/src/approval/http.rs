//! The endpoints of permits, sessions and runs.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::Caller;
use osmoda_node_api::approval::{
    PermitRequest, PermitView, PlanRequest, RunBegin, RunBegun, RunEnd, RunView, SessionView, TaintRequest,
};
use osmoda_node_api::approval_files::add_trust;
use osmoda_node_api::watch::Trusted;
use osmoda_permit::{ApproverSignature, TrustOrder, json};
use osmoda_types::{ErrorCode, PermitId};
use serde::de::DeserializeOwned;

use super::Approvals;
use super::ask::Asking;
use super::reference;

impl Approvals {
    /// The routes, those of the earlier product among them.
    pub fn router(self) -> Router {
        Router::new()
            .route("/approval/request", post(reference::request))
            .route("/approval/pending", get(reference::pending))
            .route("/approval/{id}", get(reference::show))
            .route("/approval/{id}/approve", post(reference::approve))
            .route("/approval/{id}/deny", post(reference::deny))
            .route("/permit/request", post(request))
            .route("/permit/plan", post(plan))
            .route("/permit/list", get(list))
            .route("/permit/{id}", get(show))
            .route("/permit/{id}/sign", post(sign))
            .route("/session/taint", post(taint))
            .route("/session/{id}", get(session))
            .route("/run/begin", post(begin))
            .route("/run/end", post(end))
            .route("/run/open", get(open_runs))
            .route("/trust/add", post(trust))
            .with_state(self)
    }
}

/// Reads a body strictly: what has two readings is refused before it is hashed.
pub(super) fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, ApiError> {
    let value = json::parse(bytes).map_err(|fault| ApiError::new(ErrorCode::CallMalformed, fault.to_string()))?;
    serde_json::from_value(value).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))
}

pub(super) fn permit_id(text: &str) -> Result<PermitId, ApiError> {
    text.parse().map_err(|_| ApiError::new(ErrorCode::NotFound, "no permit has this id"))
}

async fn request(
    State(approvals): State<Approvals>,
    Extension(caller): Extension<Caller>,
    bytes: Bytes,
) -> Result<Json<PermitView>, ApiError> {
    let request: PermitRequest = body(&bytes)?;
    let asking = Asking { session_id: request.session_id, reason: request.reason, ttl_secs: request.ttl_secs };
    Ok(Json(approvals.ask(&[request.call], false, asking, caller).await?))
}

async fn plan(
    State(approvals): State<Approvals>,
    Extension(caller): Extension<Caller>,
    bytes: Bytes,
) -> Result<Json<PermitView>, ApiError> {
    let request: PlanRequest = body(&bytes)?;
    let asking = Asking { session_id: request.session_id, reason: request.reason, ttl_secs: request.ttl_secs };
    Ok(Json(approvals.ask(&request.calls, true, asking, caller).await?))
}

async fn list(State(approvals): State<Approvals>) -> Result<Response, ApiError> {
    let body = approvals.list_as(|views| serde_json::to_vec(&views)).await?.map_err(ApiError::internal)?;
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

async fn show(State(approvals): State<Approvals>, Path(id): Path<String>) -> Result<Json<PermitView>, ApiError> {
    Ok(Json(approvals.show(permit_id(&id)?).await?))
}

async fn sign(
    State(approvals): State<Approvals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<Json<PermitView>, ApiError> {
    let signature: ApproverSignature = body(&bytes)?;
    Ok(Json(approvals.sign(permit_id(&id)?, signature, caller).await?))
}

async fn taint(
    State(approvals): State<Approvals>,
    Extension(caller): Extension<Caller>,
    bytes: Bytes,
) -> Result<Json<SessionView>, ApiError> {
    let request: TaintRequest = body(&bytes)?;
    Ok(Json(approvals.taint(request, caller).await?))
}

async fn session(State(approvals): State<Approvals>, Path(id): Path<String>) -> Result<Json<SessionView>, ApiError> {
    Ok(Json(approvals.session(id).await?))
}

async fn begin(
    State(approvals): State<Approvals>,
    Extension(caller): Extension<Caller>,
    bytes: Bytes,
) -> Result<Json<RunBegun>, ApiError> {
    let request: RunBegin = body(&bytes)?;
    Ok(Json(approvals.begin(request, caller).await?))
}

async fn end(
    State(approvals): State<Approvals>,
    Extension(caller): Extension<Caller>,
    bytes: Bytes,
) -> Result<Json<RunView>, ApiError> {
    let request: RunEnd = body(&bytes)?;
    Ok(Json(approvals.end(request, caller).await?))
}

async fn open_runs(State(approvals): State<Approvals>) -> Result<Json<Vec<RunView>>, ApiError> {
    Ok(Json(approvals.open_runs().await?))
}

async fn trust(State(approvals): State<Approvals>, bytes: Bytes) -> Result<Json<Trusted>, ApiError> {
    let order: TrustOrder = body(&bytes)?;
    let state_dir = approvals.parts.state_dir.clone();
    let add = move || add_trust(&state_dir, order);
    let operators = approvals.parts.tasks.blocking("add trust", add).await.map_err(ApiError::internal)??;
    Ok(Json(Trusted { operators }))
}
