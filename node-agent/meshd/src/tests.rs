//! The daemon on root directories of its own, between small stand-ins for
//! agentd and fleetd.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::routing::post;
use osmoda_kit::boot::{self, BootArgs, BootError, Ended};
use osmoda_kit::clock::SystemClock;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{CallerTable, Callers, Credentials, Json, TokenFile, UnixClient, serve_unix};
use osmoda_kit::secret::Secret;
use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_kit::stream::{Opening, serve_streams};
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_kit::testing::{TempRoot, wait_for};
use osmoda_mesh::{EpochSecret, Identity as Keys, PairRequest, pair, rotation, state};
use osmoda_node_api::blobs::FetchBlob;
use osmoda_node_api::callers;
use osmoda_node_api::mesh::{
    EndorseRequest, Enrolment, Invite, Member, Members, MeshClient, MeshPipes, OpenInvite, RotateAnswer, RotateRequest,
    SecretBytes, Service, SpendRequest, StreamPeer,
};
use osmoda_node_api::pipes::{AGENTD_SOCKET, WITNESS};
use osmoda_types::{ErrorCode, InviteId, MeshEpoch, NetworkId, NodeId, PublicKey, Purpose, Role, statement};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use crate::Meshd;

const LIMIT: Duration = Duration::from_secs(20);
const NETWORK: NetworkId = NetworkId::from_bytes([7; 32]);
const SECRET: [u8; 32] = [8; 32];

/// A node: its root, its stand-ins and, while it runs, its mesh daemon.
struct Host {
    root: TempRoot,
    tasks: Tasks,
    keys: Arc<Keys>,
    tokens: Vec<(&'static str, TokenFile)>,
    running: Option<(Shutdown, oneshot::Receiver<Result<Ended, BootError>>)>,
}

impl Host {
    /// An enrolled voter with stand-ins for agentd and fleetd.
    fn new() -> Self {
        let root = TempRoot::new();
        let keys = state::create_identity(&root.paths().state("mesh")).unwrap();
        let tokens = TokenFile::mint(callers::USERS);
        let host = Self { root, tasks: Tasks::new(Shutdown::new()), keys, tokens, running: None };
        let members = Members { index: 1, epoch: MeshEpoch(1), members: vec![host.member(vec![])] };
        let initial = state::Initial {
            network: NETWORK,
            secret: EpochSecret { epoch: MeshEpoch(1), secret: SecretBytes::new(SECRET) },
            rejoin_secret: SecretBytes::new([9; 32]),
            members,
        };
        state::write_initial(&host.root.paths().state("mesh"), &initial).unwrap();
        std::fs::write(host.root.paths().config("mesh"), "listen = \"127.0.0.1:0\"\n").unwrap();
        host.stand_ins();
        host
    }

    fn member(&self, addresses: Vec<std::net::SocketAddr>) -> Member {
        Member {
            node: self.keys.node(),
            mesh_key: self.keys.mesh_key(),
            identity_key: self.keys.identity_key(),
            role: Role::Voter,
            name: format!("n-{}", self.keys.node().short()),
            addresses,
        }
    }

    fn token(&self, daemon: &str) -> &TokenFile {
        &self.tokens.iter().find(|(name, _)| *name == daemon).unwrap().1
    }

    fn credentials(&self, daemon: &str) -> Credentials {
        Credentials::token(Secret::new(self.token(daemon).own.clone()))
    }

    fn callers(&self, table: CallerTable) -> Arc<Callers> {
        let peers = self.token("mesh").peers(table.daemons).unwrap();
        Arc::new(Callers::by_tokens(table, rustix::process::geteuid().as_raw(), peers))
    }

    fn listener(&self, socket: &str) -> UnixListener {
        UnixListener::bind(self.root.paths().socket(socket)).unwrap()
    }

