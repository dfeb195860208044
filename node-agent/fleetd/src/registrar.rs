//! Makes this node known: its ballot key and its Raft id if it is a voter, and
//! the keys of the host's other daemons when they ask for it.
//!
//! Both are entries of the log. The registrar submits what is missing and looks
//! again until the state has it; it never assumes that a submission worked.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use osmoda_kit::error::ApiError;
use osmoda_kit::shutdown::{Shutdown, Stage};
use osmoda_node_api::mesh::{EndorseRequest, MeshClient};
use osmoda_rollout::FleetState;
use osmoda_types::command::{Body, Command};
use osmoda_types::{ErrorCode, NodeId, Purpose, RaftId, Subkey, statement};

use crate::leader_client::LeaderClient;
use crate::replica::Replica;
use crate::reports::fresh_request;
use crate::voters::Voters;

/// Between two tries; a leader is found within an election.
const AGAIN: Duration = Duration::from_millis(500);

/// The registrar of one voter.
pub(crate) struct Registrar {
    /// This node.
    pub(crate) node: NodeId,
    /// Its Raft id.
    pub(crate) raft_id: RaftId,
    /// Its ballot key.
    pub(crate) key: SigningKey,
    /// Vouches for the key.
    pub(crate) mesh: MeshClient,
    /// What the log says.
    pub(crate) replica: Replica,
    /// To the leader.
    pub(crate) client: LeaderClient,
    /// Who votes.
    pub(crate) voters: Voters,
    /// The stop.
    pub(crate) shutdown: Shutdown,
}

impl Registrar {
    /// Registers until both are known, then ends.
    pub(crate) async fn run(self) {
        let stop = self.shutdown.token(Stage::RefuseNew);
        let mut subkey = false;
        let mut voter = false;
        loop {
            let state = self.replica.view().state;
            // A joining voter follows nothing until it is registered, so what
            // it was answered counts as well as what it sees.
            subkey = subkey || self.has_subkey(&state);
            voter = voter || state.voters().any(|(node, id)| *node == self.node && *id == self.raft_id);
            let done = match (subkey, voter) {
                (true, true) => return,
                (false, _) => self.register_subkey().await.map(|()| subkey = true),
                (true, false) => self.register_voter().await.map(|()| voter = true),
            };
            if let Err(error) = done {
                tracing::info!(code = %error.code, error = %error.message, "not registered yet");
                tokio::select! {
                    biased;
                    // Cancel-safe: waiting for a token takes nothing.
                    () = stop.cancelled() => return,
                    // Cancel-safe: a timer.
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        }
    }

    fn has_subkey(&self, state: &FleetState) -> bool {
        state.subkey(self.node, Purpose::Ballot).is_some_and(|known| known.key == statement::public_key(&self.key))
    }

    async fn register_subkey(&self) -> Result<(), ApiError> {
        let key = statement::public_key(&self.key);
        let endorsed = self.mesh.endorse(&EndorseRequest { purpose: Purpose::Ballot, key }).await?;
        let subkey = Subkey {
            node: self.node,
            purpose: Purpose::Ballot,
            key,
            epoch: endorsed.epoch,
            endorsement: endorsed.signature,
        };
        self.submit(Body::RegisterSubkey(subkey)).await
    }

    async fn register_voter(&self) -> Result<(), ApiError> {
        self.submit(Body::RegisterVoter { node: self.node, raft_id: self.raft_id }).await
    }

    async fn submit(&self, body: Body) -> Result<(), ApiError> {
        submit(&self.client, &self.voters, body).await
    }
}

/// Puts the key of another daemon of this host into the log, unless it is there.
/// Returns whether it was.
///
/// # Errors
/// `Conflict` for another node's key, the log's own refusal, and retryable codes
/// while no leader answers.
///
/// # Cancel safety
/// The command may be committed all the same; registering again finds it.
pub(crate) async fn register(
    node: NodeId,
    subkey: Subkey,
    replica: &Replica,
    client: &LeaderClient,
    voters: &Voters,
) -> Result<bool, ApiError> {
    if subkey.node != node {
        return Err(ApiError::new(ErrorCode::Conflict, "the key is endorsed for another node"));
    }
    let known = |state: &FleetState| state.subkey(node, subkey.purpose).is_some_and(|known| known.key == subkey.key);
    if known(&replica.view().state) {
        return Ok(true);
    }
    submit(client, voters, Body::RegisterSubkey(subkey)).await.map(|()| false)
}

/// Submits what this node says of itself.
///
/// # Errors
/// The log's own refusal, and retryable codes while no leader answers.
///
/// # Cancel safety
/// The command may be committed all the same.
pub(crate) async fn submit(client: &LeaderClient, voters: &Voters, body: Body) -> Result<(), ApiError> {
    let command = Command { request: fresh_request(), body };
    let reply = client.submit(&voters.list(), osmoda_proto::encode_command(&command)).await?;
    match reply.refused.as_str() {
        "" => Ok(()),
        code => Err(ApiError::new(code.parse().unwrap_or(ErrorCode::Internal), "the registration was refused")),
    }
}
