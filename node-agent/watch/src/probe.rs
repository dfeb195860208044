//! Judges the rounds of questions of one attempt. *Pure.*
//!
//! Invariant: an attempt becomes ready only after every check has passed in
//! every round for the whole healthy period. What this keeps in memory can be
//! lost: the period then begins anew, and the deadline in the journal stands.

use osmoda_journal::{Attempt, Cause, Moment, Origin, Phase, State};
use osmoda_types::{AttemptId, ErrorCode};
use std::time::Duration;

/// The shortest and the longest pause between two rounds. Checks start
/// programs, so not more often; a crash loop restarts within seconds, so not less.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// So many rounds fit into a healthy period.
const ROUNDS: u32 = 4;

/// What follows from a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Ask again after the pause.
    Wait(Duration),
    /// The host is healthy.
    Ready,
    /// A local attempt has stood its time.
    Accept,
    /// The attempt has failed.
    Fail(Cause),
}

/// What is known of the rounds so far.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    attempt: Option<AttemptId>,
    healthy_since: Option<Moment>,
    failing_since: Option<Moment>,
}

impl Probe {
    /// Judges one round, which was asked at `asked` and is over `now`.
    pub(crate) fn judge(
        &mut self,
        state: &State,
        attempt: &Attempt,
        asked: &Moment,
        now: &Moment,
        failure: Option<String>,
    ) -> Verdict {
        if self.attempt != Some(attempt.id) {
            *self = Self { attempt: Some(attempt.id), ..Self::default() };
        }
        let periods = &attempt.plan.periods;
        let healthy = Duration::from_millis(periods.healthy_ms);
        match &failure {
            None => {
                self.failing_since = None;
                self.healthy_since.get_or_insert_with(|| asked.clone());
            }
            Some(_) => {
                self.healthy_since = None;
                self.failing_since.get_or_insert_with(|| asked.clone());
            }
        }
        let lasted = |since: &Option<Moment>| since.as_ref().and_then(|since| now.since(since));
        let in_probation = attempt.probation_at.as_ref().and_then(|since| now.since(since));
        let pause = Verdict::Wait((healthy / ROUNDS).clamp(PAUSE_MIN, PAUSE_MAX));
        let fail = |text: String| Verdict::Fail(Cause::new(ErrorCode::CheckFailed, text));
        if state.phase == Phase::Probation {
            if failure.is_none() && lasted(&self.healthy_since).is_some_and(|lasted| lasted >= healthy) {
                return Verdict::Ready;
            }
            let deadline = Duration::from_millis(periods.check_deadline_ms);
            if in_probation.is_none_or(|passed| passed >= deadline) {
                return fail(failure.unwrap_or_else(|| "the checks did not pass for long enough in time".to_owned()));
            }
            return pause;
        }
        if let Some(reason) = failure {
            // A host that was healthy is given as long to recover as it was
            // given to prove itself.
            let failing = lasted(&self.failing_since).is_some_and(|lasted| lasted >= healthy);
            return if failing { fail(reason) } else { pause };
        }
        let stood = |limit| in_probation.is_some_and(|passed| passed >= Duration::from_millis(limit));
        match periods.accept_ms {
            Some(limit) if attempt.plan.origin == Origin::Local && stood(limit) => Verdict::Accept,
            _ => pause,
        }
    }
}
