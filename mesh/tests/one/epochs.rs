//! Membership at work: epochs that follow each other, members that come back,
//! members that are removed.

use std::{sync::Arc, time::Duration};

use osmoda_kit::{clock::SharedClock, testing::FakeClock};
use osmoda_mesh::{Event, MeshError, RejoinSecret};
use osmoda_mesh_protocol::{SecretBytes, Service};
use osmoda_types::{ErrorCode, MeshEpoch, Role};

use crate::node::{Node, Start, converged, epoch, introduce, members};

const MINUTE: Duration = Duration::from_secs(60);

fn start_at(seed: u8, clock: &FakeClock) -> Start {
    let clock: SharedClock = Arc::new(clock.clone());
    Start { clock, ..Start::new(seed, Role::Voter) }
}

async fn offline(from: &Node, to: &Node) {
    let error = from.handle.connect_stream(to.id(), Service::Fleet).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::PeerOffline);
}

#[tokio::test]
async fn an_epoch_change_keeps_links_and_the_old_secret_ends_after_its_time() {
    let clock = FakeClock::new();
    let (a, b) = (start_at(1, &clock).run(), start_at(2, &clock).run());
    introduce(2, &[&a, &b]).await;
    converged(&a, &b).await;
    assert!(a.handle.install_epoch(epoch(2, [2; 32])).await.unwrap());
    assert!(!a.handle.install_epoch(epoch(2, [2; 32])).await.unwrap());
    let other = a.handle.install_epoch(epoch(2, [9; 32])).await.unwrap_err();
    assert!(matches!(other, MeshError::OtherSecret(MeshEpoch(2))));
    assert_eq!(a.handle.epochs(), [MeshEpoch(2), MeshEpoch(1)]);
    assert!(a.handle.subscribe().borrow().is_up(&b.id()));

    // c knows the old secret only: it still gets in, and is counted.
    let c = start_at(3, &clock).run();
    let all = members(3, vec![a.member(), b.member(), c.member()]);
    a.handle.update_members(all.clone()).await.unwrap();
    c.handle.update_members(all).await.unwrap();
    c.linked(a.id(), true).await;
    let old: u64 = [&a, &c].iter().map(|node| node.handle.count(Event::OldEpochAccepted)).sum();
    assert!(old >= 1 || c.handle.peers().iter().any(|peer| peer.epoch == Some(MeshEpoch(1))));

    // Ten minutes later the old secret opens nothing.
    clock.advance(10 * MINUTE);
    assert_eq!(a.handle.epochs(), [MeshEpoch(2)]);
    let d = start_at(4, &clock).run();
    d.handle.update_members(members(4, vec![a.member(), d.member()])).await.unwrap();
    offline(&d, &a).await;
    // With the new one it is in.
    a.handle.update_members(members(4, vec![a.member(), b.member(), c.member(), d.member()])).await.unwrap();
    d.handle.install_epoch(epoch(2, [2; 32])).await.unwrap();
    d.linked(a.id(), true).await;
    assert_eq!(d.handle.peers()[0].epoch, Some(MeshEpoch(2)));
}

#[tokio::test]
async fn sessions_under_the_old_epoch_are_counted_by_the_one_that_accepts() {
    let (a, b) = (Start::new(1, Role::Voter).run(), Start::new(2, Role::Node).run());
    a.handle.install_epoch(epoch(2, [2; 32])).await.unwrap();
    // A plain node only dials, so a is the one that accepts.
    introduce(2, &[&a, &b]).await;
    a.linked(b.id(), true).await;
    let counted = osmoda_kit::testing::wait_for("the count", crate::node::LIMIT, async || {
        let count = a.handle.count(Event::OldEpochAccepted);
        (count > 0).then_some(count)
    });
    assert_eq!(counted.await, 1);
    assert_eq!(a.handle.peers()[0].epoch, Some(MeshEpoch(1)));
}

#[tokio::test]
async fn a_member_that_was_away_comes_back_by_its_own_secret_until_it_is_revoked() {
    let own = SecretBytes::new([5; 32]);
    let voter = Start { secret: [3; 32], ..Start::new(1, Role::Voter) }.run();
    let away = Start { rejoin: Some(own.clone()), ..Start::new(2, Role::Node) }.run();
    let all = members(2, vec![voter.member(), away.member()]);
    voter.handle.update_members(all.clone()).await.unwrap();
    away.handle.update_members(all).await.unwrap();
    // The secret is not held yet, or is another one: silence.
    let other = RejoinSecret { node: away.id(), secret: SecretBytes::new([6; 32]) };
    voter.handle.set_rejoin_secrets(&[other]);
    offline(&away, &voter).await;

    let held = RejoinSecret { node: away.id(), secret: own };
    voter.handle.set_rejoin_secrets(&[held]);
    away.linked(voter.id(), true).await;
    assert!(voter.handle.count(Event::RejoinAccepted) >= 1);
    let _fleet = voter.handle.accept(Service::Fleet).unwrap();
    away.handle.connect_stream(voter.id(), Service::Fleet).await.unwrap();

    // Revoked: the secret may even be left over, the list decides.
    voter.handle.update_members(members(3, vec![voter.member()])).await.unwrap();
    away.linked(voter.id(), false).await;
    offline(&away, &voter).await;
}

#[tokio::test]
async fn one_members_own_secret_does_not_let_another_in() {
    let voter = Start { secret: [3; 32], ..Start::new(1, Role::Voter) }.run();
    let thief = Start { rejoin: Some(SecretBytes::new([5; 32])), ..Start::new(2, Role::Node) }.run();
    let victim = Start::new(3, Role::Node).run();
    let all = members(2, vec![voter.member(), thief.member(), victim.member()]);
    for node in [&voter, &thief] {
        node.handle.update_members(all.clone()).await.unwrap();
    }
    voter.handle.set_rejoin_secrets(&[RejoinSecret { node: victim.id(), secret: SecretBytes::new([5; 32]) }]);
    offline(&thief, &voter).await;
    assert_eq!(voter.handle.count(Event::RejoinAccepted), 0);
}
