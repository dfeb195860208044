//! What a node does next about its own generation. *Pure*.
//!
//! Two authorities meet here: the log says what this host may run, the host's
//! journal says what it runs. The difference is one action; the action is taken
//! by asking `watch`, or by telling the leader what is true. Nothing is decided
//! from an echo of an order: the journal is read again each time.
//!
//! Invariant: an ending is reported only when the journal says so for that very
//! attempt, and a target is kept only after the log accepted it
//! (`tests::only_the_log_lets_a_target_stay`).

use osmoda_node_api::watch::AttemptView;
use osmoda_rollout::{Desired, Move};
use osmoda_types::command::{Ending, NodeAttempt, Report};
use osmoda_types::{ErrorCode, NodeId, NodeState, RolloutId, StorePath};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing to do, or something is under way.
    Wait,
    /// Let `watch` check manifest, signature and closure of a rollout.
    Stage(RolloutId),
    /// Begin the attempt.
    Grant(Move),
    /// Tell `watch` that the quorum was heard.
    Contact(Move),
    /// As `Contact`, and tell the leader that the host is ready.
    Ready(Move),
    /// Let the boot default move.
    Accept(Move),
    /// Return to the recorded baseline.
    Revert(Move),
    /// Tell the log how the attempt ended.
    End(Report),
}

/// The next step of `node`, whose row in the log is in `row` and whose host is
/// as `host` says.
pub(crate) fn decide(node: NodeId, desired: &Desired, row: Option<NodeState>, host: &AttemptView) -> Action {
    match desired {
        Desired::Stay => Action::Wait,
        Desired::Stage { rollout, .. } if host.resting => Action::Stage(*rollout),
        Desired::Stage { .. } => Action::Wait,
        Desired::Attempt(order) => attempt(node, order, host),
        Desired::Accepted(order) => accepted(node, order, row, host),
        Desired::Baseline(order) => baseline(node, order, host),
    }
}

fn is_at(order: &Move, host: &AttemptView) -> bool {
    host.attempt == Some(order.attempt) && host.rollout == Some(order.rollout)
}

fn attempt(node: NodeId, order: &Move, host: &AttemptView) -> Action {
    if !is_at(order, host) {
        return never_began(node, order, host, Action::Grant(order.clone()));
    }
    match host.state.as_str() {
        "armed" | "activating" | "probation" => Action::Contact(order.clone()),
        "ready" if host.acceptable => Action::Ready(order.clone()),
        "ready" => Action::Contact(order.clone()),
        _ => ended(node, order, host),
    }
}

fn accepted(node: NodeId, order: &Move, row: Option<NodeState>, host: &AttemptView) -> Action {
    if !is_at(order, host) {
        // Accepted in the log and unknown here: the disk was replaced or set
        // back. What runs is the truth.
        return end(node, order, never_ran(host, ErrorCode::AttemptUnknown));
    }
    match host.state.as_str() {
        "ready" if host.acceptable => Action::Accept(order.clone()),
        "armed" | "activating" | "probation" | "ready" => Action::Contact(order.clone()),
        "committed" if row == Some(NodeState::Committed) => Action::Wait,
        _ => ended(node, order, host),
    }
}

fn baseline(node: NodeId, order: &Move, host: &AttemptView) -> Action {
    if !is_at(order, host) {
        if host.highest_attempt.is_some_and(|highest| highest > order.attempt) && !host.resting {
            return Action::Wait;
        }
        return end(node, order, never_ran(host, ErrorCode::RolloutState));
    }
    match host.state.as_str() {
        "granted" | "armed" | "activating" | "probation" | "ready" | "accepted" | "committing" | "committed" => {
            Action::Revert(order.clone())
        }
        _ => ended(node, order, host),
    }
}

/// The host has another attempt, or none: `begin` when it may still begin.
fn never_began(node: NodeId, order: &Move, host: &AttemptView, begin: Action) -> Action {
    if host.highest_attempt.is_some_and(|highest| highest > order.attempt) {
        return end(node, order, never_ran(host, ErrorCode::AttemptStale));
    }
    if host.resting { begin } else { Action::Wait }
}

/// The endings that a journal can show; anything else is under way.
fn ended(node: NodeId, order: &Move, host: &AttemptView) -> Action {
    let code = host.code.unwrap_or(ErrorCode::Internal);
    let observed = host.current.clone();
    match (host.state.as_str(), observed) {
        ("committed", Some(observed)) => end(node, order, Some(Ending::Committed { observed })),
        // Nothing was changed; the host is where it was.
        ("rolled_back" | "deferred", Some(observed)) => end(node, order, Some(Ending::RolledBack { observed, code })),
        ("rollback_failed", _) => end(node, order, Some(Ending::RollbackFailed { code })),
        ("quarantined", _) => end(node, order, Some(Ending::Quarantined { code })),
        _ => Action::Wait,
    }
}

/// The ending of an attempt that this host does not know.
fn never_ran(host: &AttemptView, code: ErrorCode) -> Option<Ending> {
    let observed: StorePath = host.current.clone()?;
    host.resting.then_some(Ending::RolledBack { observed, code })
}

