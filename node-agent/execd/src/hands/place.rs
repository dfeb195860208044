//! Where a folder really is: which part of which file system, whatever it is
//! called through mounts.
//!
//! Invariant: a write that needs no permit goes to no protected folder by another
//! name. The kernel's list of mounts says of each which folder of its file system
//! is seen where; two names are one place when file system and folder are the same.
//! What else a mount shows below a protected folder is protected under every name.
//! What is protected by what it is called, wherever it is, keeps that under a name
//! that does not say so: its name in its file system counts, and every mount's.
//!
//! This file blocks.

use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use osmoda_kit::error::ApiError;
use osmoda_kit::fsio;
use osmoda_permit::protected;
use osmoda_types::ErrorCode;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;

/// This process's own mounts: the names that its writes go by.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Largest list: 20,000 mounts of 200 bytes. A host with more cannot be judged.
const MOUNTS_BYTES_MAX: u64 = 4 << 20;

/// One mount: this folder of that file system is seen at this point.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    id: u64,
    device: String,
    folder: PathBuf,
    point: PathBuf,
}

/// A place in a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    device: String,
    path: PathBuf,
}

/// Refuses a path, below the host root, whose file is in a protected folder by
/// another name.
///
/// # Errors
/// [`ErrorCode::ClassRefused`]; [`ErrorCode::Internal`] when the mounts cannot be
/// read, and so nothing can be said.
pub(super) fn check(root: &Path, path: &str) -> Result<(), ApiError> {
    let unknown = || ApiError::new(ErrorCode::Internal, "the mounts of this host cannot be read");
    let bytes = fsio::read_limited(Path::new(MOUNTS), MOUNTS_BYTES_MAX)?.ok_or_else(unknown)?;
    let mounts = parse(&bytes).ok_or_else(unknown)?;
    let root = root.canonicalize().map_err(ApiError::internal)?;
    // Through the links that the host itself has: `/bin` is one.
    let real = |path: &str| {
        let path = root.join(path.trim_start_matches('/'));
        path.canonicalize().unwrap_or(path)
    };
    let protected: Vec<PathBuf> = protected::paths().map(real).collect();
    let full = root.join(path.trim_start_matches('/'));
    let place = seen(&mounts, mount_of(&full)?, &full).ok_or_else(unknown)?;
    match alias(&mounts, &protected, place) {
        None => Ok(()),
        Some(place) => {
            let text =
                format!("{path} is protected by another name: {} of device {}", place.path.display(), place.device);
            Err(ApiError::new(ErrorCode::ClassRefused, text))
        }
    }
}

/// The mount that shows the file, or its folder where there is no file yet: the
/// kernel's word, whatever covers what.
fn mount_of(path: &Path) -> Result<u64, ApiError> {
    let system = |error: Errno| {
        let code = if error == Errno::NOENT { ErrorCode::NotFound } else { ErrorCode::Internal };
        ApiError::new(code, format!("cannot look at the mount of {}: {error}", path.display()))
    };
    let look = |path: &Path| statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID);
    let found = match look(path) {
        Err(Errno::NOENT) => look(path.parent().unwrap_or(path)).map_err(system)?,
        other => other.map_err(system)?,
    };
    Ok(found.stx_mnt_id)
}

/// Where a path is that this mount shows; `None` when the list has no such mount
/// above the path.
fn seen(mounts: &[Mount], id: u64, path: &Path) -> Option<Place> {
    within(mounts.iter().find(|mount| mount.id == id)?, path)
}

/// The protected place that this one is in, if it is in one.
fn alias(mounts: &[Mount], protected: &[PathBuf], place: Place) -> Option<Place> {
    if is_named(&place.path) {
        return Some(place);
    }
    let is_protected = |point: &Path| is_named(point) || protected.iter().any(|entry| point.starts_with(entry));
    let below = mounts.iter().filter(|mount| is_protected(&mount.point));
    let shown = below.map(|mount| Place { device: mount.device.clone(), path: mount.folder.clone() });
    let named = protected.iter().filter_map(|entry| self::place(mounts, entry));
    let is_in = |entry: &Place| entry.device == place.device && place.path.starts_with(&entry.path);
    named.chain(shown).find(is_in)
}

/// Whether its own name, or that of a folder on the way, protects it. Bytes that are
/// no text are in none of those names.
fn is_named(path: &Path) -> bool {
    protected::is_named(&path.to_string_lossy())
}

/// Where a path is that need not be there: its mount is the one with the longest
/// point above it, the last one of those that cover each other.
fn place(mounts: &[Mount], path: &Path) -> Option<Place> {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    within(above.max_by_key(|mount| mount.point.components().count())?, path)
}

fn within(mount: &Mount, path: &Path) -> Option<Place> {
    let rest = path.strip_prefix(&mount.point).ok()?;
    let path = if rest.as_os_str().is_empty() { mount.folder.clone() } else { mount.folder.join(rest) };
    Some(Place { device: mount.device.clone(), path })
}

/// Reads the list (`proc_pid_mountinfo(5)`): id, parent, device, folder, point.
fn parse(text: &[u8]) -> Option<Vec<Mount>> {
    let mount = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let device = String::from_utf8(fields.nth(1)?.to_vec()).ok()?;
        Some(Mount { id, device, folder: unescape(fields.next()?)?, point: unescape(fields.next()?)? })
    };
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(mount).collect()
}

