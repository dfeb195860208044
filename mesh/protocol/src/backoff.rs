//! How long to wait before dialling again: exponential, capped, jittered.
//!
//! The jitter keeps the nodes of a fleet from dialling a returning peer in
//! step. Randomness is an argument, so a test says what it was.

use std::time::Duration;

/// The waits between failed attempts at one peer.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits from `first` up to `most`, doubling.
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// Notes a failure and returns the wait after it: between half of the full
    /// wait and all of it, chosen by `random`.
    pub fn after_failure(&mut self, random: u64) -> Duration {
        let full = self.first.saturating_mul(2u32.saturating_pow(self.failures)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        let half = full / 2;
        let jitter_ns = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(random % jitter_ns.saturating_add(1).max(1))
    }

    /// Forgets the failures, after a success or news about the peer.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(5);

    proptest! {
        #[test]
        fn waits_grow_to_the_cap_and_start_again_after_a_reset(random in any::<u64>(), failures in 0u32..80) {
            let mut backoff = Backoff::new(FIRST, MOST);
            for n in 0..failures {
                let full = FIRST.saturating_mul(2u32.saturating_pow(n)).min(MOST);
                let wait = backoff.after_failure(random);
                prop_assert!(wait >= full / 2 && wait <= full, "{wait:?} after {n}");
            }
            backoff.reset();
            prop_assert!(backoff.after_failure(random) <= FIRST);
        }
    }
}
