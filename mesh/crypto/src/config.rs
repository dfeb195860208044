//! What quinn is given: one configuration per way of talking.
//!
//! A listener holds one [`ServerCrypto`] per secret it accepts (each epoch,
//! each open invite) and picks by the knock; a dialler builds one
//! [`ClientCrypto`] per target.

use std::sync::Arc;

use osmoda_types::{InviteId, MeshEpoch, MeshKey, NetworkId, NodeId};
use quinn_proto::{
    ConnectError, ConnectionId, Side,
    crypto::{self, Keys, UnsupportedVersion},
    transport_parameters::TransportParameters,
};

use crate::{
    QUIC_VERSION,
    keys::{self, Aead},
    secret::{Psk, StaticKey},
    session::NoiseSession,
};

/// Decides whether a proven static key may go on. Called inside the handshake,
/// so it must answer from memory.
pub trait Authorize: Send + Sync {
    /// Whether the owner of this key is admitted.
    fn admits(&self, key: &MeshKey) -> bool;
}

impl<F: Fn(&MeshKey) -> bool + Send + Sync> Authorize for F {
    fn admits(&self, key: &MeshKey) -> bool {
        self(key)
    }
}

/// What a handshake is for; part of the prologue, so both sides must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Between members, under the secret of an epoch.
    Mesh(MeshEpoch),
    /// Between an issuer and a joiner, under the secret of an invite.
    Pair(InviteId),
    /// Between a voter and a member that was away, under that member's own
    /// secret.
    Rejoin(NodeId),
}

/// One side of a handshake.
pub struct Party {
    /// This node's static key.
    pub key: Arc<StaticKey>,
    /// The secret that both sides share.
    pub psk: Psk,
    /// The fleet.
    pub network: NetworkId,
    /// What the handshake is for.
    pub mode: Mode,
    /// Who may be at the other end.
    pub authorize: Arc<dyn Authorize>,
}

impl Party {
    /// The prologue of `mesh.md` section 8; different on any disagreement, and
    /// then the first message does not decrypt.
    pub(crate) fn prologue(&self) -> Vec<u8> {
        let mut out = b"mesh1".to_vec();
        out.extend_from_slice(&QUIC_VERSION.to_be_bytes());
        out.extend_from_slice(self.network.as_bytes());
        match self.mode {
            Mode::Mesh(epoch) => {
                out.push(1);
                out.extend_from_slice(&epoch.0.to_be_bytes());
            }
            Mode::Pair(invite) => {
                out.push(2);
                out.extend_from_slice(invite.as_bytes());
            }
            Mode::Rejoin(node) => {
                out.push(3);
                out.extend_from_slice(node.as_bytes());
            }
        }
        out
    }
}

/// The dialler's side of quinn's crypto interface.
pub struct ClientCrypto {
    pub(crate) party: Party,
    pub(crate) hello: Vec<u8>,
}

impl ClientCrypto {
    /// `hello` is sent inside the third message, to a responder that has
    /// proven its key; at most [`crate::HELLO_BYTES_MAX`] bytes, else the
    /// handshake fails.
    #[must_use]
    pub fn new(party: Party, hello: Vec<u8>) -> Self {
        Self { party, hello }
    }
}

impl crypto::ClientConfig for ClientCrypto {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        _server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        if version != QUIC_VERSION {
            return Err(ConnectError::UnsupportedVersion);
        }
        Ok(Box::new(NoiseSession::client(&self.party, self.hello.clone(), params)))
    }
}

/// The listener's side of quinn's crypto interface.
pub struct ServerCrypto {
    pub(crate) party: Party,
    pub(crate) aead: Aead,
}

impl ServerCrypto {
    /// `aead` protects the application packets of every connection accepted
    /// with this configuration; [`Aead::preferred`] unless a test says otherwise.
    #[must_use]
    pub fn new(party: Party, aead: Aead) -> Self {
        Self { party, aead }
    }
}

impl crypto::ServerConfig for ServerCrypto {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        if version == QUIC_VERSION { Ok(keys::initial(dst_cid, Side::Server)) } else { Err(UnsupportedVersion) }
    }

    fn retry_tag(&self, _version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; keys::RETRY_TAG_BYTES] {
        keys::retry_tag(orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, _version: u32, params: &TransportParameters) -> Box<dyn crypto::Session> {
        Box::new(NoiseSession::server(&self.party, self.aead, params))
    }
}
