//! The seal of a ledger, in a file of its own beside the database.
//!
//! A ledger that was caught with another past than its witnesses hold takes no
//! more rows, after a restart neither, whatever was done to the database since.
//! The file is removed by a person who has looked, by giving it the name
//! [`LIFTED`]; the next start writes that down.
//!
//! It is no proof: root can remove it, and is caught again by the first witness
//! that answers. Until one did, grave acts are refused anyway (`witness::gate`).
//!
//! This file blocks.

use std::path::{Path, PathBuf};

use osmoda_kit::fsio::{self, FsError};

/// Its name in the state folder.
pub const FILE: &str = "sealed";

/// The name a person gives it to open the ledger again.
pub const LIFTED: &str = "sealed.lifted";

/// Longest reason that is read; ours have a hundred bytes.
const REASON_BYTES_MAX: u64 = 4096;

/// The seal of the ledger in one folder.
#[derive(Debug, Clone)]
pub(crate) struct Seal {
    folder: PathBuf,
}

impl Seal {
    /// That of the ledger whose database this is.
    pub(crate) fn beside(database: &Path) -> Self {
        Self { folder: database.parent().unwrap_or(Path::new(".")).to_owned() }
    }

    /// Why the ledger is sealed; `None` when it is not. A file that cannot be
    /// read, or says nothing, seals all the same.
    pub(crate) fn read(&self) -> Option<String> {
        match fsio::read_limited(&self.folder.join(FILE), REASON_BYTES_MAX) {
            Ok(None) => None,
            Ok(Some(text)) => Some(String::from_utf8_lossy(&text).trim().to_owned()),
            Err(error) => Some(format!("the seal is there and cannot be read: {error}")),
        }
    }

    /// Puts the seal on; durable when this returns.
    pub(crate) fn write(&self, reason: &str) -> Result<(), FsError> {
        fsio::write_atomic(&self.folder.join(FILE), format!("{reason}\n").as_bytes(), 0o600)
    }

    /// Why the ledger was sealed before a person opened it. An opening whose reason
    /// cannot be read is written down all the same.
    pub(crate) fn lifted(&self) -> Option<String> {
        match fsio::read_limited(&self.folder.join(LIFTED), REASON_BYTES_MAX) {
            Ok(text) => text.map(|text| String::from_utf8_lossy(&text).trim().to_owned()),
            Err(error) => Some(format!("the reason cannot be read: {error}")),
        }
    }

    /// The opening was written down.
    pub(crate) fn forget_lifted(&self) -> Result<(), FsError> {
        fsio::remove_durable(&self.folder.join(LIFTED))
    }
}
