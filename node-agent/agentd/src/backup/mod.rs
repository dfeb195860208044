//! Backups: planned and recorded here, made and put back by the executor, which
//! may read and write every daemon's state.
//!
//! What a copy is and how it is checked is `osmoda-backup`. `keeper` asks for
//! them one at a time, on demand and by the clock, `api` has the endpoints.
//!
//! Invariant: no backup is begun without its intent in the ledger, and its
//! outcome names the hash of its manifest, so that a backup that was changed
//! afterwards is told from the one that was made.

mod api;
mod keeper;

pub use api::{Restoring, router};
pub use keeper::{BackupSettings, Backups, Maker};
