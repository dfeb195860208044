//! The words of `watch.sock`: staging, grants, contacts, acceptance, reverts,
//! trust, and the switch sessions of the earlier product; with a typed client.
//!
//! Everything under `/attempt` and `/trust` is for fleetd alone. An answer is
//! always what watch's own journal says, never an echo of the request.

use std::collections::BTreeMap;

use osmoda_kit::error::ApiError;
use osmoda_kit::http::UnixClient;
use osmoda_types::{
    AttemptId, ErrorCode, FleetEpoch, HealthCheck, ManifestHash, NetworkId, NodeId, Principal, PublicKey, RolloutId,
    Signature, StorePath,
};
use serde::{Deserialize, Serialize};

/// Largest body of `/attempt/stage`: a manifest of 1 MiB in base64, and the
/// fields around it.
pub const STAGE_BYTES_MAX: usize = 1_536 * 1024;

/// `POST /attempt/stage`: a signed manifest and the node it is staged for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRequest {
    /// The exact bytes of the manifest, in base64 (standard alphabet, padded).
    pub manifest_b64: String,
    /// The rollout it belongs to.
    pub rollout: RolloutId,
    /// The fleet epoch the operator signed against.
    pub parent_epoch: FleetEpoch,
    /// The operator's key.
    pub operator_key: PublicKey,
    /// The operator's signature over the rollout statement.
    pub signature: Signature,
    /// This node.
    pub node: NodeId,
}

/// The answer to [`StageRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Always true; a refusal is an error.
    pub staged: bool,
    /// What the host runs now; equals the row's baseline.
    pub current: StorePath,
}

/// `POST /attempt/grant`: begin the attempt of a staged rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantRequest {
    /// The rollout.
    pub rollout: RolloutId,
    /// The attempt, from the log; must be newer than any before (I3).
    pub attempt: AttemptId,
    /// The fleet epoch of the rollout.
    pub epoch: FleetEpoch,
    /// The manifest that was staged.
    pub manifest: ManifestHash,
}

/// `POST /attempt/contact`: a round trip to a leader with a quorum succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContactRequest {
    /// The attempt under way.
    pub attempt: AttemptId,
    /// The log index the leader had committed.
    pub index: u64,
    /// The leader, for people.
    pub leader: String,
}

/// `POST /attempt/accept`: the log has accepted this attempt of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptRequest {
    /// The attempt.
    pub attempt: AttemptId,
}

/// `POST /attempt/revert`: the log has undone the rollout; return to the
/// baseline this node recorded itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevertRequest {
    /// The rollout.
    pub rollout: RolloutId,
    /// The attempt to undo; the last one of this node.
    pub attempt: AttemptId,
    /// Must equal the recorded baseline, as a check on the log's view.
    pub to: StorePath,
}

/// Where this host stands; the answer of `GET /attempt` and of every order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptView {
    /// The present or last attempt; absent before the first one.
    pub attempt: Option<AttemptId>,
    /// Its rollout; absent for a local switch.
    pub rollout: Option<RolloutId>,
    /// Its manifest; absent for a local switch.
    pub manifest: Option<ManifestHash>,
    /// The phase, in the journal's words: `idle`, `granted`, `deferred`,
    /// `armed`, `activating`, `probation`, `ready`, `accepted`, `committing`,
    /// `committed`, `rolling_back`, `rolled_back`, `rollback_failed`,
    /// `quarantined`.
    pub state: String,
    /// Whether an accept would be taken now: ready, and the quorum was heard
    /// often enough since the activation (I7).
    pub acceptable: bool,
    /// Whether nothing is under way.
    pub resting: bool,
    /// What the attempt moves to.
    pub target: Option<StorePath>,
    /// What it returns to.
    pub baseline: Option<StorePath>,
    /// What the host runs.
    pub current: Option<StorePath>,
    /// What the profile points to.
    pub profile: Option<StorePath>,
    /// The highest attempt ever granted; every report carries it (I14).
    pub highest_attempt: Option<AttemptId>,
    /// The highest fleet epoch ever granted.
    pub highest_epoch: Option<FleetEpoch>,
    /// Why the attempt was deferred, rolled back or reverted.
    pub code: Option<ErrorCode>,
    /// The same for people, or what it is waiting for.
    pub detail: Option<String>,
    /// Round trips to the quorum since the activation.
    pub contacts: u32,
    /// Exit code of the activation, where known.
    pub exit: Option<i32>,
}

/// One line of `GET /attempt/history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The attempt.
    pub attempt: AttemptId,
    /// What was recorded, such as `granted` or `committed`.
    pub kind: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// `watch` or `guard`.
    pub writer: String,
    /// The target, on `granted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<StorePath>,
    /// The baseline, on `granted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<StorePath>,
    /// The rollout, on `granted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// Why, where the record says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The answer of `GET /attempt/history`, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Records of all kept journals.
    pub records: Vec<HistoryEntry>,
}

/// Whom this host believes: the file `<state>/watch/trust.json`, written by
/// `osmoda-node init` and `join`, and kept by watch from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustFile {
    /// The fleet.
    pub network_id: NetworkId,
    /// Its operators.
    pub operators: Vec<Principal>,
    /// The highest serial seen of each operator's orders, against replays.
    #[serde(default)]
    pub serials: BTreeMap<String, u64>,
}

/// The name of [`TrustFile`] in watch's state folder.
pub const TRUST_FILE: &str = "trust.json";

