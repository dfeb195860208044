//! Our slots against others: snow's own vectors through our resolver,
//! Wycheproof, and the pure Rust primitives against aws-lc-rs.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use ml_kem::{array::Array, ml_kem_768::DecapsulationKey};
use osmoda_types::{MeshEpoch, NetworkId};
use serde_json::Value;
use wycheproof::TestResult;

use super::*;
use crate::{
    fast::{FastMlKem, FastX25519},
    kem::{CIPHERTEXT_BYTES, PUBLIC_BYTES, SHARED_BYTES},
};

const BACKENDS: [Backend; 2] = [Backend::Pure, Backend::Fast];

fn known() -> Arc<StaticKey> {
    Arc::new(StaticKey::from_bytes(&[1; 32]))
}

fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap_or_default().as_bytes()).unwrap()
}

/// One side of a vector; `role` is `init` or `resp`.
fn side(vector: &Value, role: &str, backend: Backend) -> HandshakeState {
    let name = vector["protocol_name"].as_str().unwrap();
    let get = |what: &str| hex(&vector[format!("{role}_{what}")]);
    let (prologue, secret, ephemeral) = (get("prologue"), get("static"), get("ephemeral"));
    let resolver = Box::new(Resolver { known: known(), backend });
    let mut builder = snow::Builder::with_resolver(name.parse().unwrap(), resolver)
        .prologue(&prologue)
        .unwrap()
        .local_private_key(&secret)
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(&ephemeral);
    let psks: Vec<[u8; 32]> = vector[format!("{role}_psks")]
        .as_array()
        .into_iter()
        .flatten()
        .map(|psk| hex(psk).try_into().unwrap())
        .collect();
    let places = name.chars().collect::<Vec<_>>();
    let places = places.windows(4).filter(|four| four[..3] == ['p', 's', 'k']).filter_map(|four| four[3].to_digit(10));
    for (place, psk) in places.zip(&psks) {
        builder = builder.psk(u8::try_from(place).unwrap(), psk).unwrap();
    }
    if role == "init" { builder.build_initiator().unwrap() } else { builder.build_responder().unwrap() }
}

#[test]
fn hygiene_16_snows_xx_and_psk_vectors_pass_through_our_resolver() {
    let file: Value = serde_json::from_str(include_str!("../../tests/vectors/noise-xx.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    assert!(vectors.len() >= 10);
    for (vector, backend) in vectors.iter().flat_map(|vector| BACKENDS.map(|backend| (vector, backend))) {
        let mut sides = [side(vector, "init", backend), side(vector, "resp", backend)];
        let messages = vector["messages"].as_array().unwrap();
        let (mut message, mut payload) = ([0; 1024], [0; 1024]);
        for (at, expected) in messages.iter().take(3).enumerate() {
            let (from, to) = (at % 2, (at + 1) % 2);
            let length = sides[from].write_message(&hex(&expected["payload"]), &mut message).unwrap();
            assert_eq!(message[..length], hex(&expected["ciphertext"]), "{} {at}", vector["protocol_name"]);
            let read = sides[to].read_message(&message[..length], &mut payload).unwrap();
            assert_eq!(payload[..read], hex(&expected["payload"]));
        }
        if !vector["handshake_hash"].is_null() {
            assert_eq!(sides[0].get_handshake_hash(), hex(&vector["handshake_hash"]));
        }
        let mut sides = sides.map(|side| side.into_transport_mode().unwrap());
        for (at, expected) in messages.iter().enumerate().skip(3) {
            let length = sides[at % 2].write_message(&hex(&expected["payload"]), &mut message).unwrap();
            assert_eq!(message[..length], hex(&expected["ciphertext"]));
            sides[(at + 1) % 2].read_message(&message[..length], &mut payload).unwrap();
        }
    }
}

#[test]
fn hygiene_16_wycheproof_x25519() {
    let set = wycheproof::xdh::TestSet::load(wycheproof::xdh::TestName::X25519).unwrap();
    let mut zeros = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        for backend in BACKENDS {
            let mut slot = Resolver { known: known(), backend }.resolve_dh(&DHChoice::Curve25519).unwrap();
            slot.set(&test.private_key);
            let mut shared = [0; 32];
            let made = slot.dh(&test.public_key, &mut shared);
            let zero = test.shared_secret.iter().all(|byte| *byte == 0);
            let long = test.public_key.len() != 32;
            zeros += u32::from(zero);
            match made {
                Ok(()) if long => {}
                Ok(()) => {
                    assert!(test.result != TestResult::Invalid && !zero, "{} {backend:?}", test.tc_id);
                    assert_eq!(shared[..], test.shared_secret[..], "{} {backend:?}", test.tc_id);
                }
                Err(_) => assert!(zero || long || test.result == TestResult::Invalid, "{} {backend:?}", test.tc_id),
            }
        }
    }
    assert!(zeros > 10, "the low-order points were there");
}

#[test]
fn hygiene_16_wycheproof_ml_kem_768() {
    use wycheproof::mlkem::{TestName, TestSet};
    let (mut right, mut wrong) = (0, 0);
    for test in TestSet::load(TestName::MlKem768).unwrap().test_groups.iter().flat_map(|group| &group.tests) {
        let seed = test.seed.as_ref().and_then(|seed| Array::try_from(&seed[..]).ok());
        let Some(seed) = seed else {
            assert_eq!(test.result, TestResult::Invalid, "{}", test.tc_id);
            continue;
        };
        let slot = MlKem::of(DecapsulationKey::from_seed(seed));
        if let (Some(expected), true) = (&test.encaps_key, test.result == TestResult::Valid) {
            assert_eq!(slot.pubkey(), &expected[..], "{}", test.tc_id);
        }
        let (mut shared, ciphertext) = ([0; SHARED_BYTES], test.ct.as_ref().unwrap());
        match slot.decapsulate(ciphertext, &mut shared) {
            // A wrong ciphertext of the right length gives another key: implicit rejection.
            Ok(_) => {
                assert_eq!(test.shared_secret.as_ref().map(|secret| shared[..] == secret[..]), Some(true));
                right += 1;
            }
            Err(_) => {
                assert_eq!(test.result, TestResult::Invalid, "{}", test.tc_id);
                wrong += 1;
            }
        }
    }
    assert!(right > 10 && wrong > 0, "{right} {wrong}");
}

#[test]
fn hygiene_16_wycheproof_ml_kem_768_keys_outside_the_modulus_are_refused() {
    use wycheproof::mlkem::{TestName, TestSet};
    let mut refused = 0;
    for test in TestSet::load(TestName::MlKem768Encaps).unwrap().test_groups.iter().flat_map(|group| &group.tests) {
        let key = test.encaps_key.as_ref().unwrap();
        for slot in [&MlKem::new() as &dyn Kem, &FastMlKem::new()] {
            let (mut shared, mut ciphertext) = ([0; SHARED_BYTES], [0; CIPHERTEXT_BYTES]);
            let made = slot.encapsulate(key, &mut shared, &mut ciphertext);
            assert_eq!(made.is_ok(), test.result == TestResult::Valid, "{}", test.tc_id);
            refused += u32::from(made.is_err());
        }
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn hygiene_16_wycheproof_aeads() {
    use ring::aead;
    use wycheproof::aead::{TestName, TestSet};
    let mut opened = 0;
    for (name, algorithm) in
        [(TestName::ChaCha20Poly1305, &aead::CHACHA20_POLY1305), (TestName::AesGcm, &aead::AES_256_GCM)]
    {
        for group in TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                let Ok(nonce) = <[u8; 12]>::try_from(&test.nonce[..]) else { continue };
                if test.key.len() != 32 || test.tag.len() != 16 {
                    continue;
                }
                let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, &test.key).unwrap());
                let mut text = [&test.ct[..], &test.tag[..]].concat();
                let nonce = aead::Nonce::assume_unique_for_key(nonce);
                let plain = key.open_in_place(nonce, aead::Aad::from(&test.aad[..]), &mut text);
                assert_eq!(plain.is_ok(), test.result == TestResult::Valid, "{}", test.tc_id);
                if let Ok(plain) = plain {
                    assert_eq!(plain, &test.pt[..]);
                    opened += 1;
                }
            }
        }
    }
    assert!(opened > 100, "{opened}");
}

