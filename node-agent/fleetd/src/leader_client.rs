//! Calls that only the leader can answer, from wherever this node is.
//!
//! The caller does not know the leader; it has a hint, and every voter either
//! is the leader, names it, or is away. One call tries the hint, follows at
//! most [`REDIRECTS_MAX`] redirections and then the other voters, within one
//! deadline. It does not repeat a request whose outcome is unknown: commands
//! carry a request id and the reconciler that made them comes back.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use osmoda_kit::error::ApiError;
use osmoda_node_api::mesh::Service;
use osmoda_proto::fleet::v1::{self as pb, fleet_client::FleetClient};
use osmoda_types::{ErrorCode, NodeId};
use tonic::transport::Channel;

use crate::peers::Peers;
use crate::wire::{ANSWER_BYTES_MAX, error_of};

/// One call in all: an election of the LAN profile (2.1 s) and two round trips.
const CALL_TIME: Duration = Duration::from_secs(5);

/// Redirections followed: leader → its successor → the successor's. More in a
/// row means that there is no leader right now.
const REDIRECTS_MAX: usize = 3;

/// Finds and calls the leader. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LeaderClient {
    peers: Peers,
    hint: Arc<Mutex<Option<NodeId>>>,
}

/// What one voter answered.
pub(crate) enum Answer<T> {
    /// It is the leader, and this is the answer.
    Done(T),
    /// It is not; perhaps this one is.
    NotLeader(Option<NodeId>),
}

impl LeaderClient {
    /// Calls over those channels.
    pub(crate) fn new(peers: Peers) -> Self {
        Self { peers, hint: Arc::default() }
    }

    /// Remembers who leads, from wherever it was learned.
    pub(crate) fn learn(&self, leader: Option<NodeId>) {
        *self.hint.lock().unwrap_or_else(PoisonError::into_inner) = leader;
    }

    fn hint(&self) -> Option<NodeId> {
        *self.hint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client of one voter, with message limits.
    pub(crate) fn voter(&self, node: NodeId) -> FleetClient<Channel> {
        FleetClient::new(self.peers.channel(node, Service::Fleet))
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .max_encoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Asks voters in turn until one that leads has answered.
    ///
    /// # Errors
    /// The leader's own refusal; [`ErrorCode::OutcomeUnknown`] when the time is
    /// over; [`ErrorCode::RaftUnavailable`] when no voter leads.
    pub(crate) async fn ask<T, F, Fut>(&self, voters: &[NodeId], call: F) -> Result<T, ApiError>
    where
        F: Fn(FleetClient<Channel>) -> Fut,
        Fut: Future<Output = Result<Answer<T>, tonic::Status>>,
    {
        let attempt = self.ask_in_turn(voters, call);
        tokio::time::timeout(CALL_TIME, attempt)
            .await
            .unwrap_or_else(|_| Err(ApiError::new(ErrorCode::OutcomeUnknown, "no answer from the leader in time")))
    }

    async fn ask_in_turn<T, F, Fut>(&self, voters: &[NodeId], call: F) -> Result<T, ApiError>
    where
        F: Fn(FleetClient<Channel>) -> Fut,
        Fut: Future<Output = Result<Answer<T>, tonic::Status>>,
    {
        let mut last = ApiError::new(ErrorCode::RaftUnavailable, "no voter leads");
        let mut tried = Vec::new();
        let mut redirects = 0;
        let mut next = self.hint().filter(|hint| voters.contains(hint)).or_else(|| voters.first().copied());
        while let Some(node) = next {
            tried.push(node);
            let suggestion = match call(self.voter(node)).await {
                Ok(Answer::Done(answer)) => {
                    self.learn(Some(node));
                    return Ok(answer);
                }
                Ok(Answer::NotLeader(leader)) => leader,
                Err(status) => {
                    let error = error_of(&status);
                    if !matches!(error.code, ErrorCode::RaftUnavailable | ErrorCode::PeerOffline) {
                        return Err(error);
                    }
                    last = error;
                    None
                }
            };
            let followed = suggestion.filter(|leader| *leader != node && redirects < REDIRECTS_MAX);
            redirects += usize::from(followed.is_some());
            next = followed.or_else(|| voters.iter().copied().find(|voter| !tried.contains(voter)));
        }
        self.learn(None);
        Err(last)
    }

    /// Submits an encoded command.
    ///
    /// # Errors
    /// As [`LeaderClient::ask`].
    pub(crate) async fn submit(&self, voters: &[NodeId], command: Vec<u8>) -> Result<pb::Reply, ApiError> {
        self.ask(voters, |mut client| {
            let request = pb::SubmitRequest { command: command.clone() };
            async move {
                let reply = client.submit(request).await?.into_inner();
                Ok(match reply.result {
                    Some(pb::submit_reply::Result::Reply(reply)) => Answer::Done(reply),
                    Some(pb::submit_reply::Result::NotLeader(other)) => Answer::NotLeader(leader_of(&other)),
                    None => Answer::NotLeader(None),
                })
            }
        })
        .await
    }

    /// Tells the leader how this node is doing.
    ///
    /// # Errors
    /// As [`LeaderClient::ask`].
    pub(crate) async fn report(&self, voters: &[NodeId], report: pb::ReportRequest) -> Result<(), ApiError> {
        self.ask(voters, |mut client| {
            let request = report.clone();
            async move {
                let reply = client.report(request).await?.into_inner();
                Ok(match reply.not_leader {
                    Some(other) => Answer::NotLeader(leader_of(&other)),
                    None => Answer::Done(()),
                })
            }
        })
        .await
    }

    /// A round trip with a leader that has just proved its quorum.
    ///
    /// # Errors
    /// As [`LeaderClient::ask`].
    pub(crate) async fn lease(&self, voters: &[NodeId], ask: pb::LeaseRequest) -> Result<pb::LeaseReply, ApiError> {
        self.ask(voters, |mut client| {
            let request = ask.clone();
            async move {
                let reply = client.lease(request).await?.into_inner();
                Ok(match &reply.not_leader {
                    Some(other) => Answer::NotLeader(leader_of(other)),
                    None => Answer::Done(reply),
                })
            }
        })
        .await
    }
}

fn leader_of(other: &pb::NotLeader) -> Option<NodeId> {
    NodeId::try_from(other.leader.as_slice()).ok()
}
