//! The fleet's ledgers in the log: who witnesses whom, and the head of this node's
//! own, which the quorum remembers when every witness is away.
//!
//! Invariant: a head goes into the log with the signature of its ledger, and `apply`
//! lets it only grow. It is one that enough witnesses cosigned, or that a witness waits
//! for (agentd, `witness::logged::next`); nothing believes that it was cosigned.

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

/// How often the head is written down. The witnesses themselves follow
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

/// Writes the head of this node's ledger into the log.
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
        let mut given = None;
        loop {
            let pause = match self.write(&mut given).await {
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

    /// Returns whether the log has the head that it should have, as far as the leader
    /// says; `given` is the size of the one that it took last.
    async fn write(&self, given: &mut Option<u64>) -> Result<bool, ApiError> {
        let Some(next) = self.ledger.next_head().await? else { return Ok(false) };
        let known = self.replica.view().state.ledger_head(&self.node).map(|head| head.size);
        if known.is_some_and(|known| known >= next.size) {
            return Ok(true);
        }
        if let Some(rows) = missing(given.take(), known) {
            // The log is slow here, or its leader keeps entries back. Witnesses cosign
            // nothing after ten minutes of that.
            tracing::warn!(rows, known, "the leader took the head of this ledger, and the log does not show it here");
        }
        let LoggedHead { size, hash, root, signature } = next;
        let head = LedgerHead { node: self.node, size, hash, root, signature };
        registrar::submit(&self.client, &self.voters, Body::LedgerHead(head)).await?;
        *given = Some(size);
        Ok(true)
    }
}

/// The head that was given to the leader, if the log does not have it a turn later.
fn missing(given: Option<u64>, known: Option<u64>) -> Option<u64> {
    given.filter(|given| known.is_none_or(|known| known < *given))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_was_given_is_missed_until_the_log_has_it() {
        assert_eq!(missing(None, None), None);
        assert_eq!((missing(Some(5), None), missing(Some(5), Some(4))), (Some(5), Some(5)));
        assert_eq!((missing(Some(5), Some(5)), missing(Some(5), Some(6))), (None, None));
    }
}
