//! The way to the voters: which there are, a channel to each, and calls that
//! only the leader can answer.
//!
//! Handlers do not retry: one call tries the hint, follows redirections, then
//! asks the other voters, all within one deadline. A command whose outcome is
//! unknown is not sent again by us; its request id makes a repeat by the
//! operator harmless.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use osmoda_kit::error::ApiError;
use osmoda_proto::fleet::v1::fleet_client::FleetClient;
use osmoda_proto::fleet::v1::{self as pb, submit_reply};
use osmoda_rollout::Reply;
use osmoda_types::{ErrorCode, ManifestHash, NodeId};
use tonic::transport::Channel;

/// One call in all: an election of the WAN profile (3 s), a commit, and room
/// for one voter that is silently gone. Below the CLI's own limit of 30 s.
const CALL_TIME: Duration = Duration::from_secs(10);

/// One voter: what a commit takes at most under load; then the next is asked.
const VOTER_TIME: Duration = Duration::from_secs(5);

/// Redirections followed; more in a row means that there is no leader now.
const REDIRECTS_MAX: usize = 3;

/// The largest message: a manifest (1 MiB) or a snapshot chunk with its frame.
/// A fleet of 10,000 nodes has a state of about 3 MB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Which voters there are, and a channel to each.
pub trait Voters: Send + Sync + 'static {
    /// The voters, those with a link first.
    fn nodes(&self) -> Vec<NodeId>;

    /// A channel to one voter's fleet service; it dials when it is used.
    fn channel(&self, node: NodeId) -> Channel;
}

/// Calls to the voters. Cheap to clone.
#[derive(Clone)]
pub struct Fleet {
    voters: Arc<dyn Voters>,
    hint: Arc<Mutex<Option<NodeId>>>,
}

impl Fleet {
    /// Calls over those channels.
    #[must_use]
    pub fn new(voters: Arc<dyn Voters>) -> Self {
        Self { voters, hint: Arc::default() }
    }

