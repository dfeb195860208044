//! The words of `/system/*` on `agentd.sock`.
//!
//! Shapes are the earlier product's, with fields added and none changed.

use osmoda_kit::error::ApiError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agentd::AgentdClient;

/// The body of `POST /system/query`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SystemQuery {
    /// `processes`, `disk`, `hostname` or `uptime`.
    pub query: String,
    /// For `processes`: `sort` (`cpu` or `memory`) and `limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Value>,
}

/// The answer of `POST /system/query`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SystemAnswer {
    /// What was asked.
    pub query: String,
    /// What is; `{"error": …}` when the question is not known.
    pub result: Value,
}

/// The answer of `GET /system/discover`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Discovered {
    /// What runs or listens here.
    pub found: Vec<Found>,
    /// TCP ports that somebody listens on.
    pub total_listening_ports: u64,
    /// Running services of systemd.
    pub total_systemd_services: u64,
    /// What could not be seen, and why.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A service, by its port, its process or its unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The process's name, else the unit's, else `port-<n>`.
    pub name: String,
    /// Its process, where this daemon may see whose port it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Where it listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// What it probably is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected_as: Option<String>,
    /// Where it probably says how it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_url: Option<String>,
    /// Its unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd_unit: Option<String>,
    /// Memory of its process, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Load of its process, in per cent of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_usage: Option<f32>,
}

impl AgentdClient {
    /// One view of the machine.
    ///
    /// # Errors
    /// As `UnixClient::post`.
    pub async fn query(&self, request: &SystemQuery) -> Result<SystemAnswer, ApiError> {
        self.http.post("/system/query", request).await
    }

    /// What runs and listens here.
    ///
    /// # Errors
    /// As `UnixClient::get`.
    pub async fn discover(&self) -> Result<Discovered, ApiError> {
        self.http.get("/system/discover").await
    }
}
