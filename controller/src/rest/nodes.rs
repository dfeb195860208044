//! Nodes, invites, ledger heads.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use osmoda_controller_api::{
    Generation, InviteRow, InviteState, LedgerHead, LedgerTrouble, MintInvite, MintedInvite, Node, NodeAttempt, Page,
    Presence,
};
use osmoda_controller_store::HeadRow;
use osmoda_kit::clock::Timestamp;
use osmoda_kit::error::ApiError;
use osmoda_kit::version::VERSION;
use osmoda_mesh_protocol::INVITE_LIFE_MS_MAX;
use osmoda_proto::fleet::v1 as pb;
use osmoda_rollout::{Desired, InviteState as Spent};
use osmoda_types::{ErrorCode, InviteId, NodeId, Role};

use super::body::{Object, id};
use super::paging::Paging;
use super::{Answer, App, stored};
use crate::presence::{Known, Report};
use crate::view::View;

/// The life of an invite when none is asked for: time to walk to a console.
const INVITE_TTL: Duration = Duration::from_secs(3600);

/// The shortest life: time to paste it.
const INVITE_TTL_MIN: Duration = Duration::from_secs(60);

/// The longest life of an invite: an issuer grants no more.
const INVITE_TTL_MAX: Duration = Duration::from_millis(INVITE_LIFE_MS_MAX.unsigned_abs());

/// `GET /nodes`.
pub(super) async fn list(State(app): State<App>, paging: Paging) -> Answer<Json<Page<Node>>> {
    let view = app.view();
    let ledgers = ledgers(&app, &view).await?;
    let rows = view.state.members().map(|entry| {
        let node = picture(&app, &view, &ledgers, entry);
        (format!("{} {}", node.name, node.id), node)
    });
    Ok(Json(paging.page(rows)))
}

/// `GET /nodes/{id}`.
pub(super) async fn show(State(app): State<App>, Path(text): Path<String>) -> Answer<Json<Node>> {
    let node: NodeId = id("the node id", &text)?;
    let view = app.view();
    let ledgers = ledgers(&app, &view).await?;
    match view.state.member(&node) {
        Some(entry) => Ok(Json(picture(&app, &view, &ledgers, entry))),
        None => Err(ApiError::new(ErrorCode::NodeUnknown, "no member of the fleet has this node id").into()),
    }
}

type Heads = BTreeMap<NodeId, HeadRow>;

/// What is known of the ledgers.
struct Ledgers {
    heads: Heads,
    troubles: BTreeMap<NodeId, LedgerTrouble>,
}

async fn ledgers(app: &App, view: &View) -> Result<Ledgers, ApiError> {
    let troubles = crate::witnessed::troubles(&*app.store, &view.state).await.map_err(stored)?;
    Ok(Ledgers { heads: heads(app).await?, troubles })
}

async fn heads(app: &App) -> Result<Heads, ApiError> {
    let rows = app.store.ledger_heads().await.map_err(stored)?;
    Ok(rows.into_iter().map(|row| (row.node, row)).collect())
}

fn picture(app: &App, view: &View, ledgers: &Ledgers, entry: &osmoda_rollout::MemberEntry) -> Node {
    let member = &entry.member;
    let known = known(app, &member.node);
    let raft_id = view.state.voters().find(|(node, _)| **node == member.node).map(|(_, raft_id)| raft_id.to_string());
    let reported = known.report.reported_ms.map(|ms| Timestamp::from_millis(ms).to_string());
    let generation = known.report.current.zip(reported);
    // The newest rollout with an attempt of this node.
    let attempt = view
        .state
        .rollouts()
        .filter_map(|rollout| Some((rollout, rollout.rows.get(&member.node)?)))
        .filter_map(|(rollout, row)| Some((row.attempt?, rollout, row)))
        .max_by_key(|(attempt, _, _)| *attempt);
    Node {
        id: member.node,
        name: member.name.clone(),
        role: member.role,
        raft_id,
        addresses: member.addresses.clone(),
        presence: known.presence,
        last_seen_at: known.last_seen.map(|at| at.to_string()),
        generation: generation.map(|(current, reported_at)| Generation { current, reported_at }),
        desired: desired(view, &member.node),
        attempt: attempt.map(|(attempt, rollout, row)| NodeAttempt {
            attempt: attempt.to_string(),
            rollout: rollout.id,
            state: row.state,
        }),
        ledger: ledgers.heads.get(&member.node).map(|row| head(view, row)),
        ledger_trouble: ledgers.troubles.get(&member.node).copied(),
        version: known.report.version,
    }
}

