//! What this host asks of approvals, and the rules of sessions. *Pure.*
//!
//! One file, `/etc/osmoda/approvals.toml`, root's; agentd and the executor each
//! read it for themselves. Invariant: no policy makes a destructive or raw call
//! automatic, and a tainted session has no automatic grave call whatever it says.

use osmoda_types::ErrorCode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::class::EffectClass;
use crate::permit::APPROVERS_MAX;

/// Shortest life of a permit: a person must be able to read it.
pub const TTL_SECS_MIN: u64 = 5;

/// Longest life of a permit: a working day; what is older was asked for in
/// another situation.
pub const TTL_SECS_MAX: u64 = 8 * 3600;

/// The earlier product's default.
pub const TTL_SECS_DEFAULT: u64 = 600;

/// Limits on how much is asked of people and changed without them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests of one session in a minute; a person reads two.
    pub session_requests_per_minute: u32,
    /// Requests on this host in a day. Whoever must decide more than this
    /// stops reading (`trust.md` 3.3, fatigue).
    pub requests_per_day: u32,
    /// Permits that may wait at once.
    pub pending: u32,
    /// Changes without a permit to one object in an hour (P14).
    pub object_changes_per_hour: u32,
    /// Changes without a permit to all objects of one folder in an hour.
    pub folder_changes_per_hour: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            session_requests_per_minute: 10,
            requests_per_day: 200,
            pending: 100,
            object_changes_per_hour: 6,
            folder_changes_per_hour: 30,
        }
    }
}

/// The policy of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// How many approvers a class needs, by its name; 1 where nothing is said.
    pub approvers: BTreeMap<String, u8>,
    /// Approvers who may break the glass, by name.
    pub break_glass: Vec<String>,
    /// Classes that run without a permit besides `read` and
    /// `change_reversible`.
    pub automatic: Vec<String>,
    /// Folders in which files may be written without a permit.
    pub write_roots: Vec<String>,
    /// Limits.
    pub limits: Limits,
}

/// What a session has done that matters for its next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taint {
    /// It has read nothing from outside.
    Clean,
    /// It has; this never ends within the session.
    Tainted,
}

impl Policy {
    /// Everything wrong with it, for people.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let known = |name: &String| EffectClass::ALL.iter().any(|class| class.as_str() == name);
        for (class, approvers) in &self.approvers {
            if !known(class) {
                faults.push(format!("approvers: {class:?} is no effect class"));
            }
            if !(1..=APPROVERS_MAX).contains(approvers) {
                faults.push(format!("approvers.{class}: {approvers} is not between 1 and {APPROVERS_MAX}"));
            }
        }
        for class in &self.automatic {
            if !known(class) {
                faults.push(format!("automatic: {class:?} is no effect class"));
            } else if !EffectClass::of(class).may_be_automatic() {
                faults.push(format!("automatic: {class} always needs a permit"));
            }
        }
        for root in &self.write_roots {
            let plain = root.starts_with('/') && !root.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."));
            if !plain {
                faults.push(format!("write_roots: {root:?} is no plain absolute path"));
            } else if crate::protected::is_too_wide(root) {
                let text = format!("write_roots: {root:?} is, or has below it, what runs later or guards the host");
                faults.push(text);
            }
        }
        faults
    }

    /// How many distinct approvers a class needs.
    #[must_use]
    pub fn approvers(&self, class: EffectClass) -> u8 {
        self.approvers.get(class.as_str()).copied().unwrap_or(1).clamp(1, APPROVERS_MAX)
    }

    /// Whether a call of this class needs a permit.
    #[must_use]
    pub fn needs_permit(&self, class: EffectClass, taint: Taint) -> bool {
        if matches!(class, EffectClass::Read | EffectClass::ChangeReversible) {
            return false;
        }
        let automatic = class.may_be_automatic() && self.automatic.iter().any(|name| name == class.as_str());
        !automatic || (taint == Taint::Tainted && class.is_grave())
    }
}

/// The life of a permit that was asked for, within its bounds.
///
/// # Errors
/// [`ErrorCode::BadRequest`] outside [`TTL_SECS_MIN`] and [`TTL_SECS_MAX`].
pub fn ttl_ms(asked_secs: Option<i64>) -> Result<u64, ErrorCode> {
    let secs = match asked_secs {
        None => TTL_SECS_DEFAULT,
        Some(secs) => u64::try_from(secs).map_err(|_| ErrorCode::BadRequest)?,
    };
    if !(TTL_SECS_MIN..=TTL_SECS_MAX).contains(&secs) {
        return Err(ErrorCode::BadRequest);
    }
    Ok(secs * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_policy_makes_a_destructive_call_automatic() {
        let all = EffectClass::ALL.map(|class| class.as_str().to_owned()).to_vec();
        let lax = Policy { automatic: all, ..Policy::default() };
        let needs = |class| {
            [
                Policy::default().needs_permit(class, Taint::Clean),
                lax.needs_permit(class, Taint::Clean),
                lax.needs_permit(class, Taint::Tainted),
            ]
        };
        assert_eq!(needs(EffectClass::Read), [false, false, false]);
        assert_eq!(needs(EffectClass::ChangeReversible), [false, false, false]);
        assert_eq!(needs(EffectClass::ChangeIrreversible), [true, false, false]);
        assert_eq!(needs(EffectClass::Destructive), [true, true, true]);
        assert_eq!(needs(EffectClass::SecretRelease), [true, false, true]);
        assert_eq!(needs(EffectClass::Spend), [true, false, true]);
        assert_eq!(needs(EffectClass::RawExec), [true, true, true]);
        assert_eq!(lax.faults().len(), 2);
    }

    #[test]
    fn faults_are_all_named_and_lives_are_bounded() {
        let approvers = [("destructive".to_owned(), 0), ("bogus".to_owned(), 2)].into();
        let write_roots = vec!["srv".to_owned(), "/a/../b".to_owned(), "/srv".to_owned(), "/etc".to_owned()];
        let policy = Policy { approvers, write_roots, ..Policy::default() };
        assert_eq!(policy.faults().len(), 5);
        assert_eq!(policy.approvers(EffectClass::Destructive), 1, "never none");
        assert_eq!(ttl_ms(None), Ok(600_000));
        for secs in [i64::MIN, -1, 0, 4, 28_801, i64::MAX] {
            assert_eq!(ttl_ms(Some(secs)), Err(ErrorCode::BadRequest), "{secs}");
        }
    }
}
