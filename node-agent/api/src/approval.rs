//! The words of approvals on `agentd.sock`: permits, sessions, runs.
//!
//! `/approval/*` has the earlier product's shapes with fields added and none
//! changed; `/permit/*`, `/session/*` and `/run/*` are ours. A permit's own
//! words and rules are in `osmoda-permit`.

use osmoda_kit::error::ApiError;
use osmoda_kit::http::UnixClient;
use osmoda_permit::state::State;
use osmoda_permit::{ApproverSignature, EffectClass, SignedPermit, TrustOrder};
use osmoda_types::{CallHash, PermitId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Largest answer read: a hundred permits with their calls.
const ANSWER_BYTES_MAX: usize = 24 << 20;

/// A typed client of the approval endpoints; cheap to clone.
#[derive(Debug, Clone)]
pub struct ApprovalClient {
    http: UnixClient,
}

impl ApprovalClient {
    /// Uses a client of `agentd.sock`.
    #[must_use]
    pub fn new(http: UnixClient) -> Self {
        Self { http: http.with_answer_limit(ANSWER_BYTES_MAX) }
    }

    /// Asks for a permit for one call.
    ///
    /// # Errors
    /// As [`UnixClient::post`].
    pub async fn request(&self, request: &PermitRequest) -> Result<PermitView, ApiError> {
        self.http.post("/permit/request", request).await
    }

    /// Asks for one permit for an ordered list of calls.
    ///
    /// # Errors
    /// As [`UnixClient::post`].
    pub async fn plan(&self, request: &PlanRequest) -> Result<PermitView, ApiError> {
        self.http.post("/permit/plan", request).await
    }

    /// Permits that wait or may be used, newest first.
    ///
    /// # Errors
    /// As [`UnixClient::get`].
    pub async fn list(&self) -> Result<Vec<PermitView>, ApiError> {
        self.http.get("/permit/list").await
    }

    /// One permit.
    ///
    /// # Errors
    /// As [`UnixClient::get`].
    pub async fn show(&self, id: &PermitId) -> Result<PermitView, ApiError> {
        self.http.get(&format!("/permit/{id}")).await
    }

    /// Hands in an approver's signature.
    ///
    /// # Errors
    /// As [`UnixClient::post`].
    pub async fn sign(&self, id: &PermitId, signature: &ApproverSignature) -> Result<PermitView, ApiError> {
        self.http.post(&format!("/permit/{id}/sign"), signature).await
    }

    /// Marks a session as having read content from outside.
    ///
    /// # Errors
    /// As [`UnixClient::post`].
    pub async fn taint(&self, request: &TaintRequest) -> Result<SessionView, ApiError> {
        self.http.post("/session/taint", request).await
    }

    /// Records that a run begins; consumes its permit in the same transaction.
    ///
    /// # Errors
    /// As [`UnixClient::post`]; then it must not run.
    pub async fn begin(&self, request: &RunBegin) -> Result<RunBegun, ApiError> {
        self.http.post("/run/begin", request).await
    }

    /// Records how a run ended.
    ///
    /// # Errors
    /// As [`UnixClient::post`].
    pub async fn end(&self, request: &RunEnd) -> Result<RunView, ApiError> {
        self.http.post("/run/end", request).await
    }

    /// Runs that began and have no outcome.
    ///
    /// # Errors
    /// As [`UnixClient::get`].
    pub async fn open_runs(&self) -> Result<Vec<RunView>, ApiError> {
        self.http.get("/run/open").await
    }

    /// Hands on an operator's order about operators.
    ///
    /// # Errors
    /// As [`UnixClient::post`].
    pub async fn trust(&self, order: &TrustOrder) -> Result<crate::watch::Trusted, ApiError> {
        self.http.post("/trust/add", order).await
    }
}

/// `POST /approval/request`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// The command, for people; it never runs by itself.
    pub command: String,
    /// Why, in the words of whoever asks.
    pub reason: String,
    /// Who asks, in his own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// How long it may wait, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_secs: Option<i64>,
}

/// `POST /approval/{id}/approve` and `/deny`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalDecision {
    /// Who decides, in his own words; never believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// An approver's signature; without it an approval does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<ApproverSignature>,
}

