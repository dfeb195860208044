//! What the rest of the controller sees of the fleet: the state machine at the
//! last applied index, published whole.

use std::sync::Arc;

use osmoda_rollout::FleetState;
use osmoda_types::{NodeId, PublicKey, RaftId};

/// The fleet as of one log index. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The replicated state.
    pub state: Arc<FleetState>,
    /// The index of the last applied entry.
    pub applied_index: u64,
    /// The leader the followed voter last named.
    pub leader: Option<NodeId>,
    /// Whether a voter is being followed and everything it had is applied.
    pub following: bool,
}

impl View {
    /// What people call a member.
    #[must_use]
    pub fn name(&self, node: &NodeId) -> String {
        name(&self.state, node)
    }
}

/// What people call a member; its short id when it is none.
pub(crate) fn name(state: &FleetState, node: &NodeId) -> String {
    state.member(node).map_or_else(|| node.short(), |entry| entry.member.name.clone())
}

/// What people call the voter with a Raft id.
pub(crate) fn voter_name(state: &FleetState, id: RaftId) -> String {
    state.voter_by_raft_id(id).map_or_else(|| id.to_string(), |node| name(state, &node))
}

/// What people call the principal with a key.
pub(crate) fn principal_name(state: &FleetState, key: &PublicKey) -> String {
    let found = state.principals().find(|entry| entry.principal.key == *key);
    found.map_or_else(|| key.short(), |entry| entry.principal.name.clone())
}
