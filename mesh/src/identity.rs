//! A node's two keys: X25519 to talk, Ed25519 to sign. Never converted into
//! each other, never the same bytes.

use std::sync::Arc;

use ed25519_dalek::{Signer, SigningKey};
use osmoda_mesh_crypto::{LockedSecret, StaticKey};
use osmoda_mesh_protocol::{JoinRequest, node_id};
use osmoda_types::{InviteId, MeshKey, NetworkId, NodeId, PublicKey, Signature};

/// The keys and the id that follows from them.
pub struct Identity {
    transport: Arc<StaticKey>,
    /// The Ed25519 seed; the key is made from it for each signature (about 20 us),
    /// so that one locked page holds the only lasting copy.
    signing: LockedSecret,
    public: PublicKey,
    node: NodeId,
}

impl Identity {
    /// The identity with these keys.
    #[must_use]
    pub fn new(transport: StaticKey, signing: SigningKey) -> Self {
        let public = PublicKey::from_bytes(signing.verifying_key().to_bytes());
        let node = node_id(&transport.public(), &public);
        Self { transport: Arc::new(transport), signing: LockedSecret::new(signing.as_bytes()), public, node }
    }

    /// The node id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The public transport key.
    #[must_use]
    pub fn mesh_key(&self) -> MeshKey {
        self.transport.public()
    }

    /// The public identity key.
    #[must_use]
    pub fn identity_key(&self) -> PublicKey {
        self.public
    }

    /// Signs with the identity key. The caller says what the bytes mean by a
    /// prefix that no other statement shares.
    #[must_use]
    pub fn sign(&self, statement: &[u8]) -> Signature {
        Signature::from_bytes(SigningKey::from_bytes(self.signing.bytes()).sign(statement).to_bytes())
    }

    /// What this node says to join a network.
    #[must_use]
    pub fn join_request(
        &self,
        network: &NetworkId,
        invite: &InviteId,
        name: String,
        addresses: Vec<std::net::SocketAddr>,
    ) -> JoinRequest {
        let statement = JoinRequest::statement(network, invite, &self.mesh_key(), &self.identity_key());
        JoinRequest { identity_key: self.identity_key(), name, addresses, signature: self.sign(&statement) }
    }

    pub(crate) fn transport(&self) -> Arc<StaticKey> {
        self.transport.clone()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:?})", self.node)
    }
}
