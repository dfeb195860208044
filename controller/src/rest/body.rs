//! JSON bodies: an object of the declared form, nothing else.
//!
//! serde's derive takes an array for a struct (`ux.md` 3.3); so the value is
//! looked at first.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use osmoda_kit::error::ApiError;
use osmoda_types::ErrorCode;
use serde::de::DeserializeOwned;

use super::{App, Failure};

/// A JSON object read as `T`.
pub(super) struct Object<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<App> for Object<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        let media = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim();
        if !media.eq_ignore_ascii_case("application/json") {
            let error = ApiError::new(ErrorCode::BadRequest, "the body must be application/json");
            return Err(error.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE).into());
        }
        let bytes = whole(request, app).await?;
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::new(ErrorCode::BadRequest, format!("the body is no JSON: {error}")))?;
        if !value.is_object() {
            return Err(malformed("the body must be a JSON object").into());
        }
        serde_json::from_value(value).map(Self).map_err(|error| malformed(error.to_string()).into())
    }
}

fn malformed(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, message).with_status(StatusCode::UNPROCESSABLE_ENTITY)
}

/// The whole body, within the route's limit.
pub(super) async fn whole(request: Request, app: &App) -> Result<Bytes, Failure> {
    Bytes::from_request(request, app).await.map_err(|rejection| {
        let code = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::TooLarge,
            _ => ErrorCode::BadRequest,
        };
        ApiError::new(code, rejection.body_text()).into()
    })
}

/// Reads an id from the path.
pub(super) fn id<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| ApiError::new(ErrorCode::BadRequest, format!("{what} in the path is none")).into())
}
