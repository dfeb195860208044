//! Two sessions driven by hand, without quinn: agreement, refusals, and input
//! that no honest peer sends.

mod wire;

use std::sync::Arc;

use osmoda_types::{MeshEpoch, MeshKey, NetworkId};
use proptest::prelude::*;
use quinn_proto::{
    ConnectionId, Side,
    crypto::{ClientConfig, Keys, ServerConfig, Session},
    transport_parameters::TransportParameters,
};

use crate::*;

const NETWORK: NetworkId = NetworkId::from_bytes([3; 32]);
const CLIENT: u8 = 1;
const SERVER: u8 = 2;

fn key(seed: u8) -> Arc<StaticKey> {
    Arc::new(StaticKey::from_bytes(&[seed; 32]))
}

fn party(own: u8, admitted: u8, epoch: u32) -> Party {
    let admitted = key(admitted).public();
    Party {
        key: key(own),
        psk: Psk::mesh(&NETWORK, MeshEpoch(epoch), &[4; 32]),
        network: NETWORK,
        mode: Mode::Mesh(MeshEpoch(epoch)),
        authorize: Arc::new(move |key: &MeshKey| *key == admitted),
    }
}

fn params() -> TransportParameters {
    TransportParameters::read(Side::Client, &mut &[][..]).unwrap()
}

fn client_of(party: Party, hello: &[u8]) -> Box<dyn Session> {
    Arc::new(ClientCrypto::new(party, hello.to_vec())).start_session(QUIC_VERSION, "", &params()).unwrap()
}

fn server_of(party: Party, aead: Aead) -> Box<dyn Session> {
    Arc::new(ServerCrypto::new(party, aead)).start_session(QUIC_VERSION, &params())
}

fn pair() -> (Box<dyn Session>, Box<dyn Session>) {
    (client_of(party(CLIENT, SERVER, 1), b"hello"), server_of(party(SERVER, CLIENT, 1), Aead::Aes256Gcm))
}

fn write(session: &mut Box<dyn Session>) -> (Vec<u8>, Option<Keys>) {
    let mut out = Vec::new();
    let keys = session.write_handshake(&mut out);
    (out, keys)
}

/// The messages of a whole handshake, in order.
struct Script {
    first: Vec<u8>,
    second: Vec<u8>,
    third: Vec<u8>,
}

/// Runs a handshake to its end and returns what was said and both 1-RTT keys.
fn run(client: &mut Box<dyn Session>, server: &mut Box<dyn Session>) -> Option<(Script, Keys, Keys)> {
    let (first, none) = write(client);
    assert!(none.is_none());
    server.read_handshake(&first).ok()?;
    let (second, server_handshake) = write(server);
    assert!(server_handshake.is_some());
    let (marker, none) = write(server);
    assert!(none.is_none());
    client.read_handshake(&second).ok()?;
    let (nothing, client_handshake) = write(client);
    assert!(nothing.is_empty() && client_handshake.is_some());
    assert!(client.is_handshaking());
    let (third, client_keys) = write(client);
    assert!(!client.is_handshaking());
    client.read_handshake(&marker).ok()?;
    assert!(server.is_handshaking());
    server.read_handshake(&third).ok()?;
    let (nothing, server_keys) = write(server);
    assert!(nothing.is_empty() && !server.is_handshaking());
    Some((Script { first, second, third }, client_keys?, server_keys?))
}

fn sealed_by_one_opens_at_the_other(from: &Keys, to: &Keys) {
    let (key, tag) = (&from.packet.local, from.packet.local.tag_len());
    let header = b"header";
    let mut packet = [&header[..], b"payload", &vec![0; tag]].concat();
    key.encrypt(7, &mut packet, header.len());
    let mut payload = bytes::BytesMut::from(&packet[header.len()..]);
    to.packet.remote.decrypt(7, header, &mut payload).unwrap();
    assert_eq!(&payload[..], b"payload");
}

#[test]
fn sessions_agree_on_keys_and_exporter() {
    for aead in [Aead::Aes256Gcm, Aead::ChaCha20Poly1305] {
        let mut client = client_of(party(CLIENT, SERVER, 1), b"hello");
        let mut server = server_of(party(SERVER, CLIENT, 1), aead);
        let (_, client_keys, server_keys) = run(&mut client, &mut server).unwrap();
        sealed_by_one_opens_at_the_other(&client_keys, &server_keys);
        sealed_by_one_opens_at_the_other(&server_keys, &client_keys);

        let exported = |session: &dyn Session, label: &[u8], context: &[u8]| {
            let mut out = [0; 48];
            session.export_keying_material(&mut out, label, context).unwrap();
            out
        };
        let value = exported(&*client, b"label", b"context");
        assert_eq!(value, exported(&*server, b"label", b"context"));
        assert_ne!(value, exported(&*client, b"labelc", b"ontext"));
        assert!(client.export_keying_material(&mut vec![0; 255 * 32 + 1], b"", b"").is_err());

        let identity = |session: &dyn Session| *session.peer_identity().unwrap().downcast::<PeerIdentity>().unwrap();
        let at_server = identity(&*server);
        assert_eq!((at_server.key, &at_server.hello[..], at_server.aead), (key(CLIENT).public(), &b"hello"[..], aead));
        let at_client = identity(&*client);
        assert_eq!((at_client.key, at_client.aead), (key(SERVER).public(), aead));
    }
}