fn end(node: NodeId, order: &Move, ending: Option<Ending>) -> Action {
    let attempt = NodeAttempt { rollout: order.rollout, node, attempt: order.attempt };
    ending.map_or(Action::Wait, |ending| Action::End(Report { attempt, ending }))
}

#[cfg(test)]
mod tests {
    use osmoda_types::{AttemptId, FleetEpoch, ManifestHash};

    use super::*;

    const ME: NodeId = NodeId::from_bytes([1; 32]);
    const STATES: [&str; 14] = [
        "idle",
        "granted",
        "deferred",
        "armed",
        "activating",
        "probation",
        "ready",
        "accepted",
        "committing",
        "committed",
        "rolling_back",
        "rolled_back",
        "rollback_failed",
        "quarantined",
    ];

    fn order(rollout: RolloutId) -> Move {
        Move {
            rollout,
            manifest: ManifestHash::from_bytes([2; 32]),
            epoch: FleetEpoch(1),
            attempt: AttemptId(9),
            target: StorePath::new("/store/new").unwrap(),
            baseline: StorePath::new("/store/old").unwrap(),
        }
    }

    fn host(rollout: RolloutId, attempt: Option<u64>, state: &str) -> AttemptView {
        AttemptView {
            attempt: attempt.map(AttemptId),
            rollout: attempt.map(|_| rollout),
            manifest: None,
            state: state.to_owned(),
            acceptable: state == "ready",
            resting: matches!(state, "idle" | "deferred" | "committed" | "rolled_back" | "quarantined"),
            target: None,
            baseline: None,
            current: Some(StorePath::new("/store/now").unwrap()),
            profile: None,
            highest_attempt: attempt.map(AttemptId),
            highest_epoch: None,
            code: Some(ErrorCode::CheckFailed),
            detail: None,
            contacts: 0,
            exit: None,
        }
    }

    #[test]
    fn only_the_log_lets_a_target_stay() {
        let rollout = RolloutId::new();
        for state in STATES {
            let action = decide(ME, &Desired::Attempt(order(rollout)), None, &host(rollout, Some(9), state));
            assert!(!matches!(action, Action::Accept(_)), "granted only, host {state}: {action:?}");
            let action = decide(ME, &Desired::Accepted(order(rollout)), None, &host(rollout, Some(9), state));
            assert_eq!(matches!(action, Action::Accept(_)), state == "ready", "accepted, host {state}: {action:?}");
        }
    }

    #[test]
    fn a_rejected_target_is_left_from_every_state() {
        let rollout = RolloutId::new();
        for state in STATES {
            let action = decide(ME, &Desired::Baseline(order(rollout)), None, &host(rollout, Some(9), state));
            let stays = ["idle", "rolling_back"].contains(&state);
            assert_eq!(action == Action::Wait, stays, "host {state}: {action:?}");
        }
        let elsewhere = decide(ME, &Desired::Baseline(order(rollout)), None, &host(rollout, None, "idle"));
        assert!(matches!(elsewhere, Action::End(Report { ending: Ending::RolledBack { .. }, .. })));
    }

    #[test]
    fn a_grant_begins_once_and_an_older_one_never() {
        let rollout = RolloutId::new();
        let wanted = Desired::Attempt(order(rollout));
        let begin = decide(ME, &wanted, None, &host(rollout, Some(3), "committed"));
        assert_eq!(begin, Action::Grant(order(rollout)));
        assert_eq!(decide(ME, &wanted, None, &host(rollout, Some(3), "rolling_back")), Action::Wait);
        let stale = decide(ME, &wanted, None, &host(rollout, Some(10), "committed"));
        assert!(
            matches!(
                &stale,
                Action::End(Report { ending: Ending::RolledBack { code: ErrorCode::AttemptStale, .. }, .. })
            ),
            "{stale:?}"
        );
    }

    #[test]
    fn endings_are_told_once_and_as_the_journal_says() {
        let rollout = RolloutId::new();
        let kept = Desired::Accepted(order(rollout));
        let committed = decide(ME, &kept, Some(NodeState::Accepted), &host(rollout, Some(9), "committed"));
        assert!(matches!(committed, Action::End(Report { ending: Ending::Committed { .. }, .. })));
        assert_eq!(decide(ME, &kept, Some(NodeState::Committed), &host(rollout, Some(9), "committed")), Action::Wait);
        let failed = decide(ME, &Desired::Attempt(order(rollout)), None, &host(rollout, Some(9), "rollback_failed"));
        assert!(matches!(failed, Action::End(Report { ending: Ending::RollbackFailed { .. }, .. })));
    }

    #[test]
    fn staging_waits_until_the_host_rests() {
        let rollout = RolloutId::new();
        let path = |text: &str| StorePath::new(text).unwrap();
        let wanted = Desired::Stage {
            rollout,
            manifest: ManifestHash::from_bytes([2; 32]),
            target: path("/store/new"),
            baseline: path("/store/old"),
        };
        assert_eq!(decide(ME, &wanted, None, &host(rollout, None, "idle")), Action::Stage(rollout));
        assert_eq!(decide(ME, &wanted, None, &host(rollout, Some(1), "rolling_back")), Action::Wait);
    }
}
