//! A ledger in a folder, as it is handed over: C2SP tiles and entry bundles, the
//! newest checkpoints, a policy, and what witnesses said they hold.
//!
//! ```text
//! checkpoint          the newest, with its cosignatures
//! covered             the newest that enough witnesses cosigned, where it is another
//! policy              whose word is enough (C2SP tlog-policy)
//! heads/NAME          what a witness holds
//! retained            where the rows begin, when older ones were dropped
//! tile/L/…            hashes      tile/entries/…   records
//! ```
//! The only file of this crate that does I/O; it blocks. A reader believes
//! nothing of it: each hash is computed again from the records.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::audit::{Auditor, Base, Shown};
use crate::checkpoint::Checkpoint;
use crate::look::Batch;
use crate::note::{NOTE_BYTES_MAX, Note, NoteError};
use crate::policy::{POLICY_BYTES_MAX, Policy, PolicyError};
use crate::record::{ChainHash, Head, Row};
use crate::tree::{
    Edge, TILE_HASHES, TILE_HEIGHT, Tile, TileId, TilePath, TileStore, Tiles, TreeHash, decode_bundle, encode_entry,
};
use crate::verify::Fault;
use crate::walk::{Threads, walk};

/// Largest file read, in bytes: a bundle of 256 records of 64 KiB.
const FILE_BYTES_MAX: u64 = 17 << 20;

/// Most notes of witnesses read.
const HEADS_MAX: usize = 256;

/// A folder cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that should be a signed note is none.
    #[error("{} is no signed note", path.display())]
    Note {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: NoteError,
    },
    /// The policy is none.
    #[error("the policy cannot be read")]
    Policy(#[source] PolicyError),
    /// A file has not the form it should have.
    #[error("{} is not what it should be: {what}", path.display())]
    Form {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
}

/// Writes a folder, record by record.
#[derive(Debug)]
pub struct ExportWriter {
    dir: PathBuf,
    edge: Edge,
    bundle: Vec<u8>,
}

impl ExportWriter {
    /// Makes the folder, which must not exist or be empty. With a base, `tiles`
    /// gives the hashes of the rows that were dropped.
    ///
    /// # Errors
    /// [`ExportError::Io`].
    pub fn new(dir: &Path, base: Option<(&Base, Edge)>) -> Result<Self, ExportError> {
        let failed = |source| ExportError::Io { path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        if fs::read_dir(dir).map_err(failed)?.next().is_some() {
            return Err(failed(io::ErrorKind::AlreadyExists.into()));
        }
        let mut writer = Self { dir: dir.to_owned(), edge: Edge::new(), bundle: Vec::new() };
        if let Some((base, edge)) = base {
            let text = format!("rows {}\nchain {}\nts {}\n", base.head.size, base.head.hash, base.ts);
            writer.edge = edge;
            writer.put("retained", text.as_bytes())?;
        }
        Ok(writer)
    }

    /// Adds the record of the next row.
    ///
    /// # Errors
    /// [`ExportError::Io`]; [`ExportError::Form`] for a record that is too long.
    pub fn push(&mut self, record: &[u8]) -> Result<(), ExportError> {
        let number = self.edge.size() / TILE_HASHES as u64;
        encode_entry(&mut self.bundle, record)
            .map_err(|_| ExportError::Form { path: self.dir.clone(), what: "a record is too long" })?;
        let dir = self.dir.clone();
        self.edge.append(TreeHash::of_leaf(record), |id, tile| {
            put(&dir, &TilePath::Hashes(id, TILE_HASHES).to_string(), &tile.to_bytes())
        })?;
        if self.edge.size().is_multiple_of(TILE_HASHES as u64) {
            self.put(&TilePath::Entries(number, TILE_HASHES).to_string(), &self.bundle)?;
            self.bundle.clear();
        }
        Ok(())
    }

    /// How many rows are in it.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Writes what is not full, the notes and the policy.
    ///
    /// # Errors
    /// [`ExportError::Io`].
    pub fn finish(self, newest: &Note, covered: Option<&Note>, policy: &Policy) -> Result<(), ExportError> {
        let rest = self.edge.row(0).len();
        if rest > 0 {
            let number = self.edge.size() / TILE_HASHES as u64;
            self.put(&TilePath::Entries(number, rest).to_string(), &self.bundle)?;
        }
        for (id, tile) in self.edge.partial() {
            self.put(&TilePath::Hashes(id, tile.hashes().len()).to_string(), &tile.to_bytes())?;
        }
        self.put("checkpoint", newest.to_string().as_bytes())?;
        if let Some(covered) = covered {
            self.put("covered", covered.to_string().as_bytes())?;
        }
        self.put("policy", policy.to_string().as_bytes())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        put(&self.dir, name, bytes)
    }
}

fn put(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
    let path = dir.join(name);
    let written = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, bytes)
    };
    written().map_err(|source| ExportError::Io { path: path.clone(), source })
}

