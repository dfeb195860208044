//! Faults of the machine under real voters: `faults disk-full`.
//!
//! Exit codes: 0 passed, 1 failed, 2 usage, 3 the machine lacks a prerequisite.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use osmoda_tests::faults::{self, FaultError};

/// Runs one scenario.
#[derive(Debug, Parser)]
#[command(name = "faults")]
struct Args {
    /// Which one.
    scenario: Scenario,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Scenario {
    /// A voter's disk runs full and gets space again.
    DiskFull,
}

fn main() -> ExitCode {
    let Args { scenario: Scenario::DiskFull } = Args::parse();
    match run() {
        Ok(()) => {
            say("disk-full: passed");
            ExitCode::SUCCESS
        }
        Err(FaultError::Prerequisite(missing)) => {
            say(&format!("error: {}", FaultError::Prerequisite(missing)));
            ExitCode::from(3)
        }
        Err(FaultError::Failed(error)) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), FaultError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    runtime.block_on(faults::disk_full(&mut say))
}

/// Progress, on standard error; nobody there to read it is no reason to stop.
fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}
