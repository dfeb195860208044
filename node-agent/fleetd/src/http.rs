//! `fleetd.sock`: what other daemons and the local administrator ask.
//!
//! Reference paths keep their shapes. Where the earlier product believed the
//! caller, this one wants a signature: a proposal and a rollback are an
//! operator's, a vote is the voter's own.

mod reference;

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json as Answer, Router};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::Json;
use osmoda_kit::version::VERSION;
use osmoda_node_api::fleet::Registered;
use osmoda_node_api::mesh::{Enrolment, RotateAnswer, RotateRequest, SpendRequest};
use osmoda_node_api::witness::Roster;
use osmoda_proto::fleet::v1 as pb;
use osmoda_types::command::{Body, Command};
use osmoda_types::{ErrorCode, NodeId, Purpose, RaftId, Role, Subkey};
use serde::{Deserialize, Serialize};

use crate::ballots::Elector;
use crate::invites::Invites;
use crate::leader_client::LeaderClient;
use crate::ledgers;
use crate::registrar;
use crate::replica::Replica;
use crate::reports::fresh_request;
use crate::voter::Voter;
use crate::voters::Voters;

/// What the endpoints share.
pub(crate) struct Api {
    /// This node.
    pub(crate) node: NodeId,
    /// What the log says.
    pub(crate) replica: Replica,
    /// To the leader.
    pub(crate) client: LeaderClient,
    /// Who votes.
    pub(crate) voters: Voters,
    /// On a voter: its Raft, its invites, its ballots.
    pub(crate) voting: Option<Voting>,
}

/// What only a voter has.
pub(crate) struct Voting {
    /// Its Raft.
    pub(crate) voter: Voter,
    /// Its invites.
    pub(crate) invites: Invites,
    /// Its ballots.
    pub(crate) elector: Arc<Elector>,
}

type Shared = State<Arc<Api>>;

/// The router.
pub(crate) fn router(api: Api) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/status", get(status))
        .route("/mesh/spend", post(spend))
        .route("/mesh/rotate", post(rotate))
        .route("/subkey/register", post(register_subkey))
        .route("/ledger/roster", get(roster))
        .route("/fleet/invite", post(invite))
        .route("/fleet/propose", post(reference::propose))
        .route("/fleet/status/{id}", get(reference::status))
        .route("/fleet/vote/{id}", post(reference::vote))
        .route("/fleet/rollback/{id}", post(reference::rollback))
        .with_state(Arc::new(api))
}

/// The answer of `GET /health`.
#[derive(Debug, Serialize)]
struct Health {
    status: &'static str,
    role: &'static str,
    version: &'static str,
    commit: &'static str,
    dirty: bool,
}

async fn health(State(api): Shared) -> Answer<Health> {
    let fault = api.voting.as_ref().and_then(|voting| voting.voter.raft().fault());
    Answer(Health {
        status: fault.map_or("ok", |fault| fault.code().as_str()),
        role: if api.voting.is_some() { "voter" } else { "node" },
        version: VERSION.version,
        commit: VERSION.commit,
        dirty: VERSION.dirty,
    })
}

/// The answer of `GET /status`.
#[derive(Debug, Serialize)]
struct FleetStatus {
    node: NodeId,
    leader: Option<NodeId>,
    term: u64,
    applied_index: u64,
    epoch: u64,
    members: usize,
    voters: Vec<NodeId>,
    raft_voters: Vec<RaftId>,
    active: Vec<osmoda_types::RolloutId>,
    state_hash: String,
}

async fn status(State(api): Shared) -> Answer<FleetStatus> {
    let view = api.replica.view();
    let raft = api.voting.as_ref().and_then(|voting| voting.voter.status());
    let (leader, term) = match &api.voting {
        Some(voting) => voting.voter.leader(),
        None => (view.leader, 0),
    };
    let raft_voters = raft.map(|raft| raft.members.voters.iter().map(|member| member.raft_id).collect());
    Answer(FleetStatus {
        node: api.node,
        leader,
        term,
        applied_index: view.next_index.saturating_sub(1),
        epoch: view.state.epoch().0,
        members: view.state.members().count(),
        voters: view.state.voters().map(|(node, _)| *node).collect(),
        raft_voters: raft_voters.unwrap_or_default(),
        active: view.state.active().map(|rollout| rollout.id).collect(),
        state_hash: data_encoding::HEXLOWER.encode(&view.state.hash()),
    })
}

fn voting(api: &Api) -> Result<&Voting, ApiError> {
    api.voting.as_ref().ok_or_else(|| ApiError::new(ErrorCode::Unsupported, "this node has no vote; ask a voter"))
}

async fn spend(State(api): Shared, Json(joiner): Json<SpendRequest>) -> Result<Answer<Enrolment>, ApiError> {
    voting(&api)?.invites.spend(joiner).await.map(Answer)
}

/// Any member changes its own keys; the statement is judged by the log.
async fn rotate(State(api): Shared, Json(ask): Json<RotateRequest>) -> Result<Answer<RotateAnswer>, ApiError> {
    if ask.succession.node != api.node {
        return Err(ApiError::new(ErrorCode::BadRequest, "the statement is another node's"));
    }
    let command = Command { request: fresh_request(), body: Body::RotateKeys(ask.succession) };
    let reply = api.client.submit(&api.voters.list(), osmoda_proto::encode_command(&command)).await?;
    let refused = match reply.refused.as_str() {
        "" => None,
        code => Some(code.parse().map_err(ApiError::internal)?),
    };
    Ok(Answer(RotateAnswer { index: reply.index, refused }))
}

/// The caller is agentd, which has one key and one purpose.
async fn register_subkey(State(api): Shared, Json(subkey): Json<Subkey>) -> Result<Answer<Registered>, ApiError> {
    if subkey.purpose != Purpose::Ledger {
        return Err(ApiError::new(ErrorCode::CallerDenied, "a daemon registers a key of its own purpose only"));
    }
    let before = registrar::register(api.node, subkey, &api.replica, &api.client, &api.voters).await?;
    Ok(Answer(Registered { before }))
}

/// Who witnesses this node's ledger, as the log has it.
async fn roster(State(api): Shared) -> Answer<Roster> {
    Answer(ledgers::roster(&api.replica.view().state, api.node))
}

/// `POST /fleet/invite`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MintInvite {
    role: Role,
    #[serde(default)]
    ttl_ms: u64,
}

/// The answer to [`MintInvite`]; the text is a secret.
#[derive(Serialize)]
struct MintedInvite {
    id: osmoda_types::InviteId,
    invite: String,
    role: Role,
    expires_ms: i64,
}

async fn invite(State(api): Shared, Json(ask): Json<MintInvite>) -> Result<Answer<MintedInvite>, ApiError> {
    let minted = voting(&api)?.invites.mint(pb::Role::from(ask.role), ask.ttl_ms).await?;
    Ok(Answer(MintedInvite { id: minted.id, invite: minted.text, role: ask.role, expires_ms: minted.expires_ms }))
}
