//! How the host is: processors, memory, disks, for `/health`.
//!
//! Reading it takes a few system calls per mount, so one sampler is shared and
//! asks the kernel at most once a second. It blocks; callers run it off the
//! async threads.

use std::time::{Duration, Instant};

use osmoda_kit::version::VERSION;
use osmoda_node_api::agentd::{Disk, HostHealth, LoadAverage};
use sysinfo::{CpuRefreshKind, DiskRefreshKind, Disks, MemoryRefreshKind, RefreshKind, System};

/// Shortest time between two samples. Processor load is a difference between
/// samples; below sysinfo's own minimum (200 ms) it would be noise, and a
/// caller that asks in a loop must not cost the host more than one look a second.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// The host could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("the host's numbers cannot be read")]
pub struct HostError(#[from] sysinfo::Error);

/// Keeps what the kernel said last.
#[derive(Debug)]
pub struct Sampler {
    system: System,
    disks: Disks,
    taken: Instant,
}

impl Sampler {
    /// Takes the first sample, so that the first question already has a load.
    ///
    /// # Errors
    /// [`HostError`] where the kernel does not tell.
    pub fn new() -> Result<Self, HostError> {
        let what = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing().with_usage())
            .with_memory(MemoryRefreshKind::everything());
        Ok(Self { system: System::new_with_specifics(what)?, disks: Disks::new()?, taken: Instant::now() })
    }

    /// The host's health, at most a second old. `status` says whether the
    /// ledger can be written.
    ///
    /// # Errors
    /// [`HostError`] where the kernel does not tell.
    pub fn sample(&mut self, is_writable: bool) -> Result<HostHealth, HostError> {
        if self.taken.elapsed() >= SAMPLE_EVERY || self.disks.is_empty() {
            self.taken = Instant::now();
            self.system.refresh_cpu_usage();
            self.system.refresh_memory();
            self.disks.refresh_specifics(true, DiskRefreshKind::nothing().with_storage());
        }
        let load = System::load_average()?;
        Ok(HostHealth {
            status: if is_writable { "ok" } else { "degraded" }.to_owned(),
            cpu_usage: self.system.cpus().iter().map(sysinfo::Cpu::usage).collect(),
            memory_total: self.system.total_memory(),
            memory_used: self.system.used_memory(),
            memory_available: self.system.available_memory(),
            swap_total: self.system.total_swap(),
            swap_used: self.system.used_swap(),
            load_average: LoadAverage { one: load.one, five: load.five, fifteen: load.fifteen },
            uptime: System::uptime()?,
            hostname: System::host_name()?,
            disks: self.disks.iter().map(disk).collect(),
            version: VERSION.version.to_owned(),
            commit: VERSION.commit.to_owned(),
            dirty: VERSION.dirty,
            ledger: None,
        })
    }
}

fn disk(disk: &sysinfo::Disk) -> Disk {
    let (total, available) = (disk.total_space(), disk.available_space());
    Disk {
        mount_point: disk.mount_point().to_string_lossy().into_owned(),
        total,
        used: total.saturating_sub(available),
        available,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_about_this_host() {
        let health = Sampler::new().unwrap().sample(true).unwrap();
        assert_eq!(health.status, "ok");
        assert!(!health.cpu_usage.is_empty() && health.memory_total > 0 && health.uptime > 0);
        assert!(health.memory_used <= health.memory_total && !health.hostname.is_empty());
        for disk in &health.disks {
            assert!(disk.used <= disk.total, "{disk:?}");
        }
    }

    #[test]
    fn a_ledger_that_cannot_be_written_shows() {
        assert_eq!(Sampler::new().unwrap().sample(false).unwrap().status, "degraded");
    }
}
