//! `osmoda.fleet.v1.Fleet`: what a voter does for its peers.
//!
//! Every call is checked against the proven peer first: a node speaks for
//! itself, a controller carries what others signed. What only the leader can do
//! is answered with the leader's name elsewhere; the caller goes there.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use osmoda_consensus::{Committed, ProposeError, ReadError, Status as RaftStatus};
use osmoda_kit::error::ApiError;
use osmoda_proto::fleet::v1::{self as pb, fleet_server::Fleet};
use osmoda_types::command::{Body, Command};
use osmoda_types::{ErrorCode, ManifestHash, NodeId, Role};
use tonic::{Request, Response, Status};

use crate::authority::may_submit;
use crate::caller::Caller;
use crate::heads::Heads;
use crate::invites::Invites;
use crate::reports::{self, Reports};
use crate::sources::Sources;
use crate::voter::Voter;
use crate::watchers::Watchers;
use crate::wire::{refuse, status_of};

/// The service; clones are the same.
#[derive(Clone)]
pub(crate) struct FleetService {
    inner: Arc<Inner>,
}

struct Inner {
    voter: Voter,
    sources: Sources,
    reports: Reports,
    invites: Invites,
    watchers: Watchers,
}

impl FleetService {
    /// The service of this voter.
    pub(crate) fn new(voter: Voter, sources: Sources, reports: Reports, invites: Invites) -> Self {
        let watchers = Watchers::default();
        Self { inner: Arc::new(Inner { voter, sources, reports, invites, watchers }) }
    }

    async fn propose(&self, command: &Command) -> Result<pb::SubmitReply, Status> {
        let result = match self.inner.voter.propose(command).await {
            Ok(reply) => pb::submit_reply::Result::Reply((&reply).into()),
            Err(ProposeError::NotLeader { leader }) => {
                pb::submit_reply::Result::NotLeader(not_leader(leader.map(|leader| leader.node_id)))
            }
            Err(error) => return Err(refuse(error.code(), error.to_string())),
        };
        Ok(pb::SubmitReply { result: Some(result) })
    }

