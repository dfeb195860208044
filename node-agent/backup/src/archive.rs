//! The folder of backups: made, checked, listed, and the oldest removed.
//!
//! A backup is a folder `backup-YYYYMMDD-HHMMSS` with `manifest.json` and the
//! files below `files/<source>/`. It is made under another name and gets its own
//! when it has been checked, so a listed backup is a whole one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use osmoda_kit::clock::Timestamp;
use osmoda_kit::fsio::{self, FsError};

use crate::copy;
use crate::error::BackupError;
use crate::maker::Maker;
use crate::manifest::Manifest;
use crate::plan::{Limits, Plan};
use crate::restore::{self, Target};

/// Name of the list of a backup's files.
pub const MANIFEST_NAME: &str = "manifest.json";

/// The list of a restoration while it is under way.
const STEPS_NAME: &str = ".restoring.json";

/// Largest manifest: 10,000 files of 300 bytes, doubled for long paths.
const MANIFEST_BYTES_MAX: u64 = 6 << 20;

/// Backups begun in the same second, at most; they get `-2`, `-3`, …
const SAME_SECOND_MAX: u32 = 99;

/// What begins the names of folders that are not finished, and are removed.
const UNFINISHED: &str = ".unfinished-";

/// A finished backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id, also the name of its folder.
    pub id: String,
    /// Its folder.
    pub path: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
    /// How many files.
    pub files: usize,
    /// When it was begun.
    pub created_at: Timestamp,
    /// SHA-256 of its manifest, as hex: names the whole content.
    pub manifest_sha256: String,
}

/// The folder of backups.
#[derive(Debug, Clone)]
pub struct Archive {
    folder: PathBuf,
    keep: usize,
}

