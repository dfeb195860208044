//! A node's two keys: X25519 to talk, Ed25519 to sign. Never converted into
//! each other, never the same bytes.
//!
//! The id is that of the first keys and stays when they change, so it is kept
//! beside them.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use ed25519_dalek::{Signer, SigningKey};
use osmoda_mesh_crypto::{LockedSecret, StaticKey};
use osmoda_mesh_protocol::{JoinRequest, SUCCESSIONS_MAX, Succession, node_id};
use osmoda_types::{InviteId, MeshKey, NetworkId, NodeId, PublicKey, Signature};

/// The keys, whose they are, and how they came to be.
pub struct Identity {
    transport: Arc<StaticKey>,
    /// The Ed25519 seed; the key is made from it for each signature (about 20 us),
    /// so that one locked page holds the only lasting copy.
    signing: LockedSecret,
    public: PublicKey,
    node: NodeId,
    /// Oldest first; the last one named these keys.
    past: Vec<Succession>,
    /// Identity keys that were replaced, for what names them and cannot follow.
    retired: Vec<(PublicKey, LockedSecret)>,
}

impl Identity {
    /// The identity whose first keys these are.
    #[must_use]
    pub fn new(transport: StaticKey, signing: SigningKey) -> Self {
        let public = PublicKey::from_bytes(signing.verifying_key().to_bytes());
        let node = node_id(&transport.public(), &public);
        Self {
            transport: Arc::new(transport),
            signing: LockedSecret::new(signing.as_bytes()),
            public,
            node,
            past: Vec::new(),
            retired: Vec::new(),
        }
    }

    /// As of a node whose keys were changed; of `past` the newest are kept.
    /// `retired` are the identity keys it had before.
    #[must_use]
    pub fn of(self, node: NodeId, mut past: Vec<Succession>, retired: &[SigningKey]) -> Self {
        past.drain(..past.len().saturating_sub(SUCCESSIONS_MAX));
        let locked = |key: &SigningKey| {
            (PublicKey::from_bytes(key.verifying_key().to_bytes()), LockedSecret::new(key.as_bytes()))
        };
        Self { node, past, retired: retired.iter().map(locked).collect(), ..self }
    }

    /// The node id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The last changes of keys, oldest first.
    #[must_use]
    pub fn past(&self) -> &[Succession] {
        &self.past
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

    /// Whether the identity key is one of this node's, the replaced ones included.
    #[must_use]
    pub fn holds(&self, key: &PublicKey) -> bool {
        self.public == *key || self.retired.iter().any(|(retired, _)| retired == key)
    }

    /// Signs with that identity key, which may be one that was replaced: only
    /// for what names it and cannot follow, which is a room.
    #[must_use]
    pub fn signer(&self, key: PublicKey) -> Option<impl Fn(&[u8]) -> Signature + '_> {
        let retired = || self.retired.iter().find(|(retired, _)| *retired == key).map(|(_, secret)| secret);
        let seed = if self.public == key { &self.signing } else { retired()? };
        Some(|statement: &[u8]| Signature::from_bytes(SigningKey::from_bytes(seed.bytes()).sign(statement).to_bytes()))
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

/// The keys an endpoint uses now, and those it has prepared: the only place
/// where they change. Invariant: the id is the same for all of them.
pub struct Keyring {
    node: NodeId,
    now: ArcSwap<Identity>,
    next: ArcSwapOption<Identity>,
}

impl Keyring {
    /// These in use, and none prepared.
    #[must_use]
    pub fn new(identity: Arc<Identity>) -> Self {
        Self { node: identity.node(), now: ArcSwap::new(identity), next: ArcSwapOption::empty() }
    }

    /// Whose keys these are.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Those in use.
    #[must_use]
    pub fn now(&self) -> Arc<Identity> {
        self.now.load_full()
    }

    /// Those that are prepared: the fleet may have them already, when this node
    /// went down before it heard so.
    pub(crate) fn next(&self) -> Option<Arc<Identity>> {
        self.next.load_full()
    }

    pub(crate) fn prepare(&self, next: Option<Arc<Identity>>) {
        self.next.store(next);
    }

    /// Uses these from now on; none are prepared then.
    pub(crate) fn change(&self, identity: Arc<Identity>) {
        self.now.store(identity);
        self.next.store(None);
    }

    /// Whether a handshake with this key was one of this node's that counts.
    pub(crate) fn has(&self, key: &MeshKey) -> bool {
        self.now.load().mesh_key() == *key || self.next.load().as_ref().is_some_and(|next| next.mesh_key() == *key)
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({:?})", self.node)
    }
}
