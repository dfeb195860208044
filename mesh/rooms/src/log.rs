//! The messages of one room, in their order; an index, not their bytes.
//!
//! Order: (time, author, number, id), all of it signed by the author. Whoever
//! keeps the rules writes a time after those of all it has seen, so parents come
//! first. An author that names something of the same or a later time lies: it is
//! flagged, and its message stands where its own time puts it.
//!
//! Invariant: the order is a function of the set of messages, whatever order
//! they came in (`tests/one/order.rs`), and one message moves no other. (Moving a
//! liar's messages behind what they name would let one author make every node sort
//! its whole room anew for each message it hands out backwards.) Invariant: two
//! messages with one author and number are both kept and the author is flagged.

use std::collections::{BTreeMap, BTreeSet, btree_map};

use osmoda_types::PublicKey;

use crate::hlc::Hlc;
use crate::id::{IdPrefix, MessageId};
use crate::limits::PARENTS_MAX;
use crate::message::Verified;

/// A message's place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    hlc: Hlc,
    author: PublicKey,
    seq: u64,
    id: MessageId,
}

#[derive(Debug, Clone)]
struct Entry {
    hlc: Hlc,
    author: PublicKey,
    seq: u64,
    bytes: u32,
    late: bool,
    dependencies: Box<[MessageId]>,
}

impl Entry {
    fn key(&self, id: MessageId) -> Key {
        Key { hlc: self.hlc, author: self.author, seq: self.seq, id }
    }
}

/// What is known of one author in this room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Author {
    /// Its largest number.
    pub seq: u64,
    /// The message with that number; of two, the one that was seen first.
    pub head: Option<MessageId>,
    /// It used one number twice, a message of it names a wrong one before it, or
    /// one that is not older than itself. Never cleared, and forgotten with the author.
    pub forked: bool,
    /// Messages kept.
    pub messages: u32,
    /// Bytes kept.
    pub bytes: u64,
}

/// What inserting did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    /// It was there.
    Duplicate,
    /// It is older than what the room still keeps.
    Pruned,
    /// It is in.
    New {
        /// Something was already placed after it.
        late: bool,
        /// This message shows that its author forked.
        fork: bool,
        /// Authors that it shows to be [`Author::forked`] and that were not known to be.
        liars: BTreeSet<PublicKey>,
    },
}

/// What the room has forgotten. Reconciliation covers only times from the
/// larger horizon of the two nodes on, so what one has pruned is not fetched
/// again and not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Messages with a time before this one, in ms, are not kept.
    pub horizon_ms: u64,
    /// How many were pruned.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The sum of their ids, modulo 2^256: two nodes that pruned the same have
    /// the same.
    pub digest: [u8; 32],
}

impl Summary {
    fn add(&mut self, id: &MessageId, bytes: u32) {
        self.messages += 1;
        self.bytes += u64::from(bytes);
        let mut carry = 0;
        for (sum, byte) in self.digest.iter_mut().zip(id.as_bytes()) {
            let total = u16::from(*sum) + u16::from(*byte) + carry;
            *sum = total.to_le_bytes()[0];
            carry = total >> 8;
        }
    }
}

/// The index of a room's messages.
#[derive(Debug, Clone, Default)]
pub struct RoomLog {
    entries: BTreeMap<MessageId, Entry>,
    order: BTreeSet<Key>,
    by_time: BTreeSet<(u64, MessageId)>,
    /// A message, here or not, and one that depends on it. One set of pairs: thousands may
    /// name the same message, and each goes alone; most have one child, for which a set of
    /// its own would be large.
    children: BTreeSet<(MessageId, MessageId)>,
    heads: BTreeSet<MessageId>,
    chain: BTreeMap<(PublicKey, u64), MessageId>,
    authors: BTreeMap<PublicKey, Author>,
    bytes: u64,
    summary: Summary,
}

/// One line of the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// The message.
    pub id: MessageId,
    /// Its author.
    pub author: PublicKey,
    /// Its place in the room, from 1, pruned messages counted.
    pub place: u64,
    /// It came after something that is placed behind it.
    pub late: bool,
    /// Its author forked.
    pub forked: bool,
}

