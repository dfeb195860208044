//! How much one author may send and keep. *Pure: time is an argument.*
//!
//! The rate counts what is pushed to us, for its author, whoever pushes it: its signature
//! says who said it. This node's own messages count too. What healing brings in is not
//! counted, and only what is kept is bounded: so one who pushes another's messages has that
//! one's next ones come by healing, and keeps none out.
//!
//! Invariant: the meter knows authors that the newest records of this node's rooms name, and
//! no others: a creator can name other keys in each record, so those that are not named any
//! more are forgotten (`tests::the_meter_forgets_whom_the_record_names_no_more`).

use std::collections::{BTreeMap, BTreeSet};

use osmoda_types::{NodeId, PublicKey};

use crate::id::RoomId;
use crate::limits::{
    AUTHOR_BURST, AUTHOR_BYTES_MAX, AUTHOR_MESSAGES_MAX, AUTHOR_MESSAGES_MIN, AUTHOR_OF_CREATOR_MAX,
    AUTHOR_OF_NODE_MAX, AUTHOR_RATE, CREATOR_BYTES_MAX, CREATOR_MESSAGES_MAX, FULL_SLACK_PERCENT, MESSAGE_BYTES_MAX,
    NODE_BYTES_MAX, NODE_MESSAGES_MAX, PRUNE_SLACK_PERCENT, ROOM_BYTES_MAX, ROOM_MESSAGES_MAX, ROOM_MESSAGES_MIN,
};
use crate::log::{Author, RoomLog};
use crate::record::Retention;

/// Which quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OverQuota {
    /// Too many messages in a short time.
    #[error("the author sends more than {AUTHOR_RATE} messages a second")]
    Rate,
    /// The author fills the room.
    #[error("the room keeps {0} messages or {AUTHOR_BYTES_MAX} bytes of one author at most")]
    Author(u32),
    /// The author fills the rooms of this room's creator.
    #[error("this node keeps {AUTHOR_OF_CREATOR_MAX} messages of one author in rooms of one creator at most")]
    AuthorOfCreator,
    /// The author fills the rooms of this node.
    #[error("this node keeps {AUTHOR_OF_NODE_MAX} messages of one other author at most")]
    AuthorOfNode,
    /// The room is full until it is pruned.
    #[error("the room is full until it has forgotten its oldest, which takes a second")]
    Room,
    /// The rooms of this room's creator are full.
    #[error(
        "this node keeps {CREATOR_MESSAGES_MAX} messages or {CREATOR_BYTES_MAX} bytes in rooms of one other creator at most"
    )]
    Creator,
    /// The rooms of this node are full.
    #[error("this node keeps {NODE_MESSAGES_MAX} messages or {NODE_BYTES_MAX} bytes of all rooms at most")]
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

    /// Forgets the authors of a room that its record does not name any more.
    pub fn forget_unless(&mut self, room: &RoomId, is_named: impl Fn(&PublicKey) -> bool) {
        self.buckets.retain(|(of, author), _| of != room || is_named(author));
    }

    /// Forgets a room.
    pub fn forget(&mut self, room: &RoomId) {
        self.buckets.retain(|(of, _), _| of != room);
    }
}

/// What a node keeps already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Messages of all rooms.
    pub node: usize,
    /// Those in rooms of the same creator; none are counted of this node's own.
    pub creator: usize,
    /// Bytes of all rooms.
    pub node_bytes: u64,
    /// Those in rooms of the same creator, counted as `creator`.
    pub creator_bytes: u64,
    /// Those of the author in rooms of the same creator; need not be counted while all
    /// messages there are fewer than its share. In this node's own rooms only its own are.
    pub author_of_creator: usize,
    /// Those of the author among `node`, in the same way; none are counted of this node.
    pub author_of_node: usize,
}

