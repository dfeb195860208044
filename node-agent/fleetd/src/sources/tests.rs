//! Nodes with real stores, and between them a mesh that is a map of blobs.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use osmoda_kit::http::{Credentials, UnixClient};
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::TaskKind;
use osmoda_kit::testing::TempRoot;
use osmoda_node_api::blobs::BlobStored;
use osmoda_node_api::mesh::Service;
use osmoda_proto::fleet::v1::fleet_server::{Fleet, FleetServer};
use tokio::net::{UnixListener, UnixStream};
use tonic::{Request, Response, Status};

use super::*;
use crate::peers::{Dial, Dialled, Peers};
use crate::wire::{refuse, status_of};

const MANIFEST: &[u8] = b"{\"name\":\"a release\"}";

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn hash() -> ManifestHash {
    ManifestHash::of(MANIFEST)
}

/// What the mesh daemons of all nodes have, and what becomes of fetches.
#[derive(Default)]
struct Air {
    blobs: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Peers whose fetches break off.
    broken: Mutex<BTreeSet<NodeId>>,
    fetches: AtomicUsize,
}

type Shared = State<Arc<Air>>;

/// The names that the fakes give are as long as BLAKE3's, and that is all.
fn name_of(bytes: &[u8]) -> String {
    ManifestHash::of(&[b"blob ", bytes].concat()).to_string()
}

async fn put_blob(State(air): Shared, bytes: Bytes) -> Json<BlobStored> {
    let stored = BlobStored { hash: name_of(&bytes), size: bytes.len() as u64 };
    air.blobs.lock().unwrap().insert(stored.hash.clone(), bytes.to_vec());
    Json(stored)
}

async fn fetch_blob(State(air): Shared, Json(fetch): Json<FetchBlob>) -> Result<Json<BlobStored>, ApiError> {
    air.fetches.fetch_add(1, SeqCst);
    // A name says nothing of a size: whoever gave it could name a gigabyte.
    assert_eq!(fetch.bytes_max, Some(1024 * 1024));
    if air.broken.lock().unwrap().contains(&fetch.peer) {
        return Err(ApiError::new(ErrorCode::PeerOffline, "the link ended in the middle"));
    }
    let blobs = air.blobs.lock().unwrap();
    let bytes = blobs.get(&fetch.hash).ok_or_else(|| ApiError::new(ErrorCode::NotFound, "no such blob"))?;
    Ok(Json(BlobStored { hash: fetch.hash, size: bytes.len() as u64 }))
}

async fn blob(State(air): Shared, Path(hash): Path<String>) -> Result<Vec<u8>, ApiError> {
    let blobs = air.blobs.lock().unwrap();
    blobs.get(&hash).cloned().ok_or_else(|| ApiError::new(ErrorCode::NotFound, "no such blob"))
}

/// A voter's side of the fleet service; `lies` replaces what it has.
#[derive(Clone)]
struct Voter {
    sources: Sources,
    asked: Arc<AtomicUsize>,
    lies: Option<Vec<u8>>,
}

#[tonic::async_trait]
impl Fleet for Voter {
    type WatchStream = tokio_stream::Empty<Result<pb::WatchItem, Status>>;

    async fn get_manifest(
        &self,
        request: Request<pb::GetManifestRequest>,
    ) -> Result<Response<pb::GetManifestReply>, Status> {
        self.asked.fetch_add(1, SeqCst);
        let request = request.into_inner();
        let hash = ManifestHash::try_from(request.hash.as_slice()).unwrap();
        if let Some(manifest) = self.lies.clone() {
            return Ok(Response::new(pb::GetManifestReply { manifest, ..Default::default() }));
        }
        if request.as_blob {
            let blob = self.sources.as_blob(hash).await.map_err(|error| status_of(&error))?.to_vec();
            return Ok(Response::new(pb::GetManifestReply { blob, ..Default::default() }));
        }
        match self.sources.manifests.get(hash).unwrap() {
            Some(manifest) => Ok(Response::new(pb::GetManifestReply { manifest, ..Default::default() })),
            None => Err(refuse(ErrorCode::ManifestUnknown, "no manifest here")),
        }
    }

