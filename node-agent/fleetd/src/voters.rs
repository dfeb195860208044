//! Who votes, as this node knows: from the log, or before there is one, from
//! the mesh's allow-list that came with the welcome.

use osmoda_types::NodeId;

use crate::replica::Replica;

/// The voters; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Voters {
    replica: Replica,
    seeds: Vec<NodeId>,
}

impl Voters {
    /// `seeds` are asked until the log says who votes.
    pub(crate) fn new(replica: Replica, seeds: Vec<NodeId>) -> Self {
        Self { replica, seeds }
    }

    /// The voters, the leader first when it is known.
    pub(crate) fn list(&self) -> Vec<NodeId> {
        let view = self.replica.view();
        let mut voters: Vec<NodeId> = view.state.voters().map(|(node, _)| *node).collect();
        if voters.is_empty() {
            voters.clone_from(&self.seeds);
        }
        voters.sort_by_key(|node| Some(*node) != view.leader);
        voters
    }
}
