//! The JSON body of a request, with refusals in our own words.

use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use osmoda_types::ErrorCode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// A JSON body; also an answer. Every body of our APIs is an object, and serde
/// would read an array into a struct field by field (`ux.md`, finding 6), so an
/// array is refused.
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, state: &S) -> Result<Self, ApiError> {
        // The statuses are the reference's: 400 syntax, 422 shape, 415 type, 413 size.
        let refuse = |rejection: JsonRejection| {
            let status = rejection.status();
            let code = if status.as_u16() == 413 { ErrorCode::TooLarge } else { ErrorCode::BadRequest };
            ApiError::new(code, first_line(&rejection.body_text())).with_status(status)
        };
        let axum::Json(value) = axum::Json::<serde_json::Value>::from_request(request, state).await.map_err(refuse)?;
        let misshapen = |text: String| {
            ApiError::new(ErrorCode::BadRequest, text).with_status(axum::http::StatusCode::UNPROCESSABLE_ENTITY)
        };
        if value.is_array() {
            return Err(misshapen("the body must be a JSON object".to_owned()));
        }
        serde_json::from_value(value).map(Json).map_err(|error| misshapen(first_line(&error.to_string())))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}
