//! A road between two UDP sockets: every datagram takes its time, some are lost.
//!
//! Always holds: what arrives is what was sent, once, in the order it was sent
//! per direction; losses come from a seed, so a run can be repeated. A queue
//! that is full loses datagrams too, and counts them apart. No bandwidth limit
//! and no reordering: neither is what the tests here ask about.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use osmoda_kit::tasks::{TaskKind, Tasks};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

/// Datagrams on the road in one direction: 50 ms of 400 Mbit/s in full packets.
const QUEUE: usize = 2048;

/// The largest datagram of UDP.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// How many dropped datagrams a watcher may fall behind.
const DROPS_KEPT: usize = 1024;

/// What the road does to a datagram, the same in both directions.
#[derive(Debug, Clone, Copy)]
pub struct Road {
    /// How long it takes from one end to the other.
    pub delay: Duration,
    /// The share that is lost, from 0 to 1.
    pub loss: f64,
    /// Which ones.
    pub seed: u64,
}

impl Road {
    /// A road on which nothing is lost unless it is asked for.
    #[must_use]
    pub const fn of(delay: Duration) -> Self {
        Self { delay, loss: 0.0, seed: 1 }
    }
}

/// Counts of one direction.
#[derive(Debug, Default)]
struct Counts {
    carried: AtomicU64,
    lost: AtomicU64,
    overflowed: AtomicU64,
}

/// How many datagrams had which fate, both directions together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fates {
    /// Sent on.
    pub carried: u64,
    /// Lost by share or on request.
    pub lost: u64,
    /// Lost because the road was full.
    pub overflowed: u64,
}

/// One end of the road: the socket packets come in at, and to whom those of the
/// other end go.
pub struct Head {
    /// Bound, of the network that this end lies in.
    pub socket: std::net::UdpSocket,
    /// Where to send. `None`: to whoever sent here last.
    pub to: Option<SocketAddr>,
    /// Done to each datagram that comes in here, before it goes on its way.
    pub mend: fn(&mut [u8]),
}

/// A datagram that was lost on request.
#[derive(Debug, Clone, Copy)]
pub struct Drop {
    /// When it would have begun its way.
    pub at: Instant,
    /// Its length.
    pub bytes: usize,
}

/// A road with datagrams on it; ends with its tasks.
#[derive(Debug)]
pub struct Shaper {
    counts: Arc<Counts>,
    take: Arc<AtomicBool>,
    drops: mpsc::Receiver<Drop>,
}

impl Shaper {
    /// A road from an address of the loopback interface, which is returned, to
    /// `target`. One sender at a time: answers go to whoever sent last.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn to(target: SocketAddr, road: Road, tasks: &Tasks) -> std::io::Result<(Self, SocketAddr)> {
        let near = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let far = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let address = near.local_addr()?;
        let near = Head { socket: near, to: None, mend: |_| () };
        Ok((Self::between(near, Head { socket: far, to: Some(target), mend: |_| () }, road, tasks)?, address))
    }

    /// A road between two ends; requested losses are of those that go from
    /// `near` to `far`. Must be called inside a runtime.
    ///
    /// # Errors
    /// When a socket cannot be used.
    pub fn between(near: Head, far: Head, road: Road, tasks: &Tasks) -> std::io::Result<Self> {
        let counts = Arc::new(Counts::default());
        let take = Arc::new(AtomicBool::new(false));
        // The watcher reads them after each wait; one too many is not noted.
        let (noted, drops) = mpsc::channel(DROPS_KEPT);
        let mends = (near.mend, far.mend);
        let (near, near_to) = opened(near)?;
        let (far, far_to) = opened(far)?;
        let there = Lane {
            from: near.clone(),
            seen: near_to.clone(),
            mend: mends.0,
            counts: counts.clone(),
            take: Some((take.clone(), noted)),
            chance: Chance { state: road.seed, share: road.loss },
        };
        let back = Lane {
            from: far.clone(),
            seen: far_to.clone(),
            mend: mends.1,
            counts: counts.clone(),
            take: None,
            chance: Chance { state: !road.seed, share: road.loss },
        };
        there.start(road.delay, (far, far_to), tasks);
        back.start(road.delay, (near, near_to), tasks);
        Ok(Self { counts, take, drops })
    }

    /// Loses the next datagram with data that goes there, and says when it was.
    ///
    /// # Cancel safety
    /// Dropping it does not take the request back.
    pub async fn lose_one(&mut self) -> Option<Drop> {
        self.take.store(true, Ordering::Relaxed);
        self.drops.recv().await
    }

    /// What happened so far.
    #[must_use]
    pub fn fates(&self) -> Fates {
        let read = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let Counts { carried, lost, overflowed } = &*self.counts;
        Fates { carried: read(carried), lost: read(lost), overflowed: read(overflowed) }
    }
}

/// To whom the datagrams of the other end go.
type Address = watch::Sender<Option<SocketAddr>>;

fn opened(head: Head) -> std::io::Result<(Arc<UdpSocket>, Arc<Address>)> {
    head.socket.set_nonblocking(true)?;
    Ok((Arc::new(UdpSocket::from_std(head.socket)?), Arc::new(watch::channel(head.to).0)))
}

/// A datagram on its way.
struct Under {
    due: Instant,
    bytes: Vec<u8>,
}

