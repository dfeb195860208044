//! *Pure.* Things that happen often, gathered so that each kind is written down
//! at once and then counted.
//!
//! The first of a kind is due at the next look. Those like it that follow are
//! counted and due when [`REPEAT`] has passed since, so a caller that asks in a
//! loop makes a row a minute. Over all kinds, [`BURST`] rows may be written and
//! then one each [`REFILL`]: what waits longer is only counted further.
//! Invariant: nothing is lost in silence. What finds no place is counted, and
//! whoever writes asks for that count too.

use std::collections::BTreeMap;
use std::time::Duration;

/// Kinds that wait at once. Twenty callers that do everything there is stay
/// below it; each costs some hundred bytes.
pub const WAITING_MAX: usize = 256;

/// How long one kind is counted before its next row.
pub const REPEAT: Duration = Duration::from_secs(60);

/// Rows that may be written at once: as many as may wait.
pub const BURST: u32 = 256;

/// One row more each time this has passed: 8,640 a day and so some four
/// megabytes, whatever callers do.
pub const REFILL: Duration = Duration::from_secs(10);

/// What was gathered. `K` is the kind of a thing: all that is told of it but how
/// often.
#[derive(Debug)]
pub struct Gather<K> {
    waiting: BTreeMap<K, Waiting>,
    /// When kinds were written, for [`REPEAT`] after.
    written: BTreeMap<K, Duration>,
    lost: u64,
    /// Counts kinds, so that the longest waiting comes first.
    order: u64,
    /// Until when the rows written so far use the allowance up.
    spent_until: Duration,
}

#[derive(Debug)]
struct Waiting {
    count: u64,
    order: u64,
}

impl<K> Default for Gather<K> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), written: BTreeMap::new(), lost: 0, order: 0, spent_until: Duration::ZERO }
    }
}

impl<K: Ord + Clone> Gather<K> {
    /// Notes that it happened; `false` when it found no place and was only counted.
    pub fn add(&mut self, kind: K) -> bool {
        self.add_many(kind, 1)
    }

    /// Notes that it happened `count` times: also how what could not be written
    /// comes back.
    pub fn add_many(&mut self, kind: K, count: u64) -> bool {
        if let Some(waiting) = self.waiting.get_mut(&kind) {
            waiting.count = waiting.count.saturating_add(count);
            return true;
        }
        if self.waiting.len() >= WAITING_MAX {
            self.lost = self.lost.saturating_add(count);
            return false;
        }
        self.order += 1;
        self.waiting.insert(kind, Waiting { count, order: self.order });
        true
    }

    /// Takes what is to be written at `now`, a time since some fixed point, the
    /// longest waiting first.
    pub fn due(&mut self, now: Duration) -> Vec<(K, u64)> {
        self.written.retain(|_, at| now < at.saturating_add(REPEAT));
        let fresh = self.waiting.iter().filter(|(kind, _)| !self.written.contains_key(*kind));
        let mut due: Vec<(u64, K)> = fresh.map(|(kind, waiting)| (waiting.order, kind.clone())).collect();
        due.sort_by_key(|(order, _)| *order);
        let allowed = due.into_iter().take_while(|_| {
            let spent_until = self.spent_until.max(now) + REFILL;
            let is_allowed = spent_until <= now + REFILL * BURST;
            if is_allowed {
                self.spent_until = spent_until;
            }
            is_allowed
        });
        let kinds: Vec<K> = allowed.map(|(_, kind)| kind).collect();
        for kind in &kinds {
            self.written.insert(kind.clone(), now);
        }
        self.take(kinds)
    }

    /// Takes all that waits: before a stop, after which nothing counts further.
    pub fn rest(&mut self) -> Vec<(K, u64)> {
        let kinds = self.waiting.keys().cloned().collect();
        self.take(kinds)
    }

    /// Takes the count of what found no place.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Gives a count back that could not be written.
    pub fn add_lost(&mut self, count: u64) {
        self.lost = self.lost.saturating_add(count);
    }

    fn take(&mut self, kinds: Vec<K>) -> Vec<(K, u64)> {
        let taken = kinds.into_iter().filter_map(|kind| {
            let waiting = self.waiting.remove(&kind)?;
            Some((kind, waiting.count))
        });
        taken.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_is_due_at_once_and_the_rest_are_counted_for_a_minute() {
        let mut gather = Gather::default();
        gather.add("a");
        assert_eq!(gather.due(at(1)), [("a", 1)]);
        for _ in 0..1000 {
            gather.add("a");
        }
        gather.add("b");
        assert_eq!(gather.due(at(2)), [("b", 1)]);
        assert_eq!(gather.due(at(60)), []);
        assert_eq!(gather.due(at(61)), [("a", 1000)]);
    }

    #[test]
    fn what_finds_no_place_is_counted() {
        let mut gather = Gather::default();
        for n in 0..WAITING_MAX + 3 {
            gather.add(n);
        }
        assert!(gather.add(0));
        assert_eq!((gather.take_lost(), gather.take_lost()), (3, 0));
        assert_eq!(gather.rest().len(), WAITING_MAX);
    }

    /// A flood of ever new kinds for a day: as many rows as the allowance says.
    #[test]
    fn a_flood_does_not_grow_what_is_written_without_limit() {
        let (mut gather, mut rows, mut told) = (Gather::default(), 0, 0);
        let day = 24 * 3600;
        for second in 0..day {
            for n in 0..20_u64 {
                gather.add(second * 20 + n);
            }
            let due = gather.due(at(second));
            rows += due.len() as u64;
            told += due.iter().map(|(_, count)| count).sum::<u64>();
        }
        assert!(rows <= u64::from(BURST) + day / REFILL.as_secs() + 1, "{rows}");
        told += gather.rest().iter().map(|(_, count)| count).sum::<u64>();
        assert_eq!(told + gather.take_lost(), day * 20, "every one is in some count");
    }
}
