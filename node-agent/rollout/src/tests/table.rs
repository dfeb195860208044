//! Each rule of the rollout with the code that a breach of it gets.

use osmoda_types::{ErrorCode, NodeState, RolloutState};

use crate::testing::{
    By, Cmd, End, Log, Point, Said, Short, baseline, grant, node, open, order, propose, raft_id, rollout, staged,
    target, vote,
};
use crate::{Cause, Desired, PauseReason, Phase, Running};

/// The command, sent by leader 0 at that point, gets the code.
fn check(point: Point, cmd: impl Fn(&Log) -> Cmd, code: ErrorCode) {
    let mut log = Log::at(0, point);
    let before = log.state.clone();
    let cmd = cmd(&log);
    let outcome = log.send(&cmd, 0);
    assert_eq!(outcome.reply.refused, Some(code), "{cmd:?} at {point:?}");
    assert!(outcome.events.is_empty());
    assert_eq!(log.state.rollouts().collect::<Vec<_>>(), before.rollouts().collect::<Vec<_>>());
}

#[test]
fn bad_proposals_are_refused() {
    let by = |by| move |_: &Log| Cmd::Propose { rollout: 0, spec: 0, parent: 0, by };
    check(Point::Begun, by(By::Eve), ErrorCode::PrincipalUnknown);
    check(Point::Begun, by(By::Bob), ErrorCode::PrincipalDenied);
    check(Point::Begun, by(By::Forged), ErrorCode::SignatureInvalid);
    check(Point::Begun, |_| propose(0, 0, 1), ErrorCode::EpochStale);
    check(Point::Begun, |_| propose(0, 9, 0), ErrorCode::NodeUnknown);
    check(Point::Begun, |_| propose(0, 8, 0), ErrorCode::ManifestMalformed);
    check(Point::Begun, |_| propose(0, 4, 0), ErrorCode::RolloutUnknown);
    check(Point::Voting, |_| propose(1, 0, 0), ErrorCode::EpochStale);
    check(Point::Voting, |_| propose(0, 1, 0), ErrorCode::RolloutDuplicate);
    check(Point::Voting, |_| propose(1, 1, 1), ErrorCode::RolloutConflict);
    check(Point::Voting, |_| propose(1, 6, 1), ErrorCode::RolloutConflict);
    check(Point::Canary, |_| propose(1, 4, 1), ErrorCode::RolloutState);
}

#[test]
fn bad_ballots_are_refused() {
    check(Point::Begun, |_| vote(0, true), ErrorCode::RolloutUnknown);
    check(Point::Voting, |_| vote(3, true), ErrorCode::BallotRefused);
    check(
        Point::Voting,
        |_| Cmd::Ballot { rollout: 0, voter: 0, yes: true, forged: true },
        ErrorCode::SignatureInvalid,
    );
    check(Point::Prefetch, |_| vote(0, false), ErrorCode::BallotRefused);
    check(Point::Prefetch, |_| vote(2, true), ErrorCode::BallotRefused);
}

#[test]
fn waves_open_in_order_with_nodes_that_are_ready() {
    check(Point::Voting, |_| open(0, &[3], &[]), ErrorCode::RolloutState);
    check(Point::Prefetch, |_| open(0, &[3], &[]), ErrorCode::ClosureMissing);
    check(Point::Staged, |_| open(1, &[3], &[]), ErrorCode::WaveClosed);
    check(Point::Staged, |_| open(0, &[3, 4], &[]), ErrorCode::BudgetExceeded);
    check(Point::Staged, |_| open(0, &[], &[3]), ErrorCode::BadRequest);
    check(Point::Staged, |_| open(0, &[3], &[3]), ErrorCode::BadRequest);
    check(Point::Staged, |_| open(0, &[6], &[]), ErrorCode::NodeUnknown);
    check(Point::Soak, |_| open(1, &[0, 1, 2, 4, 5], &[]), ErrorCode::WaveClosed);
    check(Point::Verdict, |_| open(1, &[0, 1], &[]), ErrorCode::BadRequest);
    check(Point::Prefetch, |_| staged(3, Said::Other), ErrorCode::Conflict);
    check(Point::Voting, |_| staged(3, Said::Expected), ErrorCode::RolloutState);
}

