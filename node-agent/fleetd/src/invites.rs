//! Making invites and spending them, on the voter that issues them.
//!
//! The secret lives in this node's mesh; the log holds the name, the role and
//! the end. An invite is announced in the log first and opened in the mesh
//! second, so that no joiner can prove a secret the fleet knows nothing of.
//! Only a voter that the log knows issues invites: one that has just started
//! waits until its registration is applied here.

use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::ApiError;
use osmoda_kit::secret::Secret;
use osmoda_node_api::mesh::{
    Enrolment, INVITE_LIFE_MS_MAX, Members, MeshClient, OpenInvite, Operator, SecretBytes, SpendRequest,
};
use osmoda_proto::fleet::v1 as pb;
use osmoda_rollout::{FleetState, InviteEntry, InviteState};
use osmoda_types::command::{Body, Command, SpendInvite};
use osmoda_types::{ErrorCode, Invite, InviteId, Member, NodeId, Right, Role};

use crate::leader_client::LeaderClient;
use crate::replica::Replica;
use crate::reports::fresh_request;
use crate::voters::Voters;

/// An invite lives for an hour unless asked otherwise: long enough to set up a
/// host, short enough to be useless in an old shell history.
const TTL: Duration = Duration::from_secs(3600);

/// How long the entry that spends an invite may take to arrive here.
const APPLY_TIME: Duration = Duration::from_secs(5);

/// How long a voter that has just started may take to be in the log: the
/// registrar tries twice a second, and the leader may have to be elected first.
const REGISTERED_TIME: Duration = Duration::from_secs(5);

/// A new invite.
pub(crate) struct Minted {
    /// Its public name.
    pub(crate) id: InviteId,
    /// The text to hand over; a secret.
    pub(crate) text: String,
    /// When it ends, in milliseconds since 1970.
    pub(crate) expires_ms: i64,
}

/// The issuer; clones are the same.
#[derive(Clone)]
pub(crate) struct Invites {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    mesh: MeshClient,
    client: LeaderClient,
    voters: Voters,
    replica: Replica,
    clock: SharedClock,
}

impl Invites {
    /// The issuer on this node.
    pub(crate) fn new(
        node: NodeId,
        mesh: MeshClient,
        client: LeaderClient,
        voters: Voters,
        replica: Replica,
        clock: SharedClock,
    ) -> Self {
        Self { inner: Arc::new(Inner { node, mesh, client, voters, replica, clock }) }
    }

    /// Makes an invite for a role. `ttl_ms` zero means an hour.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] for a role nobody can be invited to or too long
    /// a life; [`ErrorCode::RaftUnavailable`] when this voter is not in the log
    /// in time; whatever the log or the mesh answers.
    pub(crate) async fn mint(&self, role: pb::Role, ttl_ms: u64) -> Result<Minted, ApiError> {
        let bad = |text: &str| ApiError::new(ErrorCode::BadRequest, text);
        let role = Role::try_from(role).map_err(|error| bad(&error.to_string()))?;
        if role == Role::RoomGuest {
            return Err(bad("a room guest is invited to a room, not to the fleet"));
        }
        let ttl = if ttl_ms == 0 { TTL } else { Duration::from_millis(ttl_ms) };
        if ttl.as_millis() > u128::from(INVITE_LIFE_MS_MAX.unsigned_abs()) {
            return Err(bad("an invite lives for a day at most"));
        }
        let inner = &self.inner;
        registered(&inner.replica, inner.node).await?;
        let id = InviteId::from_bytes(*uuid::Uuid::new_v4().as_bytes());
        let expires_ms = inner.clock.now_wall().plus(ttl).as_millis();
        let record = Invite { id, role, expires_ms, issuer: inner.node };
        self.submit(Body::OpenInvite(record)).await?;
        let secret = SecretBytes::new(*Secret::random().expose());
        match inner.mesh.open_invite(&OpenInvite { id, secret, expires_ms }).await {
            Ok(opened) => Ok(Minted { id, text: opened.invite, expires_ms }),
            Err(error) => {
                self.withdraw(id).await;
                Err(error)
            }
        }
    }

    /// Ends an invite whose text nobody has. Left open it would take one of the
    /// log's places until its end.
    async fn withdraw(&self, id: InviteId) {
        if let Err(error) = self.submit(Body::ExpireInvite(id)).await {
            tracing::warn!(invite = %id, code = %error.code, %error, "an invite that was not handed out stays open");
        }
    }

