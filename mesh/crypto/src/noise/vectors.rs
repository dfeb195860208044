//! XXhfs against a published vector, and psk0 against itself.
//!
//! Vector 1 of `vectors/pqc-test-vectors.json` in paschal533/pq-noise-artifacts
//! at 0c78eb17 (libp2p/specs#716 and #727), CC BY 4.0: base b = 0x10, statics
//! b+1 and b+2, ephemerals b+3 and b+4, KEM seed b+5, encapsulation seed b+6.
//! It covers XXhfs without a pre-shared key.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use ml_kem::{
    kem::{Decapsulate, KeyExport},
    ml_kem_768::{DecapsulationKey, EncapsulationKey},
};

use super::*;
use crate::kem::{CIPHERTEXT_BYTES, PUBLIC_BYTES};

const BASE: u8 = 0x10;

struct Deterministic {
    known: Arc<StaticKey>,
}

impl CryptoResolver for Deterministic {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        RingResolver.resolve_rng()
    }
    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(X25519::new(self.known.clone())))
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        RingResolver.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        RingResolver.resolve_cipher(choice)
    }
    fn resolve_kem(&self, _: &KemChoice) -> Option<Box<dyn Kem>> {
        Some(Box::new(SeededKem { secret: None, public: [0; PUBLIC_BYTES] }))
    }
}

struct SeededKem {
    secret: Option<DecapsulationKey>,
    public: [u8; PUBLIC_BYTES],
}

impl Kem for SeededKem {
    fn name(&self) -> &'static str {
        "MLKEM768"
    }
    fn pub_len(&self) -> usize {
        PUBLIC_BYTES
    }
    fn ciphertext_len(&self) -> usize {
        CIPHERTEXT_BYTES
    }
    fn shared_secret_len(&self) -> usize {
        32
    }
    fn generate(&mut self, _: &mut dyn Random) {
        let secret = DecapsulationKey::from_seed([BASE + 5; 64].into());
        self.public.copy_from_slice(&secret.encapsulation_key().to_bytes());
        self.secret = Some(secret);
    }
    fn pubkey(&self) -> &[u8] {
        &self.public
    }
    fn encapsulate(&self, public: &[u8], shared: &mut [u8], out: &mut [u8]) -> Result<(usize, usize), snow::Error> {
        let key = EncapsulationKey::new(&public.try_into().unwrap()).unwrap();
        let (ciphertext, secret) = key.encapsulate_deterministic(&[BASE + 6; 32].into());
        out.copy_from_slice(&ciphertext);
        shared.copy_from_slice(&secret);
        Ok((32, CIPHERTEXT_BYTES))
    }
    fn decapsulate(&self, ciphertext: &[u8], shared: &mut [u8]) -> Result<usize, snow::Error> {
        shared.copy_from_slice(&self.secret.as_ref().unwrap().decapsulate_slice(ciphertext).unwrap());
        Ok(32)
    }
}

fn side(end: End, secret: u8, ephemeral: u8) -> HandshakeState {
    let known = Arc::new(StaticKey::from_bytes(&[secret; 32]));
    let params = params("Noise_XXhfs_25519+MLKEM768_ChaChaPoly_SHA256", "XXhfs").unwrap();
    let (secret, ephemeral) = ([secret; 32], [ephemeral; 32]);
    let builder = snow::Builder::with_resolver(params, Box::new(Deterministic { known }))
        .local_private_key(&secret)
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(&ephemeral);
    match end {
        End::Initiator => builder.build_initiator().unwrap(),
        End::Responder => builder.build_responder().unwrap(),
    }
}

#[test]
fn xxhfs_vector_1() {
    let mut initiator = side(End::Initiator, BASE + 1, BASE + 3);
    let mut responder = side(End::Responder, BASE + 2, BASE + 4);
    let (mut message, mut payload) = ([0; WRITE_BUFFER_BYTES], [0; WRITE_BUFFER_BYTES]);

    let first = initiator.write_message(&[], &mut message).unwrap();
    assert_eq!(first, 1216);
    let expected = "197fc2c567dc03ee2aadf0ed86681dac24daa76e83ca555875dd3be7376e5306b989c17f78bdfc62afa2c0855471be97";
    assert!(HEXLOWER.encode(&message[..first]).starts_with(expected));
    responder.read_message(&message[..first], &mut payload).unwrap();

    let second = responder.write_message(&[], &mut message).unwrap();
    assert_eq!(second, 1200);
    let expected = "18a6f8c1a7fddf22bd410138f79f7298cd38d1d0a542d4266d556be8609d886271fa9be2c46cc471c8d370b6";
    assert!(HEXLOWER.encode(&message[..second]).starts_with(expected));
    initiator.read_message(&message[..second], &mut payload).unwrap();

    let third = initiator.write_message(&[], &mut message).unwrap();
    assert_eq!(
        HEXLOWER.encode(&message[..third]),
        "ecee945a65a96f34fdaf116d3c70727852b0a25eb350bf72bb088f21cb374ba5\
         0c973fdc4ea63d2065ac9ff9fb347f0700dcf7ec3bb3a3c01f84290c6d8931aa"
    );
    responder.read_message(&message[..third], &mut payload).unwrap();

    for end in [&mut initiator, &mut responder] {
        // The hash covers every byte of the three messages.
        assert_eq!(
            HEXLOWER.encode(end.get_handshake_hash()),
            "b5a3c9854777aa5dad0a633c769bcc6662713f20f14e0371e4bfd253e1869eef"
        );
        let (one, two) = end.dangerously_get_raw_split();
        assert_eq!(HEXLOWER.encode(&one), "0a825d67cbf14170dcccf6f5c54d50f46a9a23541122654f5bec41ef0a5657e5");
        assert_eq!(HEXLOWER.encode(&two), "f8546817671a440fd8df45b26fd6b45ebbf39e4207455ca12bc6d56ac0b35ebc");
    }
}

#[test]
fn another_psk_or_prologue_fails_on_the_first_message() {
    use osmoda_types::{MeshEpoch, NetworkId};
    let key = Arc::new(StaticKey::from_bytes(&[1; 32]));
    let psk = |epoch| Psk::mesh(&NetworkId::from_bytes([1; 32]), MeshEpoch(epoch), &[2; 32]);
    let first = Noise::new(End::Initiator, &key, &psk(1), b"prologue").unwrap().write(b"params").unwrap();
    let read = |psk: &Psk, prologue: &[u8]| {
        Noise::new(End::Responder, &key, psk, prologue).unwrap().read(&first).map(|payload| payload.to_vec())
    };
    assert_eq!(read(&psk(1), b"prologue"), Ok(b"params".to_vec()));
    assert_eq!(read(&psk(2), b"prologue"), Err(NoiseFault));
    assert_eq!(read(&psk(1), b"other"), Err(NoiseFault));
}

#[test]
fn an_unfinished_handshake_yields_no_keys() {
    let key = Arc::new(StaticKey::from_bytes(&[1; 32]));
    let psk = Psk::pair(
        &osmoda_types::NetworkId::from_bytes([1; 32]),
        &osmoda_types::InviteId::from_bytes([1; 16]),
        &[2; 32],
    );
    let mut noise = Noise::new(End::Initiator, &key, &psk, b"").unwrap();
    noise.write(b"").unwrap();
    assert!(noise.finish().is_err());
}