#[test]
fn key_updates_match_and_differ_from_the_generation_before() {
    let (mut client, mut server) = pair();
    let (_, client_keys, server_keys) = run(&mut client, &mut server).unwrap();
    for _ in 0..3 {
        let (c, s) = (client.next_1rtt_keys().unwrap(), server.next_1rtt_keys().unwrap());
        let mut packet = [&b"h"[..], b"payload", &[0; 16]].concat();
        c.local.encrypt(1, &mut packet, 1);
        let sealed = bytes::BytesMut::from(&packet[1..]);
        assert!(s.remote.decrypt(1, b"h", &mut sealed.clone()).is_ok());
        assert!(server_keys.packet.remote.decrypt(1, b"h", &mut sealed.clone()).is_err());
        assert!(client_keys.packet.remote.decrypt(1, b"h", &mut sealed.clone()).is_err());
    }
}

#[test]
fn each_side_refuses_a_key_that_is_not_on_its_list() {
    let mut client = client_of(party(CLIENT, 9, 1), b"");
    assert!(run(&mut client, &mut server_of(party(SERVER, CLIENT, 1), Aead::Aes256Gcm)).is_none());
    let mut server = server_of(party(SERVER, 9, 1), Aead::Aes256Gcm);
    assert!(run(&mut client_of(party(CLIENT, SERVER, 1), b""), &mut server).is_none());
}

#[test]
fn hygiene_15_every_refusal_is_the_same_to_the_peer() {
    let mut seen = std::collections::BTreeSet::new();
    let mut note = |error: quinn_proto::TransportError| seen.insert(format!("{error}"));
    // Another epoch's secret.
    let (first, _) = write(&mut client_of(party(CLIENT, SERVER, 2), b""));
    note(pair().1.read_handshake(&first).unwrap_err());
    // Garbage, too long, too much.
    note(pair().1.read_handshake(&[0; 40]).unwrap_err());
    note(pair().1.read_handshake(&[0xff; 2]).unwrap_err());
    note(pair().1.read_handshake(&vec![0; 4000]).unwrap_err());
    // Not on the list.
    let (mut client, mut server) =
        (client_of(party(CLIENT, SERVER, 1), b""), server_of(party(SERVER, 9, 1), Aead::Aes256Gcm));
    server.read_handshake(&write(&mut client).0).unwrap();
    client.read_handshake(&write(&mut server).0).unwrap();
    write(&mut server);
    write(&mut client);
    note(server.read_handshake(&write(&mut client).0).unwrap_err());
    assert_eq!(seen.len(), 1, "{seen:?}");
}

#[test]
fn a_failed_session_stays_failed() {
    let (mut client, mut server) = pair();
    let (first, _) = write(&mut client);
    assert!(server.read_handshake(&[0, 1, 0]).is_err());
    assert!(server.read_handshake(&first).is_err());
    let (bytes, keys) = write(&mut server);
    assert!(bytes.is_empty() && keys.is_none() && server.is_handshaking());
    assert!(server.next_1rtt_keys().is_none());
    assert!(server.export_keying_material(&mut [0; 8], b"", b"").is_err());
    // A hello over its limit fails the dialler, without a panic.
    let (mut client, mut server) = (
        client_of(party(CLIENT, SERVER, 1), &[0; HELLO_BYTES_MAX + 1]),
        server_of(party(SERVER, CLIENT, 1), Aead::Aes256Gcm),
    );
    server.read_handshake(&write(&mut client).0).unwrap();
    client.read_handshake(&write(&mut server).0).unwrap();
    write(&mut client);
    let (bytes, keys) = write(&mut client);
    assert!(bytes.is_empty() && keys.is_none() && client.is_handshaking());
}

/// One CRYPTO byte in a 1-RTT packet, then a packet with the other key phase:
/// quinn closes the connection at the first and needs new keys for the second.
#[test]
fn key_updates_outlive_handshake_bytes_after_the_end() {
    let (mut client, mut server) = pair();
    run(&mut client, &mut server).unwrap();
    for session in [&mut client, &mut server] {
        assert!(session.next_1rtt_keys().is_some());
        for _ in 0..2 {
            assert!(session.read_handshake(&[0]).is_err());
            assert!(session.next_1rtt_keys().is_some());
            let (bytes, keys) = write(session);
            assert!(bytes.is_empty() && keys.is_none());
        }
        assert!(session.peer_identity().is_some());
        assert!(session.export_keying_material(&mut [0; 8], b"", b"").is_err());
    }
    // A wrong marker comes when the dialler has its keys already.
    let (mut client, mut server) = pair();
    server.read_handshake(&write(&mut client).0).unwrap();
    client.read_handshake(&write(&mut server).0).unwrap();
    write(&mut client);
    assert!(write(&mut client).1.is_some());
    assert!(client.read_handshake(&[0]).is_err());
    assert!(client.next_1rtt_keys().is_some());
}

