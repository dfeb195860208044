//! Who makes backups and puts them back.
//!
//! One trait, so that agentd can plan and record the same way whether it copies
//! its own folder or execd, which may read every daemon's, does it all.

use std::collections::BTreeMap;

use osmoda_kit::clock::Timestamp;

use crate::archive::{Archive, Listed};
use crate::error::BackupError;
use crate::manifest::Manifest;
use crate::plan::{Limits, Plan};
use crate::restore::{Restored, Target};

/// Makes backups and puts them back. Every method blocks.
pub trait Performer: Send + Sync + 'static {
    /// Makes, checks and lists a backup.
    ///
    /// # Errors
    /// [`BackupError`]; then nothing was listed.
    fn create(&self, plan: &Plan, now: Timestamp) -> Result<(Listed, Manifest), BackupError>;

    /// Finished backups, newest first.
    ///
    /// # Errors
    /// [`BackupError`].
    fn list(&self) -> Result<Vec<Listed>, BackupError>;

    /// Puts a backup back whose manifest has this hash. The daemons must not run.
    ///
    /// # Errors
    /// [`BackupError`].
    fn restore(&self, id: &str, manifest_sha256: &str, limits: Limits) -> Result<Restored, BackupError>;
}

/// Works in this process, on folders this process may read and write.
#[derive(Debug, Clone)]
pub struct Local {
    /// Where backups lie.
    pub archive: Archive,
    /// Where each source goes back to.
    pub targets: BTreeMap<String, Target>,
}

impl Performer for Local {
    fn create(&self, plan: &Plan, now: Timestamp) -> Result<(Listed, Manifest), BackupError> {
        self.archive.create(plan, now)
    }

    fn list(&self) -> Result<Vec<Listed>, BackupError> {
        self.archive.list()
    }

    fn restore(&self, id: &str, manifest_sha256: &str, limits: Limits) -> Result<Restored, BackupError> {
        self.archive.restore(id, Some(manifest_sha256), &self.targets, limits)
    }
}
