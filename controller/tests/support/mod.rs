//! A fleet in one process: a voter that keeps the log in memory and applies it
//! with the real rules, and a controller on top of it.
#![allow(clippy::unwrap_used, dead_code, reason = "helpers of tests: a failure shows the line that surprised it")]

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body as HttpBody;
use axum::http::{Request as HttpRequest, StatusCode};
use ed25519_dalek::SigningKey;
use futures_util::Stream;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use osmoda_controller::{App, AppParts, Fleet, Follower, Inbox, LinkService, Presence, Published, View, Voters};
use osmoda_controller_store::{SqliteStore, Store};
use osmoda_kit::clock::SystemClock;
use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_proto::fleet::v1::fleet_server::{Fleet as FleetService, FleetServer};
use osmoda_proto::fleet::v1::{self as pb, submit_reply, watch_item};
use osmoda_rollout::FleetState;
use osmoda_types::command::{Ballot, Body, Command, Genesis, Order};
use osmoda_types::{
    ErrorCode, FleetEpoch, ManifestHash, Member, MeshEpoch, MeshKey, NetworkId, NodeId, Principal, Purpose, RaftId,
    RequestId, Right, Role, RolloutId, SecretHash, Signature, Subkey, Vote, statement,
};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tower::ServiceExt as _;

pub(crate) const NETWORK: NetworkId = NetworkId::from_bytes([7; 32]);
pub(crate) const VOTER: NodeId = NodeId::from_bytes([1; 32]);
pub(crate) const RAFT: RaftId = RaftId(11);
pub(crate) const TOKEN: &str = "a-token-for-tests";
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// The operator with every right.
pub(crate) fn ann() -> SigningKey {
    key(50)
}

/// What a voter keeps.
#[derive(Default)]
struct Log {
    state: FleetState,
    entries: Vec<pb::WatchEntry>,
    /// Entries up to here were cut off; watchers get a snapshot.
    cut: u64,
    manifests: Vec<Vec<u8>>,
}

/// A voter that is always the leader.
#[derive(Clone)]
pub(crate) struct FakeVoter {
    log: Arc<Mutex<Log>>,
    newest: Arc<watch::Sender<u64>>,
    pub(crate) down: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    streams: mpsc::Sender<Result<DuplexStream, std::io::Error>>,
    /// Ends watch streams, as a voter that dies does.
    generation: Arc<watch::Sender<u64>>,
}

impl FakeVoter {
    /// A voter whose fleet has begun: it is the only voter, Ann the operator.
    pub(crate) fn start(tasks: &Tasks) -> Self {
        let (streams, incoming) = mpsc::channel(16);
        let voter = Self {
            log: Arc::default(),
            newest: Arc::new(watch::channel(0).0),
            down: Arc::default(),
            requests: Arc::default(),
            streams,
            generation: Arc::new(watch::channel(0).0),
        };
        let service = FleetServer::new(voter.clone()).max_decoding_message_size(16 << 20);
        let incoming = tokio_stream::wrappers::ReceiverStream::new(incoming);
        let serving = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
        tasks.spawn(TaskKind::BACKGROUND, "fake voter", serving);
        voter.begin();
        voter
    }

    fn begin(&self) {
        let identity = key(1);
        let member = Member {
            node: VOTER,
            name: "voter-1".into(),
            role: Role::Voter,
            mesh_key: MeshKey::from_bytes([1; 32]),
            identity_key: statement::public_key(&identity),
            addresses: vec!["127.0.0.1:1".into()],
        };
        let ann = Principal { name: "ann".into(), key: statement::public_key(&ann()), rights: Right::ALL.to_vec() };
        self.write(Body::Genesis(Genesis {
            network: NETWORK,
            mesh_epoch: MeshEpoch(1),
            secret_hash: SecretHash::from_bytes([3; 32]),
            principals: vec![ann],
            member,
        }));
        let ballot = statement::public_key(&key(2));
        let message = statement::subkey(Purpose::Ballot, &ballot, &VOTER, MeshEpoch(1), &NETWORK);
        let endorsement = statement::sign(&identity, &message);
        let epoch = MeshEpoch(1);
        self.write(Body::RegisterSubkey(Subkey {
            node: VOTER,
            purpose: Purpose::Ballot,
            key: ballot,
            epoch,
            endorsement,
        }));
        self.write(Body::RegisterVoter { node: VOTER, raft_id: RAFT });
    }

