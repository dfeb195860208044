//! What an error looks like on the wire. Not how one is made: that is the
//! controller's edge.

use osmoda_types::ErrorCode;

/// The error envelope of every endpoint.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// What happened, for people.
    pub error: String,
    /// Why, for programs: one of the closed list in `docs/errors/`.
    #[schema(value_type = String, example = "rollout_unknown")]
    pub code: ErrorCode,
    /// Names this request in the controller's log; also in `x-request-id`.
    pub request_id: String,
}

/// The same error as an RFC 9457 document, sent when the request accepts
/// `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// `about:blank`, as the RFC asks when `title` is the status' own phrase.
    #[serde(rename = "type")]
    pub kind: String,
    /// The phrase of the HTTP status.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, for people.
    pub detail: String,
    /// The request id.
    pub instance: String,
    /// The code of the closed list.
    #[schema(value_type = String)]
    pub code: ErrorCode,
}