    /// Spends an invite for a joiner that has proven its secret and its keys.
    ///
    /// # Errors
    /// `invite_unknown`, `invite_spent`, `invite_expired` from the log; a
    /// retryable code when it is not known whether it is spent. Asking again
    /// with the same keys gives the same answer.
    pub(crate) async fn spend(&self, joiner: SpendRequest) -> Result<Enrolment, ApiError> {
        let inner = &self.inner;
        let view = inner.replica.view();
        let network = view.state.network().ok_or_else(|| unavailable("the fleet state is not here yet"))?;
        let entry = view.state.invite(&joiner.invite);
        let entry = entry.ok_or_else(|| ApiError::new(ErrorCode::InviteUnknown, "no such invite is in the log"))?;
        let (role, at_ms) = (entry.invite.role, inner.clock.now_wall().as_millis());
        check_open(&view.state, entry, &joiner, at_ms)?;
        let member = Member {
            node: joiner.node,
            name: joiner.request.name.clone(),
            role,
            mesh_key: joiner.mesh_key,
            identity_key: joiner.request.identity_key,
            addresses: joiner.request.addresses.iter().map(ToString::to_string).collect(),
        };
        let spend = SpendInvite { network, invite: joiner.invite, member, at_ms };
        let reply = self.submit(Body::SpendInvite(spend)).await?;
        let view = inner.replica.reached(reply.index, APPLY_TIME).await?;
        let spent = view.state.invite(&joiner.invite).map(|entry| entry.state);
        match spent {
            Some(InviteState::Spent { node, .. }) if node == joiner.node => {}
            _ => return Err(ApiError::new(ErrorCode::InviteSpent, "the invite was used by another key")),
        }
        check_member(&view.state, &joiner)?;
        Ok(Enrolment {
            role,
            members: members_of(&view.state),
            operators: operators_of(&view.state),
            rejoin_secret: SecretBytes::new(*Secret::random().expose()),
        })
    }

    async fn submit(&self, body: Body) -> Result<pb::Reply, ApiError> {
        let command = Command { request: fresh_request(), body };
        let inner = &self.inner;
        let bytes = osmoda_proto::encode_command(&command);
        let reply = inner.client.submit(&inner.voters.list(), bytes).await?;
        match reply.refused.as_str() {
            "" => Ok(reply),
            code => {
                let code = code.parse().unwrap_or(ErrorCode::Internal);
                Err(ApiError::new(code, format!("the fleet refused: {code}")))
            }
        }
    }
}

/// Refuses what the log would refuse, as far as it is applied here: an invite that
/// has ended never opens again, so its holder must not cost the voters an entry
/// each time. Whoever it was spent for goes on to the log.
fn check_open(state: &FleetState, entry: &InviteEntry, joiner: &SpendRequest, at_ms: i64) -> Result<(), ApiError> {
    let refused = |code: ErrorCode| Err(ApiError::new(code, format!("the fleet refused: {code}")));
    match entry.state {
        InviteState::Spent { joiner: key, node } if key == joiner.mesh_key && node == joiner.node => {
            check_member(state, joiner)
        }
        InviteState::Spent { .. } => refused(ErrorCode::InviteSpent),
        InviteState::Expired => refused(ErrorCode::InviteExpired),
        InviteState::Open if at_ms > entry.invite.expires_ms => refused(ErrorCode::InviteExpired),
        InviteState::Open => Ok(()),
    }
}

/// Revoked, or with other keys by now: the answer carries the newest secret.
fn check_member(state: &FleetState, joiner: &SpendRequest) -> Result<(), ApiError> {
    let is_member = state.member(&joiner.node).is_some_and(|entry| entry.member.mesh_key == joiner.mesh_key);
    let gone = || ApiError::new(ErrorCode::NodeRevoked, "these keys are no member's any more");
    is_member.then_some(()).ok_or_else(gone)
}

/// Waits until the log, as far as it is applied here, has the node as a voter.
/// Its registration is an entry of its own, some time after the first start.
async fn registered(replica: &Replica, node: NodeId) -> Result<(), ApiError> {
    let mut views = replica.subscribe();
    let known = views.wait_for(|view| view.state.voters().any(|(voter, _)| *voter == node));
    match tokio::time::timeout(REGISTERED_TIME, known).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(unavailable("the fleet does not know this voter yet")),
    }
}

fn unavailable(text: &str) -> ApiError {
    ApiError::new(ErrorCode::RaftUnavailable, text)
}

/// The allow-list that the log says.
pub(crate) fn members_of(state: &FleetState) -> Members {
    let members = state.members().map(|entry| &entry.member);
    let (members, left_out) = Members::of_log(state.members_index(), state.mesh_epoch().0, members);
    for (node, error) in left_out {
        tracing::warn!(%node, %error, "member cannot be used by the mesh");
    }
    members
}

fn operators_of(state: &FleetState) -> Vec<Operator> {
    let right = |right: &Right| match right {
        Right::Deploy => "deploy",
        Right::Control => "control",
        Right::Admin => "admin",
        Right::Approve => "approve",
    };
    let principals = state.principals().map(|entry| &entry.principal);
    principals
        .map(|principal| Operator {
            name: principal.name.clone(),
            key: principal.key,
            rights: principal.rights.iter().map(|of| right(of).to_owned()).collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests;
