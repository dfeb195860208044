//! Files that are either whole or not there.
//!
//! Invariant: after `Ok`, the content survives a power cut; after `Err`, the
//! old content (or absence) is still what a reader sees. Writes go to a new
//! file in the same folder, are synced, renamed over, and the folder is synced.
//! All functions block; call them off the async threads.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use osmoda_types::ErrorCode;

use crate::error::ApiError;

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {}", path.display())]
pub struct FsError {
    /// What was being done: `write`, `sync`, …
    pub op: &'static str,
    /// The path it was done to.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl FsError {
    /// Names the operation and the path of a system error.
    #[must_use]
    pub fn new(op: &'static str, path: &Path, source: io::Error) -> Self {
        Self { op, path: path.to_owned(), source }
    }

    /// [`ErrorCode::DiskFull`] when no space or quota is left, else
    /// [`ErrorCode::StateDirUnusable`].
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorCode::DiskFull,
            _ => ErrorCode::StateDirUnusable,
        }
    }
}

impl From<FsError> for ApiError {
    fn from(error: FsError) -> Self {
        ApiError::new(error.code(), error.to_string()).with_source(error)
    }
}

/// Bytes that whoever asks may still write on the file system of `path`: blocks
/// kept back for root do not count, quotas are not known here.
///
/// # Errors
/// [`FsError`] when the path is not there or the file system does not say.
pub fn free_bytes(path: &Path) -> Result<u64, FsError> {
    let stat = rustix::fs::statvfs(path).map_err(|errno| FsError::new("look at the space of", path, errno.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Makes a folder and its parents with mode 0700; an existing one is left as it is.
///
/// # Errors
/// [`FsError`] when it cannot be made, or something else has the name.
pub fn create_private_dir(path: &Path) -> Result<(), FsError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| FsError::new("create folder", path, error))
}

/// Makes a folder with mode 0755 whatever the umask, its parents likewise; an
/// existing one is left as it is. For folders that other users walk through to
/// reach their own.
///
/// # Errors
/// [`FsError`] when it cannot be made, or something else has the name.
pub fn create_shared_dir(path: &Path) -> Result<(), FsError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_shared_dir(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o755)),
        // Another daemon, starting at the same time, was first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(|error| FsError::new("create folder", path, error))
}

/// Syncs a folder, so that names made or removed in it survive.
///
/// # Errors
/// [`FsError`] when it cannot be opened or synced.
pub fn sync_dir(path: &Path) -> Result<(), FsError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|error| FsError::new("sync folder", path, error))
}

/// Replaces a file's content durably. `mode` is the new file's mode.
///
/// # Errors
/// [`FsError`]; the old content is then still in place.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), FsError> {
    let temporary = write_temporary(path, content, mode)?;
    fs::rename(&temporary.path, path).map_err(|error| FsError::new("replace", path, error))?;
    temporary.keep();
    sync_dir(folder_of(path))
}

/// Writes a file that must not exist yet, durably.
///
/// # Errors
/// [`FsError`]; its source is [`io::ErrorKind::AlreadyExists`] when the name
/// is taken, and then the existing file was not touched.
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), FsError> {
    let temporary = write_temporary(path, content, mode)?;
    // A hard link, unlike a rename, fails when the name is taken.
    fs::hard_link(&temporary.path, path).map_err(|error| FsError::new("create", path, error))?;
    drop(temporary);
    sync_dir(folder_of(path))
}

/// Removes a file durably; an absent file is fine.
///
/// # Errors
/// [`FsError`] when it exists and cannot be removed.
pub fn remove_durable(path: &Path) -> Result<(), FsError> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(folder_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FsError::new("remove", path, error)),
    }
}

/// Reads a file of at most `bytes_max` bytes; `None` when it is absent.
///
/// # Errors
/// [`FsError`]; [`io::ErrorKind::FileTooLarge`] when it is longer.
pub fn read_limited(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FsError> {
    use std::io::Read;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FsError::new("open", path, error)),
    };
    let mut content = Vec::new();
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(|error| FsError::new("read", path, error))?;
    if content.len() as u64 > bytes_max {
        return Err(FsError::new("read", path, io::ErrorKind::FileTooLarge.into()));
    }
    Ok(Some(content))
}

