//! Operators: people or CI, known by a key that is held off the hosts.

use crate::ids::PublicKey;

/// Most principals of a fleet; the list is in every snapshot and every welcome.
pub const PRINCIPALS_MAX: usize = 256;

/// What a principal may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// Propose a rollout.
    Deploy,
    /// Pause, resume, abort, exclude, freeze, unfreeze, allow a denied target.
    Control,
    /// Add principals.
    Admin,
    /// Approve destructive calls.
    Approve,
}

impl Right {
    /// Every right; the first operator of a fleet has them all.
    pub const ALL: [Self; 4] = [Self::Deploy, Self::Control, Self::Admin, Self::Approve];

    /// The stable number in signed statements and in the log.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Deploy => 1,
            Self::Control => 2,
            Self::Admin => 3,
            Self::Approve => 4,
        }
    }

    /// The right with that number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|right| right.number() == number)
    }
}

/// One operator.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// What people call it.
    pub name: String,
    /// Its Ed25519 public key.
    pub key: PublicKey,
    /// What it may do.
    pub rights: Vec<Right>,
}

impl Principal {
    /// Whether it has the right.
    #[must_use]
    pub fn may(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }
}
