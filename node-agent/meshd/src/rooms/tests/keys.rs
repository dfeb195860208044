//! Rooms of nodes that change their keys.

use osmoda_kit::testing::wait_for;
use osmoda_node_api::rooms::JoinRule;
use osmoda_types::Role;

use super::world::{LIMIT, Node, introduce, same};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_goes_on_when_its_creator_and_its_members_change_their_keys() {
    let [mut a, mut b, c] = [Node::new(Role::Voter).await, Node::new(Role::Node).await, Node::new(Role::Node).await];
    introduce(2, &[&a, &b, &c]).await;
    let room = a.create(&[&b], JoinRule::Added).await;
    wait_for("the record", LIMIT, async || b.rooms.show(room, 0).await.ok()).await;
    for node in [&a, &b] {
        node.rooms.send(room, "before".to_owned()).await.unwrap();
    }
    same(room, &[&a, &b], 2).await;
    a.rotate().await;
    b.rotate().await;
    introduce(3, &[&a, &b, &c]).await;
    for node in [&a, &b] {
        let sent = node.rooms.send(room, "after".to_owned()).await.unwrap();
        assert_eq!(sent.author_seq, 2, "the same author goes on");
    }
    same(room, &[&a, &b], 4).await;
    // Its creator alone takes somebody in, under the key that made it.
    a.rooms.join(room, Some(c.id())).await.unwrap();
    wait_for("the record", LIMIT, async || c.rooms.show(room, 0).await.ok()).await;
    c.rooms.send(room, "new here".to_owned()).await.unwrap();
    same(room, &[&a, &b, &c], 5).await;
    let a = a.restart().await;
    introduce(4, &[&a, &b, &c]).await;
    a.rooms.send(room, "after a restart".to_owned()).await.unwrap();
    same(room, &[&a, &b, &c], 6).await;
    let shown = c.rooms.show(room, 6).await.unwrap();
    assert!(shown.messages.iter().all(|message| !message.forked));
    assert_eq!(shown.messages.iter().filter(|message| message.from == a.id()).count(), 3);
    // A room made now is one of the new key.
    let other = b.create(&[&a, &c], JoinRule::Added).await;
    wait_for("the record", LIMIT, async || c.rooms.show(other, 0).await.ok()).await;
    c.rooms.send(other, "hello".to_owned()).await.unwrap();
    same(other, &[&a, &b, &c], 1).await;
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_stays_when_its_author_comes_back_with_other_keys() {
    let [a, mut b] = [Node::new(Role::Voter).await, Node::new(Role::Node).await];
    introduce(2, &[&a, &b]).await;
    let room = a.create(&[&b], JoinRule::Added).await;
    wait_for("the record", LIMIT, async || b.rooms.show(room, 0).await.ok()).await;
    b.rooms.send(room, "before".to_owned()).await.unwrap();
    same(room, &[&a, &b], 1).await;
    b.rooms.leave(room, None).await.unwrap();
    b.rotate().await;
    introduce(3, &[&a, &b]).await;
    a.rooms.join(room, Some(b.id())).await.unwrap();
    wait_for("the record", LIMIT, async || b.rooms.show(room, 0).await.ok()).await;
    let sent = b.rooms.send(room, "after".to_owned()).await.unwrap();
    assert_eq!(sent.author_seq, 1, "another key begins anew");
    same(room, &[&a, &b], 2).await;
    let shown = a.rooms.show(room, 2).await.unwrap();
    assert_eq!(shown.members.len(), 2);
    assert!(shown.messages.iter().all(|message| message.from == b.id() && !message.forked));
    for node in [a, b] {
        node.stop().await;
    }
}
