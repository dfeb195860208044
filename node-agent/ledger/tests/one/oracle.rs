//! The tree against somebody else's: `ct-merkle` gives the same roots and the
//! same proofs, byte for byte.

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use osmoda_ledger::tree::{HashSource, Node, TreeHash, consistency, inclusion, verify_consistency, verify_inclusion};
use proptest::prelude::*;
use sha2::Sha256;

struct Leaves(Vec<TreeHash>);

impl HashSource for Leaves {
    type Error = std::convert::Infallible;

    fn hash(&mut self, node: Node) -> Result<TreeHash, Self::Error> {
        let from = (node.index << node.level) as usize;
        let mut row = self.0[from..from + (1 << node.level)].to_vec();
        while row.len() > 1 {
            row = row.chunks_exact(2).map(|pair| TreeHash::of_node(&pair[0], &pair[1])).collect();
        }
        Ok(row[0])
    }
}

fn bytes(proof: &[TreeHash]) -> Vec<u8> {
    proof.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

proptest! {
    #[test]
    fn roots_and_proofs_are_those_of_ct_merkle(
        records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 2..300),
        a: prop::sample::Index,
        b: prop::sample::Index,
    ) {
        let size = records.len() as u64;
        let mut theirs = MemoryBackedTree::<Sha256, Vec<u8>>::new();
        let from = b.index(records.len() - 1) as u64 + 1;
        let mut old = None;
        for record in &records {
            theirs.push(record.clone());
            if theirs.len() == from {
                old = TreeHash::from_slice(theirs.root().as_bytes());
            }
        }
        let mut ours = Leaves(records.iter().map(|record| TreeHash::of_leaf(record)).collect());
        let root = TreeHash::from_slice(theirs.root().as_bytes()).unwrap();

        let index = a.index(records.len());
        let proof = inclusion(&mut ours, index as u64, size).unwrap();
        let expected = theirs.prove_inclusion(index);
        prop_assert_eq!(bytes(&proof), expected.as_bytes());
        prop_assert_eq!(verify_inclusion(ours.0[index], index as u64, size, &proof, root), Ok(()));

        let proof = consistency(&mut ours, from, size).unwrap();
        let expected = theirs.prove_consistency((size - from) as usize);
        prop_assert_eq!(bytes(&proof), expected.as_bytes());
        prop_assert_eq!(verify_consistency(from, size, old.unwrap(), root, &proof), Ok(()));
    }
}
