//! Receipts: ledger rows in a form for people and for the tools that show them.
//!
//! A view and nothing else: what a receipt says is what its row says.
//! Invariant: `reversible` means that there is a way back here and now. The
//! earlier product called every "send" reversible, which no payment is.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use osmoda_kit::error::ApiError;
use osmoda_node_api::agentd::{Event, EventQuery};
use osmoda_node_api::agentd_records::{Receipt, ReceiptQuery};
use osmoda_types::ErrorCode;
use serde_json::Value;

use crate::api::ledger_error;
use crate::ledger::Ledger;
use crate::timeframe;

/// Receipts when nothing else is asked.
const RECEIPTS_DEFAULT: i64 = 50;

/// Receipts at most, the earlier product's cap. There a negative limit passed it
/// (`weaknesses.md` A11); here it asks for the most.
const RECEIPTS_MAX: i64 = 500;

/// Characters of a summary: one line on a screen.
const SUMMARY_CHARS_MAX: usize = 160;

/// What leads back from a committed generation.
const UNDO_SWITCH: &str = "switch.rollback";

/// The route.
pub fn router(ledger: Ledger) -> Router {
    Router::new().route("/receipts", get(receipts)).with_state(ledger)
}

async fn receipts(
    State(ledger): State<Ledger>,
    query: Result<Query<ReceiptQuery>, QueryRejection>,
) -> Result<Json<Vec<Receipt>>, ApiError> {
    let bad = |text: String| ApiError::new(ErrorCode::BadRequest, text);
    let Query(query) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let since = query.since.filter(|since| !since.is_empty());
    let since = since.map(|since| timeframe::bound(&since, ledger.now())).transpose();
    let since = since.map_err(|error| bad(error.to_string()))?;
    let limit = match query.limit.unwrap_or(RECEIPTS_DEFAULT) {
        limit if limit < 0 => RECEIPTS_MAX,
        limit => limit.min(RECEIPTS_MAX),
    };
    let wanted = EventQuery { kind: query.kind, limit, ..EventQuery::default() };
    let read = ledger.read(move |file| {
        let from = since.map(|since| file.first_at(&since)).transpose()?.unwrap_or(0);
        let mut events = file.events(&wanted)?.events;
        // Newest first, so what is too old is at the end.
        events.truncate(events.iter().position(|event| event.id < from).unwrap_or(events.len()));
        Ok::<_, crate::ledger::file::FileError>(events)
    });
    let events = read.await.map_err(ledger_error)?.map_err(ApiError::internal)?;
    Ok(Json(events.into_iter().map(receipt).collect()))
}

fn receipt(event: Event) -> Receipt {
    let detail: Value = serde_json::from_str(&event.payload).unwrap_or_else(|_| Value::from(event.payload.as_str()));
    let undo_action = undo(&event.kind, &detail).map(str::to_owned);
    Receipt {
        id: format!("receipt-{}", event.id),
        event_id: event.id,
        summary: summary(&event.kind, &event.actor, &detail),
        receipt_type: event.kind,
        actor: event.actor,
        detail,
        timestamp: event.ts,
        reversible: undo_action.is_some(),
        undo_action,
    }
}

/// What leads back, if anything does.
fn undo(kind: &str, detail: &Value) -> Option<&'static str> {
    let is_commit = matches!(kind, "watch.commit.outcome" | "watch.attempt.outcome");
    (is_commit && detail["state"] == "committed").then_some(UNDO_SWITCH)
}

/// The row's own words where it has some, else what and who.
fn summary(kind: &str, actor: &str, detail: &Value) -> String {
    let words = ["summary", "content", "name", "action", "detail", "reason"];
    let said = words.iter().find_map(|key| detail[*key].as_str());
    let text = said.map_or_else(|| format!("{kind} by {actor}"), |said| format!("{kind}: {said}"));
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SUMMARY_CHARS_MAX).collect();
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_can_be_undone_says_so() {
        let committed = json!({"attempt": 1, "state": "committed"});
        for (kind, detail, undo_action) in [
            ("watch.attempt.outcome", committed.clone(), Some(UNDO_SWITCH)),
            ("watch.commit.outcome", committed.clone(), Some(UNDO_SWITCH)),
            ("watch.attempt.outcome", json!({"state": "rolled_back"}), None),
            ("watch.attempt.intent", committed, None),
            ("wallet.send.outcome", json!({"state": "committed"}), None),
            ("switch.anything", json!({}), None),
        ] {
            assert_eq!(undo(kind, &detail), undo_action, "{kind}");
        }
    }

    #[test]
    fn a_summary_is_one_short_line() {
        assert_eq!(summary("daemon.start", "agentd", &json!({})), "daemon.start by agentd");
        assert_eq!(summary("memory.store", "admin", &json!({"summary": "a\nb\u{1b}[31m"})), "memory.store: a b [31m");
        assert_eq!(summary("x", "y", &json!({"content": "z".repeat(999)})).len(), SUMMARY_CHARS_MAX);
    }
}
