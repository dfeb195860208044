//! Errors on gRPC: a code of the closed list travels in the metadata
//! `osmoda-code`, the message for people in the status. The same words as on
//! the nodes' side.

use osmoda_kit::error::ApiError;
use osmoda_types::ErrorCode;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

const CODE_KEY: &str = "osmoda-code";

/// A status as an error. One without our code is the transport's.
pub(crate) fn error_of(status: &Status) -> ApiError {
    let ours = status.metadata().get(CODE_KEY).and_then(|value| value.to_str().ok()?.parse::<ErrorCode>().ok());
    let code = ours.unwrap_or(match status.code() {
        Code::Unavailable | Code::Unknown => ErrorCode::PeerOffline,
        // tonic's own time limit ends as cancelled.
        Code::DeadlineExceeded | Code::Cancelled => ErrorCode::OutcomeUnknown,
        Code::PermissionDenied | Code::Unauthenticated => ErrorCode::ServiceDenied,
        _ => ErrorCode::Internal,
    });
    ApiError::new(code, status.message())
}

/// An error as a status.
pub(crate) fn refuse(code: ErrorCode, message: impl Into<String>) -> Status {
    let grpc = match code.http_status() {
        400 | 413 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        503 => Code::Unavailable,
        _ => Code::FailedPrecondition,
    };
    let mut status = Status::new(grpc, message.into());
    status.metadata_mut().insert(CODE_KEY, MetadataValue::from_static(code.as_str()));
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for code in ErrorCode::ALL {
            let back = error_of(&refuse(*code, "why"));
            assert_eq!((back.code, back.message.as_str()), (*code, "why"));
        }
        assert_eq!(error_of(&Status::unavailable("broken pipe")).code, ErrorCode::PeerOffline);
    }
}
