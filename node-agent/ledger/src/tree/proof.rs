//! Inclusion and consistency proofs (RFC 6962, sections 2.1.1 and 2.1.2), made
//! from any source of complete subtrees and checked with nothing but hashes.
//! *Pure.*
//!
//! The verification follows RFC 9162, sections 2.1.3.2 and 2.1.4.2, with the two
//! edge rules of `trust.md` 1.7: a consistency proof from size 0 is an error
//! (nothing is proven about nothing), and a hash has exactly 32 bytes (the type
//! says so).

use super::TreeHash;

/// Most hashes in a consistency proof (C2SP tlog-witness).
pub const CONSISTENCY_HASHES_MAX: usize = 63;

/// A complete subtree: the node at `level` (0 is a leaf) number `index`, over
/// the leaves `index << level .. (index + 1) << level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Node {
    /// Height of the subtree.
    pub level: u32,
    /// Its number among those of its level.
    pub index: u64,
}

/// Where hashes of complete subtrees come from.
pub trait HashSource {
    /// Why a hash could not be had.
    type Error;

    /// The hash of a complete subtree.
    ///
    /// # Errors
    /// When the source does not have it.
    fn hash(&mut self, node: Node) -> Result<TreeHash, Self::Error>;
}

/// A proof does not hold, or cannot exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The index is not below the size.
    #[error("leaf {index} is not in a tree of {size}")]
    Index {
        /// The leaf.
        index: u64,
        /// The tree.
        size: u64,
    },
    /// The sizes are no pair for a consistency proof.
    #[error("no consistency proof leads from size {from} to {to}")]
    Sizes {
        /// The older size.
        from: u64,
        /// The newer size.
        to: u64,
    },
    /// The proof has not as many hashes as its sizes ask for.
    #[error("the proof has {found} hashes, its sizes ask for another number")]
    Length {
        /// How many it has.
        found: usize,
    },
    /// The hashes do not lead to the root.
    #[error("the proof does not lead to the root")]
    Root,
}

/// The root of the tree of the first `size` leaves.
///
/// # Errors
/// As the source.
pub fn root_at<S: HashSource>(source: &mut S, size: u64) -> Result<TreeHash, S::Error> {
    if size == 0 {
        return Ok(TreeHash::of_nothing());
    }
    subtree(source, 0, size)
}

/// The hash over the leaves `start .. start + size`, where `start` is a multiple
/// of the next power of two of `size`.
fn subtree<S: HashSource>(source: &mut S, start: u64, size: u64) -> Result<TreeHash, S::Error> {
    if size.is_power_of_two() {
        let level = size.trailing_zeros();
        return source.hash(Node { level, index: start >> level });
    }
    let left = split(size);
    let hash = subtree(source, start, left)?;
    Ok(TreeHash::of_node(&hash, &subtree(source, start + left, size - left)?))
}

/// The largest power of two below `size`; `size` is at least 2.
const fn split(size: u64) -> u64 {
    1 << (u64::BITS - 1 - (size - 1).leading_zeros())
}

/// The proof that leaf `index` is in the tree of `size` leaves: the siblings
/// from the leaf up.
///
/// # Errors
/// As the source. An index that is not below the size gives an empty proof,
/// which [`verify_inclusion`] refuses.
pub fn inclusion<S: HashSource>(source: &mut S, index: u64, size: u64) -> Result<Vec<TreeHash>, S::Error> {
    let mut proof = Vec::new();
    if index >= size {
        return Ok(proof);
    }
    let (mut start, mut width) = (0, size);
    while width > 1 {
        let left = split(width);
        if index < start + left {
            proof.push(subtree(source, start + left, width - left)?);
            width = left;
        } else {
            proof.push(subtree(source, start, left)?);
            start += left;
            width -= left;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree of `from` leaves is the beginning of that of `to`.
///
/// # Errors
/// As the source. Sizes that are no pair (see [`verify_consistency`]) give an
/// empty proof.
pub fn consistency<S: HashSource>(source: &mut S, from: u64, to: u64) -> Result<Vec<TreeHash>, S::Error> {
    let mut proof = Vec::new();
    if from == 0 || from >= to {
        return Ok(proof);
    }
    let (mut start, mut width, mut is_whole) = (0, to, true);
    // Down to the subtree that ends exactly where the older tree does.
    while start + width != from {
        let left = split(width);
        if from <= start + left {
            proof.push(subtree(source, start + left, width - left)?);
            width = left;
        } else {
            proof.push(subtree(source, start, left)?);
            start += left;
            width -= left;
            is_whole = false;
        }
    }
    // That subtree is the whole older tree: its hash is the root the verifier has.
    if !is_whole {
        proof.push(subtree(source, start, width)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that `leaf` is number `index` of the tree with that root.
///
/// # Errors
/// [`ProofError::Index`], [`ProofError::Length`], [`ProofError::Root`].
pub fn verify_inclusion(
    leaf: TreeHash,
    index: u64,
    size: u64,
    proof: &[TreeHash],
    root: TreeHash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Index { index, size });
    }
    let (mut position, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return Err(ProofError::Length { found: proof.len() });
        }
        if position & 1 == 1 || position == last {
            hash = TreeHash::of_node(sibling, &hash);
            while position & 1 == 0 && position != 0 {
                (position, last) = (position >> 1, last >> 1);
            }
        } else {
            hash = TreeHash::of_node(&hash, sibling);
        }
        (position, last) = (position >> 1, last >> 1);
    }
    match (last, hash == root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(ProofError::Length { found: proof.len() }),
    }
}

/// Checks that the tree of `from` leaves with root `old` is the beginning of
/// the tree of `to` leaves with root `new`.
///
/// # Errors
/// [`ProofError::Sizes`] when `from` is 0 or above `to`, [`ProofError::Length`],
/// [`ProofError::Root`].
pub fn verify_consistency(
    from: u64,
    to: u64,
    old: TreeHash,
    new: TreeHash,
    proof: &[TreeHash],
) -> Result<(), ProofError> {
    if from == 0 || from > to {
        return Err(ProofError::Sizes { from, to });
    }
    let wrong_length = Err(ProofError::Length { found: proof.len() });
    if from == to {
        return match (proof.is_empty(), old == new) {
            (true, true) => Ok(()),
            (true, false) => Err(ProofError::Root),
            _ => wrong_length,
        };
    }
    let mut rest = proof.iter();
    // A complete older tree is its own first hash, so the proof leaves it out.
    let first = if from.is_power_of_two() { Some(old) } else { rest.next().copied() };
    let Some(first) = first else { return wrong_length };
    let (mut position, mut last) = (from - 1, to - 1);
    while position & 1 == 1 {
        (position, last) = (position >> 1, last >> 1);
    }
    let (mut old_hash, mut new_hash) = (first, first);
    for sibling in rest {
        if last == 0 {
            return wrong_length;
        }
        if position & 1 == 1 || position == last {
            old_hash = TreeHash::of_node(sibling, &old_hash);
            new_hash = TreeHash::of_node(sibling, &new_hash);
            while position & 1 == 0 && position != 0 {
                (position, last) = (position >> 1, last >> 1);
            }
        } else {
            new_hash = TreeHash::of_node(&new_hash, sibling);
        }
        (position, last) = (position >> 1, last >> 1);
    }
    match (last, old_hash == old && new_hash == new) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => wrong_length,
    }
}
