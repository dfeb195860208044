//! The token in front of everything but health, metrics and the document.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use osmoda_kit::error::ApiError;
use osmoda_types::ErrorCode;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

use super::Failure;

/// The hash of the admin token. A token has 256 random bits, so a plain hash
/// is enough: there is nothing to guess.
#[derive(Clone)]
pub(crate) struct TokenHash(Arc<[u8; 32]>);

impl TokenHash {
    pub(crate) fn new(hash: [u8; 32]) -> Self {
        Self(Arc::new(hash))
    }

    /// The hash of a token's text.
    pub(crate) fn of(token: &str) -> [u8; 32] {
        Sha256::digest(token.as_bytes()).into()
    }

    /// Compares in constant time.
    fn admits(&self, token: &str) -> bool {
        Self::of(token).ct_eq(&*self.0).into()
    }
}

/// Lets a request through that carries the token.
pub(super) async fn require(State(hash): State<TokenHash>, request: Request, next: Next) -> Response {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token =
        header.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let message = match token {
        Some((_, token)) if hash.admits(token.trim()) => return next.run(request).await,
        Some(_) => "the token is not the controller's",
        None => "a token is needed: authorization: bearer TOKEN",
    };
    Failure::from(ApiError::new(ErrorCode::Unauthorized, message)).into_response()
}
