//! Locks between processes: one holder of a root directory or of a daemon's name.
//!
//! Invariant: a lock dies with its process (flock on an open file), so a crash
//! never leaves a stale one. The file itself is never removed: removing a
//! locked file would let a second holder lock a new file of the same name.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use osmoda_types::ErrorCode;

use crate::error::ApiError;
use crate::fsio::{self, FsError};

/// A held lock; dropping it releases it.
#[derive(Debug)]
pub struct RootLock {
    file: File,
    path: PathBuf,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another program holds it.
    #[error("another program runs on this directory: {} is locked", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
    },
    /// The file could not be opened or locked.
    #[error("cannot use the lock file")]
    File(#[from] FsError),
}

impl LockError {
    /// The code callers see.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            LockError::Held { .. } => ErrorCode::RootLocked,
            LockError::File(error) => error.code(),
        }
    }
}

impl From<LockError> for ApiError {
    fn from(error: LockError) -> Self {
        ApiError::new(error.code(), error.to_string()).with_source(error)
    }
}

impl RootLock {
    /// Takes the lock for this process alone, at once or not at all.
    ///
    /// # Errors
    /// [`LockError::Held`] when any other holder, exclusive or shared, exists.
    pub fn exclusive(path: &Path) -> Result<Self, LockError> {
        let file = open(path)?;
        let taken = file.try_lock();
        Self::taken(file, path, taken)
    }

    /// Takes the lock together with other shared holders.
    ///
    /// # Errors
    /// [`LockError::Held`] when an exclusive holder exists.
    pub fn shared(path: &Path) -> Result<Self, LockError> {
        let file = open(path)?;
        let taken = file.try_lock_shared();
        Self::taken(file, path, taken)
    }

    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Releases the lock now; dropping does the same without saying so.
    ///
    /// # Errors
    /// [`LockError::File`] when the system refuses; closing still releases it.
    pub fn release(self) -> Result<(), LockError> {
        self.file.unlock().map_err(|error| FsError::new("unlock", &self.path, error).into())
    }

    fn taken(file: File, path: &Path, result: Result<(), TryLockError>) -> Result<Self, LockError> {
        match result {
            Ok(()) => Ok(Self { file, path: path.to_owned() }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(FsError::new("lock", path, error).into()),
        }
    }
}

/// Opens for reading when the file exists, because flock needs no more and
/// daemons of other users share the root's file; else makes it.
fn open(path: &Path) -> Result<File, FsError> {
    match File::open(path) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // `init` takes the root's lock before anything else exists there.
            fsio::create_shared_dir(path.parent().unwrap_or(path))?;
            make(path).map_err(|error| FsError::new("create", path, error))
        }
        Err(error) => Err(FsError::new("open", path, error)),
    }
}

/// Makes the file readable for all whatever the umask. Made by two at once, it
/// is one file all the same.
fn make(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = RootLock::exclusive(&path).unwrap();
        let second = RootLock::exclusive(&path).unwrap_err();
        assert_eq!(second.code(), ErrorCode::RootLocked);
        assert_eq!(RootLock::shared(&path).unwrap_err().code(), ErrorCode::RootLocked);
        first.release().unwrap();
        drop(RootLock::exclusive(&path).unwrap());
    }

    #[test]
    fn shared_holders_share_and_keep_an_exclusive_one_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = RootLock::shared(&path).unwrap();
        let second = RootLock::shared(&path).unwrap();
        assert!(RootLock::exclusive(&path).is_err());
        drop((first, second));
        assert!(RootLock::exclusive(&path).is_ok());
    }

    #[test]
    fn a_missing_folder_is_made_and_one_that_cannot_be_is_a_state_fault() {
        let dir = tempfile::tempdir().unwrap();
        drop(RootLock::exclusive(&dir.path().join("var/lib/lock")).unwrap());
        std::fs::write(dir.path().join("file"), b"").unwrap();
        let error = RootLock::exclusive(&dir.path().join("file/lock")).unwrap_err();
        assert_eq!(error.code(), ErrorCode::StateDirUnusable);
    }
}
