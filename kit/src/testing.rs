//! Small real implementations for tests, in this crate and others (feature `testing`).

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::clock::{Clock, Timestamp};
use crate::paths::Paths;

/// Between two looks of [`wait_for`] and [`look_until`]: short against any limit a test gives,
/// long enough not to occupy a core.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A clock that moves only when told.
#[derive(Debug, Clone)]
pub struct FakeClock {
    now: Arc<Mutex<Now>>,
}

#[derive(Debug)]
struct Now {
    wall: Timestamp,
    boot: Duration,
    boot_id: u32,
}

impl FakeClock {
    /// Starts at 2026-01-01T00:00:00Z, one hour after boot.
    #[must_use]
    pub fn new() -> Self {
        let wall = Timestamp::from_millis(1_767_225_600_000);
        Self { now: Arc::new(Mutex::new(Now { wall, boot: Duration::from_secs(3600), boot_id: 1 })) }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, span: Duration) {
        self.change(|now| {
            now.wall = now.wall.plus(span);
            now.boot += span;
        });
    }

    /// Sets the wall clock alone, as an administrator or NTP would.
    pub fn jump_wall(&self, to: Timestamp) {
        self.change(|now| now.wall = to);
    }

    /// Restarts the machine: boot time from zero, another boot id.
    pub fn reboot(&self) {
        self.change(|now| {
            now.boot = Duration::ZERO;
            now.boot_id += 1;
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut Now) -> T) -> T {
        change(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for FakeClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for FakeClock {
    fn now_wall(&self) -> Timestamp {
        self.change(|now| now.wall)
    }

    fn now_boot(&self) -> Duration {
        self.change(|now| now.boot)
    }

    fn boot_id(&self) -> String {
        self.change(|now| format!("fake-boot-{}", now.boot_id))
    }
}

/// A root directory of one test's node, removed afterwards.
#[derive(Debug)]
pub struct TempRoot {
    dir: TempDir,
}

impl TempRoot {
    /// Makes the folder with its run, state and configuration folders.
    ///
    /// # Panics
    /// When the temp folder cannot be used.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("osm").tempdir().expect("the temp folder can be used");
        let paths = Paths::new(dir.path());
        for folder in [paths.run_dir(), paths.state_root(), paths.etc()] {
            crate::fsio::create_private_dir(&folder).expect("the temp folder can be used");
        }
        Self { dir }
    }

    /// Its paths.
    #[must_use]
    pub fn paths(&self) -> Paths {
        Paths::new(self.dir.path())
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Default for TempRoot {
    fn default() -> Self {
        Self::new()
    }
}

/// Looks again and again until `look` gives a value, and returns it.
///
/// # Panics
/// At the limit, with what was waited for.
pub async fn wait_for<T, F, Fut>(what: impl fmt::Display, limit: Duration, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let found = tokio::time::timeout(limit, async {
        loop {
            if let Some(value) = look().await {
                return value;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await;
    found.unwrap_or_else(|_| panic!("waited {limit:?} for {what}"))
}

/// As [`wait_for`] for a caller without a runtime that handles the limit itself:
/// looks every 5 ms until `look` gives a value. `None` at the limit.
///
/// # Errors
/// The first error of `look`.
pub fn look_until<T, E>(limit: Duration, mut look: impl FnMut() -> Result<Option<T>, E>) -> Result<Option<T>, E> {
    let began = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        if began.elapsed() >= limit {
            return Ok(None);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_fake_clock_moves_as_told() {
        let clock = FakeClock::new();
        let (boot, id) = (clock.now_boot(), clock.boot_id());
        clock.advance(Duration::from_secs(5));
        assert_eq!(clock.now_boot() - boot, Duration::from_secs(5));
        assert_eq!(clock.now_wall().to_string(), "2026-01-01T00:00:05.000Z");
        clock.jump_wall(Timestamp::from_millis(0));
        assert_eq!(clock.now_boot() - boot, Duration::from_secs(5));
        clock.reboot();
        assert_eq!(clock.now_boot(), Duration::ZERO);
        assert_ne!(clock.boot_id(), id);
        assert_eq!(wait_for("nothing", Duration::from_secs(1), async || Some(7)).await, 7);
    }

    #[test]
    fn a_look_ends_with_a_value_an_error_or_the_limit() {
        let limit = Duration::from_millis(20);
        let mut looks = 0;
        let third = || {
            looks += 1;
            Ok::<_, ()>((looks == 3).then_some(looks))
        };
        assert_eq!(look_until(Duration::from_secs(60), third), Ok(Some(3)));
        assert_eq!(look_until(limit, || Err::<Option<()>, _>("broken")), Err("broken"));
        assert_eq!(look_until(limit, || Ok::<Option<()>, ()>(None)), Ok(None));
    }
}
