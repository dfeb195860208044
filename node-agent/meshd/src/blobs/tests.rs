//! Blobs between two nodes over a real link, and through the endpoints.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::Method;
use bao_tree::blake3;
use osmoda_kit::clock::SystemClock;
use osmoda_kit::http::testing::TestServer;
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::Tasks;
use osmoda_kit::testing::{TempRoot, wait_for};
use osmoda_mesh::{EpochSecret, Mesh, MeshConfig, MeshHandle, Tuning, state};
use osmoda_node_api::blobs::{BlobStored, FetchBlob};
use osmoda_node_api::mesh::{Member, Members, SecretBytes, Service};
use osmoda_types::{ErrorCode, MeshEpoch, NetworkId, NodeId, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::serve::{BUSY, FOUND};
use super::{Blobs, Limits, http};

const LIMIT: Duration = Duration::from_secs(30);

struct Node {
    mesh: MeshHandle,
    member: Member,
    server: TestServer,
    tasks: Tasks,
    root: TempRoot,
}

async fn node(rate: u64) -> Node {
    let (root, tasks) = (TempRoot::new(), Tasks::new(Shutdown::new()));
    let identity = state::create_identity(&root.paths().state("mesh")).unwrap();
    let mut member = Member {
        node: identity.node(),
        mesh_key: identity.mesh_key(),
        identity_key: identity.identity_key(),
        role: Role::Node,
        name: format!("n-{}", identity.node().short()),
        addresses: vec![],
    };
    let secret = EpochSecret { epoch: MeshEpoch(1), secret: SecretBytes::new([8; 32]) };
    let config = MeshConfig {
        identity,
        network: NetworkId::from_bytes([7; 32]),
        listen: ([127, 0, 0, 1], 0).into(),
        secrets: secret.into(),
        members: Members { index: 1, epoch: MeshEpoch(1), members: vec![member.clone()] },
        enroller: None,
        tuning: Tuning::default(),
    };
    let mesh = Mesh::start(config, &tasks, SystemClock::shared()).unwrap();
    member.addresses.push(mesh.local_address());
    let limits = Limits { bytes_max: 64 << 20, rate };
    let blobs = Blobs::start(mesh.clone(), root.path().join("blobs"), limits, &tasks).await;
    Node { mesh, member, server: TestServer::open(http::router(blobs)), tasks, root }
}

async fn pair(rate: u64) -> [Node; 2] {
    let nodes = [node(rate).await, node(rate).await];
    link(&nodes).await;
    nodes
}

/// Tells these nodes about each other and waits for the links of the first.
async fn link(nodes: &[Node]) {
    let members: Vec<Member> = nodes.iter().map(|node| node.member.clone()).collect();
    for node in nodes {
        let members = Members { index: 2, epoch: MeshEpoch(1), members: members.clone() };
        node.mesh.update_members(members).await.unwrap();
    }
    let linked = || nodes[0].mesh.peers().iter().all(|peer| peer.connected);
    wait_for("the links", LIMIT, async || linked().then_some(())).await;
}

impl Node {
    async fn put(&self, bytes: Vec<u8>) -> BlobStored {
        let (status, body) =
            self.server.client().exchange(Method::PUT, "/blob", Some(Bytes::from(bytes))).await.unwrap();
        assert!(status.is_success(), "{status} {body:?}");
        serde_json::from_slice(&body).unwrap()
    }

    async fn fetch(&self, hash: &str, peer: NodeId) -> Result<BlobStored, ErrorCode> {
        self.fetch_of(hash, peer, None).await
    }

    async fn fetch_of(&self, hash: &str, peer: NodeId, bytes_max: Option<u64>) -> Result<BlobStored, ErrorCode> {
        let fetch = FetchBlob { hash: hash.to_owned(), peer, bytes_max };
        self.server.client().post("/blob/fetch", &fetch).await.map_err(|error| error.code)
    }

    async fn get(&self, hash: &str) -> (u16, Bytes) {
        let (status, body) = self.server.client().exchange(Method::GET, &format!("/blob/{hash}"), None).await.unwrap();
        (status.as_u16(), body)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_goes_from_one_node_to_another_and_out_again() {
    let [a, b] = pair(1 << 30).await;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 253) as u8).collect();
    let put = a.put(bytes.clone()).await;
    assert_eq!((put.hash.as_str(), put.size), (blake3::hash(&bytes).to_hex().as_str(), 3_000_000));
    assert_eq!(b.get(&put.hash).await.0, 404);
    // One that is larger than what is wanted is not begun.
    assert_eq!(b.fetch_of(&put.hash, a.member.node, Some(2_999_999)).await, Err(ErrorCode::TooLarge));
    assert_eq!(std::fs::read_dir(b.root.path().join("blobs")).unwrap().count(), 0);
    assert_eq!(b.fetch(&put.hash, a.member.node).await.unwrap(), put);
    assert_eq!(b.get(&put.hash).await, (200, Bytes::from(bytes)));
    // A second time it is here already, whoever is asked.
    assert_eq!(b.fetch(&put.hash, NodeId::from_bytes([1; 32])).await.unwrap(), put);
    let absent = "00".repeat(32);
    assert_eq!(b.fetch(&absent, a.member.node).await, Err(ErrorCode::NotFound));
    assert!(!b.root.path().join("blobs").join(format!("{absent}.part")).exists());
    assert_eq!(b.fetch("xyz", a.member.node).await, Err(ErrorCode::BadRequest));
    assert_eq!(b.fetch(&absent, NodeId::from_bytes([1; 32])).await, Err(ErrorCode::PeerUnknown));
    assert_eq!(b.get("xyz").await.0, 400);
    for node in [a, b] {
        node.server.stop(LIMIT).await;
        assert!(node.tasks.drain(LIMIT).await.is_graceful());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_gets_no_more_than_its_rate() {
    let [a, b] = pair(1_000_000).await;
    let put = a.put(vec![5; 2_500_000]).await;
    let begin = std::time::Instant::now();
    b.fetch(&put.hash, a.member.node).await.unwrap();
    // One second's worth at once, the rest at the rate.
    assert!(begin.elapsed() > Duration::from_millis(1_300), "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_keeps_its_streams_open_leaves_places_for_others() {
    let nodes = [node(1 << 30).await, node(1 << 30).await, node(1 << 30).await];
    link(&nodes).await;
    let [owner, greedy, other] = &nodes;
    let put = owner.put(vec![5; 100_000]).await;
    let mut held = Vec::new();
    let answers = async |held: &mut Vec<_>| {
        let mut stream = greedy.mesh.connect_stream(owner.member.node, Service::Blobs).await.unwrap();
        let question = [blake3::Hash::from_hex(&put.hash).unwrap().as_bytes(), &[0; 8][..]].concat();
        stream.write_all(&question).await.unwrap();
        stream.flush().await.unwrap();
        let answer = stream.read_u8().await.unwrap();
        held.push(stream);
        answer
    };
    let mut answered = Vec::new();
    for _ in 0..9 {
        answered.push(answers(&mut held).await);
    }
    assert_eq!(answered, [&[FOUND; 2][..], &[BUSY; 7]].concat());
    assert_eq!(other.fetch(&put.hash, owner.member.node).await.unwrap(), put);
    // Its places are free again with its streams.
    held.clear();
    wait_for("a place", LIMIT, async || greedy.fetch(&put.hash, owner.member.node).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_is_cut_goes_on_where_it_ended() {
    let [a, b] = pair(2_000_000).await;
    let bytes: Vec<u8> = (0..6_000_000u32).map(|n| (n % 249) as u8).collect();
    let put = a.put(bytes.clone()).await;
    let part = b.root.path().join("blobs").join(format!("{}.part", put.hash));
    let begun = || std::fs::metadata(&part).map_or(0, |found| found.len());
    // The owner gives two seconds' worth at once and then waits: cut in the middle.
    let (cut, ()) = tokio::join!(b.fetch(&put.hash, a.member.node), async {
        wait_for("a beginning", LIMIT, async || (begun() >= 1 << 20).then_some(())).await;
        assert!(b.mesh.disconnect(&a.member.node));
    });
    assert_eq!(cut, Err(ErrorCode::PeerOffline));
    let has = begun();
    assert!((1 << 20..6_000_000).contains(&has), "{has}");
    wait_for("the link again", LIMIT, async || b.mesh.peers()[0].connected.then_some(())).await;
    // Who wants a smaller one leaves to others what is there of this one.
    assert_eq!(b.fetch_of(&put.hash, a.member.node, Some(1000)).await, Err(ErrorCode::TooLarge));
    assert_eq!(begun(), has / (16 * 1024) * (16 * 1024));
    // What is there is not asked for again: a place that was changed since is noticed at
    // the end, and the next fetch begins anew.
    let file = std::fs::OpenOptions::new().write(true).open(&part).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 8], 1000).unwrap();
    assert_eq!(b.fetch(&put.hash, a.member.node).await, Err(ErrorCode::Conflict));
    assert_eq!(b.fetch(&put.hash, a.member.node).await, Ok(put.clone()));
    assert_eq!(std::fs::read(b.root.path().join("blobs").join(&put.hash)).unwrap(), bytes);
}
