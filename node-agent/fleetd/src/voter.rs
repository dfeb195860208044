//! This node as a voter: its Raft, and the state it leads to.

use std::time::Duration;

use osmoda_consensus::{CommittedLog, Consensus, ProposeError, ReadError, Status};
use osmoda_kit::error::ApiError;
use osmoda_kit::tasks::Tasks;
use osmoda_rollout::Reply;
use osmoda_types::command::Command;
use osmoda_types::{ErrorCode, ManifestHash, NodeId};

use crate::fsm::Fsm;
use crate::manifests::Manifests;
use crate::replica::{Replica, View};

/// How long a proposer waits until this node has applied what it just
/// committed. Applying takes microseconds; longer means that the node stops.
const APPLY_TIME: Duration = Duration::from_secs(2);

/// A voter; clones are the same.
#[derive(Clone)]
pub(crate) struct Voter {
    consensus: Consensus<Fsm>,
    replica: Replica,
    tasks: Tasks,
}

impl Voter {
    /// The voter with that Raft and replica.
    pub(crate) fn new(consensus: Consensus<Fsm>, replica: Replica, tasks: Tasks) -> Self {
        Self { consensus, replica, tasks }
    }

    /// Proposes a command and waits until this node has applied it.
    ///
    /// # Errors
    /// See [`ProposeError`]; a refusal by `apply` is a reply, not an error.
    pub(crate) async fn propose(&self, command: &Command) -> Result<Reply, ProposeError> {
        let bytes = osmoda_proto::encode_command(command);
        let reply = self.consensus.propose(*command.request.as_bytes(), bytes).await?;
        let answer = Reply::decode(&reply.bytes).map_err(|_| ProposeError::Unknown)?;
        // So that the next decision is made on a state that has this one.
        match self.replica.reached(reply.index, APPLY_TIME).await {
            Ok(_) => Ok(answer),
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// A proof that this voter leads: an index everything committed before is at or below.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) async fn linearizable(&self) -> Result<u64, ReadError> {
        self.consensus.linearizable().await
    }

    /// The committed log from `index` on.
    pub(crate) fn committed_from(&self, index: u64) -> CommittedLog<Fsm> {
        self.consensus.committed_from(index)
    }

    /// The newest state.
    pub(crate) fn view(&self) -> View {
        self.replica.view()
    }

    /// Wakes at each change of the state.
    pub(crate) fn subscribe(&self) -> tokio::sync::watch::Receiver<View> {
        self.replica.subscribe()
    }

    /// This voter's view of its group.
    pub(crate) fn status(&self) -> Option<Status> {
        self.consensus.status().borrow().clone()
    }

    /// Who leads, and in which term, as far as this voter knows.
    pub(crate) fn leader(&self) -> (Option<NodeId>, u64) {
        self.status().map_or((None, 0), |status| (status.leader.map(|leader| leader.node_id), status.term))
    }

    /// This node.
    pub(crate) fn node(&self) -> NodeId {
        self.consensus.me().node_id
    }

    /// Its Raft.
    pub(crate) fn raft(&self) -> &Consensus<Fsm> {
        &self.consensus
    }

    /// Stores a manifest durably, off the async threads.
    ///
    /// # Errors
    /// As [`Manifests::put`].
    pub(crate) async fn store_manifest(
        &self,
        manifests: &Manifests,
        bytes: Vec<u8>,
        hash: ManifestHash,
    ) -> Result<(), ApiError> {
        let manifests = manifests.clone();
        let stored = self.tasks.blocking("store manifest", move || manifests.put(&bytes, Some(hash))).await;
        match stored {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(ApiError::new(error.code(), error.to_string()).with_source(error)),
            Err(error) => Err(ApiError::new(ErrorCode::Internal, "the manifest was not stored").with_source(error)),
        }
    }
}
