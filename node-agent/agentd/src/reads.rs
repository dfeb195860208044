//! Reads and refusals in the ledger, off the path of changes.
//!
//! A change is durable before it is answered. Who looked at what, and who was
//! refused, is put down behind the answer: gathered for a second, alike ones
//! counted in one row, and written with whatever else is committed then. A kill
//! may lose that second. What does not fit is counted, and the count is a row of
//! its own: nothing is lost in silence.
//!
//! Callers that the callers table refuses never get here; `kit` logs and counts
//! those.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use osmoda_kit::error::chain;
use osmoda_kit::http::{Caller, Isolation};
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{OnError, OnStop, TaskKind, Tasks};
use serde_json::{Map, Value, json};

use crate::api::new_row;
use crate::ledger::Ledger;

/// Different reads and refusals in one second. Twenty callers that look at
/// everything are below it; a caller that makes up paths meets one row, because
/// a path that is no endpoint is not told apart from another.
const PENDING_MAX: usize = 256;

/// How long they are gathered: what a kill may lose, and a row a second at most
/// for a caller that asks the same thing in a loop.
const GATHER: Duration = Duration::from_secs(1);

/// It writes down what it has when a stop has come, before the ledger closes.
const KIND: TaskKind = TaskKind { on_error: OnError::LogOnly, on_stop: OnStop::Wait, ends_at: Stage::FinishAccepted };

/// What was read. Health, heads and metrics are asked for every few seconds by
/// the node itself and tell nothing of what is in the ledger.
const READS: [(&str, &str); 10] = [
    ("GET", "/events/log"),
    ("POST", "/memory/recall"),
    ("GET", "/receipts"),
    ("GET", "/incidents"),
    ("GET", "/incident/{id}"),
    ("POST", "/system/query"),
    ("GET", "/system/discover"),
    ("GET", "/backup/list"),
    ("GET", "/approval/pending"),
    ("GET", "/approval/{id}"),
];

/// Reads that the earlier product recorded, and its types for them.
const NAMED: [(&str, &str); 2] = [("/system/query", "system.query"), ("/system/discover", "system.discover")];

/// One kind of thing that happened, without how often.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    kind: &'static str,
    actor: String,
    call: String,
    status: u16,
    is_isolated: bool,
}

#[derive(Debug, Default)]
struct Pending {
    seen: BTreeMap<Seen, u64>,
    lost: u64,
}

#[derive(Debug, Clone, Default)]
struct Reads {
    pending: Arc<Mutex<Pending>>,
}

/// Wraps the routes, and starts the task that writes.
pub fn observe(router: Router, ledger: Ledger, tasks: &Tasks) -> Router {
    let reads = Reads::default();
    tasks.spawn(KIND, "reads", write(reads.clone(), ledger, tasks.clone()));
    router.layer(from_fn_with_state(reads, note))
}

async fn note(State(reads): State<Reads>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().copied();
    let pattern = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = request.method().clone();
    let response = next.run(request).await;
    let status = response.status();
    let pattern = pattern.as_deref().unwrap_or("unknown path");
    let is_refusal = status.is_client_error() || status.is_server_error();
    let is_read = READS.contains(&(method.as_str(), pattern));
    if let Some(caller) = caller.filter(|_| is_refusal || is_read) {
        let named = NAMED.iter().find(|(path, _)| *path == pattern).map(|(_, kind)| *kind);
        let kind = if is_refusal { "agentd.refused" } else { named.unwrap_or("agentd.read") };
        reads.add(Seen {
            kind,
            actor: caller.who.to_string(),
            call: format!("{method} {pattern}"),
            status: status.as_u16(),
            is_isolated: caller.isolation == Isolation::Users,
        });
    }
    response
}

impl Reads {
    /// Held for a change of a map, never across an await or I/O.
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, seen: Seen) {
        let mut pending = self.lock();
        if pending.seen.len() >= PENDING_MAX && !pending.seen.contains_key(&seen) {
            pending.lost += 1;
            metrics::counter!("osmoda_reads_lost_total").increment(1);
            return;
        }
        *pending.seen.entry(seen).or_default() += 1;
    }

    /// Writes what was gathered. All rows wait for the same commit.
    async fn flush(&self, ledger: &Ledger) {
        let Pending { seen, lost } = std::mem::take(&mut *self.lock());
        let rows = seen.into_iter().map(|(seen, count)| {
            let isolation = if seen.is_isolated { Isolation::Users } else { Isolation::None };
            let payload = json!({ "call": seen.call, "status": seen.status, "count": count });
            (seen.kind, seen.actor, payload, isolation, count)
        });
        let lost = (lost > 0).then(|| {
            let payload = json!({ "lost": lost });
            ("agentd.reads.lost", "agentd".to_owned(), payload, Isolation::Users, lost)
        });
        let written = rows.chain(lost).map(async |(kind, actor, payload, isolation, count)| {
            let payload = payload.as_object().cloned().unwrap_or_else(Map::<String, Value>::new);
            let Ok(row) = new_row(kind.to_owned(), payload, &actor, isolation) else { return count };
            match ledger.append(row).await {
                Ok(_) => 0,
                Err(error) => {
                    tracing::warn!(error = chain(&error), count, "reads not recorded");
                    count
                }
            }
        });
        let lost: u64 = futures_util::future::join_all(written).await.into_iter().sum();
        self.lock().lost += lost;
    }
}

async fn write(reads: Reads, ledger: Ledger, tasks: Tasks) {
    let stop = tasks.shutdown().token(Stage::FinishAccepted);
    loop {
        let is_over = tokio::select! {
            biased;
            // Cancel-safe: a token's state is not consumed.
            () = stop.cancelled() => true,
            // Cancel-safe: a timer.
            () = tokio::time::sleep(GATHER) => false,
        };
        reads.flush(&ledger).await;
        if is_over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_ones_are_counted_and_what_does_not_fit_too() {
        let reads = Reads::default();
        let seen = |n: usize| Seen {
            kind: "agentd.read",
            actor: "admin".to_owned(),
            call: format!("GET /{n}"),
            status: 200,
            is_isolated: true,
        };
        for n in 0..PENDING_MAX + 3 {
            reads.add(seen(n));
        }
        reads.add(seen(0));
        let pending = reads.lock();
        assert_eq!((pending.seen.len(), pending.lost, pending.seen[&seen(0)]), (PENDING_MAX, 3, 2));
    }
}
