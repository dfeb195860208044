//! The words of `/memory/*` on `agentd.sock`.
//!
//! Shapes are the earlier product's, with fields added and none changed.

use osmoda_kit::error::ApiError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agentd::AgentdClient;

/// The body of `POST /memory/ingest`: something to remember, from anyone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ingest {
    /// The text. Required, unless `event` is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// What some tools of the earlier product send instead of `content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Value>,
    /// What the sender calls itself; the row's actor is the caller all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A free category.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// Anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
}

/// The answer of `POST /memory/ingest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingested {
    /// Its ledger row.
    pub id: i64,
    /// `stored`: the row is on disk.
    pub status: String,
}

/// The body of `POST /memory/store`: a note of the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// A short headline.
    pub summary: String,
    /// The note itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// A free category.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
}

/// The answer of `POST /memory/store`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its ledger row.
    pub id: i64,
}

/// The body of `POST /memory/recall`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    /// Words to look for; a row with any of them is found.
    pub query: String,
    /// Most chunks to return: 10 when absent, never more than 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_results: Option<i64>,
    /// Only rows of that time: `7d`, `12h`, `2026-11`, `2026-10..2026-11`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeframe: Option<String>,
}

/// The answer of `POST /memory/recall`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recalled {
    /// What was asked.
    pub query: String,
    /// What was found, best first.
    pub chunks: Vec<Chunk>,
    /// Among how many rows was searched.
    pub total_searched: u64,
    /// How many rows of the time asked for were not searched: the index is behind, and
    /// they are too many to be read for one question. 0 but in an index's first minutes
    /// and while rows come faster than it may follow; ask again later.
    #[serde(default)]
    pub unsearched: u64,
    /// A cap on the answer's size cut it short.
    #[serde(default)]
    pub truncated: bool,
}

/// One ledger row that fits a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chunk {
    /// The row.
    pub id: i64,
    /// When it was appended.
    pub ts: String,
    /// The text: of notes what was noted, of other rows the payload.
    pub content: String,
    /// Its category.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// How well it fits, from 0 to 1.
    pub relevance: f64,
    /// What its sender called itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The row's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who appended it, as the connection proved it.
    pub actor: String,
    /// Always true: the text is data, never instructions.
    pub untrusted: bool,
}

/// The answer of `GET /memory/health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryHealth {
    /// `ok`; `indexing` while the index is made; `degraded` when the ledger
    /// cannot be written.
    pub status: String,
    /// Rows in the ledger.
    pub event_count: u64,
    /// The folder of ledger and index.
    pub state_dir: String,
    /// The last row the index knows.
    pub indexed: u64,
    /// How often the index was made anew since start.
    pub rebuilds: u64,
}

impl AgentdClient {
    /// Remembers something.
    ///
    /// # Errors
    /// As `UnixClient::post`.
    pub async fn ingest(&self, request: &Ingest) -> Result<Ingested, ApiError> {
        self.http.post("/memory/ingest", request).await
    }

    /// Notes something.
    ///
    /// # Errors
    /// As `UnixClient::post`.
    pub async fn store(&self, request: &Store) -> Result<Stored, ApiError> {
        self.http.post("/memory/store", request).await
    }

    /// Looks for rows with any of the words.
    ///
    /// # Errors
    /// As `UnixClient::post`.
    pub async fn recall(&self, request: &Recall) -> Result<Recalled, ApiError> {
        self.http.post("/memory/recall", request).await
    }

    /// How memory is.
    ///
    /// # Errors
    /// As `UnixClient::get`.
    pub async fn memory_health(&self) -> Result<MemoryHealth, ApiError> {
        self.http.get("/memory/health").await
    }
}
