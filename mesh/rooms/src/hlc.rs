//! Hybrid logical time: wall milliseconds that never run backwards and are
//! larger than everything the node has seen.
//!
//! Invariant: a message that is more than [`AHEAD_ACCEPTED`] ahead of this
//! node's wall clock never moves the node's clock, so one wrong clock cannot
//! drag the others along.

use serde::{Deserialize, Serialize};

use crate::limits::{AHEAD_ACCEPTED, AHEAD_QUARANTINED};

/// Bits of the counter within one millisecond.
const COUNTER_BITS: u32 = 16;

/// The largest wall time there is, in ms: beyond the year 6000, and below the
/// sign bit of a 64-bit integer in a database.
pub const WALL_MS_MAX: u64 = (1 << 47) - 1;

/// A moment: 47 bits of milliseconds since 1970, 16 bits of counter. A counter
/// that runs over goes into the milliseconds, so the next moment always exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hlc(u64);

impl Hlc {
    /// The first moment of a millisecond.
    #[must_use]
    pub const fn at(wall_ms: u64) -> Self {
        let wall = if wall_ms > WALL_MS_MAX { WALL_MS_MAX } else { wall_ms };
        Self(wall << COUNTER_BITS)
    }

    /// Wraps a number that was stored or received.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        if number >> COUNTER_BITS <= WALL_MS_MAX { Some(Self(number)) } else { None }
    }

    /// As a number; larger is later.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The physical part in ms.
    #[must_use]
    pub const fn wall_ms(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// The moment after this one; the last one stays.
    #[must_use]
    pub const fn next(self) -> Self {
        if self.0 >= (WALL_MS_MAX << COUNTER_BITS) | 0xffff { self } else { Self(self.0 + 1) }
    }
}

/// What the clock says about a message's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// It may be taken now.
    Accepted,
    /// It waits until its time has come.
    Quarantined,
    /// It is refused.
    Refused,
}

/// The clock of one node, over all its rooms.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    last: Hlc,
}

impl Clock {
    /// A clock that continues after the newest known moment.
    #[must_use]
    pub const fn after(last: Hlc) -> Self {
        Self { last }
    }

    /// The newest moment that it gave or followed.
    #[must_use]
    pub const fn last(&self) -> Hlc {
        self.last
    }

    /// The time for a new message: later than all before it.
    pub fn tick(&mut self, wall_ms: u64) -> Hlc {
        self.last = self.last.next().max(Hlc::at(wall_ms));
        self.last
    }

    /// Judges a received time, and follows it if it is accepted.
    pub fn observe(&mut self, time: Hlc, wall_ms: u64) -> Ahead {
        let verdict = judge(time, wall_ms);
        if verdict == Ahead::Accepted {
            self.last = self.last.max(time);
        }
        verdict
    }
}

/// How far ahead a time is of a wall clock.
#[must_use]
pub fn judge(time: Hlc, wall_ms: u64) -> Ahead {
    let ahead = u128::from(time.wall_ms().saturating_sub(wall_ms));
    if ahead <= AHEAD_ACCEPTED.as_millis() {
        Ahead::Accepted
    } else if ahead <= AHEAD_QUARANTINED.as_millis() {
        Ahead::Quarantined
    } else {
        Ahead::Refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_runs_forward_whatever_the_wall_does() {
        let mut clock = Clock::default();
        let first = clock.tick(1_000);
        let second = clock.tick(1_000);
        let third = clock.tick(10);
        assert!(first < second && second < third);
        assert_eq!(third.wall_ms(), 1_000);
        assert_eq!(clock.observe(Hlc::at(5_000), 1_000), Ahead::Accepted);
        assert!(clock.tick(1_000) > Hlc::at(5_000));
    }

    #[test]
    fn the_bounds_are_those_of_the_design_and_a_wrong_clock_drags_nobody() {
        for (ahead, verdict) in [
            (0, Ahead::Accepted),
            (60_000, Ahead::Accepted),
            (60_001, Ahead::Quarantined),
            (600_000, Ahead::Quarantined),
            (600_001, Ahead::Refused),
            (WALL_MS_MAX, Ahead::Refused),
        ] {
            let mut clock = Clock::default();
            assert_eq!(clock.observe(Hlc::at(1_000 + ahead), 1_000), verdict, "{ahead} ms");
            let follows = verdict == Ahead::Accepted && ahead > 0;
            assert_eq!(clock.tick(1_000).wall_ms() > 1_000, follows, "{ahead} ms");
        }
    }

    #[test]
    fn the_largest_moment_is_still_a_moment() {
        let last = Hlc::at(u64::MAX);
        assert_eq!(last.wall_ms(), WALL_MS_MAX);
        assert_eq!(Hlc::from_number(u64::MAX), None);
        let end = Hlc::from_number((WALL_MS_MAX << 16) | 0xffff).unwrap();
        assert_eq!(end.next(), end);
    }
}
