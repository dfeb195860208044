//! What endpoints and benches ask of the rooms: the words of `node-agent/api`
//! in, the owner's answers out.

use osmoda_kit::clock::Timestamp;
use osmoda_kit::error::ApiError;
use osmoda_mesh_rooms::{
    Blob, Body, Frame, Hlc, Join, Member, MessageId, Record, RecordError, Refusal, Retention, RoomId, Signed,
    Unverified,
};
use osmoda_node_api::mesh::Service;
use osmoda_node_api::rooms::{
    CreateRoom, Deliveries, Delivery, Forgotten, JoinRule, Room, RoomMessage, RoomSummary, Sent,
};
use osmoda_types::{ErrorCode, NodeId, Role};
use tokio::io::split;
use tokio::sync::broadcast;

use super::Rooms;
use super::command::{Change, ChangeRefused, Command, Membership, Said, Shown};
use super::cx::Cx;
use super::inbound::{FRAME_TIME, take_answer};
use super::wire::{FrameReader, send};

/// Messages in the answer of `/room/create` and `/room/join`.
const SHOWN: usize = 50;

impl Rooms {
    /// All rooms of this node.
    ///
    /// # Errors
    /// `ShuttingDown`.
    pub async fn list(&self) -> Result<Vec<RoomSummary>, ApiError> {
        let rooms = self.cx.ask(Command::List).await?;
        let summary = |shown: Shown| RoomSummary {
            id: shown.signed.id().to_string(),
            name: shown.signed.record().name.clone(),
            member_count: shown.signed.record().present().count(),
            message_count: shown.messages,
            created_at: moment(shown.signed.record().created_ms),
        };
        Ok(rooms.into_iter().map(summary).collect())
    }

    /// Makes a room of this node and others.
    ///
    /// # Errors
    /// `BadRequest` for a name or retention that cannot be, `NodeUnknown`,
    /// `QuotaExceeded`, and the store's codes.
    pub async fn create(&self, create: &CreateRoom) -> Result<Room, ApiError> {
        let (own, identity) = (self.cx.mesh.local_id(), self.cx.mesh.identity());
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(ApiError::internal)?;
        let default = Retention::default();
        let mut record = Record {
            creator: identity.identity_key(),
            nonce,
            name: create.name.clone(),
            created_ms: u64::try_from(self.clock.now_wall().as_millis()).unwrap_or(0),
            revision: 1,
            join: match create.join {
                JoinRule::Added => Join::Added,
                JoinRule::Fleet => Join::Fleet,
            },
            retention: Retention {
                messages: create.retain_messages.unwrap_or(default.messages),
                days: create.retain_days.unwrap_or(default.days),
            },
            members: vec![Member { node: own, key: identity.identity_key(), left: None }],
        };
        for peer in create.peer_ids.iter().filter(|peer| **peer != own) {
            record = record.with(*peer, self.key_of(peer)?).map_err(bad_record)?;
        }
        let signed = record.sign(|bytes| identity.sign(bytes)).map_err(bad_record)?;
        let id = signed.id();
        self.cx.ask(|reply| Command::Create { signed, reply }).await??;
        self.show(id, SHOWN).await
    }

    /// The identity key of a node that may be in rooms.
    fn key_of(&self, node: &NodeId) -> Result<osmoda_types::PublicKey, ApiError> {
        let members = self.cx.mesh.members();
        let member = members.by_node(node).filter(|member| member.role != Role::Controller);
        member.map(|member| member.identity_key).ok_or_else(|| {
            ApiError::new(ErrorCode::NodeUnknown, format!("{node} is no node of this fleet that can be in a room"))
        })
    }