/// `POST /trust/add`: an operator's signed order to add a principal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRequest {
    /// The principal to add, or whose rights to replace.
    pub principal: Principal,
    /// The serial of the order.
    pub serial: u64,
    /// The key of the operator who gave it; must have the right `admin`.
    pub operator_key: PublicKey,
    /// The signature over the control statement.
    pub signature: Signature,
}

/// The answer to [`TrustRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trusted {
    /// How many operators this host believes now.
    pub operators: usize,
}

/// `POST /switch/begin` of the earlier product. A plan that is a store path is
/// activated, guarded and watched; any other text opens a session that watches
/// a change made by somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchBegin {
    /// A store path, or what is being done, for people.
    pub plan: String,
    /// How long the session lasts, in seconds.
    pub ttl_secs: u64,
    /// What must hold.
    pub health_checks: Vec<HealthCheck>,
}

/// The answer to [`SwitchBegin`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchBegun {
    /// The session.
    pub id: String,
    /// What a rollback returns to.
    pub previous_generation: String,
    /// Always `probation`.
    pub status: String,
}

/// Where a switch session stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SwitchStatus {
    /// It is being watched.
    Probation,
    /// It was kept.
    Committed {
        /// When, RFC 3339.
        committed_at: String,
    },
    /// It was undone.
    RolledBack {
        /// Why.
        reason: String,
        /// When, RFC 3339.
        rolled_back_at: String,
    },
    /// It should have been undone, and that failed: a state of its own, which
    /// the earlier product reported as `rolled_back`.
    RollbackFailed {
        /// Why.
        reason: String,
        /// When, RFC 3339.
        failed_at: String,
    },
}

/// One switch session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchSession {
    /// Its id.
    pub id: String,
    /// As given.
    pub plan: String,
    /// As given.
    pub ttl_secs: u64,
    /// As given.
    pub health_checks: Vec<HealthCheck>,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// The absolute path a rollback returns to.
    pub previous_generation: String,
    /// Where it stands.
    pub status: SwitchStatus,
}

/// The answer of `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchHealth {
    /// `ok`, or the code of what is wrong.
    pub status: String,
    /// Switch sessions in probation.
    pub active_switches: usize,
    /// Watchers; none until the watchers are built.
    pub watchers: usize,
    /// The phase of the journal.
    pub phase: String,
    /// Whether a guard stands by.
    pub guarded: bool,
    /// Why a person should look, if one should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
    /// Version of the daemon.
    pub version: String,
    /// Commit it was built from.
    pub commit: String,
    /// Whether the tree had changes when it was built.
    pub dirty: bool,
}

/// The client fleetd uses; cheap to clone.
#[derive(Debug, Clone)]
pub struct WatchClient {
    http: UnixClient,
}

impl WatchClient {
    /// Uses a client of `watch.sock`.
    #[must_use]
    pub fn new(http: UnixClient) -> Self {
        Self { http }
    }

    /// Stages a rollout. May take minutes on a host that verifies the
    /// signatures of a large closure; give the client such a time limit.
    ///
    /// # Errors
    /// What is wrong with manifest, signature, row or closure.
    pub async fn stage(&self, request: &StageRequest) -> Result<Staged, ApiError> {
        self.http.post("/attempt/stage", request).await
    }

    /// Begins an attempt. Repeating a grant changes nothing.
    ///
    /// # Errors
    /// [`ErrorCode::AttemptStale`], [`ErrorCode::AttemptConflict`],
    /// [`ErrorCode::ManifestUnknown`] when it was not staged here.
    pub async fn grant(&self, request: &GrantRequest) -> Result<AttemptView, ApiError> {
        self.http.post("/attempt/grant", request).await
    }

    /// Notes that the quorum was heard.
    ///
    /// # Errors
    /// [`ErrorCode::AttemptConflict`] for another attempt than the present one.
    pub async fn contact(&self, request: &ContactRequest) -> Result<AttemptView, ApiError> {
        self.http.post("/attempt/contact", request).await
    }

    /// Accepts the attempt. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`ErrorCode::JournalIllegal`] when the host is not ready, or no more.
    pub async fn accept(&self, request: &AcceptRequest) -> Result<AttemptView, ApiError> {
        self.http.post("/attempt/accept", request).await
    }

    /// Returns to the recorded baseline. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`ErrorCode::AttemptUnknown`], [`ErrorCode::Conflict`] when the baseline
    /// is another one.
    pub async fn revert(&self, request: &RevertRequest) -> Result<AttemptView, ApiError> {
        self.http.post("/attempt/revert", request).await
    }

    /// Where the host stands.
    ///
    /// # Errors
    /// [`ErrorCode::JournalCorrupt`] when it cannot say.
    pub async fn attempt(&self) -> Result<AttemptView, ApiError> {
        self.http.get("/attempt").await
    }

    /// Everything the journal holds.
    ///
    /// # Errors
    /// [`ErrorCode::JournalCorrupt`].
    pub async fn history(&self) -> Result<History, ApiError> {
        self.http.get("/attempt/history").await
    }

    /// Passes on an operator's order to add a principal.
    ///
    /// # Errors
    /// The order is not valid here, or not new.
    pub async fn trust(&self, request: &TrustRequest) -> Result<Trusted, ApiError> {
        self.http.post("/trust/add", request).await
    }

    /// How the daemon is.
    ///
    /// # Errors
    /// [`ErrorCode::DaemonUnavailable`].
    pub async fn health(&self) -> Result<WatchHealth, ApiError> {
        self.http.get("/health").await
    }
}
