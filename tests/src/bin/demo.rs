//! `demo [--json] [--keep] [--short]`: the main job on this machine.
//!
//! Exit 0 only when every claim was checked and held, 1 otherwise.

use std::process::ExitCode;

use clap::Parser as _;
use osmoda_tests::demo;

fn main() -> anyhow::Result<ExitCode> {
    let ok = demo::run(&demo::Options::parse())?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