    /// Adds a node to a room: here if this node made it, else by asking the node
    /// that did. A room that is not known here is asked for at all linked peers;
    /// the one that made it decides.
    ///
    /// # Errors
    /// `NotFound`, `NodeUnknown`, `PeerOffline` when the creator is not linked,
    /// `QuotaExceeded` when the room is full or this node is in too many, and the
    /// store's codes.
    pub async fn join(&self, room: RoomId, node: Option<NodeId>) -> Result<Room, ApiError> {
        let own = self.cx.mesh.local_id();
        let node = node.unwrap_or(own);
        let key = self.key_of(&node)?;
        let frame = Frame::Join { room, node: node.into() };
        let what = Membership::Add { node, key, may_join: true };
        if node == own && self.cx.ask(|reply| Command::Return { room, reply }).await?? {
            return self.show(room, SHOWN).await;
        }
        match self.creator(room).await? {
            Some(creator) if creator == own => self.change_here(room, what).await?,
            // This node is in the room.
            Some(creator) => self.ask_creator(creator, room, &frame).await?,
            None if node == own => self.ask_everybody(room, &frame).await?,
            None => return Err(super::owner::unknown_room()),
        }
        self.show(room, SHOWN).await
    }

    /// Takes a node out of a room: itself, or any by the room's creator. This node
    /// leaves whatever the creator says; one that is away hears it when it is linked.
    ///
    /// # Errors
    /// As [`Rooms::join`]; `Conflict` for the creator itself.
    pub async fn leave(&self, room: RoomId, node: Option<NodeId>) -> Result<(), ApiError> {
        let own = self.cx.mesh.local_id();
        let node = node.unwrap_or(own);
        let creator = self.creator(room).await?.ok_or_else(super::owner::unknown_room)?;
        if creator == node {
            let text = "the node that made a room signs its record and cannot leave it";
            return Err(ApiError::new(ErrorCode::Conflict, text));
        }
        if creator == own {
            return self.change_here(room, Membership::Remove { node }).await;
        }
        let asked = self.ask_creator(creator, room, &Frame::Leave { room, node: node.into() }).await;
        if node != own {
            return asked;
        }
        match self.cx.ask(|reply| Command::LeaveHere { room, reply }).await? {
            // The creator has taken it out.
            Err(error) if error.code == ErrorCode::NotFound => Ok(()),
            left => left,
        }
    }

