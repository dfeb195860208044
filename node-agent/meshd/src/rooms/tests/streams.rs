//! What a peer costs that does not behave: that reads nothing, or asks without end.

use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::tasks::TaskKind;
use osmoda_kit::testing::wait_for;
use osmoda_types::Role;
use tokio::sync::mpsc;

use super::world::{LIMIT, Node, introduce};
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
