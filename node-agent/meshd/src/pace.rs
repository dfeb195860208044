//! What one peer may take: bytes per second, which wait, and requests per
//! second, which are refused.
//!
//! Invariant: over any span the bytes are at most the rate times the span plus
//! one second's worth, the requests at most the rate times the span plus a burst.
//! The state is reached by whoever serves the peer, through a short lock that is
//! never held across an await.

use std::collections::BTreeMap;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use osmoda_kit::clock::SharedClock;
use osmoda_mesh_protocol::{Bucket, Rate};
use osmoda_types::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Peers above which full buckets are swept: members come and go over months.
const PEERS_LOOKED_AT: usize = 256;

/// One cap for each peer.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: u64,
    peers: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Pace {
    /// At most so many bytes per second and peer.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { rate: bytes_per_second.max(1), peers: Mutex::default() }
    }

    /// Waits until these bytes may be sent to the peer. Cancel-safe: dropped, the
    /// bytes count as sent.
    pub(crate) async fn take(&self, peer: NodeId, bytes: usize) {
        let ready = self.reserve(peer, bytes, Instant::now());
        tokio::time::sleep_until(ready).await;
    }

    /// The bucket as one moment: when all that was reserved will have gone out.
    /// What comes within a second of that goes at once.
    fn reserve(&self, peer: NodeId, bytes: usize, now: Instant) -> Instant {
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        // Peers that sent nothing lately have a full bucket, like new ones.
        peers.retain(|of, done| *of == peer || *done > now);
        let done = peers.entry(peer).or_insert(now);
        *done = (*done).max(now) + cost;
        done.checked_sub(Duration::from_secs(1)).map_or(now, |ready| ready.max(now))
    }
}

/// A peer's stream whose bytes count, both ways; what is over the rate waits to
/// be read, and then the peer waits, by QUIC's flow control.
#[derive(Debug)]
pub(crate) struct Paced<S> {
    stream: S,
    pace: Arc<Pace>,
    peer: NodeId,
    ready: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, pace: Arc<Pace>, peer: NodeId) -> Self {
        Self { stream, pace, peer, ready: None }
    }

    fn count(&mut self, bytes: usize) {
        let now = Instant::now();
        let ready = self.pace.reserve(self.peer, bytes, now);
        if ready > now {
            self.ready = Some(Box::pin(tokio::time::sleep_until(ready)));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(ready) = &mut self.ready {
            ready!(ready.as_mut().poll(cx));
            self.ready = None;
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.count(buf.filled().len() - before);
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        if let Ok(bytes) = written {
            self.count(bytes);
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// One bucket of requests for each peer.
pub(crate) struct PerPeer {
    rate: Rate,
    clock: SharedClock,
    /// Of peers that asked lately, so at most one per member.
    buckets: Mutex<BTreeMap<NodeId, Bucket>>,
}

impl PerPeer {
    /// The rate of each peer.
    pub(crate) fn new(rate: Rate, clock: SharedClock) -> Self {
        Self { rate, clock, buckets: Mutex::default() }
    }

    /// Whether the peer may ask once more, now.
    pub(crate) fn take(&self, peer: NodeId) -> bool {
        let now = self.clock.now_boot();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = buckets.entry(peer).or_insert_with(Bucket::full).take(self.rate, now);
        if buckets.len() > PEERS_LOOKED_AT {
            // A full bucket is like none.
            buckets.retain(|_, bucket| !bucket.is_full(self.rate, now));
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_one_second_then_the_rate_and_each_peer_alone() {
        let pace = Pace::new(1000);
        let (one, two) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let begin = Instant::now();
        pace.take(one, 1000).await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
        pace.take(one, 500).await;
        assert_eq!(begin.elapsed().as_millis(), 500);
        pace.take(two, 1000).await;
        assert_eq!(begin.elapsed().as_millis(), 500);
        pace.take(one, 2000).await;
        assert_eq!(begin.elapsed().as_millis(), 2500);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_the_rate_waits_to_be_read_and_writing_counts_too() {
        let begin = Instant::now();
        let (pace, peer) = (Arc::new(Pace::new(1000)), NodeId::from_bytes([1; 32]));
        let mut stream = Paced::new(tokio::io::join(tokio::io::repeat(1), tokio::io::sink()), pace, peer);
        stream.read_exact(&mut [0; 1000]).await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO);
        stream.write_all(&[0; 1500]).await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO);
        stream.read_exact(&mut [0; 1]).await.unwrap();
        assert_eq!(begin.elapsed().as_millis(), 1500);
    }

    #[test]
    fn a_peer_has_a_burst_and_then_its_rate_and_others_are_not_charged() {
        let clock = osmoda_kit::testing::FakeClock::new();
        let allowed = PerPeer::new(Rate { per_second: 2, burst: 5 }, Arc::new(clock.clone()));
        let peer = |number: u16| {
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&number.to_be_bytes());
            NodeId::from_bytes(bytes)
        };
        assert_eq!((0..20).filter(|_| allowed.take(peer(1))).count(), 5);
        assert!(allowed.take(peer(2)));
        clock.advance(Duration::from_secs(1));
        assert_eq!((0..20).filter(|_| allowed.take(peer(1))).count(), 2);
        // Sweeping forgets the idle ones only.
        clock.advance(Duration::from_secs(60));
        assert!((0..1_000).all(|number| allowed.take(peer(number + 10))));
        clock.advance(Duration::from_secs(60));
        assert!(allowed.take(peer(1)));
        assert_eq!(allowed.buckets.lock().unwrap().len(), 1);
    }
}
