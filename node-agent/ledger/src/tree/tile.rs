//! How hashes and entries lie in files: C2SP tlog-tiles, height 8. *Pure.*
//!
//! A tile is up to 256 hashes of one level in a row; a full one never changes.
//! Nothing here is trusted: whoever reads tiles checks what they prove against
//! a root that he has from elsewhere.

use std::collections::HashMap;
use std::fmt;

use super::proof::{HashSource, Node};
use super::{Frontier, HASH_BYTES, TreeHash};

/// Levels of the tree in one tile (C2SP tlog-tiles).
pub const TILE_HEIGHT: u32 = 8;

/// Hashes in a full tile: 2^[`TILE_HEIGHT`], 8 KiB.
pub const TILE_HASHES: usize = 1 << TILE_HEIGHT;

/// Tiles kept by a [`Tiles`] reader. A proof touches at most eight levels, one
/// or two tiles each; more would only be memory.
const TILES_KEPT_MAX: usize = 64;

/// Which tile: number `index` of level `level` (0 has the leaves, 1 the roots
/// of full tiles of level 0, and so on).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TileId {
    /// The level, 0 to 7 for any tree of 64 bits.
    pub level: u32,
    /// The number within the level.
    pub index: u64,
}

/// Where a tile or an entry bundle lies below the folder of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TilePath {
    /// Hashes; `width` of them, all 256 or fewer.
    Hashes(TileId, usize),
    /// Entries: number of the bundle, and how many it has.
    Entries(u64, usize),
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, width) = match self {
            TilePath::Hashes(id, width) => {
                write!(f, "tile/{}/", id.level)?;
                (id.index, *width)
            }
            TilePath::Entries(index, width) => {
                f.write_str("tile/entries/")?;
                (*index, *width)
            }
        };
        let mut groups = vec![index % 1000];
        let mut rest = index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for group in groups[1..].iter().rev() {
            write!(f, "x{group:03}/")?;
        }
        write!(f, "{:03}", groups[0])?;
        if width < TILE_HASHES { write!(f, ".p/{width}") } else { Ok(()) }
    }
}

/// The hashes of a tile, full or not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tile(Vec<TreeHash>);

impl Tile {
    /// A tile of these hashes; `None` for more than 256.
    #[must_use]
    pub fn new(hashes: Vec<TreeHash>) -> Option<Self> {
        (hashes.len() <= TILE_HASHES).then_some(Self(hashes))
    }

    /// Reads the bytes of a tile file; `None` unless they are `width` hashes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8], width: usize) -> Option<Self> {
        let is_right = width <= TILE_HASHES && bytes.len() == width * HASH_BYTES;
        is_right.then(|| Self(bytes.chunks_exact(HASH_BYTES).filter_map(TreeHash::from_slice).collect()))
    }

    /// The bytes of the tile's file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|hash| *hash.as_bytes()).collect()
    }

    /// The hashes.
    #[must_use]
    pub fn hashes(&self) -> &[TreeHash] {
        &self.0
    }

    /// The hash over `1 << height` hashes from `from`; `None` when not all are there.
    fn subtree(&self, from: usize, height: u32) -> Option<TreeHash> {
        let mut row = self.0.get(from..from + (1 << height))?.to_vec();
        while row.len() > 1 {
            row = row.chunks_exact(2).map(|pair| TreeHash::of_node(&pair[0], &pair[1])).collect();
        }
        row.first().copied()
    }

    /// The root of a full tile; `None` of any other.
    #[must_use]
    pub fn root(&self) -> Option<TreeHash> {
        self.subtree(0, TILE_HEIGHT)
    }
}

/// The right edge of the tiles: the hashes of each level that fill no tile yet.
///
/// Invariant: level `l` has `(size >> 8·l) % 256` hashes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edge {
    size: u64,
    rows: Vec<Vec<TreeHash>>,
}

impl Edge {
    /// The edge of the tree without leaves.
    #[must_use]
    pub const fn new() -> Self {
        Self { size: 0, rows: Vec::new() }
    }

