//! Copying one file, with its hash.
//!
//! A database of SQLite is copied with `VACUUM INTO` from a read-only
//! connection: one transaction, whatever its owner writes meanwhile. Any other
//! file is read once from one descriptor that was opened without following a
//! link. Both are synced before their hash counts.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use osmoda_kit::fsio::FsError;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use sha2::{Digest, Sha256};

use crate::error::BackupError;
use crate::manifest::Form;

/// What a database of SQLite begins with (file format, section 1.3).
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Read at once: few calls, little memory.
const BLOCK_BYTES: usize = 256 * 1024;

/// How long to wait for the owner of a database, which may be recovering it.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// No link anywhere in the path is followed here either.
const READ_ONLY: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_ONLY.union(OpenFlags::SQLITE_OPEN_NO_MUTEX).union(OpenFlags::SQLITE_OPEN_NOFOLLOW);

/// What a copy has become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) form: Form,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// What may still be spent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) bytes_max: u64,
    pub(crate) deadline: Instant,
}

impl Budget {
    pub(crate) fn check_time(&self) -> Result<(), BackupError> {
        if Instant::now() < self.deadline { Ok(()) } else { Err(BackupError::TimeOut) }
    }
}

/// Opens a file that is one, without following a link anywhere in its path.
/// Never waits: a pipe with nobody behind it is refused like any other thing.
pub(crate) fn open_plain(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Copies a file into a new one of mode 0600.
pub(crate) fn copy(mut from: File, path: &Path, to: &Path, budget: Budget) -> Result<Copied, BackupError> {
    let read_error = |error| FsError::new("read", path, error);
    let over = || BackupError::OverLimit { what: "a file", limit: budget.bytes_max, path: path.to_owned() };
    let bytes = from.metadata().map_err(read_error)?.len();
    if bytes > budget.bytes_max {
        return Err(over());
    }
    let mut magic = [0; SQLITE_MAGIC.len()];
    let is_database = read_up_to(&mut from, &mut magic).map_err(read_error)? == magic.len() && magic == *SQLITE_MAGIC;
    if is_database {
        vacuum(path, to)?;
        let (bytes, sha256) = hash(to, budget.deadline)?;
        if bytes > budget.bytes_max {
            return Err(over());
        }
        return Ok(Copied { form: Form::Sqlite, bytes, sha256 });
    }
    drop(from);
    // The name may have been given to something else meanwhile: opened anew, checked anew.
    let from = open_plain(path).map_err(|error| FsError::new("open", path, error))?;
    // As long as it was: what grows while it is read is copied as it began.
    let copied = write_hashed(from.take(bytes), path, to, budget.deadline)?;
    Ok(Copied { form: Form::File, bytes: copied.0, sha256: copied.1 })
}

fn vacuum(path: &Path, to: &Path) -> Result<(), BackupError> {
    let copy = || {
        let conn = Connection::open_with_flags(path, READ_ONLY)?;
        conn.busy_timeout(LOCK_WAIT)?;
        conn.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
        Ok(())
    };
    copy().map_err(|source| BackupError::Database { path: path.to_owned(), source })?;
    // SQLite makes the file with the mode of the umask, and does not sync it.
    let file = OpenOptions::new().read(true).write(true).open(to).map_err(|error| FsError::new("open", to, error))?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    file.set_permissions(private).and_then(|()| file.sync_all()).map_err(|error| FsError::new("sync", to, error))?;
    Ok(())
}

/// Writes a new file and tells its size and hash.
pub(crate) fn write_hashed(
    mut from: impl Read,
    path: &Path,
    to: &Path,
    deadline: Instant,
) -> Result<(u64, String), BackupError> {
    let write_error = |error| FsError::new("write", to, error);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(write_error)?;
    let sums = copy_hashed(&mut from, path, &mut file, to, deadline)?;
    file.sync_all().map_err(|error| FsError::new("sync", to, error))?;
    Ok(sums)
}

/// Copies into an open file and tells size and hash.
pub(crate) fn copy_hashed(
    mut from: impl Read,
    path: &Path,
    file: &mut File,
    to: &Path,
    deadline: Instant,
) -> Result<(u64, String), BackupError> {
    pump(&mut from, path, deadline, |block| {
        file.write_all(block).map_err(|error| FsError::new("write", to, error).into())
    })
}

/// The size and SHA-256 of a file.
pub(crate) fn hash(path: &Path, deadline: Instant) -> Result<(u64, String), BackupError> {
    let mut file = open_plain(path).map_err(|error| FsError::new("open", path, error))?;
    pump(&mut file, path, deadline, |_| Ok(()))
}

fn pump(
    from: &mut impl Read,
    path: &Path,
    deadline: Instant,
    mut each: impl FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<(u64, String), BackupError> {
    let (mut sha, mut bytes, mut block) = (Sha256::new(), 0, vec![0; BLOCK_BYTES]);
    loop {
        if Instant::now() >= deadline {
            return Err(BackupError::TimeOut);
        }
        let read = read_up_to(from, &mut block).map_err(|error| FsError::new("read", path, error))?;
        if read == 0 {
            return Ok((bytes, data_encoding::HEXLOWER.encode(&sha.finalize())));
        }
        sha.update(&block[..read]);
        each(&block[..read])?;
        bytes += read as u64;
    }
}

/// Reads until the buffer is full or the end is reached.
fn read_up_to(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Whether a database is whole, as SQLite judges it.
pub(crate) fn check_database(path: &Path) -> Result<(), BackupError> {
    let check = || {
        let conn = Connection::open_with_flags(path, READ_ONLY)?;
        conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0))
    };
    match check() {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(_) => Err(BackupError::Damaged { path: path.to_owned() }),
        Err(source) => Err(BackupError::Database { path: path.to_owned(), source }),
    }
}

/// The SHA-256 of bytes in memory, as hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}
