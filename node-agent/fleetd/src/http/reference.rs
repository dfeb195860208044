//! `/fleet/*` of the earlier product: its shapes, on the log's own rollouts.

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::Json;
use osmoda_rollout::{Phase, Rollout};
use osmoda_types::command::{Body, Command, Order, Proposal, SignedOrder};
use osmoda_types::{
    ErrorCode, FleetEpoch, Manifest, ManifestHash, NodeId, PublicKey, RolloutId, Signature, StorePath, Vote,
};
use serde::{Deserialize, Serialize};

use super::{Api, Shared, voting};
use crate::reports::fresh_request;

/// Longest peer id of the reference.
const PEER_ID_CHARS_MAX: usize = 256;

/// `POST /fleet/propose`. The last four fields are new: without an operator's
/// signature nothing is deployed.
#[derive(Debug, Deserialize)]
pub(super) struct Propose {
    plan: String,
    peer_ids: Vec<String>,
    #[serde(default)]
    rollout: Option<RolloutId>,
    #[serde(default)]
    parent_epoch: Option<FleetEpoch>,
    #[serde(default)]
    operator_key: Option<PublicKey>,
    #[serde(default)]
    signature: Option<Signature>,
}

/// The shape of the reference.
#[derive(Debug, Serialize)]
pub(super) struct FleetSwitch {
    id: String,
    plan: String,
    proposer: String,
    phase: String,
    participant_count: usize,
    approve_count: u32,
    deny_count: u32,
    quorum_required: u32,
    has_quorum: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_summary: Option<String>,
}

impl FleetSwitch {
    fn of(rollout: &Rollout) -> Self {
        let approve_count = rollout.votes(Vote::Yes);
        Self {
            id: rollout.id.to_string(),
            plan: rollout.manifest.to_string(),
            proposer: rollout.proposer.to_string(),
            phase: phase_of(rollout),
            participant_count: rollout.electorate.len(),
            approve_count,
            deny_count: rollout.votes(Vote::No),
            quorum_required: rollout.threshold,
            has_quorum: approve_count >= rollout.threshold,
            result_summary: rollout
                .phase
                .is_terminal()
                .then(|| format!("{} of {} nodes committed", rollout.committed(), rollout.rows.len())),
        }
    }
}

/// The reference's lower-cased debug words.
fn phase_of(rollout: &Rollout) -> String {
    let reason = rollout.cause.map_or("", |cause| cause.as_str());
    match rollout.phase {
        Phase::Voting => "vote".to_owned(),
        Phase::Running(_) | Phase::Paused { .. } => "execute".to_owned(),
        Phase::Committed => "committed".to_owned(),
        Phase::RollingBack | Phase::RolledBack | Phase::RolledBackPartial => {
            format!("rolled_back {{ reason: {reason:?} }}")
        }
        Phase::Rejected => "aborted { reason: \"vetoed\" }".to_owned(),
        Phase::Expired => "aborted { reason: \"timed out\" }".to_owned(),
        Phase::Superseded => "aborted { reason: \"superseded\" }".to_owned(),
    }
}

fn find(api: &Api, id: &str) -> Result<Rollout, ApiError> {
    let unknown = || ApiError::new(ErrorCode::RolloutUnknown, format!("no rollout {id}"));
    let parsed: RolloutId = id.parse().map_err(|_| unknown())?;
    api.replica.view().state.rollout(&parsed).cloned().ok_or_else(unknown)
}

pub(super) async fn status(State(api): Shared, Path(id): Path<String>) -> Result<Answer<FleetSwitch>, ApiError> {
    find(&api, &id).map(|rollout| Answer(FleetSwitch::of(&rollout)))
}

