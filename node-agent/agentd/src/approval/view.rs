//! Permits as callers see them.

use osmoda_kit::clock::Timestamp;
use osmoda_kit::error::ApiError;
use osmoda_node_api::approval::PermitView;
use osmoda_node_api::execd::RunRequest;
use osmoda_permit::display::render;
use osmoda_permit::{Call, HostTrust, Moment, Operation, Policy, State, Taint, Tally, tally};
use osmoda_types::{ErrorCode, PermitId};

use super::Approvals;
use super::store::{self, Stored, unreadable};
use crate::api::ledger_error;
use crate::ledger::LedgerError;

impl Approvals {
    /// One permit as it is stored.
    pub(super) async fn stored(&self, id: PermitId) -> Result<Stored, ApiError> {
        let read = self.parts.ledger.read(move |file| store::load(file.connection(), &id)).await;
        found(id, read)
    }

    /// One permit whose change the caller has just appended.
    pub(super) async fn stored_made(&self, id: PermitId) -> Result<Stored, ApiError> {
        let read = self.parts.ledger.read_after_append(move |file| store::load(file.connection(), &id)).await;
        found(id, read)
    }

    /// The same, as callers see it.
    pub(super) async fn show_made(
        &self,
        id: PermitId,
        policy: &Policy,
        trust: &HostTrust,
    ) -> Result<PermitView, ApiError> {
        let stored = self.stored_made(id).await?;
        Ok(view(stored, policy, trust, &self.now()))
    }

    /// One permit as callers see it.
    pub(super) async fn show(&self, id: PermitId) -> Result<PermitView, ApiError> {
        let (policy, trust) = self.rules().await?;
        let stored = self.stored(id).await?;
        Ok(view(stored, &policy, &trust, &self.now()))
    }

    /// The newest call of this operation that is approved and next in its permit,
    /// as the executor takes it.
    pub(crate) async fn approved(&self, wanted: &Operation) -> Result<Option<RunRequest>, ApiError> {
        let open = self.list().await?.into_iter().filter(|view| view.state == State::Approved);
        for view in open {
            let stored = self.stored(view.signed.permit.id).await?;
            let position = stored.standing.next;
            let next = usize::try_from(position).ok().and_then(|place| stored.calls.get(place));
            if let Some(next) = next.filter(|next| next.call.operation == *wanted) {
                let call = next.call.to_value();
                return Ok(Some(RunRequest { call, permit: Some(stored.signed), position }));
            }
        }
        Ok(None)
    }

    /// Permits that wait or may be used, newest first.
    pub(super) async fn list(&self) -> Result<Vec<PermitView>, ApiError> {
        self.list_as(|views| views).await
    }

    /// The same, made into what is wanted on the reader's thread: all of it may be
    /// megabytes ([`store::OPEN_BYTES_MAX`]), with a hash of each call.
    pub(super) async fn list_as<T: Send + 'static>(
        &self,
        make: impl FnOnce(Vec<PermitView>) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (policy, trust) = self.rules().await?;
        let now = self.now();
        let read = self.parts.ledger.read(move |file| {
            let connection = file.connection();
            let load = |id: PermitId| readable(&id, store::load(connection, &id)).transpose();
            let stored = store::open_ids(connection)?.into_iter().filter_map(load);
            let views = stored.map(|stored| Ok(view(stored?, &policy, &trust, &now)));
            let open = views.filter(|view| view.as_ref().map_or(true, |view| view.state.is_open()));
            Ok(make(open.collect::<rusqlite::Result<_>>()?))
        });
        read.await.map_err(ledger_error)?.map_err(unreadable)
    }
}

fn found(id: PermitId, read: Result<rusqlite::Result<Option<Stored>>, LedgerError>) -> Result<Stored, ApiError> {
    let stored = read.map_err(ledger_error)?.map_err(unreadable)?;
    stored.ok_or_else(|| ApiError::new(ErrorCode::NotFound, format!("no permit {id}")))
}

/// One permit of a list. A call whose schema an upgrade changed cannot be read
/// any more and can never run; it is named and left out, so that it does not
/// hide the others. The sweep ends it in its time.
fn readable(id: &PermitId, loaded: rusqlite::Result<Option<Stored>>) -> rusqlite::Result<Option<Stored>> {
    match loaded {
        Err(rusqlite::Error::FromSqlConversionFailure(_, _, cause)) => {
            tracing::warn!(permit = %id, %cause, "an open permit cannot be read and is not shown");
            Ok(None)
        }
        other => other,
    }
}

/// What the stored signatures amount to, by whom we believe now.
pub(super) fn count(stored: &Stored, policy: &Policy, trust: &HostTrust) -> Tally {
    tally(&stored.signed.permit, &stored.signed.signatures, &trust.operators, &policy.break_glass)
}

fn view(stored: Stored, policy: &Policy, trust: &HostTrust, now: &Moment) -> PermitView {
    let tally = count(&stored, policy, trust);
    // The reason once, however many calls there are.
    let reasons = std::iter::once(stored.reason.as_str()).chain(std::iter::repeat(""));
    let class = |call: &Call| call.operation.class(&policy.write_roots);
    let display = stored.calls.iter().zip(reasons);
    let display: Vec<String> =
        display.map(|(call, reason)| render(&call.call, class(&call.call), stored.taint, reason)).collect();
    let permit = &stored.signed.permit;
    PermitView {
        state: stored.standing.at(permit, now),
        next: stored.standing.next,
        calls: stored.calls.iter().map(|call| call.call.to_value()).collect(),
        hashes: stored.calls.iter().map(|call| call.hash).collect(),
        display: display.join("\n"),
        tainted: stored.taint == Taint::Tainted,
        approved_by: tally.approved.into_iter().collect(),
        decided_at: stored.decided_ms.map(|ms| Timestamp::from_millis(ms).to_string()),
        created_at: Timestamp::from_millis(stored.created_ms).to_string(),
        expires_at: Timestamp::from_millis(permit.not_after.wall_ms).to_string(),
        actor: stored.actor,
        reason: stored.reason,
        session_id: stored.session_id,
        decided_by: stored.decided_by,
        break_glass: stored.break_glass,
        signed: stored.signed,
    }
}
