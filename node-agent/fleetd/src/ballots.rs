//! This voter's ballots: an own check of every proposal, then an own signature.
//!
//! Invariant: a yes is signed only for a manifest that this voter holds durably
//! and has compared with the proposal in the log. What cannot be checked is not
//! voted for: a check that fails to run leaves the ballot open until it can.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use osmoda_kit::error::ApiError;
use osmoda_kit::shutdown::{Shutdown, Stage};
use osmoda_rollout::{FleetState, Phase, Rollout};
use osmoda_types::command::{Ballot, Body, Command};
use osmoda_types::{ErrorCode, FleetEpoch, Manifest, NodeId, Vote, statement};

use crate::leader_client::LeaderClient;
use crate::replica::Replica;
use crate::reports::fresh_request;
use crate::sources::Sources;
use crate::voters::Voters;

/// Between two looks at an open ballot that could not be answered yet.
const AGAIN: Duration = Duration::from_millis(500);

/// Votes for this node.
pub(crate) struct Elector {
    /// This node.
    pub(crate) node: NodeId,
    /// Its ballot key.
    pub(crate) key: SigningKey,
    /// What the log says.
    pub(crate) replica: Replica,
    /// To the leader.
    pub(crate) client: LeaderClient,
    /// Who votes.
    pub(crate) voters: Voters,
    /// Manifests.
    pub(crate) sources: Sources,
    /// The stop.
    pub(crate) shutdown: Shutdown,
}

impl Elector {
    /// Votes until the stop.
    pub(crate) async fn run(self: std::sync::Arc<Self>) {
        let stop = self.shutdown.token(Stage::FinishAccepted);
        let mut changes = self.replica.subscribe();
        loop {
            let view = changes.borrow_and_update().clone();
            let mut open = false;
            for rollout in view.state.active().filter(|rollout| self.is_open(rollout)) {
                open = true;
                if let Err(error) = self.cast(&view.state, rollout, false).await {
                    tracing::info!(rollout = %rollout.id, code = %error.code, error = %error.message, "no ballot yet");
                }
            }
            tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = stop.cancelled() => return,
                // Cancel-safe: the watch keeps its newest value.
                changed = changes.changed() => if changed.is_err() { return },
                // Cancel-safe: a timer.
                () = tokio::time::sleep(AGAIN), if open => {}
            }
        }
    }

    /// Whether this voter is asked and has not answered.
    pub(crate) fn is_open(&self, rollout: &Rollout) -> bool {
        let asked = rollout.electorate.get(&self.node);
        rollout.phase == Phase::Voting && asked.is_some_and(|elector| elector.vote.is_none())
    }

    /// Votes: no when `deny` says so, else what the own check says.
    ///
    /// # Errors
    /// When the check cannot run or the log does not take the ballot.
    pub(crate) async fn cast(&self, state: &FleetState, rollout: &Rollout, deny: bool) -> Result<(), ApiError> {
        let Some(network) = state.network() else { return Ok(()) };
        let voters = self.voters.list();
        let verdict = if deny {
            Err(ErrorCode::PrincipalDenied)
        } else {
            let fetched = self.sources.manifest(&self.client, &voters, rollout.manifest);
            check(rollout, &fetched.await?)
        };
        let vote = if verdict.is_ok() { Vote::Yes } else { Vote::No };
        let message = statement::ballot(&rollout.id, &rollout.manifest, rollout.epoch, &self.node, vote, &network);
        let ballot = Ballot {
            rollout: rollout.id,
            voter: self.node,
            vote,
            reason: verdict.err(),
            signature: statement::sign(&self.key, &message),
        };
        tracing::info!(rollout = %rollout.id, vote = ?vote, reason = ?ballot.reason, "ballot");
        let command = Command { request: fresh_request(), body: Body::Ballot(ballot) };
        let reply = self.client.submit(&voters, osmoda_proto::encode_command(&command)).await?;
        match reply.refused.as_str() {
            "" => Ok(()),
            code => Err(ApiError::new(code.parse().unwrap_or(ErrorCode::Internal), "the ballot does not count")),
        }
    }
}

/// Whether the log's proposal is what the signed manifest says. The signature
/// and the rights were checked by `apply`; this is what `apply` cannot see.
fn check(rollout: &Rollout, bytes: &[u8]) -> Result<(), ErrorCode> {
    let (manifest, hash) = Manifest::parse(bytes).map_err(|error| error.code)?;
    let mismatch = Err(ErrorCode::ManifestMalformed);
    if hash != rollout.manifest || manifest.scope != rollout.scope || manifest.name != rollout.name {
        return mismatch;
    }
    if manifest.policy != rollout.policy || rollout.epoch == FleetEpoch(0) {
        return mismatch;
    }
    let same = manifest.nodes.len() == rollout.rows.len()
        && manifest.nodes.iter().all(|(node, wanted)| {
            rollout.rows.get(node).is_some_and(|row| row.target == wanted.target && row.expected == wanted.baseline)
        });
    if same { Ok(()) } else { mismatch }
}
