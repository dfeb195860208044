//! Errors of this crate on gRPC ([`osmoda_proto::status`]).

use osmoda_kit::error::ApiError;
use osmoda_proto::status::{code_of, to_status};
use osmoda_types::ErrorCode;
use tonic::Status;

/// The largest message of the fleet service: a manifest (1 MiB) with its frame.
pub(crate) const ANSWER_BYTES_MAX: usize = 2 << 20;

/// An error as a status. The internal cause stays here, in the log.
pub(crate) fn status_of(error: &ApiError) -> Status {
    to_status(error.code, error.message.clone())
}

/// A status as an error.
pub(crate) fn error_of(status: &Status) -> ApiError {
    ApiError::new(code_of(status), status.message())
}

/// A code with its words.
pub(crate) fn refuse(code: ErrorCode, message: impl Into<String>) -> Status {
    to_status(code, message)
}
