//! Calls that the callers table refused, gathered on their way to the ledger.
//!
//! A refused caller never reaches a handler, so the server notes it here. What
//! is told is never the caller's own text: the path is the row's, the caller is
//! the kernel's word.
//! Invariant: noting one takes a lock for a change of a map and nothing else, so
//! no answer waits for the ledger.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use osmoda_types::ErrorCode;
use serde_json::{Value, json};

use super::Callers;
use crate::audit::Audit;
use crate::clock::SharedClock;
use crate::error::chain;
use crate::gather::Gather;
use crate::shutdown::Stage;
use crate::tasks::Tasks;

/// How often the ledger is told what was gathered: what a kill may lose.
pub const TOLD_EVERY: Duration = Duration::from_secs(1);

/// One kind of refused call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Who called: a daemon's name, `admin`, `model:<uid>` or `uid:<uid>`.
    pub caller: String,
    /// The method and the path of the row that speaks of it, or `unknown path`.
    pub call: String,
    /// Why, as the caller was told.
    pub code: ErrorCode,
}

impl Refusal {
    /// What a ledger row says of `count` of them.
    #[must_use]
    pub fn payload(&self, count: u64) -> Value {
        json!({ "caller": self.caller, "call": self.call, "code": self.code, "count": count })
    }
}

/// The refused calls of one daemon.
#[derive(Debug, Default)]
pub struct Refusals {
    gathered: Mutex<Gather<Refusal>>,
}

impl Refusals {
    /// What was gathered. Held for a change of a map, never across an await or
    /// I/O; after a panic of another holder the map is whole all the same.
    pub fn lock(&self) -> MutexGuard<'_, Gather<Refusal>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, refusal: Refusal) {
        if !self.lock().add(refusal) {
            metrics::counter!("osmoda_refusals_uncounted_total").increment(1);
        }
    }
}

/// Tells the ledger of `daemon`'s refusals until the stop, and then of the rest.
/// Runs as [`TaskKind::REQUEST`](crate::tasks::TaskKind::REQUEST).
pub async fn tell_ledger(daemon: &'static str, callers: Arc<Callers>, audit: Audit, clock: SharedClock, tasks: Tasks) {
    let stop = tasks.shutdown().token(Stage::FinishAccepted);
    let mut tick = tokio::time::interval(TOLD_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let refusals = callers.refusals();
    loop {
        let is_over = tokio::select! {
            biased;
            // Cancel-safe: a token's state is not consumed.
            () = stop.cancelled() => true,
            // Cancel-safe: an interval keeps its deadline.
            _ = tick.tick() => false,
        };
        let (due, lost) = {
            let mut gathered = refusals.lock();
            (if is_over { gathered.rest() } else { gathered.due(clock.now_boot()) }, gathered.take_lost())
        };
        tell(daemon, refusals, &audit, due, lost).await;
        if is_over {
            return;
        }
    }
}

/// Ends at the first row that the ledger does not take: the rest waits for it.
async fn tell(daemon: &str, refusals: &Refusals, audit: &Audit, due: Vec<(Refusal, u64)>, lost: u64) {
    let kind = format!("{daemon}.refused");
    let mut is_down = false;
    for (refusal, count) in due {
        if !is_down {
            match audit.record(&kind, refusal.payload(count)).await {
                Ok(_) => continue,
                Err(error) => tracing::debug!(error = chain(&error), "refusals wait for the ledger"),
            }
        }
        is_down = true;
        refusals.lock().add_many(refusal, count);
    }
    if lost > 0 && (is_down || audit.record(&kind, json!({ "uncounted": lost })).await.is_err()) {
        refusals.lock().add_lost(lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Append, Recorded};
    use crate::http::testing::TestServer;
    use crate::http::{Allowed, CallerTable, DaemonUser, Isolation, MODEL_UID_FIRST, PeerTokens, Row};
    use crate::shutdown::{Shutdown, StopReason};
    use crate::tasks::TaskKind;
    use crate::testing::{FakeClock, wait_for};
    use axum::{Json, Router, routing::post};

    const TABLE: CallerTable = CallerTable {
        daemons: &[DaemonUser { name: "watch", user: "w" }],
        rows: &[Row { method: "POST", path: "/approval/{}/approve", allowed: &[Allowed::Admin] }],
    };

    #[tokio::test]
    async fn a_refused_caller_is_told_to_the_ledger_without_its_own_text() {
        let rows = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&rows);
        let append = move |Json(body): Json<Append>| async move {
            seen.lock().unwrap().push(body);
            Json(Recorded { id: 1, hash: "00".repeat(32) })
        };
        let agentd = TestServer::open(Router::new().route("/ledger/append", post(append)));
        let callers = Arc::new(Callers::by_tokens(TABLE, 1000, PeerTokens::default()));
        let tasks = Tasks::new(Shutdown::new());
        let audit = Audit::new(agentd.client());
        let telling = tell_ledger("watch", Arc::clone(&callers), audit, Arc::new(FakeClock::new()), tasks.clone());
        tasks.spawn(TaskKind::REQUEST, "refusals", telling);

        let call = |uid, path| callers.admit((uid, None), None, None, "POST", path);
        assert!(call(0, "/approval/7/approve").is_ok_and(|caller| caller.isolation == Isolation::None));
        for _ in 0..3 {
            call(MODEL_UID_FIRST, "/approval/7/approve").unwrap_err();
        }
        call(1000, "/secret-text-of-the-caller").unwrap_err();
        wait_for("rows", Duration::from_secs(20), async || (rows.lock().unwrap().len() >= 2).then_some(())).await;
        call(4242, "/approval/7/approve").unwrap_err();
        tasks.shutdown().request(StopReason::Asked("end of test".to_owned()));
        assert!(tasks.drain(Duration::from_secs(20)).await.is_graceful());

        let rows = rows.lock().unwrap();
        assert!(rows.iter().all(|row| row.kind == "watch.refused"), "{rows:?}");
        let count = |caller: &str, call: &str| -> u64 {
            let of = rows.iter().filter(|row| row.payload["caller"] == caller && row.payload["call"] == call);
            of.map(|row| row.payload["count"].as_u64().unwrap()).sum()
        };
        assert_eq!(count(&format!("model:{MODEL_UID_FIRST}"), "POST /approval/{}/approve"), 3, "{rows:?}");
        assert_eq!(count("admin", "POST unknown path"), 1);
        assert_eq!(count("uid:4242", "POST /approval/{}/approve"), 1, "what came last is told before the end");
    }
}
