//! Why a backup was not made, or not put back.

use std::path::PathBuf;

use osmoda_kit::error::ApiError;
use osmoda_kit::fsio::FsError;
use osmoda_types::ErrorCode;

/// A backup or its restoration failed; nothing is listed or was replaced,
/// unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FsError),
    /// A database could not be copied or checked.
    #[error("cannot copy or check the database {}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// More, or larger files, than a backup may hold.
    #[error("{what} is over the limit of {limit} at {}", path.display())]
    OverLimit {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// Where it was noticed.
        path: PathBuf,
    },
    /// The time limit passed.
    #[error("the backup took too long")]
    TimeOut,
    /// The id is not of the form `backup-YYYYMMDD-HHMMSS`.
    #[error("not the id of a backup")]
    BadId,
    /// There is no such backup.
    #[error("there is no backup {0}")]
    Unknown(String),
    /// The manifest is not one, or not the one that was recorded.
    #[error("the manifest of the backup is not what was recorded: {0}")]
    Manifest(String),
    /// A file of the backup is not what its manifest says.
    #[error("{} is not what its manifest says", path.display())]
    Damaged {
        /// The file, as the manifest names it.
        path: PathBuf,
    },
}

impl BackupError {
    /// The code callers see.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::File(error) => error.code(),
            Self::Database { source, .. } if source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) => {
                ErrorCode::DiskFull
            }
            Self::Database { .. } => ErrorCode::StateDirUnusable,
            Self::OverLimit { .. } => ErrorCode::TooLarge,
            Self::TimeOut => ErrorCode::Timeout,
            Self::BadId => ErrorCode::BadRequest,
            Self::Unknown(_) => ErrorCode::NotFound,
            Self::Manifest(_) | Self::Damaged { .. } => ErrorCode::Conflict,
        }
    }
}

impl From<BackupError> for ApiError {
    fn from(error: BackupError) -> Self {
        ApiError::new(error.code(), error.to_string()).with_source(error)
    }
}