/// A room as the bounds of a node see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The room.
    pub room: RoomId,
    /// The node that made it.
    pub creator: Option<NodeId>,
    /// Messages kept of it.
    pub messages: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// The rooms that must forget so that anything new can be kept: of each other creator
/// at its bound the largest one, and when the node is at its own, the largest of whoever
/// made the most. So neither many rooms nor large ones drive out those of others. Who is
/// at a bound of bytes has the room with the most bytes forget: that of others with more
/// messages would lose them in vain.
#[must_use]
pub fn too_full(own: &NodeId, rooms: &[Share]) -> BTreeSet<RoomId> {
    let messages = |share: &Share| share.messages as u64;
    let mut full = full_by(own, rooms, (CREATOR_MESSAGES_MAX as u64, NODE_MESSAGES_MAX as u64), messages);
    full.extend(full_by(own, rooms, (CREATOR_BYTES_MAX, NODE_BYTES_MAX), |share| share.bytes));
    full
}

/// The same by one measure, with the bounds of a creator and of the node.
fn full_by(
    own: &NodeId,
    rooms: &[Share],
    (creator_max, node_max): (u64, u64),
    size: impl Fn(&Share) -> u64,
) -> BTreeSet<RoomId> {
    let mut makers: BTreeMap<Option<NodeId>, (u64, Share)> = BTreeMap::new();
    for share in rooms {
        let (sum, largest) = makers.entry(share.creator).or_insert((0, *share));
        *sum += size(share);
        if size(share) > size(largest) {
            *largest = *share;
        }
    }
    let is_over =
        |creator: &Option<NodeId>, sum: u64| creator.is_some_and(|creator| creator != *own) && sum >= creator_max;
    let over = makers.iter().filter(|(creator, (sum, _))| is_over(creator, *sum));
    let mut rooms: BTreeSet<RoomId> = over.map(|(_, (_, largest))| largest.room).collect();
    if makers.values().map(|(sum, _)| sum).sum::<u64>() >= node_max {
        let most = makers.values().max_by_key(|(sum, _)| *sum);
        rooms.extend(most.map(|(_, largest)| largest.room));
    }
    rooms
}

/// How many messages of one author a room keeps: two fifths, so that one alone does
/// not drive out what the others said.
#[must_use]
pub fn author_messages_max(retention: Retention) -> u32 {
    (retention.messages / 5 * 2).clamp(AUTHOR_MESSAGES_MIN, AUTHOR_MESSAGES_MAX)
}

/// Whether a room is so far over its retention that it must be pruned.
#[must_use]
pub fn is_over_retention(log: &RoomLog, retention: Retention) -> bool {
    is_over_by(PRUNE_SLACK_PERCENT, retention.messages, (log.len(), log.bytes()))
}

/// Whether a room is so far over it that what comes has to wait until it is.
fn is_full(retention: Retention, kept: (usize, u64)) -> bool {
    is_over_by(FULL_SLACK_PERCENT, retention.messages.max(ROOM_MESSAGES_MIN), kept)
}

fn is_over_by(percent: u64, messages_max: u32, (messages, bytes): (usize, u64)) -> bool {
    let with_slack = |limit: u64| limit + limit * percent / 100;
    messages as u64 > with_slack(messages_max.min(ROOM_MESSAGES_MAX).into()) || bytes > with_slack(ROOM_BYTES_MAX)
}

