//! `osmoda-guard`: see the library. Exit codes: 0 the attempt needs no guard
//! any more, 1 the guard could not do its work, 2 wrong arguments, 3 the
//! baseline could not be restored.

use osmoda_guard::{Options, USAGE, UsageError, watch_over};
use osmoda_journal::Phase;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(UsageError::Help) => {
            say(USAGE);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            complain(&format!("osmoda-guard: {error}\n\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    // An own session: no terminal, no signal meant for the daemon's group. It
    // fails only for the leader of a group, which then has one already.
    if let Err(errno) = rustix::process::setsid()
        && errno != rustix::io::Errno::PERM
    {
        complain(&format!("osmoda-guard: no own session: {errno}\n"));
        return ExitCode::FAILURE;
    }
    match watch_over(&options, None) {
        Ok(Phase::RollbackFailed) => ExitCode::from(3),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("osmoda-guard: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Nobody may be reading; then nothing is lost.
fn say(text: &str) {
    std::io::stdout().lock().write_all(text.as_bytes()).unwrap_or_default();
}

fn complain(text: &str) {
    std::io::stderr().lock().write_all(text.as_bytes()).unwrap_or_default();
}
