//! The words of `/agent/card` on `agentd.sock`: who this node says it is.
//!
//! The shape is that of EIP-8004's registration file, as the earlier product
//! gave it, with fields added and none changed.

use osmoda_kit::error::ApiError;
use serde::{Deserialize, Serialize};

use crate::agentd::AgentdClient;

/// The card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentCard {
    /// Names the form of the card.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the operator calls the agent.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// A picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What answers here now, and what the operator added.
    pub services: Vec<CardService>,
    /// Whether it can act: its ledger can be written.
    pub active: bool,
    /// Why it may be trusted.
    #[serde(rename = "supportedTrust")]
    pub supported_trust: Vec<String>,
    /// Version of the program.
    #[serde(default)]
    pub version: String,
    /// Public keys by which it can be known.
    #[serde(default)]
    pub keys: Vec<CardKey>,
    /// Who cosigns its ledger; absent where nobody can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witnesses: Option<CardWitnesses>,
}

/// The witnesses of a node's ledger, as they are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardWitnesses {
    /// How many must cosign.
    pub needed: u64,
    /// Out of how many.
    pub of: u64,
    /// Whether enough answered when they were asked last.
    pub answer: bool,
    /// Rows that enough of them have cosigned.
    pub rows: u64,
}

/// A service of the card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardService {
    /// What it is.
    pub name: String,
    /// Where it is.
    pub endpoint: String,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether it answered when the card was asked for. What the operator added
    /// is not asked.
    #[serde(default)]
    pub verified: bool,
}

/// A public key of the card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardKey {
    /// What it is for.
    pub purpose: String,
    /// The key, as hex.
    pub key: String,
}

/// The body of `POST /agent/card/generate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerateCard {
    /// What to call the agent.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Services beside those that are found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<CardService>>,
}

impl AgentdClient {
    /// The card, with what is true now.
    ///
    /// # Errors
    /// As `UnixClient::get`.
    pub async fn card(&self) -> Result<AgentCard, ApiError> {
        self.http.get("/agent/card").await
    }

    /// Sets the card's own words.
    ///
    /// # Errors
    /// As `UnixClient::post`.
    pub async fn generate_card(&self, request: &GenerateCard) -> Result<AgentCard, ApiError> {
        self.http.post("/agent/card/generate", request).await
    }
}
