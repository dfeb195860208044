//! The fleet as a whole, and what answers without a token.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use osmoda_controller_api::{DeniedTarget, FleetStatus, Freeze, Page, Principal, Voter};
use osmoda_kit::error::ApiError;
use osmoda_kit::version::VERSION;

use super::paging::Paging;
use super::{Answer, App, stored};
use crate::view::principal_name;

/// `GET /healthz`.
pub(super) async fn health(State(app): State<App>) -> Json<serde_json::Value> {
    let view = app.view();
    Json(serde_json::json!({
        "ok": true, "version": VERSION.version, "commit": VERSION.commit, "dirty": VERSION.dirty,
        "following": view.following, "applied_index": view.applied_index,
    }))
}

/// `GET /metrics`.
pub(super) async fn metrics() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], osmoda_kit::metrics::render())
}

/// `GET /openapi.json`.
pub(super) async fn openapi() -> Answer<impl IntoResponse> {
    let text = osmoda_controller_api::openapi::text().map_err(ApiError::internal)?;
    Ok(([(CONTENT_TYPE, "application/json")], text))
}

/// `GET /status`.
pub(super) async fn status(State(app): State<App>) -> Answer<Json<FleetStatus>> {
    let view = app.view();
    let state = &view.state;
    let troubles = crate::witnessed::troubles(&*app.store, state).await.map_err(stored)?;
    let voters = state.voters().map(|(node, raft_id)| Voter {
        node: *node,
        name: view.name(node),
        raft_id: raft_id.to_string(),
    });
    Ok(Json(FleetStatus {
        network_id: app.network,
        epoch: state.epoch().0,
        mesh_epoch: state.mesh_epoch().0,
        leader: view.leader,
        voters: voters.collect(),
        members: u32::try_from(state.members().count()).unwrap_or(u32::MAX),
        online: app.presence.online(),
        applied_index: view.applied_index,
        following: view.following,
        active_rollouts: state.active().map(|rollout| rollout.id).collect(),
        freezes: state.freezes().map(|(scope, freeze)| frozen(state, scope, freeze)).collect(),
        ledger_alarms: troubles.into_keys().collect(),
        version: VERSION.text.to_owned(),
    }))
}

pub(super) fn frozen(state: &osmoda_rollout::FleetState, scope: &str, freeze: &osmoda_rollout::Freeze) -> Freeze {
    Freeze { scope: scope.to_owned(), by: principal_name(state, &freeze.key), index: freeze.index }
}

/// `GET /principals`.
pub(super) async fn principals(State(app): State<App>, paging: Paging) -> Json<Page<Principal>> {
    let view = app.view();
    let rows = view.state.principals().map(|entry| {
        let principal = &entry.principal;
        let row = Principal { name: principal.name.clone(), key: principal.key, rights: principal.rights.clone() };
        (format!("{} {}", principal.name, principal.key), row)
    });
    Json(paging.page(rows))
}

/// `GET /freezes`.
pub(super) async fn freezes(State(app): State<App>, paging: Paging) -> Json<Page<Freeze>> {
    let view = app.view();
    let rows = view.state.freezes().map(|(scope, freeze)| (scope.to_owned(), frozen(&view.state, scope, freeze)));
    Json(paging.page(rows))
}

/// `GET /targets/denied`.
pub(super) async fn denied(State(app): State<App>, paging: Paging) -> Json<Page<DeniedTarget>> {
    let view = app.view();
    let rows = view.state.deny_list().map(|(target, denied)| {
        let row = DeniedTarget { target: target.clone(), rollout: Some(denied.rollout), index: Some(denied.index) };
        (target.to_string(), row)
    });
    Json(paging.page(rows))
}
