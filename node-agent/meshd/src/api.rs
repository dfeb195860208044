//! The endpoints of `mesh.sock`.
//!
//! Who may call which is in `node-agent/api`; what a daemon may have endorsed
//! is judged here, because it depends on the body.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Router};
use osmoda_kit::audit::Audit;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Caller, Json, Who};
use osmoda_kit::tasks::Tasks;
use osmoda_kit::version::{VERSION, Version};
use osmoda_mesh::{InviteSecret, KeyChange, MeshHandle, state};
use osmoda_node_api::mesh::{
    EndorseRequest, Endorsed, EnforceEpoch, EpochInForce, EpochMade, Identity, Invite, InviteOpened, Members,
    MembersInForce, OpenInvite,
};
use osmoda_types::{ErrorCode, MeshEpoch, NetworkId, NodeId, Purpose, statement};
use serde::Serialize;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::keys::Keys as Secrets;

/// What the endpoints share.
pub(crate) struct Api {
    handle: MeshHandle,
    keys: Arc<KeyChange>,
    secrets: Arc<Secrets>,
    network: NetworkId,
    dir: PathBuf,
    audit: Audit,
    tasks: Tasks,
    /// One snapshot at a time: the file and the mesh must change in one order.
    one_writer: Semaphore,
}

impl Api {
    pub(crate) fn new(
        handle: MeshHandle,
        keys: Arc<KeyChange>,
        secrets: Arc<Secrets>,
        network: NetworkId,
        dir: PathBuf,
        audit: Audit,
        tasks: Tasks,
    ) -> Self {
        Self { handle, keys, secrets, network, dir, audit, tasks, one_writer: Semaphore::new(1) }
    }

    fn epoch(&self) -> Result<MeshEpoch, ApiError> {
        self.handle.epoch().ok_or_else(|| ApiError::new(ErrorCode::IdentityMissing, "no epoch secret is known"))
    }
}

pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/identity", get(identity))
        .route("/members", post(members))
        .route("/epoch", post(enforce_epoch))
        .route("/epoch/new", post(make_epoch))
        .route("/invite/open", post(open_invite))
        .route("/identity/endorse", post(endorse))
        .with_state(api)
}

#[derive(Serialize)]
struct Health {
    /// `ok`; `alone` when there are other members and no link to any of them.
    status: &'static str,
    node: NodeId,
    members: usize,
    links: usize,
    /// As the earlier product called them.
    peer_count: usize,
    connected_count: usize,
    identity_ready: bool,
    #[serde(flatten)]
    version: Version,
}

async fn health(State(api): State<Arc<Api>>) -> Json<Health> {
    let peers = api.handle.peers();
    let links = peers.iter().filter(|peer| peer.connected).count();
    let status = if links == 0 && !peers.is_empty() { "alone" } else { "ok" };
    let members = api.handle.members().members.len();
    Json(Health {
        status,
        node: api.handle.local_id(),
        members,
        links,
        peer_count: peers.len(),
        connected_count: links,
        // The daemon does not start without its keys.
        identity_ready: true,
        version: VERSION,
    })
}

async fn identity(State(api): State<Arc<Api>>) -> Result<Json<PublicIdentity>, ApiError> {
    let keys = api.handle.identity();
    let own = Identity {
        node: api.handle.local_id(),
        mesh_key: keys.mesh_key(),
        identity_key: keys.identity_key(),
        network: api.network,
        epoch: api.epoch()?,
        role: api.handle.local_role(),
        listen: api.handle.local_address(),
        members_index: api.handle.members().index,
    };
    Ok(Json(PublicIdentity::of(own)))
}

