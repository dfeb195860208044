//! The handshake as quinn drives it, with one message of an attacker's.

use std::sync::Arc;

use osmoda_mesh_crypto::{Aead, ClientCrypto, Mode, Party, Psk, QUIC_VERSION, ServerCrypto, StaticKey};
use osmoda_types::{MeshEpoch, MeshKey, NetworkId};
use quinn_proto::{
    ConnectionId, Side,
    crypto::{ClientConfig, ServerConfig, Session},
    transport_parameters::TransportParameters,
};

/// What byte 0 chooses from.
const STEPS: u8 = 6;

const NETWORK: NetworkId = NetworkId::from_bytes([3; 32]);

fn party(own: u8, admitted: u8) -> Party {
    let admitted = StaticKey::from_bytes(&[admitted; 32]).public();
    Party {
        key: Arc::new(StaticKey::from_bytes(&[own; 32])),
        psk: Psk::mesh(&NETWORK, MeshEpoch(1), &[4; 32]),
        network: NETWORK,
        mode: Mode::Mesh(MeshEpoch(1)),
        authorize: Arc::new(move |key: &MeshKey| *key == admitted),
    }
}

fn params() -> TransportParameters {
    TransportParameters::read(Side::Client, &mut &[][..]).expect("no parameters are all defaults")
}

fn client(hello: &[u8]) -> Box<dyn Session> {
    let config = Arc::new(ClientCrypto::new(party(1, 2), hello.to_vec()));
    config.start_session(QUIC_VERSION, "", &params()).expect("our own version")
}

fn server() -> Box<dyn Session> {
    Arc::new(ServerCrypto::new(party(2, 1), Aead::ChaCha20Poly1305)).start_session(QUIC_VERSION, &params())
}

fn written(session: &mut Box<dyn Session>) -> Vec<u8> {
    let mut out = Vec::new();
    drop(session.write_handshake(&mut out));
    out
}

/// What an attacker makes of an honest message: byte 1 says whether the rest
/// replaces it, is laid over it from a place on, or follows it.
fn attacked(honest: &[u8], how: &[u8]) -> Vec<u8> {
    let Some(([kind, at], rest)) = how.split_first_chunk::<2>().map(|(head, rest)| (*head, rest)) else {
        return Vec::new();
    };
    match kind % 3 {
        0 => rest.to_vec(),
        1 => {
            let mut message = honest.to_vec();
            let from = usize::from(at) * 8;
            message.iter_mut().skip(from).zip(rest).for_each(|(byte, mask)| *byte ^= mask);
            message
        }
        _ => [honest, rest].concat(),
    }
}

/// Gives a session an attacked message, in pieces. Nothing but the honest
/// message may move it.
fn give(session: &mut Box<dyn Session>, honest: &[u8], how: &[u8]) {
    let message = attacked(honest, how);
    let piece = 1 + usize::from(how.first().copied().unwrap_or(0));
    let mut failed = false;
    for part in message.chunks(piece * 16) {
        failed |= session.read_handshake(part).is_err();
    }
    let moved = !written(session).is_empty();
    assert!(!(failed && moved), "a session went on after an error");
    assert!(!moved || message == honest, "an attacked message was accepted");
}

/// A handshake, honest up to the message that byte 0 chooses, or to its end.
///
/// # Panics
/// When a session goes on after an error, accepts anything but the honest
/// message, or has no keys for an update after the end.
pub fn handshake(bytes: &[u8]) {
    let Some((step, how)) = bytes.split_first() else { return };
    let (mut client, mut server) = (client(b"hello"), server());
    let first = written(&mut client);
    match step % STEPS {
        0 => return give(&mut server, &first, how),
        // A hello of any bytes and length, sealed as it should be.
        1 => return hello(how),
        2 => return retry(&mut client, how),
        _ => {}
    }
    if server.read_handshake(&first).is_err() {
        return;
    }
    let second = written(&mut server);
    let marker = written(&mut server);
    if step % STEPS == 3 {
        return give(&mut client, &second, how);
    }
    if client.read_handshake(&second).is_ok() {
        drop(written(&mut client));
        let third = written(&mut client);
        if step % STEPS == 5 {
            let ended = client.read_handshake(&marker).is_ok() && server.read_handshake(&third).is_ok();
            assert!(ended && written(&mut server).is_empty(), "an honest message was refused");
            return [client, server].iter_mut().for_each(|session| after_the_end(session, how));
        }
        let message = attacked(&third, how);
        if server.read_handshake(&message).is_ok() && !server.is_handshaking() {
            assert_eq!(message, third, "an attacked message was accepted");
        }
    }
}

/// More handshake bytes on a connection that is up, between updates of its keys.
fn after_the_end(session: &mut Box<dyn Session>, bytes: &[u8]) {
    for part in bytes.chunks(64) {
        assert!(session.read_handshake(part).is_err(), "a message after the last one was accepted");
        assert!(written(session).is_empty(), "a session went on after an error");
        assert!(session.next_1rtt_keys().is_some(), "quinn panics without the next keys");
    }
}

fn hello(bytes: &[u8]) {
    let (mut client, mut server) = (client(bytes), server());
    if server.read_handshake(&written(&mut client)).is_err() {
        return;
    }
    let second = written(&mut server);
    drop(written(&mut server));
    if client.read_handshake(&second).is_ok() {
        drop(written(&mut client));
        drop(server.read_handshake(&written(&mut client)));
    }
}

fn retry(client: &mut Box<dyn Session>, bytes: &[u8]) {
    let (header, payload) = bytes.split_at(bytes.len() / 4);
    let forged = client.is_valid_retry(&ConnectionId::new(&[5; 20]), header, payload);
    // The key of a Retry is public, so a fuzzer that computes may hit one.
    assert!(!forged || payload.len() >= 16);
}

/// The transport parameters inside the first two messages.
///
/// # Panics
/// Never, unless quinn does.
pub fn transport_parameters(bytes: &[u8]) {
    for side in [Side::Client, Side::Server] {
        if let Ok(params) = TransportParameters::read(side, &mut &bytes[..]) {
            let mut out = Vec::new();
            params.write(&mut out);
        }
    }
}
