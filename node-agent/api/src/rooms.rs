//! The words of the room endpoints on `mesh.sock`.
//!
//! `/rooms`, `/room/create`, `/room/join`, `/room/send` and `/room/history` have
//! the shapes of the earlier product; fields were added, none changed. The rest
//! is new. Invariant: every text of a room carries `untrusted: true`: whoever
//! hands it to a model hands it over as data.

use osmoda_kit::clock::Timestamp;
use osmoda_types::NodeId;
use serde::{Deserialize, Serialize};

/// Messages of one answer of `/room/history` when the caller does not say.
pub const HISTORY_DEFAULT: usize = 50;

/// Messages of one answer at most.
pub const HISTORY_MAX: usize = 500;

/// One room in the list of `GET /rooms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomSummary {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How many members it has now.
    pub member_count: usize,
    /// How many messages are kept here.
    pub message_count: usize,
    /// When it was made.
    pub created_at: Timestamp,
}

/// One room, the answer of `/room/create` and `/room/join`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its members now.
    pub members: Vec<NodeId>,
    /// Its newest messages.
    pub messages: Vec<RoomMessage>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The node that made it and signs its record.
    pub creator: NodeId,
    /// Who may join by asking.
    pub join: JoinRule,
    /// What is not kept here any more.
    pub forgotten: Forgotten,
}

/// What retention has removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// How many messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Nothing before this moment is kept.
    pub before: Timestamp,
    /// The sum of the ids, as hex: two nodes that forgot the same have the same.
    pub digest: String,
}

/// Who may become a member by asking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinRule {
    /// Only whom a member adds.
    #[default]
    Added,
    /// Any voter or node that knows the room's id.
    Fleet,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomMessage {
    /// The author's node, proven by its signature.
    pub from: NodeId,
    /// What that node is called in the fleet now; absent when it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The text: data, not instructions.
    pub text: String,
    /// When, by the author's clock.
    pub ts: Timestamp,
    /// Its place in the room's order as it is now, from 1.
    pub seq: u64,
    /// Its id: the BLAKE3 hash of what was signed, as hex.
    pub id: String,
    /// Its number among the author's messages, from 1.
    pub author_seq: u64,
    /// It came here after something that is placed behind it.
    pub late: bool,
    /// Its author used one number twice: what it says to different nodes may differ.
    pub forked: bool,
    /// Always true. Other nodes' text must not be read as instructions.
    pub untrusted: bool,
}

/// `POST /room/create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateRoom {
    /// Its name.
    pub name: String,
    /// Who is a member from the beginning, besides this node.
    #[serde(default)]
    pub peer_ids: Vec<NodeId>,
    /// Who may join by asking.
    #[serde(default)]
    pub join: JoinRule,
    /// How many messages it keeps; absent: 50,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_messages: Option<u32>,
    /// How many days it keeps them; absent: 90.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_days: Option<u32>,
}

/// `POST /room/join` and `POST /room/leave`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRoom {
    /// The room.
    pub room_id: String,
    /// Whom to add or take out; absent: this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_id: Option<NodeId>,
}

/// `POST /room/send`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendText {
    /// The room.
    pub room_id: String,
    /// What to say. The tool of the earlier product calls it `message`.
    #[serde(alias = "message")]
    pub text: String,
}

/// The answer to [`SendText`]: the message is durable here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// To how many members it is on its way now; the others get it when they
    /// are linked again.
    pub delivered_to: usize,
    /// Its id.
    pub id: String,
    /// Its number among this node's messages in the room.
    pub author_seq: u64,
}

/// The answer of `GET /room/{id}/delivery`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deliveries {
    /// The number of this node's newest message in the room.
    pub author_seq: u64,
    /// Each other member.
    pub members: Vec<Delivery>,
}

/// What one member has of this node's messages, as it confirmed since this
/// daemon started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The member.
    pub node: NodeId,
    /// What it is called in the fleet now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether a link to it is up.
    pub connected: bool,
    /// It has every message up to this number that this node has said and still keeps.
    pub confirmed: u64,
    /// How many of this node's messages it has not confirmed.
    pub pending: u64,
    /// When the two were last found equal or were made so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healed_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_of_the_earlier_product_are_understood() {
        let send: SendText = serde_json::from_value(json!({"room_id": "r", "text": "hi"})).unwrap();
        let tool: SendText = serde_json::from_value(json!({"room_id": "r", "message": "hi"})).unwrap();
        assert_eq!(send, tool);
        let create: CreateRoom = serde_json::from_value(json!({"name": "ops"})).unwrap();
        assert_eq!((create.join, create.peer_ids.len()), (JoinRule::Added, 0));
        let join: JoinRoom = serde_json::from_value(json!({"room_id": "r"})).unwrap();
        assert_eq!(join.peer_id, None);
    }
}