    fn stand_ins(&self) {
        let append = async || axum::Json(json!({ "id": 1, "hash": "00" }));
        let agentd = Router::new().route("/ledger/append", post(append));
        serve_unix(&self.tasks, "agentd", self.listener("agentd"), agentd, self.callers(callers::AGENTD));
        let issuer = self.member(vec![]);
        let spend = async move |Json(request): Json<SpendRequest>| axum::Json(enrolment(issuer, request));
        let (tries, node) = (AtomicUsize::new(0), self.keys.node());
        let tries = Arc::new(tries);
        let rotate = move |Json(ask): Json<RotateRequest>| {
            let answer = log_of_tries(ask, node, tries.fetch_add(1, Relaxed));
            async move { answer.map(axum::Json) }
        };
        let fleetd = Router::new().route("/mesh/spend", post(spend)).route("/mesh/rotate", post(rotate));
        serve_unix(&self.tasks, "fleetd", self.listener("fleetd"), fleetd, self.callers(callers::FLEETD));
        let echo = async |opening: Opening<StreamPeer>| {
            let (peer, mut pipe) = opening.accept().await.unwrap();
            pipe.write_all(format!("{} {}:", peer.role, peer.node).as_bytes()).await.unwrap();
            let (mut read, mut write) = pipe.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        };
        self.answer_witnesses();
        let pipes = self.listener("fleetd-mesh");
        serve_streams(&self.tasks, "fleetd-mesh", pipes, self.callers(callers::FLEETD), echo);
    }

    /// Agentd's part of the service `witness`: says back who asked what.
    fn answer_witnesses(&self) {
        let (listener, callers) = (self.listener(AGENTD_SOCKET), self.callers(callers::AGENTD));
        let answer = async |peer: StreamPeer, question: Value| match question {
            Value::Null => Err(ApiError::new(ErrorCode::LedgerBroken, "not for the peer")),
            question => Ok(json!({ "peer": peer.node, "role": peer.role, "question": question })),
        };
        WITNESS.serve(&self.tasks, AGENTD_SOCKET, listener, callers, answer);
    }

    fn pipes(&self, daemon: &str) -> MeshPipes {
        MeshPipes::new(&self.root.paths(), self.credentials(daemon))
    }

    async fn start(&mut self) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&serde_json::to_vec(self.token("mesh")).unwrap()).unwrap();
        let args = BootArgs { token_fd: Some(file.as_raw_fd().unsigned_abs()), ..BootArgs::at(self.root.path()) };
        let (shutdown, (sender, receiver)) = (Shutdown::new(), oneshot::channel());
        let signal = shutdown.clone();
        self.tasks.spawn(TaskKind::BACKGROUND, "mesh daemon", async move {
            let ended = boot::serve::<Meshd>(&args, signal).await;
            drop(file);
            assert!(sender.send(ended).is_ok());
        });
        self.running = Some((shutdown, receiver));
        let mesh = self.mesh("fleetd");
        wait_for("the daemon", LIMIT, async || mesh.identity().await.ok()).await;
    }

    async fn stop(&mut self) {
        let (shutdown, ended) = self.running.take().unwrap();
        shutdown.request(StopReason::Asked("test".to_owned()));
        let ended = ended.await.unwrap().unwrap();
        assert!(ended.is_graceful(), "{ended:?}");
    }

    fn mesh(&self, daemon: &str) -> MeshClient {
        MeshClient::new(UnixClient::new(self.root.paths().socket("mesh"), self.credentials(daemon)))
    }

    async fn talk(&self, peer: NodeId, service: Service) -> Result<String, ApiError> {
        let mut pipe = self.pipes("fleetd").open(peer, service).await?;
        let broke = |error: std::io::Error| ApiError::new(ErrorCode::PeerOffline, error.to_string());
        pipe.write_all(b"through two daemons").await.map_err(broke)?;
        pipe.shutdown().await.map_err(broke)?;
        let mut answer = String::new();
        pipe.read_to_string(&mut answer).await.map_err(broke)?;
        Ok(answer)
    }

    /// What a peer echoes. Both ends dial at once, and the link that loses takes
    /// a stream on it along: whoever opened that one opens another.
    async fn heard(&self, peer: NodeId, service: Service, expected: &str) {
        let heard = async || self.talk(peer, service).await.ok().filter(|answer| answer.len() >= expected.len());
        assert_eq!(wait_for("an echo", LIMIT, heard).await, expected);
    }
}

