//! The UDP port: bound when somebody else exists, not before.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use osmoda_mesh::InviteSecret;
use osmoda_mesh_protocol::SecretBytes;
use osmoda_types::{ErrorCode, InviteId, Role};

use crate::node::{LIMIT, Start, clock, member, members};

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn is_bound(address: SocketAddr) -> bool {
    UdpSocket::bind(address).is_err()
}

fn invite() -> InviteSecret {
    let expires_ms = clock().now_wall().plus(LIMIT).as_millis();
    InviteSecret { id: InviteId::from_bytes([1; 16]), secret: SecretBytes::new([1; 32]), expires_ms }
}

#[tokio::test]
async fn a_fleet_of_one_binds_no_port_until_it_invites() {
    let listen = free();
    let alone = Start { listen, ..Start::new(1, Role::Voter) }.run();
    // Its own snapshot changes nothing.
    alone.handle.update_members(members(2, vec![alone.member()])).await.unwrap();
    assert!(!is_bound(listen));
    assert_eq!(alone.handle.local_address(), listen);
    alone.handle.open_invite(&invite()).unwrap();
    assert!(is_bound(listen));
    alone.stop().await;
}

#[tokio::test]
async fn a_second_member_binds_the_port_and_links() {
    let listen = free();
    let first = Start { listen, ..Start::new(1, Role::Voter) }.run();
    assert!(!is_bound(listen));
    let second = Start::new(2, Role::Voter).run();
    let all = members(2, vec![first.member(), second.member()]);
    first.handle.update_members(all.clone()).await.unwrap();
    assert!(is_bound(listen));
    second.handle.update_members(all.clone()).await.unwrap();
    first.linked(second.id(), true).await;
    second.linked(first.id(), true).await;
    first.stop().await;
    // With two members in its files it listens from the start.
    let again = Start { listen, members: all, ..Start::new(1, Role::Voter) };
    let again = osmoda_kit::testing::wait_for("the port", LIMIT, async || again.try_run().ok()).await;
    assert!(is_bound(listen));
    again.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_when_it_is_needed_and_used_when_it_is_free() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let first = Start { listen, ..Start::new(1, Role::Voter) }.run();
    assert_eq!(first.handle.open_invite(&invite()).unwrap_err().code(), ErrorCode::PortInUse);
    let second = Start::new(2, Role::Voter).run();
    let all = members(2, vec![member(&first.identity, Role::Voter, vec![listen]), second.member()]);
    assert_eq!(first.handle.update_members(all.clone()).await.unwrap_err().code(), ErrorCode::PortInUse);
    assert_eq!(first.handle.members().index, 2, "the snapshot is in force all the same");
    second.handle.update_members(all).await.unwrap();
    drop(taken);
    // The dialler tries the port again.
    tokio::time::timeout(Duration::from_secs(20), first.linked(second.id(), true)).await.unwrap();
}