    /// Writes a command as the leader would; returns the refusal, if any.
    pub(crate) fn write(&self, body: Body) -> Option<ErrorCode> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let mut request = [0; 16];
        request[..8].copy_from_slice(&number.to_be_bytes());
        let command = Command { request: RequestId::from_bytes(request), body };
        self.append(osmoda_proto::encode_command(&command)).refused
    }

    fn append(&self, command: Vec<u8>) -> osmoda_rollout::Reply {
        let mut log = self.log.lock().unwrap();
        let index = log.cut + log.entries.len() as u64 + 1;
        let outcome = log.state.apply_bytes(index, RAFT, &command);
        log.entries.push(pb::WatchEntry { index, proposer: RAFT.0, commands: vec![command] });
        drop(log);
        self.newest.send_replace(index);
        outcome.reply
    }

    /// Votes on a rollout.
    pub(crate) fn vote(&self, rollout: RolloutId, vote: Vote) -> Option<ErrorCode> {
        let (manifest, epoch) = {
            let log = self.log.lock().unwrap();
            let rollout = log.state.rollout(&rollout).unwrap();
            (rollout.manifest, rollout.epoch)
        };
        let message = statement::ballot(&rollout, &manifest, epoch, &VOTER, vote, &NETWORK);
        let signature = statement::sign(&key(2), &message);
        self.write(Body::Ballot(Ballot { rollout, voter: VOTER, vote, reason: None, signature }))
    }

    /// The newest index.
    pub(crate) fn index(&self) -> u64 {
        *self.newest.borrow()
    }

    /// How many entries there are, and how many manifests.
    pub(crate) fn manifests(&self) -> usize {
        self.log.lock().unwrap().manifests.len()
    }

    /// Forgets all entries so far: watchers that need them get a snapshot.
    pub(crate) fn compact(&self) {
        let mut log = self.log.lock().unwrap();
        log.cut += log.entries.len() as u64;
        log.entries.clear();
    }

    /// Dies or comes back.
    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
        self.generation.send_modify(|generation| *generation += 1);
    }

    fn check_up(&self) -> Result<(), Status> {
        if self.down.load(Ordering::SeqCst) { Err(Status::unavailable("down")) } else { Ok(()) }
    }
}

impl Voters for FakeVoter {
    fn nodes(&self) -> Vec<NodeId> {
        vec![VOTER]
    }

    fn channel(&self, _: NodeId) -> Channel {
        let voter = self.clone();
        let connector = tower::service_fn(move |_| {
            let voter = voter.clone();
            async move {
                if voter.down.load(Ordering::SeqCst) {
                    return Err(std::io::Error::other("down"));
                }
                let (near, far) = tokio::io::duplex(1 << 20);
                voter.streams.send(Ok(far)).await.map_err(std::io::Error::other)?;
                Ok(TokioIo::new(near))
            }
        });
        Endpoint::from_static("http://fake.invalid").connect_with_connector_lazy(connector)
    }
}

type Items = Pin<Box<dyn Stream<Item = Result<pb::WatchItem, Status>> + Send>>;

/// One stream of the log.
struct Watcher {
    voter: FakeVoter,
    newest: watch::Receiver<u64>,
    generation: watch::Receiver<u64>,
    next: u64,
    /// The last head that was told.
    head: u64,
}

impl Watcher {
    async fn next(&mut self) -> Result<watch_item::Item, Status> {
        loop {
            self.newest.borrow_and_update();
            if let Some(item) = self.ready() {
                return Ok(item);
            }
            tokio::select! {
                // Cancel-safe, as documented for `changed`.
                changed = self.newest.changed() => changed.unwrap(),
                // Cancel-safe, likewise.
                _ = self.generation.changed() => return Err(Status::unavailable("died")),
            }
        }
    }

