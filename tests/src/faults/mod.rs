//! Faults of the machine under a whole fleet of real processes.
//!
//! Invariant: a fault is made on the machine itself, never inside a program,
//! and what came of it is read from each voter's own socket and files.

mod disk;
mod tmpfs;

pub use disk::full as disk_full;

/// Why a scenario did not pass.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// The machine lacks something; nothing was started.
    #[error("this machine lacks: {0}")]
    Prerequisite(&'static str),
    /// Something was not as it must be.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}
