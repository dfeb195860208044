//! The controller's own TLS with the real client: the hybrid group is what both
//! sides want first, a plain client is told what is wrong, and a certificate
//! that the client does not trust ends it before the token is sent.
//!
//! Only with feature `tls` (`cargo xtask test` builds the `osmoda` beside this
//! binary with it first).
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure shows the line that surprised it")]

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use osmoda_controller::{TlsFiles, TlsListener};
use osmoda_kit::process::{self, Output, Spec};
use osmoda_kit::tasks::TaskKind;
use osmoda_types::ErrorCode;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{HandshakeKind, NamedGroup};
use support::{LIMIT, TOKEN, TestController, fleet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn data(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls")).join(name)
}

fn files(name: &str) -> TlsFiles {
    TlsFiles { certificate: data(&format!("{name}.pem")), key: data(&format!("{name}.key")) }
}

/// A controller behind TLS with that certificate.
async fn controller(certificate: &str) -> (TestController, SocketAddr, tempfile::TempDir) {
    let (dir, _tasks, voter, database) = fleet();
    let controller = TestController::start(&voter, &database).await;
    controller.caught_up(&voter).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listener = TlsListener::start(listener, &files(certificate), &controller.tasks).unwrap();
    let serving = axum::serve(listener, controller.router.clone());
    controller.tasks.spawn(TaskKind::BACKGROUND, "rest", async move { serving.await });
    (controller, address, dir)
}

/// Runs `osmoda` as an operator that trusts one authority.
async fn osmoda(server: &str, authority: &str, args: &[&str]) -> Output {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().and_then(std::path::Path::parent).unwrap().join("osmoda");
    assert!(program.exists(), "build it first: cargo build --features osmoda-ctl/tls --bin osmoda");
    let spec = Spec::new(program)
        .args(["--server", server].iter().chain(args))
        .env("OSMODA_TOKEN", TOKEN)
        .env("SSL_CERT_FILE", data(authority))
        .env("HOME", "/nonexistent")
        .time_limit(LIMIT);
    let output = process::run(&spec).await.unwrap();
    assert!(
        !text(&output.stderr).contains("has no TLS"),
        "build it: cargo build --features osmoda-ctl/tls --bin osmoda"
    );
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Shakes hands with the controller, knowing only those groups.
async fn shake(address: SocketAddr, groups: &[&'static dyn SupportedKxGroup]) -> (HandshakeKind, NamedGroup) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(data("authority.pem")).unwrap()).unwrap();
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = groups.to_vec();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    let (_, shaken) = stream.get_ref();
    (shaken.handshake_kind().unwrap(), shaken.negotiated_key_exchange_group().unwrap().name())
}

#[tokio::test]
async fn the_operator_reads_the_fleet_over_tls() {
    let (controller, address, _dir) = controller("controller").await;
    let read = osmoda(&format!("https://{address}"), "authority.pem", &["node", "ls", "-o", "name"]).await;
    assert!(read.status.success(), "{}", text(&read.stderr));
    assert_eq!(text(&read.stdout).trim(), "voter-1");
    controller.stop().await;
}

#[tokio::test]
async fn the_controller_takes_the_hybrid_group_at_once_and_falls_back_for_others() {
    let (controller, address, _dir) = controller("controller").await;
    let hybrid = shake(address, &[kx_group::X25519MLKEM768]).await;
    assert_eq!(hybrid, (HandshakeKind::Full, NamedGroup::X25519MLKEM768));
    // It takes what a client begins with rather than ask it to begin again.
    let classic_first = shake(address, &[kx_group::X25519, kx_group::X25519MLKEM768]).await;
    assert_eq!(classic_first, (HandshakeKind::Full, NamedGroup::X25519));
    let old = shake(address, &[kx_group::X25519]).await;
    assert_eq!(old, (HandshakeKind::Full, NamedGroup::X25519));
    controller.stop().await;
}

/// A server that knows nothing but the hybrid group: the client has to offer it.
#[tokio::test]
async fn the_operators_client_begins_with_the_hybrid_group() {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![kx_group::X25519MLKEM768];
    let chain = vec![CertificateDer::from_pem_file(data("controller.pem")).unwrap()];
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(data("controller.key")).unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("https://{}", listener.local_addr().unwrap());
    let client = osmoda(&server, "authority.pem", &["node", "ls"]);
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        let (_, shaken) = stream.get_ref();
        (shaken.handshake_kind().unwrap(), shaken.negotiated_key_exchange_group().unwrap().name())
    };
    let (client, shaken) = tokio::join!(client, tokio::time::timeout(LIMIT, serving));
    assert_eq!(shaken.unwrap(), (HandshakeKind::Full, NamedGroup::X25519MLKEM768));
    assert!(!client.status.success(), "nobody answered it");
}

#[tokio::test]
async fn a_plain_client_is_told_to_speak_tls() {
    let (controller, address, _dir) = controller("controller").await;
    let told = osmoda(&format!("http://{address}"), "authority.pem", &["node", "ls"]).await;
    assert_eq!(told.status.code(), Some(1), "{}", text(&told.stderr));
    assert!(text(&told.stderr).contains("this address speaks TLS: use https://"), "{}", text(&told.stderr));

    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 ") && head.contains("connection: close"), "{head}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["code"], ErrorCode::BadRequest.as_str());
    controller.stop().await;
}

#[tokio::test]
async fn a_certificate_of_a_stranger_or_for_another_name_is_refused() {
    let (known, address, _dir) = controller("controller").await;
    let stranger = osmoda(&format!("https://{address}"), "stranger.pem", &["node", "ls"]).await;
    let (other, address, _dir) = controller("elsewhere").await;
    let elsewhere = osmoda(&format!("https://{address}"), "authority.pem", &["node", "ls"]).await;
    for (refused, cause) in [(stranger, "UnknownIssuer"), (elsewhere, "not valid for name")] {
        let why = text(&refused.stderr);
        assert_eq!((refused.status.code(), text(&refused.stdout)), (Some(1), String::new()), "{why}");
        assert!(why.contains("invalid peer certificate") && why.contains(cause), "{why}");
        assert!(why.contains("SSL_CERT_FILE"), "the next step is named: {why}");
    }
    known.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn files_that_are_no_certificate_and_no_key_are_named() {
    let (dir, tasks, _voter, _database) = fleet();
    let check = async |certificate: PathBuf, key: PathBuf, named: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = TlsListener::start(listener, &TlsFiles { certificate, key }, &tasks).err().unwrap();
        assert_eq!(error.code, ErrorCode::ConfigInvalid);
        assert!(error.message.starts_with(named), "{}", error.message);
    };
    check(dir.path().join("absent"), data("controller.key"), "tls.certificate").await;
    check(data("controller.pem"), data("controller.pem"), "tls.key").await;
    check(data("controller.pem"), data("elsewhere.key"), "tls.certificate").await;
}
