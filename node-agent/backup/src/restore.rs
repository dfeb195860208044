//! Putting a backup back: all of it or nothing.
//!
//! ```text
//! every file checked ► list of steps durable ► each file written beside its place
//!   ► list marked decided ► each renamed over ► list removed
//! ```
//! A stop before the mark is undone by [`recover`], one after it is finished by
//! it: the state is the old one or the new one, never a mix. A database loses its
//! old write-ahead log with its old content. A history that is there stays.
//!
//! Folders are entered by descriptor, no link is followed, and owner and mode are
//! set on the open file: a daemon whose folder this is gets nobody else's file
//! written or given away.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use osmoda_kit::fsio::{self, FsError};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::archive::fs_canonical;
use crate::copy;
use crate::error::BackupError;
use crate::manifest::{Entry, Form, Manifest};
use crate::plan;

/// Largest list of steps: twice the paths of the largest manifest.
const STEPS_BYTES_MAX: u64 = 16 << 20;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// What became of a restoration that was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// It had not been decided: everything is as it was.
    Undone(String),
    /// It had been decided: everything is as the backup says.
    Finished(String),
}

/// The durable list of a restoration.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Steps {
    backup_id: String,
    is_decided: bool,
    steps: Vec<Step>,
}

/// One file: its folder, absolute, and its two names there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    folder: PathBuf,
    name: String,
    temporary: String,
    form: Form,
}

/// Puts a backup back; with a `list`, so that it can be cut off anywhere.
pub(crate) fn put_back(
    backup: &Path,
    manifest: &Manifest,
    targets: &BTreeMap<String, Target>,
    deadline: Instant,
    list: Option<&Path>,
) -> Result<Restored, BackupError> {
    verify(backup, manifest, deadline)?;
    let files = fs_canonical(backup)?.join("files");
    let (work, restored) = plan_steps(manifest, targets)?;
    let mut steps = Steps {
        backup_id: manifest.id.clone(),
        is_decided: false,
        steps: work.iter().map(|(step, ..)| step.clone()).collect(),
    };
    steps.write(list)?;
    let staged = work.iter().try_for_each(|(step, file, target)| {
        stage(&files.join(&file.source).join(&file.path), file, target, step, deadline)
    });
    if let Err(error) = staged {
        steps.undo()?;
        forget(list)?;
        return Err(error);
    }
    steps.is_decided = true;
    steps.write(list)?;
    steps.finish()?;
    forget(list)?;
    Ok(restored)
}

/// Checks every file of a backup.
pub(crate) fn verify(backup: &Path, manifest: &Manifest, deadline: Instant) -> Result<(), BackupError> {
    let files = fs_canonical(backup)?.join("files");
    manifest.files.iter().try_for_each(|file| check(&files.join(&file.source), file, deadline))
}

/// Undoes or finishes what was cut off; `None` when nothing was.
pub(crate) fn recover(list: &Path) -> Result<Option<Recovered>, BackupError> {
    let Some(bytes) = fsio::read_limited(list, STEPS_BYTES_MAX)? else { return Ok(None) };
    let steps: Steps = serde_json::from_slice(&bytes)
        .map_err(|error| BackupError::Manifest(format!("the list of a restoration is damaged: {error}")))?;
    if steps.is_decided {
        steps.finish()?;
    } else {
        steps.undo()?;
    }
    forget(Some(list))?;
    let id = steps.backup_id;
    Ok(Some(if steps.is_decided { Recovered::Finished(id) } else { Recovered::Undone(id) }))
}

type Work<'a> = (Step, &'a Entry, &'a Target);

/// What is to be done, without doing any of it.
fn plan_steps<'a>(
    manifest: &'a Manifest,
    targets: &'a BTreeMap<String, Target>,
) -> Result<(Vec<Work<'a>>, Restored), BackupError> {
    let (mut work, mut restored) = (Vec::new(), Restored::default());
    for (number, file) in manifest.files.iter().enumerate() {
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
        let (Some(folder), Some(name)) = (place.parent(), place.file_name().and_then(|name| name.to_str())) else {
            return Err(BackupError::Manifest(format!("the path {:?} is not plain", file.path)));
        };
        let temporary = format!(".restore-{number}.tmp");
        work.push((
            Step { folder: folder.to_owned(), name: name.to_owned(), temporary, form: file.form },
            file,
            target,
        ));
        restored.files += 1;
        restored.bytes += file.bytes;
    }
    Ok((work, restored))
}

