//! The words of `fleetd.sock` that other daemons of the host use, with a typed
//! client.
//!
//! Only what concerns the host itself: the fleet's own business goes through
//! the log and its signatures.

use osmoda_kit::error::ApiError;
use osmoda_kit::http::UnixClient;
use osmoda_types::Subkey;
use serde::{Deserialize, Serialize};

use crate::witness::Roster;

/// The answer of `POST /subkey/register`: the log has the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Whether it was there before; a registration is said any number of times.
    pub before: bool,
}

/// A client of the fleet daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FleetClient {
    http: UnixClient,
}

impl FleetClient {
    /// Uses a client of the socket.
    #[must_use]
    pub const fn new(http: UnixClient) -> Self {
        Self { http }
    }

    /// Puts a daemon's endorsed key into the fleet's log. Returns when the log
    /// has it; saying it again changes nothing.
    ///
    /// # Errors
    /// As [`UnixClient::post`]; `CallerDenied` for a purpose that is not the
    /// caller's, `NodeUnknown`, `EpochStale`, `SignatureInvalid` from the log;
    /// retryable codes while no leader answers.
    pub async fn register_subkey(&self, subkey: &Subkey) -> Result<Registered, ApiError> {
        self.http.post("/subkey/register", subkey).await
    }

    /// Who witnesses this node's ledger, and whose it witnesses.
    ///
    /// # Errors
    /// As [`UnixClient::get`].
    pub async fn roster(&self) -> Result<Roster, ApiError> {
        self.http.get("/ledger/roster").await
    }
}