    fn ready(&mut self) -> Option<watch_item::Item> {
        let log = self.voter.log.lock().unwrap();
        if self.next <= log.cut {
            self.next = log.cut + 1;
            return Some(watch_item::Item::Snapshot(pb::WatchSnapshot { index: log.cut, state: log.state.encode() }));
        }
        if let Some(entry) = log.entries.get((self.next - log.cut - 1) as usize) {
            self.next += 1;
            return Some(watch_item::Item::Entry(entry.clone()));
        }
        let index = self.next - 1;
        let told = std::mem::replace(&mut self.head, index) == index;
        let leader = VOTER.as_bytes().to_vec();
        (!told).then_some(watch_item::Item::Head(pb::WatchHead { index, leader, term: 1, next_within_ms: 0 }))
    }
}

#[tonic::async_trait]
impl FleetService for FakeVoter {
    async fn submit(&self, request: Request<pb::SubmitRequest>) -> Result<Response<pb::SubmitReply>, Status> {
        self.check_up()?;
        let reply = self.append(request.into_inner().command);
        let result = Some(submit_reply::Result::Reply((&reply).into()));
        Ok(Response::new(pb::SubmitReply { result }))
    }

    async fn report(&self, _: Request<pb::ReportRequest>) -> Result<Response<pb::ReportReply>, Status> {
        Err(Status::unimplemented("a controller does not report"))
    }

    type WatchStream = Items;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Items>, Status> {
        self.check_up()?;
        let watcher = Watcher {
            voter: self.clone(),
            newest: self.newest.subscribe(),
            generation: self.generation.subscribe(),
            next: request.into_inner().from_index.max(1),
            head: 0,
        };
        let stream = futures_util::stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(item) => Some((Ok(pb::WatchItem { item: Some(item) }), Some(watcher))),
                Err(died) => Some((Err(died), None)),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn lease(&self, _: Request<pb::LeaseRequest>) -> Result<Response<pb::LeaseReply>, Status> {
        Err(Status::unimplemented("a controller has no lease"))
    }

    async fn put_manifest(
        &self,
        request: Request<pb::PutManifestRequest>,
    ) -> Result<Response<pb::PutManifestReply>, Status> {
        self.check_up()?;
        let request = request.into_inner();
        assert_eq!(request.hash, ManifestHash::of(&request.manifest).as_bytes());
        self.log.lock().unwrap().manifests.push(request.manifest);
        Ok(Response::new(pb::PutManifestReply {}))
    }

    async fn get_manifest(&self, _: Request<pb::GetManifestRequest>) -> Result<Response<pb::GetManifestReply>, Status> {
        Err(Status::unimplemented("a controller has its own"))
    }

    async fn mint_invite(
        &self,
        request: Request<pb::MintInviteRequest>,
    ) -> Result<Response<pb::MintInviteReply>, Status> {
        self.check_up()?;
        let expires_ms = 1_767_225_600_000 + request.into_inner().ttl_ms as i64;
        Ok(Response::new(pb::MintInviteReply { invite: "secret-text".into(), id: vec![9; 16], expires_ms }))
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusReply>, Status> {
        Ok(Response::new(pb::StatusReply::default()))
    }
}

/// A controller over a fake voter, without a mesh.
pub(crate) struct TestController {
    pub(crate) tasks: Tasks,
    pub(crate) router: Router,
    pub(crate) published: Published,
    pub(crate) presence: Presence,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) links: LinkService,
}

impl TestController {
    pub(crate) async fn start(voter: &FakeVoter, database: &Path) -> Self {
        let tasks = Tasks::new(Shutdown::new());
        let clock = SystemClock::shared();
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(database).await.unwrap());
        let fleet = Fleet::new(Arc::new(voter.clone()));
        let (follower, published) = Follower::open(fleet.clone(), store.clone(), clock.clone(), NETWORK).await.unwrap();
        let stop = tasks.shutdown().token(osmoda_kit::shutdown::Stage::FinishAccepted);
        tasks.spawn(TaskKind::CRITICAL, "log follower", follower.run(stop));
        let presence = Presence::new(clock.clone(), store.nodes().await.unwrap());
        let inbox = Inbox::default();
        let links = LinkService::new(presence.clone(), inbox.clone(), store.clone(), clock.clone(), tasks.clone());
        let app = App::new(AppParts {
            store: store.clone(),
            fleet,
            published: published.clone(),
            presence: presence.clone(),
            inbox,
            clock,
            network: NETWORK,
            own: NodeId::from_bytes([200; 32]),
            token: sha2::Digest::finalize(sha2::Digest::chain_update(<sha2::Sha256 as sha2::Digest>::new(), TOKEN))
                .into(),
            shutdown: tasks.shutdown().clone(),
        });
        Self { tasks, router: app.router(), published, presence, store, links }
    }

