//! Backups of the whole node: every daemon's state, which only root may read, and
//! `backup.restore`.
//!
//! A restoration stops the daemons whose state it replaces, replaces all of it or
//! nothing, and starts them again. agentd and this program go on: the outcome has
//! to be written down, and what they have is history, which never goes back.
//!
//! Invariant: which daemons were stopped is on disk before the first is, so a
//! restart of this program starts them again.
//! Invariant: a backup whose list is not the one that the ledger recorded when it
//! was made is no backup.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use osmoda_backup::{Archive, BackupError, Limits, Listed, Manifest, Plan, Recovered, Source, Target};
use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::fsio;
use osmoda_kit::tasks::Tasks;
use osmoda_node_api::agentd::{AgentdClient, EventQuery};
use osmoda_types::ErrorCode;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ActError, Answer, Object, Restore, Systemctl};

/// Outcomes of backups looked through for one's hash: with seven kept, a
/// thousand are years of days.
const OUTCOMES_MAX: i64 = 1000;

/// The time for putting a backup back: below what a caller of a run waits.
const RESTORE_TIME_MAX: Duration = Duration::from_secs(120);

/// The list of stopped units, in the state folder.
const STOPPED: &str = "stopped.json";

/// Largest such list: a dozen names.
const STOPPED_BYTES_MAX: u64 = 64 << 10;

/// Daemons that are never stopped for a restoration.
const GO_ON: [&str; 2] = ["agentd", "execd"];

/// Stops and starts the node's daemons.
pub trait Units: Send + Sync + 'static {
    /// Those that run now and whose state is about to be replaced.
    ///
    /// # Errors
    /// [`ErrorCode::NoSystemd`] where they cannot be stopped.
    fn running(&self) -> Answer<'_, Vec<String>>;

    /// Stops them.
    ///
    /// # Errors
    /// What the service manager said; some may be stopped.
    fn stop<'a>(&'a self, units: &'a [String]) -> Answer<'a, ()>;

    /// Starts them.
    ///
    /// # Errors
    /// What the service manager said.
    fn start<'a>(&'a self, units: &'a [String]) -> Answer<'a, ()>;
}

/// The daemons as units of systemd.
#[derive(Debug, Clone)]
pub struct Daemons {
    systemctl: Option<Systemctl>,
    names: Vec<&'static str>,
}

impl Daemons {
    /// These daemons, where there is a systemd of this node's own.
    #[must_use]
    pub fn new(systemctl: Option<Systemctl>, names: impl IntoIterator<Item = &'static str>) -> Self {
        Self { systemctl, names: names.into_iter().filter(|name| !GO_ON.contains(name)).collect() }
    }

    fn systemctl(&self) -> Result<&Systemctl, ApiError> {
        let text = "without a systemd of its own this node cannot stop its daemons for a restoration";
        self.systemctl.as_ref().ok_or_else(|| ApiError::new(ErrorCode::NoSystemd, text))
    }
}

impl Units for Daemons {
    fn running(&self) -> Answer<'_, Vec<String>> {
        Box::pin(async {
            // Sockets too: one that listens would start its daemon half-way.
            let both = |name: &&str| [format!("osmoda-{name}.socket"), format!("osmoda-{name}.service")];
            let units: Vec<String> = self.names.iter().flat_map(both).collect();
            self.systemctl()?.active(&units).await
        })
    }

    fn stop<'a>(&'a self, units: &'a [String]) -> Answer<'a, ()> {
        Box::pin(async move { self.systemctl()?.change("stop", units).await })
    }

    fn start<'a>(&'a self, units: &'a [String]) -> Answer<'a, ()> {
        Box::pin(async move { self.systemctl()?.change("start", units).await })
    }
}

/// What backups of a node stand on.
#[derive(Clone)]
pub struct NodeBackupsParts {
    /// Where they lie.
    pub archive: Archive,
    /// Every daemon's name and state folder.
    pub sources: Vec<Source>,
    /// This program's own state folder.
    pub state_dir: PathBuf,
    /// The daemons.
    pub units: Arc<dyn Units>,
    /// The ledger, for what was recorded.
    pub ledger: AgentdClient,
    /// Time.
    pub clock: SharedClock,
    /// For what blocks.
    pub tasks: Tasks,
}

