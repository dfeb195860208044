//! The endpoints of `watch.sock`. Who may call them is the table of
//! `node-agent/api`; here only the shapes are checked.

use crate::engine::Engine;
use crate::fetch::Fetcher;
use crate::host::detached;
use crate::stage::{Staging, obtain};
use crate::switch::{Switches, validate};
use crate::trust::Trust;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, OriginalUri, Path, State};
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Json, UnixClient};
use osmoda_kit::version::VERSION;
use osmoda_node_api::watch::{
    AcceptRequest, AttemptView, ContactRequest, GrantRequest, History, RevertRequest, STAGE_BYTES_MAX, StageRequest,
    Staged, SwitchBegin, SwitchBegun, SwitchSession, SwitchStatus, TrustRequest, Trusted, WatchHealth,
};
use osmoda_types::{ErrorCode, ManifestHash, StorePath};
use std::sync::Arc;
use std::time::Duration;

/// How long a download for a local switch may take: the default prefetch
/// deadline of manifests.
const LOCAL_FETCH_TIME_MAX: Duration = Duration::from_secs(1800);

/// What the handlers need.
#[derive(Clone)]
pub(crate) struct Endpoints {
    /// The attempts.
    pub engine: Engine,
    /// The staged rollouts.
    pub staging: Staging,
    /// The host's caches.
    pub fetcher: Fetcher,
    /// The operators.
    pub trust: Trust,
    /// The sessions.
    pub switches: Switches,
    /// fleetd, behind the reference's `/fleet/*`.
    pub fleetd: UnixClient,
}

/// The router.
pub(crate) fn router(endpoints: Endpoints) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/attempt", get(attempt))
        .route("/attempt/history", get(history))
        .route("/attempt/stage", post(stage).layer(DefaultBodyLimit::max(STAGE_BYTES_MAX)))
        .route("/attempt/grant", post(grant))
        .route("/attempt/contact", post(contact))
        .route("/attempt/accept", post(accept))
        .route("/attempt/revert", post(revert))
        .route("/trust/add", post(trust))
        .route("/switch/begin", post(switch_begin))
        .route("/switch/list", get(switch_list))
        .route("/switch/status/{id}", get(switch_status))
        .route("/switch/commit/{id}", post(switch_commit))
        .route("/switch/rollback/{id}", post(switch_rollback))
        .route("/watcher/{*rest}", any(watchers))
        .route("/fleet/{*rest}", any(fleet))
        .with_state(Arc::new(endpoints))
}

type Shared = State<Arc<Endpoints>>;

async fn health(State(endpoints): Shared) -> Result<Json<WatchHealth>, ApiError> {
    let state = endpoints.engine.records().state().await;
    let sessions = endpoints.switches.list().await.unwrap_or_default();
    let guarded = endpoints.engine.host().guard().is_ok_and(|holder| holder.is_some());
    let (status, phase, fault) = match &state {
        Ok(state) => ("ok".to_owned(), state.phase.as_str().to_owned(), None),
        Err(error) => (error.code.as_str().to_owned(), "unknown".to_owned(), Some(error.message.clone())),
    };
    let alarm = fault.or_else(|| endpoints.engine.alarm());
    Ok(Json(WatchHealth {
        status: if alarm.is_some() && status == "ok" { "degraded".to_owned() } else { status },
        active_switches: sessions.iter().filter(|session| session.status == SwitchStatus::Probation).count(),
        watchers: 0,
        phase,
        guarded,
        alarm,
        version: VERSION.version.to_owned(),
        commit: VERSION.commit.to_owned(),
        dirty: VERSION.dirty,
    }))
}

async fn attempt(State(endpoints): Shared) -> Result<Json<AttemptView>, ApiError> {
    endpoints.engine.view().await.map(Json)
}

async fn history(State(endpoints): Shared) -> Result<Json<History>, ApiError> {
    endpoints.engine.history().await.map(Json)
}