    /// Waits until the controller has applied everything the voter has.
    pub(crate) async fn caught_up(&self, voter: &FakeVoter) -> View {
        let index = voter.index();
        let mut view = self.published.view.clone();
        let reached = view.wait_for(|view| view.applied_index >= index && view.following);
        tokio::time::timeout(LIMIT, reached).await.expect("the controller catches up").unwrap().clone()
    }

    pub(crate) async fn stop(self) {
        self.tasks.shutdown().request(StopReason::Asked("test".into()));
        let report = self.tasks.drain(LIMIT).await;
        assert_eq!(report.late, Vec::<String>::new());
        self.store.close().await.unwrap();
    }

    /// One request with the token.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<&str>) -> (StatusCode, serde_json::Value) {
        let mut request = HttpRequest::builder().method(method).uri(format!("/api/v1/fleet{path}"));
        request = request.header("authorization", format!("Bearer {TOKEN}"));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(HttpBody::empty, |body| HttpBody::from(body.to_owned()));
        let (status, bytes) = self.send(request.body(body).unwrap()).await;
        (status, serde_json::from_slice(&bytes).unwrap_or(serde_json::Value::Null))
    }

    pub(crate) async fn send(&self, request: HttpRequest<HttpBody>) -> (StatusCode, Vec<u8>) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
    }
}

/// A folder, a voter and the path of a database.
pub(crate) fn fleet() -> (tempfile::TempDir, Tasks, FakeVoter, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let tasks = Tasks::new(Shutdown::new());
    let voter = FakeVoter::start(&tasks);
    let database = dir.path().join("controller.db");
    (dir, tasks, voter, database)
}

/// A manifest that moves the voter.
pub(crate) fn manifest(target: &str) -> String {
    format!(
        r#"{{"version":1,"name":"web 2","scope":"web","nodes":{{"{VOTER}":{{"target":"{target}","baseline":"/nix/store/a"}}}},"policy":{{"waves":[{{"count":1}}],"max_unavailable":1}}}}"#
    )
}

/// A start order for a manifest, signed by a key.
pub(crate) fn start_order(manifest: &str, id: RolloutId, parent: u64, key: &SigningKey) -> String {
    let hash = ManifestHash::of(manifest.as_bytes());
    let message = statement::rollout(&hash, &id, FleetEpoch(parent), &NETWORK);
    let order = serde_json::json!({
        "id": id, "manifest": hash, "parent_epoch": parent, "operator_key": statement::public_key(key),
        "signature": statement::sign(key, &message),
    });
    order.to_string()
}

/// An order with its serial, signed by a key, with further fields.
pub(crate) fn order(order: &Order, serial: u64, key: &SigningKey, fields: serde_json::Value) -> String {
    let signature: Signature = statement::sign(key, &statement::control(order, serial, &NETWORK));
    let mut body = serde_json::json!({
        "serial": serial, "operator_key": statement::public_key(key), "signature": signature,
    });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body.to_string()
}
