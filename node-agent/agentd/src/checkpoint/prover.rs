//! Tiles on disk, and proofs made from them.
//!
//! Full tiles lie as plain files behind the commit (C2SP tlog-tiles), for proofs
//! and for handing over. They are made again from the rows whenever they are not
//! what they should be, and never trusted: a proof is checked against a root
//! that comes from the rows before it is handed out.
//!
//! Blocks; callers run it off the async threads.

use std::io;
use std::path::{Path, PathBuf};

use osmoda_ledger::tree::{
    Edge, ProofError, TILE_HASHES, Tile, TileError, TileId, TilePath, TileStore, Tiles, TreeHash, consistency,
    inclusion, root_at, verify_consistency, verify_inclusion,
};

use crate::ledger::file::{FileError, LedgerFile};

/// Name of the folder with tiles, in the daemon's state folder.
pub const TILES_FOLDER: &str = "tiles";

/// A proof cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// It is about rows that are not there.
    #[error("the ledger has {have} rows, the proof is about {asked}")]
    NotThere {
        /// Rows there are.
        have: u64,
        /// Rows asked for.
        asked: u64,
    },
    /// The ledger cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A tile cannot be written or read.
    #[error("cannot use the tile {}", path.display())]
    Tile {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A tile is too short.
    #[error("a tile is too short")]
    Short,
    /// The proof that the tiles give does not hold.
    #[error("the tiles are not those of the rows")]
    Wrong(#[from] ProofError),
}

/// A proof that a row is in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inclusion {
    /// The leaf of the row.
    pub leaf: TreeHash,
    /// The root of the tree.
    pub root: TreeHash,
    /// The siblings, from the leaf up.
    pub hashes: Vec<TreeHash>,
}

/// A proof that one tree is the beginning of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consistency {
    /// The root of the older.
    pub old: TreeHash,
    /// The root of the newer.
    pub new: TreeHash,
    /// The proof.
    pub hashes: Vec<TreeHash>,
}

/// The tiles, as far as they were made.
#[derive(Debug)]
pub struct TileFolder {
    dir: PathBuf,
    edge: Edge,
    /// The edge of the rows that were dropped: tiles before it are not made
    /// again, because nothing is left to make them from.
    base: Edge,
}

impl TileFolder {
    /// A folder of which nothing is known yet.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self::at(dir, Edge::new())
    }

    /// A folder that has the full tiles before `base`, whose rows were dropped.
    #[must_use]
    pub fn at(dir: PathBuf, base: Edge) -> Self {
        Self { dir, edge: base.clone(), base }
    }

    /// How many leaves it covers.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.edge.size()
    }

    /// The root over them, computed from the leaves and not from the files.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        self.edge.root()
    }

    /// Adds a leaf; a tile that is full is compared with its file, which is
    /// written when it is another one.
    ///
    /// # Errors
    /// [`ProveError::Tile`]; the leaf is in all the same.
    pub fn append(&mut self, leaf: TreeHash) -> Result<(), ProveError> {
        let dir = &self.dir;
        self.edge.append(leaf, |id, tile| {
            let path = dir.join(TilePath::Hashes(id, TILE_HASHES).to_string());
            write(&path, &tile.to_bytes()).map_err(|source| ProveError::Tile { path, source })
        })
    }
}

/// Reads what is full from files and the rest from memory.
impl TileStore for &TileFolder {
    type Error = ProveError;

    fn tile(&mut self, id: TileId, width: usize) -> Result<Tile, ProveError> {
        let row = self.edge.row(id.level);
        let is_edge = self.edge.partial().any(|(edge, _)| edge == id);
        if is_edge {
            return Tile::new(row.to_vec()).filter(|tile| tile.hashes().len() >= width).ok_or(ProveError::Short);
        }
        let path = self.dir.join(TilePath::Hashes(id, TILE_HASHES).to_string());
        let bytes = std::fs::read(&path).map_err(|source| ProveError::Tile { path, source })?;
        Tile::from_bytes(&bytes, TILE_HASHES).ok_or(ProveError::Short)
    }
}

/// Makes proofs.
#[derive(Debug)]
pub struct Prover {
    file: LedgerFile,
    folder: TileFolder,
}

impl Prover {
    /// Takes a folder as far as it was made while the rows were walked.
    #[must_use]
    pub fn new(file: LedgerFile, folder: TileFolder) -> Self {
        Self { file, folder }
    }

