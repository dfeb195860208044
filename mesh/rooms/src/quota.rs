//! How much one author may send and keep. *Pure: time is an argument.*
//!
//! The rate counts what an author sends to us directly, this node's own
//! messages included; what healing brings in from others was counted where it
//! was sent, and only what is kept counts. Invariant: the memory of the meter is
//! bounded by the members of rooms, who are few.

use std::collections::BTreeMap;

use osmoda_types::PublicKey;

use crate::id::RoomId;
use crate::limits::{
    AUTHOR_BURST, AUTHOR_BYTES_MAX, AUTHOR_MESSAGES_MAX, AUTHOR_RATE, MESSAGE_BYTES_MAX, NODE_MESSAGES_MAX,
};
use crate::log::{Author, RoomLog};

/// Which quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OverQuota {
    /// Too many messages in a short time.
    #[error("the author sends more than {AUTHOR_RATE} messages a second")]
    Rate,
    /// The author fills the room.
    #[error("the room keeps {AUTHOR_MESSAGES_MAX} messages or {AUTHOR_BYTES_MAX} bytes of one author at most")]
    Author,
    /// The rooms of this node are full.
    #[error("this node keeps {NODE_MESSAGES_MAX} messages of all rooms at most")]
    Node,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at_ms: u64,
}

/// Counts the rate of authors.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    buckets: BTreeMap<(RoomId, PublicKey), Bucket>,
}

impl Meter {
    /// Takes one message of the author from its allowance.
    ///
    /// # Errors
    /// [`OverQuota::Rate`].
    pub fn take(&mut self, room: RoomId, author: PublicKey, now_ms: u64) -> Result<(), OverQuota> {
        let full = f64::from(AUTHOR_BURST);
        let bucket = self.buckets.entry((room, author)).or_insert(Bucket { left: full, at_ms: now_ms });
        let gained = now_ms.saturating_sub(bucket.at_ms) as f64 / 1000.0 * f64::from(AUTHOR_RATE);
        // A wall clock that was set back starts a new count from there.
        bucket.at_ms = now_ms;
        bucket.left = (bucket.left + gained).min(full);
        if bucket.left < 1.0 {
            return Err(OverQuota::Rate);
        }
        bucket.left -= 1.0;
        Ok(())
    }

    /// Forgets a room.
    pub fn forget(&mut self, room: &RoomId) {
        self.buckets.retain(|(of, _), _| of != room);
    }
}

/// Whether one more message of the author can be kept; `node` is how many
/// messages all rooms of this node have.
///
/// # Errors
/// [`OverQuota::Author`], [`OverQuota::Node`].
pub fn fits(log: &RoomLog, author: &PublicKey, bytes: usize, node: usize) -> Result<(), OverQuota> {
    let Author { messages, bytes: kept, .. } = log.author(author);
    let bytes = bytes.min(MESSAGE_BYTES_MAX) as u64;
    if messages >= AUTHOR_MESSAGES_MAX || kept + bytes > AUTHOR_BYTES_MAX {
        return Err(OverQuota::Author);
    }
    if node >= NODE_MESSAGES_MAX {
        return Err(OverQuota::Node);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_author_has_a_burst_and_then_a_rate_of_its_own() {
        let room = RoomId::from_bytes([1; 16]);
        let (one, two) = (PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
        let mut meter = Meter::default();
        for _ in 0..AUTHOR_BURST {
            assert_eq!(meter.take(room, one, 1_000), Ok(()));
        }
        assert_eq!(meter.take(room, one, 1_000), Err(OverQuota::Rate));
        assert_eq!(meter.take(room, two, 1_000), Ok(()));
        assert_eq!(meter.take(room, one, 1_010), Ok(()));
        assert_eq!(meter.take(room, one, 0), Ok(()));
        assert_eq!(meter.take(room, one, 0), Err(OverQuota::Rate));
        meter.forget(&room);
        assert_eq!(meter.take(room, one, 0), Ok(()));
    }
}
