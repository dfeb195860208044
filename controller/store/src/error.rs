//! How storage fails.

use std::path::PathBuf;

use osmoda_types::ErrorCode;

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or its schema cannot be brought up to date.
    #[error("cannot open the database {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// A migration failed, or the file is of a newer version.
    #[error("cannot bring the database {} up to date", path.display())]
    Migrate {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// A statement failed.
    #[error("the database refused to {operation}")]
    Query {
        /// What was being done.
        operation: &'static str,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// A stored value is none this program writes.
    #[error("the database holds a {what} that is not one: {value:?}")]
    Corrupt {
        /// What was expected.
        what: &'static str,
        /// What was found, cut to 80 characters.
        value: String,
    },
    /// Another writer is ahead.
    #[error("the database is at log index {stored}, so nothing at {offered} can be added")]
    Stale {
        /// The stored index.
        stored: u64,
        /// The offered index.
        offered: u64,
    },
}

impl StoreError {
    /// The code an edge answers with.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        // 13 is SQLITE_FULL; extended codes keep it in the low byte.
        const SQLITE_FULL: &str = "13";
        match self {
            StoreError::Open { .. } | StoreError::Migrate { .. } => ErrorCode::StateDirUnusable,
            StoreError::Query { source, .. }
                if source.as_database_error().and_then(|e| e.code()).as_deref() == Some(SQLITE_FULL) =>
            {
                ErrorCode::DiskFull
            }
            StoreError::Query { .. } | StoreError::Corrupt { .. } | StoreError::Stale { .. } => ErrorCode::Internal,
        }
    }
}
