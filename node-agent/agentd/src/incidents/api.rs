//! The endpoints of incidents, with the earlier product's shapes. It had none
//! to resolve one; `/incident/{id}/resolve` is new.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Extension, Router};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Caller, Json};
use osmoda_node_api::agentd_records::{Incident, NewIncident, NewStep};
use osmoda_types::ErrorCode;
use serde::Deserialize;
use uuid::Uuid;

use super::keeper::{Change, Incidents};
use crate::limits::Limit;

/// A title: one line.
const NAME_BYTES: Limit = Limit::new(256);

/// What was done, or what came of it: a screen of output. Two of them and a
/// receipt stay far below the 60 KiB of a row.
const TEXT_BYTES: Limit = Limit::new(8 * 1024);

/// The id of a receipt.
const RECEIPT_BYTES: Limit = Limit::new(128);

#[derive(Debug, Deserialize)]
struct ListQuery {
    status: Option<String>,
}

/// The routes.
pub fn router(incidents: Incidents) -> Router {
    Router::new()
        .route("/incident/create", post(create))
        .route("/incident/{id}", get(show))
        .route("/incident/{id}/step", post(step))
        .route("/incident/{id}/resolve", post(resolve))
        .route("/incidents", get(list))
        .with_state(incidents)
}

async fn create(
    State(incidents): State<Incidents>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<NewIncident>,
) -> Result<Json<Incident>, ApiError> {
    if body.name.trim().is_empty() {
        return Err(ApiError::new(ErrorCode::BadRequest, "name is empty"));
    }
    NAME_BYTES.check("name", &body.name)?;
    let id = Uuid::new_v4().to_string();
    incidents.change(caller, Change::Create { name: body.name, id }).await.map(Json)
}

async fn step(
    State(incidents): State<Incidents>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(body): Json<NewStep>,
) -> Result<Json<Incident>, ApiError> {
    TEXT_BYTES.check("action", &body.action)?;
    TEXT_BYTES.check("result", &body.result)?;
    RECEIPT_BYTES.check("receipt_id", body.receipt_id.as_deref().unwrap_or_default())?;
    incidents.change(caller, Change::Step { id, step: body }).await.map(Json)
}

async fn resolve(
    State(incidents): State<Incidents>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Incident>, ApiError> {
    incidents.change(caller, Change::Resolve { id }).await.map(Json)
}

async fn show(State(incidents): State<Incidents>, Path(id): Path<String>) -> Result<Json<Incident>, ApiError> {
    incidents.get(&id).await.map(Json)
}

async fn list(
    State(incidents): State<Incidents>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Vec<Incident>>, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::new(ErrorCode::BadRequest, rejection.body_text()))?;
    let status = query.status.filter(|status| !status.is_empty());
    incidents.list(status.as_deref()).await.map(Json)
}
