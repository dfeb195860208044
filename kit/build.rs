//! Stamps the build with its commit.
//!
//! A release build asks git and is stamped again when the checked-out commit
//! changes; an edit made after that shows in the next stamp, so what is given
//! away is built from a fresh checkout. A debug build is not stamped: it would rebuild the whole
//! workspace after every commit, and a stamp that is not renewed would lie.
//! `OSMODA_COMMIT` (for packagers: a commit, `-dirty` appended where it is so)
//! goes before both. An export without git says `unknown`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=OSMODA_COMMIT");
    let given = std::env::var("OSMODA_COMMIT").ok().filter(|text| !text.is_empty());
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let (commit, dirty) = match given {
        Some(text) => match text.strip_suffix("-dirty") {
            Some(commit) => (commit.to_owned(), true),
            None => (text, false),
        },
        None if release => from_git().unwrap_or_else(unknown),
        None => unknown(),
    };
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let short = commit.get(..12).unwrap_or(&commit);
    let mark = if dirty { ", dirty" } else { "" };
    println!("cargo::rustc-env=OSMODA_BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=OSMODA_BUILD_DIRTY={dirty}");
    println!("cargo::rustc-env=OSMODA_BUILD_TEXT={version} ({short}{mark})");
}

fn unknown() -> (String, bool) {
    ("unknown".to_owned(), false)
}

fn from_git() -> Option<(String, bool)> {
    // An export unpacked inside some other repository must not take that one's
    // commit: this folder's manifest has to be a tracked file.
    git(&["ls-files", "--error-unmatch", "Cargo.toml"])?;
    let commit = git(&["rev-parse", "HEAD"])?;
    let dirty = !git(&["--no-optional-locks", "status", "--porcelain", "--untracked-files=no"])?.is_empty();
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let path = git(&["rev-parse", "--git-path", name])?;
        if std::path::Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    Some((commit, dirty))
}

#[allow(clippy::disallowed_methods, reason = "a build script has no process runner; git is asked once, at build time")]
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
