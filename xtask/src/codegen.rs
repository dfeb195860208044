//! Regenerating what is generated and checked in.
//!
//! Two things are: the Rust code of the `.proto` files, and the systemd files
//! rendered from the daemon registry. Both generators live beside what they
//! read; this task only runs them. A test of each crate compares, so forgetting
//! this task fails a test and nothing else.

use std::ffi::OsStr;

use anyhow::bail;

use crate::run;
use crate::workspace::Metadata;

/// Generators: (package, binary, what it writes).
const GENERATORS: &[(&str, &str, &str)] =
    &[("osmoda-tests", "render-units", "deploy/systemd from the daemon registry")];

/// Arguments of `cargo xtask codegen`.
#[derive(Debug, clap::Args)]
pub(crate) struct CodegenArgs {
    /// Writes nothing; fails when a generated file differs.
    #[arg(long)]
    check: bool,
}

/// Runs every generator.
pub(crate) fn run(args: &CodegenArgs) -> anyhow::Result<()> {
    proto(args.check)?;
    let metadata = Metadata::load()?;
    for (package, binary, what) in GENERATORS {
        if !metadata.has_binary(package, binary) {
            bail!("package {package} has no binary {binary}, so {what} cannot be regenerated");
        }
        eprintln!("{what}");
        let mut arguments = vec!["run", "--quiet", "-p", package, "--bin", binary, "--"];
        if args.check {
            arguments.push("--check");
        }
        run::checked(run::root(), &run::cargo(), &arguments)?;
    }
    Ok(())
}

/// The generator is the test that compares, told to write: protox and tonic's
/// generator stay dev-dependencies of the crate they write for.
fn proto(check: bool) -> anyhow::Result<()> {
    eprintln!("proto/src/gen from proto/**/*.proto");
    let update: &[(&str, &OsStr)] = if check { &[] } else { &[("OSMODA_UPDATE", OsStr::new("1"))] };
    let arguments = ["test", "--quiet", "-p", "osmoda-proto", "--test", "codegen"];
    run::checked_with(run::root(), &run::cargo(), &arguments, update)
}
