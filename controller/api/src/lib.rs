//! The controller's REST interface: its types, its table of endpoints, and the
//! OpenAPI document that both make.
//!
//! Invariant: `openapi.json` beside this crate is exactly what
//! [`openapi::document`] renders (test `openapi_is_checked_in`), and the
//! controller mounts exactly [`endpoint::endpoints`] (test in the controller).
//! Ids travel as text, times as RFC 3339 text in UTC with milliseconds.
//! Nothing here does I/O.

pub mod endpoint;
pub mod openapi;

mod approval;
mod error;
mod event;
mod fleet;
mod ledger;
mod node;
mod page;
mod rollout;

pub use approval::{Approval, SignApproval};
pub use error::{ErrorBody, Problem};
pub use event::{Event, EventBody};
pub use fleet::{
    AddPrincipal, FleetStatus, Freeze, FreezeOrder, InviteRow, InviteState, LedgerHead, MintInvite, MintedInvite,
    Principal, Voter,
};
pub use ledger::{LedgerAlarm, LedgerHeld, LedgerLogged, LedgerReport, LedgerTrouble, NodeLedger};
pub use node::{Generation, Node, NodeAttempt, Presence, RevokedNode};
pub use page::{LIMIT_DEFAULT, LIMIT_MAX, Page, PageQuery};
pub use rollout::{
    AllowOrder, ControlOrder, DeniedTarget, ExcludeOrder, NodeCounts, Rollout, RolloutNode, RolloutSummary,
    StartRollout, StoredManifest, Vote,
};

/// Where every endpoint of this version begins.
pub const BASE: &str = "/api/v1/fleet";

/// The largest JSON request body, in bytes. The biggest request is a signed
/// statement of a few hundred bytes; the rest is room for long reasons.
pub const JSON_BYTES_MAX: usize = 64 << 10;
