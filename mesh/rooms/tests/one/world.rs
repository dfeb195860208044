//! Small builders: keys, records, messages with chosen times and parents.

use ed25519_dalek::SigningKey;
use osmoda_mesh_rooms::{Body, Hlc, Join, Member, Message, MessageId, Record, Retention, RoomId, RoomLog, Verified};
use osmoda_types::{NodeId, PublicKey, statement};

pub(crate) fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n + 1; 32])
}

pub(crate) fn public(n: u8) -> PublicKey {
    statement::public_key(&key(n))
}

pub(crate) fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n + 1; 32])
}

/// A room of nodes 0 to `members`, made by node 0.
pub(crate) fn record(members: u8) -> Record {
    Record {
        creator: public(0),
        nonce: [9; 16],
        name: "ops".to_owned(),
        created_ms: 1,
        revision: 1,
        join: Join::Added,
        retention: Retention::default(),
        members: (0..members).map(|n| Member { node: node(n), key: public(n), left: None }).collect(),
    }
}

pub(crate) fn room() -> RoomId {
    record(1).id()
}

/// A message with everything chosen.
pub(crate) fn raw(
    author: u8,
    seq: u64,
    prev: Option<MessageId>,
    parents: Vec<MessageId>,
    hlc: Hlc,
    text: &str,
) -> Verified {
    let body = Body::Text(text.to_owned());
    let message = Message { room: room(), author: public(author), seq, prev, parents, hlc, body };
    message.sign(|bytes| statement::sign(&key(author), bytes)).unwrap()
}

/// The next message of an author, as its node would write it.
pub(crate) fn write(log: &RoomLog, author: u8, hlc: Hlc, text: &str) -> Verified {
    let known = log.author(&public(author));
    raw(author, known.seq + 1, known.head, log.parents(&public(author)), hlc, text)
}
