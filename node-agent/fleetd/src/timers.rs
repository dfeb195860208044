//! Periods that end in a `Deadline` entry. *Pure*: the clock is an argument.
//!
//! Only the leader has timers, on the clock that counts suspended time and
//! never jumps (BOOTTIME). A new leader has none and starts each period anew,
//! so a failover can only lengthen a period (`architecture.md` 4.1).
//!
//! Invariant: a period fires at most once for as long as it is wanted, unless
//! [`Timers::again`] says that its entry was not written.

use std::collections::BTreeMap;
use std::time::Duration;

/// The running periods, by what they are for.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    running: BTreeMap<K, Running>,
}

#[derive(Debug)]
struct Running {
    started: Duration,
    fired: bool,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { running: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// Brings the running periods in line with the wanted ones at time `now`
    /// and returns those that are over. A period that is new starts now; one
    /// that is not wanted any more is forgotten.
    pub(crate) fn due(&mut self, wanted: impl IntoIterator<Item = (K, Duration)>, now: Duration) -> Vec<K> {
        let mut kept = BTreeMap::new();
        let mut due = Vec::new();
        for (key, period) in wanted {
            let mut running = self.running.remove(&key).unwrap_or(Running { started: now, fired: false });
            if !running.fired && now.saturating_sub(running.started) >= period {
                running.fired = true;
                due.push(key);
            }
            kept.insert(key, running);
        }
        self.running = kept;
        due
    }

    /// Lets a period fire again: its entry could not be written.
    pub(crate) fn again(&mut self, key: K) {
        if let Some(running) = self.running.get_mut(&key) {
            running.fired = false;
        }
    }

    /// Forgets everything: this node no longer leads.
    pub(crate) fn clear(&mut self) {
        self.running.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_period_fires_once_when_it_is_over() {
        let mut timers = Timers::default();
        assert!(timers.due([("a", 2 * SECOND)], SECOND).is_empty());
        assert!(timers.due([("a", 2 * SECOND)], 2 * SECOND).is_empty());
        assert_eq!(timers.due([("a", 2 * SECOND)], 3 * SECOND), ["a"]);
        assert!(timers.due([("a", 2 * SECOND)], 9 * SECOND).is_empty());
        timers.again("a");
        assert_eq!(timers.due([("a", 2 * SECOND)], 9 * SECOND), ["a"]);
    }

    #[test]
    fn a_period_that_was_not_wanted_for_a_while_starts_anew() {
        let mut timers = Timers::default();
        assert!(timers.due([("a", 2 * SECOND)], SECOND).is_empty());
        assert!(timers.due([("b", 2 * SECOND)], 2 * SECOND).is_empty());
        assert!(timers.due([("a", 2 * SECOND)], 4 * SECOND).is_empty());
        timers.clear();
        assert!(timers.due([("a", 2 * SECOND)], 60 * SECOND).is_empty());
    }

    #[test]
    fn a_clock_that_stands_still_or_steps_back_fires_nothing() {
        let mut timers = Timers::default();
        assert!(timers.due([("a", SECOND)], 5 * SECOND).is_empty());
        assert!(timers.due([("a", SECOND)], SECOND).is_empty());
    }
}
