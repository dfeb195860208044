//! Why a guard said no, and how callers see it.

use osmoda_kit::error::ApiError;
use osmoda_permit::Refusal;
use osmoda_types::ErrorCode;
use rusqlite::Connection;

use super::Approvals;
use crate::api::ledger_error;
use crate::ledger::record::Head;
use crate::ledger::{Guarded, NewRow};

/// A code and a text; guards run on the writer's thread and make no answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct No {
    pub(super) code: ErrorCode,
    pub(super) text: String,
}

impl No {
    pub(super) fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// A denial of the same call, under this permit or another.
    pub(super) fn denied() -> Self {
        Self::new(ErrorCode::ApprovalDenied, "the same call was denied, and the denial still holds")
    }
}

impl Approvals {
    /// Appends a row if its guard holds. What cannot be read inside it is a no to
    /// this caller: taken for a fault of storage it would stop the writer, and with
    /// it every change on this node.
    pub(super) async fn append_if(
        &self,
        row: NewRow,
        guard: impl FnOnce(&Connection, i64) -> rusqlite::Result<Result<(), No>> + Send + 'static,
    ) -> Result<Head, Guarded<No>> {
        let guard = move |connection: &Connection, id| guard(connection, id).or_else(damaged_is_no);
        self.parts.ledger.append_if(row, guard).await
    }
}

fn damaged_is_no(error: rusqlite::Error) -> rusqlite::Result<Result<(), No>> {
    if !is_damage(&error) {
        return Err(error);
    }
    tracing::warn!(%error, "a stored permit cannot be read");
    Ok(Err(No::new(ErrorCode::ApprovalInvalid, "the permit cannot be read any more")))
}

/// Whether the error says that a value is none of ours, not that storage failed.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
    matches!(error, FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..))
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

impl From<No> for ApiError {
    fn from(no: No) -> Self {
        ApiError::new(no.code, no.text)
    }
}

/// A guarded append that was not done, as callers see it.
pub(super) fn refused(error: Guarded<No>) -> ApiError {
    match error {
        Guarded::Refused(no) => no.into(),
        Guarded::Ledger(error) => ledger_error(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osmoda_kit::http::Isolation;

    #[tokio::test]
    async fn a_damaged_permit_in_a_guard_is_a_no_and_the_ledger_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (approvals, ledger, threads) = crate::approval::testing::approvals(dir.path());
        let row = || crate::api::new_row("x".to_owned(), serde_json::Map::new(), "me", Isolation::Users).unwrap();
        for damage in ["SELECT 'no permit'", "SELECT x'00'", "SELECT -1"] {
            let guard = move |connection: &Connection, _| {
                let read = |row: &rusqlite::Row<'_>| match row.get::<_, u32>(0) {
                    Err(rusqlite::Error::InvalidColumnType(..)) => Err(super::super::store::damaged("call")),
                    other => other,
                };
                connection.query_row(damage, [], read).map(|_| Ok(()))
            };
            let refused = approvals.append_if(row(), guard).await.map(|_| ());
            let Err(Guarded::Refused(no)) = refused else { panic!("{damage}: {refused:?}") };
            assert_eq!(no.code, ErrorCode::ApprovalInvalid, "{damage}");
        }
        let taken = approvals.append_if(row(), |_, _| Ok(Ok(()))).await.unwrap();
        assert_eq!(taken.size, 1);
        drop((approvals, ledger));
        threads.close().unwrap();
    }
}
