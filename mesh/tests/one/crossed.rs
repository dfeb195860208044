//! Two links between the same two nodes: the one that gives way is drained.

use std::net::SocketAddr;
use std::time::Duration;

use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_kit::testing::wait_for;
use osmoda_mesh::{Event, IncomingStream, MeshStream};
use osmoda_mesh_protocol::{Answer, CLOSE_DUPLICATE, Preamble, Service};
use osmoda_types::Role;
use quinn::{Connection, ConnectionError, ReadError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::sync::watch;

use crate::node::{LIMIT, Node, Start, member, members};
use crate::raw::{Claim, closed, dial, endpoint};

/// A road to one node that holds what it is given until it is let go.
struct Gate {
    address: SocketAddr,
    open: watch::Sender<bool>,
    held: watch::Receiver<usize>,
    _tasks: Tasks,
}

impl Gate {
    async fn to(node: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let ((open, mut opened), (count, held)) = (watch::channel(false), watch::channel(0));
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn(TaskKind::BACKGROUND, "gate", async move {
            let (mut dialler, mut kept, mut packet) = (None, Vec::new(), [0; 2048]);
            loop {
                tokio::select! {
                    // Safe to drop: a datagram is received whole or not at all.
                    received = socket.recv_from(&mut packet) => {
                        let (length, from) = received.unwrap();
                        let packet = packet[..length].to_vec();
                        if from == node {
                            socket.send_to(&packet, dialler.expect("the node answers")).await.unwrap();
                            continue;
                        }
                        dialler = Some(from);
                        kept.push(packet);
                    }
                    // Safe to drop: the newest value stays.
                    changed = opened.changed() => if changed.is_err() { return },
                }
                if *opened.borrow() {
                    for packet in kept.drain(..) {
                        socket.send_to(&packet, node).await.unwrap();
                    }
                }
                count.send_replace(kept.len());
            }
        });
        Self { address, open, held, _tasks: tasks }
    }
}

/// A stream with both of its ends.
struct Both {
    near: MeshStream,
    far: IncomingStream,
}

impl Both {
    async fn open(from: &Node, to: &Node, service: Service) -> Self {
        let mut accepted = to.handle.accept(service).unwrap();
        let near = from.handle.connect_stream(to.id(), service).await.unwrap();
        Self { near, far: accepted.recv().await.unwrap() }
    }

    /// Carries words both ways; nothing is tried twice.
    async fn carries(&mut self, words: &[u8; 5]) {
        let (near, far, mut heard) = (&mut self.near, &mut self.far.stream, [0; 5]);
        near.write_all(words).await.unwrap();
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, words);
        far.write_all(words).await.unwrap();
        near.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, words);
    }
}

async fn linked_at(node: &Node, peer: &Node, address: SocketAddr) {
    wait_for("a link at this address", LIMIT, async || {
        let peers = node.handle.peers();
        peers.iter().any(|info| info.id == peer.id() && info.connected && info.address == Some(address)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn streams_on_the_link_that_loses_the_tie_break_run_to_their_end() {
    let mut pair = [Start::new(1, Role::Voter).run(), Start::new(2, Role::Voter).run()];
    pair.sort_by_key(Node::id);
    let [smaller, larger] = pair;
    let gate = Gate::to(larger.handle.local_address()).await;
    // The smaller id has begun to dial; its packets are on their way.
    let behind = member(&larger.identity, larger.role, vec![gate.address]);
    smaller.handle.update_members(members(2, vec![smaller.member(), behind])).await.unwrap();
    gate.held.clone().wait_for(|held| *held > 0).await.unwrap();
    // So the link of the larger one comes up first, and is used.
    larger.handle.update_members(members(2, vec![smaller.member(), larger.member()])).await.unwrap();
    linked_at(&smaller, &larger, larger.handle.local_address()).await;
    let mut there = Both::open(&smaller, &larger, Service::Raft).await;
    let mut back = Both::open(&larger, &smaller, Service::Fleet).await;
    there.carries(b"first").await;

    gate.open.send_replace(true);
    linked_at(&smaller, &larger, gate.address).await;
    linked_at(&larger, &smaller, gate.address).await;
    there.carries(b"again").await;
    back.carries(b"again").await;
    let mut later = Both::open(&larger, &smaller, Service::Raft).await;
    later.carries(b"later").await;
    for node in [&smaller, &larger] {
        assert_eq!(node.handle.count(Event::LinksCrossed), 1);
    }
    // To its very end.
    there.near.shutdown().await.unwrap();
    let mut rest = Vec::new();
    there.far.stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

async fn asks(connection: &Connection, service: Service) -> Result<Option<Answer>, ReadError> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    // May be given back while it is being written.
    if send.write_all(&Preamble { service }.encode()).await.is_err() {
        return Err(ReadError::Reset(2_u32.into()));
    }
    let mut byte = [0];
    let read = recv.read(&mut byte).await?;
    Ok(read.and_then(|_| Answer::decode(&byte).unwrap()).map(|(answer, _)| answer))
}

#[tokio::test]
async fn a_drained_link_takes_no_new_stream_and_ends_when_it_is_quiet() {
    let quick = |tuning: &mut osmoda_mesh::Tuning| tuning.drain_quiet = Duration::from_millis(100);
    let owner = Start { adjust: quick, ..Start::new(1, Role::Voter) }.run();
    let peer = crate::node::identity(9);
    let list = vec![owner.member(), member(&peer, Role::Voter, vec![])];
    owner.handle.update_members(members(2, list)).await.unwrap();
    let mut accepted = owner.handle.accept(Service::Raft).unwrap();
    let endpoint = endpoint(Some(&peer));
    let to = owner.handle.local_address();

    let first = dial(&endpoint, Claim::member(9), to).await.unwrap();
    assert_eq!(asks(&first, Service::Raft).await, Ok(Some(Answer::Accepted)));
    let running = accepted.recv().await.unwrap();
    let renewing = Claim { hello: br#"{"version":1,"incarnation":7,"renews":true}"#.to_vec(), ..Claim::member(9) };
    let second = dial(&endpoint, renewing, to).await.unwrap();
    assert_eq!(asks(&second, Service::Raft).await, Ok(Some(Answer::Accepted)));

    assert_eq!(asks(&first, Service::Raft).await, Err(ReadError::Reset(2_u32.into())));
    assert_eq!(first.close_reason(), None, "a stream runs on it");
    drop(running);
    let ConnectionError::ApplicationClosed(close) = closed(&first).await else { panic!("not closed by its owner") };
    assert_eq!(close.error_code, CLOSE_DUPLICATE.into());
    assert_eq!(asks(&second, Service::Raft).await, Ok(Some(Answer::Accepted)));
}
