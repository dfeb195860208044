//! The ledger: an append-only table of hash-chained rows.
//!
//! What a row is and how rows are linked is `osmoda-ledger`, which is pure; its
//! modules keep their names here. This is the storage: `file` and `pages` (reading), `store`
//! (writing), `insert` (rows into the table), `log` (SQLite's own, copied into the file
//! beside the writer), `writer` (group commit), `queue` (in front of it), `handle` (what
//! the daemon holds), `seal` (why nothing may be appended any more).
//!
//! Invariant: an acknowledged append is on disk and stays in the chain,
//! whatever is killed (crash test `r15_no_acknowledged_row_is_lost`).
//! Invariant (L5): nothing here rewrites a row. There is no code path that
//! updates one, and triggers refuse it to whoever opens the file. Retention drops
//! rows whole, from the first on, behind a signed root that covers them (`base`).

pub(crate) mod base;
pub mod file;
mod handle;
mod insert;
mod log;
mod pages;
mod queue;
mod seal;
mod store;
mod writer;

pub use osmoda_ledger::{grammar, payload, record, redact, verify};

pub use base::Beginning;
pub(crate) use handle::{Guarded, RESERVE_MEBIBYTES};
pub use handle::{Ledger, LedgerCounts, LedgerError, LedgerThreads, OpenError, State, WriterOptions};
pub use pages::is_sound;
pub use seal::{FILE as SEAL_FILE, LIFTED as SEAL_LIFTED};
pub use store::{CannotOpen, NewRow, StoreError, Synchronous};

#[cfg(test)]
mod storage_tests;
