//! The root over an ordered list of calls: RFC 6962's tree hash. *Pure.*
//!
//! A leaf is `position (4, big-endian) ‖ call hash (32)`, so that a call is
//! bound to its place as well as to the list.

use osmoda_types::CallHash;
use sha2::{Digest as _, Sha256};

/// Most calls of a plan. A person reads the list; a longer one is not read.
pub const CALLS_MAX: usize = 64;

/// The root over the calls in this order; `None` for an empty list or one over
/// [`CALLS_MAX`].
#[must_use]
pub fn root(hashes: &[CallHash]) -> Option<CallHash> {
    if hashes.is_empty() || hashes.len() > CALLS_MAX {
        return None;
    }
    let leaf = |(position, hash): (u32, &CallHash)| {
        let digest = Sha256::new().chain_update([0]).chain_update(position.to_be_bytes());
        digest.chain_update(hash.as_bytes()).finalize().into()
    };
    let leaves: Vec<[u8; 32]> = (0_u32..).zip(hashes).map(leaf).collect();
    Some(CallHash::from_bytes(tree(&leaves)))
}

/// RFC 6962, section 2.1: split at the largest power of two below the length.
fn tree(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            let (left, right) = leaves.split_at(split);
            Sha256::new().chain_update([1]).chain_update(tree(left)).chain_update(tree(right)).finalize().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_that_of_rfc_6962() {
        // Leaves of certificate-transparency's own test data, sections 0 to 3.
        let leaf = |data: &[u8]| -> [u8; 32] { Sha256::new().chain_update([0]).chain_update(data).finalize().into() };
        let leaves = [leaf(b""), leaf(b"\0"), leaf(b"\x10"), leaf(b" !")];
        let hex = |size: usize| data_encoding::HEXLOWER.encode(&tree(&leaves[..size]));
        assert_eq!(hex(1), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        assert_eq!(hex(2), "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
        assert_eq!(hex(3), "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77");
        assert_eq!(hex(4), "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7");
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
