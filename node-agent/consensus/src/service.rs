//! The way in: the Raft service that other voters call.
//!
//! Invariant: a call is served only when the mesh peer at the other end is the
//! node registered for the Raft id the call speaks for, and when it is meant
//! for this voter; anything else is refused before openraft sees it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use osmoda_proto::raft::v1 as wire;
use osmoda_proto::raft::v1::raft_server::{Raft as RaftRpc, RaftServer};
use osmoda_types::NodeId;
use tokio::sync::Semaphore;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::codec::{self, CodecError};
use crate::core::Core;
use crate::links::MESSAGE_BYTES_MAX;
use crate::snapshot::{SNAPSHOT_BYTES_MAX, state_hash};
use crate::types::{Snapshot, SnapshotBytes};

/// Raft ids that are not in this voter's membership yet and were heard anyway.
/// A fleet has at most seven voters; past the bound nobody new is believed
/// until the membership catches up or the program restarts.
const STRANGERS_MAX: usize = 64;

/// The mesh node at the other end of a connection, as the mesh proved it.
/// The serving layer puts it into the extensions of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerNode(pub NodeId);

/// Puts one proven peer into every request of its connection.
#[derive(Debug, Clone, Copy)]
pub struct PeerStamp(PeerNode);

impl Interceptor for PeerStamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.extensions_mut().insert(self.0);
        Ok(request)
    }
}

/// The Raft service for one connection, ready for `Server::add_service`.
pub type StampedService = InterceptedService<RaftServer<RaftService>, PeerStamp>;

/// Serves the calls of the other voters.
#[derive(Clone)]
pub struct RaftService {
    shared: Arc<Shared>,
}

struct Shared {
    core: Arc<Core>,
    strangers: Mutex<HashMap<u64, NodeId>>,
    /// One snapshot at a time: each may hold [`SNAPSHOT_BYTES_MAX`] in memory.
    receiving: Semaphore,
}

impl RaftService {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let strangers = Mutex::new(HashMap::new());
        Self { shared: Arc::new(Shared { core, strangers, receiving: Semaphore::new(1) }) }
    }

    /// The service without a peer: whoever serves it adds [`PeerNode`].
    #[must_use]
    pub fn server(&self) -> RaftServer<Self> {
        RaftServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The service for a connection whose peer the mesh has proven.
    #[must_use]
    pub fn server_for(&self, peer: NodeId) -> StampedService {
        InterceptedService::new(self.server(), PeerStamp(PeerNode(peer)))
    }

    /// Refuses calls that are not for this voter or not from whom they claim.
    fn admit(&self, extensions: &Extensions, claimed: u64, to: u64) -> Result<(), Status> {
        let core = &self.shared.core;
        if to != core.me.raft_id.0 {
            return Err(Status::failed_precondition("another voter lives here"));
        }
        let Some(PeerNode(peer)) = extensions.get::<PeerNode>() else {
            return Err(Status::permission_denied("the connection has no proven peer"));
        };
        let membership = core.raft.metrics().borrow().membership_config.clone();
        let registered = membership.membership().get_node(&claimed).map(|seat| seat.node_id);
        match registered.map_or_else(|| self.stranger(claimed, *peer), Ok)? {
            node if node == *peer => Ok(()),
            node => {
                tracing::warn!(claimed, registered = %node, %peer, "a peer speaks for another voter");
                Err(Status::permission_denied("the voter is registered on another node"))
            }
        }
    }

    /// A voter that this one has not read about yet (it lags, or is new) is
    /// believed, but from the first node that uses the id only. The mesh has
    /// already checked that the peer's role is voter.
    fn stranger(&self, claimed: u64, peer: NodeId) -> Result<NodeId, Status> {
        let mut strangers = self.shared.strangers.lock().expect("no code panics while it holds the map");
        if strangers.len() >= STRANGERS_MAX && !strangers.contains_key(&claimed) {
            return Err(Status::permission_denied("the voter is not registered"));
        }
        Ok(*strangers.entry(claimed).or_insert(peer))
    }

    async fn receive(
        &self,
        mut stream: Streaming<wire::SnapshotChunk>,
        head: &wire::SnapshotHead,
    ) -> Result<SnapshotBytes, Status> {
        let mut state = BytesMut::new();
        while let Some(chunk) = stream.message().await? {
            if chunk.offset != state.len() as u64 || state.len() as u64 + chunk.data.len() as u64 > head.size_bytes {
                return Err(Status::invalid_argument("the chunk does not follow the one before"));
            }
            state.extend_from_slice(&chunk.data);
            if let Some(vote) = &head.vote {
                self.shared.core.heard_leader(vote.node_id);
            }
        }
        if state.len() as u64 != head.size_bytes || state_hash(&state) != head.sha256 {
            return Err(Status::data_loss("the snapshot does not match its hash"));
        }
        Ok(SnapshotBytes(state.freeze()))
    }
}

