//! The words of `agentd.sock`: ledger rows, appends, the head, host health.
//!
//! Shapes of `/health` and `/events/log` are the earlier product's, with fields
//! added and none changed, so that its clients work.

use osmoda_kit::error::ApiError;
use osmoda_kit::http::UnixClient;
use serde::{Deserialize, Serialize};

use crate::ledger::{ConsistencyProof, InclusionProof, LedgerCheckpoint, LedgerHealth};
use crate::witness::{LoggedHead, WitnessReport};

/// How many events `/events/log` returns when nothing else is asked.
pub const EVENTS_LIMIT_DEFAULT: i64 = 50;

/// Largest answer read, in bytes: the 8 MiB of columns that `/events/log` gives
/// at most, each quote escaped, plus 250 bytes of names and hashes for each of
/// its 10,000 rows, rounded up.
const ANSWER_BYTES_MAX: usize = 24 << 20;

/// Set to `true` on an answer of `/events/log` that a cap cut short.
pub const TRUNCATED_HEADER: &str = "x-osmoda-truncated";

/// A typed client of `agentd.sock`; cheap to clone. Appends go through
/// `osmoda_kit::audit::Audit`, which pairs intents with outcomes.
#[derive(Debug, Clone)]
pub struct AgentdClient {
    pub(crate) http: UnixClient,
}

impl AgentdClient {
    /// Uses a client of the socket.
    #[must_use]
    pub fn new(http: UnixClient) -> Self {
        Self { http: http.with_answer_limit(ANSWER_BYTES_MAX) }
    }

    /// How the daemon and the host are.
    ///
    /// # Errors
    /// As [`UnixClient::get`].
    pub async fn health(&self) -> Result<HostHealth, ApiError> {
        self.http.get("/health").await
    }

    /// Where the ledger ends.
    ///
    /// # Errors
    /// As [`UnixClient::get`].
    pub async fn head(&self) -> Result<LedgerHead, ApiError> {
        self.http.get("/ledger/head").await
    }

    /// The newest checkpoint of the ledger.
    ///
    /// # Errors
    /// As [`UnixClient::get`]; not found before the first.
    pub async fn checkpoint(&self) -> Result<LedgerCheckpoint, ApiError> {
        self.http.get("/ledger/checkpoint").await
    }

    /// That row `id` is among the first `size`.
    ///
    /// # Errors
    /// As [`UnixClient::get`]; not found when there are fewer.
    pub async fn inclusion(&self, id: u64, size: u64) -> Result<InclusionProof, ApiError> {
        self.http.get(&format!("/ledger/proof/inclusion?id={id}&size={size}")).await
    }

    /// That the first `from` rows are the beginning of the first `to`.
    ///
    /// # Errors
    /// As [`UnixClient::get`]; not found when there are fewer.
    pub async fn consistency(&self, from: u64, to: u64) -> Result<ConsistencyProof, ApiError> {
        self.http.get(&format!("/ledger/proof/consistency?from={from}&to={to}")).await
    }

    /// What this node knows as a witness and of its own witnesses.
    ///
    /// # Errors
    /// As [`UnixClient::get`].
    pub async fn witness(&self) -> Result<WitnessReport, ApiError> {
        self.http.get("/ledger/witness").await
    }

    /// The head of the ledger that the fleet's log should have next: the newest that
    /// enough witnesses cosigned, or a newer one that a witness waits for; nothing in a
    /// fleet of one.
    ///
    /// # Errors
    /// As [`UnixClient::get`].
    pub async fn next_head(&self) -> Result<Option<LoggedHead>, ApiError> {
        self.http.get("/ledger/next-head").await
    }

    /// Ledger rows, newest first.
    ///
    /// # Errors
    /// As [`UnixClient::get`].
    pub async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, ApiError> {
        self.http.get(&query.to_path()).await
    }

    /// Records one event that has no effect of its own.
    ///
    /// # Errors
    /// As [`UnixClient::post`].
    pub async fn append(&self, request: &AppendRequest) -> Result<Appended, ApiError> {
        self.http.post("/ledger/append", request).await
    }
}

