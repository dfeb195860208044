//! Names of rooms and messages.
//!
//! Both are hashes of what they name: a message cannot change and a room cannot
//! get another creator without getting another id.

use std::fmt;
use std::str::FromStr;

use osmoda_types::PublicKey;
use serde::{Deserialize, Serialize};

/// A room: the first 16 bytes of BLAKE3 over its creator's key and a nonce, in
/// the text form of a UUID (version 8), which clients of the earlier product
/// expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoomId([u8; 16]);

impl RoomId {
    /// The id that this creator's room with this nonce has.
    #[must_use]
    pub fn derive(creator: &PublicKey, nonce: &[u8; 16]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"mesh1 room id");
        hasher.update(creator.as_bytes());
        hasher.update(nonce);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid().into_bytes())
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Wraps bytes that were stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

/// A text that is no room id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a room id; it looks like 0b8f2d0e-7a51-8c3e-9d40-5f6a7b8c9d0e")]
pub struct NotARoomId;

impl FromStr for RoomId {
    type Err = NotARoomId;
    fn from_str(text: &str) -> Result<Self, NotARoomId> {
        uuid::Uuid::try_parse(text).map(|id| Self(id.into_bytes())).map_err(|_| NotARoomId)
    }
}

/// A message: BLAKE3 of its canonical bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageId([u8; 32]);

/// The first half of a [`MessageId`]: what is sent to ask for a message. Two
/// messages that share it are both sent.
pub type IdPrefix = [u8; 16];

impl MessageId {
    /// The id of a message with these canonical bytes.
    #[must_use]
    pub fn of(canonical: &[u8]) -> Self {
        Self(*blake3::hash(canonical).as_bytes())
    }

    /// Wraps bytes that were stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first half.
    #[must_use]
    pub fn prefix(&self) -> IdPrefix {
        let mut prefix = [0; 16];
        prefix.copy_from_slice(&self.0[..16]);
        prefix
    }

    /// The smallest and the largest id with this first half.
    #[must_use]
    pub fn range_of(prefix: &IdPrefix) -> (Self, Self) {
        let (mut low, mut high) = ([0; 32], [0xff; 32]);
        low[..16].copy_from_slice(prefix);
        high[..16].copy_from_slice(prefix);
        (Self(low), Self(high))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_id_is_a_uuid_bound_to_its_creator() {
        let (one, two) = (PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
        let id = RoomId::derive(&one, &[3; 16]);
        assert_ne!(id, RoomId::derive(&two, &[3; 16]));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 36);
        assert_eq!(uuid::Uuid::from_bytes(*id.as_bytes()).get_version_num(), 8);
        assert!("room-1".parse::<RoomId>().is_err());
    }

    #[test]
    fn a_prefix_covers_exactly_its_ids() {
        let id = MessageId::of(b"x");
        let (low, high) = MessageId::range_of(&id.prefix());
        assert!(low <= id && id <= high);
        assert!(!(low..=high).contains(&MessageId::of(b"y")));
    }
}
