//! Which datagrams quinn may see at all.
//!
//! quinn answers packets of other versions, and some malformed first packets,
//! and derives keys (about 8 us) for every first packet before anybody may look
//! at its connection id. So this is judged before: a long header is let through
//! when its version is ours and its connection id is either one that this
//! endpoint made (all packets after the first flight, and what follows a Retry)
//! or a knock at one of our doors. A few without a knock pass where the policy
//! lets members prove their address instead; the gate judges those.
//!
//! Packets that share a datagram share a connection id (RFC 9000 section 12.2),
//! so the first one speaks for all. Short headers pass: quinn looks their id up
//! and checks it as cheaply as this could.
//!
//! Invariant: a stranger's long header costs a few HMACs (about 1 us), no
//! memory and no byte back (`tests/one/silence.rs`).

use std::cell::LazyCell;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use osmoda_kit::clock::SharedClock;
use osmoda_mesh_crypto::{OwnIds, QUIC_VERSION, StaticKey};
use osmoda_mesh_protocol::{Bucket, KNOCK_BYTES, Members, Rate};

use crate::{door::Doors, gate::Known, tuning::KnockFallback};

/// The long-header bit of a QUIC packet (RFC 8999 section 5.1).
const LONG_HEADER: u8 = 0x80;

/// First packets without a knock that are let through to the gate, which answers
/// fewer (ten a second): each handshake begins with two of them and repeats
/// them. Too many, and a flood under a member's address costs keys again.
const UNKNOCKED: Rate = Rate { per_second: 50, burst: 160 };

/// The judge of received datagrams.
pub(crate) struct Sieve {
    own: OwnIds,
    /// None where only we dial.
    knocks: Option<Arc<Knocks>>,
}

/// Who else may begin.
pub(crate) struct Knocks {
    doors: Arc<Doors>,
    members: Arc<ArcSwap<Members>>,
    policy: KnockFallback,
    clock: SharedClock,
    /// Only the endpoint's one receiving task looks, so nobody waits.
    fallback: Mutex<Fallback>,
}

/// Who may be heard without a knock, and how often.
struct Fallback {
    known: Known,
    bucket: Bucket,
}

/// Wall time in ms, and boot time.
type Now = (i64, Duration);

impl Sieve {
    /// The sieve of an endpoint with this key's connection ids.
    pub(crate) fn new(key: &StaticKey, knocks: Arc<Knocks>) -> Self {
        Self { own: OwnIds::new(key), knocks: Some(knocks) }
    }

    /// The sieve of an endpoint that only dials.
    pub(crate) fn of_dialler(key: &StaticKey) -> Self {
        Self { own: OwnIds::new(key), knocks: None }
    }

    /// Closes up the datagrams of one buffer over those that quinn must not see
    /// and returns the length that is left. The kernel puts datagrams of one
    /// source and one size together, the last one possibly shorter; whoever
    /// writes that source on a packet must not get the honest ones dropped.
    pub(crate) fn keep(&self, bytes: &mut [u8], stride: usize, source: SocketAddr) -> usize {
        // The time is asked for once, and only for strangers' long headers.
        let now = LazyCell::new(|| self.knocks.as_ref().map_or((0, Duration::ZERO), |knocks| knocks.now()));
        let (stride, length) = (stride.max(1), bytes.len());
        let mut kept = 0;
        for from in (0..length).step_by(stride) {
            let to = length.min(from + stride);
            let passes = match Seen::of(&bytes[from..to]) {
                Seen::Short => true,
                Seen::Foreign => false,
                // Every dialler of the mesh begins with an id of this length.
                Seen::Long(dcid) if dcid.len() == KNOCK_BYTES => {
                    self.knocks.as_ref().is_some_and(|knocks| knocks.admit(dcid, source, *now))
                }
                Seen::Long(dcid) => self.own.made(dcid),
            };
            if passes {
                if kept != from {
                    bytes.copy_within(from..to, kept);
                }
                kept += to - from;
            }
        }
        kept
    }
}