/// One ledger row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the chain, from 1.
    pub id: i64,
    /// When it was appended, `YYYY-MM-DDTHH:MM:SS.mmmZ`.
    pub ts: String,
    /// What happened, such as `watch.activate.intent`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who did it, as the connection proved it.
    pub actor: String,
    /// Canonical JSON, as text: the hash is over these bytes.
    pub payload: String,
    /// The hash of the row before.
    pub prev_hash: String,
    /// The hash of this row.
    pub hash: String,
}

/// Which events to return; the query of `GET /events/log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventQuery {
    /// Only rows of exactly this type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only rows of exactly this actor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Most rows to return, newest first; negative for as many as the daemon
    /// gives in one answer (10,000 rows or 8 MiB; the answer then carries the
    /// header `x-osmoda-truncated: true`).
    pub limit: i64,
    /// Only rows before this id: the next page after a truncated one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<i64>,
}

impl Default for EventQuery {
    fn default() -> Self {
        Self { kind: None, actor: None, limit: EVENTS_LIMIT_DEFAULT, before: None }
    }
}

impl EventQuery {
    fn to_path(&self) -> String {
        let limit = Some(self.limit.to_string());
        let before = self.before.map(|before| before.to_string());
        let pairs = [("limit", &limit), ("type", &self.kind), ("actor", &self.actor), ("before", &before)];
        query_path("/events/log", &pairs)
    }
}

/// A path with those parameters that are given. Whatever is not a letter or
/// digit is percent-encoded, so no text can add a parameter.
pub(crate) fn query_path(path: &str, pairs: &[(&str, &Option<String>)]) -> String {
    let mut path = path.to_owned();
    let mut before = '?';
    for (name, text) in pairs.iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
        path.push(before);
        path.push_str(name);
        path.push('=');
        before = '&';
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || byte == b'-' {
                path.push(char::from(byte));
            } else {
                path.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    path
}

/// What a daemon asks to have recorded; the body of `POST /ledger/append`.
/// There is no actor in it: agentd takes that from the connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppendRequest {
    /// The type, `[a-z0-9_.:@/-]{1,64}`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Any JSON object of at most 60 KiB without duplicate keys; agentd brings
    /// it into canonical form. The key `isolation` is agentd's own.
    pub payload: serde_json::Map<String, serde_json::Value>,
}

/// A row that is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// Its position in the chain.
    pub id: u64,
    /// Its hash.
    pub hash: String,
}

/// Where the ledger ends; the answer of `GET /ledger/head`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerHead {
    /// Number of rows; also the id of the last.
    pub size: u64,
    /// Hash of the last row; 64 zeros when there is none.
    pub hash: String,
}

/// The answer of `GET /health`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostHealth {
    /// `ok`, or `degraded` when the ledger cannot be written.
    pub status: String,
    /// Load of each core since the sample before, in per cent.
    pub cpu_usage: Vec<f32>,
    /// Physical memory, in bytes.
    pub memory_total: u64,
    /// Memory in use, in bytes.
    pub memory_used: u64,
    /// Memory that a program could still get, in bytes.
    pub memory_available: u64,
    /// Swap space, in bytes.
    pub swap_total: u64,
    /// Swap space in use, in bytes.
    pub swap_used: u64,
    /// Runnable tasks, averaged.
    pub load_average: LoadAverage,
    /// Seconds since the host started.
    pub uptime: u64,
    /// The host's name.
    pub hostname: String,
    /// Mounted file systems.
    pub disks: Vec<Disk>,
    /// Version of the daemon.
    pub version: String,
    /// Commit it was built from.
    pub commit: String,
    /// Whether the tree had changes when it was built.
    pub dirty: bool,
    /// How sure the daemon is of its ledger.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ledger: Option<LedgerHealth>,
}

/// Load averages of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LoadAverage {
    /// Over one minute.
    pub one: f64,
    /// Over five minutes.
    pub five: f64,
    /// Over fifteen minutes.
    pub fifteen: f64,
}

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Where it is mounted.
    pub mount_point: String,
    /// Size in bytes.
    pub total: u64,
    /// Bytes in use.
    pub used: u64,
    /// Bytes that an ordinary user could still write.
    pub available: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_encoded_so_that_no_text_can_add_to_it() {
        let query =
            EventQuery { kind: Some("a.b&limit=9".into()), actor: Some("é".into()), limit: -1, before: Some(7) };
        assert_eq!(query.to_path(), "/events/log?limit=-1&type=a%2Eb%26limit%3D9&actor=%C3%A9&before=7");
    }
}