    /// The edge of the tree of `size` leaves, from tiles that reach at least so far.
    ///
    /// # Errors
    /// As the store; [`TileError::Short`] when a tile has too few hashes.
    pub fn at<S: TileStore>(store: &mut S, size: u64) -> Result<Self, TileError<S::Error>> {
        let mut rows = vec![Vec::new(); levels(size)];
        for (id, width) in partial_tiles(size) {
            let tile = store.tile(id, width).map_err(TileError::Store)?;
            let row = tile.hashes().get(..width).ok_or(TileError::Short { id })?;
            rows[id.level as usize] = row.to_vec();
        }
        Ok(Self { size, rows })
    }

    /// Number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf and hands each tile that became full to `full`, lowest first.
    pub fn append<E>(&mut self, leaf: TreeHash, mut full: impl FnMut(TileId, &Tile) -> Result<(), E>) -> Result<(), E> {
        self.size += 1;
        let mut hash = leaf;
        for level in 0.. {
            if self.rows.len() == level {
                self.rows.push(Vec::with_capacity(TILE_HASHES));
            }
            self.rows[level].push(hash);
            if self.rows[level].len() < TILE_HASHES {
                break;
            }
            let tile = Tile(std::mem::take(&mut self.rows[level]));
            let height = TILE_HEIGHT * (level as u32 + 1);
            let index = self.size.checked_shr(height).unwrap_or(0).saturating_sub(1);
            full(TileId { level: level as u32, index }, &tile)?;
            let Some(root) = tile.root() else { break };
            hash = root;
        }
        Ok(())
    }

    /// The partial tiles of the edge, none of them empty.
    pub fn partial(&self) -> impl Iterator<Item = (TileId, Tile)> + '_ {
        self.rows.iter().enumerate().filter(|(_, row)| !row.is_empty()).map(|(level, row)| {
            let index = self.size.checked_shr(TILE_HEIGHT * (level as u32 + 1)).unwrap_or(0);
            (TileId { level: level as u32, index }, Tile(row.clone()))
        })
    }

    /// The row of a level.
    #[must_use]
    pub fn row(&self, level: u32) -> &[TreeHash] {
        self.rows.get(level as usize).map_or(&[], Vec::as_slice)
    }

    /// The root over all leaves.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        self.frontier().root()
    }

    /// The same tree as a frontier.
    #[must_use]
    pub fn frontier(&self) -> Frontier {
        let mut hashes = Vec::new();
        for (level, row) in self.rows.iter().enumerate().rev() {
            let tile = Tile(row.clone());
            let mut from = 0;
            for height in (0..TILE_HEIGHT).rev() {
                if (width(self.size, level) >> height) & 1 == 1 {
                    hashes.extend(tile.subtree(from, height));
                    from += 1 << height;
                }
            }
        }
        Frontier::from_hashes(self.size, hashes)
    }
}

/// How many hashes the level has beyond its full tiles.
fn width(size: u64, level: usize) -> usize {
    let shift = TILE_HEIGHT * level as u32;
    if shift >= u64::BITS { 0 } else { (size >> shift) as usize % TILE_HASHES }
}

/// How many levels have at least one hash.
fn levels(size: u64) -> usize {
    (u64::BITS - size.leading_zeros()).div_ceil(TILE_HEIGHT) as usize
}

/// The partial tiles that a checkpoint of `size` needs: ids and widths.
pub fn partial_tiles(size: u64) -> impl Iterator<Item = (TileId, usize)> {
    (0..levels(size)).filter_map(move |level| {
        let index = size.checked_shr(TILE_HEIGHT * (level as u32 + 1)).unwrap_or(0);
        let width = width(size, level);
        (width > 0).then_some((TileId { level: level as u32, index }, width))
    })
}

/// Where tiles come from: files, memory, a peer.
pub trait TileStore {
    /// Why a tile could not be had.
    type Error;

    /// The tile, with at least `width` hashes.
    ///
    /// # Errors
    /// When the store does not have it.
    fn tile(&mut self, id: TileId, width: usize) -> Result<Tile, Self::Error>;
}

