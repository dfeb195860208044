//! The dead-man: restores the baseline of an attempt without help.
//!
//! It is started before an activation and ends when the attempt needs no
//! guard any more. It needs the journal file, the generation store and the
//! baseline's own program; no network, no D-Bus, no other daemon, no runtime.
//! It acts alone when an activation or a probation takes too long, when the
//! quorum has not been heard for the dead-man time, when the host restarted,
//! and when a rollback was recorded and whoever recorded it has died.
//!
//! The dead-man time is not extended here; a rule that lets a host wait longer
//! when other hosts are reachable (`T_max`) would be one more arm of
//! [`judge`], fed by a record kind of its own.

mod options;
mod verdict;
mod watching;

pub use options::{Options, USAGE, UsageError};
pub use verdict::{ARM_TIME_MAX, GRACE, Verdict, judge};
pub use watching::{GuardError, watch_over};
