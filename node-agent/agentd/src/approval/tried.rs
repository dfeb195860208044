//! Attempts to approve without a key, in the ledger.
//!
//! The first of a kind is a row before it is answered; those like it are counted, as
//! refusals are (`crate::reads`): whoever may try in a loop must not be able to grow
//! the ledger. The sweep writes what was counted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use osmoda_kit::error::ApiError;
use osmoda_kit::gather::Gather;
use osmoda_kit::http::{Caller, Isolation};
use osmoda_types::PermitId;
use serde_json::json;

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
        self.write_tried().await
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
