//! Writes down that permits have expired. Nothing waits for it: expiry is
//! checked at every use (A4); the sweep only gives it its row (A7).

use std::collections::BTreeMap;
use std::time::Duration;

use osmoda_kit::error::ApiError;
use osmoda_kit::http::Isolation;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{TaskHandle, TaskKind};
use osmoda_permit::State;
use osmoda_types::{ErrorCode, PermitId};
use serde_json::json;

use super::ask::object;
use super::refusal::{No, refused};
use super::store::{self, unreadable};
use super::{Approvals, denials, now};
use crate::api::{ledger_error, new_row};
use crate::ledger::Guarded;

/// Between two looks, as in the earlier product.
const EVERY: Duration = Duration::from_secs(30);

/// Looks between two removals of old permits: an hour.
const PRUNE_EVERY: u32 = 120;

/// How long a permit stays after its end. It is dead by then by both clocks and
/// its boot; two days are as long as the executor remembers what it began, so
/// there is always one list more than time alone that refuses a replay.
const KEPT_MS: i64 = 2 * 24 * 3_600_000;

/// An end that comes by itself.
struct End {
    row: &'static str,
    state: State,
    by: &'static str,
}

const EXPIRED: End = End { row: "approval.expired", state: State::Expired, by: "time" };
const DENIED: End = End { row: "approval.denied", state: State::Denied, by: "a denial of the same call" };

impl Approvals {
    /// Starts to sweep, until the stop, which waits for what was counted to be written.
    pub fn start_sweep(&self) -> TaskHandle {
        self.parts.tasks.spawn(TaskKind::REQUEST, "approval sweep", self.clone().sweep())
    }

    async fn sweep(self) {
        let stop = self.parts.tasks.shutdown().token(Stage::FinishAccepted);
        let mut tick = tokio::time::interval(EVERY);
        let mut looks = 0_u32;
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = stop.cancelled() => break,
                // Cancel-safe: a timer keeps its ticks.
                _ = tick.tick() => {}
            }
            if let Err(error) = self.expire().await {
                tracing::warn!(code = %error.code, "expired permits not written down yet");
            }
            if looks.is_multiple_of(PRUNE_EVERY)
                && let Err(error) = self.prune().await
            {
                tracing::warn!(code = %error.code, "old permits not removed yet");
            }
            if let Err(error) = self.write_tried().await {
                tracing::warn!(code = %error.code, "attempts to approve not written down yet");
            }
            looks = looks.wrapping_add(1);
        }
        if let Err(error) = self.write_tried_rest().await {
            tracing::warn!(code = %error.code, "attempts to approve not written down");
        }
    }

    /// Ends what is over and what was denied under another permit; returns how many.
    pub(super) async fn expire(&self) -> Result<usize, ApiError> {
        let now = self.now();
        let read = self.parts.ledger.read(move |file| {
            let connection = file.connection();
            let over = store::over_ids(connection, &now)?.into_iter().map(|id| (id, &EXPIRED));
            let denied = denials::denied_ids(connection, &now)?.into_iter().map(|id| (id, &DENIED));
            // An expired one is not denied as well.
            let mut ends: BTreeMap<PermitId, &End> = denied.collect();
            ends.extend(over);
            Ok(ends)
        });
        let ends = read.await.map_err(ledger_error)?.map_err(unreadable)?;
        let count = ends.len();
        for (id, end) in ends {
            self.end_one(id, end).await?;
        }
        Ok(count)
    }

    /// Removes what has long been over.
    async fn prune(&self) -> Result<(), ApiError> {
        let now = self.now();
        let ended_ms = now.wall_ms.saturating_sub(KEPT_MS);
        let read = self.parts.ledger.read(move |file| store::prunable(file.connection(), ended_ms)).await;
        let permits = read.map_err(ledger_error)?.map_err(unreadable)?;
        if permits == 0 {
            return Ok(());
        }
        let payload = object(json!({ "permits": permits, "ended_before_ms": ended_ms }));
        let row = new_row("approval.pruned".to_owned(), payload, "agentd", self.parts.isolation)?;
        let prune =
            move |connection: &rusqlite::Connection, _| Ok(Ok::<(), No>(store::prune(connection, ended_ms, &now)?));
        self.append_if(row, prune).await.map(|_| ()).map_err(refused)
    }

    async fn end_one(&self, id: PermitId, end: &'static End) -> Result<(), ApiError> {
        let isolation: Isolation = self.parts.isolation;
        let payload = json!({ "permit": id, "by": end.by });
        let row = new_row(end.row.to_owned(), object(payload), "agentd", isolation)?;
        let clock = self.parts.clock.clone();
        let finish = move |connection: &rusqlite::Connection, _| {
            let from = [State::Pending, State::Approved];
            let done = store::decide(connection, &id, &from, end.state, end.by, None, &now(&clock))?;
            let gone = No::new(ErrorCode::Conflict, "decided meanwhile");
            Ok(if done { Ok(()) } else { Err(gone) })
        };
        match self.append_if(row, finish).await {
            // Decided meanwhile: it is ended, which is what was wanted.
            Err(Guarded::Refused(No { code: ErrorCode::Conflict, .. })) => Ok(()),
            other => other.map(|_| ()).map_err(refused),
        }
    }
}