impl Knocks {
    /// What knocks at these doors, and what this policy lets pass without.
    pub(crate) fn new(
        doors: Arc<Doors>,
        members: Arc<ArcSwap<Members>>,
        policy: KnockFallback,
        clock: SharedClock,
    ) -> Self {
        let fallback = Mutex::new(Fallback { known: Known::default(), bucket: Bucket::full() });
        Self { doors, members, policy, clock, fallback }
    }

    fn now(&self) -> Now {
        (self.clock.now_wall().as_millis(), self.clock.now_boot())
    }

    fn admit(&self, dcid: &[u8], source: SocketAddr, (now_ms, now_boot): Now) -> bool {
        self.doors.has_knocked(dcid, now_ms, now_boot) || self.may_prove_itself(source, now_boot)
    }

    fn may_prove_itself(&self, source: SocketAddr, now_boot: Duration) -> bool {
        if self.policy == KnockFallback::Off {
            return false;
        }
        let mut fallback = self.fallback.lock().unwrap_or_else(PoisonError::into_inner);
        fallback.known.follow(&self.members.load());
        let may = self.policy == KnockFallback::Anyone || fallback.known.has(&source);
        may && fallback.bucket.take(UNKNOCKED, now_boot)
    }
}

impl fmt::Debug for Sieve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sieve(..)")
    }
}

/// What a datagram begins with.
#[derive(Debug, PartialEq, Eq)]
enum Seen<'a> {
    /// A short header.
    Short,
    /// A long header of our version, to this connection id.
    Long(&'a [u8]),
    /// Anything else.
    Foreign,
}

impl<'a> Seen<'a> {
    fn of(datagram: &'a [u8]) -> Self {
        match datagram {
            [first, ..] if first & LONG_HEADER == 0 => Seen::Short,
            [_, v0, v1, v2, v3, length, rest @ ..] if [*v0, *v1, *v2, *v3] == QUIC_VERSION.to_be_bytes() => {
                rest.get(..usize::from(*length)).map_or(Seen::Foreign, Seen::Long)
            }
            _ => Seen::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use osmoda_kit::testing::FakeClock;
    use osmoda_mesh_crypto::Psk;
    use osmoda_mesh_protocol::{Member, SecretBytes, knock, rejoin_knock};
    use osmoda_types::{InviteId, MeshEpoch, NetworkId, Role};
    use quinn::ConnectionIdGenerator as _;

    use super::*;
    use crate::{
        config::{EpochSecret, RejoinSecret},
        door::InviteSecret,
        epochs::Epochs,
        identity::{Identity, Keyring},
        tuning::Tuning,
    };

    const NETWORK: NetworkId = NetworkId::from_bytes([7; 32]);
    const MEMBER: &str = "192.0.2.1:18800";
    const STRANGER: &str = "203.0.113.9:4000";

    struct Scene {
        sieve: Sieve,
        own: Vec<u8>,
        epoch: [u8; 32],
        invite: [u8; 32],
        returner: [u8; 32],
        clock: FakeClock,
    }

    impl Scene {
        fn new(policy: KnockFallback) -> Self {
            let identity = Arc::new(Identity::new(StaticKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32])));
            let member = Member {
                node: identity.node(),
                mesh_key: identity.mesh_key(),
                identity_key: identity.identity_key(),
                role: Role::Voter,
                name: "n".into(),
                addresses: vec![MEMBER.parse().unwrap()],
            };
            let (node, epoch) = (member.node, MeshEpoch(1));
            let members = Members { index: 1, epoch, members: vec![member] };
            let members = Arc::new(ArcSwap::from_pointee(members));
            let clock = FakeClock::new();
            let shared: SharedClock = Arc::new(clock.clone());
            let (now_ms, now_boot) = (shared.now_wall().as_millis(), shared.now_boot());
            let secrets = EpochSecret { epoch, secret: SecretBytes::new([3; 32]) }.into();
            let epochs = Epochs::begin(&secrets, now_ms, now_boot).unwrap();
            let rejoins = [RejoinSecret { node, secret: SecretBytes::new([4; 32]) }];
            let (keys, tuning) = (Arc::new(Keyring::new(identity.clone())), Tuning::default());
            let doors = Arc::new(Doors::new(NETWORK, keys, tuning, members.clone(), &epochs, &rejoins));
            let (id, secret) = (InviteId::from_bytes([5; 16]), SecretBytes::new([6; 32]));
            doors.open_invite(&InviteSecret { id, secret, expires_ms: now_ms + 60_000 }, now_ms).unwrap();
            let knock_of = |psk: Psk| *psk.knock_key().bytes();
            Self {
                sieve: Sieve::new(&identity.transport(), Arc::new(Knocks::new(doors, members, policy, shared))),
                own: OwnIds::new(&identity.transport()).generate_cid().to_vec(),
                epoch: knock_of(Psk::mesh(&NETWORK, epoch, &[3; 32])),
                invite: knock_of(Psk::pair(&NETWORK, &id, &[6; 32])),
                returner: knock_of(Psk::rejoin(&NETWORK, &node, &[4; 32])),
                clock,
            }
        }

        fn now_ms(&self) -> i64 {
            osmoda_kit::clock::Clock::now_wall(&self.clock).as_millis()
        }

        /// What is left of a burst of datagrams of this size from there.
        fn left(&self, burst: &[Vec<u8>], stride: usize, source: &str) -> Vec<u8> {
            let mut bytes = burst.concat();
            let kept = self.sieve.keep(&mut bytes, stride, source.parse().unwrap());
            bytes.truncate(kept);
            bytes
        }

        fn passes(&self, datagram: &[u8], source: &str) -> bool {
            let left = self.left(&[datagram.to_vec()], datagram.len(), source);
            assert!(left.is_empty() || left == datagram);
            left.len() == datagram.len()
        }
    }

