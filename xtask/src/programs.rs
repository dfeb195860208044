//! Tasks that build programs of the workspace and then become one of them.
//!
//! Always holds: a task whose program does not exist yet says so and fails.
//! Standard output belongs to the started program alone (`--json` prints JSON
//! lines), so everything this file says goes to standard error.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

use crate::workspace::Metadata;
use crate::{run, setup};

/// Programs of a node and of the controller: (package, binary).
const PRODUCT: &[(&str, &str)] = &[
    ("osmoda-node", "osmoda-node"),
    ("osmoda-guard", "osmoda-guard"),
    ("agentctl", "agentctl"),
    ("osmoda-controller", "osmoda-controller"),
    ("osmoda-ctl", "osmoda"),
];

/// How the programs are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Shares every build result with the tests.
    Dev,
    /// What is measured and shown.
    Release,
}

impl Profile {
    fn folder(self) -> &'static str {
        match self {
            Profile::Dev => "debug",
            Profile::Release => "release",
        }
    }
}

/// `cargo xtask demo`.
pub(crate) fn demo(rest: &[OsString]) -> anyhow::Result<ExitCode> {
    let metadata = Metadata::load()?;
    require(&metadata, "osmoda-tests", "demo")?;
    setup::nix()?;
    let program = build(&metadata, Profile::Release, ("osmoda-tests", "demo"))?;
    become_program(program, rest)
}

/// Benchmarks that start no program of the product.
const ALONE: &[&str] = &["flood", "loss", "mesh", "raft", "rooms"];

/// Whether one of the named benchmarks starts a fleet; without a name all are
/// run.
fn needs_fleet(rest: &[OsString]) -> bool {
    rest.is_empty() || rest.iter().any(|word| !ALONE.iter().any(|name| word == name))
}

/// `cargo xtask bench`.
///
/// `mesh` compares with TLS and with quick primitives, both of which a C library
/// brings along; no other benchmark waits for it to be built.
pub(crate) fn bench(rest: &[OsString]) -> anyhow::Result<ExitCode> {
    let metadata = Metadata::load()?;
    let program = ("osmoda-tests", "bench");
    require(&metadata, program.0, program.1)?;
    let has = |name: &str| rest.iter().any(|word| word == name);
    let mesh = has("mesh");
    if mesh || has("loss") {
        setup::network_tools()?;
    }
    if mesh {
        compile(&metadata, Profile::Release, &[program], "osmoda-tests/fast-crypto")?;
        let fast = built(&metadata, Profile::Release, program.1);
        let beside = fast.with_file_name("bench-fast");
        std::fs::copy(&fast, &beside).with_context(|| format!("cannot write {}", beside.display()))?;
    }
    let features = if mesh { "osmoda-tests/bench-tls" } else { "" };
    let mut programs = vec![program];
    if needs_fleet(rest) {
        programs.extend(PRODUCT);
    }
    compile(&metadata, Profile::Release, &programs, features)?;
    become_program(built(&metadata, Profile::Release, program.1), rest)
}

/// `cargo xtask hosts`.
///
/// Development builds: the scenarios prove behaviour, and CI has them already.
pub(crate) fn hosts(rest: &[OsString]) -> anyhow::Result<ExitCode> {
    let metadata = Metadata::load()?;
    require(&metadata, "osmoda-tests", "hosts")?;
    let leaving = rest.first().is_some_and(|word| word == "down" || word == "--help" || word == "-h");
    if !leaving {
        setup::host_tools()?;
    }
    let program = build(&metadata, Profile::Dev, ("osmoda-tests", "hosts"))?;
    become_program(program, rest)
}

/// `cargo xtask dev`: the same as `osmoda dev`, built first.
pub(crate) fn dev(rest: &[OsString]) -> anyhow::Result<ExitCode> {
    let metadata = Metadata::load()?;
    require(&metadata, "osmoda-ctl", "osmoda")?;
    let program = build(&metadata, Profile::Dev, ("osmoda-ctl", "osmoda"))?;
    let rest: Vec<OsString> = std::iter::once(OsString::from("dev")).chain(rest.iter().cloned()).collect();
    become_program(program, &rest)
}

/// Builds the product's programs and one more; returns the path of that one.
pub(crate) fn build(metadata: &Metadata, profile: Profile, extra: (&str, &str)) -> anyhow::Result<PathBuf> {
    compile(metadata, profile, &[PRODUCT, &[extra]].concat(), "")?;
    Ok(built(metadata, profile, extra.1))
}

/// Builds programs with features, which are separated by commas.
fn compile(metadata: &Metadata, profile: Profile, programs: &[(&str, &str)], features: &str) -> anyhow::Result<()> {
    let mut arguments = vec!["build", "--quiet"];
    if profile == Profile::Release {
        arguments.push("--release");
    }
    for (package, binary) in programs.iter().copied() {
        require(metadata, package, binary)?;
        arguments.extend(["-p", package, "--bin", binary]);
    }
    if !features.is_empty() {
        arguments.extend(["--features", features]);
    }
    run::checked(run::root(), &run::cargo(), &arguments)
}

/// Where a built program lies.
pub(crate) fn built(metadata: &Metadata, profile: Profile, binary: &str) -> PathBuf {
    metadata.target_directory.join(profile.folder()).join(binary)
}

fn require(metadata: &Metadata, package: &str, binary: &str) -> anyhow::Result<()> {
    if metadata.has_binary(package, binary) {
        return Ok(());
    }
    bail!("package {package} has no program {binary} in this version, so this task cannot run");
}

fn become_program(program: PathBuf, rest: &[OsString]) -> anyhow::Result<ExitCode> {
    let cause = Command::new(&program).args(rest).exec();
    Err(cause).with_context(|| format!("cannot start {}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_built_for_benchmarks_that_start_them() {
        let needs = |words: &[&str]| needs_fleet(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(needs(&[]) && needs(&["rollout"]) && needs(&["mesh", "ledger"]) && needs(&["--list"]));
        assert!(!needs(&["mesh"]) && !needs(&["flood", "rooms"]));
    }
}
