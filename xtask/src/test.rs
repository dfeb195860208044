//! `cargo xtask test`: every test of the workspace, with real processes.
//!
//! Order: programs first (the tests start them), then the whole-system steps
//! that are not `#[test]` functions, then the tests, so that a runner's own
//! summary is the last thing printed. The controller's TLS comes last of all: it
//! needs a C library that no other build waits for. A whole-system step that
//! cannot run here is counted as skipped and said loudly; one that fails, fails
//! the task.

use anyhow::bail;

use crate::programs::{self, Profile};
use crate::workspace::Metadata;
use crate::{run, setup};

/// Exit code of `hosts` and `faults` when the machine lacks a prerequisite.
const EXIT_NO_PREREQUISITES: i32 = 3;

/// The features of the controller's TLS, on both of its ends. What is shipped is
/// built with them; development builds go without the C library behind them.
pub(crate) const TLS: &str = "osmoda-controller/tls,osmoda-ctl/tls";

/// Features of the mesh that no program has by default: the other crypto, and
/// SWIM. Their own parts are tested with the rest; this runs whole endpoints and
/// the fuzzers' targets with them. Selected in the whole workspace, so that only the mesh is built again.
const MESH: &str = "osmoda-mesh-crypto/fast-crypto,osmoda-mesh/swim,osmoda-fuzz-targets/swim";

/// Arguments of `cargo xtask test`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct TestArgs {
    /// Leaves out the shortened demo, the real hosts, the controller's TLS
    /// and the optional features of the mesh.
    #[arg(long)]
    fast: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// What was run, for the last line.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    passed: usize,
    failed: usize,
    skipped: Vec<String>,
}

impl Counts {
    /// The line CI ends with.
    pub(crate) fn line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped.len())
    }

    /// Reads a summary line of nextest or of the built-in runner, if this is one.
    fn add_line(&mut self, line: &str) {
        let is_summary = line.trim_start().starts_with("Summary [") || line.starts_with("test result:");
        if !is_summary {
            return;
        }
        let words: Vec<&str> = line.split([' ', ';', ',', ':', '.']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<usize>() else { continue };
            match pair[1] {
                "passed" => self.passed += count,
                "failed" | "timed" => self.failed += count,
                _ => {}
            }
        }
    }
}

/// Runs the task.
pub(crate) fn run(args: &TestArgs) -> anyhow::Result<()> {
    let counts = counted(args)?;
    for skipped in &counts.skipped {
        eprintln!("SKIPPED: {skipped}");
    }
    Ok(())
}

/// Runs the task and returns what was counted, for CI's last line.
pub(crate) fn counted(args: &TestArgs) -> anyhow::Result<Counts> {
    let metadata = Metadata::load()?;
    let mut counts = Counts::default();
    run::checked(run::root(), &run::cargo(), &["build", "--workspace", "--bins"])?;
    if !args.fast && args.filter.is_none() {
        whole_system(&metadata, &mut counts)?;
    }
    run_tests(args.filter.as_slice(), &mut counts)?;
    if !args.fast && args.filter.is_none() {
        run::checked(run::root(), &run::cargo(), &["build", "--workspace", "--features", TLS, "--bin", "osmoda"])?;
        run_tests(&["--features", TLS, "--test", "tls"].map(str::to_owned), &mut counts)?;
        let whole_endpoints = ["--features", MESH, "--test", "one"].map(str::to_owned);
        // Other crates have a test of this name, and the mesh changes nothing there.
        run_some(&whole_endpoints, &["-E", "package(osmoda-mesh) + package(osmoda-fuzz-targets)"], &mut counts)?;
    }
    Ok(counts)
}

/// The steps that are programs of their own.
fn whole_system(metadata: &Metadata, counts: &mut Counts) -> anyhow::Result<()> {
    let steps: [(&str, &[&str]); 3] =
        [("demo", &["--short", "--json"]), ("faults", &["disk-full"]), ("hosts", &["scenario", "all", "--json"])];
    for (binary, arguments) in steps {
        if !metadata.has_binary("osmoda-tests", binary) {
            bail!("package osmoda-tests has no program {binary} in this version");
        }
        let ready = match binary {
            "demo" => setup::nix(),
            "hosts" => setup::host_tools(),
            _ => Ok(false),
        };
        if let Err(cause) = ready {
            eprintln!("set-up for {binary} failed ({cause:#}); it decides itself what it can do without");
        }
        let program = programs::built(metadata, Profile::Dev, binary);
        eprintln!("  $ {binary} {}", arguments.join(" "));
        match run::status(&program, arguments)? {
            Some(0) => counts.passed += 1,
            Some(EXIT_NO_PREREQUISITES) if binary != "demo" => {
                eprintln!("SKIPPED: {binary}: this machine lacks a prerequisite (printed above)");
                counts.skipped.push(format!("{binary}: prerequisites are missing on this machine"));
            }
            code => {
                bail!("{binary} ended with {}", code.map_or_else(|| "a signal".to_owned(), |code| code.to_string()))
            }
        }
    }
    Ok(())
}

fn run_tests(more: &[String], counts: &mut Counts) -> anyhow::Result<()> {
    run_some(more, &[], counts)
}

/// The same with a filter that only nextest knows; the built-in runner runs more.
fn run_some(more: &[String], filter: &[&str], counts: &mut Counts) -> anyhow::Result<()> {
    let nextest = run::available("cargo-nextest", &["--version"]);
    let mut arguments = if nextest { vec!["nextest", "run", "--workspace"] } else { vec!["test", "--workspace"] };
    arguments.extend(more.iter().map(String::as_str));
    if nextest {
        arguments.extend(filter);
    }
    let add = |counts: &mut Counts, line: &str| counts.add_line(&without_colour(line));
    let passed = if nextest {
        run::tee_stderr(run::root(), &run::cargo(), &arguments, |line| add(counts, line))?
    } else {
        run::tee_stdout(run::root(), &run::cargo(), &arguments, |line| add(counts, line))?
    };
    if !passed {
        bail!("tests: {}", counts.line());
    }
    Ok(())
}

/// A line without terminal colour sequences.
fn without_colour(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find('\u{1b}') {
        plain.push_str(&rest[..start]);
        rest = rest[start..].split_once('m').map_or("", |(_, after)| after);
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(lines: &[&str]) -> Counts {
        let mut counts = Counts::default();
        lines.iter().for_each(|line| counts.add_line(&without_colour(line)));
        counts
    }

    #[test]
    fn both_runners_are_counted() {
        let nextest = counts(&["     Summary [   1.9s] 12 tests run: 10 passed, 1 failed, 1 timed out, 0 skipped"]);
        assert_eq!((nextest.passed, nextest.failed), (10, 2));
        let coloured = counts(&[
            "\u{1b}[32m     Summary\u{1b}[0m [ 1.9s] \u{1b}[1m3\u{1b}[0m tests run: \u{1b}[1m3\u{1b}[0m passed",
        ]);
        assert_eq!(coloured.passed, 3);
        let builtin =
            counts(&["test result: ok. 4 passed; 0 failed; 0 ignored", "test result: FAILED. 1 passed; 2 failed;"]);
        assert_eq!((builtin.passed, builtin.failed), (5, 2));
        assert_eq!(counts(&["9 passed"]).passed, 0);
    }
}
