//! A ledger in memory that answers as agentd does, or refuses, or records and
//! loses its answer.

use axum::Router;
use axum::extract::{Query, State};
use axum::routing::{get, post};
use osmoda_kit::audit::{Append, Recorded};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::Json;
use osmoda_node_api::agentd::{Event, EventQuery};
use osmoda_types::ErrorCode;
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Clone, Default)]
pub(crate) struct Ledger {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub rows: Vec<Append>,
    /// Rows whose type begins so are refused with the code.
    pub refused: Option<(&'static str, ErrorCode)>,
    /// That many rows more are recorded without the caller hearing of it.
    pub lost_answers: usize,
}

impl Ledger {
    pub(crate) fn router(&self) -> Router {
        let routes = Router::new().route("/ledger/append", post(append)).route("/events/log", get(events));
        routes.with_state(self.clone())
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn kinds(&self) -> Vec<String> {
        self.lock().rows.iter().map(|row| row.kind.clone()).collect()
    }

    /// Everything that `agentctl verify-ledger` would count: intents without
    /// outcome, and outcomes without an earlier intent of the same act.
    pub(crate) fn unpaired(&self) -> Vec<String> {
        let mut open: Vec<(i64, String)> = Vec::new();
        let mut closed = Vec::new();
        let mut faults = Vec::new();
        for (id, row) in (1_i64..).zip(&self.lock().rows) {
            if let Some(stem) = row.kind.strip_suffix(".intent") {
                open.push((id, stem.to_owned()));
            } else if let Some(stem) = row.kind.strip_suffix(".outcome") {
                let intent = row.payload["intent"].as_i64().unwrap_or_default();
                match open.iter().any(|known| *known == (intent, stem.to_owned())) {
                    true => closed.push(intent),
                    false => faults.push(format!("row {id} {} names {intent}", row.kind)),
                }
            }
        }
        open.retain(|(id, _)| !closed.contains(id));
        faults.extend(open.into_iter().map(|(id, stem)| format!("row {id} {stem}.intent is open")));
        faults
    }
}

async fn append(State(ledger): State<Ledger>, Json(body): Json<Append>) -> Result<Json<Recorded>, ApiError> {
    let mut inner = ledger.lock();
    if let Some((kind, code)) = inner.refused
        && body.kind.starts_with(kind)
    {
        return Err(ApiError::new(code, "refused by the test"));
    }
    inner.rows.push(body);
    if inner.lost_answers > 0 {
        inner.lost_answers -= 1;
        return Err(ApiError::new(ErrorCode::Timeout, "the answer is lost"));
    }
    let id = i64::try_from(inner.rows.len()).unwrap();
    Ok(Json(Recorded { id, hash: "00".repeat(32) }))
}

async fn events(State(ledger): State<Ledger>, Query(query): Query<EventQuery>) -> Json<Vec<Event>> {
    let inner = ledger.lock();
    let wanted = (1_i64..).zip(&inner.rows).filter(|(_, row)| query.kind.as_ref().is_none_or(|kind| *kind == row.kind));
    let event = |(id, row): (i64, &Append)| Event {
        id,
        ts: String::new(),
        kind: row.kind.clone(),
        actor: "watch".to_owned(),
        payload: row.payload.to_string(),
        prev_hash: String::new(),
        hash: String::new(),
    };
    Json(wanted.map(event).collect::<Vec<_>>().into_iter().rev().take(usize::try_from(query.limit).unwrap()).collect())
}
