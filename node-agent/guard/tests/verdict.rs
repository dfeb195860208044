//! What the guard decides, as a table over phases and times.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it with the line that surprised them")]

use osmoda_guard::{ARM_TIME_MAX, GRACE, Verdict, judge};
use osmoda_journal::{Cause, Entry, Kind, Moment, Origin, Periods, Plan, Record, State, Writer};
use osmoda_types::{AttemptId, ErrorCode, FleetEpoch, StorePath};

const ATTEMPT: AttemptId = AttemptId(7);
const GRACE_MS: u64 = GRACE.as_millis() as u64;

fn at(boot_ms: u64) -> Moment {
    Moment { boot_id: "one".to_owned(), boot_ms, wall_ms: 0 }
}

fn plan(dead_man_ms: Option<u64>) -> Entry {
    Entry::Granted(Box::new(Plan {
        epoch: FleetEpoch(1),
        origin: Origin::Fleet,
        rollout: None,
        manifest: None,
        session: None,
        target: StorePath::new("/s/b").unwrap(),
        baseline: StorePath::new("/s/a").unwrap(),
        periods: Periods {
            healthy_ms: 1_000,
            check_deadline_ms: 5_000,
            dead_man_ms,
            activation_ms: 10_000,
            accept_ms: dead_man_ms.is_none().then_some(60_000),
        },
        contacts_required: 0,
        checks: Vec::new(),
        undo: None,
    }))
}

fn entry(kind: Kind) -> Entry {
    let cause = Cause::new(ErrorCode::CheckFailed, "");
    match kind {
        Kind::Granted => plan(Some(15_000)),
        Kind::Deferred => Entry::Deferred(cause),
        Kind::Armed => Entry::Armed { guard_pid: 1, failing_before: Vec::new(), failed_units: Vec::new() },
        Kind::Activating => Entry::Activating,
        Kind::Probation => Entry::Probation { exit: None },
        Kind::Contact => Entry::Contact { index: 1, leader: String::new() },
        Kind::Ready => Entry::Ready,
        Kind::Accepted => Entry::Accepted,
        Kind::Committing => Entry::Committing,
        Kind::Committed => Entry::Committed,
        Kind::RollingBack => Entry::RollingBack(cause),
        Kind::Reverting => Entry::Reverting(cause),
        Kind::RolledBack => Entry::RolledBack(String::new()),
        Kind::RollbackFailed => Entry::RollbackFailed(cause),
        Kind::Quarantined => Entry::Quarantined(String::new()),
    }
}

fn push(state: &State, boot_ms: u64, entry: Entry) -> State {
    state.next(&Record { attempt: ATTEMPT, at: at(boot_ms), writer: Writer::Watch, entry }).unwrap()
}

/// Folds records written at the given times.
fn state(steps: &[(Kind, u64)]) -> State {
    steps.iter().fold(State::default(), |state, (kind, ms)| push(&state, *ms, entry(*kind)))
}

const PROBATION: [(Kind, u64); 4] =
    [(Kind::Granted, 0), (Kind::Armed, 100), (Kind::Activating, 200), (Kind::Probation, 1_000)];

