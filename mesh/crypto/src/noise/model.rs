//! An independent reading of the specification for `XXhfs+psk0`: the initiator
//! written out token by token over ring and ml-kem, against the one that ships.
//! No published vector covers psk0 with hfs, so this is what pins it.

use std::sync::Arc;

use curve25519_dalek::montgomery::MontgomeryPoint;
use ml_kem::{
    MlKem768,
    kem::{Decapsulate, Kem as _, KeyExport},
};
use osmoda_types::{MeshEpoch, NetworkId};
use ring::{aead, digest, hmac};

use super::*;

/// `SymmetricState` of the Noise specification, section 5.2.
struct Symmetric {
    chain: [u8; 32],
    hash: [u8; 32],
    key: Option<[u8; 32]>,
    nonce: u64,
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().unwrap()
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    context.sign().as_ref().try_into().unwrap()
}

/// Noise's HKDF, section 4.3.
fn hkdf(chain: &[u8; 32], input: &[u8]) -> [[u8; 32]; 3] {
    let temp = hmac_sha256(chain, &[input]);
    let one = hmac_sha256(&temp, &[&[1]]);
    let two = hmac_sha256(&temp, &[&one, &[2]]);
    [one, two, hmac_sha256(&temp, &[&two, &[3]])]
}

impl Symmetric {
    fn new(name: &str) -> Self {
        // The name is longer than a hash, so it is hashed.
        let hash = sha256(&[name.as_bytes()]);
        Self { chain: hash, hash, key: None, nonce: 0 }
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = sha256(&[&self.hash, data]);
    }

    fn mix_key(&mut self, input: &[u8]) {
        let [chain, key, _] = hkdf(&self.chain, input);
        (self.chain, self.key, self.nonce) = (chain, Some(key), 0);
    }

    fn mix_key_and_hash(&mut self, input: &[u8]) {
        let [chain, hash, key] = hkdf(&self.chain, input);
        self.chain = chain;
        self.mix_hash(&hash);
        (self.key, self.nonce) = (Some(key), 0);
    }

    fn cipher(&mut self) -> (aead::LessSafeKey, aead::Nonce) {
        let key = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, &self.key.unwrap()).unwrap();
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.nonce.to_le_bytes());
        self.nonce += 1;
        (aead::LessSafeKey::new(key), aead::Nonce::assume_unique_for_key(nonce))
    }

    fn encrypt_and_hash(&mut self, plain: &[u8]) -> Vec<u8> {
        let (key, nonce) = self.cipher();
        let mut text = plain.to_vec();
        key.seal_in_place_append_tag(nonce, aead::Aad::from(self.hash), &mut text).unwrap();
        self.mix_hash(&text);
        text
    }

    fn decrypt_and_hash(&mut self, text: &[u8]) -> Vec<u8> {
        let (key, nonce) = self.cipher();
        let mut plain = text.to_vec();
        let length = key.open_in_place(nonce, aead::Aad::from(self.hash), &mut plain).unwrap().len();
        plain.truncate(length);
        self.mix_hash(text);
        plain
    }
}

fn dh(secret: [u8; 32], public: &[u8]) -> [u8; 32] {
    MontgomeryPoint(public.try_into().unwrap()).mul_clamped(secret).to_bytes()
}

#[test]
fn psk0_with_hfs_is_what_the_specification_says() {
    let own = Arc::new(StaticKey::from_bytes(&[3; 32]));
    let responder_key = Arc::new(StaticKey::from_bytes(&[4; 32]));
    let psk = Psk::mesh(&NetworkId::from_bytes([1; 32]), MeshEpoch(1), &[2; 32]);
    let mut responder = Noise::new(End::Responder, &responder_key, &psk, b"prologue").unwrap();

    let mut state = Symmetric::new(NOISE_NAME);
    state.mix_hash(b"prologue");
    // -> psk, e, e1
    state.mix_key_and_hash(psk.bytes());
    let ephemeral = [7; 32];
    let public = crate::dh::public_of(&ephemeral);
    state.mix_hash(&public);
    // With a pre-shared key, e is mixed into the key too (section 9.2).
    state.mix_key(&public);
    let (kem, kem_public) = MlKem768::generate_keypair();
    let sealed_kem = state.encrypt_and_hash(&kem_public.to_bytes());
    let first = [&public[..], &sealed_kem, &state.encrypt_and_hash(b"one")].concat();
    assert_eq!(responder.read(&first).unwrap()[..], b"one"[..]);

    // <- e, ee, ekem1, s, es
    let second = responder.write(b"two").unwrap();
    let (their_ephemeral, rest) = second.split_at(32);
    state.mix_hash(their_ephemeral);
    state.mix_key(their_ephemeral);
    state.mix_key(&dh(ephemeral, their_ephemeral));
    let (ciphertext, rest) = rest.split_at(1088 + 16);
    let ciphertext = state.decrypt_and_hash(ciphertext);
    state.mix_key(&kem.decapsulate_slice(&ciphertext).unwrap());
    let (their_static, payload) = rest.split_at(32 + 16);
    let their_static = state.decrypt_and_hash(their_static);
    assert_eq!(their_static, responder_key.public().as_bytes());
    state.mix_key(&dh(ephemeral, &their_static));
    assert_eq!(state.decrypt_and_hash(payload), b"two");

    // -> s, se
    let sealed_static = state.encrypt_and_hash(own.public().as_bytes());
    state.mix_key(&dh([3; 32], their_ephemeral));
    let third = [&sealed_static[..], &state.encrypt_and_hash(b"three")].concat();
    assert_eq!(responder.read(&third).unwrap()[..], b"three"[..]);

    let finished = responder.finish().unwrap();
    let [initiator, responder, _] = hkdf(&state.chain, &[]);
    assert_eq!((*finished.initiator, *finished.responder), (initiator, responder));
    assert_eq!((finished.hash, finished.peer), (state.hash, *own.public().as_bytes()));
}
