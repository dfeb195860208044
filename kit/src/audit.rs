//! The ledger, as every other daemon uses it: intent, effect, outcome.
//!
//! Invariant: an [`Intent`] exists only after the ledger has made the record
//! durable, so a function that takes one cannot run unrecorded. The actor of a
//! record is what agentd knows about the connection, never what is sent.

use std::time::Duration;

use osmoda_types::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::http::UnixClient;

/// How long the ledger may take to make a record durable. Group commit on a
/// slow disk is some 50 ms; two seconds is a disk in trouble, and a mutation
/// must then be refused rather than wait unseen.
const APPEND_TIME_LIMIT: Duration = Duration::from_secs(2);

/// A record as the ledger confirmed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Its number, contiguous from 1.
    pub id: i64,
    /// Its chain hash, 64 hex digits.
    pub hash: String,
}

/// What is sent to `POST /ledger/append`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Append {
    /// The type of the record, `[a-z0-9_.:@/-]{1,64}`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A JSON object; no secrets.
    pub payload: Value,
}

/// The client; cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit {
    agentd: UnixClient,
}

/// A durable record that something is about to be done.
#[derive(Debug)]
#[must_use = "an intent without an outcome reads as a crash"]
pub struct Intent {
    audit: Audit,
    kind: String,
    record: Recorded,
}

impl Audit {
    /// Uses a client of `agentd.sock`.
    #[must_use]
    pub fn new(agentd: UnixClient) -> Self {
        Self { agentd: agentd.with_time_limit(APPEND_TIME_LIMIT) }
    }

    /// Records `<kind>.intent` before an effect.
    ///
    /// # Errors
    /// [`ErrorCode::LedgerUnavailable`] when the record is not durable, and
    /// [`ErrorCode::LedgerGrammar`] when it may not be written; then the effect
    /// must not happen.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, the record may exist; it then has no outcome.
    pub async fn intent(&self, kind: &str, payload: Value) -> Result<Intent, ApiError> {
        let record = self.record(&format!("{kind}.intent"), payload).await?;
        Ok(Intent { audit: self.clone(), kind: kind.to_owned(), record })
    }

    /// Takes up an intent that an earlier run of the program recorded, to give
    /// it its outcome.
    pub fn resume(&self, kind: &str, record: Recorded) -> Intent {
        Intent { audit: self.clone(), kind: kind.to_owned(), record }
    }

    /// Records one event that has no effect of its own.
    ///
    /// # Errors
    /// As [`Audit::intent`].
    pub async fn record(&self, kind: &str, payload: Value) -> Result<Recorded, ApiError> {
        let body = Append { kind: kind.to_owned(), payload };
        self.agentd.post("/ledger/append", &body).await.map_err(|error| match error.code {
            ErrorCode::LedgerGrammar | ErrorCode::LedgerBroken | ErrorCode::DiskFull => error,
            _ => ApiError::new(ErrorCode::LedgerUnavailable, "the ledger did not record it").with_source(error),
        })
    }
}

impl Intent {
    /// The record of the intent.
    #[must_use]
    pub fn recorded(&self) -> &Recorded {
        &self.record
    }

    /// Records `<kind>.outcome`, naming the intent in `payload.intent`.
    ///
    /// # Errors
    /// As [`Audit::intent`]; the effect has happened, so the caller spools or
    /// raises the alarm. The intent comes back inside the error's caller: keep
    /// [`Intent::recorded`] where a retry is wanted and use [`Audit::resume`].
    pub async fn outcome(self, payload: Value) -> Result<Recorded, ApiError> {
        let mut payload = match payload {
            Value::Object(fields) => Value::Object(fields),
            other => json!({ "value": other }),
        };
        payload["intent"] = json!(self.record.id);
        self.audit.record(&format!("{}.outcome", self.kind), payload).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::TestServer;
    use axum::{Json, Router, routing::post};
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn intent_then_outcome_names_the_intent() {
        let rows = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&rows);
        let append = move |Json(body): Json<Append>| async move {
            let mut rows = seen.lock().unwrap();
            rows.push(body);
            Json(Recorded { id: i64::try_from(rows.len()).unwrap(), hash: "00".repeat(32) })
        };
        let server = TestServer::open(Router::new().route("/ledger/append", post(append)));
        let audit = Audit::new(server.client());
        let intent = audit.intent("watch.activate", json!({"attempt": 7})).await.unwrap();
        assert_eq!(intent.recorded().id, 1);
        intent.outcome(json!({"ok": true})).await.unwrap();
        let rows = rows.lock().unwrap();
        assert_eq!((rows[0].kind.as_str(), rows[1].kind.as_str()), ("watch.activate.intent", "watch.activate.outcome"));
        assert_eq!(rows[1].payload, json!({"ok": true, "intent": 1}));
    }

    #[tokio::test]
    async fn without_a_ledger_there_is_no_intent() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::new(UnixClient::new(dir.path().join("agentd.sock"), crate::http::Credentials::none()));
        let error = audit.intent("watch.activate", json!({})).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::LedgerUnavailable);
    }
}
