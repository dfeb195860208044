//! Project tasks: `cargo xtask <task>`.
//!
//! Every check that CI makes is a task here, so that a person can run the same
//! check by the same name. What must hold: a task that cannot do its work fails
//! and says why; it never prints success for something it did not look at. This
//! program builds, checks and starts things; the programs it starts (demo, hosts,
//! bench) live in the `tests` crate.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a terminal program for developers; it keeps no log")]
#![expect(clippy::disallowed_methods, reason = "starts cargo, git and apt with the developer's own environment")]

mod ci;
mod codegen;
mod deny;
mod layers;
mod programs;
mod run;
mod setup;
mod test;
mod tidy;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Project tasks of osModa fleet.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// The main job end to end: one controller, five nodes, four rollouts.
    Demo(Passed),
    /// Every test of the workspace, with real processes.
    Test(test::TestArgs),
    /// Everything that must be green before a change lands.
    Ci,
    /// One benchmark by name, or --list.
    Bench(Passed),
    /// Shape rules of STYLE.md that a compiler does not check.
    Tidy,
    /// The table of which crate may depend on which.
    Layers,
    /// Banned crates, licences, sources.
    Deny,
    /// Regenerates what is generated and checked in; --check only compares.
    Codegen(codegen::CodegenArgs),
    /// Real hosts in namespaces: up N, down, scenario NAME|all.
    Hosts(Passed),
    /// A local development fleet: up, down.
    Dev(Passed),
}

/// Arguments that are handed on unchanged to the program behind the task.
#[derive(Debug, clap::Args)]
struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

fn main() -> ExitCode {
    match dispatch(Args::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: Task) -> anyhow::Result<ExitCode> {
    match task {
        Task::Demo(passed) => programs::demo(&passed.rest),
        Task::Bench(passed) => programs::bench(&passed.rest),
        Task::Hosts(passed) => programs::hosts(&passed.rest),
        Task::Dev(passed) => programs::dev(&passed.rest),
        Task::Test(args) => test::run(&args).map(|()| ExitCode::SUCCESS),
        Task::Ci => ci::run().map(|()| ExitCode::SUCCESS),
        Task::Tidy => tidy::run().map(|()| ExitCode::SUCCESS),
        Task::Layers => layers::run().map(|()| ExitCode::SUCCESS),
        Task::Deny => deny::run().map(|()| ExitCode::SUCCESS),
        Task::Codegen(args) => codegen::run(&args).map(|()| ExitCode::SUCCESS),
    }
}
