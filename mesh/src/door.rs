//! What a first packet may knock at: each accepted epoch and each open invite
//! is a door with its own knock key and its own handshake secret.

use std::sync::Arc;

use arc_swap::ArcSwap;
use osmoda_mesh_crypto::{Aead, Authorize, KnockKey, Mode, Party, Psk, ServerCrypto};
use osmoda_mesh_protocol::{Members, SecretBytes, knock_is_valid};
use osmoda_types::{InviteId, MeshKey, NetworkId};
use quinn::{ServerConfig, ValidationTokenConfig};

use crate::{config::EpochSecret, error::MeshError, identity::Identity, tuning::Tuning};

/// Bound on open invites. Each costs one HMAC (about 0.2 us, three time slots)
/// per packet of a stranger (`mesh.md` section 8).
const INVITES_MAX: usize = 64;

/// How long a used-up or expired invite is still recognised, so that its holder
/// hears `invite_spent` or `invite_expired` instead of silence.
const INVITE_REMEMBERED_MS: i64 = 24 * 60 * 60 * 1000;

/// Connections in the handshake that quinn keeps for us to judge; the default
/// of 65,536 is made for public servers (`mesh.md` section 7, item 5).
const INCOMING_MAX: usize = 256;

/// Bytes kept per connection before it is judged: two full first flights.
const INCOMING_BUFFER_BYTES: u64 = 8 * 1024;

/// The same for all together.
const INCOMING_BUFFER_TOTAL_BYTES: u64 = 4 * 1024 * 1024;

/// An invite that this node issued.
#[derive(Debug, Clone)]
pub struct InviteSecret {
    /// Its public name.
    pub id: InviteId,
    /// What its holder proves.
    pub secret: SecretBytes,
    /// Wall time in ms after which it is void.
    pub expires_ms: i64,
}

/// One accepted secret.
pub(crate) struct Door {
    pub(crate) mode: Mode,
    /// For an invite: when it is void.
    pub(crate) expires_ms: Option<i64>,
    pub(crate) config: Arc<ServerConfig>,
    knock: KnockKey,
}

/// All doors of an endpoint. Replaced as a whole, so the listener reads one
/// consistent set without a lock.
pub(crate) struct Doors {
    network: NetworkId,
    identity: Arc<Identity>,
    tuning: Tuning,
    members: Arc<ArcSwap<Members>>,
    current: ArcSwap<Vec<Arc<Door>>>,
}

impl Doors {
    /// One door per epoch secret.
    pub(crate) fn new(
        network: NetworkId,
        identity: Arc<Identity>,
        tuning: Tuning,
        members: Arc<ArcSwap<Members>>,
        secrets: &[EpochSecret],
    ) -> Self {
        let doors = Self { network, identity, tuning, members, current: ArcSwap::default() };
        let open = secrets.iter().map(|secret| {
            let psk = Psk::mesh(&network, secret.epoch, secret.secret.bytes());
            Arc::new(doors.build(psk, Mode::Mesh(secret.epoch), None))
        });
        doors.current.store(Arc::new(open.collect()));
        doors
    }

    /// The door that this connection id was made for, if any.
    pub(crate) fn knocked(&self, dcid: &[u8], now_ms: i64) -> Option<Arc<Door>> {
        let doors = self.current.load();
        doors.iter().find(|door| knock_is_valid(door.knock.bytes(), dcid, now_ms)).cloned()
    }

    /// Opens an invite; opening the same id again replaces it.
    pub(crate) fn open_invite(&self, invite: &InviteSecret, now_ms: i64) -> Result<(), MeshError> {
        let psk = Psk::pair(&self.network, &invite.id, invite.secret.bytes());
        let mode = Mode::Pair(invite.id);
        let door = Arc::new(self.build(psk, mode, Some(invite.expires_ms)));
        let remembered = |door: &Arc<Door>| {
            door.expires_ms.is_none_or(|expires| now_ms < expires.saturating_add(INVITE_REMEMBERED_MS))
        };
        let mut full = false;
        self.current.rcu(|doors| {
            let mut next: Vec<_> = doors.iter().filter(|d| d.mode != mode && remembered(d)).cloned().collect();
            full = next.iter().filter(|door| door.expires_ms.is_some()).count() >= INVITES_MAX;
            if !full {
                next.push(door.clone());
            }
            next
        });
        if full { Err(MeshError::InvitesFull(INVITES_MAX)) } else { Ok(()) }
    }

    /// The configuration quinn uses before a door is chosen: it only derives
    /// Initial keys and Retry tokens and bounds memory.
    pub(crate) fn default_config(&self) -> Result<ServerConfig, MeshError> {
        let doors = self.current.load();
        let door = doors.first().ok_or(MeshError::NoSecret)?;
        Ok(ServerConfig::clone(&door.config))
    }

    fn build(&self, psk: Psk, mode: Mode, expires_ms: Option<i64>) -> Door {
        let knock = psk.knock_key();
        let authorize: Arc<dyn Authorize> = match mode {
            Mode::Mesh(_) => {
                let (members, own) = (self.members.clone(), self.identity.mesh_key());
                Arc::new(move |key: &MeshKey| *key != own && members.load().by_key(key).is_some())
            }
            // Whoever proves the invite's secret may ask; the enroller decides.
            Mode::Pair(_) => Arc::new(|_: &MeshKey| true),
        };
        let party = Party { key: self.identity.transport(), psk, network: self.network, mode, authorize };
        let mut config = ServerConfig::with_crypto(Arc::new(ServerCrypto::new(party, Aead::preferred())));
        config.transport_config(self.tuning.transport(0));
        config.max_incoming(INCOMING_MAX);
        config.incoming_buffer_size(INCOMING_BUFFER_BYTES);
        config.incoming_buffer_size_total(INCOMING_BUFFER_TOTAL_BYTES);
        // Tokens for later connections would be one more thing to replay.
        config.validation_token_config(quiet_tokens());
        Door { mode, expires_ms, config: Arc::new(config), knock }
    }
}

fn quiet_tokens() -> ValidationTokenConfig {
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0);
    tokens
}
