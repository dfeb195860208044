//! What the executor can be told, in `execd.toml`. Everything has a default.
//!
//! Where backups lie is said here and not in agentd's file: root writes there,
//! and whom agentd answers to must not say where root writes.

use std::path::PathBuf;

use osmoda_kit::config::Validate;
use serde::Deserialize;

/// The settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Backups.
    pub backup: Backups,
}

/// Where backups lie and how many are kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backups {
    /// How many are kept; the earlier product kept seven.
    pub keep: usize,
    /// Where they lie, better on another disk; `backups` in the daemon's state
    /// folder when absent.
    pub folder: Option<PathBuf>,
}

impl Default for Backups {
    fn default() -> Self {
        Self { keep: 7, folder: None }
    }
}

impl Validate for Config {
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !(1..=1000).contains(&self.backup.keep) {
            faults.push(format!("backup.keep is {}, must be 1 to 1000", self.backup.keep));
        }
        if self.backup.folder.as_ref().is_some_and(|folder| !folder.is_absolute()) {
            faults.push("backup.folder must be an absolute path".to_owned());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_sound_and_faults_are_named() {
        assert_eq!(Config::default().faults(), [""; 0]);
        let backup = Backups { keep: 0, folder: Some("rel".into()) };
        assert_eq!(Config { backup }.faults().len(), 2);
    }
}