/// A folder that is read.
#[derive(Debug)]
pub struct Export {
    dir: PathBuf,
    newest: Note,
    size: u64,
    covered: Option<Note>,
    heads: Vec<Note>,
    threads: Threads,
    /// The policy that lies in the folder: whoever made the folder chose it.
    pub policy: Option<Policy>,
}

impl Export {
    /// Reads everything but the rows.
    ///
    /// # Errors
    /// Each [`ExportError`].
    pub fn open(dir: &Path) -> Result<Self, ExportError> {
        let note = |path: &Path| -> Result<Option<Note>, ExportError> {
            let Some(bytes) = read(path, NOTE_BYTES_MAX as u64)? else { return Ok(None) };
            let note = Note::parse(&bytes).map_err(|source| ExportError::Note { path: path.to_owned(), source })?;
            Ok(Some(note))
        };
        let path = dir.join("checkpoint");
        let newest = note(&path)?.ok_or_else(|| missing(&path))?;
        let form = |what| ExportError::Form { path: path.clone(), what };
        let checkpoint = Checkpoint::parse(newest.text()).map_err(|_| form("no checkpoint"))?;
        let covered = note(&dir.join("covered"))?;
        let mut heads = Vec::new();
        if let Ok(entries) = fs::read_dir(dir.join("heads")) {
            for entry in entries.take(HEADS_MAX) {
                let path = entry.map_err(|source| ExportError::Io { path: dir.join("heads"), source })?.path();
                heads.extend(note(&path)?);
            }
        }
        let policy = match read(&dir.join("policy"), POLICY_BYTES_MAX as u64)? {
            None => None,
            Some(bytes) => Some(Policy::parse(&String::from_utf8_lossy(&bytes)).map_err(ExportError::Policy)?),
        };
        Ok(Self { dir: dir.to_owned(), newest, size: checkpoint.size, covered, heads, threads: Threads::Two, policy })
    }

    /// Adds what witnesses say they hold, from elsewhere.
    pub fn hold(&mut self, heads: Vec<Note>) {
        self.heads.extend(heads);
    }

    /// Walks on that many threads; two, unless somebody compares.
    #[must_use]
    pub const fn on(mut self, threads: Threads) -> Self {
        self.threads = threads;
        self
    }

    /// What the folder shows.
    #[must_use]
    pub fn shown(&self) -> Shown {
        let own = std::iter::once(&self.newest).chain(&self.covered).cloned().collect();
        Shown { own, held: self.heads.clone() }
    }

    /// Walks all rows: each record is hashed again, and each tile compared.
    /// [`Auditor::finish`] gives the verdict.
    ///
    /// # Errors
    /// [`ExportError`] when a file is missing or is none of ours. A file that
    /// lies is a fault and no error.
    pub fn audit(&self, policy: Option<Policy>, found: impl FnMut(Fault)) -> Result<Auditor, ExportError> {
        self.audit_seeing(policy, found, |_| {})
    }

