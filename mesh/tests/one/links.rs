//! Links: up, one per pair, refused, lost and found again.

use std::time::Duration;

use osmoda_kit::testing::wait_for;
use osmoda_mesh::MeshError;
use osmoda_mesh_protocol::{Member, Service};
use osmoda_types::{ErrorCode, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node::{LIMIT, Node, Start, converged, identity, introduce, member, members};

/// Accepts one stream of a service and echoes it; returns who opened it.
async fn echo_once(node: &Node, service: Service) -> osmoda_mesh::StreamPeer {
    let mut accepted = node.handle.accept(service).unwrap();
    let mut incoming = tokio::time::timeout(LIMIT, accepted.recv()).await.unwrap().unwrap();
    let (mut read, mut write) = tokio::io::split(&mut incoming.stream);
    tokio::io::copy(&mut read, &mut write).await.unwrap();
    write.shutdown().await.unwrap();
    incoming.peer
}

async fn ask(node: &Node, peer: &Node, service: Service) -> Vec<u8> {
    let mut stream = node.handle.connect_stream(peer.id(), service).await.unwrap();
    stream.write_all(b"over the mesh").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

/// Asks once and is answered, whichever link it went over.
async fn answered(from: &Node, to: &Node, service: Service) {
    let (who, answer) = tokio::join!(echo_once(to, service), async { ask(from, to, service).await });
    assert_eq!((who.node, answer), (from.id(), b"over the mesh".to_vec()));
}

#[tokio::test]
async fn two_voters_link_once_and_streams_carry_bytes_and_the_peer() {
    let (a, b) = (Start::new(1, Role::Voter).run(), Start::new(2, Role::Voter).run());
    introduce(2, &[&a, &b]).await;
    converged(&a, &b).await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        let (who, answer) = tokio::join!(echo_once(to, Service::Raft), async {
            // The acceptor is registered by the first poll of the other half.
            ask(from, to, Service::Raft).await
        });
        assert_eq!(answer, b"over the mesh");
        assert_eq!((who.node, who.role, who.service), (from.id(), Role::Voter, Service::Raft));
    }
    let info = &a.handle.peers()[0];
    assert!(info.connected && info.rtt_us.is_some_and(|rtt| rtt > 0) && info.since_ms.is_some());
    let id = a.id();
    a.stop().await;
    b.linked(id, false).await;
    b.stop().await;
}

#[tokio::test]
async fn three_nodes_link_as_their_roles_need() {
    let voter = Start::new(1, Role::Voter).run();
    let (node, other) = (Start::new(2, Role::Node).run(), Start::new(3, Role::Node).run());
    introduce(2, &[&voter, &node, &other]).await;
    voter.linked(node.id(), true).await;
    voter.linked(other.id(), true).await;
    // Rooms are open between two plain nodes, the log is not.
    node.linked(other.id(), true).await;
    let denied = node.handle.connect_stream(other.id(), Service::Fleet).await.unwrap_err();
    assert!(matches!(denied, MeshError::Denied { .. }), "{denied}");
    let denied = node.handle.connect_stream(voter.id(), Service::Raft).await.unwrap_err();
    assert_eq!(denied.code(), ErrorCode::ServiceDenied);
}

#[tokio::test]
async fn a_peer_that_lies_about_its_role_is_refused_by_the_owner() {
    let owner = Start::new(1, Role::Voter).run();
    let liar = Start::new(2, Role::Voter).run();
    let _raft = owner.handle.accept(Service::Raft).unwrap();
    // The owner knows it as a plain node; it believes itself a voter.
    let as_node = member(&liar.identity, Role::Node, vec![]);
    owner.handle.update_members(members(2, vec![owner.member(), as_node])).await.unwrap();
    liar.handle.update_members(members(2, vec![owner.member(), liar.member()])).await.unwrap();
    let refused = liar.handle.connect_stream(owner.id(), Service::Raft).await.unwrap_err();
    assert!(matches!(refused, MeshError::Refused { code: ErrorCode::ServiceDenied, .. }), "{refused}");
}

#[tokio::test]
async fn a_service_nobody_serves_and_a_full_queue_say_so() {
    let (a, b) = (Start::new(1, Role::Voter).run(), Start::new(2, Role::Voter).run());
    introduce(2, &[&a, &b]).await;
    let refused = a.handle.connect_stream(b.id(), Service::Fleet).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::ServiceDenied);
    let _never_read = b.handle.accept(Service::Fleet).unwrap();
    assert!(matches!(b.handle.accept(Service::Fleet), Err(MeshError::Registered(Service::Fleet))));
    let mut streams = Vec::new();
    let busy = loop {
        match a.handle.connect_stream(b.id(), Service::Fleet).await {
            Ok(stream) => streams.push(stream),
            Err(error) => break error,
        }
        assert!(streams.len() < 200, "the queue has no bound");
    };
    assert_eq!(busy.code(), ErrorCode::Busy);
}

