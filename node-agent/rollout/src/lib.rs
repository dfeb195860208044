//! The replicated state of a fleet as one pure function.
//!
//! [`FleetState::apply`] takes one committed command and gives its outcome:
//! the same on every voter, on the controller that replays the log, and in a
//! test. It enforces `rollout.md` 5.2 and invariants I1, I2, I3, I8, I10, I11,
//! I13, I15 and I16, whoever wrote the entry; a stale or faulty leader can
//! propose what it likes. No clock, no random numbers, no I/O: periods come as
//! commands, and what a driver or a node should do next is read with the pure
//! functions of [`FleetState`] in `view`.

mod apply;
mod mutant;
mod outcome;
mod rollout;
mod signature;
mod snapshot;
mod state;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod view;

pub use outcome::{Event, Outcome, Reply, Signer, What};
pub use rollout::{Cause, Elector, PauseReason, Phase, Rollout, Row, Running};
pub use snapshot::SnapshotError;
pub use state::{
    Denied, FleetState, Freeze, InviteEntry, InviteState, MemberEntry, PrincipalEntry, Revoked, SpentKeys,
};
pub use view::{Desired, Move, Timer};
