//! How a command says that it failed: one line what, one line why, an exit code.

use std::io::Write as _;
use std::process::ExitCode;

use osmoda_kit::boot::{EXIT_FAILED, EXIT_USAGE};
use osmoda_kit::error::{ApiError, chain};
use osmoda_types::ErrorCode;

use crate::{enrol, host, supervise};

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    what: &'static str,
    why: String,
    code: ErrorCode,
}

impl Failure {
    /// Something was not done, for this reason.
    pub(crate) fn new(what: &'static str, code: ErrorCode, why: impl Into<String>) -> Self {
        Self { what, why: why.into(), code }
    }

    /// A local daemon refused or did not answer.
    pub(crate) fn daemon(what: &'static str, error: &ApiError) -> Self {
        Self::new(what, error.code, error.message.clone())
    }

    /// No async runtime.
    pub(crate) fn runtime(error: std::io::Error) -> Self {
        Self::new("could not start", ErrorCode::Internal, error.to_string())
    }

    /// The result could not be shown.
    pub(crate) fn output(error: std::io::Error) -> Self {
        Self::new("could not write the result", ErrorCode::Internal, error.to_string())
    }

    /// The kernel does not tie this process to its supervisor.
    pub(crate) fn supervisor(error: rustix::io::Errno) -> Self {
        Self::new("the daemon did not start", ErrorCode::Unsupported, format!("no parent death signal: {error}"))
    }

    /// Says it on standard error. Returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let text = format!("error: {}\n  why: {} ({})\n", self.what, self.why, self.code);
        // With standard error gone, only the exit code is left to tell.
        drop(std::io::stderr().write_all(text.as_bytes()));
        match self.code {
            ErrorCode::ConfigInvalid | ErrorCode::BadRequest | ErrorCode::InviteMalformed => EXIT_USAGE.into(),
            _ => EXIT_FAILED.into(),
        }
    }
}

impl From<enrol::Error> for Failure {
    fn from(error: enrol::Error) -> Self {
        Self::new("this host did not become a node", error.code(), chain(&error))
    }
}

impl From<host::Error> for Failure {
    fn from(error: host::Error) -> Self {
        Self::new("this host cannot run the daemon", error.code(), chain(&error))
    }
}

impl From<supervise::Error> for Failure {
    fn from(error: supervise::Error) -> Self {
        Self::new("the node does not run", error.code(), chain(&error))
    }
}
