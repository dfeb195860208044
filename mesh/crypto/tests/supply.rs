//! The supply chain of the handshake (`mesh.md` section 7, items 7 and 16): what
//! is pinned stays pinned, and test-only features stay in tests.

use std::{fs, path::PathBuf};

fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The version a workspace dependency asks for.
fn asked(manifest: &str, name: &str) -> String {
    let line = manifest.lines().find(|line| line.starts_with(&format!("{name} = "))).expect(name);
    let from = line.find("version = \"").map_or(line.find('"').expect("a version") + 1, |at| at + "version = \"".len());
    line[from..].split('"').next().expect("the first piece").to_owned()
}

#[test]
fn hygiene_16_the_crypto_crates_are_pinned_exactly() {
    let manifest = read("../../Cargo.toml");
    for name in ["quinn", "quinn-proto", "rustls", "snow", "ml-kem"] {
        assert!(asked(&manifest, name).starts_with('='), "{name} = {}", asked(&manifest, name));
    }
}

#[test]
fn hygiene_07_quinn_proto_has_the_fixes_for_reassembly_and_transport_parameters() {
    // RUSTSEC-2026-0037 (>= 0.11.14) and -0185 (>= 0.11.15).
    let version = asked(&read("../../Cargo.toml"), "quinn-proto");
    let parts: Vec<u64> = version.trim_start_matches('=').split('.').map(|part| part.parse().unwrap()).collect();
    assert!(parts >= vec![0, 11, 19], "{version}");
}

#[test]
fn hygiene_16_hazmat_is_for_tests_only() {
    let root = read("../../Cargo.toml");
    let own = read("Cargo.toml");
    let (shipped, tests) = own.split_once("[dev-dependencies]").expect("the tests' dependencies are last");
    assert!(!shipped.contains("hazmat") && tests.contains("hazmat"));
    let ml_kem = root.lines().find(|line| line.starts_with("ml-kem = ")).expect("ml-kem");
    assert!(!ml_kem.contains("hazmat"));
}
