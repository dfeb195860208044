//! The daemon on root directories of its own.

mod host;

use std::time::Duration;

use axum::http::{Method, StatusCode};
use futures_util::future::join_all;
use osmoda_kit::boot::{self, BootArgs};
use osmoda_kit::clock::{SystemClock, Timestamp};
use osmoda_kit::http::{Credentials, UnixClient};
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::testing::{TempRoot, wait_for};
use osmoda_mesh::{PairRequest, RejoinSecret, pair, rotation, state};
use osmoda_node_api::blobs::FetchBlob;
use osmoda_node_api::mesh::{EndorseRequest, Invite, Members, OpenInvite, SecretBytes, Service};
use osmoda_node_api::pipes::{AGENTD_SOCKET, WITNESS};
use osmoda_types::{ErrorCode, InviteId, MeshEpoch, NodeId, PublicKey, Purpose, Role, statement};
use serde_json::{Value, json};

use self::host::{Host, LIMIT, NETWORK, SECRET, introduce};
use crate::Meshd;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_goes_through_two_daemons_and_the_list_survives_a_restart() {
    let (mut a, mut b) = (Host::new(), Host::new());
    a.start().await;
    b.start().await;
    let members = introduce([&a, &b], 2).await;
    let expected = format!("voter {}:through two daemons", a.keys.node());
    a.heard(b.keys.node(), Service::Raft, &expected).await;
    let peers = a.mesh("watch").peers().await.unwrap();
    assert!(peers.len() == 1 && peers[0].connected && peers[0].id == b.keys.node());

    // An older list changes nothing; the newer one is there after a restart.
    let old = Members { index: 1, ..members };
    assert_eq!(a.mesh("fleetd").set_members(&old).await.unwrap().index, 2);
    a.stop().await;
    a.start().await;
    assert_eq!(a.mesh("fleetd").identity().await.unwrap().members_index, 2);
    a.heard(b.keys.node(), Service::Fleet, &expected).await;

    let nobody = a.talk(NodeId::from_bytes([1; 32]), Service::Raft).await.unwrap_err();
    assert_eq!(nobody.code, ErrorCode::PeerUnknown);
    let denied = a.talk(b.keys.node(), Service::Link).await.unwrap_err();
    assert_eq!(denied.code, ErrorCode::ServiceDenied);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_left_is_out_though_the_disk_takes_no_list() {
    let (mut a, mut b) = (Host::new(), Host::new());
    a.start().await;
    b.start().await;
    let members = introduce([&a, &b], 2).await;
    let expected = format!("voter {}:through two daemons", a.keys.node());
    a.heard(b.keys.node(), Service::Raft, &expected).await;
    // A folder where the file belongs: no write can replace it, whoever writes.
    let list = a.root.paths().state("mesh").join("members.json");
    std::fs::remove_file(&list).unwrap();
    std::fs::create_dir_all(list.join("taken")).unwrap();
    let mut left = Members { index: 3, ..members };
    left.members.retain(|member| member.node == a.keys.node());
    for _ in 0..2 {
        a.mesh("fleetd").set_members(&left).await.unwrap_err();
        assert_eq!(a.mesh("watch").peers().await.unwrap(), [], "no peer, and the list is asked for again");
    }
    std::fs::remove_dir_all(&list).unwrap();
    assert_eq!(a.mesh("fleetd").set_members(&left).await.unwrap().index, 3);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_left_is_out_though_the_disk_takes_no_new_keys() {
    let (mut a, mut b) = (Host::new(), Host::new());
    a.start().await;
    b.start().await;
    let members = introduce([&a, &b], 2).await;
    let expected = format!("voter {}:through two daemons", a.keys.node());
    a.heard(b.keys.node(), Service::Raft, &expected).await;
    let admin = UnixClient::new(a.root.paths().socket("mesh"), Credentials::none());
    // The log refuses the first keys, and does not say what it thinks of the second.
    for _ in 0..2 {
        admin.post::<Value>("/identity/rotate", &json!({})).await.unwrap_err();
    }
    let dir = a.root.paths().state("mesh");
    let (prepared, _) = rotation::prepared(&dir).unwrap().unwrap();
    let mut left = Members { index: 3, ..members };
    left.members.retain(|member| member.node == a.keys.node());
    left.members[0].mesh_key = prepared.mesh_key;
    left.members[0].identity_key = prepared.identity_key;
    // A folder where the file belongs: no write can replace it, whoever writes.
    let commit = dir.join("next").join("commit");
    std::fs::create_dir_all(commit.join("taken")).unwrap();
    for _ in 0..2 {
        a.mesh("fleetd").set_members(&left).await.unwrap_err();
        assert_eq!(a.mesh("watch").peers().await.unwrap(), [], "no peer, and the list is asked for again");
    }
    std::fs::remove_dir_all(&commit).unwrap();
    assert_eq!(a.mesh("fleetd").set_members(&left).await.unwrap().index, 3);
    assert_eq!(a.mesh("fleetd").identity().await.unwrap().mesh_key, prepared.mesh_key);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_left_leaves_no_secret_whatever_the_disk_takes() {
    let (mut a, mut b) = (Host::new(), Host::new());
    let dir = a.root.paths().state("mesh");
    let secrets = [b.keys.node(), NodeId::from_bytes([5; 32])]
        .map(|node| RejoinSecret { node, secret: SecretBytes::new([3; 32]) });
    state::store_rejoins(&dir, &secrets).unwrap();
    let kept = || state::load(&dir).unwrap().secrets.rejoins.iter().map(|of| of.node).collect::<Vec<_>>();
    a.start().await;
    b.start().await;
    // Whom no list has was forgotten half: the node went down in between.
    let members = introduce([&a, &b], 2).await;
    assert_eq!(kept(), [b.keys.node()]);
    // The disk takes neither the list nor the secrets, then the secrets only.
    let blocked = ["members.json", "rejoins.json"].map(|file| dir.join(file));
    for file in &blocked {
        std::fs::remove_file(file).unwrap();
        std::fs::create_dir_all(file.join("taken")).unwrap();
    }
    let mut left = Members { index: 3, ..members };
    left.members.retain(|member| member.node == a.keys.node());
    a.mesh("fleetd").set_members(&left).await.unwrap_err();
    std::fs::remove_dir_all(&blocked[1]).unwrap();
    state::store_rejoins(&dir, &secrets).unwrap();
    a.mesh("fleetd").set_members(&left).await.unwrap_err();
    std::fs::remove_dir_all(&blocked[0]).unwrap();
    assert_eq!(kept(), []);
    assert_eq!(a.mesh("fleetd").set_members(&left).await.unwrap().index, 3);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn only_fleetd_changes_members_and_each_daemon_gets_its_own_key_endorsed() {
    let mut host = Host::new();
    host.start().await;
    let list = Members { index: 9, epoch: MeshEpoch(1), members: vec![host.member(vec![])] };
    for daemon in ["agentd", "watch", "mesh"] {
        let error = host.mesh(daemon).set_members(&list).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::CallerDenied, "{daemon}");
    }
    let admin = UnixClient::new(host.root.paths().socket("mesh"), Credentials::none());
    assert_eq!(admin.post::<Value>("/members", &list).await.unwrap_err().code, ErrorCode::CallerDenied);
    let mut broken = list.clone();
    broken.members[0].name = "../etc".to_owned();
    assert_eq!(host.mesh("fleetd").set_members(&broken).await.unwrap_err().code, ErrorCode::BadRequest);

    let key = PublicKey::from_bytes([3; 32]);
    let endorsed = host.mesh("fleetd").endorse(&EndorseRequest { purpose: Purpose::Ballot, key }).await.unwrap();
    let said = statement::subkey(Purpose::Ballot, &key, &endorsed.node, endorsed.epoch, &NETWORK);
    assert_eq!(statement::verify(&host.keys.identity_key(), &said, &endorsed.signature), Ok(()));
    let error = host.mesh("fleetd").endorse(&EndorseRequest { purpose: Purpose::Ledger, key }).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::CallerDenied);
    assert!(host.mesh("agentd").endorse(&EndorseRequest { purpose: Purpose::Ledger, key }).await.is_ok());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_opened_through_the_socket_admits_a_joiner() {
    let mut host = Host::new();
    host.start().await;
    let clock = SystemClock::shared();
    let open = OpenInvite {
        id: InviteId::from_bytes([1; 16]),
        secret: SecretBytes::new([2; 32]),
        expires_ms: clock.now_wall().plus(Duration::from_secs(60)).as_millis(),
    };
    let opened = host.mesh("fleetd").open_invite(&open).await.unwrap();
    let joiner = TempRoot::new();
    let identity = state::create_identity(&joiner.paths().state("mesh")).unwrap();
    let join = async || {
        let request = PairRequest {
            invite: Invite::decode(&opened.invite).unwrap(),
            identity: identity.clone(),
            name: "joiner".to_owned(),
            addresses: vec!["127.0.0.1:4000".parse().unwrap()],
            time_limit: LIMIT,
            clock: clock.clone(),
        };
        pair(request).await.unwrap()
    };
    let welcome = join().await;
    // An answer that was lost is asked for again, and what was kept stays.
    assert_eq!(join().await.rejoin_secret, welcome.rejoin_secret);
    let rejoins = state::load(&host.root.paths().state("mesh")).unwrap().secrets.rejoins;
    assert_eq!(rejoins, [RejoinSecret { node: identity.node(), secret: welcome.rejoin_secret.clone() }]);
    // Its secret comes before the list that has it, and goes with the one that has not.
    let mut list = Members { index: 1, epoch: MeshEpoch(1), members: vec![host.member(vec![])] };
    for (index, kept) in [(1, 1), (2, 0)] {
        list.index = index;
        host.mesh("fleetd").set_members(&list).await.unwrap();
        let rejoins = state::load(&host.root.paths().state("mesh")).unwrap().secrets.rejoins;
        assert_eq!(rejoins.len(), kept);
    }
    assert_eq!((welcome.role, welcome.issuer), (Role::Node, host.keys.node()));
    assert_eq!(welcome.epoch_secret, SecretBytes::new(SECRET));
    assert!(welcome.members.by_node(&identity.node()).is_some());
    host.stop().await;
}

#[tokio::test]
async fn a_node_without_its_keys_does_not_start() {
    for (file, length, code) in [
        ("mesh.key", None, ErrorCode::IdentityMissing),
        ("identity.key", Some(5), ErrorCode::IdentityPartial),
        ("network.json", None, ErrorCode::IdentityMissing),
    ] {
        let host = Host::new();
        let path = host.root.paths().state("mesh").join(file);
        match length {
            None => std::fs::remove_file(&path).unwrap(),
            Some(bytes) => std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes).unwrap(),
        }
        let error = boot::serve::<Meshd>(&BootArgs::at(host.root.path()), Shutdown::new()).await.unwrap_err();
        assert_eq!(error.code(), code, "{file}");
        assert!(!path.exists() || length.is_some(), "{file} was made again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_and_messages_keep_the_shapes_of_the_earlier_product() {
    let (mut a, mut b) = (Host::new(), Host::new());
    a.start().await;
    b.start().await;
    introduce([&a, &b], 2).await;
    let admin = UnixClient::new(a.root.paths().socket("mesh"), Credentials::none());
    let peer = b.keys.node();
    let linked =
        async || admin.get::<Value>(&format!("/peer/{peer}")).await.ok().filter(|peer| peer["connected"] == true);
    let picture = wait_for("the link", LIMIT, linked).await;
    // All that the earlier product has of a peer; ours stand beside it.
    for (field, is_there) in [
        ("id", Value::is_string as fn(&Value) -> bool),
        ("label", Value::is_string),
        ("noise_static_pubkey", Value::is_string),
        ("mlkem_encap_key", Value::is_string),
        ("endpoint", Value::is_string),
        ("added_at", Value::is_string),
        ("last_seen", Value::is_string),
        ("connection_state", Value::is_object),
    ] {
        assert!(is_there(&picture[field]), "{field}: {picture}");
    }
    let added: Timestamp = picture["added_at"].as_str().unwrap().parse().unwrap();
    assert!(added <= SystemClock::shared().now_wall() && picture["connection_state"]["since"].is_string());
    assert_eq!(picture["id"], peer.to_string());
    assert_eq!(picture["noise_static_pubkey"], b.keys.mesh_key().to_string());
    assert_eq!(picture["connection_state"]["state"], "connected");
    assert!(picture["label"].is_string() && picture["endpoint"].is_string() && picture["last_seen"].is_string());
    let peers = admin.get::<Value>("/peers").await.unwrap();
    assert!(peers.as_array().is_some_and(|peers| peers.len() == 1 && peers[0]["added_at"] == picture["added_at"]));
    let identity: Value = admin.get("/identity").await.unwrap();
    assert_eq!(identity["noise_static_pubkey"], a.keys.mesh_key().to_string());
    assert_eq!(identity["capabilities"], json!(["mesh.v1"]));
    let health: Value = admin.get("/health").await.unwrap();
    assert_eq!((&health["peer_count"], &health["connected_count"]), (&json!(1), &json!(1)));

    let send = |message: Value| {
        let (admin, path) = (&admin, format!("/peer/{peer}/send"));
        async move { admin.post::<Value>(&path, &json!({ "message": message })).await }
    };
    let chat = json!({ "type": "chat", "from": "ann", "text": "hello" });
    assert_eq!(send(chat).await.unwrap(), json!({ "delivered": true }));
    let in_room = json!({ "type": "chat", "from": "ann", "text": "hello", "room_id": "x" });
    assert_eq!(send(in_room).await.unwrap_err().code, ErrorCode::BadRequest);
    let pong: Value = admin.post(&format!("/peer/{peer}/ping"), &json!({})).await.unwrap();
    assert!(pong["round_trip_us"].as_u64().is_some_and(|us| us > 0));
    // A burst over the rate is told to come later, and is not kept. Many at once:
    // one after the other, a slow machine keeps within ten a second.
    let busy = wait_for("a refusal", LIMIT, async || {
        let alert = json!({ "type": "alert", "severity": "info", "title": "t", "detail": "d" });
        join_all((0..80).map(|_| send(alert.clone()))).await.into_iter().find_map(Result::err)
    })
    .await;
    assert_eq!(busy.code, ErrorCode::Busy);

    let (status, gone) = admin.exchange(Method::DELETE, &format!("/peer/{peer}"), None).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(serde_json::from_slice::<Value>(&gone).unwrap(), json!({ "disconnected": peer }));
    wait_for("the link again", LIMIT, linked).await;
    assert_eq!(admin.get::<Value>("/peer/nobody").await.unwrap_err().code, ErrorCode::PeerUnknown);
    let accepted = admin.post::<Value>("/invite/accept", &json!({ "invite_code": "x" })).await;
    assert_eq!(accepted.unwrap_err().code, ErrorCode::Conflict);
    b.stop().await;
    let apart =
        async || admin.get::<Value>(&format!("/peer/{peer}")).await.ok().filter(|peer| peer["connected"] == false);
    let picture = wait_for("the end of the link", LIMIT, apart).await;
    assert_eq!(picture["connection_state"], json!({ "state": "disconnected" }));
    assert!(picture.get("last_seen").is_none());
    // No connection is 404 as in the earlier product, whoever the peer is.
    let alone = send(json!({ "type": "heartbeat", "timestamp": "" })).await.unwrap_err();
    assert_eq!(alone.code, ErrorCode::NotFound);
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_change_when_the_log_has_them_and_never_before() {
    let (mut a, mut b) = (Host::new(), Host::new());
    a.start().await;
    b.start().await;
    let before = introduce([&a, &b], 2).await;
    let rotate = async |host: &Host| {
        let admin = UnixClient::new(host.root.paths().socket("mesh"), Credentials::none());
        admin.post::<Value>("/identity/rotate", &json!({})).await
    };
    let keys = async |host: &Host| {
        let now = host.mesh("fleetd").identity().await.unwrap();
        assert_eq!(now.node, host.keys.node(), "the id stays");
        (now.mesh_key, now.identity_key)
    };
    let next = |host: &Host| rotation::prepared(&host.root.paths().state("mesh")).unwrap();
    for host in [&mut a, &mut b] {
        let old = (host.keys.mesh_key(), host.keys.identity_key());
        // The log refuses these keys: nothing is left of them.
        assert_eq!(rotate(host).await.unwrap_err().code, ErrorCode::Conflict);
        assert!(next(host).is_none());
        // Not now, or the answer is lost: they stay prepared, over a restart too.
        assert_eq!(rotate(host).await.unwrap_err().code, ErrorCode::AttemptConflict);
        let (prepared, _) = next(host).unwrap();
        assert_eq!(rotate(host).await.unwrap_err().code, ErrorCode::RaftUnavailable);
        host.stop().await;
        host.start().await;
        assert_eq!((keys(host).await, next(host).unwrap().0), (old, prepared));
    }
    // One asks again, the other one hears of it from the log.
    let (of_a, of_b) = (next(&a).unwrap().0, next(&b).unwrap().0);
    let answer = rotate(&a).await.unwrap();
    assert_eq!(answer["new_instance_id"], a.keys.node().to_string());
    let new = json!({ "ed25519": of_a.identity_key, "noise": of_a.mesh_key });
    assert_eq!(answer["new_pubkeys"], new);
    let mut members = before.clone();
    for (member, succession) in members.members.iter_mut().zip([of_a, of_b]) {
        (member.mesh_key, member.identity_key) = (succession.mesh_key, succession.identity_key);
    }
    // Ports are the system's here, so both have moved by restarting.
    for (member, host) in members.members.iter_mut().zip([&a, &b]) {
        member.addresses = vec![host.mesh("fleetd").identity().await.unwrap().listen];
    }
    members.index = 3;
    for host in [&a, &b] {
        assert_eq!(host.mesh("fleetd").set_members(&members).await.unwrap().index, 3);
    }
    for (host, succession) in [(&mut a, of_a), (&mut b, of_b)] {
        assert_eq!(keys(host).await, (succession.mesh_key, succession.identity_key));
        let ask = EndorseRequest { purpose: Purpose::Ballot, key: PublicKey::from_bytes([3; 32]) };
        let endorsed = host.mesh("fleetd").endorse(&ask).await.unwrap();
        assert_eq!(endorsed.identity_key, succession.identity_key);
    }
    let expected = format!("voter {}:through two daemons", a.keys.node());
    assert_eq!(a.talk(b.keys.node(), Service::Raft).await.unwrap(), expected);
    // It is so for good.
    a.stop().await;
    a.start().await;
    assert_eq!(keys(&a).await, (of_a.mesh_key, of_a.identity_key));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ledgers_ask_each_other_through_the_witness_service_and_only_they_do() {
    let (mut a, mut b) = (Host::new(), Host::new());
    a.start().await;
    b.start().await;
    introduce([&a, &b], 2).await;
    let (pipes, peer) = (a.pipes("agentd"), b.keys.node());
    let ask = async |question: Value| WITNESS.ask::<_, Value>(&pipes, peer, &question).await;
    let expected = json!({ "peer": a.keys.node(), "role": "voter", "question": { "size": 7 } });
    assert_eq!(ask(json!({ "size": 7 })).await.unwrap(), expected);
    assert_eq!(ask(Value::Null).await.unwrap_err().code, ErrorCode::LedgerBroken);
    let long = "x".repeat(WITNESS.question_bytes_max);
    assert_eq!(ask(json!(long)).await.unwrap_err().code, ErrorCode::TooLarge);

    // Each daemon speaks its own services, and nothing else.
    let code = async |daemon, service| a.pipes(daemon).open(peer, service).await.unwrap_err().code;
    assert_eq!(code("fleetd", Service::Witness).await, ErrorCode::ServiceDenied);
    assert_eq!(code("agentd", Service::Raft).await, ErrorCode::ServiceDenied);
    assert_eq!(code("agentd", Service::Blobs).await, ErrorCode::ServiceDenied);
    assert_eq!(code("watch", Service::Witness).await, ErrorCode::CallerDenied);

    // More than its allowance is refused, and the other direction is not.
    let mut refused = None;
    for _ in 0..100 {
        refused = ask(json!(1)).await.err();
        if refused.is_some() {
            break;
        }
    }
    assert_eq!(refused.map(|error| error.code), Some(ErrorCode::Busy));
    let back = b.pipes("agentd");
    assert!(WITNESS.ask::<_, Value>(&back, a.keys.node(), &json!(2)).await.is_ok());

    // Without a ledger at the other end the stream is refused, not cut.
    std::fs::remove_file(a.root.paths().socket(AGENTD_SOCKET)).unwrap();
    let away = back.open(a.keys.node(), Service::Witness).await.unwrap_err();
    assert_eq!(away.code, ErrorCode::DaemonUnavailable);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_links_rooms_and_blobs_do_is_in_the_metrics() {
    osmoda_kit::metrics::init();
    let (mut a, mut b) = (Host::new(), Host::new());
    a.start().await;
    b.start().await;
    introduce([&a, &b], 2).await;
    let stored = b.mesh("fleetd").put_blob(b"manifest".to_vec()).await.unwrap();
    let fetch = FetchBlob { hash: stored.hash.clone(), peer: b.keys.node(), bytes_max: None };
    assert_eq!(a.mesh("fleetd").fetch_blob(&fetch).await.unwrap().size, 8);
    assert_eq!(a.mesh("fleetd").blob(&stored.hash).await.unwrap(), b"manifest");
    let absent = FetchBlob { hash: "0".repeat(64), ..fetch };
    assert_eq!(a.mesh("fleetd").fetch_blob(&absent).await.unwrap_err().code, ErrorCode::NotFound);

    let admin = UnixClient::new(a.root.paths().socket("mesh"), Credentials::none());
    let room: Value = admin.post("/room/create", &json!({ "name": "ops" })).await.unwrap();
    let send = json!({ "room_id": room["id"], "text": "hello" });
    admin.post::<Value>("/room/send", &send).await.unwrap();

    // Both daemons of this process count together, the owner after it has sent.
    let counted = [
        "osmoda_blob_sent_bytes_total ",
        "osmoda_blob_received_bytes_total ",
        "osmoda_blob_active{side=\"fetch\"} ",
        "osmoda_blob_refused_total{why=\"absent\"} ",
        "osmoda_room_messages_total{way=\"said\"} ",
        // What `osmoda mesh peers` shows of a link.
        "osmoda_mesh_link_up{",
        "osmoda_mesh_rtt_seconds{",
        "osmoda_mesh_packets_sent{",
        "osmoda_mesh_packets_lost{",
        "osmoda_mesh_mtu_bytes{",
        "osmoda_mesh_bytes_in{",
        "osmoda_mesh_bytes_out{",
        "osmoda_mesh_key_age_seconds{",
        "osmoda_mesh_epoch{",
    ];
    let all = async || {
        let text = String::from_utf8(admin.get_bytes("/metrics").await.unwrap().to_vec()).unwrap();
        counted.iter().all(|name| text.lines().any(|line| line.starts_with(name))).then_some(())
    };
    wait_for("all counters", LIMIT, all).await;
    // A peer that is put out has no link; its gauge is not left as it was.
    let peer = b.keys.node();
    let gauge = format!("osmoda_mesh_link_up{{peer=\"{}\"}} ", peer.short());
    let list = Members { index: 3, epoch: MeshEpoch(1), members: vec![a.member(vec![])] };
    a.mesh("fleetd").set_members(&list).await.unwrap();
    let text = String::from_utf8(admin.get_bytes("/metrics").await.unwrap().to_vec()).unwrap();
    assert_eq!(text.lines().find_map(|line| line.strip_prefix(&gauge)), Some("0"), "{text}");
    a.stop().await;
    b.stop().await;
}
