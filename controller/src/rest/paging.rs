//! Pages of lists. A cursor is the key of the last row shown, encoded so that
//! nobody builds on its form. It is not signed: it can only name a place in a
//! list the caller may read anyway.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use data_encoding::BASE64URL_NOPAD;
use osmoda_controller_api::{LIMIT_DEFAULT, LIMIT_MAX, Page, PageQuery};
use osmoda_kit::error::ApiError;
use osmoda_types::ErrorCode;

use super::{App, Failure};

/// The longest cursor: a name and an id, encoded.
const CURSOR_CHARS_MAX: usize = 512;

/// What part of a list is wanted.
#[derive(Debug)]
pub(super) struct Paging {
    /// Rows wanted.
    pub(super) limit: usize,
    /// The key after which the page begins.
    pub(super) after: Option<String>,
}

impl FromRequestParts<App> for Paging {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let bad = |message: String| Failure::from(ApiError::new(ErrorCode::BadRequest, message));
        let Query(query) = Query::<PageQuery>::from_request_parts(parts, app)
            .await
            .map_err(|error| bad(format!("the query is not understood: {}", error.body_text())))?;
        let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(bad(format!("limit is 1 to {LIMIT_MAX}")));
        }
        let after = query.cursor.map(|cursor| decode(&cursor).ok_or_else(|| bad("cursor is none of ours".into())));
        Ok(Self { limit: limit as usize, after: after.transpose()? })
    }
}

/// A key as a cursor.
pub(super) fn encode(key: &str) -> String {
    BASE64URL_NOPAD.encode(key.as_bytes())
}

fn decode(cursor: &str) -> Option<String> {
    if cursor.len() > CURSOR_CHARS_MAX {
        return None;
    }
    String::from_utf8(BASE64URL_NOPAD.decode(cursor.as_bytes()).ok()?).ok()
}

impl Paging {
    /// The page of rows that are all in memory. Keys are unique and say the order.
    pub(super) fn page<T>(self, rows: impl IntoIterator<Item = (String, T)>) -> Page<T> {
        let mut rows: Vec<(String, T)> = rows.into_iter().collect();
        rows.sort_by(|one, other| one.0.cmp(&other.0));
        let begin = self.after.map_or(0, |after| rows.partition_point(|(key, _)| *key <= after));
        let more = rows.len() > begin + self.limit;
        let mut shown: Vec<(String, T)> = rows.drain(begin..).take(self.limit).collect();
        let next_cursor = shown.last().filter(|_| more).map(|(key, _)| encode(key));
        Page { items: shown.drain(..).map(|(_, row)| row).collect(), next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_join_to_the_whole_list() {
        let rows = || (0..7).map(|number| (format!("k{number}"), number));
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page = Paging { limit: 3, after }.page(rows());
            all.extend(page.items);
            match page.next_cursor {
                Some(cursor) => after = decode(&cursor),
                None => break,
            }
        }
        assert_eq!(all, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(Paging { limit: 7, after: None }.page(rows()).next_cursor, None);
        assert!(decode("!").is_none() && decode(&"A".repeat(600)).is_none());
    }
}