    async fn submit(&self, _: Request<pb::SubmitRequest>) -> Result<Response<pb::SubmitReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn report(&self, _: Request<pb::ReportRequest>) -> Result<Response<pb::ReportReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn watch(&self, _: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn lease(&self, _: Request<pb::LeaseRequest>) -> Result<Response<pb::LeaseReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn put_manifest(&self, _: Request<pb::PutManifestRequest>) -> Result<Response<pb::PutManifestReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn mint_invite(&self, _: Request<pb::MintInviteRequest>) -> Result<Response<pb::MintInviteReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
}

/// Pipes to the voters that are up.
#[derive(Clone)]
struct Pipes {
    voters: Arc<Mutex<BTreeMap<NodeId, Voter>>>,
    tasks: Tasks,
}

impl Dial for Pipes {
    fn dial(&self, node: NodeId, _service: Service) -> Dialled {
        let voter = self.voters.lock().unwrap().get(&node).cloned();
        let opened = voter.ok_or_else(|| std::io::ErrorKind::NotConnected.into()).and_then(|voter| {
            let (here, there) = UnixStream::pair()?;
            let served = tonic::transport::Server::builder()
                .add_service(FleetServer::new(voter))
                .serve_with_incoming(tokio_stream::once(Ok::<_, std::io::Error>(there)));
            self.tasks.spawn(TaskKind::BACKGROUND, "voter", async move { drop(served.await) });
            Ok(here)
        });
        Box::pin(std::future::ready(opened))
    }
}

/// Nodes and what is between them.
struct World {
    root: TempRoot,
    air: Arc<Air>,
    mesh: MeshClient,
    pipes: Pipes,
    client: LeaderClient,
    tasks: Tasks,
}

impl World {
    fn new() -> Self {
        let (root, air, tasks) = (TempRoot::new(), Arc::new(Air::default()), Tasks::new(Shutdown::new()));
        let socket = root.path().join("mesh.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let router = Router::new()
            .route("/blob", put(put_blob))
            .route("/blob/fetch", post(fetch_blob))
            .route("/blob/{hash}", get(blob))
            .with_state(Arc::clone(&air));
        tasks.spawn(TaskKind::BACKGROUND, "mesh", async move { drop(axum::serve(listener, router).await) });
        let http = UnixClient::new(socket, Credentials::none()).with_time_limit(Duration::from_secs(5));
        let pipes = Pipes { voters: Arc::default(), tasks: tasks.clone() };
        let client = LeaderClient::new(Peers::new(Arc::new(pipes.clone())));
        Self { root, air, mesh: MeshClient::new(http), pipes, client, tasks }
    }

    fn node(&self, number: u8) -> Sources {
        let manifests = Manifests::open(self.root.path().join(number.to_string())).unwrap();
        Sources::new(manifests, self.mesh.clone(), self.tasks.clone())
    }

    /// A voter that is up; returns how often it was asked.
    fn voter(&self, number: u8, lies: Option<&[u8]>) -> (Sources, Arc<AtomicUsize>) {
        let (sources, asked) = (self.node(number), Arc::new(AtomicUsize::new(0)));
        let voter = Voter { sources: sources.clone(), asked: Arc::clone(&asked), lies: lies.map(<[u8]>::to_vec) };
        self.pipes.voters.lock().unwrap().insert(id(number), voter);
        (sources, asked)
    }

    async fn get(&self, sources: &Sources, voters: &[u8]) -> Result<Vec<u8>, ApiError> {
        let voters: Vec<NodeId> = voters.iter().map(|number| id(*number)).collect();
        sources.manifest(&self.client, &voters, hash()).await
    }
}

#[tokio::test]
async fn a_manifest_put_on_one_voter_reaches_the_others_once_as_a_blob() {
    let world = World::new();
    let (first, asked) = world.voter(1, None);
    first.manifests.put(MANIFEST, Some(hash())).unwrap();
    let (second, _) = world.voter(2, None);
    let third = world.node(3);
    for other in [&second, &third] {
        assert_eq!(world.get(other, &[1, 2]).await.unwrap(), MANIFEST);
        assert_eq!(other.manifests.get(hash()).unwrap().unwrap(), MANIFEST, "it is kept");
    }
    assert_eq!(world.air.blobs.lock().unwrap().len(), 1);
    let (before, fetches) = (asked.load(SeqCst), world.air.fetches.load(SeqCst));
    assert_eq!(world.get(&third, &[1, 2]).await.unwrap(), MANIFEST);
    assert_eq!((asked.load(SeqCst), world.air.fetches.load(SeqCst)), (before, fetches), "nobody is asked again");
}

#[tokio::test]
async fn what_is_no_such_manifest_is_not_kept_and_the_next_voter_is_asked() {
    let world = World::new();
    let (_, asked) = world.voter(1, Some(b"another manifest"));
    let (second, _) = world.voter(2, None);
    second.manifests.put(MANIFEST, Some(hash())).unwrap();
    let node = world.node(3);
    assert_eq!(world.get(&node, &[1, 2]).await.unwrap(), MANIFEST);
    assert_eq!(asked.load(SeqCst), 1);
    let alone = world.node(4);
    assert_eq!(world.get(&alone, &[1]).await.unwrap_err().code, ErrorCode::ManifestMalformed);
    assert!(alone.manifests.get(hash()).unwrap().is_none());
}

#[tokio::test]
async fn a_fetch_that_breaks_off_goes_on_elsewhere_and_at_last_by_its_bytes() {
    let world = World::new();
    for number in [1, 2] {
        world.voter(number, None).0.manifests.put(MANIFEST, Some(hash())).unwrap();
    }
    world.air.broken.lock().unwrap().insert(id(1));
    let node = world.node(3);
    assert_eq!(world.get(&node, &[1, 2]).await.unwrap(), MANIFEST);
    assert_eq!(world.air.fetches.load(SeqCst), 2, "the second voter gave it as a blob");
    world.air.broken.lock().unwrap().insert(id(2));
    let other = world.node(4);
    assert_eq!(world.get(&other, &[1, 2]).await.unwrap(), MANIFEST);
    assert_eq!(world.air.fetches.load(SeqCst), 4, "no blob came, so a voter gave the bytes");
}

#[tokio::test]
async fn what_no_voter_has_yet_may_come_and_what_is_not_here_is_no_blob() {
    let world = World::new();
    world.voter(1, None);
    let node = world.node(3);
    for (voters, code) in
        [(&[1][..], ErrorCode::RaftUnavailable), (&[], ErrorCode::RaftUnavailable), (&[1, 9], ErrorCode::PeerOffline)]
    {
        assert_eq!(world.get(&node, voters).await.unwrap_err().code, code, "{voters:?}");
    }
    assert_eq!(node.as_blob(hash()).await.unwrap_err().code, ErrorCode::ManifestUnknown);
    // The same fetch, when it is there.
    let (late, _) = world.voter(9, None);
    late.manifests.put(MANIFEST, Some(hash())).unwrap();
    assert_eq!(world.get(&node, &[1, 9]).await.unwrap(), MANIFEST);
    assert_eq!(node.as_blob(hash()).await.unwrap(), node.as_blob(hash()).await.unwrap());
}
