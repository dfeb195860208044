//! `file.write`: replaces a file whole, or makes one.
//!
//! The path is walked below the host root without following any link, and the
//! object is the folder and the file themselves: device, inode, content. Not the mount
//! that shows them: its number is another one each time the executor starts, and what
//! is mounted over the folder has another device or inode.
//! Invariant: what is put out of place is what was looked at. Old and new name
//! are exchanged in one step, then the old one is checked; another one than
//! expected is exchanged back. Neither a rename nor a link in between wins (P9).
//!
//! This file blocks.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use osmoda_kit::error::ApiError;
use osmoda_kit::fsio;
use osmoda_types::ErrorCode;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags, Uid, fchmod, fchown, fstat,
    fsync, openat, openat2, renameat_with, statx, unlinkat,
};
use rustix::io::Errno;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{ActError, Object};

/// Largest file that is replaced: its old content is kept.
const OLD_BYTES_MAX: u64 = 16 << 20;

/// Old contents kept; the oldest go first.
const UNDO_MAX: usize = 256;

/// Mode of a file that was not there before.
const NEW_MODE: u32 = 0o644;

/// No link anywhere on the way, and nothing outside the folder it starts from.
const PLAIN: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A folder and a file in it, open.
struct Found {
    parent: OwnedFd,
    name: String,
    old: Option<Old>,
    object: Object,
}

/// A file that is there.
struct Old {
    content: Vec<u8>,
    dev: u64,
    ino: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// A write that is about to be done.
pub(super) struct Write {
    pub(super) root: PathBuf,
    pub(super) undo_dir: PathBuf,
    pub(super) path: String,
    pub(super) content: String,
    pub(super) object: Object,
    pub(super) run: u64,
}

/// The object behind a path.
pub(super) fn look(root: &Path, path: &str) -> Result<Object, ApiError> {
    Ok(find(root, path)?.object)
}

impl Write {
    pub(super) fn act(self) -> Result<String, ActError> {
        let found = find(&self.root, &self.path).map_err(ActError::Refused)?;
        if found.object != self.object {
            return Err(ActError::Refused(changed()));
        }
        let temporary = format!(".osmoda-{}", self.run);
        let kept = self.keep_old(found.old.as_ref()).map_err(ActError::Refused)?;
        let file = create(&found, &temporary)?;
        // From here on the name is ours, and ours to remove.
        let made = fill(file, &found, &temporary, self.content.as_bytes());
        let placed = made.and_then(|()| place(&found, &temporary, exchange));
        let removed = remove(&found, &temporary, &placed);
        placed?;
        if let Err(error) = removed {
            tracing::warn!(%error, path = self.path, "the replaced file was not removed");
        }
        fsync(&found.parent).map_err(|error| ActError::Failed(system("sync the folder", error)))?;
        let kept = kept.map(|name| format!(", the old content is kept as {name}")).unwrap_or_default();
        Ok(format!("wrote {} bytes to {}{kept}", self.content.len(), self.path))
    }

