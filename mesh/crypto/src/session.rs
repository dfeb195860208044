//! One connection's handshake as quinn sees it: bytes in, bytes and keys out.
//!
//! ```text
//! C->S Initial    len u16 | N1: e, psk0, e1, transport parameters
//! S->C Initial    len u16 | N2: e, ee, ekem1, s, es, hs_secret 32 | aead u8 | transport parameters
//! S->C Handshake  0x02
//! C->S Handshake  len u16 | N3: s, se, hello
//! ```
//!
//! The marker byte is there because a quinn client becomes established only on
//! a Handshake packet; with everything in Initial both sides would wait. The
//! handshake-space keys come from `hs_secret`, because snow shows neither its
//! chaining key nor additional symmetric keys (`mesh.md` section 1, pitfalls).
//!
//! Invariant: after any error the Noise state is gone and every later message
//! fails with the same constant error; `write_handshake`, which cannot fail,
//! stores the failure instead (`tests::a_failed_session_stays_failed`).
//! Invariant: whoever has application keys gets the next ones, whatever was read
//! since: quinn panics without, and a peer flips the key phase when it likes
//! (`tests::key_updates_outlive_handshake_bytes_after_the_end`).

use std::any::Any;

use osmoda_types::MeshKey;
use quinn_proto::{
    ConnectionId, Side, TransportError, TransportErrorCode,
    crypto::{self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey},
    transport_parameters::TransportParameters,
};
use std::sync::Arc;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    config::{Authorize, Party},
    keys::{self, Aead, Generation},
    noise::{End, Noise, NoiseFault},
};

/// Bound on one handshake message, without its length prefix. The largest of
/// ours is 1,313 bytes plus 64 of transport parameters; a joiner's hello may
/// use the rest. It is what an anonymous peer can make us buffer here.
pub const HANDSHAKE_FRAME_BYTES_MAX: usize = 2048;

/// Bound on the hello inside the third message: the frame less the encrypted
/// static key (32 + 16) and the payload's tag (16).
pub const HELLO_BYTES_MAX: usize = HANDSHAKE_FRAME_BYTES_MAX - 64;

/// The length prefix.
const PREFIX_BYTES: usize = 2;
/// The secret the handshake-space keys are made from, and the AEAD byte.
const SECOND_PAYLOAD_BYTES_MIN: usize = 33;
/// The server's byte in the handshake space.
const MARKER: u8 = 2;
/// TLS alert `handshake_failure`: the one code for every refusal.
const REFUSED_ALERT: u8 = 0x28;
/// The one text for every refusal. Different texts would tell a stranger
/// whether it was the secret or the allow-list that stopped it.
const REFUSED_TEXT: &str = "refused";

/// Who is at the other end, once the handshake is over. quinn returns it from
/// `Connection::peer_identity` as `Box<dyn Any>`.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The peer's proven static key.
    pub key: MeshKey,
    /// What the dialler said in its third message; empty on the dialler's side.
    pub hello: Vec<u8>,
    /// What protects the application packets.
    pub aead: Aead,
    /// How often the application keys were updated so far, by either end.
    pub key_updates: u64,
}

impl std::fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerIdentity({:?}, hello of {} bytes, {:?})", self.key, self.hello.len(), self.aead)
    }
}

/// Where the handshake is. The first five are the dialler's, the next five the
/// listener's, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    WriteFirst,
    AwaitSecond,
    InstallHandshakeKeys,
    WriteThird,
    AwaitMarker,
    AwaitFirst,
    WriteSecond,
    WriteMarker,
    AwaitThird,
    InstallApplicationKeys,
    Done,
    Failed,
}

/// One side of one handshake, and afterwards the source of its key updates.
pub(crate) struct NoiseSession {
    side: Side,
    phase: Phase,
    authorize: Arc<dyn Authorize>,
    noise: Option<Noise>,
    aead: Aead,
    received: Vec<u8>,
    local_params: Vec<u8>,
    hello: Vec<u8>,
    peer_params: Option<TransportParameters>,
    handshake_secret: Zeroizing<[u8; 32]>,
    next: Option<Generation>,
    /// Generations handed out after the first; quinn holds one in advance.
    generations: u64,
    exporter: Option<Zeroizing<[u8; 32]>>,
    peer: Option<PeerIdentity>,
}

impl NoiseSession {
    pub(crate) fn client(party: &Party, hello: Vec<u8>, params: &TransportParameters) -> Self {
        Self::new(party, Side::Client, Aead::ChaCha20Poly1305, hello, params)
    }

    pub(crate) fn server(party: &Party, aead: Aead, params: &TransportParameters) -> Self {
        Self::new(party, Side::Server, aead, Vec::new(), params)
    }

