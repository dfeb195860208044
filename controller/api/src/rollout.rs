//! Rollouts: what is asked, what is answered. The rules are in the fleet log's
//! own state machine; this is a picture of it.

use osmoda_types::{
    ErrorCode, ManifestHash, NodeId, NodeState, PublicKey, RolloutId, RolloutState, Signature, StorePath,
};

/// How many nodes of a rollout are where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct NodeCounts {
    /// Nodes in the manifest.
    pub total: u32,
    /// Neither moved nor refused: pending, staged, deferred.
    pub waiting: u32,
    /// Charged to the budget at this moment.
    pub in_flight: u32,
    /// On the target: accepted or committed.
    pub moved: u32,
    /// On the target for good.
    pub committed: u32,
    /// Back on the baseline.
    pub rolled_back: u32,
    /// Failed to stage, quarantined, lost, or failed to roll back.
    pub failed: u32,
    /// Taken out by an operator.
    pub excluded: u32,
}

/// A rollout in a list.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct RolloutSummary {
    /// The id its operator chose.
    #[schema(value_type = String)]
    pub id: RolloutId,
    /// The manifest's own name.
    pub name: String,
    /// The scope; one rollout at a time per scope.
    pub scope: String,
    /// The manifest.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub manifest: ManifestHash,
    /// What it is doing.
    #[schema(value_type = String, example = "wave")]
    pub state: RolloutState,
    /// Why it is paused or undone, as a fixed word: `operator`,
    /// `failure_budget`, `quorum_lost`, ….
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The wave it is about, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<u32>,
    /// How many waves its policy has.
    pub waves: u32,
    /// Where its nodes are.
    pub counts: NodeCounts,
    /// The fleet epoch it was proposed against.
    pub parent_epoch: u64,
    /// The principal who signed it, by name.
    pub operator: String,
    /// The log index of its proposal.
    pub proposed_index: u64,
    /// The log index of its last change.
    pub updated_index: u64,
    /// When this controller first saw it.
    pub created_at: String,
    /// When this controller last saw it change.
    pub updated_at: String,
}

/// A rollout with its nodes and its ballot.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Rollout {
    /// What the list shows.
    #[serde(flatten)]
    pub summary: RolloutSummary,
    /// At most this many nodes are at risk at once.
    pub max_unavailable: u32,
    /// This many failures are borne; one more ends the rollout.
    pub failure_budget: u32,
    /// Yes-votes needed.
    pub threshold: u32,
    /// The ballot, one row per elector.
    pub votes: Vec<Vote>,
    /// Its nodes.
    pub nodes: Vec<RolloutNode>,
}

/// One node of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct RolloutNode {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// What it shall run.
    #[schema(value_type = String)]
    pub target: StorePath,
    /// What it ran, and returns to.
    #[schema(value_type = String)]
    pub baseline: StorePath,
    /// Where it stands.
    #[schema(value_type = String, example = "granted")]
    pub state: NodeState,
    /// The wave it belongs to, once one took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<u32>,
    /// Its attempt, once granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    /// Why, for failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub code: Option<ErrorCode>,
}

/// One elector's vote.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Vote {
    /// The elector.
    #[schema(value_type = String)]
    pub voter: NodeId,
    /// Its name.
    pub name: String,
    /// Its answer; absent while it has not voted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yes: Option<bool>,
}

/// The order to start a rollout, signed off the controller.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRollout {
    /// Chosen by the operator (UUID version 7); repeating the same order with
    /// the same id is harmless.
    #[schema(value_type = String)]
    pub id: RolloutId,
    /// A manifest this controller holds.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub manifest: ManifestHash,
    /// The fleet epoch the operator saw.
    pub parent_epoch: u64,
    /// The operator's Ed25519 public key, 64 hex digits.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub operator_key: PublicKey,
    /// The signature over the start statement, 128 hex digits.
    #[schema(value_type = String, pattern = "^[0-9a-f]{128}$")]
    pub signature: Signature,
}

/// A signed order to a running rollout: pause, resume or abort, as the path says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ControlOrder {
    /// Larger than that of every earlier order of this key; the clock in
    /// milliseconds does.
    pub serial: u64,
    /// The operator's Ed25519 public key, 64 hex digits.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub operator_key: PublicKey,
    /// The signature over the control statement, 128 hex digits.
    #[schema(value_type = String, pattern = "^[0-9a-f]{128}$")]
    pub signature: Signature,
}

/// A signed order to take a node out of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExcludeOrder {
    /// The node.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub node: NodeId,
    /// Larger than that of every earlier order of this key; the clock in
    /// milliseconds does.
    pub serial: u64,
    /// The operator's Ed25519 public key, 64 hex digits.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub operator_key: PublicKey,
    /// The signature over the control statement, 128 hex digits.
    #[schema(value_type = String, pattern = "^[0-9a-f]{128}$")]
    pub signature: Signature,
}

/// A target that may not be proposed again.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct DeniedTarget {
    /// The target.
    #[schema(value_type = String)]
    pub target: StorePath,
    /// The rollout that failed with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub rollout: Option<RolloutId>,
    /// The log index of the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
}

/// A signed order to take a target off the deny-list.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowOrder {
    /// The target.
    #[schema(value_type = String)]
    pub target: StorePath,
    /// Larger than that of every earlier order of this key; the clock in
    /// milliseconds does.
    pub serial: u64,
    /// The operator's Ed25519 public key, 64 hex digits.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub operator_key: PublicKey,
    /// The signature over the control statement, 128 hex digits.
    #[schema(value_type = String, pattern = "^[0-9a-f]{128}$")]
    pub signature: Signature,
}

/// A manifest the controller keeps.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct StoredManifest {
    /// SHA-256 of its exact bytes.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub hash: ManifestHash,
    /// Its length in bytes.
    pub bytes: u64,
}
