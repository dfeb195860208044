//! The generated code that is checked in equals what the `.proto` files give.
//!
//! `OSMODA_UPDATE=1 cargo test -p osmoda-proto --test codegen` writes it anew
//! (what `cargo xtask codegen` runs). protox parses, so no `protoc` is needed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every file of the interface, relative to the crate.
const PROTOS: [&str; 6] = [
    "osmoda/log/v1/log.proto",
    "osmoda/raft/v1/raft.proto",
    "osmoda/fleet/v1/command.proto",
    "osmoda/fleet/v1/fleet.proto",
    "osmoda/fleet/v1/state.proto",
    "osmoda/link/v1/link.proto",
];

fn crate_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn generate(out: &Path) {
    let root = crate_dir();
    let files = PROTOS.map(|name| root.join(name));
    let descriptors = protox::compile(files, [root]).expect("the .proto files compile");
    tonic_prost_build::configure()
        .out_dir(out)
        .emit_rerun_if_changed(false)
        // A tonic channel is always made over a mesh stream, never by address.
        .build_transport(false)
        .compile_fds(descriptors)
        .expect("code is generated");
}

fn read_all(dir: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(dir).expect("the folder exists");
    entries
        .map(|entry| {
            let path = entry.expect("the folder can be read").path();
            let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("the file is text"))
        })
        .collect()
}

#[test]
fn checked_in_code_equals_what_the_proto_files_give() {
    let fresh = tempfile::tempdir().expect("a temporary folder");
    generate(fresh.path());
    let checked_in = crate_dir().join("src/gen");
    let fresh_files = read_all(fresh.path());
    if std::env::var_os("OSMODA_UPDATE").is_some() {
        for (name, text) in &fresh_files {
            fs::write(checked_in.join(name), text).expect("src/gen can be written");
        }
    }
    let stored = read_all(&checked_in);
    assert_eq!(
        fresh_files.keys().collect::<Vec<_>>(),
        stored.keys().collect::<Vec<_>>(),
        "another set of files; run cargo xtask codegen"
    );
    for (name, text) in fresh_files {
        assert!(stored[&name] == text, "{name} is out of date; run cargo xtask codegen");
    }
}
