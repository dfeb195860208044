//! The tree against the definition of RFC 6962, written out plainly, and
//! against itself: every proof of every small tree, and every single change.

use std::collections::HashMap;
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

/// RFC 6962, section 2.1, word for word.
fn mth(leaves: &[TreeHash]) -> TreeHash {
    match leaves {
        [] => TreeHash::of_nothing(),
        [one] => *one,
        many => {
            let mut k = 1;
            while k * 2 < many.len() {
                k *= 2;
            }
            TreeHash::of_node(&mth(&many[..k]), &mth(&many[k..]))
        }
    }
}

fn leaves(count: usize) -> Vec<TreeHash> {
    (0..count).map(|n| TreeHash::of_leaf(n.to_string().as_bytes())).collect()
}

struct Plain(Vec<TreeHash>);

impl HashSource for Plain {
    type Error = Infallible;

    fn hash(&mut self, node: Node) -> Result<TreeHash, Infallible> {
        let from = (node.index << node.level) as usize;
        Ok(mth(&self.0[from..from + (1 << node.level)]))
    }
}

#[derive(Default)]
struct Memory {
    full: HashMap<TileId, Tile>,
    edge: Edge,
}

impl Memory {
    fn of(leaves: &[TreeHash]) -> Self {
        let mut memory = Self::default();
        let Memory { full, edge } = &mut memory;
        for leaf in leaves {
            edge.append(*leaf, |id, tile| {
                full.insert(id, tile.clone());
                Ok::<_, Infallible>(())
            })
            .unwrap();
        }
        memory
    }
}

impl TileStore for &Memory {
    type Error = TileId;

    fn tile(&mut self, id: TileId, _width: usize) -> Result<Tile, TileId> {
        let partial = || self.edge.partial().find(|(other, _)| *other == id).map(|(_, tile)| tile);
        self.full.get(&id).cloned().or_else(partial).ok_or(id)
    }
}

#[test]
fn frontier_edge_and_definition_agree_on_every_small_tree() {
    let leaves = leaves(600);
    let (mut frontier, mut edge) = (Frontier::new(), Edge::new());
    for size in 0..=leaves.len() {
        assert_eq!(frontier.root(), mth(&leaves[..size]), "{size}");
        assert_eq!(edge.root(), frontier.root(), "{size}");
        assert_eq!(edge.frontier(), frontier);
        assert_eq!(Frontier::from_bytes(frontier.size(), &frontier.to_bytes()).unwrap(), frontier);
        if let Some(leaf) = leaves.get(size) {
            frontier.append(*leaf);
            edge.append(*leaf, |_, _| Ok::<_, Infallible>(())).unwrap();
        }
    }
    assert!(Frontier::from_bytes(3, &[0; 32]).is_err());
}

#[test]
fn every_proof_of_every_small_tree_holds_and_no_longer_or_shorter_one() {
    let leaves = leaves(40);
    let mut source = Plain(leaves.clone());
    for size in 1..=40_u64 {
        let root = mth(&leaves[..size as usize]);
        assert_eq!(root_at(&mut source, size).unwrap(), root);
        for index in 0..size {
            let proof = inclusion(&mut source, index, size).unwrap();
            let leaf = leaves[index as usize];
            assert_eq!(verify_inclusion(leaf, index, size, &proof, root), Ok(()), "{index} of {size}");
            let longer = [proof.clone(), vec![root]].concat();
            assert!(verify_inclusion(leaf, index, size, &longer, root).is_err());
            if !proof.is_empty() {
                assert!(verify_inclusion(leaf, index, size, &proof[1..], root).is_err());
            }
        }
        for from in 1..=size {
            let old = mth(&leaves[..from as usize]);
            let proof = consistency(&mut source, from, size).unwrap();
            assert_eq!(verify_consistency(from, size, old, root, &proof), Ok(()), "{from} to {size}");
            let longer = [proof.clone(), vec![root]].concat();
            assert!(verify_consistency(from, size, old, root, &longer).is_err());
            if !proof.is_empty() {
                assert!(verify_consistency(from, size, old, root, &proof[1..]).is_err());
            }
        }
    }
}

#[test]
fn a_proof_from_nothing_and_one_backwards_are_errors() {
    let root = mth(&leaves(3));
    assert!(matches!(verify_consistency(0, 3, TreeHash::of_nothing(), root, &[]), Err(ProofError::Sizes { .. })));
    assert!(matches!(verify_consistency(4, 3, root, root, &[]), Err(ProofError::Sizes { .. })));
    assert!(matches!(verify_inclusion(root, 3, 3, &[], root), Err(ProofError::Index { .. })));
}

#[test]
fn the_largest_sizes_do_not_overflow() {
    let hash = TreeHash::of_nothing();
    let proof = vec![hash; 64];
    assert!(verify_consistency(u64::MAX - 1, u64::MAX, hash, hash, &proof).is_err());
    assert!(verify_inclusion(hash, u64::MAX - 1, u64::MAX, &proof, hash).is_err());
}

proptest! {
    #[test]
    fn proofs_from_tiles_are_those_from_leaves(size in 1_usize..70_000, a: prop::sample::Index, b: prop::sample::Index) {
        let leaves = leaves(size);
        let memory = Memory::of(&leaves);
        let mut tiles = Tiles::new(&memory);
        let root = memory.edge.root();
        let index = a.index(size) as u64;
        let proof = inclusion(&mut tiles, index, size as u64).unwrap();
        prop_assert_eq!(verify_inclusion(leaves[index as usize], index, size as u64, &proof, root), Ok(()));
        let from = b.index(size) as u64 + 1;
        let mut frontier = Frontier::new();
        leaves[..from as usize].iter().for_each(|leaf| frontier.append(*leaf));
        let proof = consistency(&mut tiles, from, size as u64).unwrap();
        prop_assert_eq!(verify_consistency(from, size as u64, frontier.root(), root, &proof), Ok(()));
    }

    #[test]
    fn a_proof_with_one_bit_changed_does_not_hold(size in 2_u64..200, a: prop::sample::Index, bit in 0_usize..256) {
        let leaves = leaves(size as usize);
        let root = mth(&leaves);
        let index = a.index(size as usize) as u64;
        let mut proof = inclusion(&mut Plain(leaves.clone()), index, size).unwrap();
        let at = a.index(proof.len());
        let mut bytes = *proof[at].as_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        proof[at] = TreeHash::new(bytes);
        prop_assert!(verify_inclusion(leaves[index as usize], index, size, &proof, root).is_err());
    }
}