/// A tile did not hold what a proof needs.
#[derive(Debug, thiserror::Error)]
pub enum TileError<E> {
    /// The store failed.
    #[error("a tile cannot be read")]
    Store(#[source] E),
    /// The tile has fewer hashes than it should.
    #[error("tile {level}/{index} is too short", level = id.level, index = id.index)]
    Short {
        /// Which tile.
        id: TileId,
    },
}

/// Hashes of subtrees, computed from tiles. Keeps a few tiles.
#[derive(Debug)]
pub struct Tiles<S> {
    store: S,
    kept: HashMap<TileId, Tile>,
}

impl<S: TileStore> Tiles<S> {
    /// Reads from that store.
    #[must_use]
    pub fn new(store: S) -> Self {
        Self { store, kept: HashMap::new() }
    }
}

impl<S: TileStore> HashSource for Tiles<S> {
    type Error = TileError<S::Error>;

    fn hash(&mut self, node: Node) -> Result<TreeHash, Self::Error> {
        let (level, height) = (node.level / TILE_HEIGHT, node.level % TILE_HEIGHT);
        let first = node.index << height;
        let id = TileId { level, index: first >> TILE_HEIGHT };
        let from = (first % TILE_HASHES as u64) as usize;
        let short = || TileError::Short { id };
        if let Some(hash) = self.kept.get(&id).and_then(|tile| tile.subtree(from, height)) {
            return Ok(hash);
        }
        let tile = self.store.tile(id, from + (1 << height)).map_err(TileError::Store)?;
        let hash = tile.subtree(from, height).ok_or_else(short)?;
        if self.kept.len() >= TILES_KEPT_MAX {
            self.kept.clear();
        }
        self.kept.insert(id, tile);
        Ok(hash)
    }
}

/// Bytes are no entry bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the entry bundle ends inside an entry")]
pub struct BundleError;

/// Adds an entry to a bundle: its length as 16 bits, big-endian, and its bytes.
///
/// # Errors
/// [`BundleError`] when it is longer than 65,535 bytes; rule L3 keeps records below.
pub fn encode_entry(bundle: &mut Vec<u8>, record: &[u8]) -> Result<(), BundleError> {
    let length = u16::try_from(record.len()).map_err(|_| BundleError)?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(record);
    Ok(())
}

/// The entries of a bundle, in order.
///
/// # Errors
/// [`BundleError`] when the bytes end inside an entry.
pub fn decode_bundle(mut bytes: &[u8]) -> Result<Vec<&[u8]>, BundleError> {
    let mut entries = Vec::with_capacity(TILE_HASHES);
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<2>().ok_or(BundleError)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let entry = rest.get(..length).ok_or(BundleError)?;
        entries.push(entry);
        bytes = &rest[length..];
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let path = |level, index, width| TilePath::Hashes(TileId { level, index }, width).to_string();
        assert_eq!(path(0, 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(path(1, 17, 5), "tile/1/017.p/5");
        assert_eq!(TilePath::Entries(1000, 256).to_string(), "tile/entries/x001/000");
    }

    #[test]
    fn a_tree_of_70000_has_the_partial_tiles_of_the_specification() {
        let tiles: Vec<_> = partial_tiles(70_000).map(|(id, width)| (id.level, id.index, width)).collect();
        assert_eq!(tiles, [(0, 273, 112), (1, 1, 17), (2, 0, 1)]);
        assert_eq!(partial_tiles(256).map(|(id, width)| (id.level, id.index, width)).collect::<Vec<_>>(), [(1, 0, 1)]);
    }

    #[test]
    fn bundles_come_back_and_torn_ones_are_refused() {
        let mut bundle = Vec::new();
        for entry in [&b"a"[..], b"", &[7; 65_535]] {
            encode_entry(&mut bundle, entry).unwrap();
        }
        assert_eq!(decode_bundle(&bundle).unwrap(), [&b"a"[..], b"", &[7; 65_535]]);
        assert_eq!(decode_bundle(&bundle[..bundle.len() - 1]), Err(BundleError));
        assert_eq!(encode_entry(&mut bundle, &[0; 65_536]), Err(BundleError));
    }
}
