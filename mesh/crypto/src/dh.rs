//! X25519 for snow: wiped on drop, and refusing keys that contribute nothing.
//!
//! snow's own wrapper does neither (`mesh.md` section 1, pitfalls). Invariant:
//! a Diffie-Hellman output of all zeros is an error (RFC 7748 section 6.1;
//! `tests::low_order_points_are_refused`).

use std::sync::Arc;

use curve25519_dalek::montgomery::MontgomeryPoint;
use snow::types::{Dh, Random};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::secret::StaticKey;

const KEY_BYTES: usize = 32;

/// One X25519 key pair inside a handshake.
pub(crate) struct X25519 {
    secret: Zeroizing<[u8; KEY_BYTES]>,
    public: [u8; KEY_BYTES],
    known: Arc<StaticKey>,
}

impl X25519 {
    /// An empty slot. `known` is the node's static key: when snow sets exactly
    /// that key, its public half is copied instead of computed (about 12 us of
    /// the 21 to 40 us that a stranger's first message may cost us).
    pub(crate) fn new(known: Arc<StaticKey>) -> Self {
        Self { secret: Zeroizing::new([0; KEY_BYTES]), public: [0; KEY_BYTES], known }
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_BYTES
    }

    fn priv_len(&self) -> usize {
        KEY_BYTES
    }

    fn set(&mut self, secret: &[u8]) {
        // snow's signature has no error; a key of another length would be a
        // fault of ours and ends as an all-zero key, which no peer accepts.
        let Ok(secret) = <&[u8; KEY_BYTES]>::try_from(secret) else { return };
        self.secret.copy_from_slice(secret);
        self.public = if bool::from(secret.ct_eq(self.known.secret_bytes())) {
            *self.known.public().as_bytes()
        } else {
            public_of(secret)
        };
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        rng.try_fill_bytes(&mut self.secret[..])?;
        self.public = public_of(&self.secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.secret[..]
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        // snow passes its fixed-size buffer, longer than the key.
        let point = public.get(..KEY_BYTES).and_then(|p| <[u8; KEY_BYTES]>::try_from(p).ok()).ok_or(snow::Error::Dh)?;
        let mut shared = MontgomeryPoint(point).mul_clamped(*self.secret);
        if bool::from(shared.as_bytes().ct_eq(&[0; KEY_BYTES])) {
            return Err(snow::Error::Dh);
        }
        out.get_mut(..KEY_BYTES).ok_or(snow::Error::Dh)?.copy_from_slice(shared.as_bytes());
        shared.zeroize();
        Ok(())
    }
}

/// The public key of a secret key.
pub(crate) fn public_of(secret: &[u8; KEY_BYTES]) -> [u8; KEY_BYTES] {
    MontgomeryPoint::mul_base_clamped(*secret).to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(secret: [u8; 32]) -> X25519 {
        let mut slot = X25519::new(Arc::new(StaticKey::from_bytes(&[1; 32])));
        slot.set(&secret);
        slot
    }

    #[test]
    fn both_sides_agree_and_the_cached_public_key_is_the_computed_one() {
        let (a, b) = (slot([1; 32]), slot([2; 32]));
        assert_eq!(a.pubkey(), public_of(&[1; 32]));
        let (mut x, mut y) = ([0; 56], [0; 56]);
        a.dh(b.pubkey(), &mut x).unwrap();
        b.dh(a.pubkey(), &mut y).unwrap();
        assert_eq!(x, y);
    }

    #[test]
    fn low_order_points_are_refused() {
        // The points of order 1, 2, 4 and 8 as encodings of u (RFC 7748; Cremers
        // and Jackson 2019, table of small-order points).
        let order_8 = [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
            0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ];
        let mut one = [0; 32];
        one[0] = 1;
        let mut minus_one = [0xff; 32];
        (minus_one[0], minus_one[31]) = (0xec, 0x7f);
        for point in [[0; 32], one, minus_one, order_8] {
            assert!(slot([5; 32]).dh(&point, &mut [0; 56]).is_err(), "{point:02x?}");
        }
        assert!(slot([5; 32]).dh(&[9; 31], &mut [0; 56]).is_err());
    }

    #[test]
    fn rfc_7748_section_6_1() {
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        let bob = slot(hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb").try_into().unwrap());
        assert_eq!(bob.pubkey(), hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
        let alice = hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        let mut shared = [0; 32];
        bob.dh(&alice, &mut shared).unwrap();
        assert_eq!(&shared[..], hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"));
    }
}
