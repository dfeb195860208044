//! The endpoints of `agentd.sock`.
//!
//! Who may call what is the callers table's business, checked before a handler
//! runs. What a handler adds: the actor of a row is the caller, whatever the
//! body says, and there is nowhere in the body to say it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Caller, Isolation};
use osmoda_kit::tasks::Tasks;
use osmoda_node_api::agentd::{Appended, EventQuery, HostHealth, LedgerHead, TRUNCATED_HEADER};
use osmoda_node_api::ledger::LedgerHealth;
use osmoda_types::ErrorCode;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};

use crate::checkpoint::{Checkpoints, Watched};
use crate::host::{HostError, Sampler};
use crate::ledger::grammar::GrammarFault;
use crate::ledger::payload::{Payload, PayloadError, StrictValue};
use crate::ledger::redact::redact;
use crate::ledger::{Ledger, LedgerError, NewRow};

/// The key agentd adds to rows of hosts whose daemons share one user
/// (`architecture.md` 2.1). Callers may not write it themselves.
const ISOLATION_KEY: &str = "isolation";

/// Samples of the host at once. One is enough; the second waits for its cache.
/// More would only pile up behind a mount that does not answer.
const SAMPLES_AT_ONCE: usize = 2;

/// How long a sample may take. It is microseconds unless a mount hangs.
const SAMPLE_TIME_LIMIT: Duration = Duration::from_secs(5);

/// What the handlers share; cheap to clone.
#[derive(Debug, Clone)]
pub struct Api {
    ledger: Ledger,
    tasks: Tasks,
    sampler: Arc<Mutex<Sampler>>,
    samples: Arc<Semaphore>,
    checks: Option<Checks>,
}

/// What `/health` says about the ledger beyond whether it can be written.
#[derive(Debug, Clone)]
struct Checks {
    checkpoints: Checkpoints,
    watched: watch::Receiver<Watched>,
}

/// The body of an append, read without losing duplicate keys silently.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppendBody {
    #[serde(rename = "type")]
    kind: String,
    payload: StrictValue,
}

impl Api {
    /// The endpoints over an open ledger.
    ///
    /// # Errors
    /// [`HostError`] where the kernel does not tell how the host is.
    pub fn new(ledger: Ledger, tasks: Tasks) -> Result<Self, HostError> {
        Ok(Self {
            ledger,
            tasks,
            sampler: Arc::new(Mutex::new(Sampler::new()?)),
            samples: Arc::new(Semaphore::new(SAMPLES_AT_ONCE)),
            checks: None,
        })
    }

    /// The same, whose health also says what is signed and what was verified.
    #[must_use]
    pub fn with_checks(self, checkpoints: Checkpoints, watched: watch::Receiver<Watched>) -> Self {
        Self { checks: Some(Checks { checkpoints, watched }), ..self }
    }

    fn ledger_health(&self) -> Option<LedgerHealth> {
        let checks = self.checks.as_ref()?;
        let watched = checks.watched.borrow().clone();
        Some(LedgerHealth {
            rows: self.ledger.state().head.size,
            signed: checks.checkpoints.newest().map_or(0, |newest| newest.checkpoint.size),
            verified: watched.verified,
            checked: watched.checked.map(|at| at.to_string()),
            alarm: watched.alarm.or_else(|| self.ledger.sealed().map(|reason| format!("sealed: {reason}"))),
        })
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/health", get(health))
            .route("/events/log", get(events))
            .route("/ledger/append", post(append))
            .route("/ledger/head", get(head))
            .with_state(self)
    }
}

/// Makes a row of what a caller sent: secrets replaced, isolation marked, the
/// caller as actor.
///
/// # Errors
/// [`ErrorCode::LedgerGrammar`] or [`ErrorCode::TooLarge`].
pub(crate) fn new_row(
    kind: String,
    mut payload: Map<String, Value>,
    actor: &str,
    isolation: Isolation,
) -> Result<NewRow, ApiError> {
    if payload.contains_key(ISOLATION_KEY) {
        return Err(ApiError::new(ErrorCode::LedgerGrammar, "the payload key isolation is reserved"));
    }
    redact(&mut payload);
    if isolation == Isolation::None {
        payload.insert(ISOLATION_KEY.to_owned(), Value::from(isolation.as_str()));
    }
    let payload = Payload::new(&payload).map_err(|fault| refuse(&fault.into()))?;
    NewRow::new(kind, actor.to_owned(), payload).map_err(|fault| refuse(&fault))
}

