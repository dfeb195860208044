//! What agentd can be told, in `agentd.toml`. Everything has a default.

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

/// When backups are made and how many are kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backups {
    /// Hours between two backups; 0 makes none by itself.
    pub every_hours: u32,
    /// How many are kept; the earlier product kept seven.
    pub keep: usize,
    /// Where they lie; `backups` in the daemon's state folder when absent. A
    /// folder on another disk must be writable for the daemon's user.
    pub folder: Option<PathBuf>,
}

impl Default for Backups {
    fn default() -> Self {
        Self { every_hours: 24, keep: 7, folder: None }
    }
}

impl Validate for Config {
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let backup = &self.backup;
        if !(1..=1000).contains(&backup.keep) {
            faults.push(format!("backup.keep is {}, must be 1 to 1000", backup.keep));
        }
        // A year; beyond it "never" was meant, which is 0.
        if backup.every_hours > 8760 {
            faults.push(format!("backup.every_hours is {}, must be 0 to 8760", backup.every_hours));
        }
        if backup.folder.as_ref().is_some_and(|folder| !folder.is_absolute()) {
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
        let backup = Backups { every_hours: 9000, keep: 0, folder: Some("rel".into()) };
        assert_eq!(Config { backup }.faults().len(), 3);
    }
}