    fn new(party: &Party, side: Side, aead: Aead, hello: Vec<u8>, params: &TransportParameters) -> Self {
        let mut local_params = Vec::new();
        params.write(&mut local_params);
        let (end, start) =
            if side.is_client() { (End::Initiator, Phase::WriteFirst) } else { (End::Responder, Phase::AwaitFirst) };
        // quinn's interface cannot fail here, so a failure waits for the first read.
        let noise = Noise::new(end, &party.key, &party.psk, &party.prologue()).ok();
        Self {
            side,
            phase: if noise.is_some() { start } else { Phase::Failed },
            authorize: party.authorize.clone(),
            noise,
            aead,
            received: Vec::new(),
            local_params,
            hello,
            peer_params: None,
            handshake_secret: Zeroizing::new([0; 32]),
            next: None,
            generations: 0,
            exporter: None,
            peer: None,
        }
    }

    /// Ends the handshake for good. The next keys stay, if there are any: packets
    /// of a connection that is being closed are still opened.
    fn fail(&mut self) {
        self.phase = Phase::Failed;
        self.noise = None;
        self.received = Vec::new();
        self.exporter = None;
    }

    /// Adds received bytes and returns the message when it is whole.
    fn take_message(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, NoiseFault> {
        if self.received.len() + bytes.len() > PREFIX_BYTES + HANDSHAKE_FRAME_BYTES_MAX {
            return Err(NoiseFault);
        }
        self.received.extend_from_slice(bytes);
        let Some((prefix, rest)) = self.received.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let expected = usize::from(u16::from_be_bytes(*prefix));
        if expected > HANDSHAKE_FRAME_BYTES_MAX || rest.len() > expected {
            // One message per state: more than was announced is no honest peer.
            return Err(NoiseFault);
        }
        if rest.len() < expected {
            return Ok(None);
        }
        let message = rest.to_vec();
        self.received = Vec::new();
        Ok(Some(message))
    }

    fn read(&mut self, bytes: &[u8]) -> Result<bool, NoiseFault> {
        match self.phase {
            Phase::AwaitMarker => {
                if bytes != [MARKER] {
                    return Err(NoiseFault);
                }
                self.phase = Phase::Done;
                return Ok(false);
            }
            Phase::AwaitFirst | Phase::AwaitSecond | Phase::AwaitThird => {}
            _ => return Err(NoiseFault),
        }
        let Some(message) = self.take_message(bytes)? else { return Ok(false) };
        let noise = self.noise.as_mut().ok_or(NoiseFault)?;
        let payload = noise.read(&message)?;
        match self.phase {
            Phase::AwaitFirst => {
                self.peer_params = Some(read_params(self.side, &payload)?);
                self.phase = Phase::WriteSecond;
            }
            Phase::AwaitSecond => {
                self.read_second(&payload)?;
                self.phase = Phase::InstallHandshakeKeys;
            }
            _ => {
                self.admit_peer()?;
                self.finish(payload.to_vec())?;
                self.phase = Phase::InstallApplicationKeys;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read_second(&mut self, payload: &[u8]) -> Result<(), NoiseFault> {
        let (head, params) = payload.split_first_chunk::<SECOND_PAYLOAD_BYTES_MIN>().ok_or(NoiseFault)?;
        self.handshake_secret.copy_from_slice(&head[..32]);
        self.aead = Aead::from_wire(head[32]).ok_or(NoiseFault)?;
        self.peer_params = Some(read_params(self.side, params)?);
        self.admit_peer()
    }

    fn admit_peer(&self) -> Result<(), NoiseFault> {
        let key = self.noise.as_ref().ok_or(NoiseFault)?.peer()?;
        if self.authorize.admits(&MeshKey::from_bytes(key)) { Ok(()) } else { Err(NoiseFault) }
    }

    fn write(&mut self, out: &mut Vec<u8>) -> Result<Option<Keys>, NoiseFault> {
        match self.phase {
            Phase::WriteFirst => {
                let params = std::mem::take(&mut self.local_params);
                self.put(&params, out)?;
                self.phase = Phase::AwaitSecond;
                Ok(None)
            }
            Phase::WriteSecond => {
                keys::fill_random(&mut self.handshake_secret[..]).map_err(|_| NoiseFault)?;
                let mut payload = Zeroizing::new(self.handshake_secret.to_vec());
                payload.push(self.aead.wire());
                payload.extend_from_slice(&self.local_params);
                self.put(&payload, out)?;
                self.phase = Phase::WriteMarker;
                Ok(Some(self.handshake_keys()))
            }
            Phase::WriteMarker => {
                out.push(MARKER);
                self.phase = Phase::AwaitThird;
                Ok(None)
            }
            Phase::InstallHandshakeKeys => {
                self.phase = Phase::WriteThird;
                Ok(Some(self.handshake_keys()))
            }
            Phase::WriteThird => {
                let hello = std::mem::take(&mut self.hello);
                self.put(&hello, out)?;
                self.finish(Vec::new())?;
                self.phase = Phase::AwaitMarker;
                self.application_keys().map(Some)
            }
            Phase::InstallApplicationKeys => {
                self.phase = Phase::Done;
                self.application_keys().map(Some)
            }
            Phase::AwaitFirst | Phase::AwaitSecond | Phase::AwaitThird | Phase::AwaitMarker => Ok(None),
            Phase::Done | Phase::Failed => Ok(None),
        }
    }

    fn put(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), NoiseFault> {
        if payload.len() > HELLO_BYTES_MAX {
            return Err(NoiseFault);
        }
        let message = self.noise.as_mut().ok_or(NoiseFault)?.write(payload)?;
        if message.len() > HANDSHAKE_FRAME_BYTES_MAX {
            return Err(NoiseFault);
        }
        let prefix = u16::try_from(message.len()).map_err(|_| NoiseFault)?;
        out.extend_from_slice(&prefix.to_be_bytes());
        out.extend_from_slice(&message);
        Ok(())
    }

    fn finish(&mut self, hello: Vec<u8>) -> Result<(), NoiseFault> {
        let finished = self.noise.take().ok_or(NoiseFault)?.finish()?;
        self.exporter = Some(keys::exporter(&finished));
        self.peer =
            Some(PeerIdentity { key: MeshKey::from_bytes(finished.peer), hello, aead: self.aead, key_updates: 0 });
        let (initiator, responder) = (finished.initiator, finished.responder);
        self.next = Some(self.directed(initiator, responder));
        Ok(())
    }

    fn directed(&self, initiator: Zeroizing<[u8; 32]>, responder: Zeroizing<[u8; 32]>) -> Generation {
        if self.side.is_client() {
            Generation { local: initiator, remote: responder }
        } else {
            Generation { local: responder, remote: initiator }
        }
    }

    /// The handshake space always uses ChaCha: the AEAD choice is not yet known
    /// to both sides when the first of these packets is sent.
    fn handshake_keys(&self) -> Keys {
        let client = keys::expand(&self.handshake_secret, "hs c");
        let server = keys::expand(&self.handshake_secret, "hs s");
        self.directed(client, server).keys(Aead::ChaCha20Poly1305)
    }

    fn application_keys(&mut self) -> Result<Keys, NoiseFault> {
        let generation = self.next.take().ok_or(NoiseFault)?;
        let keys = generation.keys(self.aead);
        self.next = Some(generation.next());
        self.handshake_secret = Zeroizing::new([0; 32]);
        Ok(keys)
    }
}

fn read_params(side: Side, mut bytes: &[u8]) -> Result<TransportParameters, NoiseFault> {
    TransportParameters::read(side, &mut bytes).map_err(|_| NoiseFault)
}

fn refused() -> TransportError {
    TransportError { code: TransportErrorCode::crypto(REFUSED_ALERT), frame: None, reason: REFUSED_TEXT.into() }
}

impl crypto::Session for NoiseSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        keys::initial(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let key_updates = self.generations.saturating_sub(1);
        self.peer.clone().map(|peer| Box::new(PeerIdentity { key_updates, ..peer }) as Box<dyn Any>)
    }

    // No early data at all: a replayed first message then costs processor time
    // and nothing else.
    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        !matches!(self.phase, Phase::AwaitMarker | Phase::InstallApplicationKeys | Phase::Done)
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.read(buf).map_err(|NoiseFault| {
            self.fail();
            refused()
        })
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        Ok(self.peer_params)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        match self.write(buf) {
            Ok(keys) => keys,
            Err(NoiseFault) => {
                self.fail();
                None
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let generation = self.next.take()?;
        let keys = generation.packet_keys(self.aead);
        self.next = Some(generation.next());
        self.generations += 1;
        Some(keys)
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let Some((body, tag)) = payload.split_last_chunk::<{ keys::RETRY_TAG_BYTES }>() else { return false };
        let packet = [header, body].concat();
        bool::from(keys::retry_tag(orig_dst_cid, &packet).ct_eq(tag))
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let exporter = self.exporter.as_ref().ok_or(ExportKeyingMaterialError)?;
        let length = u16::try_from(label.len()).map_err(|_| ExportKeyingMaterialError)?.to_be_bytes();
        keys::fill_slice(exporter, &[&length, label, context], output).ok_or(ExportKeyingMaterialError)
    }
}
