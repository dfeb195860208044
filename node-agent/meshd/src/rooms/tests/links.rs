//! Several nodes: pushes, partitions, membership, restarts.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use osmoda_kit::testing::wait_for;
use osmoda_mesh_rooms::limits::ROOMS_PER_CREATOR_MAX;
use osmoda_mesh_rooms::{Blob, Body, Frame, Hlc, Join, Member, Message, Record, Refusal, Retention, RoomId, Verdict};
use osmoda_node_api::mesh::Service;
use osmoda_node_api::rooms::{CreateRoom, JoinRule};
use osmoda_types::{ErrorCode, Role};
use tokio::io::split;

use super::world::{LIMIT, Node, introduce, same};
use crate::rooms::command::Command;
use crate::rooms::wire::{FrameReader, send, send_bytes};

pub(super) const TIME: Duration = Duration::from_secs(5);

/// What a peer answers to one or two frames on a stream of its own.
pub(super) async fn exchange(from: &Node, to: &Node, frames: &[Frame]) -> Frame {
    answered(from, to, frames).await.unwrap()
}

/// The same; an error when it ends the stream instead.
async fn answered(from: &Node, to: &Node, frames: &[Frame]) -> std::io::Result<Frame> {
    let stream = from.mesh.connect_stream(to.id(), Service::Rooms).await.unwrap();
    let (read, mut write) = split(stream);
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.encode().unwrap()).collect();
    send_bytes(&mut write, &bytes, TIME, &Default::default()).await?;
    FrameReader::new(read).within(TIME).await
}

