//! Generations of a host: which one is the default, which one runs, how one is
//! activated and how the baseline is restored.
//!
//! Everything here is synchronous and bounded in time, because the guard uses
//! it without a runtime. Targets are always absolute store paths (I8): there
//! is no "one back" anywhere.

mod activation;
mod nix;
mod program;
mod restore;
mod symlink;

pub use activation::{Action, Activation, ActivationError, Runner};
pub use nix::NixStore;
pub use program::{Ended, Program, ProgramError, Started, find_program};
pub use restore::{RESTORE_TRIES, Restored, restore};
pub use symlink::SymlinkStore;

use osmoda_types::{ErrorCode, StorePath};
use std::path::{Path, PathBuf};

/// One numbered generation of a profile.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Generation {
    /// Its number; numbers only grow.
    pub number: u64,
    /// What it points to.
    pub toplevel: StorePath,
    /// Whether the profile points to it now.
    pub current: bool,
}

/// What kind of store keeps the generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// A Nix profile.
    Nix,
    /// Plain links.
    Symlink,
}

impl StoreKind {
    /// The stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            StoreKind::Nix => "nix",
            StoreKind::Symlink => "symlink",
        }
    }
}

/// Where generations are kept.
pub trait GenerationStore: Send + Sync {
    /// The toplevel the profile points to, `None` for a profile that was never set.
    ///
    /// # Errors
    /// [`StoreError`] when the profile cannot be read or points to no store path.
    fn current(&self) -> Result<Option<StorePath>, StoreError>;

    /// Makes `toplevel` what the profile points to. Setting what is already
    /// set changes nothing.
    ///
    /// # Errors
    /// [`StoreError`]; the profile then points to what it did before, or to `toplevel`.
    fn set(&self, toplevel: &StorePath) -> Result<(), StoreError>;

    /// All generations, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the folder of the profile cannot be read.
    fn list(&self) -> Result<Vec<Generation>, StoreError>;

    /// Checks that the whole closure of `toplevel` is present, and, where the
    /// store demands it, signed.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Unsigned`], or why it could not be checked.
    fn verify(&self, toplevel: &StorePath) -> Result<(), StoreError>;
}

/// Why a generation store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The profile points to something that is no store path.
    #[error("the profile {profile} points to something that is no store path")]
    Foreign {
        /// The profile.
        profile: PathBuf,
        /// The cause.
        #[source]
        source: osmoda_types::StorePathError,
    },
    /// The toplevel, or a part of its closure, is not there.
    #[error("{toplevel} is not in the store: {detail}")]
    Missing {
        /// The toplevel.
        toplevel: StorePath,
        /// What is missing.
        detail: String,
    },
    /// The closure has no signature of a trusted key.
    #[error("{toplevel} is not signed by a trusted key: {detail}")]
    Unsigned {
        /// The toplevel.
        toplevel: StorePath,
        /// What the store said.
        detail: String,
    },
    /// A program of the store did not run.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A program of the store ran and failed.
    #[error("{program} failed: {detail}")]
    Failed {
        /// Its name.
        program: &'static str,
        /// The end of its output.
        detail: String,
    },
}

impl StoreError {
    /// The code for the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            StoreError::Missing { .. } => ErrorCode::ClosureMissing,
            StoreError::Unsigned { .. } => ErrorCode::ClosureUnsigned,
            StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => ErrorCode::DiskFull,
            _ => ErrorCode::StoreUnavailable,
        }
    }
}

/// Where the parts of a profile are: `<profile>` links to `<name>-N-link`
/// beside it, which links to the toplevel. Nix made this layout; the symlink
/// store keeps it, so both are read by the same code.
#[derive(Debug, Clone)]
struct Profile {
    path: PathBuf,
}

impl Profile {
    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    fn name(&self) -> String {
        self.path.file_name().map_or_else(|| "system".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    fn link_of(&self, number: u64) -> PathBuf {
        self.folder().join(format!("{}-{number}-link", self.name()))
    }

    fn current(&self) -> Result<Option<StorePath>, StoreError> {
        let Some(first) = read_link(&self.path)? else { return Ok(None) };
        let generation = self.folder().join(first);
        let target = read_link(&generation)?.unwrap_or(generation);
        self.store_path(&target).map(Some)
    }

    fn list(&self) -> Result<Vec<Generation>, StoreError> {
        let folder = self.folder();
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(io("list", folder, source)),
        };
        let current = read_link(&self.path)?.map(|link| folder.join(link));
        let prefix = format!("{}-", self.name());
        let mut generations = Vec::new();
        for entry in entries {
            let name = entry.map_err(|source| io("list", folder, source))?.file_name();
            let number =
                name.to_str().and_then(|name| name.strip_prefix(&prefix)?.strip_suffix("-link")?.parse::<u64>().ok());
            let Some(number) = number else { continue };
            let link = self.link_of(number);
            let Some(target) = read_link(&link)? else { continue };
            let toplevel = self.store_path(&target)?;
            generations.push(Generation { number, toplevel, current: current.as_deref() == Some(&link) });
        }
        generations.sort_by_key(|generation| generation.number);
        Ok(generations)
    }

    fn store_path(&self, path: &Path) -> Result<StorePath, StoreError> {
        let foreign = |source| StoreError::Foreign { profile: self.path.clone(), source };
        StorePath::new(path.to_string_lossy().into_owned()).map_err(foreign)
    }
}

fn read_link(path: &Path) -> Result<Option<PathBuf>, StoreError> {
    match std::fs::read_link(path) {
        Ok(target) => Ok(Some(target)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // Not a link at all: the caller decides what that means.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(None),
        Err(source) => Err(io("read", path, source)),
    }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io { action, path: path.to_owned(), source }
}

/// Replaces the link at `path` in one step, durably.
fn replace_link(path: &Path, target: &Path) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let fresh = folder.join(format!(
        ".{}.new-{}",
        path.file_name().map_or_else(|| "link".to_owned(), |name| name.to_string_lossy().into_owned()),
        std::process::id()
    ));
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("remove", &fresh, error)),
        _ => {}
    }
    std::os::unix::fs::symlink(target, &fresh).map_err(|source| io("create", &fresh, source))?;
    std::fs::rename(&fresh, path).map_err(|source| io("replace", path, source))?;
    std::fs::File::open(folder).and_then(|file| file.sync_all()).map_err(|source| io("sync", folder, source))
}
