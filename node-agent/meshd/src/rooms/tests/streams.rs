//! What a peer costs that does not behave: that reads nothing, or asks without end.

use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::tasks::TaskKind;
use osmoda_kit::testing::{FakeClock, wait_for};
use osmoda_mesh_rooms::{Frame, Refusal, RoomId};
use osmoda_types::Role;
use tokio::sync::mpsc;

use super::links::exchange;
use super::world::{LIMIT, Node, introduce};
use crate::rooms::inbound::QUESTIONS;
use crate::rooms::links::Pusher;

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