/// An identity with the earlier product's fields beside ours. It has no
/// signature over itself: who a node is, the handshake proves.
#[derive(Serialize)]
struct PublicIdentity {
    #[serde(flatten)]
    own: Identity,
    instance_id: String,
    ed25519_pubkey: String,
    noise_static_pubkey: String,
    /// Empty: keys of the KEM live for one handshake.
    mlkem_encap_key: &'static str,
    capabilities: [&'static str; 1],
    signature: &'static str,
}

impl PublicIdentity {
    fn of(own: Identity) -> Self {
        Self {
            instance_id: own.node.to_string(),
            ed25519_pubkey: own.identity_key.to_string(),
            noise_static_pubkey: own.mesh_key.to_string(),
            mlkem_encap_key: "",
            capabilities: ["mesh.v1"],
            signature: "",
            own,
        }
    }
}

/// The log that ordered it is its record, so the ledger is not asked. Who left is out at
/// once even when the disk takes nothing: a revocation must not wait for a disk that is
/// full.
async fn members(State(api): State<Arc<Api>>, Json(members): Json<Members>) -> Result<Json<MembersInForce>, ApiError> {
    let _turn = api.one_writer.acquire().await.map_err(ApiError::internal)?;
    if let Err(error) = take_over(&api, &members).await {
        api.handle.put_out(&members).await?;
        api.secrets.members_changed().await?;
        return Err(error);
    }
    Ok(Json(MembersInForce { index: api.handle.members().index }))
}

/// Durable first, then in force.
async fn take_over(api: &Api, members: &Members) -> Result<(), ApiError> {
    let (dir, snapshot) = (api.dir.clone(), members.clone());
    let stored = api.tasks.blocking("store members", move || state::store_members(&dir, &snapshot)).await;
    if stored.map_err(ApiError::internal)?? {
        api.keys.members_come(members).await?;
        api.handle.update_members(members.clone()).await?;
        api.secrets.members_changed().await?;
    }
    Ok(())
}

/// The log that ordered it is its record, as for the members.
async fn enforce_epoch(
    State(api): State<Arc<Api>>,
    Json(ask): Json<EnforceEpoch>,
) -> Result<Json<EpochInForce>, ApiError> {
    let epoch = api.secrets.enforce(ask.epoch, ask.secret_hash, &ask.voters).await?;
    Ok(Json(EpochInForce { epoch }))
}

async fn make_epoch(State(api): State<Arc<Api>>) -> Json<EpochMade> {
    Json(EpochMade { secret_hash: api.secrets.make() })
}

async fn open_invite(
    State(api): State<Arc<Api>>,
    Json(open): Json<OpenInvite>,
) -> Result<Json<InviteOpened>, ApiError> {
    let intent = api.audit.intent("mesh.invite.open", json!({ "invite": open.id })).await?;
    let opened =
        api.handle.open_invite(&InviteSecret { id: open.id, secret: open.secret.clone(), expires_ms: open.expires_ms });
    intent.outcome(json!({ "invite": open.id, "opened": opened.is_ok() })).await?;
    opened?;
    let invite = Invite {
        network: api.network,
        id: open.id,
        secret: open.secret,
        issuer: api.handle.identity().mesh_key(),
        expires_ms: open.expires_ms,
        addresses: own_addresses(&api.handle),
    };
    Ok(Json(InviteOpened { invite: invite.encode() }))
}

/// Where the log says this node listens; before the log says so, the socket.
fn own_addresses(handle: &MeshHandle) -> Vec<std::net::SocketAddr> {
    let members = handle.members();
    match members.by_node(&handle.local_id()) {
        Some(own) if !own.addresses.is_empty() => own.addresses.clone(),
        _ => vec![handle.local_address()],
    }
}

async fn endorse(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Json(EndorseRequest { purpose, key }): Json<EndorseRequest>,
) -> Result<Json<Endorsed>, ApiError> {
    if caller.who != Who::Daemon(owner(purpose)) {
        let text = format!("{} may not have a key for {} endorsed", caller.who, purpose.as_str());
        return Err(ApiError::new(ErrorCode::CallerDenied, text));
    }
    let (node, epoch, keys) = (api.handle.local_id(), api.epoch()?, api.handle.identity());
    let what = json!({ "purpose": purpose.as_str(), "key": key, "epoch": epoch });
    let intent = api.audit.intent("mesh.identity.endorse", what.clone()).await?;
    let signature = keys.sign(&statement::subkey(purpose, &key, &node, epoch, &api.network));
    intent.outcome(what).await?;
    Ok(Json(Endorsed { node, network: api.network, epoch, identity_key: keys.identity_key(), signature }))
}

/// Each purpose belongs to one daemon.
const fn owner(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Ledger => "agentd",
        Purpose::Ballot => "fleetd",
    }
}
