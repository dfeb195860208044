//! The Noise side: which primitives, and one handshake state per connection.
//!
//! snow 0.10 knows only Kyber1024 as a KEM, but takes a free protocol name and
//! a resolver, so ML-KEM-768 plugs in from outside (`mesh.md` section 0.4). The
//! name is spelled `MLKEM768`: Noise section 8 allows only letters and digits.

use std::sync::Arc;

use snow::{
    HandshakeState,
    params::{BaseChoice, CipherChoice, DHChoice, HandshakeChoice, HashChoice, KemChoice, NoiseParams},
    resolvers::{CryptoResolver, RingResolver},
    types::{Cipher, Dh, Hash, Kem, Random},
};
use zeroize::Zeroizing;

use crate::{
    dh::X25519,
    kem::MlKem,
    secret::{Psk, StaticKey},
};

/// The full name of the protocol, hashed into every handshake.
pub const NOISE_NAME: &str = "Noise_XXhfs+psk0_25519+MLKEM768_ChaChaPoly_SHA256";

/// Room for any message we write. snow checks lengths before it counts what it
/// has already written, so the buffer must hold the whole message with slack;
/// our largest is 2 KiB (`session::HANDSHAKE_FRAME_BYTES_MAX`).
pub(crate) const WRITE_BUFFER_BYTES: usize = 4096;

/// A Noise step that failed. Carries no reason: the peer gets one constant
/// answer, and the cause is of no use to an honest peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the noise handshake failed")]
pub struct NoiseFault;

impl From<snow::Error> for NoiseFault {
    fn from(_: snow::Error) -> Self {
        NoiseFault
    }
}

/// The secrets that leave a finished handshake. Both keys are used only as
/// HKDF inputs, never directly.
pub(crate) struct Finished {
    pub(crate) initiator: Zeroizing<[u8; 32]>,
    pub(crate) responder: Zeroizing<[u8; 32]>,
    pub(crate) hash: [u8; 32],
    pub(crate) peer: [u8; 32],
}

/// Which end of the handshake this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Writes the first message.
    Initiator,
    /// Answers it.
    Responder,
}

/// One handshake. Consumed by `finish`; must be dropped after any error,
/// because snow does not restore its cipher key then.
pub(crate) struct Noise(HandshakeState);

impl Noise {
    pub(crate) fn new(end: End, key: &Arc<StaticKey>, psk: &Psk, prologue: &[u8]) -> Result<Self, NoiseFault> {
        Self::with(Backend::DEFAULT, end, key, psk, prologue)
    }

    fn with(backend: Backend, end: End, key: &Arc<StaticKey>, psk: &Psk, prologue: &[u8]) -> Result<Self, NoiseFault> {
        let resolver = Resolver { known: key.clone(), backend };
        let builder = snow::Builder::with_resolver(params(NOISE_NAME, "XXhfs+psk0")?, Box::new(resolver))
            .local_private_key(key.secret_bytes())?
            .prologue(prologue)?
            .psk(0, psk.bytes())?;
        Ok(Self(match end {
            End::Initiator => builder.build_initiator()?,
            End::Responder => builder.build_responder()?,
        }))
    }

    pub(crate) fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, NoiseFault> {
        let mut message = vec![0; WRITE_BUFFER_BYTES];
        let len = self.0.write_message(payload, &mut message)?;
        message.truncate(len);
        Ok(message)
    }

    pub(crate) fn read(&mut self, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, NoiseFault> {
        let mut payload = Zeroizing::new(vec![0; message.len()]);
        let len = self.0.read_message(message, &mut payload)?;
        payload.truncate(len);
        Ok(payload)
    }

    /// The peer's static key, once its message has been read.
    pub(crate) fn peer(&self) -> Result<[u8; 32], NoiseFault> {
        self.0.get_remote_static().and_then(|key| key.try_into().ok()).ok_or(NoiseFault)
    }

    pub(crate) fn finish(mut self) -> Result<Finished, NoiseFault> {
        if !self.0.is_handshake_finished() {
            return Err(NoiseFault);
        }
        let peer = self.peer()?;
        let hash = self.0.get_handshake_hash().try_into().map_err(|_| NoiseFault)?;
        let (initiator, responder) = self.0.dangerously_get_raw_split();
        Ok(Finished { initiator: Zeroizing::new(initiator), responder: Zeroizing::new(responder), hash, peer })
    }
}

/// The parameters under a free name; the KEM slot is only a place for ours.
pub(crate) fn params(name: &str, handshake: &str) -> Result<NoiseParams, NoiseFault> {
    Ok(NoiseParams::new(
        name.into(),
        BaseChoice::Noise,
        handshake.parse::<HandshakeChoice>()?,
        DHChoice::Curve25519,
        Some(KemChoice::Kyber1024),
        CipherChoice::ChaChaPoly,
        HashChoice::SHA256,
    ))
}

/// Whose X25519 and ML-KEM-768; the wire is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    /// curve25519-dalek and ml-kem.
    #[cfg_attr(feature = "fast-crypto", allow(dead_code, reason = "tests check it against the other"))]
    Pure,
    /// aws-lc-rs.
    #[cfg(any(test, feature = "fast-crypto"))]
    Fast,
}

impl Backend {
    #[cfg(not(feature = "fast-crypto"))]
    const DEFAULT: Self = Backend::Pure;
    #[cfg(feature = "fast-crypto")]
    const DEFAULT: Self = Backend::Fast;
}

struct Resolver {
    known: Arc<StaticKey>,
    backend: Backend,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        RingResolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let known = self.known.clone();
        matches!(choice, DHChoice::Curve25519).then(|| match self.backend {
            Backend::Pure => Box::new(X25519::new(known)) as Box<dyn Dh>,
            #[cfg(any(test, feature = "fast-crypto"))]
            Backend::Fast => Box::new(crate::fast::FastX25519::new(known)),
        })
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        RingResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        RingResolver.resolve_cipher(choice)
    }

    fn resolve_kem(&self, _slot: &KemChoice) -> Option<Box<dyn Kem>> {
        Some(match self.backend {
            Backend::Pure => Box::new(MlKem::new()) as Box<dyn Kem>,
            #[cfg(any(test, feature = "fast-crypto"))]
            Backend::Fast => Box::new(crate::fast::FastMlKem::new()),
        })
    }
}

#[cfg(test)]
mod cost;
#[cfg(test)]
mod interop;
#[cfg(test)]
mod model;
#[cfg(test)]
mod vectors;
