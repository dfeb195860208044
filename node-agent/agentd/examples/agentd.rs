//! agentd alone in a process, for tests that kill it; the product starts it as
//! `osmoda-node daemon agentd`.

use std::process::ExitCode;

use clap::Parser;
use osmoda_kit::boot::{self, BootArgs};

#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    boot: BootArgs,
}

fn main() -> ExitCode {
    boot::run::<osmoda_agentd::Agentd>(&Args::parse().boot)
}
