//! quinn as it comes: TLS 1.3 with AES-256-GCM, and the settings of the mesh.
//!
//! Always holds: one group and one cipher, so nothing is negotiated; no
//! tickets, so every handshake is a whole one; both sides show a certificate.
//! Beside it, quinn with the mesh's keys at any MTU, which the mesh itself has
//! no setting for.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
#[cfg(feature = "bench-tls")]
use osmoda_kit::tasks::TaskKind;
use osmoda_kit::tasks::Tasks;
use osmoda_mesh_crypto::{Aead, ServerCrypto};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
};
use rustls::RootCertStore;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::quic::Suite;
use rustls::server::WebPkiClientVerifier;

use super::ends::{endpoint, noise_client, noise_endpoint, party, socket};
use super::pipe::{Pipe, Sink, Source};

/// A certificate of its own authority, for this benchmark; valid for a century.
const CERTIFICATE: &[u8] = include_bytes!("../../../data/bench.cert.der");
const KEY: &[u8] = include_bytes!("../../../data/bench.key.der");
const NAME: &str = "bench";

/// What quinn probes up to by itself, and so the mesh.
const USUAL_MTU: u16 = 1452;

/// About the size of the mesh's `Admitted`, for the other side's connect time.
#[cfg(feature = "bench-tls")]
const WELCOME: [u8; 80] = [0; 80];

const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

/// The settings of `mesh/src/tuning.rs` for an admitted link.
fn transport(mtu: u16) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(IdleTimeout::try_from(Duration::from_secs(5)).ok());
    transport.keep_alive_interval(Some(Duration::from_secs(1)));
    transport.max_concurrent_bidi_streams(VarInt::from_u32(256));
    transport.max_concurrent_uni_streams(VarInt::from_u32(1));
    transport.receive_window(VarInt::from_u32(8 * 1024 * 1024));
    transport.stream_receive_window(VarInt::from_u32(2 * 1024 * 1024));
    transport.initial_rtt(Duration::from_millis(100));
    transport.datagram_receive_buffer_size(None);
    if mtu != USUAL_MTU {
        let mut probing = MtuDiscoveryConfig::default();
        probing.upper_bound(mtu);
        transport.mtu_discovery_config(Some(probing));
        transport.initial_mtu(mtu);
    }
    Arc::new(transport)
}

/// Who does the key exchange on the TLS side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exchange {
    /// X25519 from ring.
    Classical,
    /// X25519MLKEM768 from aws-lc-rs.
    #[cfg(feature = "bench-tls")]
    Hybrid,
}

/// A provider with one cipher and one group, and the suite of first packets.
fn provider(exchange: Exchange) -> anyhow::Result<(Arc<CryptoProvider>, Suite)> {
    let (mut provider, bulk, first) = match exchange {
        Exchange::Classical => {
            use ring::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384};
            let mut provider = ring::default_provider();
            provider.kx_groups = vec![ring::kx_group::X25519];
            (provider, TLS13_AES_256_GCM_SHA384, TLS13_AES_128_GCM_SHA256)
        }
        #[cfg(feature = "bench-tls")]
        Exchange::Hybrid => {
            use rustls::crypto::aws_lc_rs;
            use rustls::crypto::aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384};
            let mut provider = aws_lc_rs::default_provider();
            provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
            (provider, TLS13_AES_256_GCM_SHA384, TLS13_AES_128_GCM_SHA256)
        }
    };
    provider.cipher_suites = vec![bulk];
    let first = first.tls13().and_then(|suite| suite.quic_suite());
    Ok((Arc::new(provider), first.context("AES-128 is there for first packets")?))
}

fn certificate() -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    (vec![CertificateDer::from(CERTIFICATE)], PrivatePkcs8KeyDer::from(KEY).into())
}

fn roots() -> anyhow::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(CERTIFICATE))?;
    Ok(Arc::new(roots))
}

/// The two configurations of a mutually authenticated connection over TLS.
fn tls(exchange: Exchange) -> anyhow::Result<(ClientConfig, ServerConfig)> {
    let (provider, first) = provider(exchange)?;
    let versions = [&rustls::version::TLS13];
    let (chain, key) = certificate();
    let client = rustls::ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions)?;
    let mut client = client.with_root_certificates(roots()?).with_client_auth_cert(chain, key)?;
    client.resumption = Resumption::disabled();

    let (chain, key) = certificate();
    let members = WebPkiClientVerifier::builder_with_provider(roots()?, provider.clone()).build()?;
    let server = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions)?;
    let mut server = server.with_client_cert_verifier(members).with_single_cert(chain, key)?;
    server.send_tls13_tickets = 0;

    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::with_initial(Arc::new(client), first)?));
    client.transport_config(transport(USUAL_MTU));
    let server = QuicServerConfig::with_initial(Arc::new(server), first)?;
    let mut server = ServerConfig::with_crypto(Arc::new(server));
    server.transport_config(transport(USUAL_MTU));
    Ok((client, server))
}