    async fn creator(&self, room: RoomId) -> Result<Option<NodeId>, ApiError> {
        match self.cx.ask(|reply| Command::Show { room, limit: 0, reply }).await? {
            Ok((shown, _)) => Ok(creator_of(&shown.signed)),
            Err(error) if error.code == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn change_here(&self, room: RoomId, what: Membership) -> Result<(), ApiError> {
        let change = Change { room, by: self.cx.mesh.local_id(), what };
        match self.cx.ask(|reply| Command::Change { change, reply }).await? {
            Ok(_) => Ok(()),
            Err(ChangeRefused::NotFound) => Err(super::owner::unknown_room()),
            Err(ChangeRefused::Full) => Err(full()),
            Err(ChangeRefused::Store(error)) => Err(error),
        }
    }

    /// Asks whoever may be a room's creator, and takes the room's record from it.
    async fn ask_creator(&self, creator: NodeId, room: RoomId, frame: &Frame) -> Result<(), ApiError> {
        match question(&self.cx, creator, frame).await? {
            // It may be valid and newer, but it is no answer.
            Frame::Record(Blob(wire)) if Signed::decode(&wire).is_ok_and(|signed| signed.id() != room) => {
                Err(super::owner::unknown_room())
            }
            Frame::Record(Blob(wire)) => {
                let text = "the answer of the room's creator is no record";
                let taken = take_answer(&self.cx, creator, &wire).await;
                taken.map(drop).map_err(|error| ApiError::new(ErrorCode::OutcomeUnknown, text).with_source(error))
            }
            Frame::Refused(Refusal::Full) => Err(full()),
            Frame::Refused(Refusal::Busy) => {
                let text = "the room's creator was asked too often by this node";
                Err(ApiError::new(ErrorCode::Busy, text))
            }
            Frame::Refused(Refusal::Store) => {
                Err(ApiError::new(ErrorCode::StateDirUnusable, "the room's creator could not write the change"))
            }
            _ => Err(super::owner::unknown_room()),
        }
    }

    /// Asks each linked peer to take this node into a room that may be its own, until
    /// this node is in it, whatever they answer. Where there is no place for a room of that
    /// peer, it is not asked: the others would list this node for nothing.
    async fn ask_everybody(&self, room: RoomId, frame: &Frame) -> Result<(), ApiError> {
        let linked: Vec<NodeId> = self.cx.mesh.subscribe().borrow().nodes().collect();
        let mut last = super::owner::unknown_room();
        let says_why =
            |code| matches!(code, ErrorCode::QuotaExceeded | ErrorCode::StateDirUnusable | ErrorCode::DiskFull);
        let can_join = async |peer| self.cx.ask(|reply| Command::CanJoin { room, peer, reply }).await?;
        for peer in linked {
            let joined = match can_join(peer).await {
                Ok(()) => self.ask_creator(peer, room, frame).await,
                Err(error) => Err(error),
            };
            let joined = match joined {
                Ok(()) if self.creator(room).await?.is_some() => return Ok(()),
                // The place went, or the store failed; or its record has others in it.
                Ok(()) => can_join(peer).await,
                Err(error) => Err(error),
            };
            match joined {
                Ok(()) => tracing::debug!(%peer, "room not joined there: its record is not taken"),
                Err(error) if says_why(error.code) => last = error,
                // Not its creator, or not to be reached.
                Err(error) => tracing::debug!(%peer, code = %error.code, "room not joined there"),
            }
        }
        Err(last)
    }

    /// Writes a message; it is durable here when this returns, and on its way to
    /// every linked member.
    ///
    /// # Errors
    /// `NotFound`, `TooLarge`, `QuotaExceeded`, and the store's codes.
    pub async fn send(&self, room: RoomId, text: String) -> Result<Sent, ApiError> {
        let sent = self.cx.ask(|reply| Command::Send { room, text, reply }).await??;
        Ok(Sent { delivered_to: sent.on_its_way, id: sent.id.to_string(), author_seq: sent.author_seq })
    }

    /// The room and its newest messages, in their order.
    ///
    /// # Errors
    /// `NotFound`, and the store's codes.
    pub async fn show(&self, room: RoomId, limit: usize) -> Result<Room, ApiError> {
        let (shown, said) = self.cx.ask(|reply| Command::Show { room, limit, reply }).await??;
        let messages = self.messages(room, said).await?;
        let Shown { signed, summary, .. } = shown;
        let record = signed.record();
        let creator = creator_of(&signed).unwrap_or_else(|| self.cx.mesh.local_id());
        Ok(Room {
            id: signed.id().to_string(),
            name: record.name.clone(),
            members: record.present().map(|member| member.node).collect(),
            messages,
            created_at: moment(record.created_ms),
            creator,
            join: match record.join {
                Join::Added => JoinRule::Added,
                Join::Fleet => JoinRule::Fleet,
            },
            forgotten: Forgotten {
                messages: summary.messages,
                bytes: summary.bytes,
                before: moment(summary.horizon_ms),
                digest: MessageId::from_bytes(summary.digest).to_string(),
            },
        })
    }

    /// The bytes of all messages that are kept of a room.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn kept_bytes(&self, room: RoomId) -> Result<u64, ApiError> {
        Ok(self.cx.ask(|reply| Command::Show { room, limit: 0, reply }).await??.0.bytes)
    }

    /// The ids of the newest messages, in their order.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn ids(&self, room: RoomId, limit: usize) -> Result<Vec<MessageId>, ApiError> {
        let (_, said) = self.cx.ask(|reply| Command::Show { room, limit, reply }).await??;
        Ok(said.into_iter().map(|said| said.line.id).collect())
    }

    /// The ids of messages as they become durable here.
    pub(crate) async fn tail(&self, room: RoomId) -> Result<broadcast::Receiver<MessageId>, ApiError> {
        self.cx.ask(|reply| Command::Tail { room, reply }).await?
    }

    /// One message as it stands now; `None` when it is gone.
    pub(crate) async fn message(&self, room: RoomId, id: MessageId) -> Result<Option<RoomMessage>, ApiError> {
        let said = self.cx.ask(|reply| Command::Line { room, id, reply }).await?;
        Ok(self.messages(room, said.into_iter().collect()).await?.pop())
    }