/// Spaces, tabs, newlines and backslashes stand as three octal digits.
fn unescape(field: &[u8]) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        rest = after;
        if *first == b'\\' {
            let (digits, after) = rest.split_at_checked(3)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
        }
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "22 1 254:0 / / rw - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
24 22 254:0 /etc /srv/all rw - ext4 /dev/vda rw
25 22 254:0 /etc/cron.d /srv/a\\040b/jobs rw - ext4 /dev/vda rw
26 22 8:1 / /srv/data rw - ext4 /dev/sda1 rw
27 22 8:1 /units /etc/systemd/system rw - ext4 /dev/sda1 rw
28 22 254:0 /srv/www /srv/site rw - ext4 /dev/vda rw
29 22 8:2 /etc /srv/backup rw - ext4 /dev/sdb1 rw
";

    #[test]
    fn p09_a_protected_folder_is_known_by_every_name() {
        let mounts = parse(LIST.as_bytes()).unwrap();
        let protected = ["/etc", "/proc"].map(PathBuf::from);
        let is = |path: &str| alias(&mounts, &protected, place(&mounts, Path::new(path)).unwrap()).is_some();
        for path in ["/etc/motd", "/srv/all/motd", "/srv/all/cron.d/x", "/srv/a b/jobs/x", "/srv/data/units/evil"] {
            assert!(is(path), "{path}");
        }
        // Another folder, another file system, and a name that only begins like one.
        for path in ["/srv/www/a", "/srv/site/a", "/srv/data/a", "/srv/data/unitsx", "/srv/backup/motd", "/srv/a b/x"] {
            assert!(!is(path), "{path}");
        }
    }

    /// A folder of keys, a repository and a shell's file keep what they are where
    /// the mount calls them something else.
    #[test]
    fn p09_what_its_name_protects_is_known_by_every_name() {
        let list = format!(
            "{LIST}{}",
            "30 22 254:0 /home/deploy/.ssh /srv/www/keys rw - ext4 /dev/vda rw
31 22 254:0 /srv/repo/.git /srv/www/meta rw - ext4 /dev/vda rw
32 22 254:0 /srv/Site.GIT/hooks /srv/www/bare rw - ext4 /dev/vda rw
33 22 254:0 /home/deploy/.bashrc /srv/www/rc rw - ext4 /dev/vda rw
34 22 254:0 /srv/units/evil.timer /srv/www/unit rw - ext4 /dev/vda rw
35 22 8:1 /keys /home/deploy/.gnupg rw - ext4 /dev/sda1 rw
36 22 254:0 /home/deploy /srv/home rw - ext4 /dev/vda rw
37 22 8:3 /keys /srv/other rw - ext4 /dev/sdc1 rw
"
        );
        let mounts = parse(list.as_bytes()).unwrap();
        let is = |path: &str| alias(&mounts, &[], place(&mounts, Path::new(path)).unwrap()).is_some();
        for path in [
            "/srv/www/keys/authorized_keys",
            "/srv/www/meta/config",
            "/srv/www/bare/post-receive",
            "/srv/www/rc",
            "/srv/www/unit",
            // The mount's point is what protects it; this is the same folder.
            "/srv/data/keys/trustdb",
        ] {
            assert!(is(path), "{path}");
        }
        for path in ["/srv/www/keysx", "/srv/home/notes", "/srv/data/keysx", "/srv/other/a", "/srv/www/a"] {
            assert!(!is(path), "{path}");
        }
    }

    /// A mount is covered by one whose point is above its own: what is seen is the last.
    #[test]
    fn p09_a_covered_mount_is_not_the_one_that_is_seen() {
        let list = format!(
            "{LIST}{}",
            "30 22 8:4 / /srv/www/up rw - ext4 /dev/sdd1 rw
31 22 254:0 /etc /srv/www rw - ext4 /dev/vda rw
"
        );
        let mounts = parse(list.as_bytes()).unwrap();
        let path = Path::new("/srv/www/up/f");
        let protected = [PathBuf::from("/etc")];
        let is = |id| alias(&mounts, &protected, seen(&mounts, id, path).unwrap()).is_some();
        assert!(is(31) && !is(30));
    }

    #[test]
    fn the_kernel_says_which_mount_shows_a_file_that_is_not_there_yet() {
        let mounts = parse(&std::fs::read(MOUNTS).unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().canonicalize().unwrap();
        let (there, missing) = (mount_of(&folder).unwrap(), mount_of(&folder.join("missing")).unwrap());
        assert_eq!(there, missing);
        assert!(seen(&mounts, there, &folder.join("missing")).is_some());
        assert_eq!(mount_of(&folder.join("no/way")).unwrap_err().code, ErrorCode::NotFound);
    }

    #[test]
    fn a_list_of_mounts_that_cannot_be_read_says_nothing() {
        assert_eq!(place(&[], Path::new("/srv/a")), None);
        let mounts = parse(LIST.as_bytes()).unwrap();
        assert_eq!(seen(&mounts, 99, Path::new("/srv/a")), None, "a mount that came later");
        assert_eq!(seen(&mounts, 26, Path::new("/srv/www/a")), None, "and one that is elsewhere");
        for crooked in ["22 1 254:0 /", "22 1 254:0 /\\9 / rw", "22 1 254:0 /\\04 / rw"] {
            assert_eq!(parse(crooked.as_bytes()), None, "{crooked}");
        }
    }
}