/// Whether one more message of the author can be kept.
///
/// # Errors
/// [`OverQuota::Author`], [`OverQuota::AuthorOfCreator`], [`OverQuota::AuthorOfNode`],
/// [`OverQuota::Room`], [`OverQuota::Creator`], [`OverQuota::Node`].
pub fn fits(
    log: &RoomLog,
    retention: Retention,
    author: &PublicKey,
    bytes: usize,
    kept: Kept,
) -> Result<(), OverQuota> {
    let of_author: Author = log.author(author);
    let (bytes, most) = (bytes.min(MESSAGE_BYTES_MAX) as u64, author_messages_max(retention));
    if of_author.messages >= most || of_author.bytes + bytes > AUTHOR_BYTES_MAX {
        return Err(OverQuota::Author(most));
    }
    if kept.author_of_creator >= AUTHOR_OF_CREATOR_MAX {
        return Err(OverQuota::AuthorOfCreator);
    }
    if kept.author_of_node >= AUTHOR_OF_NODE_MAX {
        return Err(OverQuota::AuthorOfNode);
    }
    if is_full(retention, (log.len(), log.bytes())) {
        return Err(OverQuota::Room);
    }
    // As `too_full` asks, or what does not fit would wait for what is not forgotten.
    if kept.creator >= CREATOR_MESSAGES_MAX || kept.creator_bytes >= CREATOR_BYTES_MAX {
        return Err(OverQuota::Creator);
    }
    if kept.node >= NODE_MESSAGES_MAX || kept.node_bytes >= NODE_BYTES_MAX {
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

    #[test]
    fn the_meter_forgets_whom_the_record_names_no_more() {
        let rooms = [1, 2].map(|n| RoomId::from_bytes([n; 16]));
        let named = PublicKey::from_bytes([0; 32]);
        let mut meter = Meter::default();
        for n in 0..10 {
            for room in rooms {
                assert_eq!(meter.take(room, PublicKey::from_bytes([n; 32]), 0), Ok(()));
            }
        }
        meter.forget_unless(&rooms[0], |author| *author == named);
        assert_eq!(
            meter.buckets.keys().filter(|(room, _)| *room == rooms[0]).collect::<Vec<_>>(),
            [&(rooms[0], named)]
        );
        assert_eq!(meter.buckets.len(), 1 + 10);
    }

    #[test]
    fn the_largest_room_of_whoever_is_at_a_bound_forgets() {
        let [own, one, two] = [1, 2, 3].map(|n| NodeId::from_bytes([n; 32]));
        let id = |n: u8| RoomId::from_bytes([n; 16]);
        let check_both = |rooms: &[(NodeId, usize, u64)], expected: &[u8]| {
            let share = |(n, (creator, messages, bytes)): (u8, &(NodeId, usize, u64))| Share {
                room: id(n),
                creator: Some(*creator),
                messages: *messages,
                bytes: *bytes,
            };
            let shares: Vec<_> = (0..).zip(rooms).map(share).collect();
            assert_eq!(too_full(&own, &shares), expected.iter().copied().map(id).collect(), "{rooms:?}");
        };
        let check = |rooms: &[(NodeId, usize)], expected: &[u8]| {
            let rooms: Vec<_> = rooms.iter().map(|(creator, messages)| (*creator, *messages, 0)).collect();
            check_both(&rooms, expected);
        };
        let (bound, all) = (CREATOR_MESSAGES_MAX, NODE_MESSAGES_MAX);
        check(&[], &[]);
        check(&[(one, bound - 1), (two, 1)], &[]);
        check(&[(one, bound / 2 - 1), (one, bound / 2 + 1), (two, 100)], &[1]);
        check(&[(one, bound), (two, bound)], &[0, 1]);
        // What is this node's own has the node's bound only.
        check(&[(own, all / 2), (own, all / 2 - 1)], &[]);
        check(&[(own, all / 2), (own, all / 2 - 1), (one, 1)], &[0]);
        // Many small rooms count as much as a large one.
        let small = [(one, bound / 16 - 1); 16];
        let large = [(own, bound / 4), (two, all - bound / 4 - (bound - 16))];
        check(&[&small[..], &large].concat(), &[17]);
        let large = [(own, bound / 2), (two, bound / 2)];
        check(&[&small[..], &large, &[(NodeId::from_bytes([4; 32]), bound / 2 + 16)]].concat(), &[0]);
        // Few and large ones are as much; the room with the most messages has none to give.
        let (bytes, all_bytes) = (CREATOR_BYTES_MAX, NODE_BYTES_MAX);
        check_both(&[(one, 9, bytes - 1), (two, 9, 1)], &[]);
        check_both(&[(one, bound - 10, 1), (one, 9, bytes - 1), (two, 9, bytes - 1)], &[1]);
        check_both(&[(one, bound - 9, 1), (one, 9, bytes - 1), (two, 9, 1)], &[0, 1]);
        check_both(&[(own, 9, all_bytes - 2), (own, all / 2, 1)], &[]);
        check_both(&[(own, 9, all_bytes - 2), (own, all / 2, 1), (one, 9, 1)], &[0]);
    }

    #[test]
    fn a_room_over_its_retention_is_pruned_before_it_is_full() {
        let most = |messages| Retention { messages, days: 1 };
        let (mib, none) = (1 << 20, 0);
        for (messages, kept, expected) in [
            (50_000, (55_000, 70 * mib), (false, false)),
            (50_000, (55_001, none), (true, false)),
            (50_000, (60_000, 76 * mib), (true, false)),
            (50_000, (60_001, none), (true, true)),
            (50_000, (0, 71 * mib), (true, false)),
            (10, (11, 77 * mib), (true, true)),
            // A small one has a place for a burst.
            (10, (11, none), (false, false)),
            (10, (6_000, none), (true, false)),
            (10, (6_001, none), (true, true)),
        ] {
            let is_over = is_over_by(PRUNE_SLACK_PERCENT, messages, kept);
            assert_eq!((is_over, is_full(most(messages), kept)), expected, "{messages} {kept:?}");
        }
    }

    #[test]
    fn an_author_has_two_fifths_of_a_large_room_and_a_creator_of_a_node() {
        let most = |messages| author_messages_max(Retention { messages, days: 1 });
        assert_eq!([1, 5_000, 10_000, 50_000].map(most), [2_000, 2_000, 4_000, 20_000]);
        let (log, author) = (RoomLog::default(), PublicKey::from_bytes([1; 32]));
        let check = |kept| fits(&log, Retention::default(), &author, 100, kept);
        let fits = |node, creator| check(Kept { node, creator, ..Kept::default() });
        assert_eq!(fits(NODE_MESSAGES_MAX - 1, CREATOR_MESSAGES_MAX - 1), Ok(()));
        assert_eq!(fits(CREATOR_MESSAGES_MAX, CREATOR_MESSAGES_MAX), Err(OverQuota::Creator));
        assert_eq!(fits(NODE_MESSAGES_MAX, 0), Err(OverQuota::Node));
        let in_bytes = |node_bytes, creator_bytes| check(Kept { node_bytes, creator_bytes, ..Kept::default() });
        assert_eq!(in_bytes(NODE_BYTES_MAX - 1, CREATOR_BYTES_MAX - 1), Ok(()));
        assert_eq!(in_bytes(CREATOR_BYTES_MAX, CREATOR_BYTES_MAX), Err(OverQuota::Creator));
        assert_eq!(in_bytes(NODE_BYTES_MAX, 0), Err(OverQuota::Node));
        let of_author = |author_of_creator, author_of_node| {
            let (node, creator) = (author_of_node, author_of_creator);
            check(Kept { node, creator, author_of_creator, author_of_node, ..Kept::default() })
        };
        let (of_creator, of_node) = (AUTHOR_OF_CREATOR_MAX, AUTHOR_OF_NODE_MAX);
        assert_eq!(of_author(of_creator - 1, of_node - 1), Ok(()));
        assert_eq!(of_author(of_creator, of_creator), Err(OverQuota::AuthorOfCreator));
        assert_eq!(of_author(0, of_node), Err(OverQuota::AuthorOfNode));
        assert_eq!(
            super::fits(&log, Retention::default(), &author, usize::MAX, Kept::default()),
            Ok(()),
            "the size of a message is bounded elsewhere"
        );
    }
}
