//! What waits for a person on the nodes, and the signature that answers it.
//!
//! The controller transports both and judges neither: what a permit is and who
//! may sign it is the node's to say (`docs/approvals.md`).

use osmoda_types::NodeId;
use serde_json::{Map, Value};

/// A permit that is open on a node.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Approval {
    /// The permit's id.
    pub id: String,
    /// The node it is on.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub node: NodeId,
    /// The node's name.
    pub name: String,
    /// When the node last told of it.
    pub seen_at: String,
    /// How many more are open on the node and did not fit in what it tells; they are
    /// listed there.
    #[serde(default)]
    pub left_out: u32,
    /// The permit with its calls, as the node told it; check it before signing.
    #[schema(value_type = Object)]
    pub permit: Map<String, Value>,
}

/// An approver's signature over a permit.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignApproval {
    /// `approve`, `deny` or `break_glass`.
    pub decision: String,
    /// The proof: `{"kind":"ed25519","key":…,"signature":…}` or `{"kind":"ssh","armored":…}`.
    #[schema(value_type = Object)]
    pub proof: Map<String, Value>,
}
