//! Time, injected: wall time for records, boot time for deadlines.
//!
//! Invariant: deadlines are measured in boot time (`CLOCK_BOOTTIME`: monotonic,
//! counts suspend, restarts at zero with the machine, comparable between
//! processes); wall time is only written down, never compared with a deadline.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Where the kernel publishes the id of this boot.
const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// A moment of wall time: milliseconds since 1970-01-01T00:00:00Z.
/// Text form `YYYY-MM-DDTHH:MM:SS.mmmZ`, in JSON too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A text that is no [`Timestamp`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time: {0:?}")]
pub struct TimestampError(pub String);

impl Timestamp {
    /// Wraps milliseconds since the epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This moment plus a span; stops at the largest representable moment.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A moment outside the years -9999 to 9999 has no RFC 3339 text.
        let Ok(moment) = jiff::Timestamp::from_millisecond(self.0) else {
            return write!(f, "{}ms", self.0);
        };
        write!(f, "{moment:.3}")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<jiff::Timestamp>()
            .map(|moment| Self(moment.as_millisecond()))
            .map_err(|_| TimestampError(text.chars().take(40).collect()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a program takes its time from.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Wall time, for records.
    fn now_wall(&self) -> Timestamp;

    /// Time since the machine started, suspend included, for deadlines.
    fn now_boot(&self) -> Duration;

    /// Names this boot of the machine: boot times of different ids do not compare.
    fn boot_id(&self) -> String;
}

/// A clock that can be handed around.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    boot_id: String,
}

impl SystemClock {
    /// Reads the boot id once; it cannot change while the process lives. A host
    /// without `/proc` gets `unknown`, which equals no other boot's id but itself.
    #[must_use]
    pub fn new() -> Self {
        let boot_id = std::fs::read_to_string(BOOT_ID_PATH)
            .map(|text| text.trim().to_owned())
            .unwrap_or_else(|_| "unknown".to_owned());
        Self { boot_id }
    }

    /// The same, ready to hand around.
    #[must_use]
    pub fn shared() -> SharedClock {
        Arc::new(Self::new())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_wall(&self) -> Timestamp {
        Timestamp(jiff::Timestamp::now().as_millisecond())
    }

    fn now_boot(&self) -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    }

    fn boot_id(&self) -> String {
        self.boot_id.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_read_back_and_always_have_milliseconds() {
        let moment = Timestamp::from_millis(1_767_225_600_000);
        assert_eq!(moment.to_string(), "2026-01-01T00:00:00.000Z");
        assert_eq!("2026-01-01T00:00:00.000Z".parse(), Ok(moment));
        assert_eq!("2026-01-01T01:00:00+01:00".parse(), Ok(moment));
        assert_eq!(moment.plus(Duration::from_millis(1)).to_string(), "2026-01-01T00:00:00.001Z");
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert_eq!(Timestamp::from_millis(i64::MAX).to_string(), format!("{}ms", i64::MAX));
    }

    #[test]
    fn boot_time_runs_forward_and_the_boot_has_a_name() {
        let clock = SystemClock::new();
        let first = clock.now_boot();
        assert!(clock.now_boot() >= first && first > Duration::ZERO);
        assert!(!clock.boot_id().is_empty());
    }
}