/// The backups of this node; cheap to clone.
#[derive(Clone)]
pub struct NodeBackups {
    parts: Arc<NodeBackupsParts>,
    /// One thing at a time: a backup that is made reads what a restoration writes.
    turn: Arc<Semaphore>,
}

impl std::fmt::Debug for NodeBackups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeBackups")
    }
}

impl NodeBackups {
    /// Backups over these parts.
    #[must_use]
    pub fn new(parts: NodeBackupsParts) -> Self {
        Self { parts: Arc::new(parts), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Undoes or finishes a restoration that was cut off, and starts the daemons
    /// it had stopped. To be called before anything is served.
    ///
    /// # Errors
    /// The backup's; then the state may be a mix and nothing should start on it.
    pub async fn recover(&self) -> Result<Option<Recovered>, ApiError> {
        let recovered = self.blocking("recover a restoration", |parts| parts.archive.recover()).await?;
        if let Some(recovered) = &recovered {
            tracing::warn!(?recovered, "a restoration had been cut off");
        }
        if let Some(bytes) = fsio::read_limited(&self.stopped(), STOPPED_BYTES_MAX)? {
            let units: Vec<String> = serde_json::from_slice(&bytes).map_err(ApiError::internal)?;
            self.start_again(&units).await?;
        }
        Ok(recovered)
    }

    /// Makes one, checked by putting it back into an empty folder.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`] while another one is made or put back; the backup's.
    pub async fn create(&self) -> Result<(Listed, Manifest), ApiError> {
        let _turn = self.turn()?;
        self.blocking("make backup", |parts| {
            let plan = Plan { sources: parts.sources.clone(), limits: Limits::default() };
            parts.archive.create(&plan, parts.clock.now_wall())
        })
        .await
    }

    /// Finished backups, newest first.
    ///
    /// # Errors
    /// The backup's.
    pub async fn list(&self) -> Result<Vec<Listed>, ApiError> {
        self.blocking("list backups", |parts| parts.archive.list()).await
    }

    fn turn(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let turn = Arc::clone(&self.turn).try_acquire_owned();
        turn.map_err(|_| ApiError::new(ErrorCode::Busy, "a backup is being made or put back"))
    }

    fn stopped(&self) -> PathBuf {
        self.parts.state_dir.join(STOPPED)
    }

    async fn start_again(&self, units: &[String]) -> Result<(), ApiError> {
        self.parts.units.start(units).await?;
        let stopped = self.stopped();
        self.blocking("forget stopped units", move |_| Ok(fsio::remove_durable(&stopped)?)).await
    }

    /// The object of a restoration.
    async fn object(&self, id: &str) -> Result<Object, ApiError> {
        let wanted = id.to_owned();
        let found = self.blocking("look at a backup", move |parts| parts.archive.find(&wanted, None)).await;
        let (listed, manifest) = found?;
        let recorded = self.recorded(id).await?;
        if recorded.as_ref() != Some(&listed.manifest_sha256) {
            let why =
                if recorded.is_some() { "its hash differs from the ledger's" } else { "the ledger does not know it" };
            return Err(BackupError::Manifest(why.to_owned()).into());
        }
        let mut sources: Vec<&str> = manifest.files.iter().map(|file| file.source.as_str()).collect();
        sources.dedup();
        let object = json!({
            "backup": id, "manifest_sha256": listed.manifest_sha256, "created_at": listed.created_at.to_string(),
            "files": listed.files, "bytes": listed.bytes, "daemons": sources,
        });
        Ok(object.as_object().cloned().unwrap_or_default())
    }

    /// What the ledger recorded as the hash of a backup's list when it was made.
    async fn recorded(&self, id: &str) -> Result<Option<String>, ApiError> {
        let kind = Some("backup.create.outcome".to_owned());
        let query = EventQuery { kind, limit: OUTCOMES_MAX, ..EventQuery::default() };
        let events = self.parts.ledger.events(&query).await.map_err(not_asked)?;
        let hash = |payload: &str| {
            let payload: Value = serde_json::from_str(payload).ok()?;
            (payload["backup_id"] == id).then(|| payload["manifest_sha256"].as_str().map(str::to_owned))?
        };
        // Only agentd makes backups; nobody else's row speaks of them.
        let of_agentd = events.iter().filter(|event| event.kind == "backup.create.outcome");
        Ok(of_agentd.filter_map(|event| hash(&event.payload)).next())
    }

    async fn put_back(&self, id: &str, object: &Object) -> Result<String, ActError> {
        let _turn = self.turn().map_err(ActError::Refused)?;
        if self.object(id).await.map_err(ActError::Refused)? != *object {
            let error = ApiError::new(ErrorCode::ObjectChanged, "the backup is not the one that was looked at");
            return Err(ActError::Refused(error));
        }
        let whole = id.to_owned();
        let checked = self.blocking("check a backup", move |parts| parts.archive.verify(&whole, limits())).await;
        checked.map_err(ActError::Refused)?;
        let units = self.parts.units.running().await.map_err(ActError::Refused)?;
        let list = serde_json::to_vec(&units).map_err(|error| ActError::Refused(ApiError::internal(error)))?;
        let stopped = self.stopped();
        let written = self.blocking("remember stopped units", move |_| Ok(fsio::write_atomic(&stopped, &list, 0o600)?));
        written.await.map_err(ActError::Refused)?;
        let done = match self.parts.units.stop(&units).await {
            Ok(()) => self.replace(id, object).await,
            Err(error) => Err(ActError::Refused(error)),
        };
        // Whatever became of it, the node runs again; if not, the next start of
        // this program tries.
        match (done, self.start_again(&units).await) {
            (Ok(done), Ok(())) => Ok(done),
            (Ok(_), Err(error)) => Err(ActError::Failed(error)),
            (Err(done), started) => {
                if let Err(error) = started {
                    tracing::error!(error = chain(&error), "daemons not started again");
                }
                Err(done)
            }
        }
    }

    async fn replace(&self, id: &str, object: &Object) -> Result<String, ActError> {
        let sha256 = object.get("manifest_sha256").and_then(Value::as_str).unwrap_or("").to_owned();
        let wanted = id.to_owned();
        let restored = self
            .blocking("restore a backup", move |parts| {
                parts.archive.restore(&wanted, Some(&sha256), &targets(&parts.sources), limits())
            })
            .await;
        let error = match restored {
            Ok(restored) => {
                let (files, skipped) = (restored.files, restored.skipped.len());
                return Ok(format!("{files} files of {id} put back, {skipped} left as they are"));
            }
            Err(error) => error,
        };
        match self.blocking("recover a restoration", |parts| parts.archive.recover()).await {
            Ok(None | Some(Recovered::Undone(_))) => Err(ActError::Refused(error)),
            Ok(Some(Recovered::Finished(_))) => Ok(format!("{id} put back, at the second try")),
            Err(again) => {
                tracing::error!(error = chain(&again), "a restoration can neither be finished nor undone now");
                Err(ActError::Failed(error))
            }
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce(&NodeBackupsParts) -> Result<T, BackupError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let parts = Arc::clone(&self.parts);
        let done = self.parts.tasks.blocking(name, move || work(&parts)).await;
        Ok(done.map_err(ApiError::internal)??)
    }
}

impl Restore for NodeBackups {
    fn look<'a>(&'a self, backup_id: &'a str) -> Answer<'a, Object> {
        Box::pin(self.object(backup_id))
    }

    fn restore<'a>(&'a self, backup_id: &'a str, object: &'a Object) -> Answer<'a, String, ActError> {
        Box::pin(self.put_back(backup_id, object))
    }
}

/// "Busy" and "unavailable" of the ledger would be taken for the executor's own: said of
/// a look that nobody made. By then the list of the backup was read.
fn not_asked(error: ApiError) -> ApiError {
    match error.code {
        ErrorCode::Busy | ErrorCode::DaemonUnavailable => {
            let text = "the ledger could not be asked what it recorded of the backup";
            ApiError::new(ErrorCode::LedgerUnavailable, text).with_source(error)
        }
        _ => error,
    }
}

fn limits() -> Limits {
    Limits { time_max: RESTORE_TIME_MAX, ..Limits::default() }
}

/// Where each daemon's state goes back to, and whose it then is: its folder's
/// owner. A daemon without a folder is not of this host any more.
fn targets(sources: &[Source]) -> BTreeMap<String, Target> {
    let target = |source: &Source| {
        let found = std::fs::symlink_metadata(&source.folder).ok().filter(std::fs::Metadata::is_dir)?;
        let owner = Some((found.uid(), found.gid()));
        Some((source.name.clone(), Target { folder: source.folder.clone(), owner }))
    };
    sources.iter().filter_map(target).collect()
}
