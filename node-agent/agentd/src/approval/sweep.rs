//! Writes down that permits have expired. Nothing waits for it: expiry is
//! checked at every use (A4); the sweep only gives it its row (A7).

use std::time::Duration;

use osmoda_kit::error::ApiError;
use osmoda_kit::http::Isolation;
use osmoda_kit::shutdown::Stage;
use osmoda_permit::State;
use osmoda_types::PermitId;
use serde_json::json;

use super::ask::object;
use super::refusal::{No, refused};
use super::store::{self, unreadable};
use super::{Approvals, now};
use crate::api::{ledger_error, new_row};

/// Between two looks, as in the earlier product.
const EVERY: Duration = Duration::from_secs(30);

/// Looks between two removals of old permits: an hour.
const PRUNE_EVERY: u32 = 120;

/// How long a permit stays after its end. It is dead by then by both clocks and
/// its boot; two days are as long as the executor remembers what it began, so
/// there is always one list more than time alone that refuses a replay.
const KEPT_MS: i64 = 2 * 24 * 3_600_000;

impl Approvals {
    /// Sweeps until the stop.
    pub async fn sweep(self) {
        let stop = self.parts.tasks.shutdown().token(Stage::RefuseNew);
        let mut tick = tokio::time::interval(EVERY);
        let mut looks = 0_u32;
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = stop.cancelled() => return,
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
            looks = looks.wrapping_add(1);
        }
    }

    /// Expires what is over; returns how many.
    pub(super) async fn expire(&self) -> Result<usize, ApiError> {
        let read = self.parts.ledger.read(|file| store::open_ids(file.connection())).await;
        let mut expired = 0;
        for id in read.map_err(ledger_error)?.map_err(unreadable)? {
            let stored = self.stored(id).await?;
            if stored.standing.at(&stored.signed.permit, &self.now()) == State::Expired {
                self.expire_one(id).await?;
                expired += 1;
            }
        }
        Ok(expired)
    }

    /// Removes what has long been over.
    async fn prune(&self) -> Result<(), ApiError> {
        let ended_ms = self.now().wall_ms.saturating_sub(KEPT_MS);
        let read = self.parts.ledger.read(move |file| store::prunable(file.connection(), ended_ms)).await;
        let permits = read.map_err(ledger_error)?.map_err(unreadable)?;
        if permits == 0 {
            return Ok(());
        }
        let payload = object(json!({ "permits": permits, "ended_before_ms": ended_ms }));
        let row = new_row("approval.pruned".to_owned(), payload, "agentd", self.parts.isolation)?;
        let prune = move |connection: &rusqlite::Connection, _| Ok(Ok::<(), No>(store::prune(connection, ended_ms)?));
        self.parts.ledger.append_if(row, prune).await.map(|_| ()).map_err(refused)
    }

    async fn expire_one(&self, id: PermitId) -> Result<(), ApiError> {
        let isolation: Isolation = self.parts.isolation;
        let row = new_row("approval.expired".to_owned(), object(json!({ "permit": id })), "agentd", isolation)?;
        let clock = self.parts.clock.clone();
        let expire = move |connection: &rusqlite::Connection, _| {
            let from = [State::Pending, State::Approved];
            let done = store::decide(connection, &id, &from, State::Expired, "time", None, &now(&clock))?;
            let gone = No::new(osmoda_types::ErrorCode::Conflict, "decided meanwhile");
            Ok(if done { Ok(()) } else { Err(gone) })
        };
        self.parts.ledger.append_if(row, expire).await.map(|_| ()).map_err(refused)
    }
}
