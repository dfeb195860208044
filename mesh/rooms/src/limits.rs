//! What one message, author, room or node may take, with the reasons.

use std::time::Duration;

/// Bytes of a message's text. A model's long answer fits; a file is a blob.
/// Larger would let one member fill the others' queues with few messages.
pub const TEXT_BYTES_MAX: usize = 32 * 1024;

/// Bytes of a whole signed message: the text, eight parents and the fixed
/// fields, which take under 600.
pub const MESSAGE_BYTES_MAX: usize = TEXT_BYTES_MAX + 1024;

/// Causal parents of one message (`mesh.md` section 6). Heads beyond eight are
/// covered by the next message.
pub const PARENTS_MAX: usize = 8;

/// Bytes of a room's name.
pub const NAME_BYTES_MAX: usize = 128;

/// Members of a room at one time: the full mesh of links is meant for 32 nodes.
pub const MEMBERS_MAX: usize = 64;

/// Members of a room over its life, those that left included: their messages
/// stay readable only with their keys.
pub const MEMBERS_EVER_MAX: usize = 256;

/// Keys of one member that a record keeps, for what it said under them. Each is an
/// entry of [`MEMBERS_EVER_MAX`], which a member that leaves and comes back must not
/// use up alone.
pub const KEYS_PER_MEMBER_MAX: usize = 8;

/// Bytes of a signed room record: 256 entries of under 90 bytes.
pub const RECORD_BYTES_MAX: usize = 32 * 1024;

/// Rooms on one node; each has an index in memory.
pub const ROOMS_MAX: usize = 64;

/// Rooms of one creator that a node keeps, so that one member cannot use up
/// [`ROOMS_MAX`] of the others.
pub const ROOMS_PER_CREATOR_MAX: usize = 16;

/// Rooms of one creator that a node remembers, those that it is not in any more
/// included: their records say so, and an older one must not bring them back. Without
/// it one member could make a room, take this node out, and make the next.
pub const ROOMS_EVER_PER_CREATOR_MAX: usize = 256;

/// Messages that a room keeps at most; the record may say less.
pub const ROOM_MESSAGES_MAX: u32 = 50_000;

/// Bytes of messages that a room keeps at most.
pub const ROOM_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Messages of one author that a room keeps, if its retention is not smaller: with
/// fewer than three loud authors the room's own limit is never reached by one of
/// them alone.
pub const AUTHOR_MESSAGES_MAX: u32 = 20_000;

/// Messages of one author that every room keeps, however little it keeps: in a small
/// room two fifths would silence two people who talk, for as long as its days are.
pub const AUTHOR_MESSAGES_MIN: u32 = AUTHOR_BURST;

/// Bytes of one author that a room keeps.
pub const AUTHOR_BYTES_MAX: u64 = 24 * 1024 * 1024;

/// Messages of all rooms on one node: about half a kilobyte of index each. From here on
/// the largest room of whoever made the most forgets its oldest.
pub const NODE_MESSAGES_MAX: usize = 200_000;

/// Messages in all rooms of one other creator on a node: two fifths, so that with
/// one who fills its rooms there is space for those of others.
pub const CREATOR_MESSAGES_MAX: usize = NODE_MESSAGES_MAX / 5 * 2;

/// Bytes in all rooms on one node, on its disk: a room that is full has 64 MiB, and there
/// are [`ROOMS_MAX`]. One author that fills its share of each stays under it, and so do
/// all messages that a node may keep if they have 10 KiB on average: where people and
/// models write, those are counted first. With more, whoever makes rooms fills a small
/// disk; with less, a few rooms of long answers forget what they would keep alone.
pub const NODE_BYTES_MAX: u64 = 32 * ROOM_BYTES_MAX;

/// Bytes in all rooms of one other creator on a node: eight full rooms of its sixteen, or
/// 6 KiB for each of [`CREATOR_MESSAGES_MAX`]. A quarter, so that three who fill their rooms
/// leave space for others; and more than one author may have in all of them.
pub const CREATOR_BYTES_MAX: u64 = NODE_BYTES_MAX / 4;

