//! What the guard makes of a journal at a moment. *Pure.*
//!
//! Invariant: the guard never moves a host forward. From `Armed` to `Ready` it
//! waits or restores; before and after it does nothing.

use osmoda_journal::{Cause, Moment, Phase, State};
use osmoda_types::{AttemptId, ErrorCode};
use std::time::Duration;

/// How much later than the daemon the guard acts on the same limit. The daemon
/// knows more (an exit code, a check's message) and should say why; when it
/// has not in this time, it is gone. Bounds the delay of a lonely guard.
pub const GRACE: Duration = Duration::from_secs(2);

/// How long the guard waits, after its acknowledgement, for `Armed`. The
/// daemon writes it at once; later it has died, and nothing was activated.
pub const ARM_TIME_MAX: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Look again later.
    Wait,
    /// Write `RollingBack` with this cause, then restore.
    Fire(Cause),
    /// The rollback is recorded; restore.
    Restore,
    /// There is nothing left to guard.
    Done,
}

/// Judges the state of the journal for `attempt`; `began` is when the guard did.
#[must_use]
pub fn judge(state: &State, attempt: AttemptId, began: &Moment, now: &Moment) -> Verdict {
    let Some(current) = state.attempt.as_ref().filter(|current| current.id == attempt) else {
        return Verdict::Done;
    };
    match state.phase {
        // Granted: waits to be armed. Accepted and later: waits for the
        // revert it was started for.
        Phase::Granted | Phase::Accepted | Phase::Committing | Phase::Committed if current.armed_at.is_none() => {
            wait_to_be_armed(began, now)
        }
        Phase::Accepted | Phase::Committing | Phase::Committed if is_later(began, current.ready_at.as_ref()) => {
            wait_to_be_armed(began, now)
        }
        Phase::RollingBack => Verdict::Restore,
        phase if phase.is_guarded() => guarded(state, now),
        _ => Verdict::Done,
    }
}

fn is_later(began: &Moment, than: Option<&Moment>) -> bool {
    than.is_none_or(|than| began.boot_id != than.boot_id || began.boot_ms > than.boot_ms)
}

fn wait_to_be_armed(began: &Moment, now: &Moment) -> Verdict {
    if now.since(began).is_some_and(|waited| waited < ARM_TIME_MAX) { Verdict::Wait } else { Verdict::Done }
}

fn guarded(state: &State, now: &Moment) -> Verdict {
    let Some(attempt) = &state.attempt else { return Verdict::Done };
    let fire = |code, detail: String| Verdict::Fire(Cause::new(code, detail));
    if let Some(kind) = &state.unreadable {
        return fire(ErrorCode::GuardFired, format!("the journal holds a record of a later version: {kind}"));
    }
    if state.last_at.as_ref().is_none_or(|last| last.boot_id != now.boot_id) {
        return fire(ErrorCode::GuardFired, "the host restarted during the attempt".to_owned());
    }
    let periods = &attempt.plan.periods;
    let over = |since: Option<&Moment>, limit: Duration| {
        since.and_then(|since| now.since(since)).is_some_and(|passed| passed > limit)
    };
    let millis = Duration::from_millis;
    match state.phase {
        Phase::Activating if over(attempt.activating_at.as_ref(), millis(periods.activation_ms) + GRACE) => {
            return fire(ErrorCode::ActivationTimeout, "the activation did not end in time".to_owned());
        }
        // How long an activation may take has its own limit above, and it may
        // well cut the network for a while.
        Phase::Activating => return Verdict::Wait,
        Phase::Probation if over(attempt.probation_at.as_ref(), millis(periods.check_deadline_ms) + GRACE) => {
            return fire(ErrorCode::CheckFailed, "the host was not ready in time".to_owned());
        }
        _ => {}
    }
    if let Some(limit) = periods.accept_ms
        && state.phase == Phase::Ready
        && over(attempt.ready_at.as_ref(), millis(limit) + GRACE)
    {
        return fire(ErrorCode::GuardFired, "nobody accepted in time".to_owned());
    }
    let heard = [&attempt.armed_at, &attempt.probation_at, &attempt.contact_at];
    let heard = heard.into_iter().flatten().max_by_key(|moment| moment.boot_ms);
    match periods.dead_man_ms {
        Some(limit) if over(heard, millis(limit)) => {
            fire(ErrorCode::GuardFired, format!("no contact with the quorum for {limit} ms"))
        }
        // Without a quorum the daemon itself must come back in time.
        None if over(heard, millis(periods.activation_ms.max(periods.check_deadline_ms)) + GRACE)
            && state.phase == Phase::Armed =>
        {
            fire(ErrorCode::GuardFired, "the activation never began".to_owned())
        }
        _ => Verdict::Wait,
    }
}
