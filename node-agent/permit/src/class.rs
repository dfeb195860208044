//! What a call may do to the world: its effect class.
//!
//! Invariant: a name that is none of these is `destructive`. The class is
//! compiled into each tool; what a caller or a tool server says of itself
//! (`readOnlyHint`) is never read.

use serde::{Deserialize, Serialize};

/// The classes, from harmless to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", from = "String")]
pub enum EffectClass {
    /// Changes nothing.
    Read,
    /// Can be taken back by another call.
    ChangeReversible,
    /// Cannot be taken back, and destroys nothing.
    ChangeIrreversible,
    /// Destroys, disables or replaces what the host or its rules stand on.
    Destructive,
    /// Gives a secret to somebody.
    SecretRelease,
    /// Spends money.
    Spend,
    /// Runs a text that nobody has typed.
    RawExec,
}

impl EffectClass {
    /// Every class.
    pub const ALL: [Self; 7] = [
        Self::Read,
        Self::ChangeReversible,
        Self::ChangeIrreversible,
        Self::Destructive,
        Self::SecretRelease,
        Self::Spend,
        Self::RawExec,
    ];

    /// The stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::ChangeReversible => "change_reversible",
            Self::ChangeIrreversible => "change_irreversible",
            Self::Destructive => "destructive",
            Self::SecretRelease => "secret_release",
            Self::Spend => "spend",
            Self::RawExec => "raw_exec",
        }
    }

    /// Reads a class; whatever is no class is [`EffectClass::Destructive`].
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self::ALL.into_iter().find(|class| class.as_str() == text).unwrap_or(Self::Destructive)
    }

    /// Whether other nodes must have the intent before the act
    /// (`architecture.md` 3.1), and whether a host whose daemons share one user
    /// refuses it (2.1).
    #[must_use]
    pub const fn is_grave(self) -> bool {
        matches!(self, Self::Destructive | Self::SecretRelease | Self::Spend | Self::RawExec)
    }

    /// Whether a policy may let calls of this class run without a permit, in a
    /// session that has read nothing from outside.
    #[must_use]
    pub const fn may_be_automatic(self) -> bool {
        !matches!(self, Self::Destructive | Self::RawExec)
    }
}

impl From<String> for EffectClass {
    fn from(text: String) -> Self {
        Self::of(&text)
    }
}

impl std::fmt::Display for EffectClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_read_back_and_anything_else_is_destructive() {
        for class in EffectClass::ALL {
            assert_eq!(EffectClass::of(class.as_str()), class);
            let json = serde_json::to_string(&class).unwrap();
            assert_eq!(serde_json::from_str::<EffectClass>(&json).unwrap(), class);
        }
        for text in ["", "Read", "readonly", "read ", "safe"] {
            assert_eq!(EffectClass::of(text), EffectClass::Destructive, "{text:?}");
        }
        assert_eq!(serde_json::from_str::<EffectClass>("\"safe\"").unwrap(), EffectClass::Destructive);
    }
}