    /// The same, and shows each row to `seen`, in order, whatever is wrong with it.
    ///
    /// # Errors
    /// As [`Export::audit`].
    pub fn audit_seeing(
        &self,
        policy: Option<Policy>,
        mut found: impl FnMut(Fault),
        mut seen: impl FnMut(&Row<'_>),
    ) -> Result<Auditor, ExportError> {
        let base = self.base()?;
        let mut edge = match &base {
            None => Edge::new(),
            Some(base) => self.edge(base.head.size)?,
        };
        let first = base.as_ref().map_or(0, |base| base.head.size);
        let mut auditor = Auditor::new(policy, self.shown(), base);
        let mut wrong_tiles = 0_u64;
        let mut number = first / TILE_HASHES as u64;
        let fill = |batch: &mut Batch| {
            while number * (TILE_HASHES as u64) < self.size && !batch.is_full() {
                self.bundle(number, batch)?;
                number += 1;
            }
            Ok(number * (TILE_HASHES as u64) < self.size)
        };
        walk(self.threads, fill, |row, looked| {
            seen(row);
            let leaf = auditor.take(row, looked, &mut found);
            edge.append(leaf, |id, tile| {
                wrong_tiles += u64::from(!self.has(TilePath::Hashes(id, TILE_HASHES), tile)?);
                Ok(())
            })
        })?;
        for (id, tile) in edge.partial() {
            wrong_tiles += u64::from(!self.has(TilePath::Hashes(id, tile.hashes().len()), &tile)?);
        }
        if wrong_tiles > 0 {
            auditor.tell_wrong_tree();
        }
        auditor.look_below(&mut Tiles::new(self));
        Ok(auditor)
    }

    /// The records of one bundle.
    fn bundle(&self, number: u64, batch: &mut Batch) -> Result<(), ExportError> {
        let width = (self.size - number * TILE_HASHES as u64).min(TILE_HASHES as u64) as usize;
        let path = self.dir.join(TilePath::Entries(number, width).to_string());
        let bytes = read(&path, FILE_BYTES_MAX)?.ok_or_else(|| missing(&path))?;
        let form = |what| ExportError::Form { path: path.clone(), what };
        let records = decode_bundle(&bytes).map_err(|_| form("it ends inside a record"))?;
        if records.len() != width {
            return Err(form("it has another number of records"));
        }
        records.into_iter().try_for_each(|record| {
            batch.push_record(record).then_some(()).ok_or_else(|| form("a record cannot be read"))
        })
    }

    fn has(&self, path: TilePath, tile: &Tile) -> Result<bool, ExportError> {
        let bytes = read(&self.dir.join(path.to_string()), FILE_BYTES_MAX)?;
        Ok(bytes.is_some_and(|bytes| bytes == tile.to_bytes()))
    }

    fn base(&self) -> Result<Option<Base>, ExportError> {
        let path = self.dir.join("retained");
        let Some(bytes) = read(&path, NOTE_BYTES_MAX as u64)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines();
        let mut word = |mark: &str| lines.next().and_then(|line| line.strip_prefix(mark)).map(str::to_owned);
        let parts = (word("rows "), word("chain "), word("ts "));
        let (Some(rows), Some(chain), Some(ts)) = parts else {
            return Err(ExportError::Form { path, what: "not rows, chain and ts" });
        };
        let size = crate::checkpoint::decimal(&rows).filter(|size| size.is_multiple_of(TILE_HASHES as u64));
        let (Some(size), Some(hash)) = (size, ChainHash::from_stored(chain.as_bytes())) else {
            return Err(ExportError::Form { path, what: "not a whole number of tiles, or no chain hash" });
        };
        let tree = self.edge(size)?.frontier();
        Ok(Some(Base { head: Head { size, hash }, ts, tree }))
    }

    fn edge(&self, size: u64) -> Result<Edge, ExportError> {
        Edge::at(&mut &*self, size)
            .map_err(|_| ExportError::Form { path: self.dir.clone(), what: "tiles of dropped rows are missing" })
    }
}

impl TileStore for &Export {
    type Error = ExportError;

    fn tile(&mut self, id: TileId, _width: usize) -> Result<Tile, ExportError> {
        let full = self.size.checked_shr(TILE_HEIGHT * (id.level + 1)).unwrap_or(0);
        let shift = TILE_HEIGHT * id.level;
        let width = if id.index < full {
            TILE_HASHES
        } else {
            (self.size.checked_shr(shift).unwrap_or(0) % TILE_HASHES as u64) as usize
        };
        let path = self.dir.join(TilePath::Hashes(id, width).to_string());
        let bytes = read(&path, FILE_BYTES_MAX)?.ok_or_else(|| missing(&path))?;
        Tile::from_bytes(&bytes, width).ok_or(ExportError::Form { path, what: "not as many hashes as its name says" })
    }
}

fn missing(path: &Path) -> ExportError {
    ExportError::Io { path: path.to_owned(), source: io::ErrorKind::NotFound.into() }
}

/// Reads a file of at most so many bytes; `None` when it is absent.
fn read(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, ExportError> {
    let failed = |source| ExportError::Io { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > bytes_max => Err(failed(io::ErrorKind::FileTooLarge.into())),
        Ok(_) => fs::read(path).map(Some).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}
