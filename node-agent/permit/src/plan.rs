//! The root over an ordered list of calls: RFC 6962's tree hash. *Pure.*
//!
//! A leaf is `position (4, big-endian) ‖ call hash (32)`, so that a call is
//! bound to its place as well as to the list.

use osmoda_ledger::tree::{Frontier, TreeHash};
use osmoda_types::CallHash;

/// Most calls of a plan. A person reads the list; a longer one is not read.
pub const CALLS_MAX: usize = 64;

/// The root over the calls in this order; `None` for an empty list or one over
/// [`CALLS_MAX`].
#[must_use]
pub fn root(hashes: &[CallHash]) -> Option<CallHash> {
    if hashes.is_empty() || hashes.len() > CALLS_MAX {
        return None;
    }
    let mut tree = Frontier::new();
    for (position, hash) in (0_u32..).zip(hashes) {
        tree.append(TreeHash::of_leaf(&[&position.to_be_bytes()[..], hash.as_bytes()].concat()));
    }
    Some(CallHash::from_bytes(*tree.root().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_that_of_rfc_6962_over_places_and_hashes() {
        use sha2::{Digest as _, Sha256};
        let sha = |parts: &[&[u8]]| -> [u8; 32] { Sha256::digest(parts.concat()).into() };
        let leaf = |n: u8| sha(&[&[0, 0, 0, 0, n], &[n; 32]]);
        let node = |left: [u8; 32], right: [u8; 32]| sha(&[&[1], &left, &right]);
        let of = |count: u8| {
            let hashes: Vec<_> = (0..count).map(|n| CallHash::from_bytes([n; 32])).collect();
            *root(&hashes).unwrap().as_bytes()
        };
        assert_eq!(of(1), leaf(0));
        assert_eq!(of(2), node(leaf(0), leaf(1)));
        assert_eq!(of(3), node(node(leaf(0), leaf(1)), leaf(2)));
        assert_eq!(of(5), node(node(node(leaf(0), leaf(1)), node(leaf(2), leaf(3))), leaf(4)));
    }

    #[test]
    fn every_list_has_its_own_root() {
        let hash = |n: u8| CallHash::from_bytes([n; 32]);
        let lists = [vec![hash(1)], vec![hash(1), hash(1)], vec![hash(1), hash(2)], vec![hash(2), hash(1)]];
        let roots: std::collections::BTreeSet<_> = lists.iter().map(|list| root(list)).collect();
        assert_eq!(roots.len(), lists.len());
        assert_eq!(root(&[]), None);
        assert_eq!(root(&vec![hash(1); CALLS_MAX + 1]), None);
    }
}
