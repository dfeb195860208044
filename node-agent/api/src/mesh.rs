//! The words of `mesh.sock` and of the two pipe sockets around it, with a typed
//! client.
//!
//! ```text
//! fleetd ── mesh-stream.sock ──► mesh ══ link ══► mesh ── fleetd-mesh.sock ──► fleetd
//!        {"peer","service"}                            {"peer","role","epoch","service"}
//! ```
//! After the first line and its `{"ok":true}` both sockets carry the raw bytes
//! of one mesh stream. The secrets of the network never leave `mesh`; the secret
//! of an invite comes from whoever opened it in the log.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Credentials, UnixClient};
use osmoda_kit::paths::Paths;
use osmoda_kit::stream;
use osmoda_types::{
    ErrorCode, InviteId, MeshEpoch, MeshKey, NetworkId, NodeId, PublicKey, Purpose, Role, SecretHash, Signature,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::net::UnixStream;

use crate::blobs::{BlobStored, FetchBlob};

pub use osmoda_mesh_protocol::{
    Enrolment, INVITE_LIFE_MS_MAX, Invite, JoinRequest, Member, Members, Operator, PeerInfo, SecretBytes, Service,
    StreamPeer, Succession,
};

/// Largest body of `/members` and largest answer of `/mesh/spend`: a snapshot
/// of 1,024 members.
pub const MEMBERS_BYTES_MAX: usize = 1024 * 1024;

/// How long opening a pipe may take: the mesh waits 5 s for a link and 5 s for
/// the peer's answer.
const OPEN_TIME: Duration = Duration::from_secs(11);

/// The answer of `GET /identity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// This node.
    pub node: NodeId,
    /// Its transport key.
    pub mesh_key: MeshKey,
    /// Its identity key.
    pub identity_key: PublicKey,
    /// The fleet.
    pub network: NetworkId,
    /// The mesh epoch in force.
    pub epoch: MeshEpoch,
    /// Its role, if the newest snapshot has it.
    pub role: Option<Role>,
    /// Where the mesh listens.
    pub listen: SocketAddr,
    /// The log index of the newest snapshot.
    pub members_index: u64,
}

/// The answer of `POST /members`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersInForce {
    /// The log index of the snapshot that is in force now; newer than the one
    /// sent when that was old.
    pub index: u64,
}

/// `POST /invite/open`: an invite whose record is committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenInvite {
    /// Its public name.
    pub id: InviteId,
    /// What its holder proves.
    pub secret: SecretBytes,
    /// Wall time in ms after which it is void.
    pub expires_ms: i64,
}

/// The answer to [`OpenInvite`].
#[derive(Clone, Serialize, Deserialize)]
pub struct InviteOpened {
    /// The text to hand to the new host; a secret.
    pub invite: String,
}

/// `POST /epoch`: put the mesh epoch of the committed log in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnforceEpoch {
    /// The epoch.
    pub epoch: MeshEpoch,
    /// SHA-256 of its secret, as the log names it.
    pub secret_hash: SecretHash,
    /// Whom to ask for the secret if it was not made here.
    pub voters: Vec<NodeId>,
}

/// The answer to [`EnforceEpoch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochInForce {
    /// The epoch in force now; newer than the one asked for when that was old.
    pub epoch: MeshEpoch,
}

/// The answer of `POST /epoch/new`: a secret was made, and waits for its hash to
/// be in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochMade {
    /// SHA-256 of the secret.
    pub secret_hash: SecretHash,
}

/// `POST /identity/endorse`: have a subkey vouched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndorseRequest {
    /// What the key is for; a daemon gets only its own purpose.
    pub purpose: Purpose,
    /// The key.
    pub key: PublicKey,
}

/// The answer to [`EndorseRequest`]: `osmoda_types::statement::subkey` signed
/// by the identity key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endorsed {
    /// This node.
    pub node: NodeId,
    /// The fleet in the statement.
    pub network: NetworkId,
    /// The epoch in the statement.
    pub epoch: MeshEpoch,
    /// The key that signed.
    pub identity_key: PublicKey,
    /// The signature.
    pub signature: Signature,
}

/// `POST /mesh/spend` at fleetd: a joiner has proven an invite's secret and its
/// own keys. The answer is an [`Enrolment`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpendRequest {
    /// The invite.
    pub invite: InviteId,
    /// The id its keys make.
    pub node: NodeId,
    /// Its transport key.
    pub mesh_key: MeshKey,
    /// What it says; its addresses are already those the issuer saw.
    pub request: JoinRequest,
}

/// `POST /mesh/rotate` at fleetd: write the node's change of keys into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// The statement of the old and the new identity key.
    pub succession: Succession,
}

/// The log's word on a [`RotateRequest`]. An error in its place says that it is
/// not known: the same may be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateAnswer {
    /// The index of the entry.
    pub index: u64,
    /// Why nothing changed; none when the log has the keys, from now on or
    /// since before.
    pub refused: Option<ErrorCode>,
}

/// A client of the mesh daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MeshClient {
    http: UnixClient,
}

impl MeshClient {
    /// Uses a client of the socket.
    #[must_use]
    pub fn new(http: UnixClient) -> Self {
        Self { http: http.with_answer_limit(MEMBERS_BYTES_MAX) }
    }

    /// All other members and the state of the links to them.
    ///
    /// # Errors
    /// As [`UnixClient::get`].
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, ApiError> {
        self.http.get("/peers").await
    }

    /// Who this node is.
    ///
    /// # Errors
    /// As [`UnixClient::get`].
    pub async fn identity(&self) -> Result<Identity, ApiError> {
        self.http.get("/identity").await
    }

