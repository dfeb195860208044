//! The journal as the async side sees it.
//!
//! Invariant: a record is on the disk before the call that appends it returns,
//! and every append wakes the driver. The journal's own lock decides between
//! this process and the guard.

use osmoda_journal::{Entry, HostClock, JOURNAL_FILE, Journal, JournalError, Moment, Observer, Record, State, Writer};
use osmoda_kit::error::ApiError;
use osmoda_kit::tasks::Tasks;
use osmoda_types::{AttemptId, ErrorCode};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Makes the observer of each journal handle.
pub type MakeObserver = Arc<dyn Fn() -> Box<dyn Observer> + Send + Sync>;

/// The journal; cheap to clone.
#[derive(Clone)]
pub struct Records {
    path: PathBuf,
    journal: Arc<Mutex<Journal>>,
    make_observer: MakeObserver,
    clock: HostClock,
    tasks: Tasks,
    changed: Arc<Notify>,
}

impl Records {
    /// The journal in `state_dir`.
    #[must_use]
    pub fn new(state_dir: &Path, clock: HostClock, tasks: Tasks, make_observer: MakeObserver) -> Self {
        let path = state_dir.join(JOURNAL_FILE);
        let journal = Journal::new(&path).observed_by(make_observer());
        Self {
            path,
            journal: Arc::new(Mutex::new(journal)),
            make_observer,
            clock,
            tasks,
            changed: Arc::new(Notify::new()),
        }
    }

    /// Resolves after the next append, or at once after one that nobody waited for.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The present moment.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`] when the boot id cannot be read.
    pub fn now(&self) -> Result<Moment, ApiError> {
        self.clock.now().map_err(ApiError::internal)
    }

    /// The state, after everything any process has written.
    ///
    /// # Errors
    /// [`ErrorCode::JournalCorrupt`] or [`ErrorCode::StateDirUnusable`].
    pub async fn state(&self) -> Result<State, ApiError> {
        self.with(|journal| journal.read().cloned()).await
    }

    /// Appends a record and returns the state behind it.
    ///
    /// # Errors
    /// The code of [`JournalError`].
    ///
    /// # Cancel safety
    /// Dropped before it resolves, the record may have been written.
    pub async fn append(&self, attempt: AttemptId, entry: Entry) -> Result<State, ApiError> {
        let at = self.now()?;
        let done = self.with(move |journal| journal.append(Writer::Watch, attempt, at, entry).cloned()).await;
        self.changed.notify_one();
        done
    }

    /// Every record of the kept files, oldest first.
    ///
    /// # Errors
    /// As [`Records::state`].
    pub async fn history(&self) -> Result<Vec<Record>, ApiError> {
        self.with(|journal| journal.history()).await
    }

    /// A handle of its own, for a thread that restores.
    #[must_use]
    pub fn own_handle(&self) -> Journal {
        Journal::new(&self.path).observed_by((self.make_observer)())
    }

    /// The host's clock.
    #[must_use]
    pub fn clock(&self) -> HostClock {
        self.clock.clone()
    }

    async fn with<T, W>(&self, work: W) -> Result<T, ApiError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Journal) -> Result<T, JournalError> + Send + 'static,
    {
        let journal = Arc::clone(&self.journal);
        let work = move || work(&mut journal.lock().unwrap_or_else(PoisonError::into_inner));
        self.tasks.blocking("journal", work).await.map_err(ApiError::internal)?.map_err(journal_error)
    }
}

/// The wire form of a journal error: its message and that of its direct cause,
/// which names the step or the line.
fn journal_error(error: JournalError) -> ApiError {
    let code = error.code();
    let text = match std::error::Error::source(&error) {
        Some(cause) if code != ErrorCode::StateDirUnusable => format!("{error}: {cause}"),
        _ => error.to_string(),
    };
    ApiError::new(code, text).with_source(error)
}

/// Logs every step of the journal.
#[derive(Debug)]
pub struct LogSteps;

impl Observer for LogSteps {
    fn before(&self, _: osmoda_journal::Phase, _: &Record) {}

    fn after(&self, from: osmoda_journal::Phase, record: &Record) {
        let kind = record.entry.kind().map_or("unknown", osmoda_journal::Kind::as_str);
        if kind == "contact" {
            tracing::debug!(attempt = record.attempt.0, %from, kind, "journal");
        } else {
            tracing::info!(attempt = record.attempt.0, %from, kind, "journal");
        }
    }
}