/// What is known of a node; this controller knows itself without a link.
fn known(app: &App, node: &NodeId) -> Known {
    let known = app.presence.of(node);
    if *node != app.own {
        return known;
    }
    let report = Report { version: Some(VERSION.text.to_owned()), ..known.report };
    Known { presence: Presence::Online, last_seen: Some(app.clock.now_wall()), report }
}

/// The closure the fleet decided for the node, as the node itself would read it.
fn desired(view: &View, node: &NodeId) -> Option<osmoda_types::StorePath> {
    match view.state.desired(node) {
        Desired::Stay | Desired::Stage { .. } => None,
        Desired::Attempt(order) | Desired::Accepted(order) => Some(order.target),
        Desired::Baseline(order) => Some(order.baseline),
    }
}

fn head(view: &View, row: &HeadRow) -> LedgerHead {
    LedgerHead {
        node: row.node,
        name: view.name(&row.node),
        size: row.size,
        hash: row.hash.clone(),
        seen_at: Timestamp::from_millis(row.seen_ms).to_string(),
        broken: row.broken,
    }
}

/// `GET /ledger/heads`.
pub(super) async fn ledger_heads(State(app): State<App>, paging: Paging) -> Answer<Json<Page<LedgerHead>>> {
    let view = app.view();
    let heads = heads(&app).await?;
    Ok(Json(paging.page(heads.values().map(|row| (row.node.to_string(), head(&view, row))))))
}

/// `GET /invites`.
pub(super) async fn invites(State(app): State<App>, paging: Paging) -> Json<Page<InviteRow>> {
    let (view, now) = (app.view(), app.clock.now_wall().as_millis());
    let rows = view.state.invites().map(|entry| {
        let invite = &entry.invite;
        let (state, joiner) = match entry.state {
            // The log closes it when its issuer says so; people care earlier.
            Spent::Open if invite.expires_ms <= now => (InviteState::Expired, None),
            Spent::Open => (InviteState::Open, None),
            Spent::Spent { node, .. } => (InviteState::Spent, Some(node)),
            Spent::Expired => (InviteState::Expired, None),
        };
        let expires_at = Timestamp::from_millis(invite.expires_ms).to_string();
        (invite.id.to_string(), InviteRow { id: invite.id, role: invite.role, state, expires_at, joiner })
    });
    Json(paging.page(rows))
}

/// `POST /invites`.
pub(super) async fn mint(
    State(app): State<App>,
    Object(order): Object<MintInvite>,
) -> Answer<(StatusCode, Json<MintedInvite>)> {
    let ttl = order.ttl_seconds.map_or(INVITE_TTL, Duration::from_secs);
    if !(INVITE_TTL_MIN..=INVITE_TTL_MAX).contains(&ttl) {
        return Err(ApiError::new(ErrorCode::BadRequest, "ttl_seconds is 60 to 86400").into());
    }
    let role = match order.role {
        Role::Voter => pb::Role::Voter,
        Role::Node => pb::Role::Node,
        Role::Controller => pb::Role::Controller,
        Role::RoomGuest => {
            return Err(ApiError::new(ErrorCode::Unsupported, "rooms are not built yet").into());
        }
    };
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let minted = app.fleet.mint_invite(pb::MintInviteRequest { role: role.into(), ttl_ms }).await?;
    let id = InviteId::try_from(minted.id.as_slice()).map_err(ApiError::internal)?;
    tracing::info!(id = %id, role = %order.role, "asked a voter for an admission");
    let expires_at = Timestamp::from_millis(minted.expires_ms).to_string();
    Ok((StatusCode::CREATED, Json(MintedInvite { id, invite: minted.invite, role: order.role, expires_at })))
}
