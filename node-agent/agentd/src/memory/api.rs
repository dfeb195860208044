//! The endpoints of memory, with the earlier product's shapes.
//!
//! A note's actor is the caller; what the caller calls itself is `source`, in
//! the payload (`weaknesses.md` A6). Bodies that put an `event` object where
//! `content` should be are taken too, since the earlier product's tools sent
//! those and lost them (A1).

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Router};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Caller, Json};
use osmoda_node_api::agentd_memory::{Ingest, Ingested, MemoryHealth, Recall, Recalled, Store, Stored};
use osmoda_types::ErrorCode;
use serde_json::{Map, Value};

use super::recall::{self, Question, Stopper};
use super::{Memory, SEARCH_TIME_LIMIT, note, query};
use crate::api::{ledger_error, new_row};
use crate::limits::{self, Limit};
use crate::timeframe;

/// Results when nothing else is asked.
const RESULTS_DEFAULT: i64 = 10;

/// Results at most, the earlier product's cap.
const RESULTS_MAX: i64 = 100;

/// A name of a source or a category: a few words.
const NAME_BYTES: Limit = Limit::new(256);

/// Tags of one note; they are labels, not text.
const TAGS: usize = 64;

/// The routes.
pub fn router(memory: Memory) -> Router {
    Router::new()
        .route("/memory/ingest", post(ingest))
        .route("/memory/recall", post(recall))
        .route("/memory/store", post(store))
        .route("/memory/health", get(health))
        .with_state(memory)
}

async fn ingest(
    State(memory): State<Memory>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<Ingest>,
) -> Result<Json<Ingested>, ApiError> {
    check_labels(body.source.as_deref(), body.category.as_deref(), body.tags.as_deref())?;
    let said = match (body.content, body.event) {
        (Some(content), _) => ("content".to_owned(), Value::from(content)),
        (None, Some(event)) => ("event".to_owned(), event),
        (None, None) => {
            let error = ApiError::new(ErrorCode::BadRequest, "missing field `content`");
            return Err(error.with_status(axum::http::StatusCode::UNPROCESSABLE_ENTITY));
        }
    };
    let mut payload = Map::from_iter([said]);
    let rest = [
        ("source", body.source.map(Value::from)),
        ("category", body.category.map(Value::from)),
        ("tags", body.tags.map(Value::from)),
        ("metadata", body.metadata),
    ];
    payload.extend(rest.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    let id = append(&memory, caller, note::INGEST, payload).await?;
    Ok(Json(Ingested { id, status: "stored".to_owned() }))
}

async fn store(
    State(memory): State<Memory>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<Store>,
) -> Result<Json<Stored>, ApiError> {
    check_labels(None, body.category.as_deref(), body.tags.as_deref())?;
    let mut payload = Map::from_iter([("summary".to_owned(), Value::from(body.summary))]);
    let rest = [
        ("detail", body.detail.map(Value::from)),
        ("category", body.category.map(Value::from)),
        ("tags", body.tags.map(Value::from)),
    ];
    payload.extend(rest.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    let id = append(&memory, caller, note::STORE, payload).await?;
    Ok(Json(Stored { id }))
}

async fn append(memory: &Memory, caller: Caller, kind: &str, payload: Map<String, Value>) -> Result<i64, ApiError> {
    let row = new_row(kind.to_owned(), payload, &caller.who.to_string(), caller.isolation)?;
    let head = memory.ledger.append(row).await.map_err(ledger_error)?;
    i64::try_from(head.size).map_err(ApiError::internal)
}

fn check_labels(source: Option<&str>, category: Option<&str>, tags: Option<&[String]>) -> Result<(), ApiError> {
    NAME_BYTES.check("source", source.unwrap_or_default())?;
    NAME_BYTES.check("category", category.unwrap_or_default())?;
    let tags = tags.unwrap_or_default();
    if tags.len() > TAGS {
        return Err(limits::too_large(format!("{} tags, the limit is {TAGS}", tags.len())));
    }
    tags.iter().try_for_each(|tag| NAME_BYTES.check("tag", tag))
}

async fn recall(State(memory): State<Memory>, Json(body): Json<Recall>) -> Result<Json<Recalled>, ApiError> {
    limits::QUESTION_BYTES.check("query", &body.query)?;
    let bad = |error: timeframe::NotATimeframe| ApiError::new(ErrorCode::BadRequest, error.to_string());
    let now = memory.ledger.now();
    let frame = body.timeframe.as_deref().filter(|text| !text.trim().is_empty());
    let timeframe = frame.map(|text| timeframe::parse(text, now)).transpose().map_err(bad)?;
    let results = body.max_results.unwrap_or(RESULTS_DEFAULT).clamp(1, RESULTS_MAX);
    let question = Question {
        words: query::words(&body.query),
        timeframe,
        results_max: usize::try_from(results).unwrap_or(1),
        progress: memory.progress(),
    };
    if question.words.is_empty() {
        let (query, chunks) = (body.query, Vec::new());
        return Ok(Json(Recalled { query, chunks, total_searched: 0, unsearched: 0, truncated: false }));
    }
    let found = memory.search(question).await?;
    Ok(Json(Recalled {
        query: body.query,
        chunks: found.chunks,
        total_searched: found.searched,
        unsearched: found.unsearched,
        truncated: found.is_truncated,
    }))
}

impl Memory {
    async fn search(&self, question: Question) -> Result<recall::Found, ApiError> {
        let permit = Arc::clone(&self.searches)
            .try_acquire_owned()
            .map_err(|_| ApiError::new(ErrorCode::Busy, "too many searches at once"))?;
        metrics::counter!("osmoda_memory_searches_total").increment(1);
        let stopper = Arc::new(Stopper::default());
        let (ledger, path, stop) = (self.ledger_path.clone(), self.index_path.clone(), Arc::clone(&stopper));
        let searched = self.tasks.blocking("search", move || {
            let _permit = permit;
            recall::search(&ledger, &path, &question, &stop)
        });
        let found = match tokio::time::timeout(SEARCH_TIME_LIMIT, searched).await {
            Ok(ended) => ended.map_err(ApiError::internal)?.map_err(ApiError::internal)?,
            Err(_) => {
                stopper.stop();
                return Err(ApiError::new(ErrorCode::Timeout, "the search took too long; ask with fewer words"));
            }
        };
        if found.is_index_damaged {
            self.damage.report();
        }
        Ok(found)
    }
}

async fn health(State(memory): State<Memory>) -> Json<MemoryHealth> {
    let (state, progress) = (memory.ledger.state(), memory.progress());
    let rows = state.head.size;
    let status = match (state.is_writable, progress.is_usable) {
        (false, _) => "degraded",
        (true, false) => "indexing",
        (true, true) => "ok",
    };
    let folder = memory.ledger_path.parent().map(|folder| folder.display().to_string());
    Json(MemoryHealth {
        status: status.to_owned(),
        event_count: rows,
        state_dir: folder.unwrap_or_default(),
        indexed: progress.indexed.unsigned_abs(),
        rebuilds: progress.rebuilds,
    })
}
