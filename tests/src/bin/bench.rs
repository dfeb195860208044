//! `bench [--list | NAME...]`: runs whole-system benchmarks.
//!
//! Each prints a table and, last, one JSON line. Exit 0 when every benchmark
//! ran, whatever it measured: whether targets are met is in the JSON. Exit 1
//! when one could not run, 64 for a name that does not exist.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use osmoda_tests::bench;
use osmoda_tests::bench::mesh::connect;
use osmoda_tests::bench::raft::voter::{self, VoterArgs};

/// Exit code for a name that is no benchmark (`sysexits.h`).
const EXIT_USAGE: u8 = 64;

/// Whole-system benchmarks.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,

    /// Print the names and leave.
    #[arg(long)]
    list: bool,

    /// Which to run; none means all.
    names: Vec<String>,
}

/// What a benchmark starts this program again for.
#[derive(Debug, Subcommand)]
enum Part {
    /// One voter of `raft`.
    #[command(name = voter::COMMAND, hide = true)]
    RaftVoter(VoterArgs),
    /// Connect times of `mesh`, with the primitives of this build.
    #[command(name = connect::COMMAND, hide = true)]
    MeshConnect {
        /// How often both sides are measured.
        rounds: usize,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let mut out = std::io::stdout().lock();
    match args.part {
        Some(Part::RaftVoter(args)) => {
            drop(out);
            voter::run(&args)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Part::MeshConnect { rounds }) => {
            serde_json::to_writer(&mut out, &connect::take(rounds)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    if args.list {
        for bench in bench::ALL {
            writeln!(out, "{:10} {}", bench.name, bench.about)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut chosen = Vec::new();
    for name in &args.names {
        let Some(bench) = bench::find(name) else {
            writeln!(std::io::stderr(), "no benchmark is called {name:?}; see --list")?;
            return Ok(ExitCode::from(EXIT_USAGE));
        };
        chosen.push(bench);
    }
    if args.names.is_empty() {
        chosen.extend(bench::ALL);
    }
    for bench in chosen {
        (bench.run)()?.print(&mut out)?;
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}