async fn stage(State(endpoints): Shared, Json(request): Json<StageRequest>) -> Result<Json<Staged>, ApiError> {
    // A journal that cannot be read can take no grant; say so before the vote.
    endpoints.engine.records().state().await?;
    endpoints.staging.stage(endpoints.engine.host(), &endpoints.fetcher, request).await.map(Json)
}

async fn grant(State(endpoints): Shared, Json(request): Json<GrantRequest>) -> Result<Json<AttemptView>, ApiError> {
    let staging = endpoints.staging.clone();
    let plan = detached("staged plan", move || staging.plan(&request)).await??;
    endpoints.engine.grant(&request, plan).await.map(Json)
}

async fn contact(State(endpoints): Shared, Json(request): Json<ContactRequest>) -> Result<Json<AttemptView>, ApiError> {
    endpoints.engine.contact(request).await.map(Json)
}

async fn accept(State(endpoints): Shared, Json(request): Json<AcceptRequest>) -> Result<Json<AttemptView>, ApiError> {
    endpoints.engine.accept(request).await.map(Json)
}

async fn revert(State(endpoints): Shared, Json(request): Json<RevertRequest>) -> Result<Json<AttemptView>, ApiError> {
    endpoints.engine.revert(request).await.map(Json)
}

async fn trust(State(endpoints): Shared, Json(request): Json<TrustRequest>) -> Result<Json<Trusted>, ApiError> {
    endpoints.trust.add(request).map(|operators| Json(Trusted { operators }))
}

async fn switch_begin(
    State(endpoints): Shared,
    Json(request): Json<SwitchBegin>,
) -> Result<Json<SwitchBegun>, ApiError> {
    validate(&request)?;
    if let Ok(target) = StorePath::new(request.plan.trim()) {
        obtain(endpoints.engine.host(), &endpoints.fetcher, &target, LOCAL_FETCH_TIME_MAX).await?;
    }
    endpoints.switches.begin(request).await.map(Json)
}

async fn switch_list(State(endpoints): Shared) -> Result<Json<Vec<SwitchSession>>, ApiError> {
    endpoints.switches.list().await.map(Json)
}

async fn switch_status(State(endpoints): Shared, Path(id): Path<String>) -> Result<Json<SwitchSession>, ApiError> {
    endpoints.switches.get(&id).await.map(Json)
}

async fn switch_commit(State(endpoints): Shared, Path(id): Path<String>) -> Result<Json<SwitchSession>, ApiError> {
    endpoints.switches.commit(&id).await.map(Json)
}

async fn switch_rollback(State(endpoints): Shared, Path(id): Path<String>) -> Result<Json<SwitchSession>, ApiError> {
    endpoints.switches.rollback(&id).await.map(Json)
}

async fn watchers() -> ApiError {
    ApiError::new(ErrorCode::Unsupported, "watchers are not part of this version")
}

/// The reference keeps `/fleet/*` on this socket; fleetd answers them.
async fn fleet(
    State(endpoints): Shared,
    method: Method,
    OriginalUri(uri): OriginalUri,
    body: Bytes,
) -> Result<Response, ApiError> {
    if uri.path() == "/fleet/propose" {
        check_plan(&body)?;
    }
    let path = uri.path_and_query().map_or(uri.path(), |path| path.as_str());
    let body = (!body.is_empty()).then_some(body);
    let (status, answer) = endpoints.fleetd.exchange(method, path, body).await?;
    Ok((status, [(header::CONTENT_TYPE, "application/json")], answer).into_response())
}

/// A plan in words cannot be voted on.
fn check_plan(body: &[u8]) -> Result<(), ApiError> {
    let value: serde_json::Value = serde_json::from_slice(body)
        .map_err(|error| ApiError::new(ErrorCode::BadRequest, format!("the body is no JSON: {error}")))?;
    let plan = value.get("plan").and_then(serde_json::Value::as_str).unwrap_or_default();
    if plan.parse::<ManifestHash>().is_ok() || plan.parse::<StorePath>().is_ok() {
        return Ok(());
    }
    let text = "plan must be the hash of a manifest or a store path";
    Err(ApiError::new(ErrorCode::ManifestMalformed, text))
}