#[test]
fn hygiene_16_both_backends_agree_on_keys_and_secrets() {
    let mut rng = RingResolver.resolve_rng().unwrap();
    for round in 0..50 {
        let (mut pure, mut fast) = (X25519::new(known()), FastX25519::new(known()));
        pure.generate(&mut *rng).unwrap();
        fast.set(pure.privkey());
        assert_eq!(pure.pubkey(), fast.pubkey(), "{round}");
        let peer = crate::dh::public_of(&[round; 32]);
        let (mut one, mut two) = ([0; 32], [0; 32]);
        pure.dh(&peer, &mut one).unwrap();
        fast.dh(&peer, &mut two).unwrap();
        assert_eq!(one, two);
        assert!(fast.dh(&[0; 32], &mut two).is_err());

        let slots: [(Box<dyn Kem>, Box<dyn Kem>); 2] = [
            (Box::new(MlKem::new()), Box::new(FastMlKem::new())),
            (Box::new(FastMlKem::new()), Box::new(MlKem::new())),
        ];
        for (mut holder, sender) in slots {
            holder.generate(&mut *rng);
            let public: [u8; PUBLIC_BYTES] = holder.pubkey().try_into().unwrap();
            let (mut sent, mut received) = ([0; SHARED_BYTES], [0; SHARED_BYTES]);
            let mut ciphertext = [0; CIPHERTEXT_BYTES];
            sender.encapsulate(&public, &mut sent, &mut ciphertext).unwrap();
            holder.decapsulate(&ciphertext, &mut received).unwrap();
            assert_eq!(sent, received);
            ciphertext[usize::from(round)] ^= 1;
            holder.decapsulate(&ciphertext, &mut received).unwrap();
            assert_ne!(sent, received, "implicit rejection");
            assert!(holder.decapsulate(&ciphertext[1..], &mut received).is_err());
        }
    }
}

#[test]
fn hygiene_16_whole_handshakes_between_the_backends() {
    let (a, b) = (Arc::new(StaticKey::from_bytes(&[3; 32])), Arc::new(StaticKey::from_bytes(&[4; 32])));
    let psk = Psk::mesh(&NetworkId::from_bytes([1; 32]), MeshEpoch(1), &[2; 32]);
    for (one, two) in BACKENDS.into_iter().flat_map(|one| BACKENDS.map(|two| (one, two))) {
        for _ in 0..5 {
            let mut initiator = Noise::with(one, End::Initiator, &a, &psk, b"p").unwrap();
            let mut responder = Noise::with(two, End::Responder, &b, &psk, b"p").unwrap();
            responder.read(&initiator.write(b"one").unwrap()).unwrap();
            initiator.read(&responder.write(b"two").unwrap()).unwrap();
            responder.read(&initiator.write(b"three").unwrap()).unwrap();
            let (left, right) = (initiator.finish().unwrap(), responder.finish().unwrap());
            assert_eq!((*left.initiator, *left.responder, left.hash), (*right.initiator, *right.responder, right.hash));
            assert_eq!((left.peer, right.peer), (*b.public().as_bytes(), *a.public().as_bytes()));
        }
    }
}
