//! Changes of keys in a real fleet; what is claimed is in `osmoda_tests::rotation`.

use crate::programs;

#[test]
fn nodes_change_their_keys_and_the_fleet_follows_without_an_invite() {
    let dir = tempfile::tempdir().unwrap();
    osmoda_tests::rotation::run(&dir.path().join("f"), programs()).unwrap();
}
