//! How a rollout goes about it: waves, budgets, quorum and periods.
//!
//! Invariant: a [`Policy`] that passed [`Policy::validate`] lets every rollout
//! end: each period is between its floor and [`PERIOD_MS_MAX`].

/// No period is longer than a week: a rollout that needs more is not watched.
pub const PERIOD_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// Most waves. The widest recommended ladder has five (`rollout.md` 5.5).
pub const WAVES_MAX: usize = 32;
/// Longest pause between the grants of one wave.
pub const STAGGER_MS_MAX: u64 = 3_600_000;

/// The size of a wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Wave {
    /// So many more nodes.
    Count(u32),
    /// So many more nodes that this share of all has been reached (1 to 100),
    /// rounded up, and at least one.
    Percent(u8),
}

/// The policy of one rollout, part of its signed manifest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The waves in order; the last one takes every node that is left.
    pub waves: Vec<Wave>,
    /// Most nodes at risk at once: granted and not terminal, or lost (I2).
    pub max_unavailable: u32,
    /// Failed nodes that are tolerated; one more and the rollout is undone.
    #[serde(default)]
    pub failure_budget: u32,
    /// Most nodes in flight at once, when less than `max_unavailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
    /// Pause between two grants of a wave, in milliseconds.
    #[serde(default)]
    pub stagger_ms: u64,
    /// Yes-votes needed, when more than a majority of the voters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u32>,
    /// Whether the rollout goes on by itself after the quorum was lost.
    #[serde(default)]
    pub auto_resume: bool,
    /// The periods.
    #[serde(default)]
    pub timings: Timings,
}

macro_rules! timings {
    ($($(#[$doc:meta])* $field:ident: floor $floor:literal, default $default:expr;)*) => {
        /// Every period of a rollout, in milliseconds. Left out means the
        /// production default; the floors leave room for tests and the demo.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Timings {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Default for Timings {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl Timings {
            /// The name, value and floor of every period.
            fn periods(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
                [$((stringify!($field), self.$field, $floor),)*].into_iter()
            }
        }
    };
}

timings! {
    /// How long the checks must pass without a break. Floor: two check
    /// intervals of 250 ms. Default: units that crash after five seconds, and
    /// their restarts, show up within 30 s.
    healthy_ms: floor 500, default 30_000;
    /// How long a wave that is done is watched before its verdict.
    soak_ms: floor 500, default 60_000;
    /// By when the checks must have passed once.
    check_deadline_ms: floor 1_000, default 300_000;
    /// Without contact for so long, a host returns to its baseline. Floor:
    /// above election, failover and reconnect of the LAN profile (about 6 s).
    dead_man_ms: floor 10_000, default 180_000;
    /// How long an activation may take.
    activation_ms: floor 1_000, default 600_000;
    /// How long a wave may take in all; then a person must look.
    wave_deadline_ms: floor 5_000, default 3_600_000;
    /// How long the ballot is open.
    vote_deadline_ms: floor 1_000, default 600_000;
    /// How long nodes may take to fetch their closures.
    prefetch_deadline_ms: floor 1_000, default 1_800_000;
    /// How long a rollout may stay paused; then it is undone.
    pause_deadline_ms: floor 5_000, default 86_400_000;
    /// How long an undone rollout waits for the nodes that are away.
    rollback_deadline_ms: floor 5_000, default 1_800_000;
}

impl Timings {
    /// After so long without a word since its grant, a node is lost (bound B of
    /// invariant I5): it took the grant within one dead-man period, activated,
    /// was probed, waited out one extended dead-man period (three times as
    /// long), and restored its baseline. By then it is on its baseline or on an
    /// accepted target, or it is broken.
    #[must_use]
    pub fn lost_ms(&self) -> u64 {
        let dead_man = self.dead_man_ms.saturating_mul(4);
        dead_man.saturating_add(self.activation_ms.saturating_mul(2)).saturating_add(self.check_deadline_ms)
    }
}

/// Why a policy is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy.{field}: {reason}")]
pub struct PolicyError {
    /// The field, with dots.
    pub field: &'static str,
    /// The rule that is broken.
    pub reason: String,
}

fn refuse(field: &'static str, reason: impl Into<String>) -> Result<(), PolicyError> {
    Err(PolicyError { field, reason: reason.into() })
}

impl Policy {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`PolicyError`] with the first field out of its bounds.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if self.waves.is_empty() || self.waves.len() > WAVES_MAX {
            return refuse("waves", "there are 1 to 32 waves");
        }
        for wave in &self.waves {
            match wave {
                Wave::Count(0) => return refuse("waves", "a wave has at least one node"),
                Wave::Percent(percent) if !(1..=100).contains(percent) => {
                    return refuse("waves", "a percentage is 1 to 100");
                }
                Wave::Count(_) | Wave::Percent(_) => {}
            }
        }
        if self.max_unavailable == 0 {
            return refuse("max_unavailable", "at least one node must be allowed to move");
        }
        if self.max_parallel == Some(0) {
            return refuse("max_parallel", "at least one node must be allowed to move");
        }
        if self.stagger_ms > STAGGER_MS_MAX {
            return refuse("stagger_ms", "at most one hour");
        }
        if self.threshold == Some(0) {
            return refuse("threshold", "at least one vote");
        }
        self.timings.validate()
    }

    /// How many nodes wave `wave` may take, of `total`, when `taken` are in
    /// earlier waves. The last wave takes the rest. Zero for a wave that is not.
    #[must_use]
    pub fn wave_size(&self, wave: u32, total: u32, taken: u32) -> u32 {
        let left = total.saturating_sub(taken);
        let index = wave as usize;
        if index + 1 == self.waves.len() {
            return left;
        }
        match self.waves.get(index) {
            None => 0,
            Some(Wave::Count(count)) => left.min(*count),
            Some(Wave::Percent(percent)) => {
                let reach = (u64::from(total) * u64::from(*percent)).div_ceil(100);
                let reach = u32::try_from(reach).unwrap_or(u32::MAX);
                left.min(reach.saturating_sub(taken).max(1))
            }
        }
    }
}

