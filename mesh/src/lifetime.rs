//! How long keys live: when a link updates its keys, when it is made anew, and
//! when one that was made anew is let go. *Pure.*
//!
//! A key update is a ratchet: it protects earlier traffic against later theft of
//! the keys in memory, from the same handshake. A new handshake brings new
//! ephemeral secrets, ML-KEM included, and proves membership again. The new link
//! is up before the old one ends (make before break); the old one ends when no
//! stream uses it, or after a limit.

use std::time::Duration;

/// The periods of a link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Periods {
    pub(crate) key_update: Duration,
    pub(crate) handshake: Duration,
    /// Between two tries of a new handshake.
    pub(crate) retry: Duration,
}

/// What a link must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    KeyUpdate,
    Handshake,
}

/// How much later than the initiator the listener updates keys. Both ends see
/// each other's updates, so only the first to be due acts: two updates at
/// about the same moment may leave one end a generation behind, because quinn
/// begins the second before a packet under the first was seen (RFC 9001 section
/// 6.5 forbids that; seen in `tests/one/lifetime.rs` on 2026-11-22).
const LISTENER_LATER: u32 = 10;

/// The age of one link, in boot time.
#[derive(Debug)]
pub(crate) struct Lifetime {
    periods: Periods,
    born: Duration,
    keyed: Duration,
    key_updates: u64,
    tried: Option<Duration>,
}

impl Lifetime {
    pub(crate) fn new(periods: Periods, now: Duration) -> Self {
        Self { periods, born: now, keyed: now, key_updates: 0, tried: None }
    }

    /// Notes how often keys were updated so far, by either end.
    pub(crate) fn updated(&mut self, key_updates: u64, now: Duration) {
        if self.key_updates != key_updates {
            (self.key_updates, self.keyed) = (key_updates, now);
        }
    }

    /// When keys were last made, as far as this end has seen.
    pub(crate) fn keyed(&self) -> Duration {
        self.keyed
    }

    /// What is due at `now`. A key update stays due until [`Self::updated`] hears
    /// of it, because quinn ignores one that follows another too closely. `stale` says that the link was made
    /// with a secret that would not be used today. Only its initiator makes a
    /// link anew, so that the two ends do not both dial.
    pub(crate) fn look(&mut self, now: Duration, initiator: bool, stale: bool) -> Due {
        let since = |then: Duration| now.saturating_sub(then);
        let due = stale || since(self.born) >= self.periods.handshake;
        if initiator && due && self.tried.is_none_or(|tried| since(tried) >= self.periods.retry) {
            self.tried = Some(now);
            return Due::Handshake;
        }
        let period = self.periods.key_update;
        let period = if initiator { period } else { period + period / LISTENER_LATER };
        if since(self.keyed) >= period {
            return Due::KeyUpdate;
        }
        Due::Nothing
    }
}

/// The end of a link that another one has followed.
#[derive(Debug)]
pub(crate) struct Drain {
    since: Duration,
    quiet: Option<Duration>,
}

impl Drain {
    pub(crate) fn new(now: Duration) -> Self {
        Self { since: now, quiet: None }
    }

    /// Whether the link may end. `quiet` is how long no stream must have used
    /// it: bytes of a stream that is over may still be on their way. `most`
    /// bounds the whole.
    pub(crate) fn over(&mut self, now: Duration, in_use: bool, quiet: Duration, most: Duration) -> bool {
        self.quiet = if in_use { None } else { self.quiet.or(Some(now)) };
        let silent = self.quiet.is_some_and(|since| now.saturating_sub(since) >= quiet);
        silent || now.saturating_sub(self.since) >= most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const PERIODS: Periods =
        Periods { key_update: MINUTE.saturating_mul(30), handshake: MINUTE.saturating_mul(120), retry: MINUTE };

    #[test]
    fn keys_are_updated_every_half_hour_and_the_initiator_makes_a_new_link_after_two_hours() {
        for initiator in [true, false] {
            let mut life = Lifetime::new(PERIODS, MINUTE);
            let mut updates = 0;
            let mut look = |minute| {
                let due = life.look(MINUTE * minute, initiator, false);
                updates += u64::from(due == Due::KeyUpdate);
                life.updated(updates, MINUTE * minute);
                (minute, due)
            };
            let due: Vec<_> = (2..=123).map(&mut look).collect();
            let of = |what| due.iter().filter(|(_, due)| *due == what).map(|(at, _)| *at).collect::<Vec<_>>();
            let (updates, handshakes) = (of(Due::KeyUpdate), of(Due::Handshake));
            assert_eq!(updates[..3], if initiator { [31, 61, 91] } else { [34, 67, 100] });
            // A try that failed is repeated; the listener never tries.
            assert_eq!(handshakes, if initiator { vec![121, 122, 123] } else { vec![] });
        }
    }

    #[test]
    fn an_update_by_the_other_end_counts() {
        let mut life = Lifetime::new(PERIODS, MINUTE);
        life.updated(1, MINUTE * 31);
        assert_eq!((life.look(MINUTE * 34, false, false), life.keyed()), (Due::Nothing, MINUTE * 31));
        life.updated(1, MINUTE * 40);
        assert_eq!(life.look(MINUTE * 64, false, false), Due::KeyUpdate);
    }

    #[test]
    fn a_stale_secret_makes_a_new_link_at_once_and_then_at_the_retry_period() {
        let mut life = Lifetime::new(PERIODS, MINUTE);
        assert_eq!(life.look(MINUTE, false, true), Due::Nothing);
        assert_eq!(life.look(MINUTE, true, true), Due::Handshake);
        assert_eq!(life.look(MINUTE, true, true), Due::Nothing);
        assert_eq!(life.look(MINUTE * 2, true, true), Due::Handshake);
    }

    #[test]
    fn a_followed_link_ends_when_it_was_quiet_or_at_its_limit() {
        let (quiet, most) = (Duration::from_secs(2), MINUTE);
        let at = Duration::from_secs;
        let mut drain = Drain::new(at(0));
        assert!(!drain.over(at(1), false, quiet, most));
        assert!(!drain.over(at(2), true, quiet, most), "used again");
        assert!(!drain.over(at(3), false, quiet, most));
        assert!(drain.over(at(5), false, quiet, most));
        assert!(Drain::new(at(0)).over(at(60), true, quiet, most));
    }
}
