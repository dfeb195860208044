//! Attempts to approve without a key, in the ledger.
//!
//! The first of a kind is a row before it is answered; those like it are counted, as
//! refusals are (`crate::reads`): whoever may try in a loop must not be able to grow
//! the ledger. The sweep writes what was counted.
//! Invariant: what was taken to be written is written or comes back, whoever waits for
//! it: it is written by a task that ends by itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use osmoda_kit::error::ApiError;
use osmoda_kit::gather::Gather;
use osmoda_kit::http::{Caller, Isolation};
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::TaskKind;
use osmoda_types::{ErrorCode, PermitId};
use serde_json::json;
use tokio::sync::oneshot;

use super::Approvals;
use super::ask::object;
use crate::api::{ledger_error, new_row};

/// The type of its rows.
const REFUSED: &str = "approval.refused";

/// One kind of attempt, without how often.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Try {
    permit: PermitId,
    why: &'static str,
    actor: String,
    is_shared: bool,
}

/// What was tried and is not written yet; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Tried {
    gathered: Arc<Mutex<Gather<Try>>>,
}

impl Tried {
    /// Held for a change of a map, never across an await or I/O.
    fn lock(&self) -> MutexGuard<'_, Gather<Try>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Approvals {
    /// Records that somebody tried to approve without a key. The permit stays
    /// as it is.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, all that was due is written all the same; with it go
    /// attempts of others.
    pub(super) async fn record_refused(
        &self,
        permit: PermitId,
        why: &'static str,
        caller: Caller,
    ) -> Result<(), ApiError> {
        let is_shared = caller.isolation == Isolation::None;
        let tried = Try { permit, why, actor: caller.who.to_string(), is_shared };
        // One that finds no place is counted, and the count is written too.
        self.tried.lock().add(tried);
        let (this, (reply, answer)) = (self.clone(), oneshot::channel());
        self.parts.tasks.spawn(TaskKind::REQUEST, "write attempts to approve", async move {
            // After the sweep's last look nobody else writes what is not due.
            let written = match this.parts.tasks.shutdown().reached(Stage::FinishAccepted) {
                true => this.write_tried_rest().await,
                false => this.write_tried().await,
            };
            // Nobody listening is fine: the caller went away.
            drop(reply.send(written));
        });
        answer.await.map_err(|_| ApiError::new(ErrorCode::ShuttingDown, "the daemon is stopping"))?
    }

    /// Writes what is due: the first of each kind, and counts of a minute.
    pub(super) async fn write_tried(&self) -> Result<(), ApiError> {
        let (due, lost) = {
            let mut gathered = self.tried.lock();
            (gathered.due(self.parts.clock.now_boot()), gathered.take_lost())
        };
        self.write_tries(due, lost).await
    }

    /// Writes all that was counted, before a stop.
    pub(super) async fn write_tried_rest(&self) -> Result<(), ApiError> {
        let (rest, lost) = {
            let mut gathered = self.tried.lock();
            (gathered.rest(), gathered.take_lost())
        };
        self.write_tries(rest, lost).await
    }

    /// What is not written comes back, and the first error is told.
    async fn write_tries(&self, due: Vec<(Try, u64)>, lost: u64) -> Result<(), ApiError> {
        let mut failed = Ok(());
        for (tried, count) in due {
            let payload = json!({ "permit": tried.permit, "why": tried.why, "count": count });
            let isolation = if tried.is_shared { Isolation::None } else { Isolation::Users };
            if let Err(error) = self.write_try(payload, &tried.actor, isolation).await {
                self.tried.lock().add_many(tried, count);
                failed = failed.and(Err(error));
            }
        }
        if lost > 0
            && let Err(error) = self.write_try(json!({ "uncounted": lost }), "agentd", self.parts.isolation).await
        {
            self.tried.lock().add_lost(lost);
            failed = failed.and(Err(error));
        }
        failed
    }

    async fn write_try(&self, payload: serde_json::Value, actor: &str, isolation: Isolation) -> Result<(), ApiError> {
        let row = new_row(REFUSED.to_owned(), object(payload), actor, isolation)?;
        self.parts.ledger.append(row).await.map(|_| ()).map_err(ledger_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::file::FILE_NAME;
    use osmoda_kit::http::Who;
    use osmoda_kit::testing::wait_for;
    use rusqlite::Connection;
    use std::time::Duration;

    #[tokio::test]
    async fn what_was_due_is_written_though_who_tried_hangs_up() {
        let dir = tempfile::tempdir().unwrap();
        let (approvals, ledger, threads) = crate::approval::testing::approvals(dir.path());
        let permit = PermitId::from_bytes([1; 16]);
        for actor in ["one", "two"] {
            let tried = Try { permit, why: "no signature", actor: actor.to_owned(), is_shared: false };
            approvals.tried.lock().add(tried);
        }
        // Somebody else's lock keeps the first row from being written.
        let lock = Connection::open(dir.path().join(FILE_NAME)).unwrap();
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
        let caller = Caller { who: Who::Admin, uid: 0, pid: None, isolation: Isolation::Users };
        let mut refused = Box::pin(approvals.record_refused(permit, "no signature", caller));
        assert!(futures_util::poll!(refused.as_mut()).is_pending());
        drop(refused);
        lock.execute_batch("ROLLBACK").unwrap();
        let written = async || (ledger.state().head.size == 3).then_some(());
        wait_for("three rows", Duration::from_secs(20), written).await;
        drop((approvals, ledger));
        threads.close().unwrap();
    }
}