/// A file that only grows, one durable record at a time.
#[derive(Debug)]
pub struct DurableAppend {
    file: File,
    path: PathBuf,
    length: u64,
}

impl DurableAppend {
    /// Opens or makes the file (mode 0600).
    ///
    /// # Errors
    /// [`FsError`] when it cannot be opened, made or measured.
    pub fn open(path: &Path) -> Result<Self, FsError> {
        let existed = path.exists();
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| FsError::new("open", path, error))?;
        if !existed {
            sync_dir(folder_of(path))?;
        }
        let length = file.metadata().map_err(|error| FsError::new("measure", path, error))?.len();
        Ok(Self { file, path: path.to_owned(), length })
    }

    /// Appends and syncs. A record that could not be written whole is cut off
    /// again, so that the next one does not follow a torn one.
    ///
    /// # Errors
    /// [`FsError`]. After a failed *sync* the file must not be appended to again
    /// by this process: the kernel may have dropped the pages (fsyncgate, 2018).
    pub fn append(&mut self, record: &[u8]) -> Result<(), FsError> {
        if let Err(error) = self.file.write_all(record) {
            self.file.set_len(self.length).map_err(|error| FsError::new("cut", &self.path, error))?;
            return Err(FsError::new("append to", &self.path, error));
        }
        self.file.sync_data().map_err(|error| FsError::new("sync", &self.path, error))?;
        self.length += record.len() as u64;
        Ok(())
    }

    /// The length after the last whole record, in bytes.
    #[must_use]
    pub fn length_bytes(&self) -> u64 {
        self.length
    }
}

/// A half-made file, removed when dropped unless kept.
struct Temporary {
    path: PathBuf,
    keep: bool,
}

impl Temporary {
    fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "temporary file stays behind");
        }
    }
}

fn write_temporary(path: &Path, content: &[u8], mode: u32) -> Result<Temporary, FsError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let random = getrandom::u64().map_err(|error| FsError::new("name", path, io::Error::other(error)))?;
    let temporary_path = path.with_file_name(format!(".{name}.{random:016x}.tmp"));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary_path)
        .map_err(|error| FsError::new("create", &temporary_path, error))?;
    let temporary = Temporary { path: temporary_path, keep: false };
    file.write_all(content).map_err(|error| FsError::new("write", path, error))?;
    file.sync_all().map_err(|error| FsError::new("sync", path, error))?;
    Ok(temporary)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn write_atomic_replaces_and_leaves_nothing_else_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(dir.path()), ["state.json"]);
    }

    #[test]
    fn folders_are_made_private_or_shared_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (shared, private) = (dir.path().join("a/b"), dir.path().join("a/b/c"));
        create_shared_dir(&shared).unwrap();
        create_private_dir(&private).unwrap();
        assert_eq!((mode(&dir.path().join("a")), mode(&shared), mode(&private)), (0o755, 0o755, 0o700));
        create_shared_dir(&private).unwrap();
        assert_eq!(mode(&private), 0o700, "an existing folder keeps its mode");
        fs::write(dir.path().join("f"), b"").unwrap();
        assert!(create_shared_dir(&dir.path().join("f/x")).is_err());
    }

    #[test]
    fn write_new_refuses_a_taken_name_and_keeps_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("genesis");
        write_new(&path, b"first", 0o600).unwrap();
        let error = write_new(&path, b"second", 0o600).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(names(dir.path()), ["genesis"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone/state");
        let error = write_atomic(&path, b"x", 0o600).unwrap_err();
        assert_eq!(error.code(), ErrorCode::StateDirUnusable);
        let full = FsError::new("write", &path, io::ErrorKind::StorageFull.into());
        assert_eq!(full.code(), ErrorCode::DiskFull);
    }

    #[test]
    fn append_grows_and_reopens_at_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        DurableAppend::open(&path).unwrap().append(b"a\n").unwrap();
        let mut again = DurableAppend::open(&path).unwrap();
        assert_eq!(again.length_bytes(), 2);
        again.append(b"b\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"a\nb\n");
    }

    #[test]
    fn read_limited_tells_absent_from_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(read_limited(&path, 10).unwrap(), None);
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_limited(&path, 5).unwrap().unwrap(), b"12345");
        assert_eq!(read_limited(&path, 4).unwrap_err().source.kind(), io::ErrorKind::FileTooLarge);
    }
}
