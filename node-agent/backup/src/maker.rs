//! Filling one backup: walks the sources and copies what the plan's rules take.
//!
//! What is not taken is named with its reason; only a limit, a full disk or a
//! damaged database ends the backup.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use osmoda_kit::clock::Timestamp;
use osmoda_kit::fsio::{self, FsError};

use crate::copy::{self, Budget};
use crate::error::BackupError;
use crate::manifest::{Entry, LeftOut, Manifest};
use crate::plan::{self, Limits, Reason, Source};

/// Folders below each other in a state folder, at most. They have two or three.
const DEPTH_MAX: usize = 16;

/// Fills one backup.
pub(crate) struct Maker {
    pub(crate) manifest: Manifest,
    files: PathBuf,
    limits: Limits,
    bytes_left: u64,
    pub(crate) deadline: Instant,
}

impl Maker {
    /// A backup `id` whose folder is `making`.
    pub(crate) fn new(id: &str, making: &Path, now: Timestamp, limits: Limits) -> Self {
        Self {
            manifest: Manifest::new(id, now),
            files: making.join("files"),
            limits,
            bytes_left: limits.total_bytes_max,
            deadline: Instant::now() + limits.time_max,
        }
    }

    /// Copies one daemon's state.
    pub(crate) fn source(&mut self, source: &Source) -> Result<(), BackupError> {
        let to = self.files.join(&source.name);
        fsio::create_private_dir(&to)?;
        let folder = match fs::canonicalize(&source.folder) {
            Ok(folder) => folder,
            Err(error) => return self.leave_out(source, Path::new(""), reason_of(&error)),
        };
        self.walk(source, &folder, Path::new(""), &to)
    }

    fn walk(&mut self, source: &Source, folder: &Path, below: &Path, to: &Path) -> Result<(), BackupError> {
        let here = folder.join(below);
        let mut names = match fs::read_dir(&here).and_then(|entries| entries.collect::<io::Result<Vec<_>>>()) {
            Ok(entries) => entries,
            Err(error) => return self.leave_out(source, below, reason_of(&error)),
        };
        names.sort_by_key(fs::DirEntry::file_name);
        for entry in names {
            let path = below.join(entry.file_name());
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                Err(error) => {
                    self.leave_out(source, &path, reason_of(&error))?;
                    continue;
                }
            };
            match plan::left_out(&path.join(if kind.is_dir() { "x" } else { "" })) {
                Some(reason) => self.leave_out(source, &path, reason)?,
                None if kind.is_dir() && path.components().count() < DEPTH_MAX => {
                    fsio::create_private_dir(&to.join(&path))?;
                    self.walk(source, folder, &path, to)?;
                    fsio::sync_dir(&to.join(&path))?;
                }
                None if kind.is_file() => self.file(source, folder, &path, to)?,
                None => self.leave_out(source, &path, Reason::NotAFile)?,
            }
        }
        fsio::sync_dir(&to.join(below))?;
        Ok(())
    }

    fn file(&mut self, source: &Source, folder: &Path, path: &Path, to: &Path) -> Result<(), BackupError> {
        let from = folder.join(path);
        let budget = Budget { bytes_max: self.limits.file_bytes_max.min(self.bytes_left), deadline: self.deadline };
        budget.check_time()?;
        if self.manifest.files.len() >= self.limits.files_max {
            let limit = self.limits.files_max as u64;
            return Err(BackupError::OverLimit { what: "the number of files", limit, path: from });
        }
        let Some(name) = path.to_str() else { return self.leave_out(source, path, Reason::NotAFile) };
        let file = match copy::open_plain(&from) {
            Ok(file) => file,
            Err(error) => return self.leave_out(source, path, reason_of(&error)),
        };
        let mode = file.metadata().map_err(|error| FsError::new("measure", &from, error))?;
        let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777;
        let copied = copy::copy(file, &from, &to.join(path), budget)?;
        self.bytes_left = self.bytes_left.saturating_sub(copied.bytes);
        self.manifest.files.push(Entry {
            source: source.name.clone(),
            path: name.to_owned(),
            form: copied.form,
            bytes: copied.bytes,
            mode,
            sha256: copied.sha256,
        });
        Ok(())
    }

    fn leave_out(&mut self, source: &Source, path: &Path, reason: Reason) -> Result<(), BackupError> {
        if self.manifest.left_out.len() >= self.limits.files_max {
            let limit = self.limits.files_max as u64;
            return Err(BackupError::OverLimit { what: "the number of files", limit, path: path.to_owned() });
        }
        let path = path.to_string_lossy().into_owned();
        self.manifest.left_out.push(LeftOut { source: source.name.clone(), path, reason });
        Ok(())
    }
}

/// What cannot be opened is named in the manifest; it does not end the backup.
fn reason_of(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Reason::Denied,
        io::ErrorKind::NotFound => Reason::Gone,
        _ => Reason::NotAFile,
    }
}