    /// Makes the tiles up to `size` rows and returns the root over exactly
    /// these, or over more if there are more already.
    ///
    /// # Errors
    /// [`ProveError::NotThere`], [`ProveError::File`], [`ProveError::Tile`].
    pub fn advance(&mut self, size: u64) -> Result<(u64, TreeHash), ProveError> {
        let Self { file, folder } = self;
        let mut failed = None;
        file.leaves(folder.size(), size, |leaf| {
            // A tile that cannot be written is wanted only by a proof; the edge goes on.
            failed = failed.take().or(folder.append(leaf).err());
            Ok::<_, ProveError>(())
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if folder.size() < size {
            return Err(ProveError::NotThere { have: folder.size(), asked: size });
        }
        Ok((folder.size(), folder.root()))
    }

    /// The proof that row `id` is in the tree of the first `size` rows.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn inclusion(&mut self, id: u64, size: u64) -> Result<Inclusion, ProveError> {
        if id == 0 || id > size {
            return Err(ProveError::NotThere { have: size, asked: id });
        }
        self.checked(size, |prover| {
            let mut leaf = None;
            prover.file.leaves(id - 1, id, |hash| {
                leaf = Some(hash);
                Ok::<_, ProveError>(())
            })?;
            let leaf = leaf.ok_or(ProveError::NotThere { have: size, asked: id })?;
            let mut tiles = Tiles::new(&prover.folder);
            let root = root_at(&mut tiles, size).map_err(flat)?;
            let hashes = inclusion(&mut tiles, id - 1, size).map_err(flat)?;
            verify_inclusion(leaf, id - 1, size, &hashes, root)?;
            Ok(Inclusion { leaf, root, hashes })
        })
    }

    /// The proof that the first `from` rows are the beginning of the first `to`.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn consistency(&mut self, from: u64, to: u64) -> Result<Consistency, ProveError> {
        if from == 0 || from > to {
            return Err(ProveError::Wrong(ProofError::Sizes { from, to }));
        }
        self.checked(to, |prover| {
            let mut tiles = Tiles::new(&prover.folder);
            let (old, new) = (root_at(&mut tiles, from).map_err(flat)?, root_at(&mut tiles, to).map_err(flat)?);
            let hashes = consistency(&mut tiles, from, to).map_err(flat)?;
            verify_consistency(from, to, old, new, &hashes)?;
            Ok(Consistency { old, new, hashes })
        })
    }

    /// Makes a proof, and makes all tiles anew and tries once more when it does
    /// not hold or when the files do not give the root that the rows have.
    fn checked<T>(&mut self, size: u64, make: impl Fn(&Self) -> Result<T, ProveError>) -> Result<T, ProveError> {
        self.advance(size)?;
        let tried = self.files_are_right().and_then(|()| make(self));
        let Err(ProveError::Wrong(_) | ProveError::Short | ProveError::Tile { .. }) = &tried else { return tried };
        tracing::warn!("tiles are not those of the rows; making them anew");
        let to = self.folder.size();
        self.folder = TileFolder::at(self.folder.dir.clone(), self.folder.base.clone());
        self.advance(to)?;
        self.files_are_right()?;
        make(self)
    }

    /// Makes sure of every tile of the first `size` rows, a whole number of tiles,
    /// while the rows are there: right, and on disk. Returns the tree over them.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn settle(&mut self, size: u64) -> Result<Edge, ProveError> {
        let mut folder = TileFolder::at(self.folder.dir.clone(), self.folder.base.clone());
        let mut full = Vec::new();
        self.file.leaves(folder.size(), size, |leaf| {
            folder.append(leaf)?;
            if folder.size().is_multiple_of(TILE_HASHES as u64) {
                full.push(TilePath::Hashes(
                    TileId { level: 0, index: folder.size() / TILE_HASHES as u64 - 1 },
                    TILE_HASHES,
                ));
            }
            Ok::<_, ProveError>(())
        })?;
        if folder.size() != size {
            return Err(ProveError::NotThere { have: folder.size(), asked: size });
        }
        for path in full {
            let path = folder.dir.join(path.to_string());
            sync(&path).map_err(|source| ProveError::Tile { path, source })?;
        }
        Ok(folder.edge)
    }

    /// The rows up to `base` were dropped.
    pub fn begin_at(&mut self, base: Edge) {
        self.folder.base = base;
    }

    /// Whether the files lead to the root that was computed from the rows.
    fn files_are_right(&self) -> Result<(), ProveError> {
        let root = root_at(&mut Tiles::new(&self.folder), self.folder.size()).map_err(flat)?;
        if root == self.folder.root() { Ok(()) } else { Err(ProveError::Wrong(ProofError::Root)) }
    }
}

fn flat(error: TileError<ProveError>) -> ProveError {
    match error {
        TileError::Store(error) => error,
        TileError::Short { .. } => ProveError::Short,
    }
}

/// Makes a tile and its name durable. Those of higher levels are made again from
/// the lowest by whoever misses one.
fn sync(path: &Path) -> io::Result<()> {
    std::fs::File::open(path)?.sync_all()?;
    path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
}

/// Writes a tile unless its file is right. Not synced: what a power cut leaves
/// behind is compared at the next start.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if std::fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(&temporary, path)
}