impl RoomLog {
    /// An empty room that has forgotten what the summary says.
    #[must_use]
    pub fn with_summary(summary: Summary) -> Self {
        Self { summary, ..Self::default() }
    }

    /// Restores what is known of an author beyond its kept messages.
    pub fn restore_author(&mut self, author: PublicKey, seq: u64, head: Option<MessageId>, forked: bool) {
        let known = self.authors.entry(author).or_default();
        known.forked |= forked;
        if seq > known.seq {
            (known.seq, known.head) = (seq, head);
        }
    }

    /// Takes a message into the order.
    pub fn insert(&mut self, message: &Verified) -> Inserted {
        let (id, content) = (message.id(), message.message());
        if self.entries.contains_key(&id) {
            return Inserted::Duplicate;
        }
        if content.hlc.wall_ms() < self.summary.horizon_ms {
            return Inserted::Pruned;
        }
        let fork = self.follow_author(message);
        let liars = self.look_for_lies(message);
        let dependencies: Box<[MessageId]> = content.dependencies().collect();
        let mut entry = Entry {
            hlc: content.hlc,
            author: content.author,
            seq: content.seq,
            // Bounded by MESSAGE_BYTES_MAX.
            bytes: message.wire().len() as u32,
            late: false,
            dependencies,
        };
        entry.late = self.order.last().is_some_and(|last| *last > entry.key(id));
        let late = entry.late;
        for dependency in &entry.dependencies {
            self.children.insert((*dependency, id));
            self.heads.remove(dependency);
        }
        if self.children_of(&id).next().is_none() {
            self.heads.insert(id);
        }
        self.order.insert(entry.key(id));
        self.by_time.insert((entry.hlc.wall_ms(), id));
        self.bytes += u64::from(entry.bytes);
        self.entries.insert(id, entry);
        Inserted::New { late, fork, liars }
    }

    /// Counts the message for its author and looks for a fork.
    fn follow_author(&mut self, message: &Verified) -> bool {
        let (id, content) = (message.id(), message.message());
        let before = content.seq.checked_sub(1).and_then(|seq| self.chain.get(&(content.author, seq)));
        let after = content.seq.checked_add(1).and_then(|seq| self.chain.get(&(content.author, seq)));
        let names_wrong = before.is_some_and(|before| content.prev != Some(*before));
        let is_not_named = after.and_then(|after| self.entries.get(after)).is_some_and(|after| {
            // The first dependency of every message but the first is `prev`.
            after.dependencies.first() != Some(&id)
        });
        let twice = match self.chain.entry((content.author, content.seq)) {
            btree_map::Entry::Occupied(_) => true,
            btree_map::Entry::Vacant(place) => {
                place.insert(id);
                false
            }
        };
        let author = self.authors.entry(content.author).or_default();
        // Its number is known from before a pruning, and another message had it.
        let reused = content.seq == author.seq && author.head.is_some_and(|head| head != id);
        let fork = twice || names_wrong || is_not_named || reused;
        author.forked |= fork;
        author.messages += 1;
        author.bytes += message.wire().len() as u64;
        if content.seq > author.seq {
            (author.seq, author.head) = (content.seq, Some(id));
        }
        fork
    }

    /// Flags whoever names a message that is not older than its own: the author of
    /// this one, or of those that came before it and name it. Returns those that were not
    /// flagged before: each is written once.
    fn look_for_lies(&mut self, message: &Verified) -> BTreeSet<PublicKey> {
        let (id, content) = (message.id(), message.message());
        let is_lie = content
            .dependencies()
            .any(|before| self.entries.get(&before).is_some_and(|before| before.hlc >= content.hlc));
        let liars =
            self.children_of(&id).filter_map(|child| self.entries.get(child)).filter(|child| child.hlc <= content.hlc);
        let mut liars: BTreeSet<PublicKey> =
            liars.map(|child| child.author).chain(is_lie.then_some(content.author)).collect();
        liars.retain(|liar| !std::mem::replace(&mut self.authors.entry(*liar).or_default().forked, true));
        liars
    }

    /// Those that are here and depend on a message.
    fn children_of(&self, id: &MessageId) -> impl Iterator<Item = &MessageId> {
        let all = (*id, MessageId::from_bytes([0; 32]))..=(*id, MessageId::from_bytes([0xff; 32]));
        self.children.range(all).map(|(_, child)| child)
    }

