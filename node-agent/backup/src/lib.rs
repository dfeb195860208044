//! Backups: consistent copies of daemons' state folders, checked by putting
//! them back somewhere else, and put back for good by whoever may.
//!
//! - *Pure*: `plan` (what is copied and how), `manifest` (what a backup holds).
//! - `copy` reads one file, `maker` all of them, `archive` is the folder of backups: create, list,
//!   check, retain; `restore` puts one back.
//!
//! Whose state is read and written is the caller's business: execd does it, which
//! may read every daemon's.
//!
//! Invariant: a backup that is listed was put back into an empty folder once,
//! where every file had its hash and every database its integrity.
//! Invariant: a secret key is never copied, nor what a voter or a witness has
//! promised; a symbolic link is never followed, and a history that must not go
//! back (ledger, trust, journal) never replaced.
//! Invariant: a restoration that is cut off leaves the old state or the new.
//!
//! Everything here blocks.

mod archive;
mod copy;
mod error;
mod maker;
mod manifest;
mod plan;
mod restore;

pub use archive::{Archive, Listed, MANIFEST_NAME, is_id};
pub use error::BackupError;
pub use manifest::{Entry, Form, LeftOut, Manifest};
pub use plan::{Limits, Plan, Reason, Source};
pub use restore::{Recovered, Restored, Skipped, Target};

#[cfg(test)]
mod tests;