/// An error of the ledger as callers see it.
pub(crate) fn ledger_error(error: LedgerError) -> ApiError {
    let code = match error {
        LedgerError::Busy => ErrorCode::Busy,
        LedgerError::Unavailable => ErrorCode::LedgerUnavailable,
        // The one refusal after which the others may go on: the row is not there, and
        // what ends an act still is taken.
        LedgerError::NoRoom => ErrorCode::DiskFull,
    };
    ApiError::new(code, error.to_string())
}

fn refuse(fault: &GrammarFault) -> ApiError {
    let code = match fault {
        GrammarFault::Payload(PayloadError::TooLarge { .. }) => ErrorCode::TooLarge,
        _ => ErrorCode::LedgerGrammar,
    };
    ApiError::new(code, fault.to_string())
}

/// Beginnings of types that agentd writes itself, in the transaction of what they
/// tell: believed as such by the executor, the verifier and people.
const OWN_TYPES: [&str; 11] = [
    "agent.",
    "agentd.",
    "approval.",
    "backup.",
    "exec.run.",
    "incident.",
    "ledger.",
    "memory.",
    "session.",
    "system.",
    "witness.",
];

async fn append(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Json<Appended>, ApiError> {
    let body: AppendBody =
        serde_json::from_slice(&body).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))?;
    let Value::Object(payload) = body.payload.0 else {
        return Err(refuse(&PayloadError::NotObject.into()));
    };
    if OWN_TYPES.iter().any(|own| body.kind.starts_with(own)) {
        let text = format!("rows of type {:?} are agentd's own", body.kind.chars().take(64).collect::<String>());
        return Err(ApiError::new(ErrorCode::CallerDenied, text));
    }
    let row = new_row(body.kind, payload, &caller.who.to_string(), caller.isolation)?;
    let head = api.ledger.append(row).await.map_err(ledger_error)?;
    Ok(Json(Appended { id: head.size, hash: head.hash.to_string() }))
}

async fn head(State(api): State<Api>) -> Json<LedgerHead> {
    let head = api.ledger.state().head;
    Json(LedgerHead { size: head.size, hash: head.hash.to_string() })
}

async fn events(
    State(api): State<Api>,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::new(ErrorCode::BadRequest, rejection.body_text()))?;
    // The body is made on the reader's thread: it may be megabytes.
    let read = api.ledger.read(move |file| {
        let page = file.events(&query).map_err(ApiError::internal)?;
        let body = serde_json::to_vec(&page.events).map_err(ApiError::internal)?;
        Ok::<_, ApiError>((body, page.is_truncated))
    });
    let (body, is_truncated) = read.await.map_err(ledger_error)??;
    let mut response = ([(CONTENT_TYPE, "application/json")], body).into_response();
    if is_truncated {
        response.headers_mut().insert(TRUNCATED_HEADER, axum::http::HeaderValue::from_static("true"));
    }
    Ok(response)
}

async fn health(State(api): State<Api>) -> Result<Json<HostHealth>, ApiError> {
    let permit = Arc::clone(&api.samples)
        .try_acquire_owned()
        .map_err(|_| ApiError::new(ErrorCode::Busy, "the host is being sampled"))?;
    let sampler = Arc::clone(&api.sampler);
    let is_writable = api.ledger.state().is_writable;
    let sample = api.tasks.blocking("host sample", move || {
        let _permit = permit;
        // The sampler holds only numbers; a panic leaves nothing half-made that matters.
        sampler.lock().unwrap_or_else(PoisonError::into_inner).sample(is_writable)
    });
    match tokio::time::timeout(SAMPLE_TIME_LIMIT, sample).await {
        Ok(Ok(Ok(mut health))) => {
            health.ledger = api.ledger_health();
            if health.ledger.as_ref().is_some_and(|ledger| ledger.alarm.is_some()) {
                health.status = "degraded".to_owned();
            }
            Ok(Json(health))
        }
        Ok(Ok(Err(error))) => Err(ApiError::internal(error)),
        Ok(Err(error)) => Err(ApiError::internal(error)),
        Err(_) => Err(ApiError::new(ErrorCode::Timeout, "the host could not be sampled in time")),
    }
}
