//! How starting, proposing, reading and changing members can fail.
//!
//! Invariant: "unknown" is said whenever a command may have been written, and
//! every other refusal means that it was not.

use osmoda_types::ErrorCode;

use crate::store::StoreFault;
use crate::types::Member;

/// Why a voter did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log or snapshot cannot be used.
    #[error("the raft data of this voter cannot be used")]
    Store(#[from] StoreFault),
    /// The log is gone although it must be there.
    #[error("the raft log is gone; voting now could undo what this voter promised")]
    Amnesia,
    /// The data directory cannot be made.
    #[error("the data directory cannot be used")]
    Directory(#[source] osmoda_kit::fsio::FsError),
    /// The timing is contradictory.
    #[error("the raft timing is invalid")]
    Timing(#[source] Box<openraft::ConfigError>),
    /// openraft gave up while reading its state.
    #[error("raft did not start")]
    Raft(#[source] Box<openraft::error::Fatal<u64>>),
    /// The blocking open panicked.
    #[error("opening the raft data failed")]
    Blocking(#[source] osmoda_kit::tasks::BlockingFailed),
}

impl StartError {
    /// The code for the operator.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Store(fault) => fault.code(),
            Self::Amnesia => ErrorCode::RaftAmnesia,
            Self::Directory(error) => error.code(),
            Self::Timing(_) => ErrorCode::ConfigInvalid,
            Self::Raft(_) | Self::Blocking(_) => ErrorCode::RaftLogCorrupt,
        }
    }
}

/// Why a proposal was not (or may not have been) committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another voter leads; nothing was written.
    #[error("this voter does not lead")]
    NotLeader {
        /// Who does, if this voter knows.
        leader: Option<Member>,
    },
    /// It may or may not be committed; repeating it with the same id is safe.
    #[error("the outcome is unknown; ask again with the same request id")]
    Unknown,
    /// The queue is full; nothing was written.
    #[error("too many proposals wait")]
    Busy,
    /// No quorum answers, or this voter has stopped; nothing was written.
    #[error("no quorum of voters answers")]
    Unavailable,
    /// The command is over [`crate::COMMAND_BYTES_MAX`]; nothing was written.
    #[error("the command has {bytes} bytes, over the limit")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

impl ProposeError {
    /// The code at the edge.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotLeader { .. } => ErrorCode::NotLeader,
            Self::Unknown => ErrorCode::OutcomeUnknown,
            Self::Busy => ErrorCode::Busy,
            Self::Unavailable => ErrorCode::RaftUnavailable,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
        }
    }
}

/// Why a linearizable read was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Another voter leads.
    #[error("this voter does not lead")]
    NotLeader {
        /// Who does, if this voter knows.
        leader: Option<Member>,
    },
    /// Too many readers wait.
    #[error("too many readers wait")]
    Busy,
    /// No quorum confirmed this leader in time.
    #[error("no quorum of voters answers")]
    Unavailable,
}

impl ReadError {
    /// The code at the edge.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotLeader { .. } => ErrorCode::NotLeader,
            Self::Busy => ErrorCode::Busy,
            Self::Unavailable => ErrorCode::RaftUnavailable,
        }
    }
}

/// Why the members were not changed, or the leader did not step aside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Another voter leads.
    #[error("this voter does not lead")]
    NotLeader {
        /// Who does, if this voter knows.
        leader: Option<Member>,
    },
    /// Another change is not finished.
    #[error("another change of the members is in progress")]
    InProgress,
    /// The set is empty, of even size two, or names someone unknown.
    #[error("the set of voters is not allowed: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// The log is not empty, so nothing may be begun.
    #[error("this voter already belongs to a fleet")]
    AlreadyBegun,
    /// Nobody took over; this voter leads on.
    #[error("no other voter took over")]
    NoSuccessor,
    /// It may or may not have happened; look at the members.
    #[error("the outcome is unknown; look at the members")]
    Unknown,
    /// This voter has stopped.
    #[error("this voter has stopped")]
    Stopped,
}

impl MembershipError {
    /// The code at the edge.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotLeader { .. } => ErrorCode::NotLeader,
            Self::InProgress | Self::AlreadyBegun => ErrorCode::Conflict,
            Self::Invalid { .. } => ErrorCode::BadRequest,
            Self::NoSuccessor | Self::Stopped => ErrorCode::RaftUnavailable,
            Self::Unknown => ErrorCode::OutcomeUnknown,
        }
    }
}