#[test]
fn grants_keep_the_budget_and_the_voter_rule() {
    check(Point::Staged, |_| grant(0, &[3]), ErrorCode::WaveClosed);
    check(Point::Canary, |_| grant(1, &[4]), ErrorCode::WaveClosed);
    check(Point::Canary, |_| grant(0, &[4]), ErrorCode::WaveClosed);
    check(Point::Canary, |_| grant(0, &[]), ErrorCode::BadRequest);
    check(Point::Canary, |_| grant(0, &[3, 3]), ErrorCode::BadRequest);
    check(Point::Canary, |_| grant(0, &[6]), ErrorCode::NodeUnknown);
    check(Point::Granted, |_| grant(0, &[3]), ErrorCode::AttemptConflict);
    check(Point::SecondWave, |_| grant(1, &[4, 5, 1]), ErrorCode::BudgetExceeded);
    check(Point::SecondWave, |_| grant(1, &[1, 2]), ErrorCode::VoterRule);
    // Leader 0 wrote the entry.
    check(Point::SecondWave, |_| grant(1, &[0]), ErrorCode::VoterRule);
}

#[test]
fn a_grant_by_a_leader_nobody_knows_moves_no_voter() {
    let mut log = Log::at(0, Point::SecondWave);
    assert_eq!(log.send(&grant(1, &[1]), 9).reply.refused, Some(ErrorCode::VoterRule));
    assert_eq!(log.send(&grant(1, &[4]), 9).reply.refused, None);
}

#[test]
fn reports_and_acceptances_name_the_attempt_and_show_the_toplevel() {
    let of = |attempt| move |_: &Log| Cmd::Accept { rollout: 0, node: 3, attempt };
    check(Point::Granted, of(1), ErrorCode::AttemptStale);
    check(Point::Granted, of(u64::MAX), ErrorCode::AttemptUnknown);
    check(Point::Canary, |log| log.accept(3), ErrorCode::AttemptUnknown);
    check(Point::Granted, |log| log.report(3, End::Committed), ErrorCode::AttemptConflict);
    let elsewhere =
        |end| move |log: &Log| Cmd::Report { rollout: 0, node: 3, attempt: log.attempt(3), end, observed_right: false };
    check(Point::Accepted, elsewhere(End::Committed), ErrorCode::Conflict);
    check(Point::Accepted, elsewhere(End::RolledBack), ErrorCode::Conflict);
}

#[test]
fn a_deadline_of_an_earlier_state_does_nothing() {
    check(Point::Prefetch, |_| Cmd::StateDeadline { rollout: 0, state_epoch: 1 }, ErrorCode::DeadlineStale);
    check(
        Point::Soak,
        |log| Cmd::NodeDeadline { rollout: 0, node: 3, attempt: log.attempt(3) },
        ErrorCode::DeadlineStale,
    );
}

#[test]
fn orders_need_a_signature_a_right_and_a_new_serial() {
    let by = |by| move |_: &Log| Cmd::Order { order: Short::Pause(0), serial: 1, by };
    check(Point::Canary, by(By::Eve), ErrorCode::PrincipalUnknown);
    check(Point::Canary, by(By::Bob), ErrorCode::PrincipalDenied);
    check(Point::Canary, by(By::Forged), ErrorCode::SignatureInvalid);
    check(Point::Canary, |_| order(Short::Pause(0), 0), ErrorCode::OrderReplayed);
    check(Point::Canary, |_| order(Short::Resume(0), 1), ErrorCode::RolloutState);
    check(Point::Canary, |_| order(Short::Allow(3, 1), 1), ErrorCode::NotFound);
    check(Point::Begun, |_| order(Short::Abort(0), 1), ErrorCode::RolloutUnknown);
    let mut log = Log::at(0, Point::Canary);
    log.must(&order(Short::Pause(0), 5));
    log.must(&order(Short::Resume(0), 6));
    assert_eq!(log.send(&order(Short::Pause(0), 5), 0).reply.refused, Some(ErrorCode::OrderReplayed));
}

#[test]
fn a_frozen_scope_takes_neither_proposals_nor_grants() {
    let mut log = Log::at(0, Point::Canary);
    log.must(&order(Short::Freeze(true), 1));
    assert_eq!(log.send(&grant(0, &[3]), 0).reply.refused, Some(ErrorCode::FreezeLocked));
    assert_eq!(log.send(&propose(1, 6, 1), 0).reply.refused, Some(ErrorCode::FreezeLocked));
    log.must(&order(Short::Unfreeze(true), 2));
    log.must(&grant(0, &[3]));
}