    /// The voters, those with a link first.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.voters.nodes()
    }

    /// A client of one voter.
    pub(crate) fn client(&self, node: NodeId) -> FleetClient<Channel> {
        FleetClient::new(self.voters.channel(node))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Remembers who leads.
    pub(crate) fn learn(&self, leader: Option<NodeId>) {
        *self.hint.lock().unwrap_or_else(PoisonError::into_inner) = leader;
    }

    /// The voters in the order to ask them: the leader, as far as known, first.
    fn order(&self) -> Vec<NodeId> {
        let mut nodes = self.nodes();
        let hint = *self.hint.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = nodes.iter().position(|node| Some(*node) == hint) {
            nodes[..=place].rotate_right(1);
        }
        nodes
    }

    /// Writes one command to the log.
    ///
    /// # Errors
    /// The code the log refused it with; [`ErrorCode::RaftUnavailable`] when no
    /// voter leads; [`ErrorCode::OutcomeUnknown`] when no answer came.
    pub(crate) async fn submit(&self, command: Vec<u8>) -> Result<Reply, ApiError> {
        let reply = self.write(command).await?;
        reply.result().map_err(|code| ApiError::new(code, format!("the fleet refused it: {}", words(code))))?;
        Ok(reply)
    }

    /// As [`Fleet::submit`]; the log's refusal is an answer too.
    ///
    /// # Errors
    /// Those that leave open what the log says.
    pub(crate) async fn write(&self, command: Vec<u8>) -> Result<Reply, ApiError> {
        let reply = tokio::time::timeout(CALL_TIME, self.submit_in_turn(command))
            .await
            .unwrap_or_else(|_| Err(ApiError::new(ErrorCode::OutcomeUnknown, "no answer from the leader in time")))?;
        Reply::try_from(reply).map_err(|code| ApiError::new(code, "the voter's answer is of another version"))
    }

    async fn submit_in_turn(&self, command: Vec<u8>) -> Result<pb::Reply, ApiError> {
        let order = self.order();
        let mut tried = Vec::new();
        let mut redirects = 0;
        let mut last = ApiError::new(ErrorCode::RaftUnavailable, "no voter of the fleet leads or answers");
        let mut next = order.first().copied();
        while let Some(node) = next {
            tried.push(node);
            let mut request = tonic::Request::new(pb::SubmitRequest { command: command.clone() });
            request.set_timeout(VOTER_TIME);
            let suggestion = match self.client(node).submit(request).await {
                Ok(reply) => match reply.into_inner().result {
                    Some(submit_reply::Result::Reply(reply)) => {
                        self.learn(Some(node));
                        return Ok(reply);
                    }
                    Some(submit_reply::Result::NotLeader(other)) => NodeId::try_from(other.leader.as_slice()).ok(),
                    None => None,
                },
                Err(status) => {
                    let error = crate::wire::error_of(&status);
                    let silent = error.code == ErrorCode::OutcomeUnknown;
                    if !silent && !is_about_this_voter(error.code) {
                        return Err(error);
                    }
                    // It may have been the silent one that wrote it; only a
                    // clear answer of another voter says more.
                    if last.code != ErrorCode::OutcomeUnknown {
                        last = error;
                    }
                    None
                }
            };
            let follow = suggestion.filter(|leader| *leader != node && redirects < REDIRECTS_MAX);
            redirects += usize::from(follow.is_some());
            next = follow.or_else(|| order.iter().copied().find(|node| !tried.contains(node)));
        }
        self.learn(None);
        Err(match last.code {
            ErrorCode::PeerOffline => ApiError::new(ErrorCode::RaftUnavailable, "no voter of the fleet answers"),
            _ => last,
        })
    }

    /// Stores a manifest on every voter that answers; one is enough, because
    /// voters fetch it from each other by its hash.
    ///
    /// # Errors
    /// [`ErrorCode::RaftUnavailable`] when none took it, or the first refusal.
    pub(crate) async fn put_manifest(&self, hash: ManifestHash, bytes: &[u8]) -> Result<(), ApiError> {
        let puts = self.nodes().into_iter().map(|node| {
            let message = pb::PutManifestRequest { hash: hash.as_bytes().to_vec(), manifest: bytes.to_vec() };
            let mut request = tonic::Request::new(message);
            request.set_timeout(VOTER_TIME);
            let mut client = self.client(node);
            async move {
                let put = tokio::time::timeout(VOTER_TIME, client.put_manifest(request)).await;
                put.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer in time")))
            }
        });
        let done = futures_util::future::join_all(puts).await;
        if done.iter().any(Result::is_ok) {
            return Ok(());
        }
        let error = done.into_iter().find_map(Result::err).map(|status| crate::wire::error_of(&status));
        Err(error
            .filter(|error| !matches!(error.code, ErrorCode::PeerOffline | ErrorCode::OutcomeUnknown))
            .unwrap_or_else(|| ApiError::new(ErrorCode::RaftUnavailable, "no voter took the manifest")))
    }

    /// Asks a voter for an invite; the issuer keeps the secret, so a silent
    /// voter is not followed by the next one once it may have made one.
    ///
    /// # Errors
    /// [`ErrorCode::RaftUnavailable`], [`ErrorCode::OutcomeUnknown`], or the voter's refusal.
    pub(crate) async fn mint_invite(&self, ask: pb::MintInviteRequest) -> Result<pb::MintInviteReply, ApiError> {
        let mut last = ApiError::new(ErrorCode::RaftUnavailable, "no voter of the fleet answers");
        for node in self.order() {
            let mut request = tonic::Request::new(ask);
            request.set_timeout(CALL_TIME);
            match tokio::time::timeout(CALL_TIME, self.client(node).mint_invite(request)).await {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) => last = crate::wire::error_of(&status),
                Err(_) => return Err(ApiError::new(ErrorCode::OutcomeUnknown, "no answer from the voter in time")),
            }
            if !is_about_this_voter(last.code) {
                return Err(last);
            }
        }
        Err(last)
    }
}

/// Whether another voter may answer better.
fn is_about_this_voter(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::RaftUnavailable | ErrorCode::PeerOffline | ErrorCode::NotLeader | ErrorCode::ShuttingDown)
}

fn words(code: ErrorCode) -> String {
    code.as_str().replace('_', " ")
}
