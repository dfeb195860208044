//! Why a guard said no, and how callers see it.

use osmoda_kit::error::ApiError;
use osmoda_permit::Refusal;
use osmoda_types::ErrorCode;

use crate::api::ledger_error;
use crate::ledger::Guarded;

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
