//! From secrets to QUIC keys: HKDF labels, packet and header protection, the
//! Retry tag.
//!
//! Packet protection is rustls's QUIC implementation over ring; this file only
//! chooses suites and derives what they are keyed with. Every label is in the
//! layout of `mesh.md` section 8.

use quinn_proto::{
    ConnectionId, Side,
    crypto::{HeaderKey, KeyPair, Keys, PacketKey},
};
use ring::{aead, hkdf, rand::SecureRandom};
use rustls::{
    CipherSuite,
    crypto::cipher::{AeadKey, Iv},
    quic,
};
use zeroize::Zeroizing;

use crate::secret::SecretFault;

/// Length of the Retry integrity tag (RFC 9001 section 5.8).
pub(crate) const RETRY_TAG_BYTES: usize = 16;

/// The AEAD that protects application packets of one connection. The responder
/// chooses; the choice travels inside its encrypted, authenticated payload, so
/// it is no lever for a downgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aead {
    /// AES-256-GCM, for processors with AES instructions.
    Aes256Gcm,
    /// ChaCha20-Poly1305, for all others.
    ChaCha20Poly1305,
}

impl Aead {
    /// The faster of the two here: ring measures 3.9 to 4.9 GB/s for AES with
    /// instructions and 1.1 to 1.5 GB/s for ChaCha (`mesh.md` section 5).
    #[must_use]
    pub fn preferred() -> Self {
        if has_aes() { Aead::Aes256Gcm } else { Aead::ChaCha20Poly1305 }
    }

    /// The byte that names it in the responder's payload.
    pub(crate) const fn wire(self) -> u8 {
        match self {
            Aead::Aes256Gcm => 1,
            Aead::ChaCha20Poly1305 => 2,
        }
    }

    pub(crate) const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Aead::Aes256Gcm),
            2 => Some(Aead::ChaCha20Poly1305),
            _ => None,
        }
    }

    fn algorithm(self) -> &'static dyn quic::Algorithm {
        suite(match self {
            Aead::Aes256Gcm => CipherSuite::TLS13_AES_256_GCM_SHA384,
            Aead::ChaCha20Poly1305 => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        })
        .quic
    }
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

/// The two secrets of one generation of application keys.
pub(crate) struct Generation {
    pub(crate) local: Zeroizing<[u8; 32]>,
    pub(crate) remote: Zeroizing<[u8; 32]>,
}

impl Generation {
    /// Header and packet keys of this generation.
    pub(crate) fn keys(&self, aead: Aead) -> Keys {
        Keys { header: pair(self, |secret| header(secret, aead)), packet: self.packet_keys(aead) }
    }

    /// Packet keys only: header keys never change (RFC 9001 section 6).
    pub(crate) fn packet_keys(&self, aead: Aead) -> KeyPair<Box<dyn PacketKey>> {
        pair(self, |secret| packet(secret, aead))
    }

    /// The generation after this one; the old secrets cannot be computed back.
    pub(crate) fn next(&self) -> Self {
        Self { local: expand(&self.local, "ku"), remote: expand(&self.remote, "ku") }
    }
}

fn pair<T>(generation: &Generation, make: impl Fn(&[u8; 32]) -> T) -> KeyPair<T> {
    KeyPair { local: make(&generation.local), remote: make(&generation.remote) }
}

fn header(secret: &[u8; 32], aead: Aead) -> Box<dyn HeaderKey> {
    let key = expand::<32>(secret, "hp");
    Box::new(aead.algorithm().header_protection_key(AeadKey::from(*key)))
}

fn packet(secret: &[u8; 32], aead: Aead) -> Box<dyn PacketKey> {
    let (key, iv) = (expand::<32>(secret, "key"), expand::<12>(secret, "iv"));
    Box::new(aead.algorithm().packet_key(AeadKey::from(*key), Iv::from(*iv)))
}

/// Initial keys, as in RFC 9001 section 5.2. They hide nothing from anyone who
/// sees the first packet; what is secret in it is encrypted by Noise.
pub(crate) fn initial(dst_cid: &ConnectionId, side: Side) -> Keys {
    let keys = suite(CipherSuite::TLS13_AES_128_GCM_SHA256).keys(dst_cid, side.into(), quic::Version::V1);
    Keys {
        header: KeyPair { local: Box::new(keys.local.header), remote: Box::new(keys.remote.header) },
        packet: KeyPair { local: Box::new(keys.local.packet), remote: Box::new(keys.remote.packet) },
    }
}

fn suite(name: CipherSuite) -> quic::Suite {
    rustls::crypto::ring::ALL_CIPHER_SUITES
        .iter()
        .find(|suite| suite.suite() == name)
        .and_then(|suite| suite.tls13())
        .and_then(|suite| suite.quic_suite())
        .expect("the ring provider has all three TLS 1.3 suites, each with a QUIC form")
}

/// The integrity tag of a Retry packet. As in RFC 9001 the key is public: the
/// tag only stops packets that were damaged or made by someone who did not see
/// the first packet.
pub(crate) fn retry_tag(orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; RETRY_TAG_BYTES] {
    const KEY: [u8; 16] = *b"mesh1-retry-key!";
    const NONCE: [u8; 12] = *b"mesh1-retry!";
    // A connection id is at most 20 bytes, so its length fits one byte.
    let mut aad = vec![orig_dst_cid.len() as u8];
    aad.extend_from_slice(orig_dst_cid);
    aad.extend_from_slice(packet);
    let key = aead::UnboundKey::new(&aead::AES_128_GCM, &KEY).expect("the key is 16 bytes");
    let tag = aead::LessSafeKey::new(key)
        .seal_in_place_separate_tag(aead::Nonce::assume_unique_for_key(NONCE), aead::Aad::from(aad), &mut [])
        .expect("an empty text is under the AEAD's limit");
    let mut out = [0; RETRY_TAG_BYTES];
    out.copy_from_slice(tag.as_ref());
    out
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand of a secret that is already uniform.
pub(crate) fn expand<const N: usize>(secret: &[u8; 32], label: &str) -> Zeroizing<[u8; N]> {
    let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret);
    fill_from(&prk, &[b"mesh1 ", label.as_bytes()])
}

/// HKDF-Expand into a fixed length.
pub(crate) fn fill_from<const N: usize>(prk: &hkdf::Prk, info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0; N]);
    prk.expand(info, Length(N))
        .and_then(|okm| okm.fill(&mut out[..]))
        .expect("every N of this crate is far below 255 times the hash length");
    out
}

/// HKDF-Expand into a length the caller chose; `None` when it is too long.
pub(crate) fn fill_slice(secret: &[u8; 32], info: &[&[u8]], out: &mut [u8]) -> Option<()> {
    let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret);
    prk.expand(info, Length(out.len())).and_then(|okm| okm.fill(out)).ok()
}

/// The exporter secret: bound to the whole transcript by the handshake hash.
pub(crate) fn exporter(finished: &crate::noise::Finished) -> Zeroizing<[u8; 32]> {
    let mut both = Zeroizing::new([0; 64]);
    both[..32].copy_from_slice(&finished.initiator[..]);
    both[32..].copy_from_slice(&finished.responder[..]);
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &finished.hash).extract(&both[..]);
    fill_from(&prk, &[b"mesh1 exporter"])
}

/// Fills from the operating system.
pub(crate) fn fill_random(out: &mut [u8]) -> Result<(), SecretFault> {
    ring::rand::SystemRandom::new().fill(out).map_err(|_| SecretFault::Random)
}