#[tokio::test]
async fn hygiene_10_a_key_that_is_not_on_the_list_gets_no_link_from_either_side() {
    let (a, b) = (Start::new(1, Role::Voter).run(), Start::new(2, Role::Voter).run());
    // Only b knows a: its dial passes the knock and fails on a's list.
    b.handle.update_members(members(2, vec![a.member(), b.member()])).await.unwrap();
    let error = b.handle.connect_stream(a.id(), Service::Raft).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::PeerOffline);
    // Now a dials too, but b knows it under another key.
    let impostor = Start::new(9, Role::Voter).run();
    let mut wrong = impostor.member();
    wrong.addresses = vec![a.handle.local_address()];
    b.handle.update_members(members(3, vec![wrong, b.member()])).await.unwrap();
    a.handle.update_members(members(3, vec![a.member(), b.member()])).await.unwrap();
    let error = b.handle.connect_stream(impostor.id(), Service::Raft).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::PeerOffline);
    assert!(!a.handle.peers()[0].connected);
}

#[tokio::test]
async fn another_epoch_secret_gets_no_link() {
    let a = Start::new(1, Role::Voter).run();
    let b = Start { secret: [2; 32], ..Start::new(2, Role::Voter) }.run();
    introduce(2, &[&a, &b]).await;
    let error = b.handle.connect_stream(a.id(), Service::Raft).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::PeerOffline);
}

#[tokio::test]
async fn hygiene_11_removing_a_member_closes_its_link_and_keeps_it_out() {
    let (a, b) = (Start::new(1, Role::Voter).run(), Start::new(2, Role::Voter).run());
    introduce(2, &[&a, &b]).await;
    converged(&a, &b).await;
    let _raft = b.handle.accept(Service::Raft).unwrap();
    let mut stream = a.handle.connect_stream(b.id(), Service::Raft).await.unwrap();
    a.handle.update_members(members(3, vec![a.member()])).await.unwrap();
    assert!(!a.handle.subscribe().borrow().is_up(&b.id()));
    b.linked(a.id(), false).await;
    assert!(stream.read_u8().await.is_err());
    // b dials on and is refused; an older snapshot brings nothing back.
    a.handle.update_members(members(2, vec![a.member(), b.member()])).await.unwrap();
    let error = b.handle.connect_stream(a.id(), Service::Raft).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::PeerOffline);
    assert_eq!(a.handle.connect_stream(b.id(), Service::Raft).await.unwrap_err().code(), ErrorCode::PeerUnknown);
}

#[tokio::test]
async fn a_changed_role_ends_the_streams_that_the_old_one_allowed() {
    let (a, b) = (Start::new(1, Role::Voter).run(), Start::new(2, Role::Voter).run());
    introduce(2, &[&a, &b]).await;
    converged(&a, &b).await;
    let _raft = b.handle.accept(Service::Raft).unwrap();
    let _fleet = b.handle.accept(Service::Fleet).unwrap();
    let mut stream = a.handle.connect_stream(b.id(), Service::Raft).await.unwrap();
    let demoted = member(&a.identity, Role::Node, vec![a.handle.local_address()]);
    let after = members(3, vec![demoted, b.member()]);
    b.handle.update_members(after.clone()).await.unwrap();
    assert!(stream.read_u8().await.is_err());
    a.handle.update_members(after).await.unwrap();
    a.handle.connect_stream(b.id(), Service::Fleet).await.unwrap();
    let error = a.handle.connect_stream(b.id(), Service::Raft).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ServiceDenied);
}