#[track_caller]
fn check(state: &State, now_ms: u64, expected: Option<ErrorCode>) {
    let code = match judge(state, ATTEMPT, &at(50), &at(now_ms)) {
        Verdict::Fire(cause) => Some(cause.code),
        Verdict::Wait => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(code, expected);
}

#[test]
fn each_limit_fires_once_it_has_passed_and_not_before() {
    let activating = state(&PROBATION[..3]);
    check(&activating, 200 + 10_000 + GRACE_MS, None);
    check(&activating, 201 + 10_000 + GRACE_MS, Some(ErrorCode::ActivationTimeout));
    let probation = state(&PROBATION);
    check(&probation, 1_000 + 5_000 + GRACE_MS, None);
    check(&probation, 1_001 + 5_000 + GRACE_MS, Some(ErrorCode::CheckFailed));
    let ready = push(&probation, 3_000, Entry::Ready);
    check(&ready, 1_000 + 15_000, None);
    check(&ready, 1_001 + 15_000, Some(ErrorCode::GuardFired));
    let heard = push(&ready, 9_000, entry(Kind::Contact));
    check(&heard, 9_000 + 15_000, None);
    check(&heard, 9_001 + 15_000, Some(ErrorCode::GuardFired));
    check(&state(&PROBATION[..2]), 100 + 15_001, Some(ErrorCode::GuardFired));
}

#[test]
fn a_long_activation_does_not_count_as_silence() {
    let mut steps = PROBATION;
    steps[3].1 = 12_000;
    check(&state(&steps[..3]), 11_000, None);
    check(&state(&steps), 12_000 + 4_000, None);
}

#[test]
fn a_restart_of_the_host_and_a_later_record_fire_in_every_guarded_phase() {
    for length in 2..=PROBATION.len() {
        let state = state(&PROBATION[..length]);
        let now = Moment { boot_id: "two".to_owned(), boot_ms: 1, wall_ms: 0 };
        assert!(matches!(judge(&state, ATTEMPT, &now, &now), Verdict::Fire(_)));
        let later = push(&state, 1_100, Entry::Unknown { kind: "x".to_owned() });
        check(&later, 1_101, Some(ErrorCode::GuardFired));
    }
}

#[test]
fn a_local_attempt_waits_for_its_acceptance_and_not_for_a_quorum() {
    let local = push(&State::default(), 0, plan(None));
    let armed = push(&local, 100, entry(Kind::Armed));
    check(&armed, 100 + 10_000 + GRACE_MS + 1, Some(ErrorCode::GuardFired));
    let steps = [(Kind::Activating, 200), (Kind::Probation, 300), (Kind::Ready, 400)];
    let ready = steps.iter().fold(armed, |state, (kind, ms)| push(&state, *ms, entry(*kind)));
    check(&ready, 400 + 60_000 + GRACE_MS, None);
    check(&ready, 401 + 60_000 + GRACE_MS, Some(ErrorCode::GuardFired));
}

#[test]
fn outside_its_phases_the_guard_ends_or_restores() {
    let mut steps = PROBATION.to_vec();
    steps.extend([(Kind::Ready, 2_000), (Kind::Accepted, 3_000)]);
    let accepted = state(&steps);
    assert_eq!(judge(&accepted, ATTEMPT, &at(50), &at(3_001)), Verdict::Done);
    assert_eq!(judge(&accepted, AttemptId(8), &at(50), &at(3_001)), Verdict::Done, "another attempt");
    let rolling = push(&state(&PROBATION), 2_000, entry(Kind::RollingBack));
    assert_eq!(judge(&rolling, ATTEMPT, &at(50), &at(2_001)), Verdict::Restore);
    let over = push(&rolling, 2_500, entry(Kind::RolledBack));
    assert_eq!(judge(&over, ATTEMPT, &at(50), &at(2_501)), Verdict::Done);
}

#[test]
fn a_guard_waits_a_while_to_be_armed_and_for_the_revert_it_was_started_for() {
    let wait = ARM_TIME_MAX.as_millis() as u64;
    let granted = state(&PROBATION[..1]);
    assert_eq!(judge(&granted, ATTEMPT, &at(50), &at(50 + wait - 1)), Verdict::Wait);
    assert_eq!(judge(&granted, ATTEMPT, &at(50), &at(50 + wait)), Verdict::Done);
    let mut steps = PROBATION.to_vec();
    steps.extend([(Kind::Ready, 2_000), (Kind::Accepted, 3_000), (Kind::Committing, 3_100), (Kind::Committed, 3_200)]);
    let committed = state(&steps);
    assert_eq!(judge(&committed, ATTEMPT, &at(4_000), &at(4_100)), Verdict::Wait);
    let reverting = push(&committed, 4_100, entry(Kind::Reverting));
    assert_eq!(judge(&reverting, ATTEMPT, &at(4_000), &at(4_200)), Verdict::Restore);
}
