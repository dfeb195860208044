//! The seeds in `fuzz/corpus`: small honest inputs, made from values, so that a
//! change of a format shows here. `OSMODA_UPDATE=1` writes them again.

use std::{fs, path::PathBuf};

use ed25519_dalek::SigningKey;
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::exchange::AddCheckpoint;
use osmoda_ledger::note::Note;
use osmoda_ledger::record::{ChainHash, Row};
use osmoda_ledger::tree::TreeHash;
use osmoda_mesh_crypto::QUIC_VERSION;
use osmoda_mesh_protocol::{
    Admitted, Answer, FRAME_VERSION, Hello, Invite, JoinRequest, KeysAnswer, KeysAsk, Limits, Member, Members,
    PairAnswer, Preamble, SecretBytes, Service, Succession, encode_frame, knock, node_id, rejoin_knock,
};
use osmoda_mesh_rooms::{Blob, Body, Frame, Hlc, Message, MessageId, Opener, RoomId, Snapshot, Unverified, Verified};
use osmoda_node_api::witness::{Question, Reply};
use osmoda_permit::SignedPermit;
use osmoda_proto::encode_command;
use osmoda_types::command::{Body as Order, Command};
use osmoda_types::{
    ErrorCode, InviteId, MeshEpoch, MeshKey, NetworkId, NodeId, PublicKey, RaftId, RequestId, Role, Signature,
    statement,
};

const FRAME: usize = 64 * 1024;

/// All seeds: target, file, bytes.
fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    [mesh(), handshakes(), rooms(), services(), trust()].concat()
}

fn mesh() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let now_ms: i64 = 1_767_225_600_000;
    let at = |dcid: [u8; 20]| [&now_ms.to_be_bytes()[..], &dcid].concat();
    let invite = Invite {
        network: NetworkId::from_bytes([1; 32]),
        id: InviteId::from_bytes([2; 16]),
        secret: SecretBytes::new([3; 32]),
        issuer: MeshKey::from_bytes([4; 32]),
        expires_ms: now_ms,
        addresses: vec!["192.0.2.1:18800".parse().unwrap(), "[2001:db8::1]:18800".parse().unwrap()],
    };
    let hello = Hello { version: FRAME_VERSION, incarnation: 7, renews: true };
    let limits = Limits { streams: 256 };
    let admitted =
        Admitted { version: FRAME_VERSION, epoch: MeshEpoch(3), incarnation: 8, limits, successions: Vec::new() };
    let refused = PairAnswer::Refused { code: ErrorCode::InviteSpent, message: "spent".to_owned() };
    let request = JoinRequest {
        identity_key: PublicKey::from_bytes([5; 32]),
        name: "node-1".to_owned(),
        addresses: vec!["0.0.0.0:18800".parse().unwrap()],
        signature: Signature::from_bytes([6; 64]),
    };
    let (mesh_key, identity_key) = (MeshKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
    let member = Member {
        node: node_id(&mesh_key, &identity_key),
        mesh_key,
        identity_key,
        role: Role::Voter,
        name: "node-1".to_owned(),
        addresses: vec!["192.0.2.1:18800".parse().unwrap()],
    };
    let members = Members { index: 9, epoch: MeshEpoch(3), members: vec![member] };
    let signature = Signature::from_bytes([6; 64]);
    let succession =
        Succession { node: NodeId::from_bytes([1; 32]), mesh_key, identity_key, by_old: signature, by_new: signature };
    vec![
        ("knock", "epoch", at(knock(&[1; 32], [7; 8], now_ms))),
        ("knock", "rejoin", at(rejoin_knock(&[2; 32], [7; 2], now_ms))),
        ("invite", "two-addresses", invite.encode().into_bytes()),
        ("invite", "none", Invite { addresses: vec![], ..invite }.encode().into_bytes()),
        ("frame", "hello", encode_frame(&hello, FRAME).unwrap()),
        ("frame", "admitted", encode_frame(&admitted, FRAME).unwrap()),
        ("frame", "refused", encode_frame(&refused, FRAME).unwrap()),
        ("frame", "join-request", encode_frame(&request, FRAME).unwrap()),
        ("frame", "members", encode_frame(&members, FRAME).unwrap()),
        ("frame", "succession", encode_frame(&succession, FRAME).unwrap()),
        ("preamble", "raft", Preamble { service: Service::Raft }.encode()),
        ("preamble", "link", Preamble { service: Service::Link }.encode()),
        ("preamble", "accepted", Answer::Accepted.encode()),
        ("preamble", "refused", Answer::Refused(ErrorCode::ServiceDenied).encode()),
    ]
}