    /// Keeps the old content, so that the change can be taken back.
    fn keep_old(&self, old: Option<&Old>) -> Result<Option<String>, ApiError> {
        let Some(old) = old else { return Ok(None) };
        fsio::create_private_dir(&self.undo_dir)?;
        let mut names: Vec<_> = std::fs::read_dir(&self.undo_dir)
            .map_err(ApiError::internal)?
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .collect();
        names.sort();
        for name in names.iter().take((names.len() + 1).saturating_sub(UNDO_MAX)) {
            fsio::remove_durable(&self.undo_dir.join(name))?;
        }
        let name = format!("{:012}", self.run);
        fsio::write_atomic(&self.undo_dir.join(&name), &old.content, 0o600)?;
        Ok(Some(name))
    }
}

fn find(root: &Path, path: &str) -> Result<Found, ApiError> {
    let (folder, name) =
        path.rsplit_once('/').ok_or_else(|| ApiError::new(ErrorCode::CallMalformed, "path has no folder"))?;
    let folder = folder.trim_start_matches('/');
    let root = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| system("open the host root", error))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = openat2(&root, if folder.is_empty() { "." } else { folder }, flags, Mode::empty(), PLAIN)
        .map_err(|error| on_the_way(path, error))?;
    let at = statx(&parent, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        .map_err(|error| system("look at the folder", error))?;
    let old = old(&parent, name, path)?;
    let file = old.as_ref().map_or(Value::Null, |old| {
        json!({
            "dev": old.dev.to_string(), "ino": old.ino.to_string(), "mode": format!("{:o}", old.mode),
            "uid": old.uid, "gid": old.gid, "bytes": old.content.len(),
            "sha256": data_encoding::HEXLOWER.encode(&Sha256::digest(&old.content)),
        })
    });
    let folder = json!({ "dev": format!("{}:{}", at.stx_dev_major, at.stx_dev_minor), "ino": at.stx_ino.to_string() });
    let object = [("path".to_owned(), Value::from(path)), ("folder".to_owned(), folder), ("file".to_owned(), file)];
    Ok(Found { parent, name: name.to_owned(), old, object: object.into_iter().collect() })
}

fn old(parent: &OwnedFd, name: &str, path: &str) -> Result<Option<Old>, ApiError> {
    // NONBLOCK: opening a pipe must not wait for its other end.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat2(parent, name, flags, Mode::empty(), PLAIN) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(on_the_way(path, error)),
    };
    let stat = fstat(&file).map_err(|error| system("look at the file", error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(ApiError::new(ErrorCode::CallMalformed, format!("{path} is no regular file")));
    }
    let mut content = Vec::new();
    File::from(file).take(OLD_BYTES_MAX + 1).read_to_end(&mut content).map_err(ApiError::internal)?;
    if content.len() as u64 > OLD_BYTES_MAX {
        return Err(ApiError::new(ErrorCode::TooLarge, format!("{path} is over {OLD_BYTES_MAX} bytes")));
    }
    Ok(Some(Old {
        content,
        dev: stat.st_dev,
        ino: stat.st_ino,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
    }))
}

/// Makes the new file beside the old one; a name that is taken is refused.
fn create(found: &Found, temporary: &str) -> Result<File, ActError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(&found.parent, temporary, flags, Mode::from_raw_mode(0o600));
    made.map(File::from).map_err(|error| ActError::Refused(system("make the file", error)))
}

/// Fills the new file, durable, with the old one's owner.
fn fill(mut file: File, found: &Found, temporary: &str, content: &[u8]) -> Result<(), ActError> {
    let refused = |what: &'static str| move |error| ActError::Refused(system(what, error));
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.map_err(|error| ActError::Refused(fsio::FsError::new("write", Path::new(temporary), error).into()))?;
    if let Some(old) = &found.old {
        fchown(&file, Some(Uid::from_raw(old.uid)), Some(Gid::from_raw(old.gid))).map_err(refused("set the owner"))?;
    }
    // Set-uid bits are not carried over to content that a tool wrote.
    let mode = found.old.as_ref().map_or(NEW_MODE, |old| old.mode & 0o777);
    fchmod(&file, Mode::from_raw_mode(mode)).map_err(refused("set the mode"))
}

fn exchange(found: &Found, temporary: &str) -> rustix::io::Result<()> {
    renameat_with(&found.parent, temporary, &found.parent, found.name.as_str(), RenameFlags::EXCHANGE)
}

