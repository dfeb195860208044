//! A fleet above the size of a full mesh, with the feature `swim`.

use std::time::Duration;

use osmoda_kit::testing::wait_for;
use osmoda_mesh_protocol::Service;
use osmoda_types::Role;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::node::{Node, Start, members};

/// Above 32, and quick to start.
const SIZE: u8 = 34;

/// Finding each other, and noticing a death: twice the bounds of the simulated
/// runs, for 36 endpoints in one process on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

fn alive(node: &Node) -> usize {
    node.handle.peers().iter().filter(|peer| peer.alive).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_fleet_keeps_few_links_knows_who_lives_and_dials_on_demand() {
    let role = |number| if number < 3 { Role::Voter } else { Role::Node };
    let mut nodes: Vec<Node> = (0..SIZE).map(|number| Start::new(number + 1, role(number)).run()).collect();
    let list = members(2, nodes.iter().map(Node::member).collect());
    for node in &nodes {
        node.handle.update_members(list.clone()).await.unwrap();
    }
    let others = usize::from(SIZE) - 1;
    for node in &nodes {
        wait_for("everybody alive", LIMIT, async || (alive(node) == others).then_some(())).await;
    }
    for voter in &nodes[..3] {
        for other in nodes[..3].iter().filter(|other| other.id() != voter.id()) {
            voter.linked(other.id(), true).await;
        }
    }
    // A stream to a member without a link makes one.
    let apart = async || {
        let peers = nodes[9].handle.peers();
        peers.iter().find(|peer| !peer.connected && peer.role == Role::Node).map(|peer| peer.id)
    };
    let other = wait_for("two without a link", LIMIT, apart).await;
    let owner = nodes.iter().find(|node| node.id() == other).unwrap();
    let mut accepted = owner.handle.accept(Service::Messages).unwrap();
    let mut stream = nodes[9].handle.connect_stream(other, Service::Messages).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut incoming = accepted.recv().await.unwrap().stream;
    let mut hello = [0; 5];
    incoming.read_exact(&mut hello).await.unwrap();
    assert!(nodes[9].handle.peers().iter().any(|peer| peer.id == other && peer.connected));
    // It ends when nothing uses it any more.
    drop((stream, incoming));
    let ended = async || nodes[9].handle.peers().iter().any(|peer| peer.id == other && !peer.connected).then_some(());
    wait_for("the end of the link", LIMIT * 2, ended).await;

    // One stops answering; nobody holds it for alive in the end.
    let dead = nodes.remove(20);
    let id = dead.id();
    dead.handle.close().await.unwrap();
    for node in &nodes {
        let gone = async || node.handle.peers().iter().any(|peer| peer.id == id && !peer.alive).then_some(());
        wait_for("the death", LIMIT, gone).await;
    }
    // Whom somebody suspected for a moment is alive again.
    wait_for("the others alive", LIMIT, async || nodes.iter().all(|node| alive(node) == others - 1).then_some(()))
        .await;
}
