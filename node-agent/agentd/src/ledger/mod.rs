//! The ledger: an append-only table of hash-chained rows.
//!
//! - *Pure*: `record` (row and hash), `grammar` (L1, L2), `payload` (L3),
//!   `redact` (L4), `verify` (the walk over rows).
//!
//! Invariant: an acknowledged append is on disk and stays in the chain,
//! whatever is killed (crash test `no_acknowledged_row_is_lost`).
//! Invariant (L5): nothing here rewrites a row. There is no code path that
//! updates or deletes, and triggers refuse both to whoever opens the file.

pub mod grammar;
pub mod payload;
pub mod record;
pub mod redact;
pub mod verify;

#[cfg(test)]
mod chain_tests;
