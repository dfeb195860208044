//! Makes backups, one at a time: intent, copy, outcome.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use osmoda_backup::BackupError;
use osmoda_kit::clock::{SharedClock, Timestamp};
use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::http::Isolation;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::Tasks;
use osmoda_node_api::agentd::Event;
use osmoda_node_api::agentd_backup::Backup;
use osmoda_node_api::execd::{ExecdClient, MadeBackup};
use osmoda_types::ErrorCode;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use crate::api::{ledger_error, new_row};
use crate::ledger::{Ledger, is_sound};

/// The act of making one.
const CREATE: &str = "backup.create";

/// Looks at the clock at least so often: a wall clock may be set, and a host
/// may have slept, so one long sleep could be far too long.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Outcomes of backups looked through for one's hash. With seven kept, a
/// thousand are years of days.
const OUTCOMES_MAX: i64 = 1000;

/// Makes backups of the node: the executor, which may read every daemon's state.
pub trait Maker: Send + Sync + 'static {
    /// Makes one and checks it by putting it back into an empty folder.
    ///
    /// # Errors
    /// The maker's; then nothing was listed.
    fn create(&self) -> BoxFuture<'_, Result<MadeBackup, ApiError>>;

    /// Finished ones, newest first.
    ///
    /// # Errors
    /// The maker's.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Backup>, ApiError>>;
}

impl Maker for ExecdClient {
    fn create(&self) -> BoxFuture<'_, Result<MadeBackup, ApiError>> {
        self.create_backup().boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Backup>, ApiError>> {
        self.backups().boxed()
    }
}

/// Who makes backups, and when.
#[derive(Clone)]
pub struct BackupSettings {
    /// Who makes them.
    pub maker: Arc<dyn Maker>,
    /// How far apart the scheduled ones are; `None` for none.
    pub every: Option<Duration>,
    /// How far daemons are kept apart here, for the rows of scheduled ones.
    pub isolation: Isolation,
}

/// The backups of this node; cheap to clone.
#[derive(Clone)]
pub struct Backups {
    settings: BackupSettings,
    ledger: Ledger,
    clock: SharedClock,
    tasks: Tasks,
    /// One at a time: two would read the same files and fight for the disk.
    making: Arc<Semaphore>,
}

impl Backups {
    /// Backups over an open ledger.
    #[must_use]
    pub fn new(settings: BackupSettings, ledger: Ledger, clock: SharedClock, tasks: Tasks) -> Self {
        Self { settings, ledger, clock, tasks, making: Arc::new(Semaphore::new(1)) }
    }

    /// Makes one now.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`] while another is made; [`ErrorCode::LedgerUnavailable`]
    /// when its intent was not recorded, and then nothing was copied; the
    /// maker's otherwise.
    ///
    /// # Cancel safety
    /// It runs as a task of its own to its outcome; dropping this future only
    /// stops waiting for it.
    pub async fn create(&self, actor: String, isolation: Isolation) -> Result<Backup, ApiError> {
        let permit = Arc::clone(&self.making)
            .try_acquire_owned()
            .map_err(|_| ApiError::new(ErrorCode::Busy, "a backup is being made"))?;
        let (reply, answer) = tokio::sync::oneshot::channel();
        let making = self.clone();
        self.tasks.spawn(osmoda_kit::tasks::TaskKind::REQUEST, "backup", async move {
            let _permit = permit;
            if reply.send(making.record_and_make(&actor, isolation).await).is_err() {
                tracing::info!("backup made without its caller");
            }
        });
        answer.await.map_err(ApiError::internal)?
    }

