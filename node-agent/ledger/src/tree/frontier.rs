//! The right frontier: all of a tree that appending needs. *Pure.*
//!
//! Invariant: for a tree of `size` leaves it holds one hash per set bit of
//! `size`, the largest complete subtree first.

use super::{HASH_BYTES, TreeHash};

/// Most hashes a frontier has: one per bit of the size.
pub const FRONTIER_HASHES_MAX: usize = 64;

/// Stored bytes are no frontier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frontier of {size} leaves has {expected} hashes, not {bytes} bytes")]
pub struct FrontierError {
    size: u64,
    expected: u32,
    bytes: usize,
}

/// A growing tree, without the leaves it has passed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    hashes: Vec<TreeHash>,
}

impl Frontier {
    /// The tree without leaves.
    #[must_use]
    pub const fn new() -> Self {
        Self { size: 0, hashes: Vec::new() }
    }

    /// Number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf. Costs two hashes on average.
    pub fn append(&mut self, leaf: TreeHash) {
        let mut hash = leaf;
        // Each trailing one of the old size is a complete subtree as large as the new one.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.hashes.pop() {
                hash = TreeHash::of_node(&left, &hash);
            }
        }
        self.hashes.push(hash);
        self.size += 1;
    }

    /// The root over all leaves.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        let mut from_right = self.hashes.iter().rev();
        let Some(last) = from_right.next() else { return TreeHash::of_nothing() };
        from_right.fold(*last, |right, left| TreeHash::of_node(left, &right))
    }

    pub(super) fn from_hashes(size: u64, hashes: Vec<TreeHash>) -> Self {
        Self { size, hashes }
    }

    /// The hashes, largest subtree first.
    #[must_use]
    pub fn hashes(&self) -> &[TreeHash] {
        &self.hashes
    }

    /// The hashes in a row, as they are stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
    }

    /// Reads what [`Frontier::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`FrontierError`] when the length does not fit the size. Whether the
    /// hashes are right only the leaves can tell.
    pub fn from_bytes(size: u64, bytes: &[u8]) -> Result<Self, FrontierError> {
        let expected = size.count_ones();
        if bytes.len() != expected as usize * HASH_BYTES {
            return Err(FrontierError { size, expected, bytes: bytes.len() });
        }
        let hashes = bytes.chunks_exact(HASH_BYTES).filter_map(TreeHash::from_slice).collect();
        Ok(Self { size, hashes })
    }
}
