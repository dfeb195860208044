//! The journal file: read, append, rotate.
//!
//! Invariant: an append that returned `Ok` is on the disk and was legal
//! against everything any process had written before it, because reading,
//! checking and writing happen under one exclusive lock. After a failed sync
//! this handle writes nothing more: what the disk holds is then unknown.

use crate::Moment;
use crate::frame::{Cursor, Damage, LINE_BYTES_MAX};
use crate::record::{Entry, Record, Writer};
use crate::state::{Illegal, Phase, State};
use osmoda_types::{AttemptId, ErrorCode};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file is closed and put aside, before the next grant, once it is this
/// long: about 64 attempts with their contacts. Every append of the guard
/// reads the file once, so it must stay small; old files are kept.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file holds damage that no crash explains.
    #[error("the journal {path} is damaged")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        damage: Damage,
    },
    /// The file holds intact records that contradict each other.
    #[error("the journal {path} holds an impossible step in line {line}")]
    Impossible {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is impossible about it.
        #[source]
        illegal: Illegal,
    },
    /// The record may not follow; nothing was written.
    #[error("the journal does not allow this")]
    Illegal(#[from] Illegal),
    /// The record is longer than a line may be; nothing was written.
    #[error("the record is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// The record has no encoding; nothing was written.
    #[error("the record cannot be encoded")]
    Encode(#[source] serde_json::Error),
    /// Reading or writing failed; the record is not in the journal.
    #[error("cannot {action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A sync failed earlier; this process may not write any more.
    #[error("an earlier sync of the journal failed")]
    Poisoned,
}

impl JournalError {
    /// The code for the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            JournalError::Corrupt { .. } | JournalError::Impossible { .. } => ErrorCode::JournalCorrupt,
            JournalError::Illegal(Illegal::Stale { .. }) => ErrorCode::AttemptStale,
            JournalError::Illegal(Illegal::Attempt { .. }) => ErrorCode::AttemptConflict,
            JournalError::Illegal(_) => ErrorCode::JournalIllegal,
            JournalError::TooLong => ErrorCode::TooLarge,
            JournalError::Encode(_) => ErrorCode::Internal,
            JournalError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => ErrorCode::DiskFull,
            JournalError::Io { .. } | JournalError::Poisoned => ErrorCode::StateDirUnusable,
        }
    }
}

/// Is told of each record, by the process that writes it. For logs, metrics,
/// and for the crash test, which stops processes here.
pub trait Observer: Send + Sync {
    /// The record is about to be written; it is legal.
    fn before(&self, from: Phase, record: &Record);
    /// The record is on the disk.
    fn after(&self, from: Phase, record: &Record);
}

/// A journal as one process sees it.
pub struct Journal {
    path: PathBuf,
    known: Known,
    observer: Option<Box<dyn Observer>>,
    poisoned: bool,
}

/// What has been read so far, so that a poll reads only what is new.
struct Known {
    file: (u64, u64),
    cursor: Cursor,
    state: State,
}

impl Known {
    fn nothing() -> Self {
        Self { file: (0, 0), cursor: Cursor::start(), state: State::default() }
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("path", &self.path).field("phase", &self.known.state.phase).finish()
    }
}

