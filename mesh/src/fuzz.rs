//! Plain functions over any bytes, for fuzzers and for a bounded run in every CI
//! run.
//!
//! Each reads the bytes as somebody's from outside and panics only on a broken
//! promise.

use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use ed25519_dalek::SigningKey;
use osmoda_kit::clock::SystemClock;
use osmoda_mesh_crypto::{QUIC_VERSION, StaticKey};
use osmoda_mesh_protocol::{Member, Members, SecretBytes};
use osmoda_types::{MeshEpoch, NetworkId, Role};

use crate::{
    config::EpochSecret,
    door::Doors,
    epochs::Epochs,
    identity::{Identity, Keyring},
    sieve::{Knocks, Sieve},
    tuning::{KnockFallback, Tuning},
};

/// A port of a node that lets nobody in without a knock.
static SIEVE: LazyLock<Sieve> = LazyLock::new(|| {
    let identity = Arc::new(Identity::new(StaticKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32])));
    let member = Member {
        node: identity.node(),
        mesh_key: identity.mesh_key(),
        identity_key: identity.identity_key(),
        role: Role::Voter,
        name: "n".into(),
        addresses: vec![([192, 0, 2, 1], 18800).into()],
    };
    let epoch = MeshEpoch(1);
    let members = Arc::new(ArcSwap::from_pointee(Members { index: 1, epoch, members: vec![member] }));
    let clock = SystemClock::shared();
    let secrets = EpochSecret { epoch, secret: SecretBytes::new([3; 32]) }.into();
    let epochs = Epochs::begin(&secrets, clock.now_wall().as_millis(), clock.now_boot()).expect("one secret is enough");
    let keyring = Arc::new(Keyring::new(identity.clone()));
    let network = NetworkId::from_bytes([7; 32]);
    let doors = Arc::new(Doors::new(network, keyring, Tuning::default(), members.clone(), &epochs, &[]));
    Sieve::new(&identity.transport(), Arc::new(Knocks::new(doors, members, KnockFallback::Off, clock)))
});

/// A buffer of datagrams from a stranger, as the kernel puts them together: the
/// first byte says in what size.
///
/// # Panics
/// When a long header is let through to quinn: connection ids that are let
/// through hold 64 bits or more of an HMAC, which no fuzzer guesses.
pub fn fuzz_datagram(bytes: &[u8]) {
    let Some((size, datagrams)) = bytes.split_first() else { return };
    let (stride, mut kept) = (usize::from(*size) * 8, datagrams.to_vec());
    let length = SIEVE.keep(&mut kept, stride, ([203, 0, 113, 9], 4000).into());
    assert!(length <= datagrams.len(), "more was kept than came");
    for datagram in kept[..length].chunks(stride.max(1)) {
        let is_long = datagram.first().is_some_and(|first| first & 0x80 != 0);
        assert!(!is_long, "a stranger's packet of version {QUIC_VERSION:x} or another reached quinn: {datagram:02x?}");
    }
}

/// SWIM's packets of members and strangers, one after the other: half of a length,
/// who sends it, and the packet.
///
/// # Panics
/// When somebody who is no member seems to live, or a packet goes to one.
#[cfg(feature = "swim")]
pub fn fuzz_swim(bytes: &[u8]) {
    use std::{collections::BTreeSet, time::Duration};

    use osmoda_types::NodeId;

    use crate::swim::Swim;

    let node = |byte: u8| NodeId::from_bytes([byte; 32]);
    let members: BTreeSet<NodeId> = (1..=4).map(node).collect();
    let mut swim = Swim::new(node(1), 1_767_225_600_000, 7);
    drop(swim.set_members(members.clone(), &[node(2)], Duration::ZERO));
    let (mut rest, mut now) = (bytes, Duration::ZERO);
    while let Some(([length, from], more)) = rest.split_first_chunk::<2>() {
        let (packet, after) = more.split_at(more.len().min(usize::from(*length) * 2));
        rest = after;
        now += Duration::from_millis(700);
        let mut effects = swim.receive(node(*from), packet, now);
        effects.packets.extend(swim.tick(now).packets);
        assert!(effects.packets.iter().all(|packet| members.contains(&packet.to)), "a packet to a stranger");
        assert!(swim.alive().is_subset(&members), "a stranger lives");
    }
}
