//! What an administrator can set: `<etc>/fleetd.toml`.

use osmoda_consensus::Timing;
use osmoda_kit::config::Validate;

/// Which network the voters are on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// One data centre: a lost leader is replaced within 2.1 s.
    #[default]
    Lan,
    /// Several continents: within 6.8 s.
    Wan,
}

/// The settings. All voters of a fleet need the same profile.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Periods of Raft. Default `lan`; with `wan`, failover takes three times as
    /// long and survives round trips of 300 ms. Since 0.1.
    pub profile: Profile,
}

impl Config {
    pub(crate) const fn timing(&self) -> Timing {
        match self.profile {
            Profile::Lan => Timing::LAN,
            Profile::Wan => Timing::WAN,
        }
    }
}

impl Validate for Config {
    fn faults(&self) -> Vec<String> {
        Vec::new()
    }
}
