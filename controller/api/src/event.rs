//! One thing that happened in the fleet, as the event stream tells it.

use osmoda_types::{NodeId, NodeState, RolloutId, RolloutState};

/// An event of the fleet log, in the controller's order.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Event {
    /// Grows by at least one per event of this controller; also the SSE `id`.
    /// Replicas and rebuilt controllers number differently: use it only to resume.
    pub id: String,
    /// The log index whose entry caused it.
    pub index: u64,
    /// When this controller applied the entry.
    pub at: String,
    /// The rollout it belongs to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub rollout: Option<RolloutId>,
    /// Whose word it rests on: `principal NAME`, `node NAME` or `leader NAME`.
    pub by: String,
    /// Why, as a fixed word: a code of the closed list, or a reason of the
    /// rollout rules such as `quorum` or `failure_budget`.
    pub reason: String,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventBody {
    /// A rollout changed its state.
    RolloutState {
        /// The state it left; absent for the first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>)]
        from: Option<RolloutState>,
        /// The state it is in.
        #[schema(value_type = String)]
        to: RolloutState,
        /// The wave it is about, counted from 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wave: Option<u32>,
    },
    /// A node changed its place in the rollout.
    NodeState {
        /// The node.
        #[schema(value_type = String)]
        node: NodeId,
        /// Its name.
        name: String,
        /// The state it left.
        #[schema(value_type = String)]
        from: NodeState,
        /// The state it is in.
        #[schema(value_type = String)]
        to: NodeState,
        /// The attempt, once one was granted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempt: Option<String>,
    },
    /// An elector voted.
    Ballot {
        /// The elector.
        #[schema(value_type = String)]
        voter: NodeId,
        /// Its name.
        name: String,
        /// Whether it said yes.
        yes: bool,
    },
    /// A member joined or changed its role.
    Member {
        /// The member.
        #[schema(value_type = String)]
        node: NodeId,
        /// Its name.
        name: String,
        /// Its role.
        role: String,
    },
    /// Something else of the fleet changed: an invite, a principal, a key, the
    /// deny-list.
    Fleet {
        /// What, as a fixed word.
        what: String,
        /// About whom or which.
        subject: String,
    },
    /// A scope was frozen or thawed.
    Freeze {
        /// The scope.
        scope: String,
        /// Whether it is frozen now.
        frozen: bool,
    },
}
