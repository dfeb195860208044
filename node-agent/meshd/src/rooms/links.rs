//! Following which members are linked, and pushing frames to each of them.
//!
//! Each linked peer has a queue and a task. A frame that cannot be sent is not
//! kept: the room is healed with that peer instead, which finds out what it
//! lacks. Invariant: a slow peer costs its queue and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{TaskHandle, TaskKind};
use osmoda_mesh::MeshStream;
use osmoda_mesh_rooms::Frame;
use osmoda_node_api::mesh::Service;
use osmoda_types::NodeId;
use tokio::io::{ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;

use super::ask;
use super::command::Command;
use super::cx::Cx;
use super::wire::{FrameReader, send, send_bytes};

/// Frames on their way to one peer: some seconds of a loud room. More are
/// healed.
const QUEUE: usize = 512;

/// Frames written at once.
const BURST: usize = 64;

/// How long one write to a peer may take before its stream is given up: longer
/// than the idle time after which its link is.
const SEND_TIME: Duration = Duration::from_secs(15);

/// Watches the links until a stop begins.
pub(crate) async fn follow(cx: Cx) {
    let stop = cx.tasks.shutdown().token(Stage::RefuseNew);
    let mut links = cx.mesh.subscribe();
    let mut peers: BTreeMap<NodeId, TaskHandle> = BTreeMap::new();
    loop {
        let linked: Vec<NodeId> = links.borrow_and_update().nodes().filter(|node| may_talk(&cx, node)).collect();
        let gone: Vec<NodeId> = peers.keys().filter(|peer| !linked.contains(peer)).copied().collect();
        for peer in gone {
            if let Some(task) = peers.remove(&peer) {
                task.abort();
            }
            cx.tell(Command::LinkDown { peer }).await;
        }
        for peer in linked {
            if peers.contains_key(&peer) {
                continue;
            }
            let (queue, frames) = mpsc::channel(QUEUE);
            let pusher = Pusher::new(cx.clone(), peer, frames, SEND_TIME);
            peers.insert(peer, cx.tasks.spawn(TaskKind::BACKGROUND, format!("room push to {peer}"), pusher.run()));
            cx.tell(Command::LinkUp { peer, queue }).await;
            let left = ask::say_what_was_left(cx.clone(), peer);
            // Bounded: one per link that comes up, each question with its time limit.
            cx.tasks.spawn(TaskKind::BACKGROUND, format!("rooms of {peer} that were left"), left);
        }
        tokio::select! {
            biased;
            // Safe to drop: a token stays cancelled.
            () = stop.cancelled() => return,
            // Safe to drop: the newest set is read above in any case.
            changed = links.changed() => if changed.is_err() { return },
        }
    }
}

fn may_talk(cx: &Cx, peer: &NodeId) -> bool {
    let (own, peer) = (cx.mesh.local_role(), cx.role(peer));
    own.zip(peer).is_some_and(|(own, peer)| Service::Rooms.allows(own, peer))
}

/// Sends one peer what is in its queue.
pub(crate) struct Pusher {
    cx: Cx,
    peer: NodeId,
    frames: mpsc::Receiver<Arc<Vec<u8>>>,
    send_time: Duration,
    stream: Option<Pushing>,
}

/// A stream of pushes. A half alone would keep it open, so its reader ends with it.
struct Pushing {
    write: WriteHalf<MeshStream>,
    acks: TaskHandle,
}

impl Drop for Pushing {
    fn drop(&mut self) {
        self.acks.abort();
    }
}

impl Pusher {
    /// One without a stream; each write may take `send_time`.
    pub(crate) fn new(cx: Cx, peer: NodeId, frames: mpsc::Receiver<Arc<Vec<u8>>>, send_time: Duration) -> Self {
        Self { cx, peer, frames, send_time, stream: None }
    }

    /// Sends until nobody can put anything into the queue any more.
    pub(crate) async fn run(mut self) {
        let mut burst = Vec::with_capacity(BURST);
        while self.frames.recv_many(&mut burst, BURST).await > 0 {
            let bytes = burst.drain(..).fold(Vec::new(), |mut all, frame| {
                all.extend_from_slice(&frame);
                all
            });
            if let Err(error) = self.send(&bytes).await {
                tracing::debug!(peer = %self.peer, %error, "push failed, healing follows");
                self.stream = None;
                self.heal().await;
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let counter = &self.cx.traffic.push_sent;
        if self.stream.is_none() {
            let opened = self.cx.mesh.connect_stream(self.peer, Service::Rooms).await;
            let (read, mut write) = split(opened.map_err(std::io::Error::other)?);
            send(&mut write, &Frame::Push, self.send_time, counter).await?;
            let (cx, peer) = (self.cx.clone(), self.peer);
            // Bounded: one per stream of pushes, with which it ends.
            let acks = self.cx.tasks.spawn(TaskKind::BACKGROUND, format!("room acks of {peer}"), acks(cx, peer, read));
            self.stream = Some(Pushing { write, acks });
        }
        match &mut self.stream {
            Some(stream) => send_bytes(&mut stream.write, bytes, self.send_time, counter).await,
            None => Ok(()),
        }
    }

    /// Has every room that both are in healed.
    async fn heal(&self) {
        let rooms = self.cx.ask(Command::List).await.unwrap_or_default();
        for room in rooms.iter().filter(|room| room.signed.record().has(&self.peer)) {
            self.cx.tell(Command::Want { room: room.signed.id(), peer: self.peer }).await;
        }
    }
}

/// Reads what became of pushed messages, until the stream ends.
async fn acks(cx: Cx, peer: NodeId, read: ReadHalf<MeshStream>) {
    let mut frames = FrameReader::new(read);
    loop {
        match frames.next().await {
            Ok(Some(Frame::Ack { id, verdict })) => cx.tell(Command::Acked { from: peer, id, verdict }).await,
            Ok(None) => return,
            Ok(Some(_)) => return tracing::warn!(%peer, "a frame that does not answer a push"),
            Err(error) => return tracing::debug!(%peer, %error, "push stream ended"),
        }
    }
}
