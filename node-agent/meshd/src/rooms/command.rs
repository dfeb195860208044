//! What the owner of all rooms is asked, and what it answers.

use std::collections::BTreeSet;
use std::sync::Arc;

use osmoda_kit::error::ApiError;
use osmoda_mesh_rooms::{
    Hlc, IdPrefix, Line, MessageId, Refusal, RoomId, Signed, Snapshot, Summary, Ticket, Unverified, Verdict, Verified,
};
use osmoda_types::{NodeId, PublicKey};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::room::Confirmed;

/// Where an answer goes. Nobody listening is fine: the asker went away.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// Frames on their way to a peer, encoded once for all of them.
pub(crate) type Queue = mpsc::Sender<Arc<Vec<u8>>>;

/// What the fleet says of the creator of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Its key is that of a voter or node, or was that of the one that sends it:
    /// it may bring a room that is new here.
    pub(crate) begins: bool,
    /// The node it names for itself is a voter or node: its rooms may go on.
    pub(crate) goes_on: bool,
}

/// One question or order.
pub(crate) enum Command {
    /// All rooms of this node.
    List(Reply<Vec<Shown>>),
    /// One room with its newest messages.
    Show { room: RoomId, limit: usize, reply: Reply<Result<(Shown, Vec<Said>), ApiError>> },
    /// The ids of new messages, as they come.
    Tail { room: RoomId, reply: Reply<Result<broadcast::Receiver<MessageId>, ApiError>> },
    /// One message as it stands.
    Line { room: RoomId, id: MessageId, reply: Reply<Option<Said>> },
    /// Who has what of our own messages.
    Delivery { room: RoomId, reply: Reply<Result<Delivered, ApiError>> },
    /// Make a room.
    Create { signed: Signed, reply: Reply<Result<(), ApiError>> },
    /// Change who is a member, as the room's creator.
    Change { change: Change, reply: Reply<Result<Signed, ChangeRefused>> },
    /// Leave a room whose creator does not take this node out.
    LeaveHere { room: RoomId, reply: Reply<Result<(), ApiError>> },
    /// Be in a room again that was left so; false when it was not.
    Return { room: RoomId, reply: Reply<Result<bool, ApiError>> },
    /// Whether this node can be in one more room, if this peer made it.
    CanJoin { room: RoomId, peer: NodeId, reply: Reply<Result<(), ApiError>> },
    /// The rooms of this creator that were left so.
    Left { creator: NodeId, reply: Reply<Vec<RoomId>> },
    /// Write a message.
    Send { room: RoomId, text: String, reply: Reply<Result<SentMessage, ApiError>> },
    /// Take messages of a peer, whose signatures were checked.
    Ingest { from: NodeId, way: Way, messages: Vec<Verified>, reply: Reply<Vec<(MessageId, Verdict)>> },
    /// Which of these are new and worth a look at their signature.
    Unknown { from: NodeId, messages: Vec<Unverified>, reply: Reply<Screened> },
    /// Take a record that a peer was asked for; false when it is not newer, or not for this node.
    TakeRecord { from: NodeId, signed: Signed, standing: Standing, reply: Reply<bool> },
    /// The same, of one that this node did not ask for: it may wait for the next tick, and
    /// is answered false at once then.
    HearRecord { from: NodeId, signed: Signed, standing: Standing, reply: Reply<bool> },
    /// A member confirmed one of our messages, or did not.
    Acked { from: NodeId, id: MessageId, verdict: Verdict },
    /// Which sessions may be opened now.
    Begin { reply: Reply<Vec<Begin>> },
    /// A peer opens a session.
    Answer { from: NodeId, asked: Asked, reply: Reply<Result<Answered, Refusal>> },
    /// The peer took the session that we opened.
    Answered { room: RoomId, ticket: Ticket, reply: Reply<bool> },
    /// The messages behind what a peer asks for, if it still may.
    Resolve { room: RoomId, peer: NodeId, prefixes: Vec<IdPrefix>, reply: Reply<Vec<MessageId>> },
    /// Ids in the room's order.
    Sort { room: RoomId, ids: Vec<MessageId>, reply: Reply<Vec<MessageId>> },
    /// Whether the peer may read the room now.
    MayRead { room: RoomId, peer: NodeId, reply: Reply<bool> },
    /// Send a peer the room's record.
    OfferRecord { room: RoomId, peer: NodeId },
    /// A session is over.
    Release(Release),
    /// Heal a room with a peer when there is time.
    Want { room: RoomId, peer: NodeId },
    /// Look at retention now.
    #[cfg(test)]
    PruneNow { reply: Reply<()> },
    /// Let the store grow to so many pages at most.
    #[cfg(test)]
    LimitPages { pages: u32, reply: Reply<()> },
    /// Whom this node pushes to.
    #[cfg(test)]
    Links { reply: Reply<Vec<NodeId>> },
    /// A link is up; frames for the peer go here.
    LinkUp { peer: NodeId, queue: Queue },
    /// It is down.
    LinkDown { peer: NodeId },
}

