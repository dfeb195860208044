//! Opens everything that is the ledger: its checkpoints first, because the rows
//! are compared with them; then the rows, whose leaves make the tiles on the
//! way; then the key, which is made only where nothing was ever signed.

use std::path::PathBuf;

use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::ApiError;
use osmoda_kit::keys::KeyError;
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::tree::Edge;
use osmoda_types::ErrorCode;

use super::prover::{Prover, TILES_FOLDER, TileFolder};
use super::store::{self, CheckpointStore, StoreError};
use crate::ledger::file::{FILE_NAME, FileError, LedgerFile};
use crate::ledger::verify::Report;
use crate::ledger::{Ledger, LedgerThreads, OpenError, WriterOptions};
use crate::ledger_key::{History, KEY_FILE, LedgerKey};

/// What is opened, and how.
pub struct OpenAll {
    /// The daemon's state folder.
    pub state_dir: PathBuf,
    /// How the writer works.
    pub options: WriterOptions,
    /// The clock.
    pub clock: SharedClock,
}

/// All of it, open.
pub struct Opened {
    /// The ledger.
    pub ledger: Ledger,
    /// What the walk found.
    pub report: Report,
    /// The key that signs.
    pub key: LedgerKey,
    /// The checkpoints.
    pub store: CheckpointStore,
    /// The tiles.
    pub prover: Prover,
}

/// It cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenAllError {
    /// The ledger itself.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// The checkpoints.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file for proofs.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The newest checkpoint is not signed with the key that is there.
    #[error("the newest checkpoint is not signed with the ledger's key")]
    ForeignKey,
}

impl OpenAllError {
    /// The code callers see.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            OpenAllError::Ledger(error) => match error {
                OpenError::Broken { .. } | OpenError::Unreadable(_) => ErrorCode::LedgerBroken,
                OpenError::Open(source) if source.is_damage() => ErrorCode::LedgerBroken,
                OpenError::Open(source) => source.code(),
                OpenError::Reader(_) => ErrorCode::StateDirUnusable,
                OpenError::Thread(_) => ErrorCode::Internal,
            },
            OpenAllError::Store(StoreError::Open(error)) => error.code(),
            OpenAllError::Store(StoreError::Database(_)) | OpenAllError::File(_) => ErrorCode::StateDirUnusable,
            OpenAllError::Store(_) | OpenAllError::ForeignKey => ErrorCode::LedgerBroken,
            OpenAllError::Key(error) => error.code(),
        }
    }
}

impl From<OpenAllError> for ApiError {
    fn from(error: OpenAllError) -> Self {
        ApiError::new(error.code(), error.to_string()).with_source(error)
    }
}

impl OpenAll {
    /// Opens it; whoever does also closes the threads. Blocks for the walk over
    /// all rows.
    ///
    /// # Errors
    /// Each [`OpenAllError`]; whatever was broken was not touched.
    pub fn open(self) -> Result<(Opened, LedgerThreads), OpenAllError> {
        let path = self.state_dir.join(FILE_NAME);
        let store = CheckpointStore::open(&self.state_dir.join(store::FILE_NAME))?;
        let marks = store.marks()?;
        let history = if marks.is_empty() { History::None } else { History::Signed };
        let key = LedgerKey::load_or_generate(&self.state_dir.join(KEY_FILE), history)?;
        if let Some(newest) = store.newest()? {
            let verifier = key.verifier().map_err(|_| OpenAllError::ForeignKey)?;
            Checkpoint::open(&newest, &verifier).map_err(|_| OpenAllError::ForeignKey)?;
        }
        let beginning =
            if path.exists() { LedgerFile::open(&path).and_then(|file| file.beginning()) } else { Ok(None) };
        // What is damaged is for the walk to say, which knows it better.
        let base = beginning.as_ref().ok().and_then(Option::as_ref);
        let base = base.map_or_else(Edge::new, |beginning| beginning.edge.clone());
        let mut folder = TileFolder::at(self.state_dir.join(TILES_FOLDER), base);
        let mut failed = None;
        let opened = Ledger::open_against(&path, self.options, self.clock, &marks, |leaf| {
            failed = failed.take().or(folder.append(leaf).err());
        });
        let (ledger, threads, report) = opened?;
        beginning?;
        if let Some(error) = failed {
            // Proofs will make them anew, or say why not; rows do not need them.
            tracing::warn!(error = osmoda_kit::error::chain(&error), "tiles of the ledger not written");
        }
        let prover = Prover::new(LedgerFile::open(&path)?, folder);
        Ok((Opened { ledger, report, key, store, prover }, threads))
    }
}