/// Removes what stands under the temporary name: the new file where it was not put
/// in place, the old one where it was. After a failure in between it may be
/// somebody's only copy, put out of place by us, and stays.
fn remove(found: &Found, temporary: &str, placed: &Result<(), ActError>) -> Result<(), Errno> {
    if matches!(placed, Err(ActError::Failed(_))) {
        return Ok(());
    }
    match unlinkat(&found.parent, temporary, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Puts the new file in place. `exchange` swaps the two names in one step; tests
/// give one that fails.
fn place(
    found: &Found,
    temporary: &str,
    mut exchange: impl FnMut(&Found, &str) -> rustix::io::Result<()>,
) -> Result<(), ActError> {
    let parent = &found.parent;
    let Some(old) = &found.old else {
        return renameat_with(parent, temporary, parent, found.name.as_str(), RenameFlags::NOREPLACE).map_err(
            |error| {
                ActError::Refused(if error == Errno::EXIST {
                    changed()
                } else {
                    system("put the file in place", error)
                })
            },
        );
    };
    exchange(found, temporary).map_err(|error| {
        ActError::Refused(if error == Errno::NOENT { changed() } else { system("put the file in place", error) })
    })?;
    // What was put out of place stands under the temporary name now.
    let out = self::old(parent, temporary, temporary);
    let same = out
        .is_ok_and(|out| out.is_some_and(|out| (out.dev, out.ino, &out.content) == (old.dev, old.ino, &old.content)));
    if same {
        return Ok(());
    }
    match exchange(found, temporary) {
        Ok(()) => Err(ActError::Refused(changed())),
        Err(error) => {
            let what = format!("put the other file back, it stands as {temporary}");
            Err(ActError::Failed(system(&what, error)))
        }
    }
}

fn changed() -> ApiError {
    ApiError::new(ErrorCode::ObjectChanged, "the file is not the one that was looked at")
}

fn on_the_way(path: &str, error: Errno) -> ApiError {
    match error {
        Errno::LOOP => ApiError::new(ErrorCode::CallMalformed, format!("{path} leads through a symbolic link")),
        Errno::NOENT | Errno::NOTDIR => {
            ApiError::new(ErrorCode::NotFound, format!("the folder of {path} is not there"))
        }
        Errno::XDEV => ApiError::new(ErrorCode::CallMalformed, format!("{path} leads out of the host root")),
        other => system("walk the path", other),
    }
}

fn system(what: &str, error: Errno) -> ApiError {
    let code = match error {
        Errno::NOSPC | Errno::DQUOT => ErrorCode::DiskFull,
        Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP => ErrorCode::Unsupported,
        _ => ErrorCode::Internal,
    };
    ApiError::new(code, format!("cannot {what}: {error}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a file, looked at, and the new file beside it.
    fn looked_at() -> (tempfile::TempDir, Found) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("page"), "old\n").unwrap();
        let found = find(dir.path(), "/page").unwrap();
        std::fs::write(dir.path().join("temporary"), "new\n").unwrap();
        (dir, found)
    }

    /// Somebody else's file comes into place after the last look.
    fn swap(dir: &Path) {
        std::fs::write(dir.join("other"), "other\n").unwrap();
        std::fs::rename(dir.join("other"), dir.join("page")).unwrap();
    }

    fn contents(dir: &Path) -> Vec<(String, String)> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        let mut contents: Vec<_> = entries
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap()))
            .collect();
        contents.sort();
        contents
    }

    #[test]
    fn p09_a_file_that_came_after_the_last_look_is_exchanged_back() {
        let (dir, found) = looked_at();
        swap(dir.path());
        let placed = place(&found, "temporary", exchange);
        assert!(matches!(&placed, Err(ActError::Refused(error)) if error.code == ErrorCode::ObjectChanged));
        remove(&found, "temporary", &placed).unwrap();
        assert_eq!(contents(dir.path()), [("page".to_owned(), "other\n".to_owned())]);
        // One that was edited in place, and one that went away.
        std::fs::write(dir.path().join("page"), "old\n").unwrap();
        let found = find(dir.path(), "/page").unwrap();
        for change in ["edited", "gone"] {
            std::fs::write(dir.path().join("temporary"), "new\n").unwrap();
            let page = dir.path().join("page");
            if change == "edited" { std::fs::write(&page, "edited\n") } else { std::fs::remove_file(&page) }.unwrap();
            let placed = place(&found, "temporary", exchange);
            assert!(matches!(&placed, Err(ActError::Refused(error)) if error.code == ErrorCode::ObjectChanged));
            remove(&found, "temporary", &placed).unwrap();
            assert_eq!(contents(dir.path()).len(), usize::from(change == "edited"), "{change}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_put_back_is_not_removed() {
        let (dir, found) = looked_at();
        swap(dir.path());
        let mut exchanges = 0;
        let placed = place(&found, "temporary", |found, temporary| {
            exchanges += 1;
            if exchanges == 1 { exchange(found, temporary) } else { Err(Errno::IO) }
        });
        assert!(matches!(placed, Err(ActError::Failed(_))));
        remove(&found, "temporary", &placed).unwrap();
        let all = [("page", "new\n"), ("temporary", "other\n")].map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(contents(dir.path()), all, "the other file is somebody's only copy");
    }
}
