//! Carries the log's members to where they matter: the mesh's allow-list on
//! every node, and the Raft membership on the leader.

use std::collections::BTreeMap;
use std::time::Duration;

use osmoda_consensus::Member as RaftMember;
use osmoda_kit::shutdown::{Shutdown, Stage};
use osmoda_node_api::mesh::MeshClient;
use osmoda_types::{NodeId, RaftId};

use crate::invites::members_of;
use crate::peers::Peers;
use crate::replica::Replica;
use crate::voter::Voter;
use crate::voter_plan::{Present, Step, next};

/// Between two tries after a failure, and between two looks at the Raft
/// membership, which changes a few times in a fleet's life.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A learner this close to the end of the log has caught up: the entries that
/// are on the way during one heartbeat.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// Keeps the mesh's allow-list at the log's.
pub(crate) struct AllowList {
    /// What the log says.
    pub(crate) replica: Replica,
    /// Where it goes.
    pub(crate) mesh: MeshClient,
    /// Channels of members that are gone are closed.
    pub(crate) peers: Peers,
    /// The stop.
    pub(crate) shutdown: Shutdown,
}

impl AllowList {
    /// Follows until the stop.
    pub(crate) async fn run(self) {
        let stop = self.shutdown.token(Stage::FinishAccepted);
        let mut changes = self.replica.subscribe();
        let mut in_force = 0;
        loop {
            let state = changes.borrow_and_update().state.clone();
            let mut again = false;
            if state.members_index() > in_force {
                match self.mesh.set_members(&members_of(&state)).await {
                    Ok(now) => {
                        in_force = now.index;
                        self.peers.retain(|node| state.member(node).is_some());
                    }
                    Err(error) => {
                        tracing::warn!(code = %error.code, error = %error.message, "allow-list not handed over");
                        again = true;
                    }
                }
            }
            tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = stop.cancelled() => return,
                // Cancel-safe: the watch keeps its newest value.
                changed = changes.changed() => if changed.is_err() { return },
                // Cancel-safe: a timer.
                () = tokio::time::sleep(LOOK_EVERY), if again => {}
            }
        }
    }
}

/// Keeps the Raft membership at the registered voters, while this voter leads.
pub(crate) struct RaftMembership {
    /// This voter.
    pub(crate) voter: Voter,
    /// The stop.
    pub(crate) shutdown: Shutdown,
}

impl RaftMembership {
    /// Looks until the stop.
    pub(crate) async fn run(self) {
        let stop = self.shutdown.token(Stage::RefuseNew);
        loop {
            if let Some(step) = self.next_step() {
                let change = match &step {
                    Step::AddLearner(raft_id, node_id) => {
                        self.voter.raft().add_learner(RaftMember { raft_id: *raft_id, node_id: *node_id }).await
                    }
                    Step::Vote(voters) => self.voter.raft().change_membership(voters.clone()).await,
                };
                match change {
                    Ok(()) => tracing::info!(?step, "raft membership changed"),
                    Err(error) => tracing::info!(?step, %error, "raft membership not changed yet"),
                }
            }
            tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = stop.cancelled() => return,
                // Cancel-safe: a timer.
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn next_step(&self) -> Option<Step> {
        let status = self.voter.status().filter(|status| status.leads() && !status.members.is_changing)?;
        let registered: BTreeMap<NodeId, RaftId> =
            self.voter.view().state.voters().map(|(node, id)| (*node, *id)).collect();
        let lag = |id: RaftId| self.voter.raft().lag(id);
        let caught_up = |id: RaftId| lag(id).is_some_and(|lag| lag <= CAUGHT_UP_ENTRIES);
        let present = Present {
            voting: status.members.voters.iter().map(|member| member.raft_id).collect(),
            learners: status
                .members
                .learners
                .iter()
                .map(|member| (member.raft_id, caught_up(member.raft_id)))
                .collect(),
        };
        if registered.is_empty() { None } else { next(&registered, &present) }
    }
}
