//! Backups: planned and recorded here, made by whoever may read the state.
//!
//! What a copy is and how it is checked is `osmoda-backup`. This daemon copies
//! its own folder; other daemons' folders, and putting anything back, need the
//! executor, through the same [`Performer`]. `keeper` makes them one at a time,
//! on demand and by the clock, `api` has the endpoints.
//!
//! Invariant: no backup is begun without its intent in the ledger, and its
//! outcome names the hash of its manifest, so that a backup that was changed
//! afterwards is told from the one that was made.

mod api;
mod keeper;

pub use api::router;
pub use keeper::{BackupSettings, Backups};
pub use osmoda_backup::Performer;
