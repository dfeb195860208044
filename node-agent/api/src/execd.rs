//! The words of `execd.sock`: resolve an object, run a call.

use osmoda_kit::error::ApiError;
use osmoda_kit::http::UnixClient;
use osmoda_permit::{HostTrust, SignedPermit};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

use crate::agentd_backup::Backup;
use crate::approval::{AskedCall, RunOutcome};

/// How long a run may take. The longest is a restoration: checking, stopping,
/// putting back and starting have two minutes each in the executor, and witnesses
/// half a minute before them.
const RUN_TIME_MAX: Duration = Duration::from_secs(540);

/// How long making a backup may take: what its own limit is, and the answer.
const BACKUP_TIME_MAX: Duration = Duration::from_secs(610);

/// A typed client of `execd.sock`; cheap to clone.
#[derive(Debug, Clone)]
pub struct ExecdClient {
    http: UnixClient,
}

impl ExecdClient {
    /// Uses a client of the socket.
    #[must_use]
    pub fn new(http: UnixClient) -> Self {
        Self { http }
    }

    /// Looks at what a call would be done to.
    ///
    /// # Errors
    /// As [`UnixClient::post`].
    pub async fn resolve(&self, call: &AskedCall) -> Result<Resolved, ApiError> {
        self.http.post("/exec/resolve", call).await
    }

    /// Runs a call.
    ///
    /// # Errors
    /// As [`UnixClient::post`].
    pub async fn run(&self, request: &RunRequest) -> Result<RunAnswer, ApiError> {
        self.http.clone().with_time_limit(RUN_TIME_MAX).post("/exec/run", request).await
    }

    /// Whom the executor believes.
    ///
    /// # Errors
    /// As [`UnixClient::get`]; `principal_unknown` while it believes nobody.
    pub async fn trusted(&self) -> Result<HostTrust, ApiError> {
        self.http.get("/trust").await
    }

    /// Makes a backup of every daemon's state now.
    ///
    /// # Errors
    /// As [`UnixClient::post`]; `busy` while another one is made or put back.
    pub async fn create_backup(&self) -> Result<MadeBackup, ApiError> {
        let empty = serde_json::Map::new();
        self.http.clone().with_time_limit(BACKUP_TIME_MAX).post("/backup/create", &empty).await
    }

    /// Backups, newest first.
    ///
    /// # Errors
    /// As [`UnixClient::get`].
    pub async fn backups(&self) -> Result<Vec<Backup>, ApiError> {
        self.http.get("/backup/list").await
    }

    /// Hands on an operator's order about operators.
    ///
    /// # Errors
    /// As [`UnixClient::post`].
    pub async fn trust(&self, order: &osmoda_permit::TrustOrder) -> Result<crate::watch::Trusted, ApiError> {
        self.http.post("/trust/add", order).await
    }
}

/// The answer of `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// Version of the daemon.
    pub version: String,
    /// Commit it was built from.
    pub commit: String,
    /// Whether the tree had changes when it was built.
    pub dirty: bool,
    /// Whether units can be restarted here.
    pub systemd: bool,
    /// Whether backups can be put back here.
    pub backups: bool,
}

/// The answer of `POST /backup/create`: one that was put back into an empty
/// folder and checked there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeBackup {
    /// What it is.
    pub backup: Backup,
    /// How many files are not in it, by its rules.
    pub left_out: u64,
}

/// The answer of `POST /exec/resolve`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resolved {
    /// The object, as the executor finds it now.
    pub object: Map<String, Value>,
}

/// `POST /exec/run`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// The canonical call.
    pub call: Value,
    /// The permit with its signatures, where the class needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit: Option<SignedPermit>,
    /// The position in the permit's plan; 0 for one call.
    #[serde(default)]
    pub position: u32,
}

/// The answer to [`RunRequest`]. A call that was not done is an error instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAnswer {
    /// The number of its intent in the ledger.
    pub run: u64,
    /// How it ended.
    pub outcome: RunOutcome,
    /// For people.
    pub detail: String,
}