    /// Removes one message, as if it had never come, but for what is known of
    /// its author.
    fn remove(&mut self, id: &MessageId) -> Option<u32> {
        let entry = self.entries.remove(id)?;
        self.order.remove(&entry.key(*id));
        self.by_time.remove(&(entry.hlc.wall_ms(), *id));
        self.heads.remove(id);
        if self.chain.get(&(entry.author, entry.seq)) == Some(id) {
            self.chain.remove(&(entry.author, entry.seq));
        }
        for dependency in &entry.dependencies {
            self.children.remove(&(*dependency, *id));
            if self.entries.contains_key(dependency) && self.children_of(dependency).next().is_none() {
                self.heads.insert(*dependency);
            }
        }
        self.bytes -= u64::from(entry.bytes);
        if let Some(author) = self.authors.get_mut(&entry.author) {
            author.messages = author.messages.saturating_sub(1);
            author.bytes = author.bytes.saturating_sub(u64::from(entry.bytes));
        }
        Some(entry.bytes)
    }

    /// Removes messages that the room's record does not admit any more.
    pub fn remove_unless(&mut self, admits: impl Fn(&PublicKey, Hlc) -> bool) -> Vec<MessageId> {
        let refused = |entry: &Entry| !admits(&entry.author, entry.hlc);
        let ids: Vec<_> = self.entries.iter().filter(|(_, entry)| refused(entry)).map(|(id, _)| *id).collect();
        for id in &ids {
            self.remove(id);
        }
        ids
    }

    /// Forgets what is known of authors without a message here that the room's record
    /// does not name any more; which ones. Its creator can name others in each record.
    pub fn forget_authors_unless(&mut self, is_named: impl Fn(&PublicKey) -> bool) -> Vec<PublicKey> {
        let mut forgotten = Vec::new();
        self.authors.retain(|key, author| {
            let stays = author.messages > 0 || is_named(key);
            if !stays {
                forgotten.push(*key);
            }
            stays
        });
        forgotten
    }

    /// Forgets the oldest messages: those before `cutoff_ms`, then so many that
    /// at most `messages` and `bytes` are left. Whole milliseconds go at a time,
    /// so that the horizon says exactly what is kept. It is behind the newest of what was
    /// forgotten, and not at the cutoff: that comes from a clock, and one that was wrong
    /// once would keep all out that is said until then. So something old that was not here
    /// may come in once more; it goes with the next pruning, and the horizon is behind it.
    pub fn prune(&mut self, cutoff_ms: u64, messages: usize, bytes: u64) -> Vec<MessageId> {
        let mut horizon = self.summary.horizon_ms;
        let (mut left, mut left_bytes) = (self.entries.len(), self.bytes);
        for (wall_ms, id) in &self.by_time {
            if left <= messages && left_bytes <= bytes && *wall_ms >= cutoff_ms.max(horizon) {
                break;
            }
            left -= 1;
            left_bytes -= self.entries.get(id).map_or(0, |entry| u64::from(entry.bytes));
            horizon = horizon.max(wall_ms + 1);
        }
        let mut pruned = Vec::new();
        while let Some((wall_ms, id)) = self.by_time.first().copied()
            && wall_ms < horizon
        {
            if let Some(bytes) = self.remove(&id) {
                self.summary.add(&id, bytes);
            }
            pruned.push(id);
        }
        self.summary.horizon_ms = horizon;
        pruned
    }

    /// What was forgotten.
    #[must_use]
    pub const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Whether the message is here.
    #[must_use]
    pub fn contains(&self, id: &MessageId) -> bool {
        self.entries.contains_key(id)
    }

    /// How many messages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Their bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The largest time of any message.
    #[must_use]
    pub fn newest(&self) -> Hlc {
        self.order.last().map_or(Hlc::default(), |key| key.hlc)
    }

    /// What is known of an author.
    #[must_use]
    pub fn author(&self, key: &PublicKey) -> Author {
        self.authors.get(key).copied().unwrap_or_default()
    }

    /// All authors.
    pub fn authors(&self) -> impl Iterator<Item = (&PublicKey, &Author)> {
        self.authors.iter()
    }

