//! What a first packet may knock at: each accepted epoch, each open invite and
//! each member that may come back is a door with its own knock key and its own
//! handshake secret.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use osmoda_mesh_crypto::{Aead, Authorize, Mode, Party, Psk, ServerCrypto};
use osmoda_mesh_protocol::{KnockCheck, Members, SecretBytes};
use osmoda_types::{InviteId, MeshKey, NetworkId};
use quinn::{ServerConfig, ValidationTokenConfig};

use crate::{
    config::{EpochSecret, RejoinSecret},
    epochs::Epochs,
    error::MeshError,
    identity::Keyring,
    rejoin::Returners,
    tuning::Tuning,
};

/// Bound on invites, those that have ended included: when there is no room, the
/// one that ended first makes some. Each costs one HMAC (about 0.2 us, three time
/// slots) per packet of a stranger (`mesh.md` section 8).
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

/// When a door closes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// It does not.
    Replaced,
    /// In boot time: an epoch that was followed by another.
    Boot(Duration),
    /// In wall time, in ms: an invite.
    Wall(i64),
}

/// One accepted secret.
pub(crate) struct Door {
    pub(crate) mode: Mode,
    pub(crate) config: Arc<ServerConfig>,
    /// This node's transport key behind it.
    pub(crate) own: MeshKey,
    until: Until,
    /// Wall time in ms when an invite was first known to be spent; until then
    /// [`NOT_SPENT`].
    spent_ms: AtomicI64,
    knock: KnockCheck,
}

/// Later than any time.
const NOT_SPENT: i64 = i64::MAX;

impl Door {
    /// Notes that an invite is of no use to anybody else any more. Its holder is
    /// still answered, for as long as there is room.
    pub(crate) fn spend(&self, now_ms: i64) {
        self.spent_ms.fetch_min(now_ms, Ordering::Relaxed);
    }

    /// When an invite ended, if it has at wall time `now_ms`.
    fn ended_ms(&self, now_ms: i64) -> Option<i64> {
        let expires_ms = if let Until::Wall(expires_ms) = self.until { expires_ms } else { NOT_SPENT };
        let ended_ms = expires_ms.min(self.spent_ms.load(Ordering::Relaxed));
        (ended_ms <= now_ms).then_some(ended_ms)
    }

    /// Whether an invite is recognised at wall time `now_ms`, open or not.
    fn remembered(&self, now_ms: i64) -> bool {
        !self.expired(now_ms.saturating_sub(INVITE_REMEMBERED_MS))
    }

    /// Whether an invite's time is over at wall time `now_ms`.
    pub(crate) fn expired(&self, now_ms: i64) -> bool {
        matches!(self.until, Until::Wall(expires_ms) if now_ms >= expires_ms)
    }

    fn open_at(&self, now_boot: Duration) -> bool {
        !matches!(self.until, Until::Boot(until) if now_boot >= until)
    }
}

/// All doors of an endpoint. Each part is replaced as a whole, so the listener
/// reads a consistent set without a lock.
pub(crate) struct Doors {
    network: NetworkId,
    keyring: Arc<Keyring>,
    tuning: Tuning,
    members: Arc<ArcSwap<Members>>,
    /// Newest first; at most two.
    epochs: ArcSwap<Vec<Arc<Door>>>,
    invites: ArcSwap<Vec<Arc<Door>>>,
    returners: ArcSwap<Returners>,
}

impl Doors {
    /// The doors of these secrets, and no invite.
    pub(crate) fn new(
        network: NetworkId,
        keyring: Arc<Keyring>,
        tuning: Tuning,
        members: Arc<ArcSwap<Members>>,
        epochs: &Epochs,
        rejoins: &[RejoinSecret],
    ) -> Self {
        let returners = ArcSwap::from_pointee(Returners::new(&network, rejoins));
        let (invites, empty) = (ArcSwap::default(), ArcSwap::default());
        let doors = Self { network, keyring, tuning, members, epochs: empty, invites, returners };
        doors.set_epochs(epochs);
        doors
    }

    /// Replaces the doors of the epochs.
    pub(crate) fn set_epochs(&self, epochs: &Epochs) {
        let door = |secret: &EpochSecret, until| {
            let psk = Psk::mesh(&self.network, secret.epoch, secret.secret.bytes());
            Arc::new(self.build(psk, Mode::Mesh(secret.epoch), until))
        };
        let mut next = vec![door(epochs.current(), Until::Replaced)];
        next.extend(epochs.previous_until().map(|(secret, until)| door(secret, Until::Boot(until))));
        self.epochs.store(Arc::new(next));
    }

    /// Puts this node's new keys behind every door. Its open invites name the old
    /// ones, so they are closed; the log has ended them.
    pub(crate) fn rekey(&self, epochs: &Epochs) {
        self.set_epochs(epochs);
        self.invites.store(Arc::default());
    }

    /// Replaces the secrets of members that may come back.
    pub(crate) fn set_returners(&self, rejoins: &[RejoinSecret]) {
        self.returners.store(Arc::new(Returners::new(&self.network, rejoins)));
    }

    /// The door that this connection id was made for, if any.
    pub(crate) fn knocked(&self, dcid: &[u8], now_ms: i64, now_boot: Duration) -> Option<Arc<Door>> {
        self.standing(dcid, now_ms, now_boot).or_else(|| {
            let (mode, psk) = self.returners.load().knocked(dcid, now_ms)?;
            Some(Arc::new(self.build(psk, mode, Until::Replaced)))
        })
    }

