//! The Merkle tree over the records (RFC 6962, section 2.1). *Pure.*
//!
//! Leaf `n` is row `n + 1`: `SHA-256(0x00 || record)`, where the record is the
//! pre-image of the row's chain hash, so one entry proves both.
//!
//! `frontier` grows the tree, `proof` makes and checks proofs, `tile` is how
//! hashes and entries lie in files (C2SP tlog-tiles).

mod frontier;
mod proof;
#[cfg(test)]
mod tests;
mod tile;

pub use frontier::{FRONTIER_HASHES_MAX, Frontier, FrontierError};
pub use proof::{
    CONSISTENCY_HASHES_MAX, HashSource, Node, ProofError, consistency, inclusion, root_at, verify_consistency,
    verify_inclusion,
};
pub use tile::{
    BundleError, Edge, TILE_HASHES, TILE_HEIGHT, Tile, TileError, TileId, TilePath, TileStore, Tiles, decode_bundle,
    encode_entry, partial_tiles,
};

use std::fmt;

use data_encoding::BASE64;
use sha2::{Digest, Sha256};

/// Length of a hash of the tree, in bytes.
pub const HASH_BYTES: usize = 32;

/// A hash of the tree: of a leaf, of an inner node, or a root.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeHash([u8; HASH_BYTES]);

impl TreeHash {
    /// What the entry of a leaf begins with.
    pub(crate) const LEAF: u8 = 0;

    /// A hash from its bytes.
    #[must_use]
    pub const fn new(bytes: [u8; HASH_BYTES]) -> Self {
        Self(bytes)
    }

    /// The root of the tree without leaves: `SHA-256("")`.
    #[must_use]
    pub fn of_nothing() -> Self {
        Self(Sha256::digest([]).into())
    }

    /// The hash of a leaf.
    #[must_use]
    pub fn of_leaf(record: &[u8]) -> Self {
        Self(Sha256::new().chain_update([Self::LEAF]).chain_update(record).finalize().into())
    }

    /// The hash of a leaf, from [`TreeHash::LEAF`] and the record in one piece.
    pub(crate) fn of_entry(entry: &[u8]) -> Self {
        Self(Sha256::digest(entry).into())
    }

    /// The hash of an inner node.
    #[must_use]
    pub fn of_node(left: &Self, right: &Self) -> Self {
        let mut bytes = [1; 1 + 2 * HASH_BYTES];
        bytes[1..=HASH_BYTES].copy_from_slice(&left.0);
        bytes[1 + HASH_BYTES..].copy_from_slice(&right.0);
        Self(Sha256::digest(bytes).into())
    }

    /// Takes exactly 32 bytes; `None` for any other length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Reads standard base64 with padding, in its one canonical spelling.
    #[must_use]
    pub fn from_base64(text: &str) -> Option<Self> {
        Self::from_slice(&crate::base64::decode(text)?)
    }

    /// Standard base64 with padding.
    #[must_use]
    pub fn to_base64(&self) -> String {
        BASE64.encode(&self.0)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }
}

impl fmt::Display for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64())
    }
}

impl fmt::Debug for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreeHash({})", &self.to_base64()[..8])
    }
}

impl serde::Serialize for TreeHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for TreeHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::from_base64(&text).ok_or_else(|| serde::de::Error::custom("not the base64 of 32 bytes"))
    }
}