    /// The beginning of a packet with this first byte to this connection id.
    fn long(first: u8, dcid: &[u8]) -> Vec<u8> {
        let length = u8::try_from(dcid.len()).unwrap();
        [&[first][..], &QUIC_VERSION.to_be_bytes(), &[length], dcid, &[8; 9]].concat()
    }

    const INITIAL: u8 = 0xc3;
    const HANDSHAKE: u8 = 0xe3;

    #[test]
    fn only_knocks_and_own_ids_pass_with_a_long_header() {
        let scene = Scene::new(KnockFallback::Members);
        let now_ms = scene.now_ms();
        for key in [scene.epoch, scene.invite] {
            assert!(scene.passes(&long(INITIAL, &knock(&key, [1; 8], now_ms)), STRANGER));
        }
        let back = rejoin_knock(&scene.returner, [1; 2], now_ms);
        assert!(scene.passes(&long(INITIAL, &back), STRANGER));
        // What follows a Retry or our first answer goes to an id that we made.
        for first in [INITIAL, HANDSHAKE] {
            assert!(scene.passes(&long(first, &scene.own), STRANGER));
        }
        for first in [INITIAL, HANDSHAKE, 0xd3, 0xf3] {
            for dcid in [&[9; 20][..], &[9; 14], &[9; 8], &[9; 4], &[]] {
                assert!(!scene.passes(&long(first, dcid), STRANGER), "{first:x} {dcid:?}");
            }
        }
        // A knock of another secret, of another time, and one that is cut.
        assert!(!scene.passes(&long(INITIAL, &knock(&[8; 32], [1; 8], now_ms)), STRANGER));
        assert!(!scene.passes(&long(INITIAL, &knock(&scene.epoch, [1; 8], now_ms + 90_000)), STRANGER));
        assert!(!scene.passes(&long(INITIAL, &knock(&scene.epoch, [1; 8], now_ms)[..19]), STRANGER));
        scene.clock.advance(Duration::from_secs(90));
        assert!(!scene.passes(&long(INITIAL, &knock(&scene.epoch, [1; 8], now_ms)), STRANGER));
    }

