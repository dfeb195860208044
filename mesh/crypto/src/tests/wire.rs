//! Two ends of quinn's, without sockets: one of them goes on with the handshake
//! when it is over.

use std::any::Any;
use std::net::SocketAddr;
use std::time::Instant;

use quinn_proto::{
    ClientConfig as ClientSettings, Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, Event,
    ServerConfig as ServerSettings, TransportError,
    crypto::{ExportKeyingMaterialError, HeaderKey, KeyPair, PacketKey},
};

use super::*;

/// A dialler's session that says one byte more after the last message.
struct Talkative {
    inner: Box<dyn Session>,
    /// What is left to say once the handshake is over.
    more: Vec<u8>,
    is_over: bool,
}

struct TalkativeCrypto(Arc<ClientCrypto>);

impl ClientConfig for TalkativeCrypto {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, quinn_proto::ConnectError> {
        let inner = self.0.clone().start_session(version, name, params)?;
        Ok(Box::new(Talkative { inner, more: vec![0], is_over: false }))
    }
}

impl Session for Talkative {
    fn initial_keys(&self, dcid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dcid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        // The last message that a dialler reads is the marker.
        self.is_over = !self.inner.is_handshaking();
        self.inner.read_handshake(bytes)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, out: &mut Vec<u8>) -> Option<Keys> {
        let keys = self.inner.write_handshake(out);
        if self.is_over {
            out.append(&mut self.more);
        }
        keys
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, dcid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(dcid, header, payload)
    }

    fn export_keying_material(
        &self,
        out: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(out, label, context)
    }
}

/// One end; its peer is the only other address there is.
struct End {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    now: Instant,
}

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

impl End {
    fn new(server: Option<ServerSettings>) -> Self {
        let mut settings = EndpointConfig::default();
        settings.supported_versions(vec![QUIC_VERSION]);
        let endpoint = Endpoint::new(Arc::new(settings), server.map(Arc::new), false, None);
        Self { endpoint, connection: None, now: Instant::now() }
    }

    fn connection(&mut self) -> &mut Connection {
        &mut self.connection.as_mut().unwrap().1
    }

    /// What it has to send now.
    fn sends(&mut self) -> Vec<Vec<u8>> {
        let Some((handle, connection)) = &mut self.connection else { return Vec::new() };
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        let mut sent = Vec::new();
        let mut datagram = Vec::new();
        while connection.poll_transmit(self.now, 1, &mut datagram).is_some() {
            sent.push(std::mem::take(&mut datagram));
        }
        sent
    }

    fn hears(&mut self, datagrams: Vec<Vec<u8>>) {
        for datagram in datagrams {
            let mut answer = Vec::new();
            let bytes = bytes::BytesMut::from(&datagram[..]);
            match self.endpoint.handle(self.now, PEER, None, None, bytes, &mut answer) {
                Some(DatagramEvent::ConnectionEvent(_, event)) => self.connection().handle_event(event),
                Some(DatagramEvent::NewConnection(incoming)) => {
                    let accepted = self.endpoint.accept(incoming, self.now, &mut answer, None);
                    self.connection = Some(accepted.unwrap_or_else(|refused| panic!("{}", refused.cause)));
                }
                Some(DatagramEvent::Response(_)) | None => {}
            }
        }
    }
}

#[test]
fn a_peer_that_goes_on_after_the_handshake_is_closed_and_nothing_panics() {
    let mut server =
        ServerSettings::with_crypto(Arc::new(ServerCrypto::new(party(SERVER, CLIENT, 1), Aead::Aes256Gcm)));
    server.migration(false);
    let (mut listener, mut dialler) = (End::new(Some(server)), End::new(None));
    let crypto = Arc::new(ClientCrypto::new(party(CLIENT, SERVER, 1), b"hello".to_vec()));
    let mut settings = ClientSettings::new(Arc::new(TalkativeCrypto(crypto)));
    settings.version(QUIC_VERSION);
    dialler.connection = Some(dialler.endpoint.connect(dialler.now, settings, PEER, "mesh").unwrap());

    // Until the dialler is through; its last packets are still on the way then.
    let mut on_the_way = Vec::new();
    for _ in 0..10 {
        listener.hears(std::mem::take(&mut on_the_way));
        let answers = listener.sends();
        dialler.hears(answers);
        on_the_way = dialler.sends();
        if std::iter::from_fn(|| dialler.connection().poll()).any(|event| matches!(event, Event::Connected)) {
            break;
        }
    }
    assert!(!dialler.connection().is_handshaking() && !listener.connection().is_closed());
    listener.hears(on_the_way);
    assert!(listener.connection().is_closed(), "the byte was refused");
    // The dialler has not heard of it yet, and flips the phase of its keys.
    dialler.connection().force_key_update();
    dialler.connection().ping();
    let flipped = dialler.sends();
    assert!(!flipped.is_empty());
    listener.hears(flipped);
    dialler.hears(listener.sends());
    let lost =
        std::iter::from_fn(|| dialler.connection().poll()).any(|event| matches!(event, Event::ConnectionLost { .. }));
    assert!(lost, "the dialler hears that it is closed");
}