    async fn record_and_make(&self, actor: &str, isolation: Isolation) -> Result<Backup, ApiError> {
        let intent = self.record("intent", json!({}), actor, isolation).await?;
        let made = self.settings.maker.create().await;
        let outcome = match &made {
            Ok(made) => outcome(intent, made),
            Err(error) => json!({ "intent": intent, "state": "failed", "code": error.code.as_str() }),
        };
        metrics::counter!("osmoda_backups_total", "state" => if made.is_ok() { "made" } else { "failed" }).increment(1);
        self.record("outcome", outcome, actor, isolation).await?;
        let backup = made?.backup;
        metrics::gauge!("osmoda_backup_last_seconds").set((created(&backup)?.as_millis() / 1000) as f64);
        metrics::gauge!("osmoda_backup_last_bytes").set(backup.size_bytes as f64);
        Ok(backup)
    }

    async fn record(&self, part: &str, payload: Value, actor: &str, isolation: Isolation) -> Result<u64, ApiError> {
        let Value::Object(payload) = payload else { unreachable!("both callers make an object") };
        let row = new_row(format!("{CREATE}.{part}"), payload, actor, isolation)?;
        Ok(self.ledger.append(row).await.map_err(ledger_error)?.size)
    }

    /// Backups, newest first.
    ///
    /// # Errors
    /// The maker's.
    pub async fn list(&self) -> Result<Vec<Backup>, ApiError> {
        self.settings.maker.list().await
    }

    /// What the ledger recorded as the hash of a backup's manifest when it was
    /// made; `None` when it recorded no such backup.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn recorded_sha256(&self, id: &str) -> Result<Option<String>, ApiError> {
        let query = osmoda_node_api::agentd::EventQuery {
            kind: Some(format!("{CREATE}.outcome")),
            limit: OUTCOMES_MAX,
            ..Default::default()
        };
        let read = self.ledger.read(move |file| file.events(&query)).await.map_err(ledger_error)?;
        let events = read.map_err(ApiError::internal)?.events;
        let hash = |event: &Event| {
            let payload: Map<String, Value> = serde_json::from_str(&event.payload).ok()?;
            (is_sound(event) && payload.get("backup_id")?.as_str()? == id)
                .then(|| payload.get("manifest_sha256")?.as_str().map(str::to_owned))?
        };
        Ok(events.iter().find_map(hash))
    }

    /// Makes one whenever the newest is old enough. Ends at a stop.
    pub async fn keep_schedule(self) {
        let Some(every) = self.settings.every else { return };
        let stop = self.tasks.shutdown().token(Stage::RefuseNew);
        // A node that has none yet gets its first one period after its start: a
        // host that is being set up is not the state to come back to.
        let started = self.clock.now_wall();
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: a token's state is not consumed.
                () = stop.cancelled() => return,
                // Cancel-safe: a timer.
                () = tokio::time::sleep(LOOK_EVERY.min(every)) => {}
            }
            let newest = match self.list().await {
                Ok(listed) => listed.first().and_then(|newest| created(newest).ok()).unwrap_or(started),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "backups cannot be listed");
                    continue;
                }
            };
            if self.clock.now_wall() < newest.plus(every) {
                continue;
            }
            match self.create("agentd".to_owned(), self.settings.isolation).await {
                Ok(made) => tracing::info!(backup = made.backup_id, bytes = made.size_bytes, "scheduled backup made"),
                Err(error) if error.code == ErrorCode::Busy => {}
                Err(error) => tracing::error!(error = chain(&error), "scheduled backup failed"),
            }
        }
    }
}

impl std::fmt::Debug for Backups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backups").field("every", &self.settings.every).finish_non_exhaustive()
    }
}

fn outcome(intent: u64, made: &MadeBackup) -> Value {
    let backup = &made.backup;
    json!({
        "intent": intent,
        "state": "made",
        "backup_id": backup.backup_id,
        "files": backup.files,
        "bytes": backup.size_bytes,
        "left_out": made.left_out,
        "manifest_sha256": backup.manifest_sha256,
    })
}

fn created(backup: &Backup) -> Result<Timestamp, ApiError> {
    backup.created_at.parse().map_err(ApiError::internal)
}

/// What a caller is told about an id before anything else.
pub(super) fn unknown(id: &str) -> ApiError {
    BackupError::Unknown(id.to_owned()).into()
}
