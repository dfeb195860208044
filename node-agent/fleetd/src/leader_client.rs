//! Calls that only the leader can answer, from wherever this node is.
//!
//! The caller does not know the leader; it has a hint, and every voter either
//! is the leader, names it, or is away. One call tries the hint, follows at
//! most [`REDIRECTS_MAX`] redirections and then the other voters, within one
//! deadline. When it learns of another leader while it waits for an answer, it
//! goes there with the same request: a command is known by its request id, and
//! the other calls can be made twice. Otherwise a request whose outcome is
//! unknown is not repeated here; the reconciler that made it comes back.

use std::future::Future;
use std::time::Duration;

use osmoda_kit::error::ApiError;
use osmoda_node_api::mesh::Service;
use osmoda_proto::fleet::v1::{self as pb, fleet_client::FleetClient};
use osmoda_types::{ErrorCode, NodeId};
use tokio::sync::watch;
use tonic::Code;
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
    hint: watch::Sender<Option<NodeId>>,
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
        Self { peers, hint: watch::Sender::new(None) }
    }

    /// Remembers who leads, from wherever it was learned.
    pub(crate) fn learn(&self, leader: Option<NodeId>) {
        self.hint.send_if_modified(|hint| std::mem::replace(hint, leader) != leader);
    }

    fn hint(&self) -> Option<NodeId> {
        *self.hint.borrow()
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
            let mut hint = self.hint.subscribe();
            let is_elsewhere = |hint: &Option<NodeId>| hint.is_some_and(|hint| hint != node && voters.contains(&hint));
            let answered = tokio::select! {
                biased;
                // Given up only for a leader that is asked the same again.
                answered = call(self.voter(node)) => Some(answered),
                // Cancel-safe: a watch keeps its newest value. `self` has the sender.
                Ok(_) = wait_for_news(&mut hint, is_elsewhere) => None,
            };
            let suggestion = match answered {
                None => self.hint(),
                Some(Ok(Answer::Done(answer))) => {
                    self.learn(Some(node));
                    return Ok(answer);
                }
                Some(Ok(Answer::NotLeader(leader))) => leader,
                Some(Err(status)) => {
                    let error = error_of(&status);
                    // A connection that ended under a request: another voter may be asked the
                    // same, for what changes the log carries a request id.
                    let cut = status.code() == Code::Cancelled;
                    if !cut && !matches!(error.code, ErrorCode::RaftUnavailable | ErrorCode::PeerOffline) {
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

/// Waits for the next hint that is so; what is known already is no news.
async fn wait_for_news(
    hint: &mut watch::Receiver<Option<NodeId>>,
    is_so: impl Fn(&Option<NodeId>) -> bool,
) -> Result<(), watch::error::RecvError> {
    loop {
        hint.changed().await?;
        if is_so(&hint.borrow_and_update()) {
            return Ok(());
        }
    }
}

fn leader_of(other: &pb::NotLeader) -> Option<NodeId> {
    NodeId::try_from(other.leader.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use super::*;
    use crate::peers::{Dial, Dialled};

    /// Nothing is dialled: these calls never use their client.
    struct Nobody;

    impl Dial for Nobody {
        fn dial(&self, _node: NodeId, _service: Service) -> Dialled {
            Box::pin(std::future::ready(Err(std::io::ErrorKind::NotConnected.into())))
        }
    }

    const VOTERS: [NodeId; 3] = [NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]), NodeId::from_bytes([3; 32])];

    #[tokio::test]
    async fn a_call_to_a_dead_leader_goes_to_the_new_one_when_it_is_known() {
        let client = LeaderClient::new(Peers::new(Arc::new(Nobody)));
        client.learn(Some(VOTERS[0]));
        let calls = Cell::new(0);
        let asked = client.ask(&VOTERS, |_| {
            calls.set(calls.get() + 1);
            let is_first = calls.get() == 1;
            if is_first {
                // What is no other voter is no news.
                client.learn(None);
                client.learn(Some(NodeId::from_bytes([9; 32])));
                client.learn(Some(VOTERS[1]));
            }
            async move {
                if is_first {
                    std::future::pending::<()>().await;
                }
                Ok(Answer::Done(7))
            }
        });
        assert_eq!(asked.await.unwrap(), 7);
        assert_eq!((calls.get(), client.hint()), (2, Some(VOTERS[1])));
    }

    #[tokio::test]
    async fn redirections_are_followed_and_bounded() {
        let client = LeaderClient::new(Peers::new(Arc::new(Nobody)));
        let calls = Cell::new(0);
        let asked = client.ask(&VOTERS, |_| {
            calls.set(calls.get() + 1);
            let other = VOTERS[calls.get() % 2];
            async move { Ok(Answer::<()>::NotLeader(Some(other))) }
        });
        let error = asked.await.unwrap_err();
        assert_eq!(error.code, ErrorCode::RaftUnavailable);
        assert!(calls.get() <= VOTERS.len() + REDIRECTS_MAX, "{}", calls.get());
        assert_eq!(client.hint(), None);
    }
}
