//! One place where errors become answers: `{error, code, request_id}`, or
//! RFC 9457 when the request accepts it.

use axum::Json;
use axum::extract::Request;
use axum::http::header::{ACCEPT, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use osmoda_controller_api::{ErrorBody, Problem};
use osmoda_kit::error::{ApiError, chain};
use osmoda_types::ErrorCode;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// An error on its way out of a handler.
#[derive(Debug)]
pub(crate) struct Failure(ApiError);

impl<E: Into<ApiError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// What the envelope is made from; travels in the response's extensions.
#[derive(Debug, Clone)]
struct Refusal {
    code: ErrorCode,
    message: String,
    cause: Option<String>,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let error = self.0;
        let cause = error.status().is_server_error().then(|| chain(&error));
        let mut response = error.status().into_response();
        response.extensions_mut().insert(Refusal { code: error.code, message: error.message, cause });
        response
    }
}

/// The handler of paths that are none.
pub(super) async fn not_found() -> Failure {
    ApiError::new(ErrorCode::NotFound, "no such endpoint; see /api/v1/fleet/openapi.json").into()
}

/// The handler of methods a path does not have.
pub(super) async fn method_not_allowed() -> Failure {
    let error = ApiError::new(ErrorCode::BadRequest, "this endpoint does not have this method");
    error.with_status(StatusCode::METHOD_NOT_ALLOWED).into()
}

/// Gives every request an id and every error its envelope; logs what failed.
pub(super) async fn wrap(request: Request, next: Next) -> Response {
    let id = format!("req_{}", uuid::Uuid::now_v7().simple());
    let as_problem = request.headers().get_all(ACCEPT).iter().any(|accept| {
        accept
            .to_str()
            .is_ok_and(|accept| accept.split(',').any(|one| one.trim().starts_with("application/problem+json")))
    });
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let refusal = response.extensions_mut().remove::<Refusal>().unwrap_or_else(|| plain(status));
        match &refusal.cause {
            Some(error) => tracing::warn!(id, %method, path, code = %refusal.code, error, "request failed"),
            None => {
                tracing::debug!(id, %method, path, code = %refusal.code, reason = refusal.message, "request refused");
            }
        }
        response = render(status, refusal, &id, as_problem);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    metrics::counter!("osmoda_controller_requests_total", "status" => status.as_str().to_owned()).increment(1);
    response
}

/// An error that the framework made, not a handler.
fn plain(status: StatusCode) -> Refusal {
    let code = match status {
        StatusCode::NOT_FOUND => ErrorCode::NotFound,
        StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::TooLarge,
        status if status.is_client_error() => ErrorCode::BadRequest,
        _ => ErrorCode::Internal,
    };
    let message = status.canonical_reason().unwrap_or("refused").to_lowercase();
    Refusal { code, message, cause: None }
}

fn render(status: StatusCode, refusal: Refusal, id: &str, as_problem: bool) -> Response {
    let Refusal { code, message, .. } = refusal;
    let mut response = if as_problem {
        let problem = Problem {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: message,
            instance: id.to_owned(),
            code,
        };
        let mut response = (status, Json(problem)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, PROBLEM);
        response
    } else {
        (status, Json(ErrorBody { error: message, code, request_id: id.to_owned() })).into_response()
    };
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
