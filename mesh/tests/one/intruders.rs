//! Peers that hold something valid and want more: a compromised member of each
//! role, a member in another's place, a revoked member among five.

use std::{net::UdpSocket, time::Instant};

use osmoda_mesh_crypto::{Mode, Psk};
use osmoda_mesh_protocol::{Answer, Preamble, Service};
use osmoda_types::{ErrorCode, MeshEpoch, Role};

use crate::{
    node::{NETWORK, Node, Start, epoch, identity, member, members},
    raw::{self, Claim},
};

/// What a hand-made member hears when it asks for a service by name.
async fn asked(link: &quinn::Connection, preamble: &[u8]) -> Option<Answer> {
    let (mut send, mut recv) = link.open_bi().await.ok()?;
    send.write_all(preamble).await.ok()?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 64];
    loop {
        match recv.read(&mut chunk).await {
            Ok(Some(length)) => bytes.extend_from_slice(&chunk[..length]),
            _ => return Answer::decode(&bytes).ok().flatten().map(|(answer, _)| answer),
        }
        if let Ok(Some((answer, _))) = Answer::decode(&bytes) {
            return Some(answer);
        }
    }
}

#[tokio::test]
async fn a_compromised_peer_of_each_role_reaches_only_its_row_of_the_table() {
    let mut refused = 0;
    for owner in Role::ALL {
        for attacker in Role::ALL {
            let node = Start::new(1, owner).run();
            let thief = identity(2);
            let listed = member(&thief, attacker, vec![]);
            node.handle.update_members(members(2, vec![node.member(), listed])).await.unwrap();
            // Everything is served, so that only the table stands in the way.
            let _served: Vec<_> =
                Service::ALL.into_iter().map(|service| node.handle.accept(service).unwrap()).collect();
            let endpoint = raw::endpoint(None);
            let link = raw::dial(&endpoint, Claim::member(2), node.handle.local_address()).await.unwrap();
            link.accept_uni().await.unwrap();
            for service in Service::ALL {
                let answer = asked(&link, &Preamble { service }.encode()).await.unwrap();
                let expected = match service.allows(attacker, owner) {
                    true => Answer::Accepted,
                    false => Answer::Refused(ErrorCode::ServiceDenied),
                };
                assert_eq!(answer, expected, "{attacker} -{service}-> {owner}");
                refused += u32::from(answer != Answer::Accepted);
            }
            // A service of no table, a newer version and an endless name.
            for bad in [&b"\x01\x05admin"[..], b"\x02\x04raft", b"\x01\xff"] {
                assert!(!matches!(asked(&link, bad).await, Some(Answer::Accepted)), "{bad:?}");
            }
        }
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn a_member_cannot_answer_in_the_place_of_another() {
    // b is an honest member; c is told that a lives at b's address.
    let (b, c) = (Start::new(2, Role::Voter).run(), Start::new(3, Role::Voter).run());
    let a = member(&identity(1), Role::Voter, vec![b.handle.local_address()]);
    let b_only_dials = member(&b.identity, Role::Voter, vec![]);
    let all = members(2, vec![a.clone(), b_only_dials, c.member()]);
    // b admits c as it would any member, so only c can tell; b dials nobody.
    let c_only_dials = member(&c.identity, Role::Voter, vec![]);
    b.handle.update_members(members(2, vec![b.member(), c_only_dials])).await.unwrap();
    c.handle.update_members(all).await.unwrap();
    let error = c.handle.connect_stream(a.node, Service::Raft).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::PeerOffline);
    assert!(!c.handle.subscribe().borrow().is_up(&a.node));
}

/// A whole fleet that removes one of its five.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hygiene_11_a_revoked_member_loses_every_link_at_once_and_no_secret_brings_it_back() {
    let nodes: Vec<Node> = (1..=5).map(|seed| Start::new(seed, Role::Voter).run()).collect();
    crate::node::introduce(2, &nodes.iter().collect::<Vec<_>>()).await;
    for (at, node) in nodes.iter().enumerate() {
        for peer in nodes.iter().skip(at + 1) {
            crate::node::converged(node, peer).await;
        }
    }
    let (revoked, rest) = nodes.split_last().unwrap();
    let left = members(3, rest.iter().map(Node::member).collect());
    let begin = Instant::now();
    for node in rest {
        node.handle.update_members(left.clone()).await.unwrap();
        assert!(!node.handle.subscribe().borrow().is_up(&revoked.id()));
    }
    for node in rest {
        revoked.linked(node.id(), false).await;
    }
    // It was told: a link that nobody ends lasts for the idle time.
    let idle = Start::new(1, Role::Voter).idle;
    assert!(begin.elapsed() < idle, "{:?}", begin.elapsed());

    // It knows the old secret and steals the new one: neither opens a link.
    for node in rest {
        node.handle.install_epoch(epoch(2, [2; 32])).await.unwrap();
    }
    let endpoint = raw::endpoint(None);
    for node in rest {
        for (number, secret) in [(1, [1; 32]), (2, [2; 32])] {
            let psk = Psk::mesh(&NETWORK, MeshEpoch(number), &secret);
            let claim = Claim { psk, mode: Mode::Mesh(MeshEpoch(number)), ..Claim::member(5) };
            if let Ok(link) = raw::dial(&endpoint, claim, node.handle.local_address()).await {
                // The listener judges the third message after the dialler is through.
                raw::closed(&link).await;
            }
            assert!(!node.handle.subscribe().borrow().is_up(&revoked.id()));
        }
    }
    assert!(revoked.handle.peers().iter().all(|peer| !peer.connected));
}

#[tokio::test]
async fn a_peer_that_comes_back_elsewhere_is_linked_without_a_new_invite() {
    let (a, b) = (Start::new(1, Role::Voter).run(), Start::new(2, Role::Voter).run());
    crate::node::introduce(2, &[&a, &b]).await;
    crate::node::converged(&a, &b).await;
    let (known, old) = ((*b.handle.members()).clone(), b.handle.local_address());
    b.stop().await;
    // Its old port is somebody else's now; nobody was told of the new one.
    let _taken =
        osmoda_kit::testing::wait_for("the port", crate::node::LIMIT, async || UdpSocket::bind(old).ok()).await;
    let again = Start { members: known, ..Start::new(2, Role::Voter) }.run();
    a.linked(again.id(), true).await;
    assert_ne!(again.handle.local_address(), old);
    let shown = a.handle.peers()[0].address;
    assert_eq!(shown, Some(again.handle.local_address()));
}
