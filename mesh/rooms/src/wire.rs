//! Frames of the `rooms` service.
//!
//! ```text
//! frame   = length u32 (big-endian) | postcard Frame, at most FRAME_BYTES_MAX
//! opener: Push            then Post and Record, answered by Ack; lives as long as the link
//!         Sync            one session of healing one room, strictly in turns
//!         Join            one question to the room's creator
//! ```
//! Parsing is total: any bytes give a frame or an error, and nothing is
//! allocated beyond the length that was checked before.

use std::fmt;

use osmoda_types::NodeId;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::id::{IdPrefix, MessageId, RoomId};
use crate::limits::{FRAME_BYTES_MAX, WANT_IDS_MAX};

/// Bytes in a frame; serde writes them in one piece.
#[derive(Clone, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

/// What a receiver did with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It has the message, durably.
    Kept,
    /// It waits there until its time has come.
    Waits,
    /// It will not keep it: the author is no member, the message is older than
    /// the room keeps, or from too far in the future.
    Refused,
    /// It could not keep it now: a quota, a full disk. Healing brings it again.
    Later,
}

/// Why a session or a question is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The asker is no member here, or there is no such room: one answer for
    /// both, so that nobody learns which rooms exist.
    NotFound,
    /// Another session of the room is going on, or the asker asks too often.
    Busy,
    /// The record has no room for another member.
    Full,
    /// It cannot be written here.
    Store,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// This stream carries messages as they are written.
    Push,
    /// One signed message.
    Post(Blob),
    /// One signed room record.
    Record(Blob),
    /// What became of a [`Frame::Post`].
    Ack {
        /// The message.
        id: MessageId,
        /// What became of it.
        verdict: Verdict,
    },
    /// Heal this room.
    Sync {
        /// The room.
        room: RoomId,
        /// The revision of the opener's record.
        revision: u64,
        /// From when on the opener keeps messages.
        horizon_ms: u64,
        /// [`crate::Snapshot::fingerprint`] from there on.
        fingerprint: [u8; 32],
    },
    /// The session is on.
    Opened {
        /// From when on both keep messages.
        horizon_ms: u64,
        /// Both have the same already; the session is over.
        equal: bool,
        /// The answerer's record, if it is newer.
        record: Option<Blob>,
        /// The opener's record is newer and wanted first.
        wants_record: bool,
    },
    /// It is not.
    Refused(Refusal),
    /// A message of the reconciliation.
    Range(Blob),
    /// Asks for messages.
    Want(Vec<IdPrefix>),
    /// Asks for the rest.
    More,
    /// Messages, parents first.
    Messages {
        /// Signed messages.
        list: Vec<Blob>,
        /// There are more of what was asked for.
        more: bool,
    },
    /// The messages were taken.
    Taken,
    /// The session is over.
    Done,
    /// Asks the room's creator to make a node a member.
    Join {
        /// The room.
        room: RoomId,
        /// The node.
        node: NodeBytes,
    },
    /// Asks the room's creator to take a node out; a member for itself, the
    /// creator for anybody.
    Leave {
        /// The room.
        room: RoomId,
        /// The node.
        node: NodeBytes,
    },
    /// Some of the messages were taken and some refused. Last, so that the frames
    /// before it keep their numbers.
    PartlyTaken,
}

/// A node id in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeBytes([u8; 32]);

impl From<NodeId> for NodeBytes {
    fn from(node: NodeId) -> Self {
        Self(*node.as_bytes())
    }
}

impl From<NodeBytes> for NodeId {
    fn from(node: NodeBytes) -> Self {
        NodeId::from_bytes(node.0)
    }
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Over [`FRAME_BYTES_MAX`].
    #[error("a frame of {0} bytes is over the limit")]
    TooLarge(usize),
    /// It does not parse.
    #[error("not a frame of this version")]
    Malformed,
}

impl Frame {
    /// The bytes, length in front.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`].
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let mut out = postcard::to_extend(self, vec![0; 4]).map_err(|_| FrameError::Malformed)?;
        let length = out.len() - 4;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLarge(length));
        }
        // Checked to be far below 4 GiB.
        out[..4].copy_from_slice(&(length as u32).to_be_bytes());
        Ok(out)
    }

    /// How many bytes follow a length.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`], before anything is allocated.
    pub fn length(head: [u8; 4]) -> Result<usize, FrameError> {
        let length = u32::from_be_bytes(head) as usize;
        if length > FRAME_BYTES_MAX { Err(FrameError::TooLarge(length)) } else { Ok(length) }
    }

    /// Reads what follows the length.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(FrameError::TooLarge(bytes.len()));
        }
        let (frame, rest) = postcard::take_from_bytes(bytes).map_err(|_| FrameError::Malformed)?;
        let within = match &frame {
            Frame::Want(ids) => ids.len() <= WANT_IDS_MAX,
            _ => true,
        };
        if rest.is_empty() && within { Ok(frame) } else { Err(FrameError::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back_and_large_ones_are_refused_by_their_length() {
        let frame = Frame::Messages { list: vec![Blob(vec![1; 300]), Blob(vec![])], more: true };
        let bytes = frame.encode().unwrap();
        assert_eq!(Frame::length(bytes[..4].try_into().unwrap()), Ok(bytes.len() - 4));
        assert_eq!(Frame::decode(&bytes[4..]), Ok(frame));
        let large = Frame::Post(Blob(vec![0; FRAME_BYTES_MAX]));
        assert!(matches!(large.encode(), Err(FrameError::TooLarge(_))));
        assert!(matches!(Frame::length([0xff; 4]), Err(FrameError::TooLarge(_))));
        let many = Frame::Want(vec![[0; 16]; WANT_IDS_MAX + 1]).encode().unwrap();
        assert_eq!(Frame::decode(&many[4..]), Err(FrameError::Malformed));
        assert_eq!(Frame::decode(&[]), Err(FrameError::Malformed));
        assert_eq!(Frame::decode(&[0, 0]), Err(FrameError::Malformed));
    }
}