impl Archive {
    /// Backups in `folder`, of which the newest `keep` stay (at least one).
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>, keep: usize) -> Self {
        Self { folder: folder.into(), keep: keep.max(1) }
    }

    /// Makes a backup, checks it by putting it back into an empty folder, lists
    /// it, and removes what is over the number to keep.
    ///
    /// # Errors
    /// [`BackupError`]; then nothing was listed or removed.
    pub fn create(&self, plan: &Plan, now: Timestamp) -> Result<(Listed, Manifest), BackupError> {
        fsio::create_private_dir(&self.folder)?;
        self.sweep()?;
        let id = self.free_id(now)?;
        let making = self.folder.join(format!("{UNFINISHED}{id}"));
        let result = self.make(plan, &id, &making, now);
        if result.is_err() {
            remove_folder(&making)?;
        }
        let (manifest, manifest_sha256) = result?;
        let path = self.folder.join(&id);
        fs::rename(&making, &path).map_err(|error| FsError::new("name", &path, error))?;
        fsio::sync_dir(&self.folder)?;
        self.retain()?;
        Ok((listed(&manifest, path, manifest_sha256), manifest))
    }

    fn make(&self, plan: &Plan, id: &str, making: &Path, now: Timestamp) -> Result<(Manifest, String), BackupError> {
        let mut maker = Maker::new(id, making, now, plan.limits);
        for source in &plan.sources {
            maker.source(source)?;
        }
        fsio::create_private_dir(making)?;
        fsio::write_atomic(&making.join(MANIFEST_NAME), &maker.manifest.write(), 0o600)?;
        let manifest_sha256 = copy::hash(&fs_canonical(making)?.join(MANIFEST_NAME), maker.deadline)?.1;
        self.check_by_restoring(making, &maker.manifest, maker.deadline)?;
        Ok((maker.manifest, manifest_sha256))
    }

    /// Puts a backup back into an empty folder, checks what came out, and
    /// removes it again.
    fn check_by_restoring(&self, backup: &Path, manifest: &Manifest, deadline: Instant) -> Result<(), BackupError> {
        let trial = self.folder.join(format!("{UNFINISHED}check-{}", manifest.id));
        remove_folder(&trial)?;
        let names = manifest.files.iter().map(|file| file.source.clone());
        let targets: BTreeMap<String, Target> =
            names.map(|name| (name.clone(), Target::new(trial.join(&name)))).collect();
        let result = restore::put_back(backup, manifest, &targets, deadline, None).and_then(|_| {
            for file in &manifest.files {
                restore::check(&fs_canonical(&trial)?.join(&file.source), file, deadline)?;
            }
            Ok(())
        });
        remove_folder(&trial)?;
        result
    }

    /// Checks a listed backup in the same way.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn check(&self, id: &str, limits: Limits) -> Result<(), BackupError> {
        let (_, manifest) = self.find(id, None)?;
        self.check_by_restoring(&self.folder.join(id), &manifest, Instant::now() + limits.time_max)
    }

    /// Checks every file of a listed backup against its list, and writes nothing.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn verify(&self, id: &str, limits: Limits) -> Result<(), BackupError> {
        let (_, manifest) = self.find(id, None)?;
        restore::verify(&self.folder.join(id), &manifest, Instant::now() + limits.time_max)
    }

    /// Puts a backup back, each source into its target. Every file is checked
    /// before the first is replaced. The daemons must not run.
    ///
    /// `manifest_sha256` is what the ledger recorded when the backup was made; a
    /// backup with another manifest is refused.
    ///
    /// # Errors
    /// [`BackupError`]. After one, [`Archive::recover`] leaves the old state or
    /// the new.
    pub fn restore(
        &self,
        id: &str,
        manifest_sha256: Option<&str>,
        targets: &BTreeMap<String, Target>,
        limits: Limits,
    ) -> Result<restore::Restored, BackupError> {
        self.recover()?;
        let (_, manifest) = self.find(id, manifest_sha256)?;
        let (backup, deadline) = (self.folder.join(id), Instant::now() + limits.time_max);
        restore::put_back(&backup, &manifest, targets, deadline, Some(&self.folder.join(STEPS_NAME)))
    }

    /// Undoes or finishes a restoration that was cut off: to be called before
    /// anything uses the state it was about. `None` when there was none.
    ///
    /// # Errors
    /// [`BackupError`]; it can be called again.
    pub fn recover(&self) -> Result<Option<restore::Recovered>, BackupError> {
        restore::recover(&self.folder.join(STEPS_NAME))
    }

    /// One backup and its list.
    ///
    /// # Errors
    /// [`BackupError::BadId`], [`BackupError::Unknown`], [`BackupError::Manifest`].
    pub fn find(&self, id: &str, manifest_sha256: Option<&str>) -> Result<(Listed, Manifest), BackupError> {
        if !is_id(id) {
            return Err(BackupError::BadId);
        }
        let path = self.folder.join(id);
        let bytes = fsio::read_limited(&path.join(MANIFEST_NAME), MANIFEST_BYTES_MAX)?
            .ok_or_else(|| BackupError::Unknown(id.to_owned()))?;
        let found = copy::sha256(&bytes);
        if manifest_sha256.is_some_and(|wanted| wanted != found) {
            return Err(BackupError::Manifest("its hash differs".to_owned()));
        }
        let manifest = Manifest::read(&bytes)?;
        if manifest.id != id {
            return Err(BackupError::Manifest("it names another backup".to_owned()));
        }
        Ok((listed(&manifest, path, found), manifest))
    }

    /// Finished backups, newest first. One whose list cannot be read is left
    /// out, with a warning.
    ///
    /// # Errors
    /// [`BackupError::File`] when the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, BackupError> {
        let mut backups = Vec::new();
        for name in self.names()?.iter().rev() {
            match self.find(name, None) {
                Ok((listed, _)) => backups.push(listed),
                Err(error) => {
                    tracing::warn!(backup = name, error = osmoda_kit::error::chain(&error), "backup unreadable");
                }
            }
        }
        Ok(backups)
    }

    /// Ids of finished backups, oldest first: the names sort by time.
    fn names(&self) -> Result<Vec<String>, BackupError> {
        let mut names: Vec<String> = self.entries()?.into_iter().filter(|name| is_id(name)).collect();
        names.sort_by_key(|name| (name[..ID_BYTES].to_owned(), name.len(), name.clone()));
        Ok(names)
    }

    fn entries(&self) -> Result<Vec<String>, BackupError> {
        let read_error = |error| FsError::new("list", &self.folder, error);
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(read_error(error).into()),
        };
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        Ok(names.collect::<io::Result<_>>().map_err(read_error)?)
    }

    fn free_id(&self, now: Timestamp) -> Result<String, BackupError> {
        let digits: String = now.to_string().chars().filter(char::is_ascii_digit).take(14).collect();
        let id = format!("backup-{}-{}", &digits[..8], &digits[8..]);
        let numbered = (2..=SAME_SECOND_MAX).map(|n| format!("{id}-{n}"));
        let free = std::iter::once(id.clone()).chain(numbered).find(|id| !self.folder.join(id).exists());
        free.ok_or(BackupError::OverLimit {
            what: "the number of backups in one second",
            limit: SAME_SECOND_MAX.into(),
            path: self.folder.clone(),
        })
    }

    /// Removes what an earlier run left unfinished.
    fn sweep(&self) -> Result<(), BackupError> {
        for name in self.entries()?.iter().filter(|name| name.starts_with(UNFINISHED)) {
            tracing::info!(name, "unfinished backup removed");
            remove_folder(&self.folder.join(name))?;
        }
        Ok(())
    }

    fn retain(&self) -> Result<(), BackupError> {
        let names = self.names()?;
        let surplus = names.len().saturating_sub(self.keep);
        for name in &names[..surplus] {
            // Renamed first: half a backup is never listed.
            let doomed = self.folder.join(format!("{UNFINISHED}{name}"));
            let path = self.folder.join(name);
            fs::rename(&path, &doomed).map_err(|error| FsError::new("remove", &path, error))?;
            remove_folder(&doomed)?;
            tracing::info!(backup = name, "old backup removed");
        }
        Ok(())
    }
}

/// Bytes of `backup-YYYYMMDD-HHMMSS`.
const ID_BYTES: usize = 22;

/// Whether a text is the id of a backup, and so a plain name.
#[must_use]
pub fn is_id(text: &str) -> bool {
    const SHAPE: &[u8; ID_BYTES] = b"backup-00000000-000000";
    let (head, rest) = text.as_bytes().split_at(text.len().min(ID_BYTES));
    let has_shape = head.len() == ID_BYTES
        && head.iter().zip(SHAPE).all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            shape => byte == shape,
        });
    let is_number = |rest: &[u8]| (1..=2).contains(&rest.len()) && rest.iter().all(u8::is_ascii_digit);
    has_shape && (rest.is_empty() || rest.strip_prefix(b"-").is_some_and(is_number))
}

fn listed(manifest: &Manifest, path: PathBuf, manifest_sha256: String) -> Listed {
    Listed {
        id: manifest.id.clone(),
        path,
        bytes: manifest.bytes(),
        files: manifest.files.len(),
        created_at: manifest.created_at,
        manifest_sha256,
    }
}

pub(crate) fn fs_canonical(path: &Path) -> Result<PathBuf, BackupError> {
    Ok(fs::canonicalize(path).map_err(|error| FsError::new("resolve", path, error))?)
}

fn remove_folder(path: &Path) -> Result<(), BackupError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FsError::new("remove", path, error).into()),
    }
}
