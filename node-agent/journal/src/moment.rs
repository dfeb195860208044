//! When something happened, in a form that survives clock jumps.
//!
//! Durations are only ever taken between two moments of the same boot, from
//! `CLOCK_BOOTTIME`; the wall clock is for people. What a host calls its boot
//! is the text of one file, so that hosts which share a kernel (the test
//! hosts in namespaces) can still tell their own restarts apart.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the kernel gives its boot id.
pub const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// The longest boot id kept; the kernel's has 36 characters.
const BOOT_ID_BYTES_MAX: usize = 64;

/// A point in time on one host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Moment {
    /// Which boot of the host.
    pub boot_id: String,
    /// Milliseconds of `CLOCK_BOOTTIME`, which also counts suspend.
    pub boot_ms: u64,
    /// Milliseconds since the Unix epoch, for people only.
    pub wall_ms: i64,
}

impl Moment {
    /// Time from `earlier` to this moment; `None` across a restart of the host.
    #[must_use]
    pub fn since(&self, earlier: &Moment) -> Option<Duration> {
        (self.boot_id == earlier.boot_id).then(|| Duration::from_millis(self.boot_ms.saturating_sub(earlier.boot_ms)))
    }
}

/// The host's clock as the journal sees it.
#[derive(Debug, Clone)]
pub struct HostClock {
    boot_id_file: PathBuf,
}

impl Default for HostClock {
    fn default() -> Self {
        Self::new(BOOT_ID_FILE)
    }
}

impl HostClock {
    /// A clock whose boot id is the text of `boot_id_file`.
    #[must_use]
    pub fn new(boot_id_file: impl Into<PathBuf>) -> Self {
        Self { boot_id_file: boot_id_file.into() }
    }

    /// The file that names the boot.
    #[must_use]
    pub fn boot_id_file(&self) -> &Path {
        &self.boot_id_file
    }

    /// The present moment.
    ///
    /// # Errors
    /// When the boot id cannot be read or is not plain text.
    pub fn now(&self) -> std::io::Result<Moment> {
        let text = std::fs::read_to_string(&self.boot_id_file)?;
        let boot_id = text.trim();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if boot_id.is_empty() || boot_id.len() > BOOT_ID_BYTES_MAX || !boot_id.bytes().all(plain) {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the boot id is not plain text"));
        }
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(boot.tv_sec).unwrap_or(0);
        let millis = u64::try_from(boot.tv_nsec).unwrap_or(0) / 1_000_000;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        Ok(Moment {
            boot_id: boot_id.to_owned(),
            boot_ms: seconds * 1000 + millis,
            wall_ms: i64::try_from(wall).unwrap_or(i64::MAX),
        })
    }
}
