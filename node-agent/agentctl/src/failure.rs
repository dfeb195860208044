//! Why a command could not do its work, and the exit code that says so.

use std::path::PathBuf;

use osmoda_agentd::checkpoint::StoreError as CheckpointError;
use osmoda_agentd::ledger::file::FileError;
use osmoda_kit::error::ApiError;
use osmoda_kit::keys::KeyError;
use osmoda_ledger::export::ExportError;

/// A command that did not come to its end. Faults found in a ledger are no
/// failure: finding them is the command's work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the ledger cannot be read")]
    Ledger(#[from] FileError),
    #[error("cannot read the export {}", path.display())]
    Export {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the checkpoints cannot be read")]
    Checkpoints(#[from] CheckpointError),
    #[error("the export folder cannot be used")]
    Folder(#[from] ExportError),
    #[error("the ledger's own key cannot be read, so no signature of a checkpoint can be checked; give --policy")]
    Key(#[from] KeyError),
    #[error("the ledger's own key gives no policy; give --policy")]
    KeyUse(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("nothing was signed yet: there is no checkpoint to export")]
    Unsigned,
    #[error("agentd does not answer")]
    Daemon(#[source] ApiError),
    #[error("cannot write the output")]
    Output(#[from] std::io::Error),
    #[error("cannot write the output as json")]
    Json(#[from] serde_json::Error),
}

impl Failure {
    /// The code of `sysexits.h` that fits.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            // No ledger there, or one that this user cannot open.
            Failure::Ledger(FileError::Open { .. })
            | Failure::Export { .. }
            | Failure::Unsigned
            | Failure::Key(_)
            | Failure::KeyUse(_) => 66,
            // Damaged below the level of rows: the chain cannot be walked.
            Failure::Ledger(FileError::Read(_)) | Failure::Checkpoints(_) => 1,
            // A file of the folder is missing or torn: what it should prove is not proven.
            Failure::Folder(_) => 1,
            Failure::Daemon(_) => 69,
            Failure::Output(_) | Failure::Json(_) => 74,
        }
    }

    /// Whether the reader of the output has gone away.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        match self {
            Failure::Output(error) => error.kind() == std::io::ErrorKind::BrokenPipe,
            Failure::Json(error) => error.io_error_kind() == Some(std::io::ErrorKind::BrokenPipe),
            _ => false,
        }
    }
}
