//! The journal file under damage, rotation and two writers.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it with the line that surprised them")]

use osmoda_journal::{
    Arrow, Cause, Entry, HostClock, Illegal, Journal, JournalError, Kind, Moment, Origin, Periods, Phase, Plan, State,
    Writer, arrows,
};
use osmoda_types::{AttemptId, ErrorCode, FleetEpoch, StorePath};
use proptest::prelude::*;
use std::path::Path;
use std::sync::LazyLock;

fn at(boot_ms: u64) -> Moment {
    Moment { boot_id: "boot-1".to_owned(), boot_ms, wall_ms: 0 }
}

fn plan(epoch: u64) -> Plan {
    Plan {
        epoch: FleetEpoch(epoch),
        origin: Origin::Fleet,
        rollout: None,
        manifest: None,
        session: None,
        target: StorePath::new("/store/g2").unwrap(),
        baseline: StorePath::new("/store/g1").unwrap(),
        periods: Periods {
            healthy_ms: 1,
            check_deadline_ms: 2,
            dead_man_ms: Some(3),
            activation_ms: 4,
            accept_ms: None,
        },
        contacts_required: 2,
        checks: vec![serde_json::json!({"type": "tcp_port", "host": "::1", "port": 1})],
        undo: None,
    }
}

fn entry(kind: Kind) -> Entry {
    let cause = || Cause::new(ErrorCode::CheckFailed, "because OMJ1 2 of this\n");
    match kind {
        Kind::Granted => Entry::Granted(Box::new(plan(1))),
        Kind::Deferred => Entry::Deferred(cause()),
        Kind::Armed => {
            Entry::Armed { guard_pid: 7, failing_before: vec![0], failed_units: vec!["a.service".to_owned()] }
        }
        Kind::Activating => Entry::Activating,
        Kind::Probation => Entry::Probation { exit: Some(4) },
        Kind::Contact => Entry::Contact { index: 9, leader: "ab".to_owned() },
        Kind::Ready => Entry::Ready,
        Kind::Accepted => Entry::Accepted,
        Kind::Committing => Entry::Committing,
        Kind::Committed => Entry::Committed,
        Kind::RollingBack => Entry::RollingBack(cause()),
        Kind::Reverting => Entry::Reverting(cause()),
        Kind::RolledBack => Entry::RolledBack("done".to_owned()),
        Kind::RollbackFailed => Entry::RollbackFailed(cause()),
        Kind::Quarantined => Entry::Quarantined("runs g3".to_owned()),
    }
}

/// Records that lead from nothing to `phase`.
fn way_to(phase: Phase) -> Vec<Kind> {
    use Kind as K;
    let ready = [K::Granted, K::Armed, K::Activating, K::Probation, K::Contact, K::Contact, K::Ready];
    let way = |kinds: &[Kind]| kinds.to_vec();
    match phase {
        Phase::Idle => way(&[]),
        Phase::Granted => way(&ready[..1]),
        Phase::Deferred => way(&[K::Granted, K::Deferred]),
        Phase::Armed => way(&ready[..2]),
        Phase::Activating => way(&ready[..3]),
        Phase::Probation => way(&ready[..4]),
        Phase::Ready => way(&ready),
        Phase::Accepted => [&ready[..], &[K::Accepted]].concat(),
        Phase::Committing => [&ready[..], &[K::Accepted, K::Committing]].concat(),
        Phase::Committed => [&ready[..], &[K::Accepted, K::Committing, K::Committed]].concat(),
        Phase::RollingBack => way(&[K::Granted, K::Armed, K::RollingBack]),
        Phase::RolledBack => way(&[K::Granted, K::Armed, K::RollingBack, K::RolledBack]),
        Phase::RollbackFailed => way(&[K::Granted, K::Armed, K::RollingBack, K::RollbackFailed]),
        Phase::Quarantined => way(&[K::Granted, K::Armed, K::RollingBack, K::RollbackFailed, K::Quarantined]),
    }
}

fn write(journal: &mut Journal, attempt: u64, kinds: &[Kind]) {
    for (step, kind) in kinds.iter().enumerate() {
        let written = journal.append(Writer::Watch, AttemptId(attempt), at(step as u64), entry(*kind));
        written.unwrap_or_else(|error| panic!("{kind} after {:?}: {error}", &kinds[..step]));
    }
}

fn phase_of(path: &Path) -> Result<Phase, JournalError> {
    Journal::new(path).read().map(|state| state.phase)
}

#[test]
fn every_phase_is_reached_and_every_other_step_is_refused() {
    let legal = arrows();
    for from in Phase::ALL {
        for kind in Kind::ALL {
            let folder = tempfile::tempdir().unwrap();
            let mut journal = Journal::new(folder.path().join("journal"));
            write(&mut journal, 1, &way_to(*from));
            assert_eq!(journal.read().unwrap().phase, *from);
            let attempt = AttemptId(if *kind == Kind::Granted { 2 } else { 1 });
            let after = journal.append(Writer::Watch, attempt, at(99), entry(*kind)).map(|state| state.phase).ok();
            let expected = legal.iter().find(|arrow| arrow.from == *from && arrow.kind == *kind).map(|arrow| arrow.to);
            assert_eq!(after, expected, "{from} {kind}");
            assert_eq!(phase_of(journal.path()).unwrap(), expected.unwrap_or(*from));
        }
    }
}

