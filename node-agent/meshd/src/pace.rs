//! A cap on the bytes sent to one peer: a bucket that fills with time.
//!
//! Invariant: over any span the bytes sent are at most the rate times the span
//! plus one second's worth. The state is reached by whoever sends to the peer,
//! through a short lock that is never held across an await.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use osmoda_types::NodeId;
use tokio::time::Instant;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
