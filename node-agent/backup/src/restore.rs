//! Putting a backup back.
//!
//! First every file is checked against the manifest, then each is written
//! beside its place, synced, and renamed over. A database loses its old
//! write-ahead log first, which belongs to the old content. A history that is
//! there stays as it is.
//!
//! The target folders must be the caller's to trust: nobody else may write in
//! them while this runs. Links in them are refused, not followed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use osmoda_kit::fsio::{self, FsError};

use crate::archive::fs_canonical;
use crate::copy;
use crate::error::BackupError;
use crate::manifest::{Entry, Form, Manifest};
use crate::plan;

/// Where one source goes back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The state folder.
    pub folder: PathBuf,
    /// Whom the files then belong to (uid, gid); the caller when absent.
    pub owner: Option<(u32, u32)>,
}

impl Target {
    /// A folder whose files belong to the caller.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), owner: None }
    }
}

/// Why a file of the backup was not put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Skipped {
    /// A history that must not go back, and there is one.
    History,
    /// Its source has no target.
    NoTarget,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Files put back.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were not, as `source/path`.
    pub skipped: Vec<(String, Skipped)>,
}

pub(crate) fn put_back(
    backup: &Path,
    manifest: &Manifest,
    targets: &BTreeMap<String, Target>,
    deadline: Instant,
) -> Result<Restored, BackupError> {
    let files = fs_canonical(backup)?.join("files");
    for file in &manifest.files {
        check(&files.join(&file.source), file, deadline)?;
    }
    let mut restored = Restored::default();
    for file in &manifest.files {
        let name = || format!("{}/{}", file.source, file.path);
        let Some(target) = targets.get(&file.source) else {
            restored.skipped.push((name(), Skipped::NoTarget));
            continue;
        };
        fsio::create_private_dir(&target.folder)?;
        let place = fs_canonical(&target.folder)?.join(&file.path);
        if plan::is_history(Path::new(&file.path)) && place.symlink_metadata().is_ok() {
            restored.skipped.push((name(), Skipped::History));
            continue;
        }
        place_file(&files.join(&file.source).join(&file.path), file, target, &place, deadline)?;
        restored.files += 1;
        restored.bytes += file.bytes;
    }
    Ok(restored)
}

fn place_file(from: &Path, file: &Entry, target: &Target, place: &Path, deadline: Instant) -> Result<(), BackupError> {
    let folder = place.parent().unwrap_or(Path::new("/"));
    make_folders(&fs_canonical(&target.folder)?, folder, target)?;
    let temporary = place.with_file_name(format!(".restore-{}.tmp", place.file_name().unwrap_or_default().display()));
    fsio::remove_durable(&temporary)?;
    let source = copy::open_plain(from).map_err(|error| FsError::new("open", from, error))?;
    let (bytes, sha256) = copy::write_hashed(source, from, &temporary, deadline)?;
    if (bytes, &sha256) != (file.bytes, &file.sha256) {
        fsio::remove_durable(&temporary)?;
        return Err(BackupError::Damaged { path: PathBuf::from(&file.path) });
    }
    own(&temporary, target, file.mode)?;
    if file.form == Form::Sqlite {
        for suffix in ["-wal", "-shm", "-journal"] {
            let mut log = place.as_os_str().to_owned();
            log.push(suffix);
            fsio::remove_durable(Path::new(&log))?;
        }
    }
    fs::rename(&temporary, place).map_err(|error| FsError::new("replace", place, error))?;
    Ok(fsio::sync_dir(folder)?)
}

/// Makes the folders between the target's and the file's. One that is a link
/// is refused.
fn make_folders(root: &Path, folder: &Path, target: &Target) -> Result<(), BackupError> {
    let below = folder.strip_prefix(root).unwrap_or(Path::new(""));
    let mut here = root.to_owned();
    for part in below {
        here.push(part);
        match here.symlink_metadata() {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                let error = std::io::ErrorKind::NotADirectory.into();
                return Err(FsError::new("enter", &here, error).into());
            }
            Err(_) => {
                fsio::create_private_dir(&here)?;
                own(&here, target, 0o700)?;
            }
        }
    }
    Ok(())
}

fn own(path: &Path, target: &Target, mode: u32) -> Result<(), BackupError> {
    if let Some((uid, gid)) = target.owner {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(|error| FsError::new("own", path, error))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o777))
        .map_err(|error| FsError::new("set the mode of", path, error).into())
}

/// Whether the file below `folder` is what the manifest says.
pub(crate) fn check(folder: &Path, file: &Entry, deadline: Instant) -> Result<(), BackupError> {
    let path = folder.join(&file.path);
    let damaged = || BackupError::Damaged { path: Path::new(&file.source).join(&file.path) };
    let is_missing = |error: &BackupError| matches!(error, BackupError::File(_));
    let found = copy::hash(&path, deadline).map_err(|error| if is_missing(&error) { damaged() } else { error })?;
    if found != (file.bytes, file.sha256.clone()) {
        return Err(damaged());
    }
    if file.form == Form::Sqlite { copy::check_database(&path) } else { Ok(()) }
}
