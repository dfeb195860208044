//! Regenerating what is generated and checked in.
//!
//! Two things are: the Rust code of the `.proto` files, and the systemd files
//! rendered from the daemon registry. Both generators live beside what they
//! read; this task only runs them. A test of each crate compares, so forgetting
//! this task fails a test and nothing else.

use anyhow::bail;

use crate::run;
use crate::workspace::Metadata;

/// Generators: (package, binary, what it writes).
const GENERATORS: &[(&str, &str, &str)] = &[
    ("osmoda-proto", "proto-codegen", "proto/src/gen from proto/**/*.proto"),
    ("osmoda-tests", "render-units", "deploy/systemd from the daemon registry"),
];

/// Arguments of `cargo xtask codegen`.
#[derive(Debug, clap::Args)]
pub(crate) struct CodegenArgs {
    /// Writes nothing; fails when a generated file differs.
    #[arg(long)]
    check: bool,
}

/// Runs every generator.
pub(crate) fn run(args: &CodegenArgs) -> anyhow::Result<()> {
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