const _: () = assert!(ROOMS_PER_CREATOR_MAX as u64 * AUTHOR_BYTES_MAX < CREATOR_BYTES_MAX);
const _: () = assert!(ROOMS_MAX as u64 * AUTHOR_BYTES_MAX < NODE_BYTES_MAX);

/// Messages of one author in all rooms of one other creator on a node: two fifths, so that
/// one who fills what it may of each of them does not bring those rooms to their bound,
/// where they forget what everybody said. Whoever made them counts its own messages too,
/// as the others refuse them from here on.
pub const AUTHOR_OF_CREATOR_MAX: usize = CREATOR_MESSAGES_MAX / 5 * 2;

/// Messages of one author in all rooms of a node, for the same reason. What the node says
/// itself is not counted: others have their own nodes.
pub const AUTHOR_OF_NODE_MAX: usize = NODE_MESSAGES_MAX / 5 * 2;

/// How much a room may run over its retention before it is pruned: pruning one
/// message at a time would rewrite the summary with each.
pub const PRUNE_SLACK_PERCENT: u64 = 10;

/// How much a room may run over its retention before what comes has to wait: as it is
/// pruned each second, as much again is more than people, models and healing bring until
/// then. With less a busy room would turn messages away whenever it is pruned.
pub const FULL_SLACK_PERCENT: u64 = 2 * PRUNE_SLACK_PERCENT;

/// Messages for which every room has a place until it is pruned, however little it keeps:
/// two fifths of them are [`AUTHOR_MESSAGES_MIN`].
pub const ROOM_MESSAGES_MIN: u32 = AUTHOR_MESSAGES_MIN / 2 * 5;

/// How much of a room goes when a bound of its creator or node is reached: little, as
/// it is asked again each second and others of the same creator may be as large by then.
pub const FULL_FORGETS_PERCENT: usize = 10;

/// Messages an author may send at once before [`AUTHOR_RATE`] counts.
pub const AUTHOR_BURST: u32 = 2_000;

/// Messages per second of one author after the burst: far above people and
/// models, far below what a link carries.
pub const AUTHOR_RATE: u32 = 200;

/// How far a message's clock may be ahead (`mesh.md` section 6).
pub const AHEAD_ACCEPTED: Duration = Duration::from_secs(60);

/// Up to here a message waits until its time has come; beyond it is refused.
pub const AHEAD_QUARANTINED: Duration = Duration::from_secs(600);

/// Messages of one room that wait for their time. A member whose clock is wrong
/// fills this and no more.
pub const QUARANTINE_MAX: usize = 256;

/// Their bytes: they are in memory only, and 256 of the largest would be 8 MiB in
/// each of 64 rooms.
pub const QUARANTINE_BYTES_MAX: usize = 1024 * 1024;

/// Frame of reconciliation in bytes (`mesh.md` section 6).
pub const RANGE_BYTES_MAX: usize = 32 * 1024;

/// Ids asked for in one frame; with 16 bytes each it is half a range frame.
pub const WANT_IDS_MAX: usize = 1024;

/// Bytes of messages in one frame: a few round trips per megabyte, and no more
/// than this is held per session.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;

/// Bytes of any frame: the largest batch and one message over it.
pub const FRAME_BYTES_MAX: usize = BATCH_BYTES_MAX + MESSAGE_BYTES_MAX + 1024;

/// Round trips of one reconciliation. Each settles some hundred ids or splits
/// ranges by 16; a room of 50,000 new ids takes under 200.
pub const ROUNDS_MAX: u32 = 1_000;

/// Ids of messages seen lately, asked before a signature is checked: some
/// seconds of the loudest room.
pub const SEEN_MAX: usize = 8_192;

/// Ids of messages of a room that were refused, so that a session that this node opens
/// does not fetch them again and again, and their signatures are checked once. An author
/// that tells each node something else makes each keep another [`AUTHOR_MESSAGES_MAX`]
/// and refuse those of the others: so much of two of them. With fewer, what two nodes can
/// never both keep is fetched in every session; an id takes about 100 bytes. What the
/// other node gives in a session that it opened comes over the wire all the same: it
/// cannot know what is refused before it is.
pub const REFUSED_MAX: usize = 2 * AUTHOR_MESSAGES_MAX as usize;
