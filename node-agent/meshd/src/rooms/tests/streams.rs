//! What a peer costs that does not behave: that reads nothing, or asks without end.

use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::tasks::TaskKind;
use osmoda_kit::testing::{FakeClock, wait_for};
use osmoda_mesh_rooms::{Blob, Frame, Record, Refusal, RoomId};
use osmoda_node_api::mesh::Service;
use osmoda_node_api::rooms::JoinRule;
use osmoda_types::Role;
use tokio::io::split;
use tokio::sync::mpsc;

use super::links::{TIME, exchange, text};
use super::world::{LIMIT, Node, introduce};
use crate::rooms::command::Command;
use crate::rooms::inbound::{QUESTIONS, RECORDS};
use crate::rooms::links::Pusher;
use crate::rooms::wire::{FrameReader, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_is_given_up_leaves_nothing_behind() {
    let [a, b] = [Node::new(Role::Voter).await, Node::new(Role::Node).await];
    introduce(2, &[&a, &b]).await;
    let mut opened = b.stop_rooms().await;
    let cx = a.rooms.cx.clone();
    let (queue, frames) = mpsc::channel(3);
    let pusher = Pusher::new(cx.clone(), b.id(), frames, Duration::from_millis(500));
    cx.tasks.spawn(TaskKind::BACKGROUND, "pusher", pusher.run());
    // More than a stream holds that nobody reads, so the next one needs another stream.
    let (large, small) = (Arc::new(vec![0; 64 << 20]), Arc::new(vec![0; 1]));
    let mut held = Vec::new();
    for frame in [Arc::clone(&large), large, small] {
        queue.send(frame).await.unwrap();
        held.push(tokio::time::timeout(LIMIT, opened.recv()).await.unwrap().unwrap());
    }
    let acks = format!("room acks of {}", b.id());
    let is_one = async || (cx.tasks.names().iter().filter(|name| **name == acks).count() == 1).then_some(());
    wait_for("the last stream's alone", LIMIT, is_one).await;
    drop(held);
    for node in [a, b] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_a_creator_without_end_is_told_that_it_is_busy_and_others_are_not() {
    // Its clock stands still, so what was used up stays so.
    let a = Node::with_clock(Role::Voter, Arc::new(FakeClock::new())).await;
    let [b, c] = [Node::new(Role::Node).await, Node::new(Role::Node).await];
    introduce(2, &[&a, &b, &c]).await;
    let room = RoomId::from_bytes([9; 16]);
    let asks = async |from: &Node, n: u32| {
        let node = from.id().into();
        let question = if n.is_multiple_of(2) { Frame::Join { room, node } } else { Frame::Leave { room, node } };
        exchange(from, &a, &[question]).await
    };
    for n in 0..QUESTIONS.burst {
        assert_eq!(asks(&b, n).await, Frame::Refused(Refusal::NotFound), "{n}");
    }
    for n in [0, 1] {
        assert_eq!(asks(&b, n).await, Frame::Refused(Refusal::Busy));
        assert_eq!(asks(&c, n).await, Frame::Refused(Refusal::NotFound));
    }
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_pushes_records_without_end_has_so_many_looked_at_and_a_session_brings_the_newest() {
    let (a, b) = (Node::new(Role::Voter).await, Node::with_clock(Role::Node, Arc::new(FakeClock::new())).await);
    introduce(2, &[&a, &b]).await;
    let room = a.create(&[&b], JoinRule::Added).await;
    let signed = async |node: &Node| {
        let shown = node.rooms.cx.ask(|reply| Command::Show { room, limit: 0, reply }).await.unwrap();
        shown.ok().map(|(shown, _)| shown.signed)
    };
    let first = wait_for("the record", LIMIT, async || signed(&b).await).await;
    let of_revision = |revision| {
        let record = Record { revision, ..first.record().clone() };
        Frame::Record(Blob(record.sign(|bytes| a.identity.sign(bytes)).unwrap().wire().to_vec()))
    };
    // From now on what it says is for this to say, and it answers nothing.
    drop(a.stop_rooms().await);
    let (read, mut write) = split(a.mesh.connect_stream(b.id(), Service::Rooms).await.unwrap());
    let mut frames: Vec<Frame> = vec![Frame::Push];
    frames.extend((2..1_000).map(of_revision));
    // It would end the stream; nobody looks at it.
    frames.push(Frame::Record(Blob(vec![7; 200])));
    let post = text(&a, room, "still here");
    frames.push(Frame::Post(Blob(post.wire().to_vec())));
    for frame in &frames {
        send(&mut write, frame, TIME, &Default::default()).await.unwrap();
    }
    let mut answers = FrameReader::new(read);
    let Frame::Ack { id, .. } = answers.within(TIME).await.unwrap() else { panic!("not what became of it") };
    assert_eq!(id, post.id());
    let newest = wait_for("those that are looked at", LIMIT, async || {
        let revision = signed(&b).await?.record().revision;
        (revision > u64::from(RECORDS.burst) / 2).then_some(revision)
    })
    .await;
    assert!(newest <= u64::from(RECORDS.burst) + 1, "{newest}");

    let sync = Frame::Sync { room, revision: 1_000, horizon_ms: 0, fingerprint: [0; 32] };
    let mut write = wait_for("a session", LIMIT, async || {
        let (read, mut write) = split(a.mesh.connect_stream(b.id(), Service::Rooms).await.unwrap());
        send(&mut write, &sync, TIME, &Default::default()).await.unwrap();
        match FrameReader::new(read).within(TIME).await.unwrap() {
            Frame::Opened { wants_record: true, .. } => Some(write),
            // It asks for one itself.
            Frame::Refused(Refusal::Busy) => None,
            other => panic!("{other:?}"),
        }
    })
    .await;
    send(&mut write, &of_revision(1_000), TIME, &Default::default()).await.unwrap();
    let has_newest = async || (signed(&b).await?.record().revision == 1_000).then_some(());
    wait_for("the newest", LIMIT, has_newest).await;
    for node in [a, b] {
        node.stop().await;
    }
}