    /// Whether this connection id was made for any of the doors.
    pub(crate) fn has_knocked(&self, dcid: &[u8], now_ms: i64, now_boot: Duration) -> bool {
        self.standing(dcid, now_ms, now_boot).is_some() || self.returners.load().has_knocked(dcid, now_ms)
    }

    /// The door of an epoch or an invite.
    fn standing(&self, dcid: &[u8], now_ms: i64, now_boot: Duration) -> Option<Arc<Door>> {
        let (epochs, invites) = (self.epochs.load(), self.invites.load());
        let invites = invites.iter().filter(|door| door.remembered(now_ms));
        let open = epochs.iter().filter(|door| door.open_at(now_boot)).chain(invites);
        let mut open = open.filter(|door| door.knock.is_valid(dcid, now_ms));
        open.next().cloned()
    }

    /// The door of the newest epoch.
    pub(crate) fn newest(&self) -> Option<Arc<Door>> {
        self.epochs.load().first().cloned()
    }

    /// Opens an invite; opening the same id again replaces it. When there is no
    /// room, the invite that ended first is forgotten.
    pub(crate) fn open_invite(&self, invite: &InviteSecret, now_ms: i64) -> Result<(), MeshError> {
        let psk = Psk::pair(&self.network, &invite.id, invite.secret.bytes());
        let mode = Mode::Pair(invite.id);
        let door = Arc::new(self.build(psk, mode, Until::Wall(invite.expires_ms)));
        let mut full = false;
        self.invites.rcu(|doors| {
            let mut next: Vec<_> = doors.iter().filter(|d| d.mode != mode && d.remembered(now_ms)).cloned().collect();
            let ended = next.iter().enumerate().filter_map(|(at, door)| Some((door.ended_ms(now_ms)?, at)));
            if next.len() >= INVITES_MAX
                && let Some((_, at)) = ended.min()
            {
                next.remove(at);
            }
            full = next.len() >= INVITES_MAX;
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
        let door = self.newest().ok_or(MeshError::NoSecret)?;
        Ok(ServerConfig::clone(&door.config))
    }

    fn build(&self, psk: Psk, mode: Mode, until: Until) -> Door {
        let knock = KnockCheck::new(psk.knock_key().bytes());
        let (members, identity) = (self.members.clone(), self.keyring.now());
        let own = identity.mesh_key();
        let authorize: Arc<dyn Authorize> = match mode {
            Mode::Mesh(_) => Arc::new(move |key: &MeshKey| *key != own && members.load().by_key(key).is_some()),
            Mode::Rejoin(node) => Arc::new(move |key: &MeshKey| {
                *key != own && members.load().by_key(key).is_some_and(|member| member.node == node)
            }),
            // Whoever proves the invite's secret may ask; the enroller decides.
            Mode::Pair(_) => Arc::new(|_: &MeshKey| true),
        };
        let party = Party { key: identity.transport(), psk, network: self.network, mode, authorize };
        let mut config = ServerConfig::with_crypto(Arc::new(ServerCrypto::new(party, Aead::preferred())));
        config.transport_config(self.tuning.transport(0));
        config.max_incoming(INCOMING_MAX);
        config.incoming_buffer_size(INCOMING_BUFFER_BYTES);
        config.incoming_buffer_size_total(INCOMING_BUFFER_TOTAL_BYTES);
        // Tokens for later connections would be one more thing to replay.
        config.validation_token_config(quiet_tokens());
        Door { mode, config: Arc::new(config), own, until, spent_ms: NOT_SPENT.into(), knock }
    }
}

fn quiet_tokens() -> ValidationTokenConfig {
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0);
    tokens
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use osmoda_mesh_crypto::StaticKey;
    use osmoda_mesh_protocol::knock;
    use osmoda_types::MeshEpoch;

    use super::*;
    use crate::identity::Identity;

    const NETWORK: NetworkId = NetworkId::from_bytes([7; 32]);

    #[test]
    fn an_invite_is_recognised_for_a_day_after_its_end_and_no_longer() {
        let identity = Identity::new(StaticKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let secrets = EpochSecret { epoch: MeshEpoch(1), secret: SecretBytes::new([3; 32]) }.into();
        let epochs = Epochs::begin(&secrets, 0, Duration::ZERO).unwrap();
        let keyring = Arc::new(Keyring::new(Arc::new(identity)));
        let doors = Doors::new(NETWORK, keyring, Tuning::default(), Arc::default(), &epochs, &[]);
        let (id, secret) = (InviteId::from_bytes([5; 16]), SecretBytes::new([6; 32]));
        let key = Psk::pair(&NETWORK, &id, secret.bytes()).knock_key();
        doors.open_invite(&InviteSecret { id, secret, expires_ms: 1_000 }, 0).unwrap();
        let is_recognised = |now_ms| {
            let dcid = knock(key.bytes(), [1; 8], now_ms);
            let door = doors.knocked(&dcid, now_ms, Duration::ZERO);
            assert_eq!(door.is_some(), doors.has_knocked(&dcid, now_ms, Duration::ZERO));
            door.map(|door| door.expired(now_ms))
        };
        assert_eq!(is_recognised(999), Some(false));
        assert_eq!(is_recognised(1_000), Some(true));
        assert_eq!(is_recognised(999 + INVITE_REMEMBERED_MS), Some(true));
        assert_eq!(is_recognised(1_000 + INVITE_REMEMBERED_MS), None);
    }
}
