//! What agentd can be told, in `agentd.toml`. Everything has a default.

use osmoda_kit::config::Validate;
use serde::Deserialize;

/// The settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Backups.
    pub backup: Backups,
}

/// When backups are made. Where they lie and how many are kept is said to the
/// executor, which makes them (`execd.toml`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backups {
    /// Hours between two backups; 0 makes none by itself.
    pub every_hours: u32,
}

impl Default for Backups {
    fn default() -> Self {
        Self { every_hours: 24 }
    }
}

impl Validate for Config {
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let backup = &self.backup;
        // A year; beyond it "never" was meant, which is 0.
        if backup.every_hours > 8760 {
            faults.push(format!("backup.every_hours is {}, must be 0 to 8760", backup.every_hours));
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
        let backup = Backups { every_hours: 9000 };
        assert_eq!(Config { backup }.faults().len(), 1);
    }
}
