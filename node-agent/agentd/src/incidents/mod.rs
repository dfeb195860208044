//! Incidents: records of trouble and what was done about it.
//!
//! An incident is ledger rows and nothing else (`weaknesses.md` A13: the earlier
//! product kept them in a table that anyone could edit). `book` keeps which rows
//! belong to which incident and is made from the ledger at every start; `keeper`
//! is the one task that changes it; `api` has the endpoints.
//!
//! Invariant: an incident is the same after a restart as before.

mod api;
mod book;
mod keeper;

pub use api::router;
pub(crate) use book::oldest_open;
pub use keeper::Incidents;
