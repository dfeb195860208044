//! The peer and invite endpoints of the earlier product, with their shapes.
//!
//! Answers have the old fields and ours beside them, so that clients of both
//! kinds read what they know. Two things are truly different and say so: keys of
//! a KEM are made per handshake, so there is none to show; and a host joins a
//! fleet with `osmoda-node join`, before its daemons run.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use osmoda_kit::clock::{SharedClock, Timestamp};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Json, UnixClient};
use osmoda_mesh::{MeshHandle, PeerInfo};
use osmoda_types::{ErrorCode, NodeId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::added::Added;
use crate::messages::{self, Message};

/// What these endpoints share.
pub(crate) struct Reference {
    handle: MeshHandle,
    added: Added,
    clock: SharedClock,
    fleetd: UnixClient,
    audit: osmoda_kit::audit::Audit,
}

impl Reference {
    pub(crate) fn new(
        handle: MeshHandle,
        (added, clock): (Added, SharedClock),
        fleetd: UnixClient,
        audit: osmoda_kit::audit::Audit,
    ) -> Arc<Self> {
        Arc::new(Self { handle, added, clock, fleetd, audit })
    }

    /// These peers, as clients of both kinds know them.
    async fn pictures(&self, peers: Vec<PeerInfo>) -> Vec<Peer> {
        let now = self.clock.now_wall();
        let added = self.added.of(self.handle.peers().into_iter().map(|peer| peer.id).collect(), now).await;
        let picture = |peer: PeerInfo| {
            let added_at = added.get(&peer.id).copied().unwrap_or(now);
            self.picture(peer, added_at)
        };
        peers.into_iter().map(picture).collect()
    }

    /// A peer by its id or, if only one has it, its name.
    fn find(&self, text: &str) -> Result<PeerInfo, ApiError> {
        let unknown = || ApiError::new(ErrorCode::PeerUnknown, format!("no other member is {text:?}"));
        let peers = self.handle.peers();
        if let Ok(id) = text.parse::<NodeId>() {
            return peers.into_iter().find(|peer| peer.id == id).ok_or_else(unknown);
        }
        let mut named = peers.into_iter().filter(|peer| peer.name == text);
        match (named.next(), named.next()) {
            (Some(peer), None) => Ok(peer),
            _ => Err(unknown()),
        }
    }

    fn picture(&self, peer: PeerInfo, added_at: Timestamp) -> Peer {
        let members = self.handle.members();
        let member = members.by_node(&peer.id);
        let since = peer.since_ms.map(|ms| Timestamp::from_millis(ms).to_string());
        let connection_state = match since.clone() {
            Some(since) if peer.connected => ConnectionState::Connected { since },
            _ => ConnectionState::Disconnected,
        };
        Peer {
            label: peer.name.clone(),
            noise_static_pubkey: member.map(|member| member.mesh_key.to_string()).unwrap_or_default(),
            mlkem_encap_key: "",
            endpoint: peer.address.map(|address| address.to_string()).unwrap_or_default(),
            added_at,
            last_seen: since.filter(|_| peer.connected),
            connection_state,
            info: peer,
        }
    }
}

/// The router.
pub(crate) fn router(reference: Arc<Reference>) -> Router {
    Router::new()
        .route("/peers", get(peers))
        .route("/peer/{id}", get(peer).delete(disconnect))
        .route("/peer/{id}/send", post(send))
        .route("/peer/{id}/ping", post(ping))
        .route("/invite/create", post(create_invite))
        .route("/invite/accept", post(accept_invite))
        .with_state(reference)
}

/// A peer: the earlier product's fields, and ours.
#[derive(Debug, Serialize)]
struct Peer {
    #[serde(flatten)]
    info: PeerInfo,
    label: String,
    noise_static_pubkey: String,
    /// Empty: keys of the KEM live for one handshake.
    mlkem_encap_key: &'static str,
    endpoint: String,
    /// When this node first showed it.
    added_at: Timestamp,
    /// When the link came up; a link that is up was heard within its idle time.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<String>,
    connection_state: ConnectionState,
}

/// Two of the earlier product's four. A member without a link is dialled for as long
/// as it is one, so there is no moment at which connecting begins or has failed.
#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum ConnectionState {
    Disconnected,
    Connected { since: String },
}

