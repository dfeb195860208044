//! A node as the controller knows it: its place in the fleet from the log, its
//! presence from its own link.

use osmoda_types::{NodeId, NodeState, Role, RolloutId, StorePath};

use crate::{LedgerHead, LedgerTrouble};

/// Whether a node's link to the controller is up. It says nothing about
/// whether the node itself is: losing the controller changes no node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Heartbeats arrive in time.
    Online,
    /// The link is up or was a moment ago, but heartbeats are late.
    Stale,
    /// No link.
    Offline,
    /// The node has never dialled in.
    Unknown,
}

/// What a node said it runs, and when.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Generation {
    /// The running toplevel, as the node reported it.
    #[schema(value_type = String)]
    pub current: StorePath,
    /// When it was reported.
    pub reported_at: String,
}

/// The attempt a node is in, or was in last.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct NodeAttempt {
    /// The attempt's number.
    pub attempt: String,
    /// The rollout it belongs to.
    #[schema(value_type = String)]
    pub rollout: RolloutId,
    /// How far it has come.
    #[schema(value_type = String, example = "accepted")]
    pub state: NodeState,
}

/// A member that was removed for good.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct RevokedNode {
    /// The node's id; its keys are never admitted again.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub id: NodeId,
    /// The name it had; free again.
    pub name: String,
    /// The log index of the order, where this controller has seen it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
}

/// One member of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Node {
    /// The node's id.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub id: NodeId,
    /// What people call it; unique in the fleet.
    pub name: String,
    /// What it may do in the fleet.
    #[schema(value_type = String, example = "voter")]
    pub role: Role,
    /// Its voter number, 16 hex digits, when it votes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raft_id: Option<String>,
    /// Mesh addresses the fleet knows for it.
    pub addresses: Vec<String>,
    /// Whether its link to this controller is up.
    pub presence: Presence,
    /// When it was last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<String>,
    /// What it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// What the fleet wants it to run, once a rollout decided it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub desired: Option<StorePath>,
    /// Its present or last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<NodeAttempt>,
    /// The last head of its ledger seen by this controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerHead>,
    /// What is wrong with its ledger; absent when nobody says anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger_trouble: Option<LedgerTrouble>,
    /// The version of its programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}