/// Writes one file beside its place, durable, with its owner and mode.
fn stage(from: &Path, file: &Entry, target: &Target, step: &Step, deadline: Instant) -> Result<(), BackupError> {
    let place = step.folder.join(&step.temporary);
    let folder = enter_or_make(&fs_canonical(&target.folder)?, &step.folder, target)?;
    remove(&folder, &step.temporary, &place)?;
    let source = copy::open_plain(from).map_err(|error| FsError::new("open", from, error))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let new = rustix::fs::openat(&folder, &step.temporary, flags, Mode::from_raw_mode(0o600));
    let mut new = File::from(new.map_err(|error| failed("make", &place, error))?);
    let sums = copy::copy_hashed(source, from, &mut new, &place, deadline)?;
    if sums != (file.bytes, file.sha256.clone()) {
        return Err(BackupError::Damaged { path: PathBuf::from(&file.path) });
    }
    give(&new, target, file.mode, &place)?;
    new.sync_all().map_err(|error| FsError::new("sync", &place, error))?;
    rustix::fs::fsync(&folder).map_err(|error| failed("sync", &step.folder, error).into())
}

impl Steps {
    fn write(&self, list: Option<&Path>) -> Result<(), BackupError> {
        let Some(list) = list else { return Ok(()) };
        let text = serde_json::to_vec(self).expect("a list of steps is plain data");
        Ok(fsio::write_atomic(list, &text, 0o600)?)
    }

    /// Removes what was staged.
    fn undo(&self) -> Result<(), BackupError> {
        for step in &self.steps {
            match enter(&step.folder) {
                Ok(folder) => remove(&folder, &step.temporary, &step.folder.join(&step.temporary))?,
                // Not made yet, so nothing was staged in it.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed("enter", &step.folder, error).into()),
            }
        }
        Ok(())
    }

    /// Renames everything into place; again and again is fine.
    fn finish(&self) -> Result<(), BackupError> {
        for step in &self.steps {
            let place = step.folder.join(&step.name);
            let folder = enter(&step.folder).map_err(|error| failed("enter", &step.folder, error))?;
            match rustix::fs::statat(&folder, &step.temporary, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => {}
                // Done before the cut.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(failed("look for", &place, error).into()),
            }
            if step.form == Form::Sqlite {
                for suffix in ["-wal", "-shm", "-journal"] {
                    remove(&folder, &format!("{}{suffix}", step.name), &place)?;
                }
            }
            rustix::fs::renameat(&folder, &step.temporary, &folder, &step.name)
                .map_err(|error| failed("replace", &place, error))?;
            rustix::fs::fsync(&folder).map_err(|error| failed("sync", &step.folder, error))?;
        }
        Ok(())
    }
}

fn forget(list: Option<&Path>) -> Result<(), BackupError> {
    list.map_or(Ok(()), |list| Ok(fsio::remove_durable(list)?))
}

/// Opens a folder without following a link anywhere in its path.
fn enter(folder: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, folder, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

/// As [`enter`], and makes the folders between `root` and `folder` that are not there.
fn enter_or_make(root: &Path, folder: &Path, target: &Target) -> Result<OwnedFd, BackupError> {
    let mut here = root.to_owned();
    let mut at = enter(root).map_err(|error| failed("enter", root, error))?;
    for part in folder.strip_prefix(root).unwrap_or(Path::new("")) {
        here.push(part);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let is_new = match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(failed("make", &here, error).into()),
        };
        at = rustix::fs::openat(&at, part, flags, Mode::empty()).map_err(|error| failed("enter", &here, error))?;
        if is_new {
            give(&at, target, 0o700, &here)?;
        }
    }
    Ok(at)
}