#[test]
fn a_good_release_commits_wave_by_wave() {
    let mut log = Log::at(0, Point::SecondWave);
    for pair in [&[4, 5][..], &[1], &[2]] {
        log.must(&grant(1, pair));
        for who in pair {
            log.must(&log.accept(*who));
            log.must(&log.report(*who, End::Committed));
        }
    }
    // The leader's own node comes last, granted by the next leader.
    assert!(log.state.must_step_aside(&rollout(0), raft_id(0)));
    assert_eq!(log.send(&grant(1, &[0]), 1).reply.refused, None);
    log.must(&log.accept(0));
    log.must(&log.report(0, End::Committed));
    assert_eq!(log.phase(), Phase::Running(Running::Soak(1)));
    let last = log.due();
    let outcome = log.send(&last, 1);
    let words: Vec<RolloutState> = outcome
        .events
        .iter()
        .filter_map(|event| match event.what {
            crate::What::Rollout { to, .. } => Some(to),
            _ => None,
        })
        .collect();
    assert_eq!(words, [RolloutState::Verdict, RolloutState::Finalizing, RolloutState::Committed]);
    assert_eq!(log.state.desired(&node(3)), Desired::Stay);
}

#[test]
fn a_bad_release_sends_every_moved_node_back_to_its_own_baseline() {
    let mut log = Log::at(0, Point::SecondWave);
    log.must(&grant(1, &[4, 5]));
    log.must(&log.report(4, End::RolledBack));
    assert_eq!(log.phase(), Phase::RollingBack);
    assert_eq!(log.state.rollout(&rollout(0)).unwrap().cause, Some(Cause::Failed));
    for who in [3, 5] {
        match log.state.desired(&node(who)) {
            Desired::Baseline(there) => assert_eq!(there.baseline, baseline(who)),
            other => panic!("node {who} should go back, not {other:?}"),
        }
    }
    assert_eq!(log.state.desired(&node(4)), Desired::Stay);
    assert_eq!(log.send(&log.accept(5), 0).reply.refused, Some(ErrorCode::RolloutState));
    log.must(&log.report(3, End::RolledBack));
    log.must(&log.due());
    assert_eq!(log.phase(), Phase::RolledBackPartial);
    // Node 5 comes back later, and is still sent to its baseline.
    assert!(matches!(log.state.desired(&node(5)), Desired::Baseline(_)));
    log.must(&log.report(5, End::RolledBack));
    assert_eq!((log.phase(), log.word(5)), (Phase::RolledBackPartial, NodeState::RolledBack));
    // The target is denied until an operator allows it.
    assert!(log.state.denied(&target(3, 1)).is_some());
    assert_eq!(log.send(&propose(1, 1, 1), 0).reply.refused, Some(ErrorCode::TargetDenied));
    (0..6).for_each(|who| log.must(&order(Short::Allow(who, 1), 10 + u64::from(who))));
    log.must(&propose(1, 1, 1));
}

#[test]
fn losing_the_quorum_pauses_and_never_undoes() {
    let mut log = Log::at(0, Point::SecondWave);
    log.must(&grant(1, &[4, 5]));
    log.must(&Cmd::Hold { rollout: 0 });
    log.must(&log.report(4, End::CutOff));
    log.must(&log.report(5, End::CutOff));
    let paused = Phase::Paused { from: Running::Wave(1), reason: PauseReason::QuorumLost };
    assert_eq!((log.phase(), log.word(4)), (paused, NodeState::Staged));
    log.must(&order(Short::Resume(0), 1));
    log.must(&grant(1, &[4, 5]));
    // The next loss of contact is the target's own.
    log.must(&log.report(4, End::CutOff));
    assert_eq!(log.phase(), Phase::RollingBack);
}

