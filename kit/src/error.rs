//! The one error that crosses an edge: a code a program may act on, a message
//! for people, and a cause that stays inside.
//!
//! Invariant: the cause is never part of `Display`, of the JSON body, or of
//! anything else that leaves the process; only the log prints it.

use std::error::Error;
use std::fmt;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use osmoda_types::ErrorCode;
use serde::{Deserialize, Serialize};

/// The longest message taken over from another program's answer, in bytes: two
/// lines of text. Longer ones are not messages but bodies gone astray.
const FOREIGN_MESSAGE_BYTES_MAX: usize = 400;

/// A refusal or failure as callers see it.
#[derive(Debug)]
pub struct ApiError {
    /// What a program may act on.
    pub code: ErrorCode,
    /// For people: lower case, no full stop, nothing internal.
    pub message: String,
    status: Option<StatusCode>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// The wire form; reference clients read `.error`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The message.
    pub error: String,
    /// The code; absent in answers of programs that know no codes.
    #[serde(default)]
    pub code: Option<ErrorCode>,
}

impl ApiError {
    /// An error without an inner cause.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), status: None, source: None }
    }

    /// [`ErrorCode::Internal`] with a fixed text; the cause goes to the log only.
    #[must_use]
    pub fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(ErrorCode::Internal, "internal error; the log of the daemon has the cause").with_source(source)
    }

    /// Attaches the cause, for the log.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Answers with another status than the code's own, where a reference
    /// endpoint promises one (415 and 422 for bodies that do not parse).
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// The HTTP status it is answered with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| {
            StatusCode::from_u16(self.code.http_status()).expect("codes map to statuses between 400 and 599")
        })
    }

    /// Reads another daemon's error answer back. An answer without a code gets
    /// the one that fits its status best.
    #[must_use]
    pub fn from_answer(status: StatusCode, body: &[u8]) -> Self {
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(ErrorBody { error, code }) => {
                Self::new(code.unwrap_or_else(|| code_for(status)), cut(&error)).with_status(status)
            }
            Err(_) => Self::new(code_for(status), cut(&String::from_utf8_lossy(body))).with_status(status),
        }
    }
}

/// The whole chain of causes in one line, for the log: `a: b: c`.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl Error for ApiError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl IntoResponse for ApiError {
    /// The edge: the cause is logged here, once, and dropped from the answer.
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            let error = chain(&self);
            tracing::warn!(code = %self.code, error, "request failed");
        } else {
            tracing::debug!(code = %self.code, message = self.message, "request refused");
        }
        let code = self.code;
        let mut response = (status, Json(ErrorBody { error: self.message, code: Some(code) })).into_response();
        // For whoever notes refusals on the way out, without reading the body.
        response.extensions_mut().insert(code);
        response
    }
}

fn code_for(status: StatusCode) -> ErrorCode {
    match status.as_u16() {
        401 => ErrorCode::Unauthorized,
        403 => ErrorCode::CallerDenied,
        404 => ErrorCode::NotFound,
        409 => ErrorCode::Conflict,
        413 => ErrorCode::TooLarge,
        501 => ErrorCode::Unsupported,
        503 => ErrorCode::Busy,
        504 => ErrorCode::Timeout,
        400..=499 => ErrorCode::BadRequest,
        _ => ErrorCode::Internal,
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(FOREIGN_MESSAGE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_in_the_chain_but_not_in_the_answer() {
        let error = ApiError::internal(std::io::Error::other("/secret/path"));
        assert!(chain(&error).contains("/secret/path"));
        assert!(!error.to_string().contains("/secret/path"));
        assert_eq!(error.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn an_answer_reads_back_as_the_error_that_made_it() {
        let body = br#"{"error":"queue is full","code":"busy"}"#;
        let error = ApiError::from_answer(StatusCode::SERVICE_UNAVAILABLE, body);
        assert_eq!((error.code, error.message.as_str()), (ErrorCode::Busy, "queue is full"));

        let plain = ApiError::from_answer(StatusCode::NOT_FOUND, b"no such thing");
        assert_eq!((plain.code, plain.message.as_str()), (ErrorCode::NotFound, "no such thing"));

        let long = ApiError::from_answer(StatusCode::BAD_REQUEST, "é".repeat(1000).as_bytes());
        assert!(long.message.len() <= FOREIGN_MESSAGE_BYTES_MAX);
    }
}
