//! ML-KEM-768 (FIPS 203) for snow's hybrid forward secrecy slot.
//!
//! Invariant: an encapsulation key that fails the modulus check of FIPS 203
//! section 7.2 is refused before use. The decapsulation key lives for one
//! handshake and is wiped by ml-kem on drop.

use ml_kem::{
    MlKem768,
    kem::{Decapsulate, Encapsulate, Kem as _, KeyExport},
    ml_kem_768::{DecapsulationKey, EncapsulationKey},
};
use snow::types::{Kem, Random};
use zeroize::Zeroize;

/// Length of an encapsulation key (FIPS 203 table 3).
pub(crate) const PUBLIC_BYTES: usize = 1184;
/// Length of a ciphertext (FIPS 203 table 3).
pub(crate) const CIPHERTEXT_BYTES: usize = 1088;
/// Length of the shared secret.
pub(crate) const SHARED_BYTES: usize = 32;

/// One key pair, made when the initiator writes its first message.
pub(crate) struct MlKem {
    secret: Option<DecapsulationKey>,
    public: Box<[u8; PUBLIC_BYTES]>,
}

impl MlKem {
    /// An empty slot.
    pub(crate) fn new() -> Self {
        Self { secret: None, public: Box::new([0; PUBLIC_BYTES]) }
    }

    /// A slot with this key, for vectors.
    #[cfg(test)]
    pub(crate) fn of(secret: DecapsulationKey) -> Self {
        let public = ml_kem::kem::Decapsulator::encapsulation_key(&secret).to_bytes();
        let mut slot = Self::new();
        slot.public.copy_from_slice(&public);
        slot.secret = Some(secret);
        slot
    }
}

impl Kem for MlKem {
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
        // ml-kem draws from the operating system itself; snow's generator is
        // the same source behind a trait that cannot report its failure here.
        let (secret, public) = MlKem768::generate_keypair();
        self.public.copy_from_slice(&public.to_bytes());
        self.secret = Some(secret);
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
        if shared.len() != SHARED_BYTES || ciphertext.len() != CIPHERTEXT_BYTES {
            return Err(snow::Error::Kem);
        }
        let public = public.try_into().map_err(|_| snow::Error::Kem)?;
        let key = EncapsulationKey::new(&public).map_err(|_| snow::Error::Kem)?;
        let (made, mut secret) = key.encapsulate();
        ciphertext.copy_from_slice(&made);
        shared.copy_from_slice(&secret);
        secret.as_mut_slice().zeroize();
        Ok((SHARED_BYTES, CIPHERTEXT_BYTES))
    }

    fn decapsulate(&self, ciphertext: &[u8], shared: &mut [u8]) -> Result<usize, snow::Error> {
        if shared.len() != SHARED_BYTES {
            return Err(snow::Error::Kem);
        }
        let key = self.secret.as_ref().ok_or(snow::Error::Kem)?;
        let mut secret = key.decapsulate_slice(ciphertext).map_err(|_| snow::Error::Kem)?;
        shared.copy_from_slice(&secret);
        secret.as_mut_slice().zeroize();
        Ok(SHARED_BYTES)
    }
}
