//! Policies. The bounds are checked by `Policy::validate`; here only the shape.

use osmoda_types::{Policy, Timings, Wave};

use super::{ConvertError, required};
use crate::fleet::v1 as pb;

impl From<&Policy> for pb::Policy {
    fn from(policy: &Policy) -> Self {
        let size = |wave: &Wave| match wave {
            Wave::Count(count) => pb::wave::Size::Count(*count),
            Wave::Percent(percent) => pb::wave::Size::Percent(u32::from(*percent)),
        };
        Self {
            waves: policy.waves.iter().map(|wave| pb::Wave { size: Some(size(wave)) }).collect(),
            max_unavailable: policy.max_unavailable,
            failure_budget: policy.failure_budget,
            max_parallel: policy.max_parallel,
            stagger_ms: policy.stagger_ms,
            threshold: policy.threshold,
            auto_resume: policy.auto_resume,
            timings: Some((&policy.timings).into()),
        }
    }
}

impl TryFrom<pb::Policy> for Policy {
    type Error = ConvertError;
    fn try_from(wire: pb::Policy) -> Result<Self, ConvertError> {
        let wave = |wave: pb::Wave| match required("policy.waves.size", wave.size)? {
            pb::wave::Size::Count(count) => Ok(Wave::Count(count)),
            pb::wave::Size::Percent(percent) => u8::try_from(percent)
                .map(Wave::Percent)
                .map_err(|_| ConvertError::unknown("policy.waves.percent", percent)),
        };
        Ok(Self {
            waves: wire.waves.into_iter().map(wave).collect::<Result<_, _>>()?,
            max_unavailable: wire.max_unavailable,
            failure_budget: wire.failure_budget,
            max_parallel: wire.max_parallel,
            stagger_ms: wire.stagger_ms,
            threshold: wire.threshold,
            auto_resume: wire.auto_resume,
            timings: (&required("policy.timings", wire.timings)?).into(),
        })
    }
}

/// Copies every period in both directions; a period left out here is a build
/// error, because neither literal has a rest pattern.
macro_rules! timings {
    ($($field:ident),* $(,)?) => {
        impl From<&Timings> for pb::Timings {
            fn from(timings: &Timings) -> Self {
                Self { $($field: timings.$field),* }
            }
        }

        impl From<&pb::Timings> for Timings {
            fn from(wire: &pb::Timings) -> Self {
                Self { $($field: wire.$field),* }
            }
        }
    };
}

timings! {
    healthy_ms, soak_ms, check_deadline_ms, dead_man_ms, activation_ms, wave_deadline_ms, vote_deadline_ms,
    prefetch_deadline_ms, pause_deadline_ms, rollback_deadline_ms,
}
