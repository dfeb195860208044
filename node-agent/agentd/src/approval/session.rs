//! Taint: a session that read content from outside is marked, for good.

use osmoda_kit::error::ApiError;
use osmoda_kit::http::Caller;
use osmoda_node_api::approval::{SessionView, TaintRequest};
use osmoda_permit::Taint;
use osmoda_permit::call::check_session;
use osmoda_types::ErrorCode;
use serde_json::json;

use super::ask::{call_error, object};
use super::refusal::{No, refused};
use super::store::{self, unreadable};
use super::{Approvals, now};
use crate::api::{ledger_error, new_row};
use crate::ledger::{Guarded, LedgerError};

/// Longest name of a source.
const SOURCE_BYTES_MAX: usize = 256;

impl Approvals {
    /// Marks a session; doing it again changes nothing.
    pub(super) async fn taint(&self, request: TaintRequest, caller: Caller) -> Result<SessionView, ApiError> {
        let TaintRequest { session_id, source } = request;
        check_session(&session_id).map_err(call_error)?;
        if source.is_empty() || source.len() > SOURCE_BYTES_MAX {
            return Err(ApiError::new(ErrorCode::BadRequest, format!("source has 1 to {SOURCE_BYTES_MAX} bytes")));
        }
        let payload = json!({ "session": session_id, "source": source });
        let row = new_row("session.tainted".to_owned(), object(payload), &caller.who.to_string(), caller.isolation)?;
        let (clock, id) = (self.parts.clock.clone(), session_id.clone());
        let mark = move |connection: &rusqlite::Connection, _| {
            let was_clean = store::add_taint(connection, &id, &source, &now(&clock))?;
            Ok(if was_clean { Ok(()) } else { Err(No::new(ErrorCode::Conflict, "tainted already")) })
        };
        match self.append_if(row, mark).await {
            Ok(_) => {
                let id = session_id.clone();
                let read = self.parts.ledger.read_after_append(move |file| store::taint(file.connection(), &id)).await;
                view(session_id, read)
            }
            Err(Guarded::Refused(No { code: ErrorCode::Conflict, .. })) => self.session(session_id).await,
            Err(error) => Err(refused(error)),
        }
    }

    /// What is known of a session; one nobody has heard of is clean.
    pub(super) async fn session(&self, session_id: String) -> Result<SessionView, ApiError> {
        check_session(&session_id).map_err(call_error)?;
        let id = session_id.clone();
        let read = self.parts.ledger.read(move |file| store::taint(file.connection(), &id)).await;
        view(session_id, read)
    }
}

/// What was read of a session, as callers see it.
fn view(
    session_id: String,
    read: Result<rusqlite::Result<(Taint, Option<String>)>, LedgerError>,
) -> Result<SessionView, ApiError> {
    let (taint, source) = read.map_err(ledger_error)?.map_err(unreadable)?;
    Ok(SessionView { session_id, tainted: taint == Taint::Tainted, source })
}
