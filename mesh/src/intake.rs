//! Taking in the streams of a service: one loop for all of them.
//!
//! Each stream has a task of its own, so that one that is slow or broken is
//! nobody else's; a fault, or the end of its time, closes it and nothing more.
//! Invariant: a peer never holds more streams of a service than its intake
//! allows. What is said on a stream is the service's.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh_protocol::StreamPeer;
use osmoda_types::{ErrorCode, NodeId};
use tokio::sync::mpsc;

use crate::stream::{IncomingStream, Offer};

/// A stream that a peer has opened, accepted or not yet.
pub trait Opened: Send + 'static {
    /// Who opened it, as the handshake proved.
    fn peer(&self) -> StreamPeer;

    /// Ends it because its peer has too many.
    fn turn_away(self) -> impl Future<Output = ()> + Send;
}

impl Opened for IncomingStream {
    fn peer(&self) -> StreamPeer {
        self.peer
    }

    /// It was accepted, so it can only end.
    async fn turn_away(self) {}
}

impl Opened for Offer {
    fn peer(&self) -> StreamPeer {
        self.peer
    }

    async fn turn_away(self) {
        self.refuse(ErrorCode::Busy).await;
    }
}

/// How a service takes its streams in.
#[derive(Debug, Clone, Copy)]
pub struct Intake {
    /// The service in the names of its tasks.
    pub name: &'static str,
    /// The kind of each stream's task: `REQUEST` when a stop lets it finish.
    pub kind: TaskKind,
    /// Streams of one peer at once. A link bounds all services together; this
    /// keeps one service from taking all of a link's.
    pub per_peer_max: usize,
    /// From the first byte to the end; without it, the service has limits of its
    /// own at every step.
    pub time_limit: Option<Duration>,
}

impl Intake {
    /// Serves every stream until a stop begins.
    pub fn spawn<S, F, Fut>(self, tasks: &Tasks, accepted: mpsc::Receiver<S>, serve: F)
    where
        S: Opened,
        F: Fn(S) -> Fut + Send + 'static,
        Fut: Future<Output = io::Result<()>> + Send + 'static,
    {
        let intake = self.run(tasks.clone(), accepted, serve);
        tasks.spawn(TaskKind::INTAKE, format!("{} streams", self.name), intake);
    }

    async fn run<S, F, Fut>(self, tasks: Tasks, mut accepted: mpsc::Receiver<S>, serve: F)
    where
        S: Opened,
        F: Fn(S) -> Fut,
        Fut: Future<Output = io::Result<()>> + Send + 'static,
    {
        let stop = tasks.shutdown().token(Stage::RefuseNew);
        let open = OpenStreams::default();
        loop {
            let stream = tokio::select! {
                biased;
                // Cancel-safe: a token stays cancelled.
                () = stop.cancelled() => return,
                // Cancel-safe: a receive that was not ready took nothing.
                stream = accepted.recv() => stream,
            };
            let Some(stream) = stream else { return };
            let peer = stream.peer().node;
            let task = format!("{} of {}", self.name, peer.short());
            let Some(place) = open.take(peer, self.per_peer_max) else {
                tracing::debug!(%peer, service = self.name, "stream turned away, its peer has too many");
                tasks.spawn(TaskKind::BACKGROUND, task, stream.turn_away());
                continue;
            };
            let served = serve(stream);
            // Bounded by the places, and they by the members.
            tasks.spawn(self.kind, task, async move {
                let _place = place;
                let ended = match self.time_limit {
                    Some(limit) => tokio::time::timeout(limit, served).await.unwrap_or_else(|late| Err(late.into())),
                    None => served.await,
                };
                if let Err(error) = ended {
                    tracing::debug!(%peer, service = self.name, %error, "stream broke off");
                }
            });
        }
    }
}

/// How many streams each peer has open; peers without any have no entry.
#[derive(Debug, Clone, Default)]
struct OpenStreams(Arc<Mutex<BTreeMap<NodeId, usize>>>);

impl OpenStreams {
    fn take(&self, peer: NodeId, max: usize) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(peer).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Place { open: self.clone(), peer })
    }
}

/// The right to one stream.
#[derive(Debug)]
struct Place {
    open: OpenStreams,
    peer: NodeId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osmoda_kit::shutdown::{Shutdown, StopReason};
    use osmoda_mesh_protocol::Service;
    use osmoda_types::{MeshEpoch, Role};
    use tokio::sync::oneshot;

    struct Fake {
        node: u8,
        go: oneshot::Receiver<()>,
        seen: mpsc::Sender<(u8, &'static str)>,
    }

    impl Opened for Fake {
        fn peer(&self) -> StreamPeer {
            let node = NodeId::from_bytes([self.node; 32]);
            StreamPeer { node, role: Role::Node, epoch: MeshEpoch(1), service: Service::Witness }
        }

        async fn turn_away(self) {
            self.seen.send((self.node, "turned away")).await.unwrap();
        }
    }

    async fn serve(fake: Fake) -> io::Result<()> {
        fake.seen.send((fake.node, "served")).await.unwrap();
        if fake.go.await.is_err() {
            fake.seen.send((fake.node, "broke")).await.unwrap();
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn each_peer_has_its_places_and_faults_and_time_give_them_back() {
        let tasks = Tasks::new(Shutdown::new());
        let (offers, accepted) = mpsc::channel(8);
        let (seen, mut news) = mpsc::channel(8);
        let limit = Duration::from_secs(5);
        let intake = Intake { name: "test", kind: TaskKind::REQUEST, per_peer_max: 2, time_limit: Some(limit) };
        intake.spawn(&tasks, accepted, serve);
        let mut offer = async |node| {
            let (sender, go) = oneshot::channel();
            offers.send(Fake { node, go, seen: seen.clone() }).await.unwrap();
            (sender, news.recv().await.unwrap().1)
        };
        let (first, served) = offer(1).await;
        assert_eq!(served, "served");
        let (second, _) = offer(1).await;
        assert_eq!(offer(1).await.1, "turned away");
        let (_other, served) = offer(2).await;
        assert_eq!(served, "served");
        // A fault frees one place, the end of its time the other.
        drop(first);
        assert_eq!(news.recv().await, Some((1, "broke")));
        let held = loop {
            let (sender, go) = oneshot::channel();
            offers.send(Fake { node: 1, go, seen: seen.clone() }).await.unwrap();
            if news.recv().await == Some((1, "served")) {
                break sender;
            }
        };
        tokio::time::advance(limit * 2).await;
        while !(second.is_closed() && held.is_closed()) {
            tokio::task::yield_now().await;
        }
        tasks.shutdown().request(StopReason::Asked("test".to_owned()));
        assert!(tasks.drain(limit).await.is_graceful());
    }
}
