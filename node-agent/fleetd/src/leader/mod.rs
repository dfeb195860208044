//! The driver: while this voter leads, it moves rollouts on.
//!
//! A reconciler without a memory that matters: everything it must not forget is
//! in the log, so a new leader goes on where the old one was killed. It plans
//! on the state it has applied, proposes, waits until it has applied its own
//! proposals, and plans again.

mod plan;

use std::collections::BTreeSet;
use std::time::Duration;

use osmoda_consensus::ProposeError;
use osmoda_kit::clock::SharedClock;
use osmoda_kit::shutdown::{Shutdown, Stage};
use osmoda_node_api::mesh::MeshClient;
use osmoda_types::command::{Body, Command};
use osmoda_types::{NodeId, RaftId};

use crate::reports::{Reports, fresh_request};
use crate::voter::Voter;
use plan::{Memory, Plan, Seeing};

/// How often the leader looks when nothing wakes it: for timers and for nodes
/// that came online. Bounds what it adds to a batch (target: 250 ms p99).
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Without a leader for so long, the quorum was lost: about seven failovers of
/// the LAN profile. What was under way then waits for a person, unless its
/// policy says otherwise (I10).
const QUORUM_LOST: Duration = Duration::from_secs(15);

/// The driver.
pub(crate) struct Driver {
    /// This voter.
    pub(crate) voter: Voter,
    /// What nodes say.
    pub(crate) reports: Reports,
    /// Who is online.
    pub(crate) mesh: MeshClient,
    /// Time.
    pub(crate) clock: SharedClock,
    /// The stop.
    pub(crate) shutdown: Shutdown,
}

/// Whether a quorum was seen lately.
#[derive(Debug, Default)]
struct Quorum {
    last_seen: Option<Duration>,
    leads: bool,
}

impl Quorum {
    /// Notes what is seen now. Returns whether this voter has just begun to
    /// lead after the quorum had been away. Before the first look nothing is
    /// known, and unknown counts as away.
    fn look(&mut self, has_leader: bool, leads: bool, now: Duration) -> bool {
        let away = self.last_seen.is_none_or(|seen| now.saturating_sub(seen) >= QUORUM_LOST);
        let began = leads && !self.leads;
        self.leads = leads;
        if has_leader {
            self.last_seen = Some(now);
        }
        began && away
    }
}

impl Driver {
    /// Drives until the stop.
    pub(crate) async fn run(self) {
        let stop = self.shutdown.token(Stage::RefuseNew);
        let mut memory = Memory::default();
        let mut quorum = Quorum::default();
        let mut seen = self.reports.subscribe();
        let mut applied = self.voter.subscribe();
        loop {
            let status = self.voter.status();
            let leads = status.as_ref().is_some_and(|status| status.leads()) && self.voter.raft().leads_with_quorum();
            let has_leader = status.as_ref().is_some_and(|status| status.leader.is_some());
            let was_away = quorum.look(has_leader, leads, self.clock.now_boot());
            if leads {
                seen.mark_unchanged();
                applied.mark_unchanged();
                self.drive(&mut memory, was_away).await;
            } else {
                memory.clear();
            }
            tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = stop.cancelled() => return,
                // Cancel-safe: watches keep their newest value.
                changed = applied.changed(), if leads => if changed.is_err() { return },
                changed = seen.changed(), if leads => if changed.is_err() { return },
                // Cancel-safe: a timer.
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn drive(&self, memory: &mut Memory, was_away: bool) {
        let view = self.voter.view();
        if was_away {
            for rollout in view.state.active() {
                self.propose(memory, Body::HoldQuorumLost { rollout: rollout.id }).await;
            }
            return;
        }
        if view.state.active().next().is_none() {
            return;
        }
        let online = match self.online().await {
            Ok(online) => online,
            // Unknown means no: nobody is granted while nobody can say who is there.
            Err(error) => {
                tracing::warn!(code = %error.code, "who is online is unknown");
                return;
            }
        };
        let me: RaftId = self.voter.raft().me().raft_id;
        let seen = self.reports.subscribe().borrow().clone();
        let seeing =
            Seeing { state: &view.state, leader: me, online: &online, seen: &seen, now: self.clock.now_boot() };
        let Plan { bodies, step_aside } = memory.plan(&seeing);
        for body in bodies {
            if !self.propose(memory, body).await {
                return;
            }
        }
        if step_aside {
            match self.voter.raft().step_aside().await {
                Ok(next) => tracing::info!(next = %next.node_id.short(), "stepped aside for own deploy"),
                Err(error) => tracing::warn!(%error, "nobody took over, will try again"),
            }
        }
    }

    /// Proposes one command. Returns whether to go on with the plan: not after
    /// a failure, because the rest was planned on top of it.
    async fn propose(&self, memory: &mut Memory, body: Body) -> bool {
        let deadline = match &body {
            Body::Deadline(deadline) => Some(*deadline),
            _ => None,
        };
        let command = Command { request: fresh_request(), body };
        match self.voter.propose(&command).await {
            Ok(reply) => {
                if let Some(code) = reply.refused {
                    tracing::debug!(%code, body = ?command.body, "proposal refused");
                }
                reply.refused.is_none()
            }
            Err(error) => {
                if let Some(deadline) = deadline {
                    memory.again(&deadline);
                }
                if !matches!(error, ProposeError::NotLeader { .. }) {
                    tracing::warn!(code = %error.code(), %error, "proposal failed");
                }
                false
            }
        }
    }

    async fn online(&self) -> Result<BTreeSet<NodeId>, osmoda_kit::error::ApiError> {
        let peers = self.mesh.peers().await?;
        let connected = peers.into_iter().filter(|peer| peer.connected).map(|peer| peer.id);
        Ok(connected.chain([self.voter.node()]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_failover_is_no_lost_quorum_and_a_long_silence_is() {
        let at = Duration::from_secs;
        let mut quorum = Quorum::default();
        assert!(!quorum.look(true, false, at(1)));
        assert!(!quorum.look(false, false, at(3)));
        assert!(!quorum.look(true, true, at(4)), "failover");
        assert!(!quorum.look(true, true, at(30)));
        assert!(!quorum.look(false, false, at(31)));
        assert!(quorum.look(true, true, at(60)), "away for 30 s");
    }

    #[test]
    fn a_voter_that_starts_and_leads_at_once_knows_nothing_and_holds() {
        assert!(Quorum::default().look(true, true, Duration::from_secs(1)));
    }
}