    /// The number of a message, if it is this author's and kept.
    #[must_use]
    pub fn seq_of(&self, author: &PublicKey, id: &MessageId) -> Option<u64> {
        self.entries.get(id).filter(|entry| entry.author == *author).map(|entry| entry.seq)
    }

    /// The numbers after this one of an author's messages that are kept, with a time before
    /// `wall_ms`; of two with one number, that of the first.
    pub fn seqs_before(&self, author: PublicKey, after: u64, wall_ms: u64) -> impl Iterator<Item = u64> + '_ {
        let later = self.chain.range((author, after)..=(author, u64::MAX)).filter(move |((_, seq), _)| *seq > after);
        let is_before = move |id| self.entries.get(id).is_some_and(|entry| entry.hlc.wall_ms() < wall_ms);
        later.filter(move |(_, id)| is_before(id)).map(|((_, seq), _)| *seq)
    }

    /// The parents of a new message of this author: the newest messages that
    /// nothing depends on yet, its own last one left out.
    #[must_use]
    pub fn parents(&self, author: &PublicKey) -> Vec<MessageId> {
        let own = self.author(author).head;
        let mut keys: Vec<Key> = self
            .heads
            .iter()
            .filter(|id| Some(**id) != own)
            .filter_map(|id| self.entries.get(id).map(|entry| entry.key(*id)))
            .collect();
        keys.sort_unstable_by(|a, b| b.cmp(a));
        let mut parents: Vec<_> = keys.into_iter().take(PARENTS_MAX).map(|key| key.id).collect();
        parents.sort_unstable();
        parents
    }

    /// The last `limit` messages, in their order.
    #[must_use]
    pub fn last(&self, limit: usize) -> Vec<Line> {
        let mut lines = Vec::with_capacity(limit.min(self.len()));
        for (back, key) in self.order.iter().rev().take(limit).enumerate() {
            let place = self.summary.messages + (self.order.len() - back) as u64;
            lines.extend(self.line(&key.id, place));
        }
        lines.reverse();
        lines
    }

    /// One message, as of now; its place is counted, so it is not for loops.
    #[must_use]
    pub fn line_of(&self, id: &MessageId) -> Option<Line> {
        let entry = self.entries.get(id)?;
        let behind = self.order.range(entry.key(*id)..).skip(1).count();
        self.line(id, self.summary.messages + (self.order.len() - behind) as u64)
    }

    fn line(&self, id: &MessageId, place: u64) -> Option<Line> {
        let entry = self.entries.get(id)?;
        let forked = self.author(&entry.author).forked;
        Some(Line { id: *id, author: entry.author, place, late: entry.late, forked })
    }

    /// Every id in the room's order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = MessageId> + '_ {
        self.order.iter().map(|key| key.id)
    }

    /// (Time, id) of every message from a time on, ascending: what is reconciled.
    pub fn items_from(&self, horizon_ms: u64) -> impl Iterator<Item = (u64, MessageId)> + '_ {
        self.by_time.range((horizon_ms, MessageId::from_bytes([0; 32]))..).copied()
    }

    /// The messages behind prefixes that a peer asks for, parents first.
    #[must_use]
    pub fn resolve(&self, prefixes: &[IdPrefix]) -> Vec<MessageId> {
        let found = prefixes.iter().flat_map(|prefix| {
            let (low, high) = MessageId::range_of(prefix);
            self.entries.range(low..=high).map(|(id, entry)| entry.key(*id))
        });
        let mut keys: Vec<Key> = found.collect();
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter().map(|key| key.id).collect()
    }

    /// Sorts ids into the room's order; unknown ones are left out.
    #[must_use]
    pub fn sorted(&self, ids: &[MessageId]) -> Vec<MessageId> {
        let mut keys: Vec<Key> = ids.iter().filter_map(|id| self.entries.get(id).map(|entry| entry.key(*id))).collect();
        keys.sort_unstable();
        keys.into_iter().map(|key| key.id).collect()
    }

    /// Marks a message as late, when it is read back from the store.
    pub fn set_late(&mut self, id: &MessageId, late: bool) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.late = late;
        }
    }
}