    /// Puts a snapshot in force, durably: when this returns, removed members
    /// have no link any more and will have none after a restart.
    ///
    /// # Errors
    /// As [`UnixClient::post`]; `BadRequest` for a snapshot that breaks its rules.
    pub async fn set_members(&self, members: &Members) -> Result<MembersInForce, ApiError> {
        self.http.post("/members", members).await
    }

    /// Lets the holder of an invite in to ask; returns the invite's text.
    ///
    /// # Errors
    /// As [`UnixClient::post`]; `Busy` when too many are open.
    pub async fn open_invite(&self, invite: &OpenInvite) -> Result<InviteOpened, ApiError> {
        self.http.post("/invite/open", invite).await
    }

    /// Makes a secret for the next epoch; nothing changes until
    /// [`MeshClient::enforce_epoch`] names its hash.
    ///
    /// # Errors
    /// As [`UnixClient::post`].
    pub async fn make_epoch(&self) -> Result<EpochMade, ApiError> {
        self.http.post("/epoch/new", &serde_json::json!({})).await
    }

    /// Puts an epoch in force, durably; fetches its secret where needed.
    ///
    /// # Errors
    /// As [`UnixClient::post`]; `PeerOffline`, `EpochStale` and others of the
    /// mesh while no voter that was asked has the secret: ask again.
    pub async fn enforce_epoch(&self, ask: &EnforceEpoch) -> Result<EpochInForce, ApiError> {
        self.http.post("/epoch", ask).await
    }

    /// Makes bytes a blob of this node, which other nodes may fetch.
    ///
    /// # Errors
    /// As [`UnixClient::post`]; `QuotaExceeded`, `DiskFull`.
    pub async fn put_blob(&self, bytes: Vec<u8>) -> Result<BlobStored, ApiError> {
        self.http.put_bytes("/blob", bytes).await
    }

    /// Brings a blob here from a peer.
    ///
    /// # Errors
    /// As [`UnixClient::post`]; `NotFound` when the peer has none, `Busy`.
    pub async fn fetch_blob(&self, fetch: &FetchBlob) -> Result<BlobStored, ApiError> {
        self.http.post("/blob/fetch", fetch).await
    }

    /// The bytes of a blob that is here, of at most [`MEMBERS_BYTES_MAX`].
    ///
    /// # Errors
    /// As [`UnixClient::get`]; `NotFound`.
    pub async fn blob(&self, hash: &str) -> Result<Vec<u8>, ApiError> {
        Ok(self.http.get_bytes(&format!("/blob/{hash}")).await?.into())
    }

    /// Has a subkey endorsed by the node's identity key.
    ///
    /// # Errors
    /// As [`UnixClient::post`]; `CallerDenied` for another daemon's purpose.
    pub async fn endorse(&self, request: &EndorseRequest) -> Result<Endorsed, ApiError> {
        self.http.post("/identity/endorse", request).await
    }
}

/// Opens outbound pipes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MeshPipes {
    socket: PathBuf,
    credentials: Credentials,
}

impl MeshPipes {
    /// Pipes of the node below these paths.
    #[must_use]
    pub fn new(paths: &Paths, credentials: Credentials) -> Self {
        Self { socket: paths.socket("mesh-stream"), credentials }
    }

    /// Opens a pipe to a service of a peer; what comes back carries raw bytes.
    ///
    /// # Errors
    /// `PeerUnknown`, `PeerOffline`, `ServiceDenied`, `Busy`, `Timeout`, and
    /// `DaemonUnavailable` when the mesh itself is away.
    ///
    /// # Cancel safety
    /// Dropping it gives the pipe up.
    pub async fn open(&self, peer: NodeId, service: Service) -> Result<UnixStream, ApiError> {
        stream::open(&self.socket, &self.credentials, hello(&PipeHello { peer, service })?, OPEN_TIME).await
    }
}

/// The first line on `mesh-stream.sock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipeHello {
    /// Whom to reach.
    pub peer: NodeId,
    /// Which of its services.
    pub service: Service,
}

/// Hands an inbound stream to the daemon that listens on `socket`; its handler
/// gets the [`StreamPeer`] from `kit::stream::serve_streams`.
///
/// # Errors
/// `DaemonUnavailable` when it is away, `Timeout`, or its refusal.
pub async fn deliver(
    socket: &std::path::Path,
    credentials: &Credentials,
    peer: &StreamPeer,
    time_limit: Duration,
) -> Result<UnixStream, ApiError> {
    stream::open(socket, credentials, hello(peer)?, time_limit).await
}

fn hello(value: &impl Serialize) -> Result<Map<String, Value>, ApiError> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(ApiError::internal("a first line is an object")),
        Err(error) => Err(ApiError::internal(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_are_those_of_the_contract() {
        let node = NodeId::from_bytes([0xab; 32]);
        let out = hello(&PipeHello { peer: node, service: Service::Raft }).unwrap();
        assert_eq!(Value::Object(out), serde_json::json!({ "peer": node.to_string(), "service": "raft" }));
        let peer = StreamPeer { node, role: Role::Voter, epoch: MeshEpoch(1), service: Service::Fleet };
        let inbound = Value::Object(hello(&peer).unwrap());
        assert_eq!(
            inbound,
            serde_json::json!({ "peer": node.to_string(), "role": "voter", "epoch": 1, "service": "fleet" })
        );
        assert_eq!(serde_json::from_value::<StreamPeer>(inbound).unwrap(), peer);
    }
}
