//! The secrets a handshake starts from, each wiped when dropped and never
//! formatted.
//!
//! Invariant: a [`Psk`] binds the network and either the epoch, the invite or
//! the returning member, so a secret of one place is useless in another (`secret::tests`).

use osmoda_types::{InviteId, MeshEpoch, MeshKey, NetworkId, NodeId};
use ring::hkdf;
use zeroize::Zeroizing;

use crate::{keys, locked::LockedSecret};

/// A node's static X25519 key pair.
pub struct StaticKey {
    secret: LockedSecret,
    public: MeshKey,
}

impl StaticKey {
    /// Makes a new key from the operating system's randomness.
    ///
    /// # Errors
    /// [`SecretFault::Random`] if the system has none to give.
    pub fn generate() -> Result<Self, SecretFault> {
        let mut secret = Zeroizing::new([0u8; 32]);
        keys::fill_random(&mut secret[..])?;
        Ok(Self::from_bytes(&secret))
    }

    /// The key pair of these 32 secret bytes; X25519 accepts any.
    #[must_use]
    pub fn from_bytes(secret: &[u8; 32]) -> Self {
        let public = crate::dh::public_of(secret);
        Self { secret: LockedSecret::new(secret), public: MeshKey::from_bytes(public) }
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> MeshKey {
        self.public
    }

    /// The secret half, for writing the key file and nothing else.
    #[must_use]
    pub fn secret_bytes(&self) -> &[u8; 32] {
        self.secret.bytes()
    }
}

impl std::fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StaticKey({:?})", self.public)
    }
}

/// The pre-shared key of one handshake: proof of belonging, before anything
/// else is said.
#[derive(Clone)]
pub struct Psk(Zeroizing<[u8; 32]>);

impl Psk {
    /// The key of a network epoch, known to every admitted member.
    #[must_use]
    pub fn mesh(network: &NetworkId, epoch: MeshEpoch, secret: &[u8; 32]) -> Self {
        Self::derive(network, secret, b"epoch", &epoch.0.to_be_bytes())
    }

    /// The key of one invite, known to its issuer and to whoever holds its text.
    #[must_use]
    pub fn pair(network: &NetworkId, invite: &InviteId, secret: &[u8; 32]) -> Self {
        Self::derive(network, secret, b"invite", invite.as_bytes())
    }

    /// The key with which one member comes back, known to it and to the voters.
    #[must_use]
    pub fn rejoin(network: &NetworkId, node: &NodeId, secret: &[u8; 32]) -> Self {
        Self::derive(network, secret, b"rejoin", node.as_bytes())
    }

    fn derive(network: &NetworkId, secret: &[u8; 32], kind: &[u8], name: &[u8]) -> Self {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, network.as_bytes()).extract(secret);
        Self(keys::fill_from(&prk, &[b"mesh1 psk ", kind, name]))
    }

    /// The key that authenticates the first packet's connection id.
    #[must_use]
    pub fn knock_key(&self) -> KnockKey {
        KnockKey(keys::expand(&self.0, "knock"))
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Psk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Psk(..)")
    }
}

/// The key of the knock, separate from the handshake's, so that the listener's
/// cheap check never touches the key that protects traffic.
#[derive(Clone)]
pub struct KnockKey(Zeroizing<[u8; 32]>);

impl KnockKey {
    /// The bytes, for HMAC-SHA256.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for KnockKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KnockKey(..)")
    }
}

/// Why a secret could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    /// The operating system gave no randomness.
    #[error("the operating system gave no randomness")]
    Random,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_psk_belongs_to_one_network_and_one_epoch_or_invite() {
        let (a, b) = (NetworkId::from_bytes([1; 32]), NetworkId::from_bytes([2; 32]));
        let secret = [9; 32];
        let psks = [
            Psk::mesh(&a, MeshEpoch(1), &secret),
            Psk::mesh(&a, MeshEpoch(2), &secret),
            Psk::mesh(&b, MeshEpoch(1), &secret),
            Psk::pair(&a, &InviteId::from_bytes([0; 16]), &secret),
            Psk::pair(&a, &InviteId::from_bytes([1; 16]), &secret),
            Psk::rejoin(&a, &NodeId::from_bytes([0; 32]), &secret),
            Psk::rejoin(&a, &NodeId::from_bytes([1; 32]), &secret),
            Psk::rejoin(&b, &NodeId::from_bytes([1; 32]), &secret),
        ];
        for (i, left) in psks.iter().enumerate() {
            for right in &psks[i + 1..] {
                assert_ne!(left.bytes(), right.bytes());
                assert_ne!(left.knock_key().bytes(), right.knock_key().bytes());
            }
            assert_ne!(left.bytes(), left.knock_key().bytes());
        }
    }

    #[test]
    fn secrets_are_not_formatted() {
        let key = StaticKey::from_bytes(&[7; 32]);
        assert!(!format!("{key:?}").contains("0707"));
        assert_eq!(format!("{:?}", Psk::mesh(&NetworkId::from_bytes([1; 32]), MeshEpoch(1), &[7; 32])), "Psk(..)");
    }
}
