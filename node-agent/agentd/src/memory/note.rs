//! A ledger row as an answer shows it. *Pure.*
//!
//! Invariant: every text that came from outside carries `untrusted: true`;
//! whoever hands it to a model hands it over as data (`weaknesses.md` A14).

use osmoda_node_api::agentd::Event;
use osmoda_node_api::agentd_memory::Chunk;
use serde_json::{Map, Value};

/// The type of what others gave to be remembered.
pub(super) const INGEST: &str = "memory.ingest";

/// The type of what the agent noted itself.
pub(super) const STORE: &str = "memory.store";

/// Shows a row.
pub(super) fn chunk(event: Event, relevance: f64) -> Chunk {
    let payload: Map<String, Value> = serde_json::from_str(&event.payload).unwrap_or_default();
    let text = |key: &str| payload.get(key).and_then(Value::as_str).map(str::to_owned);
    let content = match event.kind.as_str() {
        INGEST => text("content").or_else(|| payload.get("event").map(Value::to_string)),
        STORE => text("summary").map(|summary| match text("detail") {
            Some(detail) => format!("{summary}\n{detail}"),
            None => summary,
        }),
        _ => None,
    };
    let tags = payload.get("tags").and_then(Value::as_array);
    Chunk {
        content: content.unwrap_or_else(|| event.payload.clone()),
        category: text("category"),
        tags: tags.map(|tags| tags.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        source: text("source"),
        id: event.id,
        ts: event.ts,
        relevance,
        kind: event.kind,
        actor: event.actor,
        untrusted: true,
    }
}
