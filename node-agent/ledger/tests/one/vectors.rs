//! The known answers of transparency-dev/merkle (Apache-2.0), where the folder
//! with test data is: `OSMODA_VECTORS`, default `../shared/vectors`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use osmoda_ledger::tree::{TreeHash, verify_consistency, verify_inclusion};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Inclusion {
    leaf_idx: u64,
    tree_size: u64,
    root: Option<String>,
    leaf_hash: String,
    proof: Option<Vec<Option<String>>>,
    desc: String,
    want_err: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Consistency {
    size1: u64,
    size2: u64,
    root1: Option<String>,
    root2: Option<String>,
    proof: Option<Vec<Option<String>>>,
    desc: String,
    want_err: bool,
}

fn folder() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let vectors = std::env::var_os("OSMODA_VECTORS").map_or_else(|| root.join("../shared/vectors"), PathBuf::from);
    let folder = vectors.join("merkle-rfc6962");
    folder.is_dir().then_some(folder)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// `None` when a hash has not exactly 32 bytes: such a proof cannot even be said.
fn hashes(proof: Option<Vec<Option<String>>>) -> Option<Vec<TreeHash>> {
    proof.unwrap_or_default().iter().map(|hash| hash.as_deref().and_then(TreeHash::from_base64)).collect()
}

fn hash(text: Option<String>) -> Option<TreeHash> {
    TreeHash::from_base64(&text?)
}

#[test]
fn every_vector_of_rfc_6962_is_answered_right() {
    let Some(folder) = folder() else {
        assert!(std::env::var_os("CI").is_none(), "CI has the test data");
        writeln!(std::io::stderr(), "SKIPPED: no test data; set OSMODA_VECTORS").unwrap();
        return;
    };
    let mut count = [0, 0];
    for path in files(&folder.join("inclusion")) {
        let case: Inclusion = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let holds = || {
            let (leaf, root) = (hash(Some(case.leaf_hash))?, hash(case.root)?);
            verify_inclusion(leaf, case.leaf_idx, case.tree_size, &hashes(case.proof)?, root).ok()
        };
        assert_eq!(holds().is_none(), case.want_err, "{}: {}", path.display(), case.desc);
        count[0] += 1;
    }
    for path in files(&folder.join("consistency")) {
        let case: Consistency = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let holds = || {
            let (old, new) = (hash(case.root1)?, hash(case.root2)?);
            verify_consistency(case.size1, case.size2, old, new, &hashes(case.proof)?).ok()
        };
        assert_eq!(holds().is_none(), case.want_err, "{}: {}", path.display(), case.desc);
        count[1] += 1;
    }
    assert!(count[0] >= 80 && count[1] >= 80, "{count:?} cases were found");
}