/// A log that refuses the keys, then the moment, is away, and takes the change.
fn log_of_tries(ask: RotateRequest, node: NodeId, tried: usize) -> Result<RotateAnswer, ApiError> {
    assert_eq!(ask.succession.node, node);
    match tried {
        0 => Ok(RotateAnswer { index: 6, refused: Some(ErrorCode::Conflict) }),
        1 => Ok(RotateAnswer { index: 7, refused: Some(ErrorCode::AttemptConflict) }),
        2 => Err(ApiError::new(ErrorCode::RaftUnavailable, "no leader")),
        _ => Ok(RotateAnswer { index: 8, refused: None }),
    }
}

fn enrolment(issuer: Member, request: SpendRequest) -> Enrolment {
    let joiner = Member {
        node: request.node,
        mesh_key: request.mesh_key,
        identity_key: request.request.identity_key,
        role: Role::Node,
        name: request.request.name,
        addresses: request.request.addresses,
    };
    let members = Members { index: 2, epoch: MeshEpoch(1), members: vec![issuer, joiner] };
    Enrolment { role: Role::Node, members, operators: vec![], rejoin_secret: SecretBytes::new([6; 32]) }
}

/// Tells both daemons about both nodes, as their fleetd would.
async fn introduce(hosts: [&Host; 2], index: u64) -> Members {
    let mut members = Vec::new();
    for host in hosts {
        members.push(host.member(vec![host.mesh("fleetd").identity().await.unwrap().listen]));
    }
    let members = Members { index, epoch: MeshEpoch(1), members };
    for host in hosts {
        assert_eq!(host.mesh("fleetd").set_members(&members).await.unwrap().index, index);
    }
    members
}

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
    let welcome = pair(PairRequest {
        invite: Invite::decode(&opened.invite).unwrap(),
        identity: identity.clone(),
        name: "joiner".to_owned(),
        addresses: vec!["127.0.0.1:4000".parse().unwrap()],
        time_limit: LIMIT,
        clock,
    })
    .await
    .unwrap();
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
    assert_eq!(picture["id"], peer.to_string());
    assert_eq!(picture["noise_static_pubkey"], b.keys.mesh_key().to_string());
    assert_eq!(picture["connection_state"]["state"], "connected");
    assert!(picture["label"].is_string() && picture["endpoint"].is_string() && picture["last_seen"].is_string());
    assert!(admin.get::<Value>("/peers").await.unwrap().as_array().is_some_and(|peers| peers.len() == 1));
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
    // A burst over the rate is told to come later, and is not kept.
    let mut refused = None;
    for _ in 0..100 {
        let alert = json!({ "type": "alert", "severity": "info", "title": "t", "detail": "d" });
        refused = send(alert).await.err();
        if refused.is_some() {
            break;
        }
    }
    assert_eq!(refused.map(|error| error.code), Some(ErrorCode::Busy));

    let (status, gone) = admin.exchange(Method::DELETE, &format!("/peer/{peer}"), None).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(serde_json::from_slice::<Value>(&gone).unwrap(), json!({ "disconnected": peer }));
    wait_for("the link again", LIMIT, linked).await;
    assert_eq!(admin.get::<Value>("/peer/nobody").await.unwrap_err().code, ErrorCode::PeerUnknown);
    let accepted = admin.post::<Value>("/invite/accept", &json!({ "invite_code": "x" })).await;
    assert_eq!(accepted.unwrap_err().code, ErrorCode::Conflict);
    a.stop().await;
    b.stop().await;
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
async fn what_rooms_and_blobs_do_is_in_the_metrics() {
    osmoda_kit::metrics::init();
    let (mut a, mut b) = (Host::new(), Host::new());
    a.start().await;
    b.start().await;
    introduce([&a, &b], 2).await;
    let stored = b.mesh("fleetd").put_blob(b"manifest".to_vec()).await.unwrap();
    let fetch = FetchBlob { hash: stored.hash.clone(), peer: b.keys.node() };
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
    ];
    let all = async || {
        let text = String::from_utf8(admin.get_bytes("/metrics").await.unwrap().to_vec()).unwrap();
        counted.iter().all(|name| text.lines().any(|line| line.starts_with(name))).then_some(())
    };
    wait_for("all counters", LIMIT, all).await;
    a.stop().await;
    b.stop().await;
}
