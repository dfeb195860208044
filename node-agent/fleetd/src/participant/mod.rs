//! This node's part in rollouts: a reconciler between the log and the host.
//!
//! It reads what the log wants of this node and where the host's journal
//! stands, takes one step, and comes again. It never retries inside a step:
//! coming again is the retry, so a lost answer costs a period and nothing else.

mod decide;

use std::time::{Duration, Instant};

use data_encoding::BASE64;
use osmoda_kit::error::ApiError;
use osmoda_kit::shutdown::{Shutdown, Stage};
use osmoda_node_api::watch::{
    AcceptRequest, AttemptView, ContactRequest, GrantRequest, RevertRequest, StageRequest, WatchClient,
};
use osmoda_proto::fleet::v1 as pb;
use osmoda_rollout::{Desired, Move, Rollout};
use osmoda_types::command::{NodeAttempt, Report, Staged};
use osmoda_types::{ErrorCode, FleetEpoch, ManifestHash, NodeId, NodeState, RolloutId, StorePath};

use crate::leader_client::LeaderClient;
use crate::replica::{Replica, View};
use crate::sources::Sources;
use crate::voters::Voters;
use decide::{Action, decide};

/// Between two steps while a rollout concerns this node. A step that finds
/// nothing new is one call on a local socket; at 250 ms it was five sixths of
/// the 300 ms from a host's `ready` to its `accepted` (measured 2026-11-22).
const STEP_EVERY: Duration = Duration::from_millis(50);

/// Between two contacts with the quorum. Each is a round trip to the leader and
/// an fsync of the journal; two are needed after an activation, and the dead-man
/// counts tens of seconds.
const CONTACT_EVERY: Duration = Duration::from_millis(250);

/// Between two looks at rest; the log wakes the participant anyway, this is for
/// a host that changed by itself.
const REST_EVERY: Duration = Duration::from_secs(5);

/// Between two tries to stage after a failure: whatever is missing may still come.
const STAGE_AGAIN: Duration = Duration::from_secs(2);

/// The participant.
pub(crate) struct Participant {
    /// This node.
    pub(crate) node: NodeId,
    /// What the log says.
    pub(crate) replica: Replica,
    /// To the leader.
    pub(crate) client: LeaderClient,
    /// Who votes.
    pub(crate) voters: Voters,
    /// To the host.
    pub(crate) host: WatchClient,
    /// Manifests.
    pub(crate) sources: Sources,
    /// The stop.
    pub(crate) shutdown: Shutdown,
}

/// When to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// At the usual pace.
    Soon,
    /// After a failure that will not pass at once.
    Later,
}