fn missing(error: CodecError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// openraft answers with an error only when it has stopped.
fn stopped<E: std::fmt::Display>(error: E) -> Status {
    tracing::debug!(%error, "raft has stopped");
    Status::unavailable("this voter has stopped")
}

#[tonic::async_trait]
impl RaftRpc for RaftService {
    async fn append(&self, request: Request<wire::AppendRequest>) -> Result<Response<wire::AppendReply>, Status> {
        let (_, extensions, request) = request.into_parts();
        let vote = request.vote.ok_or_else(|| missing(CodecError::Field("vote")))?;
        self.admit(&extensions, vote.node_id, request.to)?;
        let entries = request.entries.into_iter().map(codec::entry_from_wire).collect::<Result<_, _>>();
        let rpc = AppendEntriesRequest {
            vote: codec::vote_from_wire(vote),
            prev_log_id: request.prev.map(codec::log_id_from_wire),
            entries: entries.map_err(missing)?,
            leader_commit: request.leader_commit.map(codec::log_id_from_wire),
        };
        let answer = self.shared.core.raft.append_entries(rpc).await.map_err(stopped)?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.shared.core.heard_leader(vote.node_id);
        }
        let result = match answer {
            AppendEntriesResponse::Success => wire::append_reply::Result::Success(wire::Success {}),
            AppendEntriesResponse::PartialSuccess(matching) => {
                let matching = matching.as_ref().map(codec::log_id_to_wire);
                wire::append_reply::Result::Partial(wire::PartialSuccess { matching })
            }
            AppendEntriesResponse::Conflict => wire::append_reply::Result::Conflict(wire::Conflict {}),
            AppendEntriesResponse::HigherVote(vote) => {
                wire::append_reply::Result::HigherVote(codec::vote_to_wire(&vote))
            }
        };
        Ok(Response::new(wire::AppendReply { result: Some(result) }))
    }

    async fn vote(&self, request: Request<wire::VoteRequest>) -> Result<Response<wire::VoteReply>, Status> {
        let (_, extensions, request) = request.into_parts();
        let vote = request.vote.ok_or_else(|| missing(CodecError::Field("vote")))?;
        self.admit(&extensions, vote.node_id, request.to)?;
        let rpc = VoteRequest {
            vote: codec::vote_from_wire(vote),
            last_log_id: request.last_log_id.map(codec::log_id_from_wire),
        };
        let answer = self.shared.core.raft.vote(rpc).await.map_err(stopped)?;
        Ok(Response::new(wire::VoteReply {
            vote: Some(codec::vote_to_wire(&answer.vote)),
            granted: answer.vote_granted,
            last_log_id: answer.last_log_id.as_ref().map(codec::log_id_to_wire),
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotChunk>>,
    ) -> Result<Response<wire::SnapshotReply>, Status> {
        let (_, extensions, mut stream) = request.into_parts();
        let first = stream.message().await?.and_then(|chunk| chunk.head);
        let mut head = first.ok_or_else(|| missing(CodecError::Field("head")))?;
        let vote = head.vote.ok_or_else(|| missing(CodecError::Field("vote")))?;
        self.admit(&extensions, vote.node_id, head.to)?;
        // A leader of the past learns that it is one before it sends the state.
        let mine = self.shared.core.raft.metrics().borrow().vote;
        if codec::vote_from_wire(vote) < mine {
            return Ok(Response::new(wire::SnapshotReply { vote: Some(codec::vote_to_wire(&mine)) }));
        }
        if head.size_bytes > SNAPSHOT_BYTES_MAX {
            return Err(Status::out_of_range("the snapshot is over the limit"));
        }
        let Ok(_receiving) = self.shared.receiving.try_acquire() else {
            return Err(Status::resource_exhausted("another snapshot is being received"));
        };
        let meta = head.meta.take().ok_or_else(|| missing(CodecError::Field("meta")))?;
        let meta = codec::snapshot_meta_from_wire(meta).map_err(missing)?;
        let state = self.receive(stream, &head).await?;
        let snapshot = Snapshot { meta, snapshot: Box::new(state) };
        let installed = self.shared.core.raft.install_full_snapshot(codec::vote_from_wire(vote), snapshot);
        let answer = installed.await.map_err(stopped)?;
        Ok(Response::new(wire::SnapshotReply { vote: Some(codec::vote_to_wire(&answer.vote)) }))
    }

    async fn timeout_now(
        &self,
        request: Request<wire::TimeoutNowRequest>,
    ) -> Result<Response<wire::TimeoutNowReply>, Status> {
        let (_, extensions, request) = request.into_parts();
        self.admit(&extensions, request.leader, request.to)?;
        let core = &self.shared.core;
        let (leader, term) = {
            let metrics = core.raft.metrics();
            let metrics = metrics.borrow();
            (metrics.current_leader, metrics.current_term)
        };
        if leader != Some(request.leader) || term != request.term {
            return Err(Status::failed_precondition("only the leader of this term hands over"));
        }
        core.raft.trigger().elect().await.map_err(stopped)?;
        Ok(Response::new(wire::TimeoutNowReply {}))
    }

    async fn probe(&self, request: Request<wire::ProbeRequest>) -> Result<Response<wire::ProbeReply>, Status> {
        let (_, extensions, request) = request.into_parts();
        self.admit(&extensions, request.raft_id, request.to)?;
        let core = &self.shared.core;
        let metrics = core.raft.metrics();
        let (term, running) = {
            let metrics = metrics.borrow();
            (metrics.current_term, metrics.running_state.clone())
        };
        // A voter that cannot vote must not count as one that answers.
        running.map_err(stopped)?;
        Ok(Response::new(wire::ProbeReply {
            raft_id: core.me.raft_id.0,
            seq: request.seq,
            term,
            live_leader: core.live_leader(),
            last_log_id: None,
            stepping_aside: core.is_aside(),
        }))
    }
}
