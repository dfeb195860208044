//! The controller's own TLS: rustls with aws-lc-rs, the hybrid group
//! X25519MLKEM768 first, so that what is recorded today cannot be read later.
//! A client that does not speak TLS is told so, once, and gets nothing else.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use osmoda_controller_api::ErrorBody;
use osmoda_kit::error::ApiError;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_types::ErrorCode;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::TlsFiles;

/// How long a handshake may take: three round trips of a bad line.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Handshakes at once: each costs about a millisecond of CPU; strangers wait.
const HANDSHAKES_MAX: usize = 64;

/// Shaken hands waiting to be served: axum takes them at once.
const READY_QUEUE: usize = 16;

/// The first byte of a TLS handshake record (RFC 8446, section 5.1). No HTTP
/// method begins with it.
const HANDSHAKE_RECORD: u8 = 0x16;

/// What is read of a plain request before its connection is closed, so that the
/// answer is not lost to a reset: a request without a body has less.
const PLAIN_BYTES_MAX: u64 = 64 * 1024;

/// A TCP listener behind TLS.
#[derive(Debug)]
pub struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    /// Reads the files and starts to accept.
    ///
    /// # Errors
    /// [`ErrorCode::ConfigInvalid`] with the file that cannot be used.
    pub fn start(listener: TcpListener, files: &TlsFiles, tasks: &Tasks) -> Result<Self, ApiError> {
        let acceptor = TlsAcceptor::from(Arc::new(config(files)?));
        let address = listener.local_addr().map_err(ApiError::internal)?;
        let (sender, ready) = mpsc::channel(READY_QUEUE);
        tasks.spawn(TaskKind::INTAKE, "tls listener", accept(listener, acceptor, sender, tasks.clone()));
        Ok(Self { address, ready })
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    sender: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
    tasks: Tasks,
) {
    let stop = tasks.shutdown().token(Stage::RefuseNew);
    let slots = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let accepted = tokio::select! {
            biased;
            // Cancel-safe: a token.
            () = stop.cancelled() => return,
            // Cancel-safe, as documented for `accept`.
            accepted = listener.accept() => accepted,
        };
        // Out of descriptors or a peer that went away: the next one may do.
        let Ok((stream, peer)) = accepted else { continue };
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tasks.spawn(TaskKind::BACKGROUND, "tls handshake", async move {
            let shaken = tokio::time::timeout(HANDSHAKE_LIMIT, shake(stream, &acceptor)).await;
            drop(slot);
            match shaken {
                Ok(Ok(Some(stream))) => {
                    if sender.send((stream, peer)).await.is_err() {
                        tracing::debug!(%peer, "listener is closed");
                    }
                }
                Ok(Ok(None)) => tracing::debug!(%peer, "a client did not speak TLS"),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS handshake"),
                Err(_) => tracing::debug!(%peer, "no TLS handshake in time"),
            }
        });
    }
}

/// Shakes hands, or tells a plain client what is wrong.
async fn shake(mut stream: TcpStream, acceptor: &TlsAcceptor) -> std::io::Result<Option<TlsStream<TcpStream>>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first != [HANDSHAKE_RECORD] {
        stream.write_all(plain_answer()?.as_bytes()).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(PLAIN_BYTES_MAX), &mut tokio::io::sink()).await?;
        return Ok(None);
    }
    acceptor.accept(stream).await.map(Some)
}

fn plain_answer() -> std::io::Result<String> {
    let error = "this address speaks TLS: use https://".to_owned();
    let body = serde_json::to_string(&ErrorBody { error, code: ErrorCode::BadRequest, request_id: String::new() })?;
    let status = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close";
    Ok(format!("{status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // The intake ended with the stop; axum's own stop comes next.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

fn config(files: &TlsFiles) -> Result<rustls::ServerConfig, ApiError> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    let bad = |what: &str, path: &Path, error: &dyn std::fmt::Display| {
        ApiError::new(ErrorCode::ConfigInvalid, format!("tls.{what}: {}: {error}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad("certificate", &files.certificate, &error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| bad("key", &files.key, &error))?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(ApiError::internal)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| bad("certificate", &files.certificate, &error))?;
    // axum serves HTTP/1.1 here; event streams gain nothing from HTTP/2.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
