//! `cargo xtask ci`: everything that must be green before a change lands.
//!
//! The steps run in order of how soon they can fail. The times of all steps are
//! printed, and the very last line counts the tests. Compiling a `git archive`
//! export proves that no file outside git is needed; it is a check with clippy's
//! features in the same target folder, so only the workspace's own crates are
//! compiled, and nothing is linked that the tests link again.

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::test::{self, TestArgs};
use crate::{deny, layers, run, tidy};

/// Runs every step.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut times = Vec::new();
    timed(&mut times, "fmt", || cargo(&["fmt", "--all", "--check"]))?;
    timed(&mut times, "tidy", tidy::run)?;
    timed(&mut times, "layers", layers::run)?;
    timed(&mut times, "deny", deny::run)?;
    timed(&mut times, "clippy", || {
        let features = ["--features", test::TLS, "--locked", "--", "-D", "warnings"];
        cargo(&[&["clippy", "--workspace", "--all-targets"], &features[..]].concat())
    })?;
    timed(&mut times, "export", check_export)?;
    let counts = timed(&mut times, "test", || test::counted(&TestArgs::default()))?;
    for (name, time) in &times {
        println!("{name:>8} {:>7.1} s", time.as_secs_f64());
    }
    let all: Duration = times.iter().map(|(_, time)| *time).sum();
    println!("{:>8} {:>7.1} s", "all", all.as_secs_f64());
    println!("{}", counts.line());
    Ok(())
}

fn timed<T>(
    times: &mut Vec<(&'static str, Duration)>,
    name: &'static str,
    step: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    eprintln!("== {name}");
    let start = Instant::now();
    let result = step().with_context(|| format!("step {name}"))?;
    times.push((name, start.elapsed()));
    Ok(result)
}

fn cargo(arguments: &[&str]) -> anyhow::Result<()> {
    run::checked(run::root(), &run::cargo(), arguments)
}

/// Compiles the last commit from an export of it.
fn check_export() -> anyhow::Result<()> {
    let metadata = crate::workspace::Metadata::load()?;
    let folder =
        tempfile::Builder::new().prefix("osmoda-export-").tempdir().context("making a folder for the export")?;
    let archive = folder.path().join("export.tar");
    let archive_text = archive.to_str().context("the temporary folder's name is not UTF-8")?;
    run::checked(run::root(), "git".as_ref(), &["archive", "--format=tar", "--output", archive_text, "HEAD"])?;
    let tree = folder.path().join("tree");
    std::fs::create_dir(&tree).context("making a folder for the export")?;
    run::checked(&tree, "tar".as_ref(), &["--extract", "--file", archive_text])?;
    let variables = [("CARGO_TARGET_DIR", metadata.target_directory.as_os_str())];
    let check = ["check", "--workspace", "--locked", "--features", test::TLS];
    run::checked_with(&tree, &run::cargo(), &check, &variables)
}
