//! What `apply` gives back: the answer for the submitter and the events for the
//! ledger.
//!
//! Invariant I16: every transition is an [`Event`] with the index of its entry,
//! whose word it was and why. Refused and repeated commands have no events.

use osmoda_proto::fleet::v1 as pb;
use osmoda_types::{
    AttemptId, ErrorCode, FleetEpoch, InviteId, MeshEpoch, NetworkId, NodeId, NodeState, PublicKey, Purpose, RaftId,
    RolloutId, RolloutState, StorePath, Vote,
};
use prost::Message as _;

/// The answer to one command. The same request gets the same one again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Index of the entry that was decisive.
    pub index: u64,
    /// Why the command had no effect, if it had none.
    pub refused: Option<ErrorCode>,
    /// Whether it had its effect before.
    pub repeated: bool,
    /// The attempt that a grant made.
    pub attempt: Option<AttemptId>,
    /// The fleet epoch that a proposal made.
    pub epoch: Option<FleetEpoch>,
}

impl Reply {
    pub(crate) fn refused(index: u64, code: ErrorCode) -> Self {
        Self { index, refused: Some(code), repeated: false, attempt: None, epoch: None }
    }

    /// The error, if the command was refused.
    ///
    /// # Errors
    /// The code it was refused with.
    pub fn result(&self) -> Result<(), ErrorCode> {
        self.refused.map_or(Ok(()), Err)
    }

    /// Encodes it as `osmoda.fleet.v1.Reply`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        pb::Reply::from(self).encode_to_vec()
    }

    /// Decodes an `osmoda.fleet.v1.Reply`.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] when the bytes are none, or name a code of
    /// another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, ErrorCode> {
        pb::Reply::decode(bytes).map_err(|_| ErrorCode::BadRequest)?.try_into()
    }
}

impl From<&Reply> for pb::Reply {
    fn from(reply: &Reply) -> Self {
        Self {
            index: reply.index,
            refused: reply.refused.map(|code| code.to_string()).unwrap_or_default(),
            repeated: reply.repeated,
            attempt: reply.attempt.map_or(0, |attempt| attempt.0),
            epoch: reply.epoch.map_or(0, |epoch| epoch.0),
        }
    }
}

impl TryFrom<pb::Reply> for Reply {
    type Error = ErrorCode;
    fn try_from(wire: pb::Reply) -> Result<Self, ErrorCode> {
        let refused = match wire.refused.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| ErrorCode::BadRequest)?),
        };
        Ok(Self {
            index: wire.index,
            refused,
            repeated: wire.repeated,
            attempt: (wire.attempt != 0).then_some(AttemptId(wire.attempt)),
            epoch: (wire.epoch != 0).then_some(FleetEpoch(wire.epoch)),
        })
    }
}

/// What one command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The answer.
    pub reply: Reply,
    /// What changed, in order.
    pub events: Vec<Event>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Index of the entry.
    pub index: u64,
    /// What changed.
    pub what: What,
    /// Whose word it was.
    pub signer: Signer,
    /// Why, as a fixed word: an error code, or a reason of this crate.
    pub reason: &'static str,
}

/// Whose word a change rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    /// An operator, who signed.
    Principal(PublicKey),
    /// A node, about itself.
    Node(NodeId),
    /// The leader that wrote the entry, within the rules of `apply`.
    Leader(RaftId),
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The fleet began.
    Begun(NetworkId),
    /// A member was admitted.
    Joined(NodeId),
    /// A member moved.
    Moved(NodeId),
    /// A member has new keys.
    KeysRotated(NodeId),
    /// A member was removed for good.
    Revoked(NodeId),
    /// The mesh began another epoch.
    EpochBegun(MeshEpoch),
    /// An invite was announced.
    InviteOpened(InviteId),
    /// An invite ended without a joiner.
    InviteExpired(InviteId),
    /// A daemon's key became known.
    SubkeyRegistered(NodeId, Purpose),
    /// A member became an elector.
    VoterRegistered(NodeId, RaftId),
    /// A principal was added or changed.
    PrincipalSet(PublicKey),
    /// A scope was frozen.
    Frozen(String),
    /// A freeze ended.
    Unfrozen(String),
    /// A target went on the deny-list.
    Denied(StorePath),
    /// A target came off the deny-list.
    Allowed(StorePath),
    /// A node's ledger grew.
    LedgerHead(NodeId, u64),
    /// A voter answered.
    Ballot(RolloutId, NodeId, Vote),
    /// A rollout moved on.
    Rollout {
        /// Which.
        rollout: RolloutId,
        /// From where; nothing for a new one.
        from: Option<RolloutState>,
        /// To where.
        to: RolloutState,
        /// In which wave.
        wave: Option<u32>,
    },
    /// A node of a rollout moved on.
    Node {
        /// Of which rollout.
        rollout: RolloutId,
        /// Who.
        node: NodeId,
        /// In which try.
        attempt: Option<AttemptId>,
        /// From where.
        from: NodeState,
        /// To where.
        to: NodeState,
    },
}
