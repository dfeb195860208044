//! osmoda, the operator's command line: a client of the controller's REST
//! interface that signs orders with the operator's own key.
//!
//! Invariant: the operator's secret key never leaves this process; the
//! controller gets signatures only. Data goes to standard output, everything
//! else to standard error; the exit code is one of [`exit::Exit`].

mod cli;
mod client;
mod command;
mod context;
mod error;
mod exit;
mod kept;
mod local;
mod output;
mod progress;
mod session;
mod sse;
mod witnessed;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::Cli;
use crate::error::CliError;
use crate::exit::Exit;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let verbose = cli.global.verbose;
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let written = std::io::stderr().write_all(error.render(verbose).as_bytes());
            // With standard error gone only the exit code is left to tell.
            drop(written);
            error.exit.into()
        }
    }
}

/// Help and version end well; anything else clap says is a usage error.
fn usage(error: &clap::Error) -> ExitCode {
    let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
    match error.print() {
        Ok(()) => exit.into(),
        Err(_) => Exit::Failed.into(),
    }
}

fn run(cli: Cli) -> Result<Exit, CliError> {
    if let cli::Command::Dev(command) = cli.command {
        // It starts and awaits programs; nothing of it is asynchronous.
        return command::dev::run(&cli.global, &command);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed("cannot start", error.to_string()))?;
    runtime.block_on(async {
        let work = command::run(cli);
        tokio::select! {
            // Dropping `ctrl_c` loses nothing: the program is about to end.
            signal = tokio::signal::ctrl_c() => match signal {
                Ok(()) => Ok(Exit::Interrupted),
                Err(error) => Err(CliError::failed("cannot listen for Ctrl-C", error.to_string())),
            },
            // Dropping the work drops one HTTP call; what the controller
            // accepted goes on, which is what Ctrl-C of a client means.
            done = work => done,
        }
    })
}