fn give(what: impl std::os::fd::AsFd, target: &Target, mode: u32, path: &Path) -> Result<(), BackupError> {
    if let Some((uid, gid)) = target.owner {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::fchown(&what, Some(uid), Some(gid)).map_err(|error| failed("own", path, error))?;
    }
    rustix::fs::fchmod(&what, Mode::from_raw_mode(mode & 0o777))
        .map_err(|error| failed("set the mode of", path, error).into())
}

fn remove(folder: &OwnedFd, name: &str, path: &Path) -> Result<(), BackupError> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed("remove", path, error).into()),
    }
}

fn failed(what: &'static str, path: &Path, error: Errno) -> FsError {
    FsError::new(what, path, error.into())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Archive;
    use crate::plan::{Limits, Plan, Source};
    use osmoda_kit::clock::Timestamp;

    /// A folder of three files that was backed up as `old` and is `new` now.
    struct Changed {
        dir: tempfile::TempDir,
        archive: Archive,
        id: String,
        targets: BTreeMap<String, Target>,
    }

    impl Changed {
        fn make() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let state = dir.path().join("state");
            std::fs::create_dir_all(state.join("sub")).unwrap();
            let archive = Archive::new(dir.path().join("backups"), 7);
            let changed = |id: String| Self {
                archive: archive.clone(),
                id,
                targets: [("watch".to_owned(), Target::new(&state))].into(),
                dir,
            };
            write(&state, "new");
            let source = Source { name: "watch".to_owned(), folder: state.clone() };
            let plan = Plan { sources: vec![source], limits: Limits::default() };
            let (listed, _) = archive.create(&plan, Timestamp::from_millis(0)).unwrap();
            write(&state, "old");
            changed(listed.id)
        }

        fn state(&self) -> Vec<String> {
            let state = self.dir.path().join("state");
            assert_eq!(std::fs::read_dir(&state).unwrap().count(), 3, "nothing else is left there");
            NAMES.iter().map(|name| std::fs::read_to_string(state.join(name)).unwrap()).collect()
        }

        /// Begins a restoration and cuts it off: `decided` or before, and with so
        /// many files in place.
        fn cut(&self, is_decided: bool, staged: usize, placed: usize) {
            let (_, manifest) = self.archive.find(&self.id, None).unwrap();
            let (work, _) = plan_steps(&manifest, &self.targets).unwrap();
            let files = self.dir.path().join("backups").join(&self.id).join("files/watch");
            let deadline = Instant::now() + Limits::default().time_max;
            for (step, file, target) in &work[..staged] {
                stage(&fs_canonical(&files).unwrap().join(&file.path), file, target, step, deadline).unwrap();
            }
            let steps: Vec<Step> = work.iter().map(|(step, ..)| step.clone()).collect();
            let mut list = Steps { backup_id: self.id.clone(), is_decided, steps: steps[..placed].to_vec() };
            list.finish().unwrap();
            list.steps = steps;
            list.write(Some(&self.dir.path().join("backups/.restoring.json"))).unwrap();
        }
    }

    const NAMES: [&str; 3] = ["a.json", "b.json", "sub/c.json"];

    fn write(state: &Path, text: &str) {
        for name in NAMES {
            std::fs::write(state.join(name), text).unwrap();
        }
    }

    #[test]
    fn a_restoration_that_is_cut_off_leaves_the_old_state_or_the_new() {
        for staged in 0..=3 {
            let changed = Changed::make();
            changed.cut(false, staged, 0);
            assert_eq!(changed.archive.recover().unwrap(), Some(Recovered::Undone(changed.id.clone())));
            assert_eq!(changed.state(), ["old"; 3]);
            assert_eq!(changed.archive.recover().unwrap(), None);
        }
        for placed in 0..=3 {
            let changed = Changed::make();
            changed.cut(true, 3, placed);
            assert_eq!(changed.archive.recover().unwrap(), Some(Recovered::Finished(changed.id.clone())));
            assert_eq!(changed.state(), ["new"; 3]);
            assert_eq!(changed.archive.recover().unwrap(), None);
        }
    }
}