async fn peers(State(of): State<Arc<Reference>>) -> Json<Vec<Peer>> {
    Json(of.pictures(of.handle.peers()).await)
}

async fn peer(State(of): State<Arc<Reference>>, Path(id): Path<String>) -> Result<Json<Peer>, ApiError> {
    let pictures = of.pictures(vec![of.find(&id)?]).await;
    let unknown = || ApiError::new(ErrorCode::PeerUnknown, format!("no other member is {id:?}"));
    pictures.into_iter().next().map(Json).ok_or_else(unknown)
}

/// Ends the link. A member is dialled again: who belongs is the fleet's decision.
async fn disconnect(State(of): State<Arc<Reference>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let peer = of.find(&id)?;
    let intent = of.audit.intent("mesh.peer.disconnect", json!({ "peer": peer.id })).await?;
    let was_up = of.handle.disconnect(&peer.id);
    intent.outcome(json!({ "peer": peer.id, "was_up": was_up })).await?;
    Ok(Json(json!({ "disconnected": peer.id })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    message: Message,
}

async fn send(
    State(of): State<Arc<Reference>>,
    Path(id): Path<String>,
    Json(Send { message }): Json<Send>,
) -> Result<Json<Value>, ApiError> {
    let peer = of.find(&id)?;
    let intent = of.audit.intent("mesh.message.sent", json!({ "peer": peer.id, "message": message })).await?;
    let sent = messages::send(&of.handle, peer.id, &message).await;
    intent.outcome(json!({ "peer": peer.id, "delivered": sent.is_ok() })).await?;
    match sent {
        Ok(()) => Ok(Json(json!({ "delivered": true }))),
        // The earlier product's answer to a peer without a connection.
        Err(error) if error.code == ErrorCode::PeerOffline => {
            Err(ApiError::new(ErrorCode::NotFound, format!("there is no connection to {}", peer.name))
                .with_source(error))
        }
        Err(error) => Err(error),
    }
}

/// Round trips of a message that is not kept, and of the link below it.
async fn ping(State(of): State<Arc<Reference>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let peer = of.find(&id)?;
    let began = tokio::time::Instant::now();
    messages::send(&of.handle, peer.id, &Message::Heartbeat { timestamp: String::new() }).await?;
    let round_trip_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(Json(json!({ "peer": peer.id, "name": peer.name, "round_trip_us": round_trip_us, "link_rtt_us": peer.rtt_us })))
}

#[derive(Debug, Deserialize)]
struct CreateInvite {
    ttl_secs: Option<u64>,
    /// Invites name the address that the log has for this node.
    endpoint: Option<String>,
}

#[derive(Deserialize)]
struct Minted {
    invite: String,
    expires_ms: i64,
}

async fn create_invite(
    State(of): State<Arc<Reference>>,
    Json(ask): Json<CreateInvite>,
) -> Result<Json<Value>, ApiError> {
    if ask.endpoint.is_some() {
        let text = "an invite names the addresses that the fleet has for this node; leave endpoint out";
        return Err(ApiError::new(ErrorCode::Unsupported, text));
    }
    let ttl_ms = ask.ttl_secs.unwrap_or(0).saturating_mul(1000);
    let minted: Minted = of.fleetd.post("/fleet/invite", &json!({ "role": "node", "ttl_ms": ttl_ms })).await?;
    let expires_at = Timestamp::from_millis(minted.expires_ms).to_string();
    Ok(Json(json!({ "invite_code": minted.invite, "expires_at": expires_at })))
}

async fn accept_invite() -> ApiError {
    ApiError::new(ErrorCode::Conflict, "this node belongs to a fleet; a new host joins with `osmoda-node join INVITE`")
}
