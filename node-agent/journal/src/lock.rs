//! The guard's lock: who is responsible for the baseline right now.
//!
//! Invariant: only its holder restores a baseline. A guard holds it from its
//! acknowledgement to its end; the daemon takes it only when no guard does.
//! The kernel releases it with the holder's last breath, so a lock that can be
//! had means that nobody is guarding.

use osmoda_types::AttemptId;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What a holder writes into the lock file: its acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// The attempt it watches over.
    pub attempt: AttemptId,
}

/// The lock, held until it is dropped.
#[derive(Debug)]
pub struct GuardLock {
    file: File,
}

impl GuardLock {
    /// Takes the lock, or `None` when somebody has it.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn try_take(path: &Path) -> std::io::Result<Option<GuardLock>> {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(GuardLock { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Says who holds it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn sign(&mut self, holder: &Holder) -> std::io::Result<()> {
        let text = serde_json::to_vec(holder)?;
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&text)
    }

    /// Who holds the lock and has signed; `None` when it is free.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn holder(path: &Path) -> std::io::Result<Option<Holder>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            // A holder that has not signed yet reads as an empty text.
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(serde_json::from_slice(&std::fs::read(path)?).ok()),
            Err(errno) => Err(errno.into()),
        }
    }
}
