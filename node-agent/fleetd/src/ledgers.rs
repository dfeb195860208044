//! The fleet's ledgers in the log: who witnesses whom, and the witnessed head of
//! this node's own, which the quorum remembers when every witness is away.
//!
//! Invariant: a head goes into the log only after enough witnesses cosigned it,
//! with the signature of its ledger, and `apply` lets it only grow.

use std::time::Duration;

use osmoda_kit::error::ApiError;
use osmoda_kit::shutdown::{Shutdown, Stage};
use osmoda_node_api::agentd::AgentdClient;
use osmoda_node_api::witness::{LoggedHead, Peer, Roster};
use osmoda_rollout::FleetState;
use osmoda_types::command::{Body, LedgerHead};
use osmoda_types::{NodeId, Purpose, Role};

use crate::leader_client::LeaderClient;
use crate::registrar;
use crate::replica::Replica;
use crate::voters::Voters;

/// How often the witnessed head is written down. The witnesses themselves follow
/// every second; the log is for the day on which they are all gone, and 1,000
/// nodes make 17 entries a second of it.
const EVERY: Duration = Duration::from_secs(60);

/// Between two tries while the head of the first minute is not there yet.
const AGAIN: Duration = Duration::from_secs(5);

/// Who witnesses the ledger of `own`: every other node. A controller keeps no
/// ledger of a host and cosigns none.
pub(crate) fn roster(state: &FleetState, own: NodeId) -> Roster {
    let is_node = |role: Role| matches!(role, Role::Voter | Role::Node);
    let others = state.members().map(|entry| &entry.member).filter(|member| is_node(member.role) && member.node != own);
    let others: Vec<Peer> = others
        .map(|member| Peer {
            node: member.node,
            name: member.name.clone(),
            key: state.subkey(member.node, Purpose::Ledger).map(|subkey| subkey.key),
            logged: logged(state, &member.node),
        })
        .collect();
    let needed = others.len().div_ceil(2);
    Roster { node: own, others, needed, logged: logged(state, &own) }
}

fn logged(state: &FleetState, node: &NodeId) -> Option<LoggedHead> {
    let LedgerHead { node: _, size, hash, root, signature } = *state.ledger_head(node)?;
    Some(LoggedHead { size, hash, root, signature })
}

/// Writes this node's witnessed head into the log.
pub(crate) struct Heads {
    /// This node.
    pub(crate) node: NodeId,
    /// Its ledger.
    pub(crate) ledger: AgentdClient,
    /// What the log says.
    pub(crate) replica: Replica,
    /// To the leader.
    pub(crate) client: LeaderClient,
    /// Who votes.
    pub(crate) voters: Voters,
    /// The stop.
    pub(crate) shutdown: Shutdown,
}

impl Heads {
    /// Writes until the stop.
    pub(crate) async fn run(self) {
        let stop = self.shutdown.token(Stage::RefuseNew);
        loop {
            let pause = match self.write().await {
                Ok(true) => EVERY,
                Ok(false) => AGAIN,
                Err(error) => {
                    tracing::debug!(code = %error.code, error = %error.message, "the ledger's head is not in the log");
                    AGAIN
                }
            };
            tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = stop.cancelled() => return,
                // Cancel-safe: a timer.
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Returns whether the log has the newest head that witnesses cosigned.
    async fn write(&self) -> Result<bool, ApiError> {
        let Some(covered) = self.ledger.covered().await? else { return Ok(false) };
        let known = self.replica.view().state.ledger_head(&self.node).map(|head| head.size);
        if known.is_some_and(|known| known >= covered.size) {
            return Ok(true);
        }
        let LoggedHead { size, hash, root, signature } = covered;
        let head = LedgerHead { node: self.node, size, hash, root, signature };
        registrar::submit(&self.client, &self.voters, Body::LedgerHead(head)).await?;
        Ok(true)
    }
}
