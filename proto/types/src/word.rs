//! The words for where a rollout and a node of it stand (`rollout.md` 5.2, 5.3).

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$word_doc])* $word,)*
        }

        impl $name {
            /// Every word.
            pub const ALL: &'static [Self] = &[$(Self::$word,)*];

            /// The stable text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$word => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Where a rollout stands.
    RolloutState {
        /// Accepted into the log.
        Proposed = "proposed",
        /// The ballot is open.
        Voting = "voting",
        /// The ballot was won.
        Approved = "approved",
        /// Nodes fetch their closures; nothing has moved.
        Prefetch = "prefetch",
        /// A wave is open for grants.
        Wave = "wave",
        /// The wave is done and watched.
        Soak = "soak",
        /// The wave passed; the next one is not open yet.
        Verdict = "verdict",
        /// The last wave passed.
        Finalizing = "finalizing",
        /// Done.
        Committed = "committed",
        /// The ballot was lost.
        Rejected = "rejected",
        /// The ballot ran out of time.
        Expired = "expired",
        /// Gave way to another rollout before anything moved.
        Superseded = "superseded",
        /// Waits for a person.
        Paused = "paused",
        /// An operator ended it.
        Aborting = "aborting",
        /// Every moved node returns to its own baseline.
        RollingBack = "rolling_back",
        /// Every moved node is back.
        RolledBack = "rolled_back",
        /// Some moved nodes are away or broken; they return when they can.
        RolledBackPartial = "rolled_back_partial",
    }
}

words! {
    /// Where a node of a rollout stands, as the log knows it.
    NodeState {
        /// Has not reported its closure yet.
        Pending = "pending",
        /// Holds the closure; its baseline is recorded.
        Staged = "staged",
        /// Was away when its wave began; not charged.
        Deferred = "deferred",
        /// May move now.
        Granted = "granted",
        /// Proved itself; its boot default may move.
        Accepted = "accepted",
        /// Runs and boots the target.
        Committed = "committed",
        /// Returned to its baseline.
        RolledBack = "rolled_back",
        /// Could not return to its baseline at once.
        RollbackFailed = "rollback_failed",
        /// Runs neither; a person must look.
        Quarantined = "quarantined",
        /// Silent past the bound since its grant.
        Lost = "lost",
        /// Taken out by an operator.
        Excluded = "excluded",
    }
}

impl RolloutState {
    /// Whether nothing can change it any more.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Committed
                | Self::Rejected
                | Self::Expired
                | Self::Superseded
                | Self::RolledBack
                | Self::RolledBackPartial
        )
    }
}

impl NodeState {
    /// Whether it counts against `max_unavailable` (invariant I2).
    #[must_use]
    pub const fn is_charged(self) -> bool {
        matches!(self, Self::Granted | Self::Accepted | Self::Lost)
    }

    /// Whether it counts against the failure budget (`rollout.md` 5.5).
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::RolledBack | Self::RollbackFailed | Self::Quarantined | Self::Lost)
    }
}