/// The first byte chooses the step, the next two how the message is changed.
fn handshakes() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let step = |step: u8, how: &[u8]| [&[step], how].concat();
    vec![
        ("handshake", "first-replaced", step(0, &[0, 0, 0x05, 0x20, 1, 2, 3])),
        ("handshake", "first-changed", step(0, &[1, 3, 0xff])),
        ("handshake", "first-longer", step(0, &[2, 0, 1, 2, 3])),
        ("handshake", "hello", step(1, br#"{"version":1,"incarnation":1}"#)),
        ("handshake", "retry", step(2, &[7; 40])),
        ("handshake", "second-changed", step(3, &[1, 140, 0x80])),
        ("handshake", "third-changed", step(4, &[1, 2, 1])),
        ("handshake", "third-honest", step(4, &[1, 0])),
        ("handshake", "after-the-end", step(5, &[0])),
        // max_idle_timeout 5 s, initial_max_data 64 KiB, initial_max_streams_uni 1
        // (RFC 9000 section 18.2).
        ("transport_parameters", "three", vec![1, 2, 0x53, 0x88, 4, 4, 0x80, 1, 0, 0, 9, 1, 1]),
        ("transport_parameters", "unknown", vec![0x1b, 3, 1, 2, 3, 0x0e, 1, 2]),
    ]
}

fn rooms() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let key = SigningKey::from_bytes(&[1; 32]);
    let room = RoomId::from_bytes([9; 16]);
    let author = statement::public_key(&key);
    let write = |seq, prev: Option<MessageId>, parents: Vec<MessageId>| -> Verified {
        let body = Body::Text("hello".to_owned());
        let message = Message { room, author, seq, prev, parents, hlc: Hlc::at(5), body };
        message.sign(|bytes| statement::sign(&key, bytes)).unwrap()
    };
    let first = write(1, None, vec![]);
    let second = write(2, Some(first.id()), vec![]);
    assert!(Unverified::decode(second.wire()).is_ok());
    let snapshot =
        Snapshot { horizon_ms: 0, items: (0..50u64).map(|n| (n, MessageId::of(&n.to_le_bytes()))).collect() };
    let (mut opener, sync) = Opener::new(room, 1, snapshot, Default::default());
    let opened = Frame::Opened { horizon_ms: 0, equal: false, record: None, wants_record: false };
    let range = match opener.frame(opened.clone()) {
        Ok(osmoda_mesh_rooms::Do::Send(Frame::Range(Blob(range)))) => range,
        other => panic!("an opener begins with a range: {other:?}"),
    };
    let post = Frame::Post(Blob(first.wire().to_vec()));
    vec![
        ("room_message", "first", first.wire().to_vec()),
        ("room_message", "second", second.wire().to_vec()),
        ("room_record", "nearly", vec![1; 120]),
        ("room_frame", "sync", body(&sync)),
        ("room_frame", "opened", body(&opened)),
        ("room_frame", "post", body(&post)),
        ("reconcile", "range", [&[1][..], &range].concat()),
        ("reconcile", "frames", [&[0][..], &body(&opened), &[0xa5, 1], &range].concat()),
    ]
}

