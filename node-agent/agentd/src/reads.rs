//! Reads and refusals in the ledger, off the path of changes.
//!
//! A change is durable before it is answered. Who looked at what, and who was
//! refused, is put down behind the answer: the first of a kind within a second,
//! those like it counted in a row a minute, and never more rows than
//! [`Gather`] allows, so that no flood of refusals grows the ledger. A kill may
//! lose the last second. What does not fit is counted, and the count is a row of
//! its own: nothing is lost in silence.
//!
//! Callers that the callers table refuses never reach a route; the server notes
//! them in [`Refusals`](osmoda_kit::http::Refusals), and their rows are written here too.
//! Invariant: what is asked about each checkpoint makes no row. A row makes a
//! checkpoint, which is asked about: each would beget the next. Of what is refused
//! about each, an operator's cosignature, a row a minute is the most.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::gather::Gather;
use osmoda_kit::http::refusals::TOLD_EVERY;
use osmoda_kit::http::{Caller, Callers, Isolation, Refusal};
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_types::ErrorCode;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::api::{ledger_error, new_row};
use crate::ledger::Ledger;

/// What was read. Health, heads and metrics are asked for every few seconds by
/// the node itself and tell nothing of what is in the ledger.
const READS: [(&str, &str); 11] = [
    ("GET", "/events/log"),
    ("GET", "/ledger/export"),
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

/// What the node itself, operators that cosign and whoever watches ask for every
/// second or so. A refused append or cosignature is none of these: who tried to
/// write what is not his is what the ledger should say.
const POLLED: [&str; 6] = [
    "/ledger/checkpoint",
    "/ledger/next-head",
    "/ledger/head",
    "/ledger/proof/consistency",
    "/ledger/proof/inclusion",
    "/ledger/witness",
];

/// The type of rows about refusals.
const REFUSED: &str = "agentd.refused";

/// One kind of thing that happened, without how often.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    kind: &'static str,
    actor: String,
    call: String,
    status: u16,
    code: Option<ErrorCode>,
    isolation: &'static str,
}

/// What rows are made of.
#[derive(Clone)]
pub struct ReadsParts {
    /// Where they go.
    pub ledger: Ledger,
    /// Who was refused by the callers table.
    pub callers: Arc<Callers>,
    /// Time.
    pub clock: SharedClock,
    /// The registry.
    pub tasks: Tasks,
}

#[derive(Debug, Clone, Default)]
struct Reads {
    gathered: Arc<Mutex<Gather<Seen>>>,
    in_progress: Arc<InProgress>,
}

/// Requests whose answer is not known yet; a stop waits for them.
#[derive(Debug, Default)]
struct InProgress {
    count: AtomicU64,
    one_less: Notify,
}

/// Counts a request until it is answered, or its connection is cut off.
struct Counted(Arc<InProgress>);

impl Counted {
    fn begin(of: &Arc<InProgress>) -> Self {
        of.count.fetch_add(1, SeqCst);
        Self(Arc::clone(of))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, SeqCst);
        self.0.one_less.notify_waiters();
    }
}

impl InProgress {
    /// Cancel-safe: it only watches.
    async fn none(&self) {
        loop {
            // Listened for before the count is read, so that no end is missed.
            let one_less = self.one_less.notified();
            tokio::pin!(one_less);
            one_less.as_mut().enable();
            if self.count.load(SeqCst) == 0 {
                return;
            }
            one_less.await;
        }
    }
}

/// Wraps the routes, and starts the task that writes.
pub fn observe(router: Router, parts: ReadsParts) -> Router {
    let reads = Reads::default();
    let tasks = parts.tasks.clone();
    tasks.spawn(TaskKind::REQUEST, "reads", write(reads.clone(), parts));
    router.layer(from_fn_with_state(reads, note))
}

async fn note(State(reads): State<Reads>, request: Request, next: Next) -> Response {
    let _counted = Counted::begin(&reads.in_progress);
    let caller = request.extensions().get::<Caller>().copied();
    let pattern = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = request.method().clone();
    let response = next.run(request).await;
    let status = response.status();
    let pattern = pattern.as_deref().unwrap_or("unknown path");
    let is_polled = method == Method::GET && POLLED.contains(&pattern);
    let is_refusal = (status.is_client_error() || status.is_server_error()) && !is_polled;
    let is_read = READS.contains(&(method.as_str(), pattern));
    if let Some(caller) = caller.filter(|_| is_refusal || is_read) {
        let named = NAMED.iter().find(|(path, _)| *path == pattern).map(|(_, kind)| *kind);
        reads.add(Seen {
            kind: if is_refusal { REFUSED } else { named.unwrap_or("agentd.read") },
            actor: caller.who.to_string(),
            call: format!("{method} {pattern}"),
            status: status.as_u16(),
            code: response.extensions().get().copied(),
            isolation: caller.isolation.as_str(),
        });
    }
    response
}

