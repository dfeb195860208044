//! What others are shown of the journal. *Pure.*

use osmoda_journal::{Attempt, Entry, Phase, Record, State, Writer};
use osmoda_node_api::watch::{AttemptView, HistoryEntry};
use osmoda_types::StorePath;

/// The view of a state and of what the host was seen to run.
#[must_use]
pub(crate) fn attempt(state: &State, running: Option<StorePath>, profile: Option<StorePath>) -> AttemptView {
    let attempt = state.attempt.as_ref();
    let plan = attempt.map(|attempt| &attempt.plan);
    AttemptView {
        attempt: attempt.map(|attempt| attempt.id),
        rollout: plan.and_then(|plan| plan.rollout),
        manifest: plan.and_then(|plan| plan.manifest),
        state: state.phase.as_str().to_owned(),
        acceptable: attempt.is_some_and(|attempt| is_acceptable(state, attempt)),
        resting: state.phase.is_resting(),
        target: plan.map(|plan| plan.target.clone()),
        baseline: plan.map(|plan| plan.baseline.clone()),
        current: running,
        profile,
        highest_attempt: state.highest.map(|(_, attempt)| attempt),
        highest_epoch: state.highest.map(|(epoch, _)| epoch),
        code: attempt.and_then(|attempt| attempt.cause.as_ref()).map(|cause| cause.code),
        detail: attempt.and_then(detail),
        contacts: attempt.map_or(0, |attempt| attempt.contacts_after),
        exit: attempt.and_then(|attempt| attempt.exit),
    }
}

fn is_acceptable(state: &State, attempt: &Attempt) -> bool {
    state.phase == Phase::Ready
        && state.unreadable.is_none()
        && attempt.contacts_after >= attempt.plan.contacts_required
}

fn detail(attempt: &Attempt) -> Option<String> {
    let cause = attempt.cause.as_ref().map(|cause| cause.detail.clone());
    match (cause, attempt.outcome.clone()) {
        (Some(cause), Some(outcome)) if !outcome.is_empty() => Some(format!("{cause}; {outcome}")),
        (cause, outcome) => cause.or(outcome),
    }
}

/// The view of one record.
#[must_use]
pub(crate) fn history(record: &Record) -> HistoryEntry {
    let mut entry = HistoryEntry {
        attempt: record.attempt,
        kind: match &record.entry {
            Entry::Unknown { kind } => kind.clone(),
            known => known.kind().map_or("head", osmoda_journal::Kind::as_str).to_owned(),
        },
        at_ms: record.at.wall_ms,
        writer: match record.writer {
            Writer::Watch => "watch",
            Writer::Guard => "guard",
            Writer::Other => "other",
        }
        .to_owned(),
        target: None,
        baseline: None,
        rollout: None,
        code: None,
        detail: None,
    };
    match &record.entry {
        Entry::Granted(plan) => {
            entry.target = Some(plan.target.clone());
            entry.baseline = Some(plan.baseline.clone());
            entry.rollout = plan.rollout;
        }
        Entry::Deferred(cause) | Entry::RollingBack(cause) | Entry::Reverting(cause) | Entry::RollbackFailed(cause) => {
            entry.code = Some(cause.code);
            entry.detail = Some(cause.detail.clone());
        }
        Entry::RolledBack(detail) | Entry::Quarantined(detail) => entry.detail = Some(detail.clone()),
        _ => {}
    }
    entry
}