#[test]
fn rolling_back_absorbs_everything_but_its_own_end() {
    let out: Vec<Arrow> = arrows().into_iter().filter(|arrow| arrow.from == Phase::RollingBack).collect();
    let kinds: Vec<Kind> = out.iter().map(|arrow| arrow.kind).collect();
    assert_eq!(kinds, [Kind::RolledBack, Kind::RollbackFailed]);
    let commits: Vec<Phase> = arrows().iter().filter(|a| a.kind == Kind::Committing).map(|a| a.from).collect();
    assert_eq!(commits, [Phase::Accepted], "the boot default moves only after acceptance");
}

#[test]
fn the_guard_writes_rollback_records_only() {
    for arrow in arrows() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(folder.path().join("journal"));
        write(&mut journal, 1, &way_to(arrow.from));
        let attempt = AttemptId(if arrow.kind == Kind::Granted { 2 } else { 1 });
        let written = journal.append(Writer::Guard, attempt, at(50), entry(arrow.kind)).is_ok();
        assert_eq!(written, Kind::GUARD_MAY_WRITE.contains(&arrow.kind), "{arrow}");
    }
}

#[test]
fn acceptance_needs_the_quorum_to_be_heard_after_the_activation() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::new(folder.path().join("journal"));
    use Kind as K;
    write(&mut journal, 1, &[K::Granted, K::Armed, K::Contact, K::Contact, K::Activating, K::Probation, K::Contact]);
    write(&mut journal, 1, &[K::Ready]);
    let early = journal.append(Writer::Watch, AttemptId(1), at(9), Entry::Accepted);
    assert!(matches!(early, Err(JournalError::Illegal(Illegal::Contacts { had: 1, required: 2 }))));
    write(&mut journal, 1, &[K::Contact, K::Accepted]);
}

#[test]
fn an_older_grant_and_another_attempts_record_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::new(folder.path().join("journal"));
    write(&mut journal, 5, &[Kind::Granted]);
    let other = journal.append(Writer::Watch, AttemptId(6), at(9), entry(Kind::Deferred));
    assert_eq!(other.unwrap_err().code(), ErrorCode::AttemptConflict);
    write(&mut journal, 5, &[Kind::Deferred]);
    for (attempt, epoch) in [(5, 1), (4, 1), (99, 0)] {
        let grant = Entry::Granted(Box::new(plan(epoch)));
        let stale = journal.append(Writer::Watch, AttemptId(attempt), at(9), grant);
        assert_eq!(stale.unwrap_err().code(), ErrorCode::AttemptStale, "{attempt} {epoch}");
    }
    let newer_epoch = Entry::Granted(Box::new(plan(2)));
    assert!(journal.append(Writer::Watch, AttemptId(1), at(9), newer_epoch).is_ok());
}

#[test]
fn a_later_version_is_tolerated_but_the_attempt_can_only_be_undone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::new(&path);
    write(&mut journal, 1, &[Kind::Granted, Kind::Armed, Kind::Activating]);
    let later = Entry::Unknown { kind: "trial_boot".to_owned() };
    journal.append(Writer::Watch, AttemptId(1), at(9), later).unwrap();
    let mut old = Journal::new(&path);
    assert_eq!(old.read().unwrap().unreadable.as_deref(), Some("trial_boot"));
    let on = old.append(Writer::Watch, AttemptId(1), at(10), entry(Kind::Probation));
    assert!(matches!(on, Err(JournalError::Illegal(Illegal::Unreadable(_)))));
    assert!(old.append(Writer::Guard, AttemptId(1), at(11), entry(Kind::RollingBack)).is_ok());
    assert!(old.append(Writer::Guard, AttemptId(1), at(12), entry(Kind::RolledBack)).is_ok());
    let grant = old.append(Writer::Watch, AttemptId(2), at(13), entry(Kind::Granted)).unwrap();
    assert_eq!(grant.unreadable, None);
}

#[test]
fn a_full_file_is_put_aside_and_the_state_is_carried_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::new(&path);
    let whole = way_to(Phase::Committed);
    let mut attempt = 0;
    while !folder.path().join("journal.000002").exists() {
        attempt += 1;
        write(&mut journal, attempt, &whole);
        assert!(attempt < 10_000, "never rotated");
    }
    let mut fresh = Journal::new(&path);
    let state = fresh.read().unwrap().clone();
    assert_eq!(state.phase, Phase::Committed);
    assert_eq!(state.highest, Some((FleetEpoch(1), AttemptId(attempt))));
    assert_eq!(fresh.history().unwrap().len() as u64, attempt * whole.len() as u64);
    let stale = fresh.append(Writer::Watch, AttemptId(3), at(1), entry(Kind::Granted));
    assert_eq!(stale.unwrap_err().code(), ErrorCode::AttemptStale);
    // A crash between keeping the old file and replacing it leaves one file
    // under two names; its records count once.
    std::fs::hard_link(&path, folder.path().join("journal.000003")).unwrap();
    assert_eq!(fresh.history().unwrap().len() as u64, attempt * whole.len() as u64);
}

