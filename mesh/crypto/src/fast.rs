//! The same X25519 and ML-KEM-768 from aws-lc-rs, behind the same slots and on
//! the same wire: about half the processor time of a handshake (`mesh.md`
//! section 5), at the price of C and assembly. Feature `fast-crypto`; tests
//! always compile it, to check each against the other.

use std::sync::Arc;

use aws_lc_rs::{
    agreement::{self, PrivateKey, UnparsedPublicKey},
    kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768},
};
use snow::types::{Dh, Kem, Random};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    kem::{CIPHERTEXT_BYTES, PUBLIC_BYTES, SHARED_BYTES},
    secret::StaticKey,
};

const KEY_BYTES: usize = 32;

/// One X25519 key pair inside a handshake.
pub(crate) struct FastX25519 {
    secret: Zeroizing<[u8; KEY_BYTES]>,
    key: Option<PrivateKey>,
    public: [u8; KEY_BYTES],
    known: Arc<StaticKey>,
}

impl FastX25519 {
    /// An empty slot; as `dh::X25519::new`.
    pub(crate) fn new(known: Arc<StaticKey>) -> Self {
        Self { secret: Zeroizing::new([0; KEY_BYTES]), key: None, public: [0; KEY_BYTES], known }
    }

    fn take(&mut self) {
        self.key = PrivateKey::from_private_key(&agreement::X25519, &self.secret[..]).ok();
        let public = self.key.as_ref().and_then(|key| key.compute_public_key().ok());
        let public = public.and_then(|public| <[u8; KEY_BYTES]>::try_from(public.as_ref()).ok());
        self.public = public.unwrap_or_default();
    }
}

impl Dh for FastX25519 {
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
        let Ok(secret) = <&[u8; KEY_BYTES]>::try_from(secret) else { return };
        self.secret.copy_from_slice(secret);
        if bool::from(secret.ct_eq(self.known.secret_bytes())) {
            self.public = *self.known.public().as_bytes();
            self.key = PrivateKey::from_private_key(&agreement::X25519, secret).ok();
        } else {
            self.take();
        }
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        rng.try_fill_bytes(&mut self.secret[..])?;
        self.take();
        if self.key.is_some() { Ok(()) } else { Err(snow::Error::Dh) }
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.secret[..]
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public = public.get(..KEY_BYTES).ok_or(snow::Error::Dh)?;
        let out = out.get_mut(..KEY_BYTES).ok_or(snow::Error::Dh)?;
        let key = self.key.as_ref().ok_or(snow::Error::Dh)?;
        let peer = UnparsedPublicKey::new(&agreement::X25519, public);
        agreement::agree(key, peer, snow::Error::Dh, |shared| {
            // aws-lc refuses these itself; the rule is ours, so it is checked here too.
            if bool::from(shared.ct_eq(&[0; KEY_BYTES])) {
                return Err(snow::Error::Dh);
            }
            out.copy_from_slice(shared);
            Ok(())
        })
    }
}

/// One ML-KEM-768 key pair.
pub(crate) struct FastMlKem {
    secret: Option<DecapsulationKey>,
    public: Box<[u8; PUBLIC_BYTES]>,
}

impl FastMlKem {
    /// An empty slot.
    pub(crate) fn new() -> Self {
        Self { secret: None, public: Box::new([0; PUBLIC_BYTES]) }
    }
}

impl Kem for FastMlKem {
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
        SHARED_BYTES
    }

    fn generate(&mut self, _rng: &mut dyn Random) {
        // snow's interface has no error here; without a key the handshake fails
        // when the peer's ciphertext comes.
        let Ok(secret) = DecapsulationKey::generate(&ML_KEM_768) else { return };
        let Ok(public) = secret.encapsulation_key().and_then(|key| Ok(key.key_bytes()?.as_ref().to_vec())) else {
            return;
        };
        if public.len() == PUBLIC_BYTES {
            self.public.copy_from_slice(&public);
            self.secret = Some(secret);
        }
    }

    fn pubkey(&self) -> &[u8] {
        &self.public[..]
    }

    fn encapsulate(
        &self,
        public: &[u8],
        shared: &mut [u8],
        ciphertext: &mut [u8],
    ) -> Result<(usize, usize), snow::Error> {
        if public.len() != PUBLIC_BYTES || shared.len() != SHARED_BYTES || ciphertext.len() != CIPHERTEXT_BYTES {
            return Err(snow::Error::Kem);
        }
        let key = EncapsulationKey::new(&ML_KEM_768, public).map_err(|_| snow::Error::Kem)?;
        let (made, secret) = key.encapsulate().map_err(|_| snow::Error::Kem)?;
        if made.as_ref().len() != CIPHERTEXT_BYTES || secret.as_ref().len() != SHARED_BYTES {
            return Err(snow::Error::Kem);
        }
        ciphertext.copy_from_slice(made.as_ref());
        shared.copy_from_slice(secret.as_ref());
        Ok((SHARED_BYTES, CIPHERTEXT_BYTES))
    }

    fn decapsulate(&self, ciphertext: &[u8], shared: &mut [u8]) -> Result<usize, snow::Error> {
        let key = self.secret.as_ref().ok_or(snow::Error::Kem)?;
        if ciphertext.len() != CIPHERTEXT_BYTES || shared.len() != SHARED_BYTES {
            return Err(snow::Error::Kem);
        }
        let secret = key.decapsulate(Ciphertext::from(ciphertext)).map_err(|_| snow::Error::Kem)?;
        if secret.as_ref().len() != SHARED_BYTES {
            return Err(snow::Error::Kem);
        }
        shared.copy_from_slice(secret.as_ref());
        Ok(SHARED_BYTES)
    }
}
