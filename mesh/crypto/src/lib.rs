//! The mesh handshake: `Noise_XXhfs+psk0_25519+MLKEM768_ChaChaPoly_SHA256`,
//! keying QUIC packets directly (`mesh.md` sections 0 and 8).
//!
//! Invariant: a session that ends its handshake has proven the network or
//! invite secret, and the peer's static key passed the local allow-list; both
//! sides derive the same keys from X25519 *and* ML-KEM-768
//! (`tests::sessions_agree_on_keys_and_exporter`).
//! Invariant: whatever a peer sends, a session answers with keys, bytes or one
//! constant error, and never panics (`tests::hygiene_07_mutated_messages_never_panic`).
//!
//! Not here: sockets, time, who is a member. Authentication of peers is
//! classical (X25519); the key exchange is hybrid. snow and ml-kem are not
//! audited, and snow's own copies of the chaining key are not wiped; see
//! `SECURITY.md`.

mod config;
mod dh;
mod endpoint;
#[cfg(any(test, feature = "fast-crypto"))]
mod fast;
mod kem;
mod keys;
mod locked;
mod noise;
mod secret;
mod session;

pub use config::{Authorize, ClientCrypto, Mode, Party, ServerCrypto};
pub use endpoint::{OwnIds, endpoint_config};
pub use keys::Aead;
pub use locked::LockedSecret;
pub use noise::{NOISE_NAME, NoiseFault};
pub use secret::{KnockKey, Psk, SecretFault, StaticKey};
pub use session::{HANDSHAKE_FRAME_BYTES_MAX, HELLO_BYTES_MAX, PeerIdentity};

/// The QUIC version number on the wire. Not a published version, as quinn asks
/// of anything that is not TLS 1.3; of the reserved shape `0xf0f0____`, so that
/// no other protocol claims it. Changing it separates fleets completely.
pub const QUIC_VERSION: u32 = 0xf0f0_6d31;

#[cfg(test)]
mod tests;
