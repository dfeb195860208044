//! Verifies the whole ledger again and again while the daemon runs: chain,
//! grammar, tree, and every checkpoint that was ever signed.
//!
//! What it finds is a metric and an alarm in `/health`. It stops nothing: the
//! rows that are being written are linked to what the writer remembers, and a
//! daemon that stops would only hide the finding.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::clock::{SharedClock, Timestamp};
use osmoda_kit::error::chain;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::Tasks;
use tokio::sync::watch;

use super::store::CheckpointStore;
use crate::ledger::file::{FILE_NAME, FileError, LedgerFile};

/// Between two verifications. A walk reads the whole file: two seconds for a
/// million rows, so this is a thousandth of one core's time.
pub(crate) const EVERY: Duration = Duration::from_secs(30 * 60);

/// What the last verification found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Watched {
    /// Rows verified, of how many.
    pub verified: u64,
    /// Rows there were.
    pub total: u64,
    /// When it ended; none before the first.
    pub checked: Option<Timestamp>,
    /// The first fault, where there is one: the alarm.
    pub alarm: Option<String>,
}

/// The task.
pub struct Watchman {
    state_dir: PathBuf,
    clock: SharedClock,
    tasks: Tasks,
    publish: watch::Sender<Watched>,
    every: Duration,
}

impl Watchman {
    /// The task and what it finds.
    #[must_use]
    pub fn new(state_dir: PathBuf, clock: SharedClock, tasks: Tasks) -> (Self, watch::Receiver<Watched>) {
        let (publish, found) = watch::channel(Watched::default());
        (Self { state_dir, clock, tasks, publish, every: EVERY }, found)
    }

    /// Sets how often it looks; half an hour when nothing is said.
    #[must_use]
    pub fn every(self, every: Duration) -> Self {
        Self { every, ..self }
    }

    /// Verifies on its timer, until the stop.
    pub async fn run(self) {
        let stop = self.tasks.shutdown().token(Stage::RefuseNew);
        let mut tick = tokio::time::interval(self.every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The start has just verified everything.
        tick.tick().await;
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: a token's state is not consumed.
                () = stop.cancelled() => return,
                // Cancel-safe: an interval keeps its deadline.
                _ = tick.tick() => self.look().await,
            }
        }
    }

    /// One verification.
    pub async fn look(&self) {
        let state_dir = self.state_dir.clone();
        let looked = self.tasks.blocking("verify ledger", move || verify(&state_dir)).await;
        let mut watched = match looked {
            Ok(Ok(watched)) => watched,
            Ok(Err(error)) => Watched { alarm: Some(chain(&error)), ..Watched::default() },
            Err(error) => Watched { alarm: Some(chain(&error)), ..Watched::default() },
        };
        watched.checked = Some(self.clock.now_wall());
        metrics::gauge!("osmoda_ledger_verified_rows").set(watched.verified as f64);
        metrics::gauge!("osmoda_ledger_alarm").set(if watched.alarm.is_some() { 1.0 } else { 0.0 });
        if let Some(alarm) = &watched.alarm {
            tracing::error!(fault = %alarm, verified = watched.verified, rows = watched.total, "ledger does not verify");
        }
        self.publish.send_replace(watched);
    }
}

#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Store(#[from] super::StoreError),
    #[error(transparent)]
    File(#[from] FileError),
}

fn verify(state_dir: &std::path::Path) -> Result<Watched, LookError> {
    // The checkpoints first: rows only come, so none of these can be ahead of them.
    let marks = match CheckpointStore::open_read_only(&state_dir.join(super::FILE_NAME))? {
        Some(store) => store.marks()?,
        None => Vec::new(),
    };
    let mut alarm = None;
    let file = LedgerFile::open(&state_dir.join(FILE_NAME))?;
    let report = file.verify_against(&marks, |fault| alarm = alarm.take().or(Some(Arc::new(fault))), |_| {})?;
    let alarm = alarm.filter(|_| !report.is_intact()).map(|fault| fault.to_string());
    Ok(Watched { verified: report.verified, total: report.total, checked: None, alarm })
}
