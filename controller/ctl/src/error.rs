//! An error as the user reads it: one line what, one why, one what next.

use std::fmt;

use osmoda_types::ErrorCode;

use crate::exit::Exit;

/// What a command ends with when it does not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CliError {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What failed.
    pub(crate) what: String,
    /// Why.
    pub(crate) why: String,
    /// What the user can do about it.
    pub(crate) next: Option<String>,
    /// The controller's name for the request, shown with `--verbose`.
    pub(crate) request_id: Option<String>,
    /// The controller's code, where the refusal came from it.
    pub(crate) code: Option<ErrorCode>,
}

impl CliError {
    pub(crate) fn new(exit: Exit, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { exit, what: what.into(), why: why.into(), next: None, request_id: None, code: None }
    }

    pub(crate) fn usage(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what, why)
    }

    pub(crate) fn failed(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Exit::Failed, what, why)
    }

    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// The same error about something larger.
    pub(crate) fn about(mut self, what: impl Into<String>) -> Self {
        self.what = what.into();
        self
    }

    /// A refusal of the controller.
    pub(crate) fn refused(what: &str, body: osmoda_controller_api::ErrorBody) -> Self {
        Self {
            exit: Exit::of_code(body.code),
            what: what.to_owned(),
            why: format!("{} ({})", body.error, body.code),
            next: advice(body.code).map(str::to_owned),
            request_id: (!body.request_id.is_empty()).then_some(body.request_id),
            code: Some(body.code),
        }
    }

    /// The text for standard error.
    pub(crate) fn render(&self, verbose: bool) -> String {
        let mut text = format!("error: {}\n  why: {}\n", self.what, self.why);
        if let Some(next) = &self.next {
            text.push_str(&format!(" next: {next}\n"));
        }
        if let (true, Some(id)) = (verbose, &self.request_id) {
            text.push_str(&format!("   id: {id}\n"));
        }
        text
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl std::error::Error for CliError {}

impl From<std::io::Error> for CliError {
    /// Only writes to standard output end here: everything else names its file.
    fn from(error: std::io::Error) -> Self {
        CliError::failed("cannot write the output", error.to_string())
    }
}

/// What usually helps.
fn advice(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::Unauthorized => "check the token of the context: osmoda doctor",
        ErrorCode::RolloutUnknown => "osmoda rollout ls",
        ErrorCode::NodeUnknown => "osmoda node ls",
        ErrorCode::ManifestUnknown => "osmoda rollout start uploads the manifest by itself",
        ErrorCode::TargetDenied => "build another target, or take it off the list: osmoda target allow PATH --key FILE",
        ErrorCode::EpochStale => "another proposal came first; look at it, then start again",
        ErrorCode::RolloutConflict => "osmoda rollout ls; wait for the running one or abort it",
        ErrorCode::FreezeLocked => "osmoda freeze ls",
        ErrorCode::PrincipalUnknown | ErrorCode::PrincipalDenied => "osmoda operator ls",
        ErrorCode::SignatureInvalid => "was the key file of this fleet's operator used, and is the context right?",
        ErrorCode::RaftUnavailable | ErrorCode::NotLeader => "a quorum of voters must be up: osmoda doctor",
        ErrorCode::OutcomeUnknown => "it may have been done: look before you repeat it; repeating with --id is safe",
        ErrorCode::Busy => "try again in a moment",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_why_and_what_next() {
        let body = osmoda_controller_api::ErrorBody {
            error: "no rollout has this id".into(),
            code: ErrorCode::RolloutUnknown,
            request_id: "req_1".into(),
        };
        let error = CliError::refused("cannot show the rollout", body);
        assert_eq!(error.exit, Exit::NotFound);
        let expected = "error: cannot show the rollout\n  why: no rollout has this id (rollout_unknown)\n \
                        next: osmoda rollout ls\n";
        assert_eq!(error.render(false), expected);
        assert_eq!(error.render(true), format!("{expected}   id: req_1\n"));
    }
}