#[tokio::test]
async fn a_peer_that_restarts_on_its_address_is_linked_again() {
    for seeds in [(1, 2), (2, 1)] {
        let (a, b) = (Start::new(seeds.0, Role::Voter).run(), Start::new(seeds.1, Role::Voter).run());
        introduce(2, &[&a, &b]).await;
        converged(&a, &b).await;
        let (listen, known) = (b.handle.local_address(), b.handle.members());
        let id = b.id();
        b.stop().await;
        a.linked(id, false).await;
        let again = Start { listen, members: (*known).clone(), ..Start::new(seeds.1, Role::Voter) };
        // Within one process quinn lets go of the socket a moment after the drain.
        let again = wait_for("the port", LIMIT, async || again.try_run().ok()).await;
        converged(&a, &again).await;
        answered(&a, &again, Service::Raft).await;
    }
}

/// Idle times are a minute, so only a new dial or a stateless reset can bring
/// the link back within the test's limit.
#[tokio::test]
async fn a_peer_that_crashed_is_linked_again_long_before_the_idle_time() {
    let start = |seed, role| Start { idle: Duration::from_secs(60), ..Start::new(seed, role) };
    for (seed, role) in [(1, Role::Voter), (9, Role::Voter), (9, Role::Node)] {
        // A plain node only dials; a crashed voter it was linked to never does.
        let a = start(2, role).run();
        let crashing = tokio::runtime::Runtime::new().unwrap();
        let b = crashing.spawn(async move { start(seed, Role::Voter).run() }).await.unwrap();
        introduce(2, &[&a, &b]).await;
        converged(&a, &b).await;
        let (listen, known) = (b.handle.local_address(), (*b.handle.members()).clone());
        drop(b);
        crashing.shutdown_background();
        let again = Start { listen, members: known, ..start(seed, Role::Voter) };
        let again = wait_for("the port", LIMIT, async || again.try_run().ok()).await;
        converged(&a, &again).await;
        answered(&a, &again, Service::Fleet).await;
    }
}

#[tokio::test]
async fn a_port_in_use_is_said() {
    let a = Start::new(1, Role::Voter).run();
    let second = Start::new(2, Role::Voter);
    let both = members(1, vec![a.member(), second.members.members[0].clone()]);
    let taken = Start { listen: a.handle.local_address(), members: both, ..second };
    assert_eq!(taken.try_run().err().map(|error| error.code()), Some(ErrorCode::PortInUse));
}

#[tokio::test]
async fn a_list_that_the_disk_does_not_take_puts_out_who_left_and_old_keys_only() {
    let [a, b, c] = [1, 2, 3].map(|seed| Start::new(seed, Role::Voter).run());
    introduce(2, &[&a, &b, &c]).await;
    for peer in [&b, &c] {
        a.linked(peer.id(), true).await;
    }
    let before = a.handle.members();
    let with_keys_of = |node: &Node, seed| {
        let keys = identity(seed);
        Member { mesh_key: keys.mesh_key(), identity_key: keys.identity_key(), ..node.member() }
    };
    let [own, other] = [with_keys_of(&a, 8), with_keys_of(&b, 9)];
    a.handle.put_out(&members(1, vec![])).await.unwrap();
    assert_eq!(a.handle.members(), before, "an older one says nothing");
    a.handle.put_out(&members(3, vec![own.clone(), other.clone()])).await.unwrap();
    a.linked(c.id(), false).await;
    let now = a.handle.members();
    assert_eq!((now.index, now.members.len()), (2, 2));
    assert_eq!([now.by_node(&a.id()), now.by_node(&b.id())], [Some(&own), Some(&other)]);
    assert_eq!(a.handle.local_role(), Some(Role::Voter));
    // An older one that comes late does not bring them back, whatever the disk says by then.
    let late = members(2, vec![a.member(), b.member(), c.member()]);
    a.handle.put_out(&late).await.unwrap();
    assert_eq!(a.handle.members(), now);
    a.handle.update_members(late).await.unwrap();
    assert_eq!(a.handle.members(), now);
    // Nor is this node out when it is in no list any more: that is for the others.
    a.handle.put_out(&members(4, vec![other.clone()])).await.unwrap();
    assert_eq!(a.handle.members().by_node(&a.id()), Some(&own));
    // The newest is news when it comes again.
    let newest = members(4, vec![own, other]);
    a.handle.update_members(newest.clone()).await.unwrap();
    assert_eq!(*a.handle.members(), newest);
    for node in [a, b, c] {
        node.stop().await;
    }
}
