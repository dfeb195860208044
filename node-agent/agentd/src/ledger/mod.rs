//! The ledger: an append-only table of hash-chained rows.
//!
//! - *Pure*: `record` (row and hash), `grammar` (L1, L2), `payload` (L3),
//!   `redact` (L4), `verify` (the walk over rows).
//! - Storage: `file` (reading), `store` (writing), `writer` (group commit),
//!   `queue` (in front of it), `handle` (what the daemon holds).
//!
//! Invariant: an acknowledged append is on disk and stays in the chain,
//! whatever is killed (crash test `no_acknowledged_row_is_lost`).
//! Invariant (L5): nothing here rewrites a row. There is no code path that
//! updates or deletes, and triggers refuse both to whoever opens the file.

pub mod file;
pub mod grammar;
mod handle;
pub mod payload;
mod queue;
pub mod record;
pub mod redact;
mod store;
pub mod verify;
mod writer;

pub use handle::{Ledger, LedgerCounts, LedgerError, LedgerThreads, OpenError, State, WriterOptions};
pub use store::{CannotOpen, NewRow, StoreError, Synchronous};

#[cfg(test)]
mod chain_tests;
#[cfg(test)]
mod storage_tests;