    /// Writes what a node reported to the log; `Some` names the leader when
    /// this is not it.
    async fn record(&self, bodies: Vec<Body>) -> Result<Option<pb::NotLeader>, Status> {
        for body in bodies {
            let command = Command { request: reports::fresh_request(), body };
            if let Some(pb::submit_reply::Result::NotLeader(other)) = self.propose(&command).await?.result {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }
}

fn not_leader(leader: Option<NodeId>) -> pb::NotLeader {
    pb::NotLeader { leader: leader.map(|node| node.as_bytes().to_vec()).unwrap_or_default() }
}

fn speaks_for_itself(caller: Caller, node: &[u8]) -> Result<NodeId, Status> {
    let node = NodeId::try_from(node).map_err(|error| refuse(ErrorCode::BadRequest, error.to_string()))?;
    if node == caller.node {
        return Ok(node);
    }
    Err(refuse(ErrorCode::ServiceDenied, format!("{} may not speak for {node}", caller.node)))
}

fn hash_of(bytes: &[u8]) -> Result<ManifestHash, Status> {
    ManifestHash::try_from(bytes).map_err(|error| refuse(ErrorCode::BadRequest, error.to_string()))
}

type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchItem, Status>> + Send>>;

#[tonic::async_trait]
impl Fleet for FleetService {
    async fn submit(&self, request: Request<pb::SubmitRequest>) -> Result<Response<pb::SubmitReply>, Status> {
        let caller = Caller::of(request.extensions())?;
        let command = osmoda_proto::decode_command(&request.get_ref().command)
            .map_err(|error| refuse(error.code(), error.to_string()))?;
        may_submit(caller.node, caller.role, &command.body)
            .map_err(|code| refuse(code, format!("a {} may not submit this command", caller.role)))?;
        self.propose(&command).await.map(Response::new)
    }

    async fn report(&self, request: Request<pb::ReportRequest>) -> Result<Response<pb::ReportReply>, Status> {
        let caller = Caller::of(request.extensions())?;
        let report = request.into_inner();
        let node = speaks_for_itself(caller, &report.node)?;
        let status = self.inner.voter.status();
        if !status.as_ref().is_some_and(RaftStatus::leads) {
            let leader = status.and_then(|status| status.leader).map(|leader| leader.node_id);
            return Ok(Response::new(pb::ReportReply { index: 0, not_leader: Some(not_leader(leader)) }));
        }
        let bodies = self.inner.reports.take(node, report).map_err(|error| status_of(&error))?;
        let elsewhere = self.record(bodies).await?;
        let index = self.inner.voter.view().next_index.saturating_sub(1);
        Ok(Response::new(pb::ReportReply { index, not_leader: elsewhere }))
    }

    type WatchStream = WatchStream;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<WatchStream>, Status> {
        let caller = Caller::of(request.extensions())?;
        let place = self.inner.watchers.take(caller.node);
        let place = place.ok_or_else(|| refuse(ErrorCode::Busy, "too many followers of the log"))?;
        let voter = self.inner.voter.clone();
        let log = voter.committed_from(request.get_ref().from_index).into_stream();
        let steps = log.map(move |step| {
            // The place is taken as long as the stream lives.
            let _held = &place;
            step.map(item_of).map_err(|error| refuse(ErrorCode::RaftUnavailable, error.to_string()))
        });
        let heads = Heads::new(voter).into_stream().map(Ok);
        Ok(Response::new(Box::pin(until_first_ends(steps, heads))))
    }

    async fn lease(&self, request: Request<pb::LeaseRequest>) -> Result<Response<pb::LeaseReply>, Status> {
        let caller = Caller::of(request.extensions())?;
        speaks_for_itself(caller, &request.get_ref().node)?;
        let seq = request.get_ref().seq;
        match self.inner.voter.linearizable().await {
            Ok(index) => {
                let (leader, term) = self.inner.voter.leader();
                let epoch = self.inner.voter.view().state.epoch().0;
                let leader = leader.map(|node| node.as_bytes().to_vec()).unwrap_or_default();
                Ok(Response::new(pb::LeaseReply { seq, leader, term, index, epoch, not_leader: None }))
            }
            Err(ReadError::NotLeader { leader }) => {
                let other = not_leader(leader.map(|leader| leader.node_id));
                Ok(Response::new(pb::LeaseReply { seq, not_leader: Some(other), ..pb::LeaseReply::default() }))
            }
            Err(error) => Err(refuse(error.code(), error.to_string())),
        }
    }

    async fn put_manifest(
        &self,
        request: Request<pb::PutManifestRequest>,
    ) -> Result<Response<pb::PutManifestReply>, Status> {
        let caller = Caller::of(request.extensions())?;
        if !matches!(caller.role, Role::Controller | Role::Voter) {
            return Err(refuse(ErrorCode::ServiceDenied, "only controllers and voters store manifests"));
        }
        let request = request.into_inner();
        let hash = hash_of(&request.hash)?;
        self.inner
            .voter
            .store_manifest(&self.inner.sources.manifests, request.manifest, hash)
            .await
            .map_err(|e| status_of(&e))?;
        Ok(Response::new(pb::PutManifestReply {}))
    }

    async fn get_manifest(
        &self,
        request: Request<pb::GetManifestRequest>,
    ) -> Result<Response<pb::GetManifestReply>, Status> {
        Caller::of(request.extensions())?;
        let hash = hash_of(&request.get_ref().hash)?;
        if request.get_ref().as_blob {
            let blob = self.inner.sources.as_blob(hash).await.map_err(|error| status_of(&error))?;
            return Ok(Response::new(pb::GetManifestReply { blob: blob.to_vec(), ..pb::GetManifestReply::default() }));
        }
        match self.inner.sources.manifests.get(hash) {
            Ok(Some(manifest)) => {
                Ok(Response::new(pb::GetManifestReply { manifest, ..pb::GetManifestReply::default() }))
            }
            Ok(None) => Err(refuse(ErrorCode::ManifestUnknown, format!("no manifest {hash} here"))),
            Err(error) => Err(status_of(&ApiError::new(error.code(), error.to_string()).with_source(error))),
        }
    }

    async fn mint_invite(
        &self,
        request: Request<pb::MintInviteRequest>,
    ) -> Result<Response<pb::MintInviteReply>, Status> {
        let caller = Caller::of(request.extensions())?;
        if caller.role != Role::Controller {
            return Err(refuse(ErrorCode::ServiceDenied, "only a controller asks for invites over the mesh"));
        }
        let request = request.into_inner();
        let minted = self.inner.invites.mint(request.role(), request.ttl_ms).await.map_err(|e| status_of(&e))?;
        Ok(Response::new(pb::MintInviteReply {
            invite: minted.text,
            id: minted.id.as_bytes().to_vec(),
            expires_ms: minted.expires_ms,
        }))
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusReply>, Status> {
        Caller::of(request.extensions())?;
        let (leader, term) = self.inner.voter.leader();
        let view = self.inner.voter.view();
        Ok(Response::new(pb::StatusReply {
            node: self.inner.voter.node().as_bytes().to_vec(),
            leader: leader.map(|node| node.as_bytes().to_vec()).unwrap_or_default(),
            term,
            applied_index: view.next_index.saturating_sub(1),
            epoch: view.state.epoch().0,
            state_hash: view.state.hash().to_vec(),
        }))
    }
}

fn item_of(step: Committed) -> pb::WatchItem {
    let item = match step {
        Committed::Snapshot { next_index, state } => pb::watch_item::Item::Snapshot(pb::WatchSnapshot {
            index: next_index.saturating_sub(1),
            state: state.into(),
        }),
        Committed::Entry { index, proposer, items } => pb::watch_item::Item::Entry(pb::WatchEntry {
            index,
            proposer: proposer.map_or(0, |id| id.0),
            commands: items.into_iter().map(|item| item.command.into()).collect(),
        }),
    };
    pb::WatchItem { item: Some(item) }
}

/// Both streams together, ending when the first one does.
fn until_first_ends<T: Send + Sync>(
    first: impl Stream<Item = T> + Send,
    second: impl Stream<Item = T> + Send,
) -> impl Stream<Item = T> + Send {
    let first = first.map(Some).chain(futures_util::stream::once(async { None }));
    let second = second.map(Some);
    futures_util::stream::select(first, second)
        .take_while(|item| std::future::ready(item.is_some()))
        .filter_map(std::future::ready)
}
