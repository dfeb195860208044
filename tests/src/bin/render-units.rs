//! Writes `deploy/systemd` from the daemon registry, or compares with `--check`.

use std::path::Path;

use anyhow::{Context, bail};
use clap::Parser;

/// Renders the systemd files of a node.
#[derive(Debug, Parser)]
struct Args {
    /// Writes nothing; fails when a file differs.
    #[arg(long)]
    check: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for (name, text) in osmoda_tests::units::files() {
        let path = folder.join(&name);
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        if found == text {
            continue;
        }
        if args.check {
            bail!("{name} differs from what the registry renders");
        }
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
