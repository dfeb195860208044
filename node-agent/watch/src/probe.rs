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

#[cfg(test)]
mod tests {
    use super::*;
    use osmoda_journal::{Entry, Periods, Plan, Record, Writer};
    use osmoda_types::{FleetEpoch, StorePath};

    fn at(boot_ms: u64) -> Moment {
        Moment { boot_id: "one".to_owned(), boot_ms, wall_ms: 0 }
    }

    /// In probation since 1 s: healthy for 2 s, by 10 s; local ones stand 30 s.
    fn state(origin: Origin, is_ready: bool) -> State {
        let plan = Plan {
            epoch: FleetEpoch(1),
            origin,
            rollout: None,
            manifest: None,
            session: None,
            target: StorePath::new("/s/b").unwrap(),
            baseline: StorePath::new("/s/a").unwrap(),
            periods: Periods {
                healthy_ms: 2_000,
                check_deadline_ms: 10_000,
                dead_man_ms: None,
                activation_ms: 1_000,
                accept_ms: Some(30_000),
            },
            contacts_required: 0,
            checks: Vec::new(),
            undo: None,
        };
        let armed = Entry::Armed { guard_pid: 1, failing_before: Vec::new(), failed_units: Vec::new() };
        let mut entries =
            vec![Entry::Granted(Box::new(plan)), armed, Entry::Activating, Entry::Probation { exit: Some(0) }];
        if is_ready {
            entries.push(Entry::Ready);
        }
        entries.into_iter().fold(State::default(), |state, entry| {
            let record = Record { attempt: AttemptId(1), at: at(1_000), writer: Writer::Watch, entry };
            state.next(&record).unwrap()
        })
    }

    /// Rounds at the given times, passing or not; the last verdict.
    fn judge(state: &State, rounds: &[(u64, bool)]) -> Verdict {
        let mut probe = Probe::default();
        let attempt = state.attempt.as_ref().unwrap();
        let mut verdict = Verdict::Wait(Duration::ZERO);
        for (ms, passes) in rounds {
            let failure = (!passes).then(|| "sick".to_owned());
            verdict = probe.judge(state, attempt, &at(*ms), &at(ms + 10), failure);
        }
        verdict
    }

    fn is_failure(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Fail(cause) if cause.code == ErrorCode::CheckFailed)
    }

    #[test]
    fn ready_after_an_unbroken_healthy_period_and_not_before() {
        let state = state(Origin::Fleet, false);
        assert!(matches!(judge(&state, &[(1_000, true), (2_900, true)]), Verdict::Wait(_)));
        assert_eq!(judge(&state, &[(1_000, true), (3_000, true)]), Verdict::Ready);
        assert!(matches!(judge(&state, &[(1_000, true), (2_000, false), (3_000, true)]), Verdict::Wait(_)));
        assert_eq!(judge(&state, &[(1_000, false), (2_000, true), (4_000, true)]), Verdict::Ready);
    }

    #[test]
    fn the_deadline_ends_a_probation_whatever_the_last_round_said() {
        let state = state(Origin::Fleet, false);
        assert!(matches!(judge(&state, &[(10_900, false)]), Verdict::Wait(_)));
        assert!(is_failure(&judge(&state, &[(11_000, false)])));
        assert!(is_failure(&judge(&state, &[(10_000, true), (11_000, true)])));
    }

    #[test]
    fn a_ready_host_may_recover_once_and_a_local_one_stands_its_time() {
        let fleet = state(Origin::Fleet, true);
        assert!(matches!(judge(&fleet, &[(20_000, false), (21_000, false)]), Verdict::Wait(_)));
        assert!(is_failure(&judge(&fleet, &[(20_000, false), (22_000, false)])));
        assert!(matches!(judge(&fleet, &[(20_000, false), (21_000, true), (22_000, false)]), Verdict::Wait(_)));
        assert!(matches!(judge(&fleet, &[(60_000, true)]), Verdict::Wait(_)), "a fleet attempt waits for the log");
        let local = state(Origin::Local, true);
        assert!(matches!(judge(&local, &[(30_000, true)]), Verdict::Wait(_)));
        assert_eq!(judge(&local, &[(31_000, true)]), Verdict::Accept);
    }
}
