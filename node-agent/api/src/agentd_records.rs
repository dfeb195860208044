//! The words of `/receipts`, `/incident/*` and `/incidents` on `agentd.sock`.
//!
//! Shapes are the earlier product's, with fields added and none changed.

use osmoda_kit::error::ApiError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agentd::{AgentdClient, query_path};

/// The query of `GET /receipts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptQuery {
    /// Only receipts of exactly this type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only receipts of this time or later: a time, a prefix of one, or a span
    /// such as `7d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Most receipts: 50 when absent, never more than 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
}

/// A ledger row in the form of a receipt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// `receipt-<row>`.
    pub id: String,
    /// The row.
    pub event_id: i64,
    /// The row's type.
    pub receipt_type: String,
    /// Who did it, as the connection proved it.
    pub actor: String,
    /// One line for people.
    pub summary: String,
    /// The payload.
    pub detail: Value,
    /// When it was recorded.
    pub timestamp: String,
    /// Whether there is a way back.
    pub reversible: bool,
    /// What leads back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_action: Option<String>,
}

/// The body of `POST /incident/create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewIncident {
    /// Its title.
    pub name: String,
}

/// The body of `POST /incident/{id}/step`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewStep {
    /// What was done.
    pub action: String,
    /// What came of it. The earlier product's tools may leave it out.
    #[serde(default)]
    pub result: String,
    /// The receipt that proves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt_id: Option<String>,
}

/// A record of trouble and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Its id.
    pub id: String,
    /// Its title.
    pub name: String,
    /// `open` or `resolved`.
    pub status: String,
    /// What was done, in order.
    pub steps: Vec<Step>,
    /// When it was opened.
    pub created_at: String,
    /// When it was resolved.
    #[serde(default)]
    pub resolved_at: Option<String>,
}

/// One step of an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its place, from 1.
    pub step_number: u64,
    /// What was done.
    pub action: String,
    /// What came of it.
    pub result: String,
    /// The receipt that proves it.
    #[serde(default)]
    pub receipt_id: Option<String>,
    /// When it was recorded.
    pub timestamp: String,
}

impl AgentdClient {
    /// Ledger rows as receipts, newest first.
    ///
    /// # Errors
    /// As `UnixClient::get`.
    pub async fn receipts(&self, query: &ReceiptQuery) -> Result<Vec<Receipt>, ApiError> {
        let limit = query.limit.map(|limit| limit.to_string());
        let pairs = [("type", &query.kind), ("since", &query.since), ("limit", &limit)];
        self.http.get(&query_path("/receipts", &pairs)).await
    }

    /// Opens an incident.
    ///
    /// # Errors
    /// As `UnixClient::post`.
    pub async fn open_incident(&self, request: &NewIncident) -> Result<Incident, ApiError> {
        self.http.post("/incident/create", request).await
    }

    /// Adds a step to an incident.
    ///
    /// # Errors
    /// As `UnixClient::post`; `not_found` when there is no such incident.
    pub async fn add_step(&self, id: &str, request: &NewStep) -> Result<Incident, ApiError> {
        self.http.post(&format!("/incident/{id}/step"), request).await
    }

    /// Closes an incident.
    ///
    /// # Errors
    /// As `UnixClient::post`; `conflict` when it is resolved already.
    pub async fn resolve_incident(&self, id: &str) -> Result<Incident, ApiError> {
        self.http.post(&format!("/incident/{id}/resolve"), &serde_json::Map::new()).await
    }

    /// One incident.
    ///
    /// # Errors
    /// As `UnixClient::get`.
    pub async fn incident(&self, id: &str) -> Result<Incident, ApiError> {
        self.http.get(&format!("/incident/{id}")).await
    }

    /// Incidents, newest first; of one status when it is given.
    ///
    /// # Errors
    /// As `UnixClient::get`.
    pub async fn incidents(&self, status: Option<&str>) -> Result<Vec<Incident>, ApiError> {
        self.http.get(&query_path("/incidents", &[("status", &status.map(str::to_owned))])).await
    }
}
