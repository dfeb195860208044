//! XXhfs against all published vectors, and psk0 against itself.
//!
//! The five vectors of `vectors/pqc-test-vectors.json` in
//! paschal533/pq-noise-artifacts at 0c78eb17 (libp2p/specs#716 and #727), CC BY
//! 4.0: vector n has base b = 0x10 * n, statics b+1 and b+2, ephemerals b+3 and
//! b+4, KEM seed b+5, encapsulation seed b+6. They cover XXhfs without a
//! pre-shared key; `model` covers psk0.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use ml_kem::{
    kem::{Decapsulate, KeyExport},
    ml_kem_768::{DecapsulationKey, EncapsulationKey},
};

use super::*;
use crate::kem::{CIPHERTEXT_BYTES, PUBLIC_BYTES};

/// What a vector says. Its hash covers every byte of all three messages.
struct Vector {
    base: u8,
    third: &'static str,
    hash: &'static str,
    keys: [&'static str; 2],
}

const VECTORS: [Vector; 5] = [
    Vector {
        base: 0x10,
        third: "ecee945a65a96f34fdaf116d3c70727852b0a25eb350bf72bb088f21cb374ba5\
                0c973fdc4ea63d2065ac9ff9fb347f0700dcf7ec3bb3a3c01f84290c6d8931aa",
        hash: "b5a3c9854777aa5dad0a633c769bcc6662713f20f14e0371e4bfd253e1869eef",
        keys: [
            "0a825d67cbf14170dcccf6f5c54d50f46a9a23541122654f5bec41ef0a5657e5",
            "f8546817671a440fd8df45b26fd6b45ebbf39e4207455ca12bc6d56ac0b35ebc",
        ],
    },
    Vector {
        base: 0x20,
        third: "ddacbb789c886b769fb3db311cfe929ed25301dc766b5a8ca04583fc8cd0d5bc\
                54cc56deb3d300e63e3534b46f54540ce41cea986171a331ab145e78ae88a207",
        hash: "50e755712c5868f17eff3cb04fce684b6401fc59fa491f16c18af1f8d69fdf5d",
        keys: [
            "aa143be94bcfb2ebb59fd99e0f1c71cae2d4754ca3fe0e7b898e0a7ddda5ea6c",
            "fb1f9bc96bdba7cd9c437a573944abafbfcda24bc474a9495d23645db7db393d",
        ],
    },
    Vector {
        base: 0x30,
        third: "18a1136e9091913127f71ffcdba858fdb0cb1efaf2645b01a39f809f50ec2ef2\
                319dea8c7f6b27976cd11d2f6cc460d1216fbc2920a22888996d32fba80bc9a0",
        hash: "1c7ed2de225611fde19364a9185cba5b3a57253af0ae6200f289527b6c4484db",
        keys: [
            "42922fb7bab1dde089f464e9bc525f99f272447f0e9a7948bcd8ba929d5cc4da",
            "3cacd98adce72d5fe65927e8df29d394c76c566b7619f696a038d0ad833b64cd",
        ],
    },
    Vector {
        base: 0x40,
        third: "d3c0eab4a7092c4535043ab9bdd72348d4ec104bc46f5aee873148851bb3c567\
                84efa96639e0cf4689fcee771dd5f4fa2ab49f0450e68661bf2512295cec66f6",
        hash: "770351da42cebf58ba52b9a49d7c991dd870c42130fe2e41ef499f8547237c26",
        keys: [
            "4dc6ea657c1179d9cd83adfa2ad004e5b808682d531b72ee6b1548c4c584eb19",
            "2097e5211c3d8e0edaa9be75542691cb5681276ba2ef0995a9e85b7e23fff4bc",
        ],
    },
    Vector {
        base: 0x50,
        third: "0167a61322a57abf26861150071f9b88bf44ad17520285b8be35c495d9ee6f56\
                bbd0b2c0f6f9a83b532a0b6a18849ba5a2394fa5419c75062f2e8542bc436865",
        hash: "1a4caf599d82b7de6605d8f20745e05067fa4f0d6ee755bc1382775b6e3890e4",
        keys: [
            "79552abe46606dbbd83160a07c7be1ef18416c0d232139d49e123ef421ebd2ac",
            "f87b71e7a2c37470959b6a4baa762c82458fa011446ea1ed50047ca8de58e883",
        ],
    },
];

struct Deterministic {
    known: Arc<StaticKey>,
    base: u8,
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
        Some(Box::new(SeededKem { base: self.base, secret: None, public: [0; PUBLIC_BYTES] }))
    }
}

struct SeededKem {
    base: u8,
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
        let secret = DecapsulationKey::from_seed([self.base + 5; 64].into());
        self.public.copy_from_slice(&secret.encapsulation_key().to_bytes());
        self.secret = Some(secret);
    }
    fn pubkey(&self) -> &[u8] {
        &self.public
    }
    fn encapsulate(&self, public: &[u8], shared: &mut [u8], out: &mut [u8]) -> Result<(usize, usize), snow::Error> {
        let key = EncapsulationKey::new(&public.try_into().unwrap()).unwrap();
        let (ciphertext, secret) = key.encapsulate_deterministic(&[self.base + 6; 32].into());
        out.copy_from_slice(&ciphertext);
        shared.copy_from_slice(&secret);
        Ok((32, CIPHERTEXT_BYTES))
    }
    fn decapsulate(&self, ciphertext: &[u8], shared: &mut [u8]) -> Result<usize, snow::Error> {
        shared.copy_from_slice(&self.secret.as_ref().unwrap().decapsulate_slice(ciphertext).unwrap());
        Ok(32)
    }
}

fn side(end: End, base: u8, secret: u8, ephemeral: u8) -> HandshakeState {
    let known = Arc::new(StaticKey::from_bytes(&[base + secret; 32]));
    let params = params("Noise_XXhfs_25519+MLKEM768_ChaChaPoly_SHA256", "XXhfs").unwrap();
    let (secret, ephemeral) = ([base + secret; 32], [base + ephemeral; 32]);
    let builder = snow::Builder::with_resolver(params, Box::new(Deterministic { known, base }))
        .local_private_key(&secret)
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(&ephemeral);
    match end {
        End::Initiator => builder.build_initiator().unwrap(),
        End::Responder => builder.build_responder().unwrap(),
    }
}

#[test]
fn hygiene_16_xxhfs_vectors() {
    for Vector { base, third: expected, hash, keys } in VECTORS {
        let mut initiator = side(End::Initiator, base, 1, 3);
        let mut responder = side(End::Responder, base, 2, 4);
        let (mut message, mut payload) = ([0; WRITE_BUFFER_BYTES], [0; WRITE_BUFFER_BYTES]);

        let first = initiator.write_message(&[], &mut message).unwrap();
        assert_eq!(first, 1216);
        responder.read_message(&message[..first], &mut payload).unwrap();
        let second = responder.write_message(&[], &mut message).unwrap();
        assert_eq!(second, 1200);
        initiator.read_message(&message[..second], &mut payload).unwrap();
        let third = initiator.write_message(&[], &mut message).unwrap();
        assert_eq!(HEXLOWER.encode(&message[..third]), expected);
        responder.read_message(&message[..third], &mut payload).unwrap();

        for end in [&mut initiator, &mut responder] {
            assert_eq!(HEXLOWER.encode(end.get_handshake_hash()), hash);
            let (one, two) = end.dangerously_get_raw_split();
            assert_eq!([HEXLOWER.encode(&one), HEXLOWER.encode(&two)], keys);
        }
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
