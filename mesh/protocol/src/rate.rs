//! How often a source may ask for something: token buckets per address prefix,
//! in a table of fixed size. *Pure.*
//!
//! The governor crate keeps a map that grows with every new source until it is
//! swept; here the memory is bounded by construction, at the price that two
//! prefixes may share a bucket. The table is keyed with randomness, so nobody
//! can choose to share a bucket with somebody else. Invariant: an answer of "no"
//! costs nobody else more than a Retry or a later try.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// A source as far as limits are concerned: `/24` of IPv4, `/48` of IPv6
/// (`mesh.md` section 7, items 3 and 4). What one site usually has; a finer
/// grain gives an attacker with a prefix many buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix([u8; 7]);

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        let mut out = [0; 7];
        match address {
            IpAddr::V4(v4) => {
                out[0] = 4;
                out[1..4].copy_from_slice(&v4.octets()[..3]);
            }
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => return IpAddr::V4(v4).into(),
                None => {
                    out[0] = 6;
                    out[1..].copy_from_slice(&Ipv6Addr::octets(&v6)[..6]);
                }
            },
        }
        Self(out)
    }
}

/// So many per time, and so many at once.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Tokens that come back per second.
    pub per_second: u32,
    /// Tokens of a full bucket.
    pub burst: u32,
}

/// One bucket. Starts full.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// Tokens used, in thousandths.
    used_milli: u64,
    seen: Duration,
}

/// One token, in the unit of [`Bucket::used_milli`].
const TOKEN: u64 = 1000;

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub const fn full() -> Self {
        Self { used_milli: 0, seen: Duration::ZERO }
    }

    /// Takes a token if there is one at `now`, any monotonic time.
    pub fn take(&mut self, rate: Rate, now: Duration) -> bool {
        let free = self.has(rate, now);
        if free {
            self.used_milli += TOKEN;
        }
        free
    }

    /// Puts a token back that was taken for something that cost nothing.
    pub fn give_back(&mut self) {
        self.used_milli = self.used_milli.saturating_sub(TOKEN);
    }

    /// Whether nothing is used, so that forgetting the bucket changes nothing.
    pub fn is_full(&mut self, rate: Rate, now: Duration) -> bool {
        self.has(rate, now) && self.used_milli == 0
    }

    /// Whether there is a token.
    pub fn has(&mut self, rate: Rate, now: Duration) -> bool {
        let passed_ms = u64::try_from(now.saturating_sub(self.seen).as_millis()).unwrap_or(u64::MAX);
        if passed_ms > 0 {
            self.used_milli = self.used_milli.saturating_sub(passed_ms.saturating_mul(rate.per_second.into()));
            self.seen = now;
        }
        self.used_milli + TOKEN <= u64::from(rate.burst) * TOKEN
    }
}

/// Buckets of all prefixes.
#[derive(Debug)]
pub struct Buckets {
    rate: Rate,
    seed: [u8; 32],
    slots: Box<[Bucket]>,
}

impl Buckets {
    /// Slots per table. 1,024 sites share few buckets among each other, and the
    /// table takes 24 KiB.
    pub const SLOTS: usize = 1024;

    /// Full buckets, spread by `seed`.
    #[must_use]
    pub fn new(rate: Rate, seed: [u8; 32]) -> Self {
        Self { rate, seed, slots: vec![Bucket::full(); Self::SLOTS].into_boxed_slice() }
    }

    /// Takes a token of this prefix, if there is one.
    pub fn take(&mut self, prefix: Prefix, now: Duration) -> bool {
        let rate = self.rate;
        self.slot(prefix).take(rate, now)
    }

    /// Whether this prefix has a token.
    pub fn has(&mut self, prefix: Prefix, now: Duration) -> bool {
        let rate = self.rate;
        self.slot(prefix).has(rate, now)
    }

    /// Puts a token of this prefix back.
    pub fn give_back(&mut self, prefix: Prefix) {
        self.slot(prefix).give_back();
    }

    fn slot(&mut self, prefix: Prefix) -> &mut Bucket {
        let hash = blake3::keyed_hash(&self.seed, &prefix.0);
        let at = usize::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]])) % self.slots.len();
        &mut self.slots[at]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 20 };

    fn prefix(text: &str) -> Prefix {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn a_prefix_is_a_site() {
        assert_eq!(prefix("192.0.2.1"), prefix("192.0.2.254"));
        assert_ne!(prefix("192.0.2.1"), prefix("192.0.3.1"));
        assert_eq!(prefix("::ffff:192.0.2.9"), prefix("192.0.2.1"));
        assert_eq!(prefix("2001:db8:1:2::3"), prefix("2001:db8:1:ffff::"));
        assert_ne!(prefix("2001:db8:1::"), prefix("2001:db8:2::"));
        assert_ne!(prefix("::"), prefix("0.0.0.0"));
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut buckets = Buckets::new(RATE, [7; 32]);
        let (one, other) = (prefix("192.0.2.1"), prefix("198.51.100.1"));
        let at = Duration::from_millis;
        assert_eq!((0..50).filter(|_| buckets.take(one, at(5_000))).count(), 20);
        assert!(buckets.has(other, at(5_000)) && !buckets.has(one, at(5_000)));
        assert_eq!((0..1_000).filter(|ms| buckets.take(one, at(5_001 + ms))).count(), 10);
        // A clock that stands still or goes back gives nothing.
        assert!(!buckets.take(one, at(0)));
        assert_eq!((0..50).filter(|_| buckets.take(one, at(60_000))).count(), 20);
    }

    #[test]
    fn sources_spread_over_the_table() {
        let mut buckets = Buckets::new(Rate { per_second: 0, burst: 1 }, [7; 32]);
        let all = (0..=255u8).filter(|net| buckets.take(IpAddr::from([10, 0, *net, 1]).into(), Duration::ZERO));
        // With 256 in 1,024 slots about 30 share one; a bad hash would show as many.
        assert!(all.count() > 200);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(steps in prop::collection::vec(0u64..500, 1..300)) {
            let mut bucket = Bucket::full();
            let (mut now, mut taken) = (0, 0);
            for step in steps {
                now += step;
                taken += u64::from(bucket.take(RATE, Duration::from_millis(now)));
                prop_assert!(taken * TOKEN <= u64::from(RATE.burst) * TOKEN + now * u64::from(RATE.per_second));
            }
        }
    }
}
