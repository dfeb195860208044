//! Limits of texts in requests, and the refusal that names them.

use osmoda_kit::error::ApiError;
use osmoda_types::ErrorCode;

/// A question in words: more than anyone types, far below a page.
pub(crate) const QUESTION_BYTES: Limit = Limit::new(4096);

/// The most bytes a text may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    bytes: usize,
}

impl Limit {
    pub(crate) const fn new(bytes: usize) -> Self {
        Self { bytes }
    }

    /// # Errors
    /// [`ErrorCode::TooLarge`], naming the field and the limit.
    pub(crate) fn check(self, field: &str, text: &str) -> Result<(), ApiError> {
        if text.len() <= self.bytes {
            return Ok(());
        }
        Err(too_large(format!("{field} is {} bytes, the limit is {}", text.len(), self.bytes)))
    }
}

/// A refusal for being over a limit.
pub(crate) fn too_large(text: String) -> ApiError {
    ApiError::new(ErrorCode::TooLarge, text)
}
