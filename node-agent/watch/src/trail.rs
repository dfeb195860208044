//! What watch tells the ledger: an intent before each effect, one outcome per
//! attempt, and nothing lost when the ledger is away.
//!
//! Invariant: an activation and a commit have a durable intent or do not
//! happen. Outcomes and rollbacks never wait for the ledger: they go into a
//! file first and from there to the ledger, in order, at least once.

use osmoda_kit::audit::Audit;
use osmoda_kit::error::ApiError;
use osmoda_kit::fsio;
use osmoda_types::AttemptId;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// The largest trail file; a row is below 4 KiB, so this is some hundred rows.
const TRAIL_BYTES_MAX: u64 = 1024 * 1024;

/// The most rows kept while the ledger is away. An attempt makes three, and
/// no attempt begins without the ledger, so only rollbacks can add to them.
const SPOOL_ROWS_MAX: usize = 128;

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct File {
    /// The intent of the attempt under way: attempt and ledger row.
    open: Option<(AttemptId, i64)>,
    /// The last attempt and phase that were told.
    #[serde(default)]
    told: Option<(AttemptId, String)>,
    /// Rows the ledger has not confirmed.
    spool: VecDeque<Row>,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Row {
    kind: String,
    payload: Value,
}

/// The trail; owned by the driver.
#[derive(Debug)]
pub(crate) struct Trail {
    audit: Audit,
    path: PathBuf,
    file: File,
}

impl Trail {
    /// The trail kept in `state_dir`. A damaged file is put aside, not trusted
    /// and not overwritten.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub(crate) fn open(audit: Audit, state_dir: &Path) -> Result<Self, ApiError> {
        let path = state_dir.join("trail.json");
        let fail = |error: fsio::FsError| ApiError::new(error.code(), "the trail is unusable").with_source(error);
        let file = match fsio::read_limited(&path, TRAIL_BYTES_MAX).map_err(fail)? {
            None => File::default(),
            Some(bytes) => match serde_json::from_slice(&bytes) {
                Ok(file) => file,
                Err(error) => {
                    tracing::error!(%error, path = %path.display(), "the trail is damaged, put aside");
                    std::fs::rename(&path, path.with_extension("damaged")).map_err(ApiError::internal)?;
                    File::default()
                }
            },
        };
        Ok(Self { audit, path, file })
    }

    /// Records the intent to begin an attempt.
    ///
    /// # Errors
    /// [`osmoda_types::ErrorCode::LedgerUnavailable`]; the attempt must not begin.
    pub(crate) async fn begin(&mut self, attempt: AttemptId, payload: Value) -> Result<(), ApiError> {
        let intent = self.audit.intent("watch.attempt", payload).await?;
        self.file.open = Some((attempt, intent.recorded().id));
        self.save()
    }

    /// Records the intent to commit.
    ///
    /// # Errors
    /// As [`Trail::begin`]; the boot default must not move.
    pub(crate) async fn commit(&mut self, payload: Value) -> Result<(), ApiError> {
        self.audit.record("watch.commit.intent", payload).await.map(drop)
    }

    /// Keeps a row for the ledger.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub(crate) fn spool(&mut self, kind: &str, payload: Value) -> Result<(), ApiError> {
        while self.file.spool.len() >= SPOOL_ROWS_MAX {
            tracing::error!("the ledger has been away for too long, the oldest row is dropped");
            self.file.spool.pop_front();
        }
        self.file.spool.push_back(Row { kind: kind.to_owned(), payload });
        self.save()
    }

    /// Keeps a row about a phase of an attempt, once. It names the attempt's
    /// intent where that is known.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub(crate) fn tell(
        &mut self,
        attempt: AttemptId,
        phase: &str,
        kind: &str,
        mut payload: Value,
    ) -> Result<(), ApiError> {
        let news = (attempt, phase.to_owned());
        if self.file.told.as_ref() == Some(&news) {
            return Ok(());
        }
        if let Some((open, intent)) = self.file.open
            && open == attempt
        {
            payload["intent"] = json!(intent);
        }
        self.file.told = Some(news);
        self.spool(kind, payload)
    }

    /// Sends what is kept; says whether nothing is left.
    pub(crate) async fn deliver(&mut self) -> bool {
        while let Some(row) = self.file.spool.front().cloned() {
            if let Err(error) = self.audit.record(&row.kind, row.payload).await {
                // Grammar faults would block everything behind them for ever.
                if error.code != osmoda_types::ErrorCode::LedgerGrammar {
                    tracing::warn!(code = %error.code, rows = self.file.spool.len(), "the ledger does not take rows");
                    return false;
                }
                tracing::error!(kind = row.kind, error = %error, "the ledger refused a row, dropped");
            }
            self.file.spool.pop_front();
            if let Err(error) = self.save() {
                tracing::error!(error = %error, "the trail cannot be written");
                return false;
            }
        }
        true
    }

    fn save(&self) -> Result<(), ApiError> {
        let text = serde_json::to_vec(&self.file).map_err(ApiError::internal)?;
        fsio::write_atomic(&self.path, &text, 0o600)
            .map_err(|error| ApiError::new(error.code(), "the trail cannot be written").with_source(error))
    }
}
