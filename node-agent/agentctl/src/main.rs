//! Node-local command line: it reads the ledger's file itself, so it works when
//! every daemon is down.
//!
//! Exit codes of `verify-ledger` (`trust.md` 1.5): 0 verified, 1 chain or tree
//! broken, 2 head not covered by the quorum, 3 a witness holds a larger or another
//! head, 4 grammar, 5 act without intent, 6 stale. Of every command: 64 usage, 66
//! no ledger there, 69 the daemon does not answer, 74 output or input failed.

mod args;
mod events;
mod export;
mod failure;
mod health;
mod text;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};
use crate::failure::Failure;

/// Exit code for arguments that cannot be understood (`sysexits.h`). Clap's own
/// is 2, which here means "head not covered by a quorum".
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let is_fault = error.use_stderr();
            // Nothing better can be done about a terminal that does not take the text.
            let printed = error.print().is_ok();
            return if is_fault || !printed { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match run(&args) {
        Ok(code) => ExitCode::from(code),
        // A reader such as `head` that has seen enough is not an error.
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.exit_code();
            let line = format!("agentctl: {}\n", osmoda_kit::error::chain(&failure));
            if std::io::stderr().write_all(line.as_bytes()).is_err() {
                return ExitCode::from(code);
            }
            ExitCode::from(code)
        }
    }
}

fn run(args: &Args) -> Result<u8, Failure> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let code = match &args.command {
        Command::VerifyLedger(options) => verify::run(args, options, &mut out)?,
        Command::Events(options) => events::list(args, options, &mut out)?,
        Command::Export(options) => match &options.to {
            Some(dir) => export::run(args, options, dir, &mut out)?,
            None => events::export(args, &mut out)?,
        },
        Command::Stats { json } => events::stats(args, *json, &mut out)?,
        Command::Health => health::run(args, &mut out)?,
    };
    out.flush()?;
    Ok(code)
}
