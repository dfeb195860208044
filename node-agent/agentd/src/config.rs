//! What agentd can be told, in `agentd.toml`. Everything has a default.

use osmoda_kit::config::Validate;
use serde::Deserialize;

use crate::checkpoint::EVERY;
use crate::ledger::RESERVE_MEBIBYTES;

/// The settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Backups.
    pub backup: Backups,
    /// How long rows of the ledger are kept.
    pub retention: Retention,
    /// The ledger.
    pub ledger: Ledger,
}

/// How the ledger is looked after.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ledger {
    /// Seconds between two verifications of the whole ledger.
    pub verify_every_seconds: u32,
    /// Mebibytes that must be free beside the ledger for an act to begin; 0 for none.
    pub reserve_mebibytes: u32,
}

impl Default for Ledger {
    fn default() -> Self {
        let verify_every_seconds = u32::try_from(EVERY.as_secs()).expect("half an hour is a small number");
        Self { verify_every_seconds, reserve_mebibytes: RESERVE_MEBIBYTES }
    }
}

/// How long rows of the ledger are kept (docs/ledger.md). Both off: for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Days after which rows may go; 0 for never.
    pub days: u32,
    /// Mebibytes of rows above which the oldest go; 0 for any size.
    pub mebibytes: u64,
}

/// Shortest retention by age: a month of rows is what an enquiry needs, and what
/// the backups of a week refer to.
const DAYS_MIN: u32 = 30;

/// Smallest retention by size: some 100,000 rows.
const MEBIBYTES_MIN: u64 = 64;

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
        // A walk costs two seconds for a million rows; a day is a day of not knowing.
        if !(1..=86_400).contains(&self.ledger.verify_every_seconds) {
            let seconds = self.ledger.verify_every_seconds;
            faults.push(format!("ledger.verify_every_seconds is {seconds}, must be 1 to 86400"));
        }
        let backup = &self.backup;
        // A year; beyond it "never" was meant, which is 0.
        if backup.every_hours > 8760 {
            faults.push(format!("backup.every_hours is {}, must be 0 to 8760", backup.every_hours));
        }
        let Retention { days, mebibytes } = self.retention;
        if days != 0 && days < DAYS_MIN {
            faults.push(format!("retention.days is {days}, must be 0 or at least {DAYS_MIN}"));
        }
        if mebibytes != 0 && mebibytes < MEBIBYTES_MIN {
            faults.push(format!("retention.mebibytes is {mebibytes}, must be 0 or at least {MEBIBYTES_MIN}"));
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
        let retention = Retention { days: 29, mebibytes: 1 };
        let ledger = Ledger { verify_every_seconds: 0, ..Ledger::default() };
        assert_eq!(Config { backup, retention, ledger }.faults().len(), 4);
    }
}