/// `rollout.md` 5.7, scenario 7: a person's `nixos-rebuild` held the lock. This
/// rollout bears no failure.
#[test]
fn a_host_that_was_busy_is_granted_again_and_has_not_failed() {
    let mut log = Log::at(0, Point::Granted);
    let attempt = log.attempt(3);
    log.must(&log.report(3, End::Busy));
    assert_eq!((log.phase(), log.word(3)), (Phase::Running(Running::Wave(0)), NodeState::Staged));
    assert_eq!(log.state.rollout(&rollout(0)).unwrap().charged(), 0);
    assert_eq!(log.state.desired(&node(3)), Desired::Stay);
    assert_eq!(log.send(&log.report(3, End::Busy), 0).reply.refused, Some(ErrorCode::AttemptConflict));
    log.must(&grant(0, &[3]));
    assert!(log.attempt(3) > attempt);
    // What is undone stays undone.
    log.must(&order(Short::Abort(0), 1));
    log.must(&log.report(3, End::Busy));
    assert_eq!((log.phase(), log.word(3)), (Phase::RolledBack, NodeState::RolledBack));
}

#[test]
fn a_host_that_was_busy_after_it_was_lost_or_accepted_has_failed() {
    let mut accepted = Log::at(0, Point::Accepted);
    accepted.must(&accepted.report(3, End::Busy));
    let mut lost = Log::at(0, Point::Granted);
    lost.must(&Cmd::NodeDeadline { rollout: 0, node: 3, attempt: lost.attempt(3) });
    lost.must(&lost.report(3, End::Busy));
    for log in [accepted, lost] {
        assert_eq!((log.phase(), log.word(3)), (Phase::RolledBack, NodeState::RolledBack));
    }
}

/// The canary was lost while the quorum was away, and returned to its baseline:
/// nobody's fault, and no proof for the nodes that come next.
#[test]
fn a_wave_that_all_its_nodes_were_excused_from_does_not_pass() {
    let mut log = Log::at(1, Point::Granted);
    log.must(&Cmd::Hold { rollout: 0 });
    log.must(&order(Short::Resume(0), 1));
    log.must(&Cmd::NodeDeadline { rollout: 0, node: 3, attempt: log.attempt(3) });
    log.must(&log.report(3, End::CutOff));
    assert_eq!((log.phase(), log.word(3)), (Phase::Running(Running::Soak(0)), NodeState::Deferred));
    log.must(&log.due());
    assert_eq!(log.phase(), Phase::Paused { from: Running::Soak(0), reason: PauseReason::WaveFailed });
}

#[test]
fn a_lost_node_stays_charged_until_it_reports_or_is_excluded() {
    let mut log = Log::at(1, Point::SecondWave);
    log.must(&grant(1, &[4, 5]));
    log.must(&Cmd::NodeDeadline { rollout: 0, node: 4, attempt: log.attempt(4) });
    log.must(&log.accept(5));
    log.must(&log.report(5, End::Committed));
    assert_eq!(log.state.rollout(&rollout(0)).unwrap().charged(), 1);
    assert!(matches!(log.state.desired(&node(4)), Desired::Baseline(_)));
    log.must(&order(Short::Exclude(0, 4), 1));
    assert_eq!(log.state.rollout(&rollout(0)).unwrap().charged(), 0);
}

#[test]
fn voters_go_back_one_after_the_other() {
    let mut log = Log::at(0, Point::SecondWave);
    for who in [1, 2] {
        log.must(&grant(1, &[who]));
        log.must(&log.accept(who));
        log.must(&log.report(who, End::Committed));
    }
    log.must(&order(Short::Abort(0), 1));
    assert!(matches!(log.state.desired(&node(1)), Desired::Baseline(_)));
    assert_eq!(log.state.desired(&node(2)), Desired::Stay);
    log.must(&log.report(1, End::RolledBack));
    assert!(matches!(log.state.desired(&node(2)), Desired::Baseline(_)));
    // An aborted target is not a rejected one.
    assert!(log.state.denied(&target(1, 1)).is_none());
}

#[test]
fn a_node_that_cannot_go_back_stops_the_rollout() {
    let mut log = Log::at(1, Point::SecondWave);
    log.must(&grant(1, &[4]));
    log.must(&log.report(4, End::RollbackFailed));
    let paused = Phase::Paused { from: Running::Wave(1), reason: PauseReason::RollbackBroken };
    assert_eq!(log.phase(), paused);
    assert_eq!(log.send(&grant(1, &[5]), 0).reply.refused, Some(ErrorCode::RolloutState));
}
