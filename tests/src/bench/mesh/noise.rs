//! Noise over TCP: what a mesh without QUIC would be.
//!
//! `Noise_XX_25519_AESGCM_SHA256` from snow, with ring's AES, in messages of a
//! length and at most 65,535 bytes. Only a measure: no allow-list, no limits.

use std::sync::Arc;

use anyhow::ensure;
use snow::resolvers::{DefaultResolver, FallbackResolver, RingResolver};
use snow::{Builder, HandshakeState, StatelessTransportState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

const PATTERN: &str = "Noise_XX_25519_AESGCM_SHA256";

/// The largest Noise message.
const MESSAGE_BYTES_MAX: usize = 65_535;
const TAG_BYTES: usize = 16;
const LENGTH_BYTES: usize = 2;

/// Which side begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The one that connected.
    Dialler,
    /// The one that accepted.
    Listener,
}

/// The writing half.
pub(crate) struct NoiseSink {
    tcp: OwnedWriteHalf,
    keys: Arc<StatelessTransportState>,
    sent: u64,
    message: Vec<u8>,
}

/// The reading half.
pub(crate) struct NoiseSource {
    tcp: BufReader<OwnedReadHalf>,
    keys: Arc<StatelessTransportState>,
    received: u64,
    message: Vec<u8>,
}

/// Shakes hands and gives both halves.
pub(crate) async fn shake(mut tcp: TcpStream, side: Side) -> anyhow::Result<(NoiseSink, NoiseSource)> {
    tcp.set_nodelay(true)?;
    let mut state = state(side)?;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    let mut own_turn = side == Side::Dialler;
    while !state.is_handshake_finished() {
        if own_turn {
            let count = state.write_message(&[], &mut buffer)?;
            tcp.write_u16(u16::try_from(count)?).await?;
            tcp.write_all(&buffer[..count]).await?;
        } else {
            let count = usize::from(tcp.read_u16().await?);
            let mut message = vec![0; count];
            tcp.read_exact(&mut message).await?;
            state.read_message(&message, &mut buffer)?;
        }
        own_turn = !own_turn;
    }
    let keys = Arc::new(state.into_stateless_transport_mode()?);
    let (read, write) = tcp.into_split();
    let message = || vec![0; LENGTH_BYTES + MESSAGE_BYTES_MAX];
    let sink = NoiseSink { tcp: write, keys: keys.clone(), sent: 0, message: message() };
    let tcp = BufReader::with_capacity(2 * MESSAGE_BYTES_MAX, read);
    Ok((sink, NoiseSource { tcp, keys, received: 0, message: message() }))
}

fn state(side: Side) -> anyhow::Result<HandshakeState> {
    let build = || -> anyhow::Result<Builder<'static>> {
        let resolver = FallbackResolver::new(Box::new(RingResolver), Box::new(DefaultResolver));
        Ok(Builder::with_resolver(PATTERN.parse()?, Box::new(resolver)))
    };
    let key = build()?.generate_keypair()?.private;
    let builder = build()?.local_private_key(&key)?;
    Ok(match side {
        Side::Dialler => builder.build_initiator()?,
        Side::Listener => builder.build_responder()?,
    })
}

impl NoiseSink {
    /// Sends one message.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let count = self.keys.write_message(self.sent, bytes, &mut self.message[LENGTH_BYTES..])?;
        self.sent += 1;
        self.message[..LENGTH_BYTES].copy_from_slice(&u16::try_from(count)?.to_be_bytes());
        Ok(self.tcp.write_all(&self.message[..LENGTH_BYTES + count]).await?)
    }
}

impl NoiseSource {
    /// Receives one message into `buffer`; its length.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> anyhow::Result<usize> {
        let count = usize::from(self.tcp.read_u16().await?);
        ensure!(count >= TAG_BYTES && count - TAG_BYTES <= buffer.len(), "a message of {count} bytes");
        self.tcp.read_exact(&mut self.message[..count]).await?;
        let plain = self.keys.read_message(self.received, &self.message[..count], buffer)?;
        self.received += 1;
        Ok(plain)
    }
}
