//! Which rows belong to which incident, and an incident as its rows tell it.
//! *Pure*, but for the one function that reads the rows.
//!
//! Invariant: the book is a fold over the rows in order of their ids; whoever
//! folds the same rows has the same book. A row that no rule of this file
//! allows (a step of an unknown incident, a second resolution) changes nothing.

use std::collections::BTreeMap;

use osmoda_node_api::agentd::Event;
use osmoda_node_api::agentd_records::{Incident, Step};
use serde_json::Value;

use crate::ledger::file::{FileError, LedgerFile};

pub(super) const CREATE: &str = "incident.create";
pub(super) const STEP: &str = "incident.step";
pub(super) const RESOLVE: &str = "incident.resolve";

/// The types of rows that tell of incidents.
pub(super) const KINDS: [&str; 3] = [CREATE, STEP, RESOLVE];

/// Incidents that can be opened. The book holds 100 bytes for each, so the
/// limit is on what people can oversee, not on memory.
pub(super) const INCIDENTS_MAX: usize = 10_000;

/// Steps of one incident. At 16 KiB for the longest step an answer is 8 MiB.
pub(super) const STEPS_MAX: usize = 500;

/// Where an incident is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// Steps may be added.
    Open,
    /// It is over.
    Resolved,
}

impl Status {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Status::Open => "open",
            Status::Resolved => "resolved",
        }
    }
}

/// The rows of one incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) status: Status,
    /// Its first row, then its steps and its resolution.
    pub(super) ids: Vec<i64>,
}

impl Rows {
    pub(super) fn steps(&self) -> usize {
        self.ids.len() - 1 - usize::from(self.status == Status::Resolved)
    }
}

/// All incidents, by their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Book {
    incidents: BTreeMap<String, Rows>,
    /// Ids in the order in which they were opened.
    order: Vec<String>,
}

impl Book {
    /// Takes one row into account; others than those of [`KINDS`] change nothing.
    pub(super) fn apply(&mut self, event: &Event) {
        let payload: Value = serde_json::from_str(&event.payload).unwrap_or_default();
        let Some(id) = payload["incident"].as_str() else { return };
        match event.kind.as_str() {
            CREATE if !self.incidents.contains_key(id) => {
                self.incidents.insert(id.to_owned(), Rows { status: Status::Open, ids: vec![event.id] });
                self.order.push(id.to_owned());
            }
            STEP | RESOLVE => {
                let Some(rows) = self.incidents.get_mut(id).filter(|rows| rows.status == Status::Open) else {
                    return;
                };
                rows.ids.push(event.id);
                if event.kind == RESOLVE {
                    rows.status = Status::Resolved;
                }
            }
            _ => {}
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<&Rows> {
        self.incidents.get(id)
    }

    pub(super) fn len(&self) -> usize {
        self.incidents.len()
    }

    /// Incidents, newest first; of one status when it is given.
    pub(super) fn newest(&self, status: Option<&str>) -> impl Iterator<Item = (&String, &Rows)> {
        self.order
            .iter()
            .rev()
            .filter_map(|id| Some((id, self.incidents.get(id)?)))
            .filter(move |(_, rows)| status.is_none_or(|status| rows.status.as_str() == status))
    }
}

/// The first row of the oldest incident that is open. Blocks.
///
/// # Errors
/// [`FileError`].
pub(crate) fn oldest_open(file: &LedgerFile) -> Result<Option<i64>, FileError> {
    let mut book = Book::default();
    file.each_of(&KINDS, |event| book.apply(event))?;
    let open = book.newest(Some(Status::Open.as_str()));
    Ok(open.filter_map(|(_, rows)| rows.ids.first().copied()).min())
}

/// The incident as its rows tell it; `None` when they do not begin one.
pub(super) fn incident(id: &str, events: &[Event]) -> Option<Incident> {
    let payload = |event: &Event| serde_json::from_str::<Value>(&event.payload).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let first = events.first().filter(|event| event.kind == CREATE)?;
    let mut incident = Incident {
        id: id.to_owned(),
        name: text(&payload(first)["name"]),
        status: Status::Open.as_str().to_owned(),
        steps: Vec::new(),
        created_at: first.ts.clone(),
        resolved_at: None,
    };
    for event in &events[1..] {
        let payload = payload(event);
        if event.kind == RESOLVE {
            incident.status = Status::Resolved.as_str().to_owned();
            incident.resolved_at = Some(event.ts.clone());
        } else {
            incident.steps.push(Step {
                step_number: incident.steps.len() as u64 + 1,
                action: text(&payload["action"]),
                result: text(&payload["result"]),
                receipt_id: payload["receipt_id"].as_str().map(str::to_owned),
                timestamp: event.ts.clone(),
            });
        }
    }
    Some(incident)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(id: i64, kind: &str, payload: Value) -> Event {
        Event {
            id,
            ts: format!("t{id}"),
            kind: kind.to_owned(),
            actor: "admin".to_owned(),
            payload: payload.to_string(),
            prev_hash: String::new(),
            hash: String::new(),
        }
    }

    #[test]
    fn rows_make_incidents_and_rows_without_sense_change_nothing() {
        let rows = [
            row(1, CREATE, json!({"incident": "a", "name": "disk"})),
            row(2, STEP, json!({"incident": "a", "action": "looked", "result": "full"})),
            row(3, STEP, json!({"incident": "b", "action": "x"})),
            row(4, CREATE, json!({"incident": "a", "name": "again"})),
            row(5, CREATE, json!({"incident": "b", "name": "net"})),
            row(6, RESOLVE, json!({"incident": "a"})),
            row(7, STEP, json!({"incident": "a", "action": "late"})),
            row(8, RESOLVE, json!({"incident": "a"})),
            row(9, "memory.store", json!({"incident": "a"})),
            row(10, STEP, json!(["a"])),
        ];
        let mut book = Book::default();
        rows.iter().for_each(|row| book.apply(row));
        assert_eq!(book.get("a").unwrap().ids, [1, 2, 6]);
        assert_eq!((book.get("a").unwrap().steps(), book.get("b").unwrap().steps(), book.len()), (1, 0, 2));
        let newest = |status| book.newest(status).map(|(id, _)| id.as_str()).collect::<Vec<_>>();
        assert_eq!((newest(None), newest(Some("open")), newest(Some("x"))), (vec!["b", "a"], vec!["b"], vec![]));

        let events = [rows[0].clone(), rows[1].clone(), rows[5].clone()];
        let shown = incident("a", &events).unwrap();
        assert_eq!((shown.name.as_str(), shown.status.as_str()), ("disk", "resolved"));
        assert_eq!((shown.created_at.as_str(), shown.resolved_at.as_deref()), ("t1", Some("t6")));
        assert_eq!((shown.steps.len(), shown.steps[0].step_number, shown.steps[0].result.as_str()), (1, 1, "full"));
        assert_eq!(incident("a", &events[1..]), None);
    }
}