/// One direction.
struct Lane {
    from: Arc<UdpSocket>,
    /// Who sent last at this end, unless that was fixed.
    seen: Arc<Address>,
    mend: fn(&mut [u8]),
    counts: Arc<Counts>,
    take: Option<(Arc<AtomicBool>, mpsc::Sender<Drop>)>,
    chance: Chance,
}

/// Below this a datagram is an acknowledgement or the like, and not lost on
/// request.
const DATA_BYTES_MIN: usize = 200;

impl Lane {
    fn start(self, delay: Duration, to: (Arc<UdpSocket>, Arc<Address>), tasks: &Tasks) {
        // The road: full means lost, as in a router.
        let (road, mut under_way) = mpsc::channel::<Under>(QUEUE);
        tasks.spawn(TaskKind::BACKGROUND, "shaper in", self.take_in(delay, road));
        let (socket, address) = to;
        tasks.spawn(TaskKind::BACKGROUND, "shaper out", async move {
            while let Some(Under { due, bytes }) = under_way.recv().await {
                tokio::time::sleep_until(due.into()).await;
                let to = *address.borrow();
                if let Some(to) = to
                    && let Err(error) = socket.send_to(&bytes, to).await
                {
                    tracing::debug!(%error, "a datagram left the road and went nowhere");
                }
            }
        });
    }

    async fn take_in(mut self, delay: Duration, road: mpsc::Sender<Under>) -> std::io::Result<()> {
        let fixed = self.seen.borrow().is_some();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let (count, source) = self.from.recv_from(&mut buffer).await?;
            if !fixed {
                self.seen.send_replace(Some(source));
            }
            if self.is_lost(count) {
                self.counts.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            (self.mend)(&mut buffer[..count]);
            let under = Under { due: Instant::now() + delay, bytes: buffer[..count].to_vec() };
            match road.try_send(under) {
                Ok(()) => self.counts.carried.fetch_add(1, Ordering::Relaxed),
                Err(_) => self.counts.overflowed.fetch_add(1, Ordering::Relaxed),
            };
        }
    }

    fn is_lost(&mut self, count: usize) -> bool {
        if let Some((take, noted)) = &self.take
            && count >= DATA_BYTES_MIN
            && take.swap(false, Ordering::Relaxed)
        {
            if noted.try_send(Drop { at: Instant::now(), bytes: count }).is_err() {
                tracing::debug!("nobody notes what is lost");
            }
            return true;
        }
        self.chance.happens()
    }
}

/// Repeatable chance: `SplitMix64`.
struct Chance {
    state: u64,
    share: f64,
}

impl Chance {
    fn happens(&mut self) -> bool {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // 53 bits: all that a double tells apart.
        ((mixed >> 11) as f64 / (1_u64 << 53) as f64) < self.share
    }
}

#[cfg(test)]
mod tests {
    use osmoda_kit::shutdown::Shutdown;

    use super::*;

    async fn numbers(road: Road, count: u32, lose: bool) -> (Vec<u32>, Fates, Duration) {
        let tasks = Tasks::new(Shutdown::new());
        let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (mut shaper, address) = Shaper::to(target.local_addr().unwrap(), road, &tasks).unwrap();
        let source = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let began = Instant::now();
        let lost = async { if lose { Some(shaper.lose_one().await.unwrap()) } else { None } };
        let sent = async {
            for number in 0..count {
                let mut datagram = vec![0; DATA_BYTES_MIN];
                datagram[..4].copy_from_slice(&number.to_be_bytes());
                source.send_to(&datagram, address).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        // The request stands before the first datagram is sent.
        tokio::join!(biased; lost, sent);
        let (mut got, mut first, mut buffer) = (Vec::new(), None, vec![0; 2000]);
        let mut from = None;
        while got.last() != Some(&(count - 1)) {
            let (_, source) = target.recv_from(&mut buffer).await.unwrap();
            first.get_or_insert(began.elapsed());
            from = Some(source);
            got.push(u32::from_be_bytes(buffer[..4].try_into().unwrap()));
        }
        target.send_to(b"and back", from.unwrap()).await.unwrap();
        let (back, _) = source.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..back], b"and back");
        assert!(began.elapsed() >= 2 * road.delay);
        (got, shaper.fates(), first.unwrap())
    }

    #[tokio::test]
    async fn datagrams_take_their_time_and_keep_their_order_both_ways() {
        let delay = Duration::from_millis(30);
        let (got, fates, first) = numbers(Road::of(delay), 50, false).await;
        assert_eq!(got, (0..50).collect::<Vec<_>>());
        assert_eq!((fates.lost, fates.overflowed), (0, 0));
        assert!(first >= delay, "the first one came after {first:?}");
    }

    #[tokio::test]
    async fn the_one_that_was_asked_for_is_lost_and_no_other() {
        let (got, fates, _) = numbers(Road::of(Duration::from_millis(5)), 20, true).await;
        assert_eq!(got, (1..20).collect::<Vec<_>>());
        assert_eq!(fates.lost, 1);
    }

    #[test]
    fn the_share_that_is_lost_is_the_share_that_was_asked_for_and_the_same_again() {
        let losses = |seed| {
            let mut chance = Chance { state: seed, share: 0.01 };
            (0..100_000).map(|_| chance.happens()).collect::<Vec<_>>()
        };
        let lost = losses(7).iter().filter(|lost| **lost).count();
        assert!((900..1100).contains(&lost), "{lost} of 100,000");
        assert_eq!(losses(7), losses(7));
        assert_ne!(losses(7), losses(8));
    }
}