/// Our own newest number, and what each other member has up to it.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) own_seq: u64,
    pub(crate) members: Vec<(NodeId, Confirmed)>,
}

/// How messages came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Some member pushed them: the rate of their author counts.
    Pushed,
    /// In a session of healing.
    Healed,
}

/// A room, for people.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) signed: Signed,
    pub(crate) messages: usize,
    pub(crate) bytes: u64,
    pub(crate) summary: Summary,
}

/// A message and its author's node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said {
    pub(crate) line: Line,
    pub(crate) node: NodeId,
}

/// A change of members.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) room: RoomId,
    pub(crate) by: NodeId,
    pub(crate) what: Membership,
}

/// In or out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Membership {
    /// Add a node with its key; `may_join` when the node asks for itself and its
    /// role could.
    Add { node: NodeId, key: PublicKey, may_join: bool },
    /// Take a node out.
    Remove { node: NodeId },
}

/// Why a change was not made.
#[derive(Debug)]
pub(crate) enum ChangeRefused {
    /// We are not the creator, or the asker may not.
    NotFound,
    /// No room for another.
    Full,
    /// It cannot be written.
    Store(ApiError),
}

/// A message of our own that is durable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SentMessage {
    pub(crate) id: MessageId,
    pub(crate) author_seq: u64,
    pub(crate) on_its_way: usize,
}

/// Messages before their signatures are looked at.
#[derive(Debug, Default)]
pub(crate) struct Screened {
    pub(crate) new: Vec<Unverified>,
    pub(crate) judged: Vec<(MessageId, Verdict)>,
}

/// A session to open.
#[derive(Debug)]
pub(crate) struct Begin {
    pub(crate) room: RoomId,
    pub(crate) peer: NodeId,
    pub(crate) ticket: Ticket,
    pub(crate) revision: u64,
    pub(crate) snapshot: Snapshot,
    pub(crate) skip: BTreeSet<MessageId>,
    pub(crate) ours: Ours,
    /// How often the peer was asked since the last session with it, this time included.
    pub(crate) in_vain: u32,
}

/// What a peer opens a session with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) room: RoomId,
    pub(crate) revision: u64,
    pub(crate) horizon_ms: u64,
    pub(crate) fingerprint: [u8; 32],
}

/// The session may begin.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) ticket: Ticket,
    pub(crate) snapshot: Snapshot,
    pub(crate) equal: bool,
    pub(crate) record: Option<Signed>,
    pub(crate) wants_record: bool,
    pub(crate) ours: Ours,
}

/// What this node has said in a room: its key there and its newest number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ours {
    pub(crate) key: PublicKey,
    pub(crate) seq: u64,
}

/// What a session has shown a peer to have of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Healed {
    /// What we had said when it began.
    pub(crate) ours: Ours,
    /// Nobody looked at what is older.
    pub(crate) horizon_ms: u64,
}

/// A session is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Release {
    pub(crate) room: RoomId,
    pub(crate) peer: NodeId,
    pub(crate) ticket: Ticket,
    /// What the peer has of ours, if it has all that the session was about.
    pub(crate) healed: Option<Healed>,
}

/// What the newest known moment of some rooms is, for the clock.
pub(crate) fn newest<'a>(logs: impl Iterator<Item = &'a osmoda_mesh_rooms::RoomLog>) -> Hlc {
    logs.map(osmoda_mesh_rooms::RoomLog::newest).max().unwrap_or_default()
}