/// An approval as the earlier product's clients know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Its id.
    pub id: String,
    /// What is asked for.
    pub command: String,
    /// Who asked, as the connection proved it.
    pub actor: String,
    /// Why, in the words of whoever asked.
    pub reason: String,
    /// `pending`, `approved`, `denied`, `expired`; `consumed` when it was used.
    pub status: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub expires_at: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<String>,
    /// Whose signatures decided it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// Whether its class always needs a permit.
    pub is_destructive: bool,
    /// Its effect class.
    pub class: EffectClass,
    /// How many approvers must sign.
    pub approvers_needed: u8,
    /// How many did.
    pub approvers_signed: usize,
    /// What the answer means where the earlier product's would mislead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One call as it is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedCall {
    /// The tool's name.
    pub tool: String,
    /// Its arguments.
    pub args: Value,
}

/// `POST /permit/request`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PermitRequest {
    /// The call.
    pub call: AskedCall,
    /// The session.
    pub session_id: String,
    /// Why, in the words of whoever asks; shown as untrusted.
    #[serde(default)]
    pub reason: String,
    /// How long it may wait, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_secs: Option<i64>,
}

/// `POST /permit/plan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// The calls, in the order in which they will run.
    pub calls: Vec<AskedCall>,
    /// The session.
    pub session_id: String,
    /// Why, in the words of whoever asks; shown as untrusted.
    #[serde(default)]
    pub reason: String,
    /// How long it may wait, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_secs: Option<i64>,
}

/// A permit, with everything a person needs to decide and the executor to check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PermitView {
    /// Permit, plan and signatures.
    pub signed: SignedPermit,
    /// Where it stands now.
    pub state: State,
    /// The position that may be used next.
    pub next: u32,
    /// The canonical calls, in order.
    pub calls: Vec<Value>,
    /// The call hashes, in order.
    pub hashes: Vec<CallHash>,
    /// What a person reads: printable ASCII, one fact a line.
    pub display: String,
    /// Who asked, as the connection proved it.
    pub actor: String,
    /// Why, in the words of whoever asked; not to be believed.
    pub reason: String,
    /// The session that asked.
    pub session_id: String,
    /// Whether that session has read content from outside.
    pub tainted: bool,
    /// Names of approvers who signed yes.
    pub approved_by: Vec<String>,
    /// Who decided, when it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<String>,
    /// When it was asked for, RFC 3339.
    pub created_at: String,
    /// When it ends, RFC 3339.
    pub expires_at: String,
    /// The approver who broke the glass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<String>,
}

/// `POST /session/taint`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaintRequest {
    /// The session.
    pub session_id: String,
    /// What it read: `web`, `mail`, `log`, the name of a tool server.
    pub source: String,
}

/// What is known of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// The session.
    pub session_id: String,
    /// Whether it has read content from outside.
    pub tainted: bool,
    /// What it read first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// `POST /run/begin`; the executor only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunBegin {
    /// The canonical call.
    pub call: Value,
    /// The permit, when the executor was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit: Option<PermitId>,
    /// The position in its plan; 0 for one call.
    #[serde(default)]
    pub position: u32,
}

/// The answer to [`RunBegin`]: it may run, once, now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunBegun {
    /// The run: the number of its intent in the ledger.
    pub run: u64,
    /// The hash of the intent.
    pub hash: String,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// It was done.
    Done,
    /// It was not done, and nothing was changed.
    Refused,
    /// It was begun and did not end well; something may be changed.
    Failed,
    /// The host or the executor went down in between. Never counted as done.
    Unknown,
}

impl RunOutcome {
    /// The stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// `POST /run/end`; the executor only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunEnd {
    /// The run.
    pub run: u64,
    /// How it ended.
    pub outcome: RunOutcome,
    /// For people: what was done, or the code and message of the refusal.
    #[serde(default)]
    pub detail: String,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunView {
    /// The number of its intent in the ledger.
    pub run: u64,
    /// The tool.
    pub tool: String,
    /// The call.
    pub call_hash: CallHash,
    /// The permit, where it needed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit: Option<PermitId>,
    /// How it ended; absent while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}