impl Timings {
    fn validate(&self) -> Result<(), PolicyError> {
        for (name, value, floor) in self.periods() {
            if value < floor || value > PERIOD_MS_MAX {
                return refuse("timings", format!("{name} is {floor} to {PERIOD_MS_MAX} ms, not {value}"));
            }
        }
        if self.check_deadline_ms < self.healthy_ms {
            return refuse("timings", "check_deadline_ms leaves no room for healthy_ms");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(waves: Vec<Wave>) -> Policy {
        Policy {
            waves,
            max_unavailable: 1,
            failure_budget: 0,
            max_parallel: None,
            stagger_ms: 0,
            threshold: None,
            auto_resume: false,
            timings: Timings::default(),
        }
    }

    fn check(waves: &[Wave], total: u32, sizes: &[u32]) {
        let policy = policy(waves.to_vec());
        policy.validate().unwrap();
        let mut taken = 0;
        for (wave, size) in (0..).zip(sizes) {
            assert_eq!(policy.wave_size(wave, total, taken), *size, "wave {wave} of {waves:?} over {total}");
            taken += size;
        }
    }

    #[test]
    fn waves_add_up_to_the_whole_fleet() {
        check(&[Wave::Count(1), Wave::Percent(100)], 5, &[1, 4]);
        check(
            &[Wave::Count(1), Wave::Percent(1), Wave::Percent(10), Wave::Percent(50), Wave::Percent(100)],
            1000,
            &[1, 9, 90, 400, 500],
        );
        check(&[Wave::Count(1), Wave::Percent(1), Wave::Percent(50)], 3, &[1, 1, 1]);
        check(&[Wave::Count(9)], 3, &[3]);
        check(&[Wave::Count(9), Wave::Count(1)], 3, &[3, 0, 0]);
    }

    #[test]
    fn policies_out_of_bounds_are_refused() {
        let good = policy(vec![Wave::Count(1)]);
        assert!(good.validate().is_ok());
        let bad: [Policy; 9] = [
            policy(vec![]),
            policy(vec![Wave::Count(0)]),
            policy(vec![Wave::Percent(0)]),
            policy(vec![Wave::Percent(101)]),
            Policy { max_unavailable: 0, ..good.clone() },
            Policy { max_parallel: Some(0), ..good.clone() },
            Policy { threshold: Some(0), ..good.clone() },
            Policy { timings: Timings { dead_man_ms: 9_999, ..Timings::default() }, ..good.clone() },
            Policy { timings: Timings { check_deadline_ms: 1_000, ..Timings::default() }, ..good },
        ];
        for policy in bad {
            assert!(policy.validate().is_err(), "{policy:?}");
        }
    }

    #[test]
    fn the_waves_of_a_manifest_are_written_as_documented() {
        let json = r#"[{"count":1},{"percent":50}]"#;
        let waves: Vec<Wave> = serde_json::from_str(json).unwrap();
        assert_eq!(waves, [Wave::Count(1), Wave::Percent(50)]);
        assert_eq!(serde_json::to_string(&waves).unwrap(), json);
    }
}