#[test]
fn the_largest_hello_arrives() {
    let hello = vec![7; HELLO_BYTES_MAX];
    let mut client = client_of(party(CLIENT, SERVER, 1), &hello);
    let mut server = server_of(party(SERVER, CLIENT, 1), Aead::Aes256Gcm);
    run(&mut client, &mut server).unwrap();
    assert_eq!(server.peer_identity().unwrap().downcast::<PeerIdentity>().unwrap().hello, hello);
}

#[test]
fn messages_may_arrive_in_pieces() {
    let (mut client, mut server) = pair();
    let (first, _) = write(&mut client);
    for byte in &first {
        assert!(!server.read_handshake(&[*byte]).unwrap());
    }
    let (second, _) = write(&mut server);
    for piece in second.chunks(100) {
        client.read_handshake(piece).unwrap();
    }
    assert!(write(&mut client).1.is_some());
}

#[test]
fn a_retry_is_valid_only_with_its_tag_and_connection_id() {
    let (client, _) = pair();
    let crypto = ServerCrypto::new(party(SERVER, CLIENT, 1), Aead::Aes256Gcm);
    let cid = ConnectionId::new(&[5; 20]);
    let (header, token) = (b"header", b"token");
    let tag = crypto.retry_tag(QUIC_VERSION, &cid, &[&header[..], token].concat());
    let payload = [&token[..], &tag].concat();
    assert!(client.is_valid_retry(&cid, header, &payload));
    assert!(!client.is_valid_retry(&ConnectionId::new(&[6; 20]), header, &payload));
    assert!(!client.is_valid_retry(&cid, header, &payload[1..]));
    assert!(!client.is_valid_retry(&cid, header, b"short"));
}

#[test]
fn other_quic_versions_are_refused() {
    let crypto = ServerCrypto::new(party(SERVER, CLIENT, 1), Aead::Aes256Gcm);
    assert!(crypto.initial_keys(1, &ConnectionId::new(&[5; 20])).is_err());
    assert!(Arc::new(ClientCrypto::new(party(CLIENT, SERVER, 1), vec![])).start_session(1, "", &params()).is_err());
}

/// How a test damages a message.
#[derive(Debug, Clone)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Extend(Vec<u8>),
    Replace(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<prop::sample::Index>(), 1u8..).prop_map(|(at, mask)| Damage::Flip(at, mask)),
        any::<prop::sample::Index>().prop_map(Damage::Cut),
        prop::collection::vec(any::<u8>(), 1..3000).prop_map(Damage::Extend),
        prop::collection::vec(any::<u8>(), 0..3000).prop_map(Damage::Replace),
    ]
}

fn damaged(message: &[u8], damage: &Damage) -> Vec<u8> {
    let mut out = message.to_vec();
    match damage {
        Damage::Flip(at, mask) => out[at.index(message.len())] ^= mask,
        Damage::Cut(at) => out.truncate(at.index(message.len())),
        Damage::Extend(more) => out.extend_from_slice(more),
        Damage::Replace(with) => out.clone_from(with),
    }
    out
}

/// A damaged message either is an error or leaves the session waiting for more;
/// it never completes a step.
fn never_accepted(session: &mut Box<dyn Session>, message: &[u8], damage: &Damage) {
    let bad = damaged(message, damage);
    if bad == message {
        return;
    }
    let progressed = session.read_handshake(&bad).is_ok_and(|_| {
        let (bytes, keys) = write(session);
        !bytes.is_empty() || keys.is_some()
    });
    assert!(!progressed, "a damaged message was accepted");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn hygiene_07_mutated_messages_never_panic(damage in damage(), step in 0..3) {
        let (mut client, mut server) = pair();
        let (script, ..) = run(&mut client, &mut server).unwrap();
        // Fresh sessions, advanced honestly to the step, then given the damage.
        let (mut client, mut server) = pair();
        let (first, _) = write(&mut client);
        if step == 0 {
            never_accepted(&mut server, &first, &damage);
            never_accepted(&mut server, &script.third, &damage);
            return Ok(());
        }
        server.read_handshake(&first).unwrap();
        let (second, _) = write(&mut server);
        write(&mut server);
        if step == 1 {
            never_accepted(&mut client, &second, &damage);
            never_accepted(&mut client, &script.second, &damage);
            return Ok(());
        }
        client.read_handshake(&second).unwrap();
        write(&mut client);
        let (third, _) = write(&mut client);
        never_accepted(&mut server, &third, &damage);
        never_accepted(&mut server, &script.first, &damage);
    }
}
