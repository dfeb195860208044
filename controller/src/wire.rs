//! Errors of this crate on gRPC ([`osmoda_proto::status`]).

use osmoda_kit::error::ApiError;
use osmoda_proto::status::code_of;
pub(crate) use osmoda_proto::status::to_status as refuse;
use tonic::Status;

/// A status as an error.
pub(crate) fn error_of(status: &Status) -> ApiError {
    ApiError::new(code_of(status), status.message())
}
