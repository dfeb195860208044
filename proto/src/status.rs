//! Error codes on gRPC: a code of the closed list travels in the metadata
//! `osmoda-code`, the message for people in the status. Every service of the
//! fleet, on nodes and at the controller, uses this one pair.

use osmoda_types::ErrorCode;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

const CODE_KEY: &str = "osmoda-code";

/// A code with its words as a status. The gRPC code is the nearest to the
/// code's HTTP status; readers take the metadata.
#[must_use]
pub fn to_status(code: ErrorCode, message: impl Into<String>) -> Status {
    let grpc = match code.http_status() {
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
    let mut status = Status::new(grpc, message);
    status.metadata_mut().insert(CODE_KEY, MetadataValue::from_static(code.as_str()));
    status
}

/// The code a status carries. One without ours is the transport's: a peer that
/// was never reached is offline, one whose answer did not come (the time limit
/// of a call ends as cancelled) may have acted.
#[must_use]
pub fn code_of(status: &Status) -> ErrorCode {
    let ours = status.metadata().get(CODE_KEY).and_then(|value| value.to_str().ok()?.parse().ok());
    ours.unwrap_or(match status.code() {
        Code::Unavailable | Code::Unknown => ErrorCode::PeerOffline,
        Code::DeadlineExceeded | Code::Cancelled => ErrorCode::OutcomeUnknown,
        Code::PermissionDenied | Code::Unauthenticated => ErrorCode::ServiceDenied,
        _ => ErrorCode::Internal,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for code in ErrorCode::ALL {
            let status = to_status(*code, "why");
            assert_eq!((code_of(&status), status.message()), (*code, "why"));
        }
    }

    #[test]
    fn what_the_transport_says_is_told_apart() {
        assert_eq!(code_of(&Status::unavailable("broken pipe")), ErrorCode::PeerOffline);
        assert_eq!(code_of(&Status::cancelled("time limit")), ErrorCode::OutcomeUnknown);
    }
}
