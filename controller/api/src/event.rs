//! One thing that happened in the fleet, as the event stream tells it.

use osmoda_types::{ErrorCode, NodeId, NodeState, RolloutId, RolloutState};

use crate::Reason;

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
        /// The wave it is in, counted from 0.
        wave: u32,
        /// Why, where there is a why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Reason>,
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
        /// Why, for failures.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>)]
        code: Option<ErrorCode>,
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
        /// Why it said no.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>)]
        code: Option<ErrorCode>,
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
    /// A scope was frozen or thawed.
    Freeze {
        /// The scope.
        scope: String,
        /// Whether it is frozen now.
        frozen: bool,
    },
}