pub(super) async fn propose(
    State(api): Shared,
    Json(ask): Json<Propose>,
) -> Result<(StatusCode, Answer<FleetSwitch>), ApiError> {
    if ask.peer_ids.is_empty() {
        return Err(ApiError::new(ErrorCode::BadRequest, "peer_ids is empty"));
    }
    let hash: ManifestHash = match (ask.plan.parse(), StorePath::new(ask.plan.clone())) {
        (Ok(hash), _) => hash,
        (Err(_), Ok(_)) => {
            let text = "a store path alone is no fleet deploy: build a manifest and propose its hash";
            return Err(ApiError::new(ErrorCode::ManifestMalformed, text));
        }
        (Err(_), Err(_)) => {
            return Err(ApiError::new(ErrorCode::ManifestMalformed, "plan is no manifest hash and no store path"));
        }
    };
    let (Some(rollout), Some(parent), Some(key), Some(signature)) =
        (ask.rollout, ask.parent_epoch, ask.operator_key, ask.signature)
    else {
        let text = "a fleet deploy needs an operator's signature: use `osmoda rollout start`";
        return Err(ApiError::new(ErrorCode::SignatureMissing, text));
    };
    let unknown = || ApiError::new(ErrorCode::ManifestUnknown, format!("no manifest {hash} is stored here"));
    let stored = voting(&api)?.elector.sources.manifests.get(hash);
    let bytes = stored.map_err(|error| ApiError::new(error.code(), error.to_string()))?.ok_or_else(unknown)?;
    let (manifest, hash) = Manifest::parse(&bytes).map_err(|error| ApiError::new(error.code, error.to_string()))?;
    let proposal = Proposal::of(&manifest, hash, rollout, parent, key, signature);
    submit(&api, Body::Propose(Box::new(proposal))).await?;
    let rollout = find(&api, &rollout.to_string())?;
    Ok((StatusCode::CREATED, Answer(FleetSwitch::of(&rollout))))
}

/// `POST /fleet/vote/{id}`.
#[derive(Debug, Deserialize)]
pub(super) struct CastVote {
    peer_id: String,
    approve: bool,
}

/// A voter votes for itself only. A yes still needs the voter's own check.
pub(super) async fn vote(
    State(api): Shared,
    Path(id): Path<String>,
    Json(ask): Json<CastVote>,
) -> Result<Answer<FleetSwitch>, ApiError> {
    if ask.peer_id.is_empty() || ask.peer_id.chars().count() > PEER_ID_CHARS_MAX {
        return Err(ApiError::new(ErrorCode::BadRequest, "peer_id has 1 to 256 characters"));
    }
    if ask.peer_id.parse::<NodeId>() != Ok(api.node) {
        return Err(ApiError::new(ErrorCode::CallerDenied, "a node votes for itself only"));
    }
    let rollout = find(&api, &id)?;
    let elector = &voting(&api)?.elector;
    if rollout.phase == Phase::Expired {
        return Err(ApiError::new(ErrorCode::BallotRefused, "the ballot timed out").with_status(StatusCode::GONE));
    }
    if !elector.is_open(&rollout) {
        return Err(ApiError::new(ErrorCode::BallotRefused, "voting is over, or this node has voted"));
    }
    elector.cast(&api.replica.view().state, &rollout, !ask.approve).await?;
    find(&api, &id).map(|rollout| Answer(FleetSwitch::of(&rollout)))
}

/// `POST /fleet/rollback/{id}`; all fields are new.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Rollback {
    #[serde(default)]
    operator_key: Option<PublicKey>,
    #[serde(default)]
    serial: Option<u64>,
    #[serde(default)]
    signature: Option<Signature>,
}

pub(super) async fn rollback(
    State(api): Shared,
    Path(id): Path<String>,
    body: axum::body::Bytes,
) -> Result<Answer<FleetSwitch>, ApiError> {
    let rollout = find(&api, &id)?;
    // The reference sends no body at all here.
    let ask: Rollback = if body.is_empty() { Rollback::default() } else { parse(&body)? };
    let Rollback { operator_key: Some(key), serial: Some(serial), signature: Some(signature) } = ask else {
        let text = "undoing a fleet deploy needs an operator's signature: use `osmoda rollout abort`";
        return Err(ApiError::new(ErrorCode::SignatureMissing, text));
    };
    let order = Order::Abort { rollout: rollout.id };
    submit(&api, Body::Control(SignedOrder { order, serial, key, signature })).await?;
    find(&api, &id).map(|rollout| Answer(FleetSwitch::of(&rollout)))
}

fn parse(body: &[u8]) -> Result<Rollback, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))
}

/// Submits through the leader and waits until it is applied here.
async fn submit(api: &Api, body: Body) -> Result<(), ApiError> {
    let command = Command { request: fresh_request(), body };
    let reply = api.client.submit(&api.voters.list(), osmoda_proto::encode_command(&command)).await?;
    if !reply.refused.is_empty() {
        let code = reply.refused.parse().unwrap_or(ErrorCode::Internal);
        return Err(ApiError::new(code, format!("the fleet refused: {code}")));
    }
    api.replica.reached(reply.index, std::time::Duration::from_secs(5)).await.map(drop)
}
