//! The words of `/backup/*` on `agentd.sock`.
//!
//! Shapes are the earlier product's, with fields added and none changed.

use osmoda_kit::error::ApiError;
use serde::{Deserialize, Serialize};

use crate::agentd::AgentdClient;

/// A backup; the answer of `POST /backup/create`, and one of `GET /backup/list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Its id, `backup-YYYYMMDD-HHMMSS`.
    pub backup_id: String,
    /// Its folder.
    pub path: String,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// When it was begun.
    pub created_at: String,
    /// How many files it has.
    #[serde(default)]
    pub files: u64,
    /// SHA-256 of its manifest, as the ledger has it.
    #[serde(default)]
    pub manifest_sha256: String,
}

/// The body of `POST /backup/restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// Which one.
    pub backup_id: String,
}

/// The answer of `POST /backup/restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreAnswer {
    /// Which one.
    pub restored_from: String,
    /// `restored`.
    pub status: String,
}

impl AgentdClient {
    /// Makes a backup now.
    ///
    /// # Errors
    /// As `UnixClient::post`; `busy` while another one is made.
    pub async fn create_backup(&self) -> Result<Backup, ApiError> {
        self.http.post("/backup/create", &serde_json::Map::new()).await
    }

    /// Backups, newest first.
    ///
    /// # Errors
    /// As `UnixClient::get`.
    pub async fn backups(&self) -> Result<Vec<Backup>, ApiError> {
        self.http.get("/backup/list").await
    }

    /// Asks for a backup to be put back.
    ///
    /// # Errors
    /// As `UnixClient::post`; `unsupported` where no executor can do it.
    pub async fn restore_backup(&self, id: &str) -> Result<RestoreAnswer, ApiError> {
        self.http.post("/backup/restore", &RestoreRequest { backup_id: id.to_owned() }).await
    }
}
