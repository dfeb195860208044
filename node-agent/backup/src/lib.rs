//! Backups: consistent copies of daemons' state folders, checked by putting
//! them back somewhere else, and put back for good by whoever may.
//!
//! - *Pure*: `plan` (what is copied and how), `manifest` (what a backup holds).
//! - `copy` reads one file, `maker` all of them, `archive` is the folder of backups: create, list,
//!   check, retain; `restore` puts one back.
//!
//! Whose state is read and written is the caller's business: agentd copies its
//! own folder, execd every daemon's, through the same functions ([`Performer`]).
//!
//! Invariant: a backup that is listed was put back into an empty folder once,
//! where every file had its hash and every database its integrity.
//! Invariant: a secret key is never copied, a symbolic link never followed, and
//! a history that must not go back (ledger, Raft log, journal) never replaced.
//!
//! Everything here blocks.

mod archive;
mod copy;
mod error;
mod maker;
mod manifest;
mod performer;
mod plan;
mod restore;

pub use archive::{Archive, Listed, MANIFEST_NAME, is_id};
pub use error::BackupError;
pub use manifest::{Entry, Form, LeftOut, Manifest};
pub use performer::{Local, Performer};
pub use plan::{Limits, Plan, Reason, Source};
pub use restore::{Restored, Skipped, Target};

#[cfg(test)]
mod tests;
