//! The words in which an attempt is told to the ledger. *Pure.*

use osmoda_journal::{Attempt, Cause, Entry, Kind, Origin, Record};
use osmoda_types::AttemptId;
use serde_json::{Value, json};

/// What an attempt is about: the payload of its rows. `undo` says of one that it only
/// leads back: the ledger takes its intent on the last room too.
pub(crate) fn about(attempt: &Attempt) -> Value {
    let plan = &attempt.plan;
    let mut payload = json!({
        "attempt": attempt.id,
        "epoch": plan.epoch,
        "origin": if plan.origin == Origin::Fleet { "fleet" } else { "local" },
        "target": plan.target,
        "baseline": plan.baseline,
    });
    if let Some(rollout) = plan.rollout {
        payload["rollout"] = json!(rollout);
    }
    if let Some(manifest) = plan.manifest {
        payload["manifest"] = json!(manifest);
    }
    if plan.undo.is_some() {
        payload["undo"] = json!(true);
    }
    payload
}

/// Adds why.
pub(crate) fn because(payload: &mut Value, cause: &Cause) {
    payload["code"] = json!(cause.code.as_str());
    payload["detail"] = json!(cause.detail);
}

/// How an attempt ended that another one followed, as far as the journal tells;
/// `unknown` where its records are gone.
pub(crate) fn ended(records: &[Record], attempt: AttemptId) -> Value {
    let mut payload = json!({ "attempt": attempt, "state": "unknown" });
    for record in records.iter().filter(|record| record.attempt == attempt) {
        if let Entry::Deferred(cause)
        | Entry::RollingBack(cause)
        | Entry::Reverting(cause)
        | Entry::RollbackFailed(cause) = &record.entry
        {
            because(&mut payload, cause);
        }
        let kind = record.entry.kind();
        if let Some(
            kind @ (Kind::Deferred | Kind::Committed | Kind::RolledBack | Kind::RollbackFailed | Kind::Quarantined),
        ) = kind
        {
            payload["state"] = json!(kind.as_str());
        }
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;
    use osmoda_journal::{Moment, Writer};
    use osmoda_types::ErrorCode;

    fn record(attempt: u64, entry: Entry) -> Record {
        let at = Moment { boot_id: "boot".to_owned(), boot_ms: 0, wall_ms: 0 };
        Record { attempt: AttemptId(attempt), at, writer: Writer::Watch, entry }
    }

    #[test]
    fn the_journal_tells_how_an_earlier_attempt_ended() {
        let records = [
            record(1, Entry::RollingBack(Cause::new(ErrorCode::CheckFailed, "down"))),
            record(1, Entry::RolledBack("restored".to_owned())),
            record(2, Entry::Committed),
        ];
        let told = |attempt| ended(&records, AttemptId(attempt));
        assert_eq!(told(1), json!({"attempt": 1, "state": "rolled_back", "code": "check_failed", "detail": "down"}));
        assert_eq!(told(2), json!({"attempt": 2, "state": "committed"}));
        assert_eq!(told(3), json!({"attempt": 3, "state": "unknown"}));
    }
}
