//! Carries the log's mesh epoch to the mesh of this node, and, on the leader,
//! begins a new one when a member was revoked.
//!
//! The secret of an epoch is made by the leader's mesh and named in the log by
//! its hash; the other members' meshes fetch it from voters. A leader that dies
//! between the two leaves an epoch whose secret nobody has: whoever leads next
//! notices that it cannot be fetched and begins another. Links of members that
//! stay are up all the while; only who was revoked has none.

use std::time::Duration;

use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::ApiError;
use osmoda_kit::shutdown::{Shutdown, Stage};
use osmoda_node_api::mesh::{EnforceEpoch, MeshClient};
use osmoda_rollout::FleetState;
use osmoda_types::command::{Body, Command};
use osmoda_types::{MeshEpoch, NodeId};

use crate::replica::Replica;
use crate::reports::fresh_request;
use crate::voter::Voter;

/// Between two tries, and between two looks at who leads.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A secret that no voter gives for so long is lost. A voter that has it and is
/// only restarting is back by then; one rotation too many does no harm.
const LOST_AFTER: Duration = Duration::from_secs(20);

/// Keeps the mesh at the log's epoch.
pub(crate) struct Epochs {
    /// What the log says.
    pub(crate) replica: Replica,
    /// Where it goes.
    pub(crate) mesh: MeshClient,
    /// On a voter: to begin a new one.
    pub(crate) voter: Option<Voter>,
    /// Time.
    pub(crate) clock: SharedClock,
    /// The stop.
    pub(crate) shutdown: Shutdown,
}

/// What the keeper remembers.
#[derive(Debug, Default)]
struct Memory {
    in_force: MeshEpoch,
    /// Since when the log's epoch is not in force here.
    behind_since: Option<Duration>,
}

impl Memory {
    /// Whether the leader must begin a new epoch. *pure*
    fn must_rotate(&self, state: &FleetState, now: Duration) -> bool {
        let is_lost = self.behind_since.is_some_and(|since| now.saturating_sub(since) >= LOST_AFTER);
        state.network().is_some() && (state.rotation_due() || is_lost)
    }

    /// Notes whether this node is behind the log. *pure*
    fn look(&mut self, state: &FleetState, now: Duration) -> bool {
        let (epoch, _) = state.mesh_epoch();
        let is_behind = epoch > self.in_force;
        self.behind_since = if is_behind { self.behind_since.or(Some(now)) } else { None };
        is_behind
    }
}

impl Epochs {
    /// Follows until the stop.
    pub(crate) async fn run(self) {
        let stop = self.shutdown.token(Stage::FinishAccepted);
        let mut changes = self.replica.subscribe();
        let mut memory = Memory::default();
        loop {
            let state = changes.borrow_and_update().state.clone();
            if let Err(error) = self.step(&mut memory, &state).await {
                tracing::info!(code = %error.code, error = %error.message, "mesh epoch not in force yet");
            }
            let has_work = memory.behind_since.is_some() || state.rotation_due();
            tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = stop.cancelled() => return,
                // Cancel-safe: the watch keeps its newest value.
                changed = changes.changed() => if changed.is_err() { return },
                // Cancel-safe: a timer.
                () = tokio::time::sleep(LOOK_EVERY), if has_work => {}
            }
        }
    }

    async fn step(&self, memory: &mut Memory, state: &FleetState) -> Result<(), ApiError> {
        let now = self.clock.now_boot();
        if memory.look(state, now) {
            let enforced = self.enforce(state).await;
            if let Ok(epoch) = &enforced {
                memory.in_force = *epoch;
                memory.look(state, now);
            }
            if memory.must_rotate(state, now) {
                self.rotate(state).await?;
            }
            return enforced.map(drop);
        }
        if memory.must_rotate(state, now) { self.rotate(state).await } else { Ok(()) }
    }

    async fn enforce(&self, state: &FleetState) -> Result<MeshEpoch, ApiError> {
        let (epoch, hash) = state.mesh_epoch();
        let Some(secret_hash) = hash else { return Ok(epoch) };
        let voters: Vec<NodeId> = state.voters().map(|(node, _)| *node).collect();
        let ask = EnforceEpoch { epoch, secret_hash, voters };
        self.mesh.enforce_epoch(&ask).await.map(|answer| answer.epoch)
    }

    /// On the leader: a new secret, and its hash in the log.
    async fn rotate(&self, state: &FleetState) -> Result<(), ApiError> {
        let Some(voter) = self.voter.as_ref().filter(|voter| voter.raft().leads_with_quorum()) else { return Ok(()) };
        let made = self.mesh.make_epoch().await?;
        let epoch = MeshEpoch(state.mesh_epoch().0.0.saturating_add(1));
        let body = Body::RotateEpoch { epoch, secret_hash: made.secret_hash };
        let command = Command { request: fresh_request(), body };
        let reply = voter.propose(&command).await.map_err(|error| ApiError::new(error.code(), error.to_string()))?;
        match reply.refused {
            None => Ok(()),
            Some(code) => Err(ApiError::new(code, "the new epoch was refused")),
        }
    }
}

#[cfg(test)]
mod tests {
    use osmoda_rollout::testing::{ANN, Log, node, signed};
    use osmoda_types::SecretHash;
    use osmoda_types::command::Order;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_revoked_member_or_a_lost_secret_makes_a_new_epoch() {
        let mut log = Log::fleet();
        let mut memory = Memory::default();
        assert!(memory.look(&log.state, SECOND), "nothing is known to be in force yet");
        memory.in_force = log.state.mesh_epoch().0;
        assert!(!memory.look(&log.state, SECOND) && !memory.must_rotate(&log.state, SECOND));
        log.expect(signed(Order::Revoke { node: node(1) }, 1, ANN, ANN));
        assert!(!memory.look(&log.state, SECOND) && memory.must_rotate(&log.state, SECOND));
        let epoch = MeshEpoch(log.state.mesh_epoch().0.0 + 1);
        log.expect(Body::RotateEpoch { epoch, secret_hash: SecretHash::from_bytes([7; 32]) });
        // Its secret is on the way, and then lost.
        assert!(memory.look(&log.state, SECOND * 2) && !memory.must_rotate(&log.state, SECOND * 2));
        let late = SECOND * 2 + LOST_AFTER;
        assert!(memory.look(&log.state, late) && memory.must_rotate(&log.state, late));
        memory.in_force = epoch;
        assert!(!memory.look(&log.state, late) && !memory.must_rotate(&log.state, late));
    }
}