/// A stream over quinn and TLS.
pub(super) async fn tls_pipe(tasks: &Tasks) -> anyhow::Result<Pipe> {
    let (client, server) = tls(Exchange::Classical)?;
    let listener = endpoint(EndpointConfig::default(), Some(server), socket(LOOPBACK.into())?)?;
    let dialler = endpoint(EndpointConfig::default(), None, socket(LOOPBACK.into())?)?;
    stream(tasks, (dialler, client), listener).await
}

/// As [`noise_pipe_on`], over loopback.
pub(super) async fn noise_pipe(tasks: &Tasks, mtu: u16) -> anyhow::Result<Pipe> {
    noise_pipe_on(tasks, mtu, [socket(LOOPBACK.into())?, socket(LOOPBACK.into())?]).await
}

/// A stream over quinn with the mesh's handshake and packet keys, at this MTU, from
/// the first socket to the second.
pub(super) async fn noise_pipe_on(tasks: &Tasks, mtu: u16, [near, far]: [UdpSocket; 2]) -> anyhow::Result<Pipe> {
    let settings = |seed| -> anyhow::Result<EndpointConfig> {
        let mut settings = noise_endpoint(seed);
        settings.max_udp_payload_size(mtu)?;
        Ok(settings)
    };
    let mut client = noise_client(3, 1)?;
    client.transport_config(transport(mtu));
    let mut server = ServerConfig::with_crypto(Arc::new(ServerCrypto::new(party(4), Aead::Aes256Gcm)));
    server.transport_config(transport(mtu));
    let listener = endpoint(settings(4)?, Some(server), far)?;
    let dialler = endpoint(settings(3)?, None, near)?;
    stream(tasks, (dialler, client), listener).await
}

async fn stream(tasks: &Tasks, dialler: (Endpoint, ClientConfig), listener: Endpoint) -> anyhow::Result<Pipe> {
    let (dialler, client) = dialler;
    let connecting = dialler.connect_with(client, listener.local_addr()?, NAME)?;
    let accepted = async { anyhow::Ok(listener.accept().await.context("the listener is open")?.await?) };
    let (out, incoming) = tokio::try_join!(async { anyhow::Ok(connecting.await?) }, accepted)?;
    let (mut send, answers) = out.open_bi().await?;
    // A stream is seen by the other side with its first byte.
    send.write_all(&[1]).await?;
    let (back, mut receive) = incoming.accept_bi().await?;
    receive.read_exact(&mut [0]).await?;
    let held = (dialler, listener, out, incoming, answers, back);
    Ok(Pipe::new(tasks, Sink::Stream(Box::pin(send)), Source::Stream(Box::pin(receive)), held))
}

/// A listener over TLS that greets whoever proved its certificate.
#[cfg(feature = "bench-tls")]
pub(super) struct TlsDoor {
    dialler: Endpoint,
    client: ClientConfig,
    address: std::net::SocketAddr,
}

#[cfg(feature = "bench-tls")]
impl TlsDoor {
    /// Opens it.
    pub(super) fn open(tasks: &Tasks, exchange: Exchange) -> anyhow::Result<Self> {
        let (client, server) = tls(exchange)?;
        let listener = endpoint(EndpointConfig::default(), Some(server), socket(LOOPBACK.into())?)?;
        let dialler = endpoint(EndpointConfig::default(), None, socket(LOOPBACK.into())?)?;
        let address = listener.local_addr()?;
        tasks.spawn(TaskKind::BACKGROUND, "bench TLS listener", async move {
            // One dialler at a time: it waits for the greeting before the next.
            while let Some(incoming) = listener.accept().await {
                if let Err(error) = greet(incoming).await {
                    tracing::debug!(%error, "a connection over TLS failed");
                }
            }
        });
        Ok(Self { dialler, client, address })
    }

    /// From the first packet to the greeting.
    pub(super) async fn connect(&self) -> anyhow::Result<Duration> {
        let began = std::time::Instant::now();
        let connecting = self.dialler.connect_with(self.client.clone(), self.address, NAME)?;
        let connection = tokio::time::timeout(super::ends::LIMIT, connecting).await??;
        super::ends::first_words(&connection).await?;
        let took = began.elapsed();
        connection.close(0_u32.into(), b"");
        Ok(took)
    }
}

#[cfg(feature = "bench-tls")]
async fn greet(incoming: quinn::Incoming) -> anyhow::Result<()> {
    let connection = incoming.await?;
    let mut stream = connection.open_uni().await?;
    stream.write_all(&WELCOME).await?;
    stream.finish()?;
    connection.closed().await;
    Ok(())
}
