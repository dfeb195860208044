//! Errors of this crate on gRPC: a code from the closed list travels in the
//! metadata `osmoda-code`, the message for people in the status.

use osmoda_kit::error::ApiError;
use osmoda_types::ErrorCode;
use tonic::{Code, Status};

/// The largest message of the fleet service: a manifest (1 MiB) with its frame.
pub(crate) const ANSWER_BYTES_MAX: usize = 2 << 20;

const CODE_KEY: &str = "osmoda-code";

/// An error as a status. The internal cause stays here, in the log.
pub(crate) fn status_of(error: &ApiError) -> Status {
    let code = match error.code.http_status() {
        400 | 413 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 | 410 | 423 => Code::FailedPrecondition,
        501 => Code::Unimplemented,
        503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Internal,
    };
    let mut status = Status::new(code, error.message.clone());
    let value = tonic::metadata::MetadataValue::from_static(error.code.as_str());
    status.metadata_mut().insert(CODE_KEY, value);
    status
}

/// A status as an error. One without our code is the transport's.
pub(crate) fn error_of(status: &Status) -> ApiError {
    let ours = status.metadata().get(CODE_KEY).and_then(|value| value.to_str().ok()?.parse::<ErrorCode>().ok());
    let code = ours.unwrap_or(match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled => ErrorCode::PeerOffline,
        Code::DeadlineExceeded => ErrorCode::OutcomeUnknown,
        Code::PermissionDenied | Code::Unauthenticated => ErrorCode::ServiceDenied,
        _ => ErrorCode::Internal,
    });
    ApiError::new(code, status.message())
}

/// A code with its words.
pub(crate) fn refuse(code: ErrorCode, message: impl Into<String>) -> Status {
    status_of(&ApiError::new(code, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for code in ErrorCode::ALL {
            let back = error_of(&status_of(&ApiError::new(*code, "why")));
            assert_eq!((back.code, back.message.as_str()), (*code, "why"));
        }
    }

    #[test]
    fn a_broken_pipe_is_a_peer_that_is_offline() {
        assert_eq!(error_of(&Status::unavailable("broken pipe")).code, ErrorCode::PeerOffline);
    }
}