#[test]
fn a_second_writer_sees_what_the_first_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut watch, mut guard) = (Journal::new(&path), Journal::new(&path));
    write(&mut watch, 1, &way_to(Phase::Ready));
    guard.read().unwrap();
    watch.append(Writer::Watch, AttemptId(1), at(20), Entry::Accepted).unwrap();
    let late = guard.append(Writer::Guard, AttemptId(1), at(21), entry(Kind::RollingBack));
    assert!(matches!(late, Err(JournalError::Illegal(Illegal::Step { from: Phase::Accepted, .. }))));
}

#[test]
fn time_does_not_pass_across_a_restart_of_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("boot_id");
    std::fs::write(&file, "first\n").unwrap();
    let clock = HostClock::new(&file);
    let before = clock.now().unwrap();
    assert!(clock.now().unwrap().since(&before).is_some());
    std::fs::write(&file, "second\n").unwrap();
    assert_eq!(clock.now().unwrap().since(&before), None);
    std::fs::write(&file, "\n").unwrap();
    assert!(clock.now().is_err());
}

fn states(bytes: &[u8]) -> Vec<State> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut states = vec![State::default()];
    let mut end = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        end += line.len();
        std::fs::write(&path, &bytes[..end]).unwrap();
        states.push(Journal::new(&path).read().unwrap().clone());
    }
    states
}

/// A journal of two attempts, and its state after each line.
static SAMPLE: LazyLock<(Vec<u8>, Vec<State>)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::new(folder.path().join("journal"));
    write(&mut journal, 1, &way_to(Phase::RolledBack));
    write(&mut journal, 2, &way_to(Phase::Committed));
    let bytes = std::fs::read(journal.path()).unwrap();
    let states = states(&bytes);
    (bytes, states)
});

/// Damage gives a valid prefix or an error, never another state. Says whether
/// it was noticed.
fn check_damage(path: &Path, bytes: &[u8]) -> bool {
    std::fs::write(path, bytes).unwrap();
    match Journal::new(path).read() {
        Ok(state) => {
            assert!(SAMPLE.1.contains(state), "invented {state:?}");
            false
        }
        Err(error) => {
            assert_eq!(error.code(), ErrorCode::JournalCorrupt, "{error}");
            true
        }
    }
}

#[test]
fn every_truncation_is_a_torn_tail_and_is_written_over() {
    let (bytes, states) = &*SAMPLE;
    let last_line = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    for cut in 0..bytes.len() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let lines = bytes[..cut].iter().filter(|b| **b == b'\n').count();
        assert_eq!(Journal::new(&path).read().unwrap(), &states[lines], "cut at {cut}");
        if cut > last_line {
            let mut journal = Journal::new(&path);
            journal.append(Writer::Watch, AttemptId(2), at(7), Entry::Committed).unwrap();
            assert_eq!(phase_of(&path).unwrap(), Phase::Committed);
        }
    }
}

#[test]
fn damage_before_the_last_line_is_always_found() {
    let bytes = &SAMPLE.0;
    let last_line = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    for position in 0..bytes.len() {
        // One bit, everything, to zero, to a line feed.
        for flip in [0x01, 0xff, bytes[position], bytes[position] ^ b'\n'] {
            let mut damaged = bytes.clone();
            damaged[position] ^= flip;
            let noticed = check_damage(&path, &damaged);
            let must_be = flip != 0 && position < last_line;
            assert!(noticed || !must_be, "byte {position} flipped by {flip:#x} was not noticed");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_damage_gives_a_valid_prefix_or_an_error(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 0..4),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
        tail in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = SAMPLE.0.clone();
        let folder = tempfile::tempdir().unwrap();
        for (position, flip) in flips {
            let position = position.index(bytes.len());
            bytes[position] ^= flip;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.extend(tail);
        check_damage(&folder.path().join("journal"), &bytes);
    }

    #[test]
    fn lines_lost_repeated_or_moved_are_found(first in 0usize..12, second in 0usize..12, how in 0u8..3) {
        let bytes = &SAMPLE.0;
        let folder = tempfile::tempdir().unwrap();
        let mut lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
        let (first, second) = (first % lines.len(), second % lines.len());
        match how {
            0 => { lines.remove(first); }
            1 => lines.insert(first, lines[second]),
            _ => lines.swap(first, second),
        }
        check_damage(&folder.path().join("journal"), &lines.concat());
    }
}
