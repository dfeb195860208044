//! Settings: `<etc>/mesh.toml`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use osmoda_kit::config::Validate;
use osmoda_mesh::{KnockFallback, Tuning};
use serde::Deserialize;

use crate::blobs::Limits;

/// The mesh's UDP port (`architecture.md` 7).
const PORT: u16 = 18_800;

/// The shortest idle time: below it a host that stalls on its disk for a moment
/// loses its links.
const IDLE_MS_MIN: u64 = 1_000;

/// The longest idle time: a dead peer is noticed within a minute.
const IDLE_MS_MAX: u64 = 60_000;

/// Blobs kept unless set otherwise: a few dozen generations' manifests and one
/// large closure.
const BLOB_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// Blobs per second and peer unless set otherwise: a quarter of a gigabit link,
/// in bytes.
const BLOB_RATE: u64 = 32 * 1024 * 1024;

/// The lowest rate: below it a slice of a megabyte takes longer than its asker
/// waits.
const BLOB_RATE_MIN: u64 = 64 * 1024;

/// The settings, each with its default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen on UDP.
    pub listen: SocketAddr,
    /// A link that is silent for this long is dead, in milliseconds.
    pub idle_ms: u64,
    /// How often a silent link is probed, in milliseconds; at most half of `idle_ms`.
    pub keep_alive_ms: u64,
    /// Who may begin without a knock after proving its address: `off`,
    /// `members`, or `anyone`, which ends the port's silence.
    pub knock_fallback: KnockFallback,
    /// Bytes of all blobs together.
    pub blob_bytes_max: u64,
    /// Bytes of blobs per second that one peer gets.
    pub blob_rate: u64,
}

impl Default for Config {
    fn default() -> Self {
        let Tuning { idle, keep_alive, .. } = Tuning::default();
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, PORT).into(),
            idle_ms: millis(idle),
            keep_alive_ms: millis(keep_alive),
            knock_fallback: KnockFallback::default(),
            blob_bytes_max: BLOB_BYTES_MAX,
            blob_rate: BLOB_RATE,
        }
    }
}

impl Validate for Config {
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !(IDLE_MS_MIN..=IDLE_MS_MAX).contains(&self.idle_ms) {
            faults.push(format!("idle_ms: {} is not between {IDLE_MS_MIN} and {IDLE_MS_MAX}", self.idle_ms));
        }
        if self.keep_alive_ms == 0 || self.keep_alive_ms > self.idle_ms / 2 {
            faults.push(format!("keep_alive_ms: {} is not between 1 and half of idle_ms", self.keep_alive_ms));
        }
        if self.blob_rate < BLOB_RATE_MIN {
            faults.push(format!("blob_rate: {} is below {BLOB_RATE_MIN} bytes per second", self.blob_rate));
        }
        faults
    }
}

impl Config {
    pub(crate) fn blobs(&self) -> Limits {
        Limits { bytes_max: self.blob_bytes_max, rate: self.blob_rate }
    }

    pub(crate) fn tuning(&self) -> Tuning {
        Tuning {
            idle: Duration::from_millis(self.idle_ms),
            keep_alive: Duration::from_millis(self.keep_alive_ms),
            knock_fallback: self.knock_fallback,
            ..Tuning::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_faults_are_found_together() {
        assert!(Config::default().faults().is_empty());
        let wrong = Config { idle_ms: 10, keep_alive_ms: 10, ..Config::default() };
        assert_eq!(wrong.faults().len(), 2);
    }
}