/// What the services besides the rooms are told.
fn services() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let initial = [&[0xc0][..], &QUIC_VERSION.to_be_bytes(), &[20], &[7; 20], &[14], &[8; 14], &[0; 40]].concat();
    let node = NodeId::from_bytes([2; 32]);
    let secret = SecretBytes::new([9; 32]);
    let found = KeysAnswer::Rejoins([(node, secret.clone())].into());
    let (held, judged) = (Reply::Held(None), Reply::Judged { status: 200, body: "\u{2014} n1 AAAA\n".to_owned() });
    let command = |body| encode_command(&Command { request: RequestId::from_bytes([1; 16]), body });
    let moved = Order::UpdateAddresses { node, addresses: vec!["192.0.2.1:18800".to_owned()] };
    let voter = Order::RegisterVoter { node, raft_id: RaftId(3) };
    vec![
        ("datagram", "initial", [&[10][..], &initial].concat()),
        ("datagram", "short", [&[255][..], &[0x40; 40]].concat()),
        ("datagram", "burst", [&[10][..], &initial, &initial, &[0x40; 30]].concat()),
        ("keys", "epoch", json(KeysAsk::Epoch { epoch: MeshEpoch(3) })),
        ("keys", "rejoins", json(KeysAsk::Rejoins { nodes: vec![node] })),
        ("keys", "secret", json(KeysAnswer::Epoch(secret))),
        ("keys", "found", json(found)),
        ("keys", "refused", json(KeysAnswer::Refused(ErrorCode::EpochStale))),
        ("message", "heartbeat", br#"{"type":"heartbeat","timestamp":"2026-01-01T00:00:00Z"}"#.to_vec()),
        (
            "message",
            "report",
            br#"{"type":"health_report","hostname":"a","cpu":0.5,"memory":0.25,"uptime":7}"#.to_vec(),
        ),
        ("message", "alert", br#"{"type":"alert","severity":"critical","title":"t","detail":"d"}"#.to_vec()),
        ("message", "chat", br#"{"type":"chat","from":"x","text":"hello"}"#.to_vec()),
        ("blob", "honest", vec![1, 0, 0, 0, 0, 0, 0, 0]),
        ("blob", "changed", vec![1, 0, 0, 3, 0, 0, 0, 0, 0, 1]),
        ("blob", "other-size", vec![0, 1, 1, 9, 0, 0, 0, 0, 1, 2, 3]),
        (
            "witness",
            "checkpoint",
            json(Question::AddCheckpoint("old 7\n\nn1\n9\nAAAA\n\n\u{2014} n1 AAAA\n".to_owned())),
        ),
        (
            "witness",
            "anchored",
            json(Question::Anchored { request: "old 7\n\nn1".to_owned(), anchor: "old 5\n\nn1".to_owned() }),
        ),
        ("witness", "held", json(Question::Held)),
        ("witness", "nothing-held", json(held)),
        ("witness", "judged", json(judged)),
        ("command", "expire-invite", command(Order::ExpireInvite(InviteId::from_bytes([2; 16])))),
        ("command", "moved", command(moved)),
        ("command", "voter", command(voter)),
        ("swim", "ping", swim_packet(0, 2, true)),
        ("swim", "announce", swim_packet(6, 3, false)),
    ]
}

/// What ledgers, witnesses and approvers say.
fn trust() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let key = SigningKey::from_bytes(&[1; 32]);
    let hash = ChainHash::of_record(b"record");
    let leaf = TreeHash::of_leaf(b"record");
    let checkpoint = Checkpoint { origin: "osmoda.ledger/test".to_owned(), size: 7, root: leaf, chain: hash };
    let note = checkpoint.sign(&key).unwrap();
    let cosigned = Note::cosign(note.text(), "osmoda.witness/1", &key, 1_800_000_000).unwrap();
    let request = AddCheckpoint { old: 5, proof: vec![leaf, leaf], note: note.clone() };
    let payload = r#"{"intent":3,"ok":true,"text":"a|b","nested":{"n":[1,-2,null]}}"#;
    let row = Row {
        id: 4,
        ts: b"2026-01-02T03:04:05.678Z",
        kind: b"watch.activate.outcome",
        actor: b"watch",
        payload: payload.as_bytes(),
        prev_hash: hash.as_bytes(),
        hash: b"",
    };
    let mut record = Vec::new();
    row.record_into(&mut record);
    let call = osmoda_permit::testing::call();
    let permit = osmoda_permit::testing::permit(call.hash().unwrap());
    let signatures = vec![osmoda_permit::testing::sign(1, &permit, osmoda_permit::Decision::Approve)];
    vec![
        ("note", "checkpoint", note.to_string().into_bytes()),
        ("note", "request", request.to_string().into_bytes()),
        ("note", "cosignature", format!("{cosigned}\n").into_bytes()),
        ("note", "line", cosigned.to_string().into_bytes()),
        ("note", "conflict", b"20852014\n".to_vec()),
        ("note", "record", record),
        ("note", "payload", br#"{"intent":3,"nested":{"n":[1,-2,null]},"ok":true,"text":"a|b"}"#.to_vec()),
        ("permit", "call", call.canonical().unwrap().into_bytes()),
        ("permit", "signed", json(SignedPermit { permit, plan: Vec::new(), signatures })),
    ]
}

fn json(value: impl serde::Serialize) -> Vec<u8> {
    // A frame without its length.
    encode_frame(&value, FRAME).unwrap()[4..].to_vec()
}

/// A packet of `from` for node 1, with one update about node 4.
fn swim_packet(kind: u8, from: u8, probe: bool) -> Vec<u8> {
    let start = |node: u8| [&[node; 32][..], &7_u64.to_be_bytes()].concat();
    let number: &[u8] = if probe { &[5] } else { &[] };
    let update = [&[0, 1][..], &start(4), &[0, 0], &[0]].concat();
    let packet = [&[kind][..], &start(from), &[0, 0], &start(1), number, &update].concat();
    // An odd length has its last byte in the next packet's place.
    [&[u8::try_from(packet.len().div_ceil(2)).unwrap(), from][..], &packet].concat()
}

/// A frame without its length.
fn body(frame: &Frame) -> Vec<u8> {
    frame.encode().unwrap()[4..].to_vec()
}

#[test]
fn the_corpus_is_what_these_values_encode_to() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    let update = std::env::var_os("OSMODA_UPDATE").is_some();
    for (target, name, bytes) in seeds() {
        let path = folder.join(target).join(name);
        if update {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let stored =
            fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; OSMODA_UPDATE=1 writes it", path.display()));
        assert!(stored == bytes, "{}: the format has changed; OSMODA_UPDATE=1 writes it again", path.display());
    }
}