impl Reads {
    /// Held for a change of a map, never across an await or I/O.
    fn lock(&self) -> MutexGuard<'_, Gather<Seen>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, seen: Seen) {
        if !self.lock().add(seen) {
            metrics::counter!("osmoda_reads_lost_total").increment(1);
        }
    }
}

async fn write(reads: Reads, parts: ReadsParts) {
    let stop = parts.tasks.shutdown().token(Stage::FinishAccepted);
    let mut tick = tokio::time::interval(TOLD_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let is_over = tokio::select! {
            biased;
            // Cancel-safe: a token's state is not consumed.
            () = stop.cancelled() => true,
            // Cancel-safe: an interval keeps its deadline.
            _ = tick.tick() => false,
        };
        if is_over {
            // Requests that were accepted are being finished, and are told too.
            reads.in_progress.none().await;
        }
        flush_reads(&reads, &parts, is_over).await;
        flush_refusals(&parts, is_over).await;
        if is_over {
            return;
        }
    }
}

fn taken<K: Ord + Clone>(gathered: &mut Gather<K>, parts: &ReadsParts, is_over: bool) -> (Vec<(K, u64)>, u64) {
    (if is_over { gathered.rest() } else { gathered.due(parts.clock.now_boot()) }, gathered.take_lost())
}

async fn flush_reads(reads: &Reads, parts: &ReadsParts, is_over: bool) {
    let (due, lost) = taken(&mut reads.lock(), parts, is_over);
    let rows = due.into_iter().map(|(seen, count)| {
        let mut payload = json!({ "call": seen.call, "status": seen.status, "count": count });
        if let Some(code) = seen.code {
            payload["code"] = json!(code);
        }
        (seen.kind, seen.actor.clone(), payload, seen.isolation, (Some(seen), count))
    });
    let lost = (lost > 0).then(|| {
        let payload = json!({ "lost": lost });
        ("agentd.reads.lost", "agentd".to_owned(), payload, Isolation::Users.as_str(), (None, lost))
    });
    for (seen, count) in write_rows(rows.chain(lost), parts).await {
        match seen {
            Some(seen) => drop(reads.lock().add_many(seen, count)),
            None => reads.lock().add_lost(count),
        }
    }
}

async fn flush_refusals(parts: &ReadsParts, is_over: bool) {
    let (due, lost) = taken(&mut parts.callers.refusals().lock(), parts, is_over);
    let isolation = parts.callers.isolation().as_str();
    let rows = due.into_iter().map(|(refusal, count)| {
        (REFUSED, refusal.caller.clone(), refusal.payload(count), isolation, (Some(refusal), count))
    });
    let lost = (lost > 0)
        .then(|| (REFUSED, "agentd".to_owned(), json!({ "uncounted": lost }), isolation, (None::<Refusal>, lost)));
    for (refusal, count) in write_rows(rows.chain(lost), parts).await {
        let mut gathered = parts.callers.refusals().lock();
        match refusal {
            Some(refusal) => drop(gathered.add_many(refusal, count)),
            None => gathered.add_lost(count),
        }
    }
}

/// Type, actor, payload, isolation, and what comes back if it is not written.
type RowOf<T> = (&'static str, String, Value, &'static str, T);

/// Writes rows, all waiting for the same commit; returns what was not written.
async fn write_rows<T>(rows: impl Iterator<Item = RowOf<T>>, parts: &ReadsParts) -> Vec<T> {
    let written = rows.map(async |(kind, actor, payload, isolation, what)| {
        let isolation = if isolation == Isolation::None.as_str() { Isolation::None } else { Isolation::Users };
        let payload = payload.as_object().cloned().unwrap_or_else(Map::<String, Value>::new);
        let row = new_row(kind.to_owned(), payload, &actor, isolation);
        let appended = match row {
            Ok(row) => parts.ledger.append(row).await.map(drop).map_err(ledger_error),
            Err(error) => Err(error),
        };
        appended.err().map(|error| (what, error))
    });
    let failed: Vec<(T, ApiError)> = futures_util::future::join_all(written).await.into_iter().flatten().collect();
    if let Some((_, error)) = failed.first() {
        tracing::debug!(error = chain(error), rows = failed.len(), "reads wait for the ledger");
    }
    failed.into_iter().map(|(what, _)| what).collect()
}