impl Journal {
    /// A handle on the file at `path`, which need not exist yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), known: Known::nothing(), observer: None, poisoned: false }
    }

    /// Has `observer` told of every record this handle writes.
    #[must_use]
    pub fn observed_by(mut self, observer: Box<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what is new and returns the state.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`], [`JournalError::Impossible`] or [`JournalError::Io`].
    pub fn read(&mut self) -> Result<&State, JournalError> {
        match File::open(&self.path) {
            Ok(mut file) => self.catch_up(&mut file)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.known = Known::nothing(),
            Err(source) => return Err(self.io("open", source)),
        }
        Ok(&self.known.state)
    }

    /// Appends one record and syncs it.
    ///
    /// # Errors
    /// [`JournalError`]; unless it is [`JournalError::Poisoned`], nothing was written.
    pub fn append(
        &mut self,
        writer: Writer,
        attempt: AttemptId,
        at: Moment,
        entry: Entry,
    ) -> Result<&State, JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned);
        }
        let _lock = self.lock()?;
        let mut file = self.open_for_append()?;
        self.catch_up(&mut file)?;
        if matches!(entry, Entry::Granted(_)) && self.known.cursor.bytes >= FILE_BYTES_MAX {
            file = self.rotate(&at)?;
        }
        let record = Record { attempt, at, writer, entry };
        self.write(&mut file, &record)?;
        Ok(&self.known.state)
    }

    /// Every record of the kept files and the present one, oldest first.
    ///
    /// # Errors
    /// As [`Journal::read`].
    pub fn history(&self) -> Result<Vec<Record>, JournalError> {
        let mut all = Vec::new();
        for path in self.files()? {
            let bytes = std::fs::read(&path).map_err(|source| io("read", &path, source))?;
            let (records, _) = Cursor::start().read(&bytes).map_err(|damage| JournalError::Corrupt { path, damage })?;
            all.extend(records.into_iter().filter(|record| !matches!(record.entry, Entry::Head(_))));
        }
        Ok(all)
    }

    fn write(&mut self, file: &mut File, record: &Record) -> Result<(), JournalError> {
        let from = self.known.state.phase;
        let next = self.known.state.next(record)?;
        let (line, cursor) = self.known.cursor.encode(record).map_err(JournalError::Encode)?;
        if line.len() > LINE_BYTES_MAX {
            return Err(JournalError::TooLong);
        }
        if let Some(observer) = &self.observer {
            observer.before(from, record);
        }
        let end = self.known.cursor.bytes;
        // What lies behind the last whole line is a write that never finished.
        if file.metadata().map_err(|source| self.io("inspect", source))?.len() > end {
            file.set_len(end).map_err(|source| self.io("truncate", source))?;
        }
        file.seek(SeekFrom::Start(end)).map_err(|source| self.io("seek in", source))?;
        if let Err(source) = file.write_all(line.as_bytes()) {
            self.take_back(file, end);
            return Err(self.io("write", source));
        }
        if let Err(source) = file.sync_all() {
            self.poisoned = true;
            self.take_back(file, end);
            return Err(self.io("sync", source));
        }
        self.known.cursor = cursor;
        self.known.state = next;
        if let Some(observer) = &self.observer {
            observer.after(from, record);
        }
        Ok(())
    }

    /// Removes a half-written line. If even that fails the torn line is found
    /// and removed by the next writer.
    fn take_back(&mut self, file: &File, end: u64) {
        if file.set_len(end).and_then(|()| file.sync_all()).is_err() {
            self.poisoned = true;
        }
    }

    fn catch_up(&mut self, file: &mut File) -> Result<(), JournalError> {
        let meta = file.metadata().map_err(|source| self.io("inspect", source))?;
        let id = (meta.dev(), meta.ino());
        if id != self.known.file || meta.len() < self.known.cursor.bytes {
            self.known = Known { file: id, ..Known::nothing() };
        }
        if meta.len() == self.known.cursor.bytes {
            return Ok(());
        }
        file.seek(SeekFrom::Start(self.known.cursor.bytes)).map_err(|source| self.io("seek in", source))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|source| self.io("read", source))?;
        let first = self.known.cursor.line;
        let (records, cursor) = self
            .known
            .cursor
            .clone()
            .read(&bytes)
            .map_err(|damage| JournalError::Corrupt { path: self.path.clone(), damage })?;
        let mut state = self.known.state.clone();
        for (offset, record) in records.iter().enumerate() {
            let impossible =
                |illegal| JournalError::Impossible { path: self.path.clone(), line: first + offset as u64, illegal };
            state = state.next(record).map_err(impossible)?;
        }
        self.known.cursor = cursor;
        self.known.state = state;
        Ok(())
    }

    /// The lock lives beside the journal, because rotation replaces the file.
    fn lock(&self) -> Result<File, JournalError> {
        let path = with_suffix(&self.path, "lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| io("open", &path, source))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|errno| io("lock", &path, errno.into()))?;
        Ok(file)
    }

    fn open_for_append(&self) -> Result<File, JournalError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        match options.open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => return other.map_err(|source| self.io("open", source)),
        }
        let file = options.create(true).open(&self.path).map_err(|source| self.io("create", source))?;
        sync_folder(&self.path)?;
        Ok(file)
    }

    /// Puts the file aside and begins a new one that carries the state over.
    /// A crash leaves the old file or the new one, both complete.
    fn rotate(&mut self, at: &Moment) -> Result<File, JournalError> {
        let Some(head) = self.known.state.head(self.known.cursor.sum.clone()) else {
            return self.open_for_append();
        };
        let record = Record {
            attempt: self.known.state.attempt.as_ref().map_or(AttemptId(0), |attempt| attempt.id),
            at: at.clone(),
            writer: Writer::Watch,
            entry: Entry::Head(Box::new(head)),
        };
        let (line, _) = Cursor::start().encode(&record).map_err(JournalError::Encode)?;
        let fresh = with_suffix(&self.path, "new");
        std::fs::write(&fresh, line).map_err(|source| io("write", &fresh, source))?;
        let mut file =
            OpenOptions::new().read(true).write(true).open(&fresh).map_err(|source| io("open", &fresh, source))?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o600))
            .map_err(|errno| io("protect", &fresh, errno.into()))?;
        file.sync_all().map_err(|source| io("sync", &fresh, source))?;
        let kept = with_suffix(&self.path, &format!("{:06}", self.files()?.len()));
        match std::fs::hard_link(&self.path, &kept) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(io("keep", &kept, error));
            }
            _ => {}
        }
        std::fs::rename(&fresh, &self.path).map_err(|source| self.io("replace", source))?;
        sync_folder(&self.path)?;
        self.catch_up(&mut file)?;
        Ok(file)
    }

    /// The kept files in order, then the present one if it exists. A crash in
    /// the middle of a rotation leaves the present file under both names.
    fn files(&self) -> Result<Vec<PathBuf>, JournalError> {
        let identity = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
        let mut files: Vec<PathBuf> = (1..)
            .map(|number| with_suffix(&self.path, &format!("{number:06}")))
            .take_while(|path| path.exists())
            .collect();
        if files.last().is_some_and(|last| identity(last) == identity(&self.path)) {
            files.pop();
        }
        if self.path.try_exists().map_err(|source| self.io("find", source))? {
            files.push(self.path.clone());
        }
        Ok(files)
    }

    fn io(&self, action: &'static str, source: std::io::Error) -> JournalError {
        io(action, &self.path, source)
    }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> JournalError {
    JournalError::Io { action, path: path.to_owned(), source }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(".");
    text.push(suffix);
    PathBuf::from(text)
}

fn sync_folder(path: &Path) -> Result<(), JournalError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|file| file.sync_all()).map_err(|source| io("sync", folder, source))
}
