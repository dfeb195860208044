//! When a daemon that ended is started again. *Pure*: time is an argument.
//!
//! Invariant: the pause between two starts never exceeds [`PAUSE_MAX`] and a
//! daemon that stayed up for [`STEADY`] begins again with the shortest pause.

use std::time::Duration;

/// The first pause: long enough that a daemon which dies at once does not take
/// a whole core, short enough that one crash is hardly noticed.
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(200);

/// The longest pause. An operator who mends a fault sees the daemon come back
/// within this time without doing more.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A run of this length counts as healthy.
pub(crate) const STEADY: Duration = Duration::from_secs(30);

/// The pauses of one daemon.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    in_a_row: u32,
}

impl Restarts {
    /// The daemon ended after running for `ran`. Returns the pause before the
    /// next start.
    pub(crate) fn ended(&mut self, ran: Duration) -> Duration {
        self.in_a_row = if ran >= STEADY { 0 } else { self.in_a_row.saturating_add(1) };
        let doublings = self.in_a_row.saturating_sub(1).min(16);
        PAUSE_MIN.saturating_mul(1 << doublings).min(PAUSE_MAX)
    }

    /// How many short runs there were in a row.
    #[must_use]
    pub(crate) const fn in_a_row(&self) -> u32 {
        self.in_a_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_a_steady_run_resets_them() {
        let mut restarts = Restarts::default();
        let pauses: Vec<u64> =
            (0..8).map(|_| restarts.ended(Duration::from_secs(1)).as_millis().try_into().unwrap()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(restarts.ended(STEADY), PAUSE_MIN);
        assert_eq!(restarts.in_a_row(), 0);
    }
}