impl Participant {
    /// Reconciles until the stop.
    pub(crate) async fn run(self) {
        let stop = self.shutdown.token(Stage::FinishAccepted);
        let mut changes = self.replica.subscribe();
        let mut seq = 0;
        let mut contacted = None;
        loop {
            let view = changes.borrow_and_update().clone();
            let desired = view.state.desired(&self.node);
            let busy = desired != Desired::Stay && !self.is_done(&view, &desired);
            let mut pause = if busy { STEP_EVERY } else { REST_EVERY };
            if busy {
                seq += 1;
                match self.step(&view, &desired, seq, &mut contacted).await {
                    Ok(Pace::Soon) => {}
                    Ok(Pace::Later) => pause = STAGE_AGAIN,
                    Err(error) => {
                        tracing::debug!(code = %error.code, error = %error.message, "step not taken, will come again");
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
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn row(&self, view: &View, rollout: &RolloutId) -> Option<NodeState> {
        view.state.rollout(rollout)?.rows.get(&self.node).map(|row| row.state)
    }

    /// Whether log and host agree for good, so that the host need not be asked.
    fn is_done(&self, view: &View, desired: &Desired) -> bool {
        matches!(desired, Desired::Accepted(order) if self.row(view, &order.rollout) == Some(NodeState::Committed))
    }

    async fn step(
        &self,
        view: &View,
        desired: &Desired,
        seq: u64,
        contacted: &mut Option<Instant>,
    ) -> Result<Pace, ApiError> {
        let host = self.host.attempt().await?;
        let row = match desired {
            Desired::Accepted(order) => self.row(view, &order.rollout),
            _ => None,
        };
        let action = decide(self.node, desired, row, &host);
        tracing::debug!(?action, host = host.state, "step");
        let done = match action {
            Action::Wait => Ok(()),
            Action::Stage(rollout) => return self.stage(view, &rollout, &host).await,
            Action::Grant(order) => {
                let request = GrantRequest {
                    rollout: order.rollout,
                    attempt: order.attempt,
                    epoch: order.epoch,
                    manifest: order.manifest,
                };
                self.host.grant(&request).await.map(drop)
            }
            Action::Contact(order) => self.contact(&order, &host, seq, contacted).await,
            Action::Ready(order) => {
                let of = NodeAttempt { rollout: order.rollout, node: self.node, attempt: order.attempt };
                let ready = pb::ReportRequest { ready: Some((&of).into()), ..self.report(view, &host) };
                self.client.report(&self.voters.list(), ready).await?;
                // Both: the dead-man must not fire while the leader is deciding.
                self.contact(&order, &host, seq, contacted).await
            }
            Action::Accept(order) => self.host.accept(&AcceptRequest { attempt: order.attempt }).await.map(drop),
            Action::Revert(order) => {
                let request =
                    RevertRequest { rollout: order.rollout, attempt: order.attempt, to: order.baseline.clone() };
                self.host.revert(&request).await.map(drop)
            }
            Action::End(ending) => self.end(view, &host, &ending).await,
        };
        done.map(|()| Pace::Soon)
    }

    fn report(&self, view: &View, host: &AttemptView) -> pb::ReportRequest {
        pb::ReportRequest {
            node: self.node.as_bytes().to_vec(),
            observed_index: view.next_index.saturating_sub(1),
            current: host.current.as_ref().map(ToString::to_string).unwrap_or_default(),
            ..pb::ReportRequest::default()
        }
    }

    async fn end(&self, view: &View, host: &AttemptView, ending: &Report) -> Result<(), ApiError> {
        let report = pb::ReportRequest { endings: vec![ending.into()], ..self.report(view, host) };
        self.client.report(&self.voters.list(), report).await
    }

    /// A round trip with a leader that has just proved its quorum, and then the
    /// note of it in the host's journal.
    async fn contact(
        &self,
        order: &Move,
        host: &AttemptView,
        seq: u64,
        contacted: &mut Option<Instant>,
    ) -> Result<(), ApiError> {
        if contacted.is_some_and(|at| at.elapsed() < CONTACT_EVERY) {
            return Ok(());
        }
        let ask = pb::LeaseRequest {
            node: self.node.as_bytes().to_vec(),
            attempt: order.attempt.0,
            seq,
            running: host.current.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        let lease = self.client.lease(&self.voters.list(), ask).await?;
        if lease.seq != seq {
            return Err(ApiError::new(ErrorCode::BadRequest, "the leader answered another question"));
        }
        let leader = NodeId::try_from(lease.leader.as_slice()).map(|node| node.short()).unwrap_or_default();
        let note = ContactRequest { attempt: order.attempt, index: lease.index, leader };
        self.host.contact(&note).await?;
        *contacted = Some(Instant::now());
        Ok(())
    }

    /// Lets `watch` judge the rollout, and tells the log what came of it.
    async fn stage(&self, view: &View, id: &RolloutId, host: &AttemptView) -> Result<Pace, ApiError> {
        let Some(rollout) = view.state.rollout(id) else { return Ok(Pace::Soon) };
        let result = match self.staged(rollout).await {
            Ok(current) => Ok(current),
            Err(error) if error.code.is_retryable() => {
                tracing::info!(code = %error.code, error = %error.message, "closure is not there yet");
                return Ok(Pace::Later);
            }
            Err(error) => {
                tracing::warn!(code = %error.code, error = %error.message, "rollout cannot be staged");
                Err(error.code)
            }
        };
        let pace = if result.is_ok() { Pace::Soon } else { Pace::Later };
        let staged = Staged { rollout: *id, node: self.node, result };
        let report = pb::ReportRequest { staged: Some((&staged).into()), ..self.report(view, host) };
        self.client.report(&self.voters.list(), report).await.map(|()| pace)
    }

    async fn staged(&self, rollout: &Rollout) -> Result<StorePath, ApiError> {
        let manifest = self.manifest(rollout.manifest).await?;
        let request = StageRequest {
            manifest_b64: BASE64.encode(&manifest),
            rollout: rollout.id,
            parent_epoch: FleetEpoch(rollout.epoch.0.saturating_sub(1)),
            operator_key: rollout.proposer,
            signature: rollout.signature,
            node: self.node,
        };
        self.host.stage(&request).await.map(|staged| staged.current)
    }

    /// The manifest from this node's store, else from another node.
    async fn manifest(&self, hash: ManifestHash) -> Result<Vec<u8>, ApiError> {
        self.sources.manifest(&self.client, &self.voters.list(), hash).await
    }
}