    /// Who has what of this node's messages.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delivery(&self, room: RoomId) -> Result<Deliveries, ApiError> {
        let delivered = self.cx.ask(|reply| Command::Delivery { room, reply }).await??;
        let linked = self.cx.mesh.subscribe().borrow().clone();
        let delivery = |(node, confirmed): (NodeId, super::room::Confirmed)| Delivery {
            node,
            name: self.name_of(&node),
            connected: linked.is_up(&node),
            confirmed: confirmed.through.min(delivered.own_seq),
            pending: confirmed.pending(delivered.own_seq),
            healed_at: confirmed.healed_at,
        };
        Ok(Deliveries { author_seq: delivered.own_seq, members: delivered.members.into_iter().map(delivery).collect() })
    }

    fn name_of(&self, node: &NodeId) -> Option<String> {
        self.cx.mesh.members().by_node(node).map(|member| member.name.clone())
    }

    /// Reads the texts of messages.
    async fn messages(&self, room: RoomId, said: Vec<Said>) -> Result<Vec<RoomMessage>, ApiError> {
        if said.is_empty() {
            return Ok(Vec::new());
        }
        let reader = std::sync::Arc::clone(&self.cx.reader);
        let read = move || {
            let read = said.into_iter().map(|said| reader.wire(&room, &said.line.id).map(|wire| (said, wire)));
            read.collect::<Result<Vec<_>, _>>()
        };
        let read = self.cx.tasks.blocking("read room messages", read).await.map_err(ApiError::internal)??;
        let shown = read.into_iter().filter_map(|(said, wire)| {
            let message = Unverified::decode(&wire?).ok()?;
            Some(self.shown(said, message))
        });
        Ok(shown.collect())
    }

    fn shown(&self, said: Said, message: Unverified) -> RoomMessage {
        let content = message.message();
        let Body::Text(text) = &content.body;
        RoomMessage {
            from: said.node,
            name: self.name_of(&said.node),
            text: text.clone(),
            ts: time(content.hlc),
            seq: said.line.place,
            id: message.id().to_string(),
            author_seq: content.seq,
            late: said.line.late,
            forked: said.line.forked,
            untrusted: true,
        }
    }
}

/// Asks a node one question.
async fn question(cx: &Cx, peer: NodeId, frame: &Frame) -> Result<Frame, ApiError> {
    let stream = cx.mesh.connect_stream(peer, Service::Rooms).await?;
    let (read, mut write) = split(stream);
    let lost = |error: std::io::Error| {
        ApiError::new(ErrorCode::OutcomeUnknown, "the room's creator did not answer").with_source(error)
    };
    send(&mut write, frame, FRAME_TIME, &cx.traffic.push_sent).await.map_err(lost)?;
    FrameReader::new(read).within(FRAME_TIME).await.map_err(lost)
}

/// Tells a creator that is linked again which of its rooms this node has left. One
/// that does not want to hear it is told at the next link.
pub(crate) async fn say_what_was_left(cx: Cx, creator: NodeId) {
    let left = cx.ask(|reply| Command::Left { creator, reply }).await.unwrap_or_default();
    for room in left {
        match question(&cx, creator, &Frame::Leave { room, node: cx.mesh.local_id().into() }).await {
            Ok(Frame::Record(Blob(wire))) => {
                if let Err(error) = take_answer(&cx, creator, &wire).await {
                    tracing::debug!(%room, %creator, %error, "the record without this node is not taken");
                }
            }
            Ok(answer) => tracing::debug!(%room, %creator, ?answer, "the creator does not let this node go"),
            Err(error) => tracing::debug!(%room, %creator, code = %error.code, "the creator did not hear of it"),
        }
    }
}

/// The node that made the room, as its record names it.
pub(crate) fn creator_of(signed: &Signed) -> Option<NodeId> {
    let record = signed.record();
    record.member_of(&record.creator).map(|member| member.node)
}

fn time(hlc: Hlc) -> Timestamp {
    moment(hlc.wall_ms())
}

fn moment(ms: u64) -> Timestamp {
    Timestamp::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))
}

fn full() -> ApiError {
    bad_record(RecordError::Full)
}

fn bad_record(error: RecordError) -> ApiError {
    let code = if error == RecordError::Full { ErrorCode::QuotaExceeded } else { ErrorCode::BadRequest };
    ApiError::new(code, error.to_string())
}
