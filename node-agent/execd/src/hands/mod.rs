//! What touches the host: one file a tool, each with a look and an act.
//!
//! Invariant: an act is given the object that was looked at when the call was
//! hashed, and refuses when the object is another one now.

mod backup;
mod file;
mod place;
mod unit;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use osmoda_kit::error::ApiError;
use osmoda_kit::tasks::Tasks;
use osmoda_permit::Operation;
use osmoda_types::ErrorCode;
use serde_json::{Map, Value};

pub use backup::{Daemons, NodeBackups, NodeBackupsParts, Units};
pub use unit::Systemctl;

/// An object, as it is hashed and shown.
pub type Object = Map<String, Value>;

/// What a hand answers, later.
pub type Answer<'a, T, E = ApiError> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// Puts a backup back.
pub trait Restore: Send + Sync + 'static {
    /// What would be put back: at least the hash of the backup's list of files,
    /// so that a backup that was changed after the approval is another object.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], or whatever keeps it from being read.
    fn look<'a>(&'a self, backup_id: &'a str) -> Answer<'a, Object>;

    /// Puts it back, if it is still that object; says what was done, for people.
    ///
    /// # Errors
    /// [`ActError::Refused`] when everything is as it was.
    fn restore<'a>(&'a self, backup_id: &'a str, object: &'a Object) -> Answer<'a, String, ActError>;
}

/// How an act did not succeed.
#[derive(Debug)]
pub enum ActError {
    /// Nothing was changed.
    Refused(ApiError),
    /// Something may be changed.
    Failed(ApiError),
}

/// The tools' hands.
#[derive(Clone)]
pub struct Hands {
    /// The host root; paths of calls are below it.
    pub root: PathBuf,
    /// Where old contents of replaced files are kept.
    pub undo_dir: PathBuf,
    /// systemd; absent where the host has none, or where it is not ours.
    pub systemctl: Option<Systemctl>,
    /// Backups; absent where none are made.
    pub restore: Option<Arc<dyn Restore>>,
    /// For what blocks.
    pub tasks: Tasks,
}

impl std::fmt::Debug for Hands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hands").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Hands {
    /// Looks at what an operation would be done to; changes nothing.
    ///
    /// # Errors
    /// [`ErrorCode::ClassRefused`] for what never runs, [`ErrorCode::NoSystemd`],
    /// [`ErrorCode::Unsupported`], [`ErrorCode::CallMalformed`] for a path that
    /// leads through a link, [`ErrorCode::NotFound`].
    pub async fn look(&self, operation: &Operation) -> Result<Object, ApiError> {
        match operation {
            Operation::ServiceRestart { unit } => self.systemctl()?.look(&self.tasks, unit).await,
            Operation::FileWrite { path, .. } => {
                let (root, path) = (self.root.clone(), path.clone());
                self.blocking("look at a file", move || file::look(&root, &path)).await
            }
            Operation::BackupRestore { backup_id } => self.restore()?.look(backup_id).await,
            Operation::SystemReboot => Err(never("a reboot through a tool is refused on every host")),
            Operation::RawExec { .. } => Err(never("a text for a shell never runs")),
        }
    }

    /// Whether the place of a write is what its path says. The class of a call comes
    /// from the path's text; a mount can give a protected folder another name.
    ///
    /// # Errors
    /// [`ErrorCode::ClassRefused`] for a protected folder by another name; whatever
    /// keeps the mounts from being read.
    pub(crate) async fn check_place(&self, operation: &Operation) -> Result<(), ApiError> {
        let Operation::FileWrite { path, .. } = operation else { return Ok(()) };
        let (root, path) = (self.root.clone(), path.clone());
        self.blocking("look at the mounts", move || place::check(&root, &path)).await
    }

    /// Does it.
    ///
    /// # Errors
    /// [`ActError`].
    pub(crate) async fn act(&self, operation: &Operation, object: &Object, run: u64) -> Result<String, ActError> {
        match operation {
            Operation::ServiceRestart { .. } => {
                self.systemctl().map_err(ActError::Refused)?.restart(&self.tasks, object).await
            }
            Operation::FileWrite { path, content } => {
                let write = file::Write {
                    root: self.root.clone(),
                    undo_dir: self.undo_dir.clone(),
                    path: path.clone(),
                    content: content.clone(),
                    object: object.clone(),
                    run,
                };
                self.tasks
                    .blocking("write a file", move || write.act())
                    .await
                    .map_err(|error| ActError::Failed(ApiError::internal(error)))?
            }
            Operation::BackupRestore { backup_id } => {
                self.restore().map_err(ActError::Refused)?.restore(backup_id, object).await
            }
            Operation::SystemReboot => {
                Err(ActError::Refused(never("a reboot through a tool is refused on every host")))
            }
            Operation::RawExec { .. } => Err(ActError::Refused(never("a text for a shell never runs"))),
        }
    }

    fn systemctl(&self) -> Result<&Systemctl, ApiError> {
        self.systemctl
            .as_ref()
            .ok_or_else(|| ApiError::new(ErrorCode::NoSystemd, "this node has no systemd of its own to ask"))
    }

    fn restore(&self) -> Result<Arc<dyn Restore>, ApiError> {
        self.restore.clone().ok_or_else(|| ApiError::new(ErrorCode::Unsupported, "this host makes no backups"))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.tasks.blocking(name, work).await.map_err(ApiError::internal)?
    }
}

fn never(text: &str) -> ApiError {
    ApiError::new(ErrorCode::ClassRefused, text)
}
