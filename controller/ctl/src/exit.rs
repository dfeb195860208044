//! The exit codes, in one place (`ux.md` section 2).
//!
//! Invariant: scripts act on these numbers; a number never changes its meaning.
//! `osmoda ledger verify` is the exception that its help names: its numbers are
//! those of every ledger verifier (`trust.md` 1.5).

use osmoda_types::{ErrorCode, RolloutState};

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// It failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The thing does not exist.
    NotFound = 3,
    /// Not allowed, or not authenticated.
    Denied = 4,
    /// It contradicts the present state, or the quorum said no.
    Conflict = 5,
    /// It was not over in time.
    TimedOut = 6,
    /// The service asks for payment.
    PaymentRequired = 7,
    /// It works, but not as it should.
    Degraded = 8,
    /// The user pressed Ctrl-C.
    Interrupted = 130,
}

impl Exit {
    /// Every code; the help is compared with them.
    #[cfg(test)]
    pub(crate) const ALL: [Exit; 10] = [
        Exit::Ok,
        Exit::Failed,
        Exit::Usage,
        Exit::NotFound,
        Exit::Denied,
        Exit::Conflict,
        Exit::TimedOut,
        Exit::PaymentRequired,
        Exit::Degraded,
        Exit::Interrupted,
    ];

    /// The number.
    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    /// What it means; the help is compared with it.
    #[cfg(test)]
    pub(crate) const fn about(self) -> &'static str {
        match self {
            Exit::Ok => "ok",
            Exit::Failed => "failed",
            Exit::Usage => "usage",
            Exit::NotFound => "not found",
            Exit::Denied => "denied or not authenticated",
            Exit::Conflict => "conflict, or rejected by the quorum",
            Exit::TimedOut => "timed out",
            Exit::PaymentRequired => "payment required",
            Exit::Degraded => "degraded",
            Exit::Interrupted => "interrupted",
        }
    }

    /// The code for a refusal of the controller.
    pub(crate) const fn of_code(code: ErrorCode) -> Self {
        match code.http_status() {
            404 => Exit::NotFound,
            401 | 403 => Exit::Denied,
            402 => Exit::PaymentRequired,
            409 | 410 | 412 | 423 => Exit::Conflict,
            504 => Exit::TimedOut,
            _ => Exit::Failed,
        }
    }

    /// The code for a rollout that was waited for.
    pub(crate) const fn of_ended(state: RolloutState) -> Self {
        match state {
            RolloutState::Committed => Exit::Ok,
            RolloutState::Rejected | RolloutState::Expired | RolloutState::Superseded => Exit::Conflict,
            _ => Exit::Failed,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_documentation() {
        let numbers: Vec<u8> = Exit::ALL.iter().map(|exit| exit.number()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 130]);
    }

    #[test]
    fn refusals_map_by_what_a_script_would_do() {
        assert_eq!(Exit::of_code(ErrorCode::RolloutUnknown), Exit::NotFound);
        assert_eq!(Exit::of_code(ErrorCode::Unauthorized), Exit::Denied);
        assert_eq!(Exit::of_code(ErrorCode::PrincipalDenied), Exit::Denied);
        assert_eq!(Exit::of_code(ErrorCode::TargetDenied), Exit::Conflict);
        assert_eq!(Exit::of_code(ErrorCode::FreezeLocked), Exit::Conflict);
        assert_eq!(Exit::of_code(ErrorCode::OutcomeUnknown), Exit::TimedOut);
        assert_eq!(Exit::of_code(ErrorCode::RaftUnavailable), Exit::Failed);
    }

    #[test]
    fn only_a_committed_rollout_is_success() {
        for state in RolloutState::ALL.iter().filter(|state| state.is_terminal()) {
            let ok = Exit::of_ended(*state) == Exit::Ok;
            assert_eq!(ok, *state == RolloutState::Committed, "{state}");
        }
        assert_eq!(Exit::of_ended(RolloutState::Rejected), Exit::Conflict);
        assert_eq!(Exit::of_ended(RolloutState::RolledBack), Exit::Failed);
    }
}