pub(super) fn text(node: &Node, room: RoomId, text: &str) -> osmoda_mesh_rooms::Verified {
    let wall_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let message = Message {
        room,
        author: node.identity.identity_key(),
        seq: 1,
        prev: None,
        parents: vec![],
        hlc: Hlc::at(wall_ms as u64),
        body: Body::Text(text.to_owned()),
    };
    message.sign(|bytes| node.identity.sign(bytes)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_read_the_same_and_every_delivery_is_confirmed() {
    let nodes = [Node::new(Role::Voter).await, Node::new(Role::Node).await, Node::new(Role::RoomGuest).await];
    let [a, b, c] = &nodes;
    introduce(2, &[a, b, c]).await;
    let room = a.create(&[b, c], JoinRule::Added).await;
    wait_for("the record", LIMIT, async || c.rooms.show(room, 0).await.ok()).await;
    wait_for("the record", LIMIT, async || b.rooms.show(room, 0).await.ok()).await;
    for node in &nodes {
        for n in 0..20 {
            let sent = node.rooms.send(room, format!("{n} from {}", node.id().short())).await.unwrap();
            assert_eq!((sent.delivered_to, sent.author_seq), (2, n + 1));
        }
    }
    same(room, &[a, b, c], 60).await;
    let shown = b.rooms.show(room, 60).await.unwrap();
    assert!(shown.messages.iter().all(|message| message.untrusted && !message.forked));
    assert_eq!(shown.messages.iter().map(|message| message.seq).collect::<Vec<_>>(), (1..=60).collect::<Vec<_>>());
    assert_eq!(shown.messages.iter().filter(|message| message.from == c.id()).count(), 20);
    wait_for("confirmations", LIMIT, async || {
        let deliveries = c.rooms.delivery(room).await.unwrap();
        let done = deliveries.members.iter().all(|member| member.connected && member.pending == 0);
        (done && deliveries.author_seq == 20 && deliveries.members.len() == 2).then_some(())
    })
    .await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_heals_and_a_restarted_node_goes_on() {
    let nodes = [Node::new(Role::Voter).await, Node::new(Role::Voter).await, Node::new(Role::Node).await];
    let [a, b, c] = nodes;
    introduce(2, &[&a, &b, &c]).await;
    let room = a.create(&[&b, &c], JoinRule::Added).await;
    for node in [&b, &c] {
        wait_for("the record", LIMIT, async || node.rooms.show(room, 0).await.ok()).await;
        node.rooms.send(room, "before".to_owned()).await.unwrap();
    }
    same(room, &[&a, &b, &c], 2).await;
    introduce(3, &[&a, &b]).await;
    introduce(3, &[&c]).await;
    // Its rooms hear of the end of its links a moment later.
    wait_for("no links", LIMIT, async || c.links().await.is_empty().then_some(())).await;
    for n in 0..50 {
        a.rooms.send(room, format!("left {n}")).await.unwrap();
        let alone = c.rooms.send(room, format!("right {n}")).await.unwrap();
        assert_eq!(alone.delivered_to, 0);
    }
    // The one that is alone is restarted before the halves meet.
    let c = c.restart().await;
    let sent = c.rooms.send(room, "after the restart".to_owned()).await.unwrap();
    assert_eq!(sent.author_seq, 52);
    introduce(4, &[&a, &b, &c]).await;
    same(room, &[&a, &b, &c], 2 + 50 + 51).await;
    let late = a.rooms.show(room, 200).await.unwrap().messages;
    assert!(late.iter().any(|message| message.late) && late.iter().all(|message| !message.forked));
    let ids: std::collections::BTreeSet<_> = a.ids(room).await.into_iter().collect();
    assert_eq!(ids.len(), 2 + 50 + 51);
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_in_the_record_neither_reads_nor_writes() {
    let [a, b, stranger] = [Node::new(Role::Voter).await, Node::new(Role::Node).await, Node::new(Role::Node).await];
    introduce(2, &[&a, &b, &stranger]).await;
    let room = a.create(&[&b], JoinRule::Added).await;
    wait_for("the record", LIMIT, async || b.rooms.show(room, 0).await.ok()).await;
    a.rooms.send(room, "for b".to_owned()).await.unwrap();
    same(room, &[&a, &b], 1).await;
    assert_eq!(stranger.rooms.show(room, 1).await.unwrap_err().code, ErrorCode::NotFound);
    let sync = Frame::Sync { room, revision: 9, horizon_ms: 0, fingerprint: [0; 32] };
    let no_room = Frame::Sync { room: RoomId::from_bytes([9; 16]), revision: 1, horizon_ms: 0, fingerprint: [0; 32] };
    for question in [sync, no_room, Frame::Join { room, node: stranger.id().into() }] {
        assert_eq!(exchange(&stranger, &a, &[question]).await, Frame::Refused(Refusal::NotFound));
    }
    let post = text(&stranger, room, "let me in");
    let pushed = [Frame::Push, Frame::Post(Blob(post.wire().to_vec()))];
    assert_eq!(exchange(&stranger, &b, &pushed).await, Frame::Ack { id: post.id(), verdict: Verdict::Refused });
    // Nor may somebody hand in a member's message with a false signature: that ends
    // the stream, and what comes after it is not looked at.
    let mut forged = text(&b, room, "x").wire().to_vec();
    forged[3] ^= 1;
    let good = text(&b, room, "y");
    let first = [Frame::Post(Blob(forged)), Frame::Post(Blob(vec![7; 200])), Frame::Record(Blob(vec![7; 200]))];
    for wrong in first {
        let frames = [Frame::Push, wrong, Frame::Post(Blob(good.wire().to_vec()))];
        assert!(answered(&b, &a, &frames).await.is_err());
        assert_eq!(a.ids(room).await.len(), 1);
    }

    // In, out, and nothing of what was said afterwards.
    b.rooms.join(room, Some(stranger.id())).await.unwrap();
    wait_for("the record", LIMIT, async || stranger.rooms.show(room, 0).await.ok()).await;
    same(room, &[&a, &b, &stranger], 1).await;
    assert!(b.rooms.leave(room, Some(stranger.id())).await.is_err(), "only the creator takes others out");
    a.rooms.leave(room, Some(stranger.id())).await.unwrap();
    wait_for("the end", LIMIT, async || stranger.rooms.show(room, 0).await.err()).await;
    a.rooms.send(room, "among us".to_owned()).await.unwrap();
    same(room, &[&a, &b], 2).await;
    let late = text(&stranger, room, "still here");
    let pushed = [Frame::Push, Frame::Post(Blob(late.wire().to_vec()))];
    assert_eq!(exchange(&stranger, &b, &pushed).await, Frame::Ack { id: late.id(), verdict: Verdict::Refused });
    for node in [a, b, stranger] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_for_the_fleet_is_joined_by_asking_and_guests_make_no_rooms_here() {
    let [a, b, guest] = [Node::new(Role::Voter).await, Node::new(Role::Node).await, Node::new(Role::RoomGuest).await];
    introduce(2, &[&a, &b, &guest]).await;
    let room = a.create(&[], JoinRule::Fleet).await;
    a.rooms.send(room, "welcome".to_owned()).await.unwrap();
    assert_eq!(guest.rooms.join(room, None).await.unwrap_err().code, ErrorCode::NotFound);
    let joined = b.rooms.join(room, None).await.unwrap();
    assert!(joined.members.contains(&b.id()) && joined.creator == a.id());
    same(room, &[&a, &b], 1).await;
    assert_eq!(b.rooms.send(room, "hello".to_owned()).await.unwrap().author_seq, 1);
    same(room, &[&a, &b], 2).await;
    b.rooms.leave(room, None).await.unwrap();
    wait_for("the end", LIMIT, async || b.rooms.show(room, 0).await.err()).await;
    // Back again it goes on counting, and reads what was said before.
    b.rooms.join(room, None).await.unwrap();
    assert_eq!(b.rooms.send(room, "back".to_owned()).await.unwrap().author_seq, 2);
    same(room, &[&a, &b], 3).await;
    assert!(a.rooms.show(room, 9).await.unwrap().messages.iter().all(|message| !message.forked));
    b.rooms.leave(room, None).await.unwrap();
    assert_eq!(a.rooms.leave(room, None).await.unwrap_err().code, ErrorCode::Conflict);

    let key = guest.identity.identity_key();
    let record = Record {
        creator: key,
        nonce: [1; 16],
        name: "trap".to_owned(),
        created_ms: 1,
        revision: 1,
        join: Join::Added,
        retention: Retention::default(),
        members: vec![
            Member { node: guest.id(), key, left: None },
            Member { node: b.id(), key: b.identity.identity_key(), left: None },
        ],
    };
    let signed = record.sign(|bytes| guest.identity.sign(bytes)).unwrap();
    let post = text(&guest, signed.id(), "hello");
    let frames = [Frame::Push, Frame::Record(Blob(signed.wire().to_vec())), Frame::Post(Blob(post.wire().to_vec()))];
    assert_eq!(exchange(&guest, &b, &frames).await, Frame::Ack { id: post.id(), verdict: Verdict::Refused });
    assert!(b.rooms.list().await.unwrap().is_empty());
    for node in [a, b, guest] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_is_joined_whatever_others_answer_than_who_made_it() {
    let [one, two, b] = [Node::new(Role::Voter).await, Node::new(Role::Voter).await, Node::new(Role::Node).await];
    // They are asked in the order of their ids.
    let [m, a] = if one.id() < two.id() { [one, two] } else { [two, one] };
    introduce(2, &[&m, &a, &b]).await;
    let room = a.create(&[&m], JoinRule::Fleet).await;
    let signed = async |node: &Node, room| {
        node.rooms.cx.ask(|reply| Command::Show { room, limit: 0, reply }).await.unwrap().unwrap().0.signed
    };
    let known = m.create(&[&b], JoinRule::Added).await;
    wait_for("the record", LIMIT, async || b.rooms.show(known, 0).await.ok()).await;
    // Two of other rooms that name who asks, one of them new there; and one of this room
    // that does not name it.
    let known = signed(&m, known).await;
    let new = Record { nonce: [1; 16], ..known.record().clone() }.sign(|bytes| m.identity.sign(bytes)).unwrap();
    let answers = [known, new, signed(&a, room).await];
    let mut asked = m.stop_rooms().await;
    for signed in answers {
        let answer = async {
            loop {
                let (read, mut write) = split(asked.recv().await.unwrap().stream);
                // What is not this question comes of the link.
                if let Ok(Frame::Join { .. }) = FrameReader::new(read).within(TIME).await {
                    let record = Frame::Record(Blob(signed.wire().to_vec()));
                    return send(&mut write, &record, TIME, &Default::default()).await.unwrap();
                }
            }
        };
        let (joined, ()) = tokio::join!(b.rooms.join(room, None), answer);
        assert!(joined.unwrap().members.contains(&b.id()));
        a.rooms.leave(room, Some(b.id())).await.unwrap();
        wait_for("the end", LIMIT, async || b.rooms.show(room, 0).await.err()).await;
    }
    for node in [m, a, b] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_has_forgotten_before_it_came_is_not_confirmed() {
    let [a, b] = [Node::new(Role::Voter).await, Node::new(Role::Node).await];
    introduce(2, &[&a, &b]).await;
    let create = CreateRoom {
        name: "ops".to_owned(),
        peer_ids: vec![b.id()],
        join: JoinRule::Added,
        // One over it is too few for the other one to forget its own, too.
        retain_messages: Some(10),
        retain_days: None,
    };
    let room: RoomId = a.rooms.create(&create).await.unwrap().id.parse().unwrap();
    wait_for("the record", LIMIT, async || b.rooms.show(room, 0).await.ok()).await;
    introduce(3, &[&a]).await;
    introduce(3, &[&b]).await;
    a.rooms.send(room, "alone".to_owned()).await.unwrap();
    for n in 0..12 {
        b.rooms.send(room, format!("{n}")).await.unwrap();
    }
    b.rooms.cx.ask(|reply| Command::PruneNow { reply }).await.unwrap();
    assert!(b.ids(room).await.len() <= 10);
    let sessions = |node: &Node| node.rooms.cx.traffic.sessions.load(Relaxed);
    let before = [&a, &b].map(sessions);
    introduce(4, &[&a, &b]).await;
    // Of both, as each side of a session confirms for itself.
    wait_for("sessions", LIMIT, async || (sessions(&a) > before[0] + 1 && sessions(&b) > before[1] + 1).then_some(()))
        .await;
    let delivered = async |node: &Node| {
        let delivery = node.rooms.delivery(room).await.unwrap();
        (delivery.author_seq, delivery.members[0].confirmed, delivery.members[0].pending)
    };
    assert_eq!((delivered(&a).await, delivered(&b).await), ((1, 0, 1), (12, 12, 0)));
    for node in [a, b] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_writes_with_an_error_and_keeps_the_links() {
    let [a, b] = [Node::new(Role::Voter).await, Node::new(Role::Node).await];
    introduce(2, &[&a, &b]).await;
    let room = a.create(&[&b], JoinRule::Added).await;
    wait_for("the record", LIMIT, async || b.rooms.show(room, 0).await.ok()).await;
    let limit = async |pages| b.rooms.cx.ask(|reply| Command::LimitPages { pages, reply }).await.unwrap();
    // SQLite takes any limit below what there is as what there is.
    limit(1).await;
    let mut count = 0;
    let refused = loop {
        match b.rooms.send(room, "x".repeat(8_000)).await {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
        assert!(count < 100, "the disk does not fill up");
    };
    assert_eq!(refused.code, ErrorCode::DiskFull);
    let link = b.mesh.peers()[0].clone();
    assert!(link.connected);
    // What the other one says is not kept here, and not lost.
    for _ in 0..5 {
        a.rooms.send(room, "y".repeat(8_000)).await.unwrap();
    }
    wait_for("all that was sent before", LIMIT, async || (a.ids(room).await.len() == count + 5).then_some(())).await;
    assert!(b.ids(room).await.len() < count + 5);
    let now = b.mesh.peers()[0].clone();
    assert_eq!((now.connected, now.since_ms), (true, link.since_ms), "the same link");
    // A peer that opens a session and takes nothing has nothing.
    let sync = Frame::Sync { room, revision: 1, horizon_ms: 0, fingerprint: [0; 32] };
    wait_for("a session that ends at once", LIMIT, async || {
        let stream = b.mesh.connect_stream(a.id(), Service::Rooms).await.unwrap();
        let (read, mut write) = split(stream);
        let mut frames = FrameReader::new(read);
        send(&mut write, &sync, TIME, &Default::default()).await.unwrap();
        // One that is refused ends the stream: nobody takes a frame there.
        let Frame::Opened { equal: false, .. } = frames.within(TIME).await.unwrap() else { return None };
        send(&mut write, &Frame::Done, TIME, &Default::default()).await.unwrap();
        assert!(frames.within(TIME).await.is_err(), "the end");
        Some(())
    })
    .await;
    let delivery = a.rooms.delivery(room).await.unwrap();
    assert!(delivery.author_seq == 5 && delivery.members[0].pending > 0, "{delivery:?}");
    // There is room again: healing brings the rest.
    limit(1 << 20).await;
    same(room, &[&a, &b], count + 5).await;
    for node in [a, b] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_is_left_without_its_creator_who_hears_of_it_later() {
    let [a, b, c] = [Node::new(Role::Voter).await, Node::new(Role::Node).await, Node::new(Role::Node).await];
    introduce(2, &[&a, &b, &c]).await;
    let room = a.create(&[&b, &c], JoinRule::Added).await;
    for node in [&b, &c] {
        wait_for("the record", LIMIT, async || node.rooms.show(room, 0).await.ok()).await;
    }
    a.rooms.send(room, "hello".to_owned()).await.unwrap();
    same(room, &[&a, &b, &c], 1).await;
    // Its creator is no member of the fleet any more.
    introduce(3, &[&b, &c]).await;
    introduce(3, &[&a]).await;
    for node in [&b, &c] {
        node.rooms.leave(room, None).await.unwrap();
        assert!(node.rooms.list().await.unwrap().is_empty());
        assert_eq!(node.rooms.send(room, "x".to_owned()).await.unwrap_err().code, ErrorCode::NotFound);
        assert_eq!(node.rooms.leave(room, None).await.unwrap_err().code, ErrorCode::NotFound);
    }
    // It is so over a restart, and for whoever asks.
    let b = b.restart().await;
    introduce(4, &[&b, &c]).await;
    assert!(b.rooms.list().await.unwrap().is_empty());
    let sync = Frame::Sync { room, revision: 9, horizon_ms: 0, fingerprint: [0; 32] };
    assert_eq!(exchange(&c, &b, &[sync]).await, Frame::Refused(Refusal::NotFound));
    // One of them thinks better of it before anybody hears of it.
    assert!(c.rooms.join(room, None).await.unwrap().messages.is_empty());
    introduce(5, &[&a, &b, &c]).await;
    wait_for("the creator", LIMIT, async || {
        let members = a.rooms.show(room, 0).await.unwrap().members;
        (members == [a.id(), c.id()]).then_some(())
    })
    .await;
    same(room, &[&a, &c], 1).await;
    assert!(b.rooms.list().await.unwrap().is_empty());
    // From now on it is as if the creator had been there.
    a.rooms.join(room, Some(b.id())).await.unwrap();
    wait_for("the record", LIMIT, async || b.rooms.show(room, 0).await.ok()).await;
    same(room, &[&a, &b, &c], 1).await;
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_without_the_creator_and_joins_again_gets_all_from_the_others() {
    let [a, b, c] = [Node::new(Role::Voter).await, Node::new(Role::Node).await, Node::new(Role::Node).await];
    introduce(2, &[&a, &b, &c]).await;
    let room = a.create(&[&b, &c], JoinRule::Added).await;
    for node in [&b, &c] {
        wait_for("the record", LIMIT, async || node.rooms.show(room, 0).await.ok()).await;
        node.rooms.send(room, "hello".to_owned()).await.unwrap();
    }
    same(room, &[&a, &b, &c], 2).await;
    introduce(3, &[&b, &c]).await;
    introduce(3, &[&a]).await;
    c.rooms.leave(room, None).await.unwrap();
    // Alone, so that nobody brings it the messages before they are looked for.
    introduce(4, &[&c]).await;
    // The record is the same as before; nothing but the messages is new here.
    assert!(c.rooms.join(room, None).await.unwrap().messages.is_empty());
    introduce(5, &[&b, &c]).await;
    same(room, &[&b, &c], 2).await;
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_taken_out_while_it_is_away_learns_it_when_it_is_back() {
    let [a, b, c] = [Node::new(Role::Voter).await, Node::new(Role::Node).await, Node::new(Role::Node).await];
    introduce(2, &[&a, &b, &c]).await;
    let room = a.create(&[&b, &c], JoinRule::Added).await;
    for node in [&b, &c] {
        wait_for("the record", LIMIT, async || node.rooms.show(room, 0).await.ok()).await;
    }
    introduce(3, &[&a]).await;
    introduce(3, &[&b]).await;
    introduce(3, &[&c]).await;
    a.rooms.leave(room, Some(b.id())).await.unwrap();
    // One of the two has left meanwhile, without the creator.
    a.rooms.leave(room, Some(c.id())).await.unwrap();
    c.rooms.leave(room, None).await.unwrap();
    introduce(4, &[&a, &b, &c]).await;
    wait_for("the end", LIMIT, async || b.rooms.show(room, 0).await.err()).await;
    let left = async || c.rooms.cx.ask(|reply| Command::Left { creator: a.id(), reply }).await.unwrap();
    wait_for("the end", LIMIT, async || left().await.is_empty().then_some(())).await;
    assert_eq!(c.rooms.join(room, None).await.unwrap_err().code, ErrorCode::NotFound);
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_too_many_rooms_joins_none_by_half() {
    let [a, b] = [Node::new(Role::Voter).await, Node::new(Role::Node).await];
    introduce(2, &[&a, &b]).await;
    for _ in 0..ROOMS_PER_CREATOR_MAX {
        a.create(&[&b], JoinRule::Added).await;
    }
    let all = async || (b.rooms.list().await.unwrap().len() == ROOMS_PER_CREATOR_MAX).then_some(());
    wait_for("the records", LIMIT, all).await;
    let room = a.create(&[], JoinRule::Fleet).await;
    assert_eq!(b.rooms.join(room, None).await.unwrap_err().code, ErrorCode::QuotaExceeded);
    assert_eq!(a.rooms.show(room, 0).await.unwrap().members, [a.id()]);
    // There is a place again.
    let first: RoomId = b.rooms.list().await.unwrap()[0].id.parse().unwrap();
    b.rooms.leave(first, None).await.unwrap();
    assert_eq!(b.rooms.join(room, None).await.unwrap().members, [a.id(), b.id()]);
    for node in [a, b] {
        node.stop().await;
    }
}
