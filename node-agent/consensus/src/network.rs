//! openraft's way out: its messages as gRPC calls.
//!
//! Invariant: every call names the Raft id it is meant for; a node whose voter
//! was replaced refuses it. Every call has a deadline below openraft's own, so
//! that a slow link is seen here and its channel renewed.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::AnyError;
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use osmoda_proto::raft::v1 as wire;

use crate::codec;
use crate::links::{CallError, Links};
use crate::snapshot::state_hash;
use crate::types::{Seat, Snapshot, TypeConfig, Vote};

/// Bytes of one snapshot chunk: a few QUIC packets' worth of window, so that a
/// heartbeat on another stream is not stuck behind it.
const CHUNK_BYTES: usize = 256 * 1024;

/// Makes clients; all of them share the kept channels.
pub(crate) struct Network {
    pub(crate) me: u64,
    pub(crate) heartbeat: Duration,
    pub(crate) links: Arc<Links>,
}

/// The way to one voter.
pub(crate) struct Client {
    me: u64,
    heartbeat: Duration,
    target: u64,
    seat: Seat,
    links: Arc<Links>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &Seat) -> Client {
        Client { me: self.me, heartbeat: self.heartbeat, target, seat: *node, links: self.links.clone() }
    }
}

impl Client {
    /// What a failed call means to openraft. Everything but lateness backs off:
    /// a refusal that comes back at once would otherwise be retried in a spin.
    fn failed<E: std::error::Error>(&self, action: RPCTypes, error: &CallError) -> RPCError<u64, Seat, E> {
        match error {
            CallError::Late(timeout) => {
                RPCError::Timeout(Timeout { action, id: self.me, target: self.target, timeout: *timeout })
            }
            other => RPCError::Unreachable(Unreachable::new(other)),
        }
    }
}

/// A little less than openraft allows.
fn limit_of(option: &RPCOption) -> Duration {
    option.hard_ttl() * 19 / 20
}

fn malformed<E: std::error::Error>(field: &'static str) -> RPCError<u64, Seat, E> {
    RPCError::Unreachable(Unreachable::new(&codec::CodecError::Field(field)))
}

impl RaftNetwork<TypeConfig> for Client {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, Seat, RaftError<u64>>> {
        let request = wire::AppendRequest {
            vote: Some(codec::vote_to_wire(&rpc.vote)),
            prev: rpc.prev_log_id.as_ref().map(codec::log_id_to_wire),
            entries: rpc.entries.iter().map(codec::entry_to_wire).collect(),
            leader_commit: rpc.leader_commit.as_ref().map(codec::log_id_to_wire),
            to: self.target,
        };
        let reply = self
            .links
            .call(self.seat.node_id, limit_of(&option), |mut client| async move { client.append(request).await })
            .await
            .map_err(|error| self.failed(RPCTypes::AppendEntries, &error))?;
        Ok(match reply.result.ok_or_else(|| malformed("result"))? {
            wire::append_reply::Result::Success(wire::Success {}) => AppendEntriesResponse::Success,
            wire::append_reply::Result::Partial(partial) => {
                AppendEntriesResponse::PartialSuccess(partial.matching.map(codec::log_id_from_wire))
            }
            wire::append_reply::Result::Conflict(wire::Conflict {}) => AppendEntriesResponse::Conflict,
            wire::append_reply::Result::HigherVote(vote) => {
                AppendEntriesResponse::HigherVote(codec::vote_from_wire(vote))
            }
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, Seat, RaftError<u64>>> {
        let request = wire::VoteRequest {
            vote: Some(codec::vote_to_wire(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(codec::log_id_to_wire),
            to: self.target,
        };
        let reply = self
            .links
            .call(self.seat.node_id, limit_of(&option), |mut client| async move { client.vote(request).await })
            .await
            .map_err(|error| self.failed(RPCTypes::Vote, &error))?;
        Ok(VoteResponse {
            vote: codec::vote_from_wire(reply.vote.ok_or_else(|| malformed("vote"))?),
            vote_granted: reply.granted,
            last_log_id: reply.last_log_id.map(codec::log_id_from_wire),
        })
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let chunks = tokio_stream::iter(chunks(self.target, &vote, &snapshot));
        let sent = self.links.call(self.seat.node_id, limit_of(&option), |mut client| async move {
            client.install_snapshot(chunks).await
        });
        let reply = tokio::select! {
            biased;
            // The leader stopped or was replaced; the half-sent snapshot is
            // dropped with its call, and the receiver forgets it.
            closed = cancel => return Err(StreamingError::Closed(closed)),
            // Completed, or dropped by the arm above.
            reply = sent => reply,
        };
        let reply = reply.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))?;
        let vote = reply.vote.ok_or_else(|| {
            StreamingError::Network(NetworkError::from(AnyError::error("the snapshot reply carries no vote")))
        })?;
        Ok(SnapshotResponse { vote: codec::vote_from_wire(vote) })
    }

    fn backoff(&self) -> Backoff {
        // One heartbeat: a follower that comes back is found at the next one.
        Backoff::new(std::iter::repeat(self.heartbeat))
    }
}

/// The chunks of one snapshot, each made when it is sent.
fn chunks(to: u64, vote: &Vote, snapshot: &Snapshot) -> impl Iterator<Item = wire::SnapshotChunk> + Send + 'static {
    let state = snapshot.snapshot.0.clone();
    let head = wire::SnapshotHead {
        vote: Some(codec::vote_to_wire(vote)),
        meta: Some(codec::snapshot_meta_to_wire(&snapshot.meta)),
        size_bytes: state.len() as u64,
        sha256: state_hash(&state),
        to,
    };
    let first = wire::SnapshotChunk { head: Some(head), data: Vec::new(), offset: 0 };
    let rest = (0..state.len()).step_by(CHUNK_BYTES).map(move |from| {
        let data = state[from..state.len().min(from + CHUNK_BYTES)].to_vec();
        wire::SnapshotChunk { head: None, data, offset: from as u64 }
    });
    std::iter::once(first).chain(rest)
}