    #[test]
    fn whoever_only_dials_hears_its_own_ids_only() {
        let scene = Scene::new(KnockFallback::Anyone);
        let mut ids = OwnIds::new(&StaticKey::from_bytes(&[1; 32]));
        let sieve = Sieve::of_dialler(&StaticKey::from_bytes(&[1; 32]));
        let source = STRANGER.parse().unwrap();
        let mut answer = long(INITIAL, &ids.generate_cid());
        assert_eq!(sieve.keep(&mut answer.clone(), 2000, source), answer.len());
        answer = long(INITIAL, &knock(&scene.epoch, [1; 8], scene.now_ms()));
        assert_eq!(sieve.keep(&mut answer, 2000, source), 0);
    }

    #[test]
    fn hygiene_02_foreign_versions_and_cut_headers_do_not_pass_and_short_headers_do() {
        let scene = Scene::new(KnockFallback::Anyone);
        let ours = long(INITIAL, &knock(&scene.epoch, [1; 8], scene.now_ms()));
        for cut in 1..6 + 20 {
            assert!(!scene.passes(&ours[..cut], STRANGER), "{cut}");
        }
        let mut foreign = ours;
        foreign[4] ^= 1;
        assert!(!scene.passes(&foreign, STRANGER));
        // Version 0 asks to negotiate, and asks whoever listens.
        foreign[1..5].fill(0);
        assert!(!scene.passes(&foreign, STRANGER));
        assert!(scene.passes(&[0x40, 1, 2, 3], STRANGER) && scene.passes(&[0], STRANGER));
        assert!(scene.left(&[], 0, STRANGER).is_empty());
    }

    #[test]
    fn hygiene_01_bad_datagrams_in_a_burst_do_not_take_good_ones_along() {
        let scene = Scene::new(KnockFallback::Off);
        let good = |nonce| long(INITIAL, &knock(&scene.epoch, [nonce; 8], scene.now_ms()));
        let (bad, stride) = (long(INITIAL, &[9; 20]), good(1).len());
        // Two packets in one datagram: the first one's connection id counts.
        let coalesced = |dcid: &[u8]| [long(INITIAL, dcid), long(HANDSHAKE, dcid)].concat()[..stride].to_vec();
        let (ours, theirs) = (coalesced(&scene.own), coalesced(&[9; 14]));
        let mut foreign = good(3);
        foreign[1] = 0;
        let short = vec![0x40, 7];
        for (burst, left) in [
            (vec![bad.clone(), good(1), bad.clone(), good(2), short.clone()], vec![good(1), good(2), short.clone()]),
            (vec![good(1), foreign.clone(), ours.clone()], vec![good(1), ours.clone()]),
            (vec![theirs.clone(), ours.clone(), theirs], vec![ours]),
            (vec![bad.clone(), foreign, bad[..7].to_vec()], vec![]),
            (vec![bad, short.clone()], vec![short]),
            (vec![good(1), good(2)], vec![good(1), good(2)]),
        ] {
            assert_eq!(scene.left(&burst, stride, STRANGER), left.concat());
        }
    }

    #[test]
    fn hygiene_13_a_few_without_a_knock_pass_from_members_and_the_flood_does_not() {
        let count = |scene: &Scene, source| {
            let bad = long(INITIAL, &[9; 20]);
            (0..1_000).filter(|_| scene.passes(&bad, source)).count()
        };
        for (policy, member, stranger) in [
            (KnockFallback::Off, 0, 0),
            (KnockFallback::Members, UNKNOCKED.burst as usize, 0),
            (KnockFallback::Anyone, UNKNOCKED.burst as usize, 0),
        ] {
            let scene = Scene::new(policy);
            assert_eq!((count(&scene, MEMBER), count(&scene, STRANGER)), (member, stranger), "{policy:?}");
            // It never stands in the way of a knock, and comes back with time.
            assert!(scene.passes(&long(INITIAL, &knock(&scene.epoch, [1; 8], scene.now_ms())), MEMBER));
            scene.clock.advance(Duration::from_secs(1));
            let again = if policy == KnockFallback::Off { 0 } else { UNKNOCKED.per_second as usize };
            assert_eq!(count(&scene, MEMBER), again, "{policy:?}");
        }
    }
}
