//! One room in memory: record, order, who is told what. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use osmoda_kit::clock::Timestamp;
use osmoda_mesh::Identity;
use osmoda_mesh_rooms::limits::{
    FULL_FORGETS_PERCENT, QUARANTINE_BYTES_MAX, QUARANTINE_MAX, REFUSED_MAX, ROOM_BYTES_MAX, ROOM_MESSAGES_MAX,
};
use osmoda_mesh_rooms::{
    MessageId, OverQuota, Record, RoomLog, Seen, Share, Signed, Slot, Snapshot, Verdict, Verified, is_over_retention,
};
use osmoda_types::{NodeId, PublicKey};
use tokio::sync::broadcast;

use super::ask::creator_of;
use super::command::{Healed, Ours};
use super::hear::Heard;
use super::store::Write;

/// Messages a reader of a tail may be behind: a few seconds of the loudest room.
/// One that is further behind is told how many it missed.
const TAIL_QUEUE: usize = 512;

/// Confirmations that came ahead of an earlier one; more are covered by the next
/// healing.
const AHEAD_MAX: usize = 4096;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What one member has of our own messages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Confirmed {
    /// All up to this number.
    pub(crate) through: u64,
    ahead: BTreeSet<u64>,
    /// When both were last equal.
    pub(crate) healed_at: Option<Timestamp>,
}

impl Confirmed {
    /// One message, by its number.
    pub(crate) fn add(&mut self, seq: u64) {
        if seq > self.through && self.ahead.len() < AHEAD_MAX {
            self.ahead.insert(seq);
        }
        self.settle();
    }

    /// Everything up to a number but for these, which no session looks at any more.
    pub(crate) fn healed(&mut self, seq: u64, but: &BTreeSet<u64>, at: Timestamp) {
        self.healed_at = Some(at);
        let before_first = |first: &u64| first.saturating_sub(1).min(seq);
        self.through = self.through.max(but.difference(&self.ahead).next().map_or(seq, before_first));
        self.settle();
        let others = (self.through.saturating_add(1)..=seq).filter(|seq| !but.contains(seq));
        // Those that are ahead already are as few.
        for seq in others.take(2 * AHEAD_MAX) {
            self.add(seq);
        }
    }

    fn settle(&mut self) {
        while let Some(first) = self.ahead.first().copied()
            && first <= self.through.saturating_add(1)
        {
            self.ahead.remove(&first);
            self.through = self.through.max(first);
        }
    }

    /// How many up to a number are not confirmed.
    pub(crate) fn pending(&self, seq: u64) -> u64 {
        seq.saturating_sub(self.through).saturating_sub(self.ahead.len() as u64)
    }
}

/// The key under which a node is in a room, or was; one that never was gets the one in use.
pub(crate) fn own_key(record: &Record, own: &NodeId, now: &Identity) -> PublicKey {
    record.key_of(own).unwrap_or_else(|| now.identity_key())
}

/// One room.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) signed: Signed,
    pub(crate) log: RoomLog,
    pub(crate) slot: Slot,
    pub(crate) heard: Heard,
    /// Ids that are not fetched again until something here goes or the record changes.
    pub(crate) refused: Seen,
    /// Some of them were for what their author has in other rooms.
    pub(crate) waits_for_others: bool,
    /// Messages from a clock that is ahead, until their time has come.
    pub(crate) quarantine: BTreeMap<MessageId, Verified>,
    pub(crate) tail: broadcast::Sender<MessageId>,
    pub(crate) confirmed: BTreeMap<NodeId, Confirmed>,
    /// The node that made it, as its record says for good.
    pub(crate) creator: Option<NodeId>,
    /// This node left it, and its creator has not heard so yet.
    pub(crate) has_left: bool,
}

impl Room {
    pub(crate) fn new(signed: Signed, log: RoomLog) -> Self {
        Self {
            creator: creator_of(&signed),
            signed,
            log,
            slot: Slot::default(),
            heard: Heard::default(),
            refused: Seen::new(REFUSED_MAX),
            waits_for_others: false,
            quarantine: BTreeMap::new(),
            tail: broadcast::channel(TAIL_QUEUE).0,
            confirmed: BTreeMap::new(),
            has_left: false,
        }
    }

    /// The key under which this node is in the room: the one the record names,
    /// which may be older than the identity in use.
    pub(crate) fn own_key(&self, own: &NodeId, now: &Identity) -> PublicKey {
        own_key(self.signed.record(), own, now)
    }

    /// Whether this node is in it: the record says so, and it did not leave.
    pub(crate) fn is_of(&self, own: &NodeId) -> bool {
        !self.has_left && self.has(own)
    }

    /// Whether a node may read and write.
    pub(crate) fn has(&self, node: &NodeId) -> bool {
        self.signed.record().has(node)
    }

    /// What this node has said in it.
    pub(crate) fn ours(&self, own: &NodeId, now: &Identity) -> Ours {
        let key = self.own_key(own, now);
        Ours { key, seq: self.log.author(&key).seq }
    }

    /// Notes what a session has shown a member to have of ours. Numbers of a key before
    /// say nothing of those of the one in use. What is older than the session's horizon and
    /// kept here was not looked at, and that member has forgotten it or never had it.
    pub(crate) fn healed(&mut self, peer: NodeId, healed: Healed, at: Timestamp) {
        let Healed { ours: Ours { key, seq }, horizon_ms } = healed;
        let confirmed = self.confirmed.entry(peer).or_default();
        let older = self.log.seqs_before(key, confirmed.through, horizon_ms).filter(|older| *older <= seq);
        confirmed.healed(seq, &older.collect(), at);
    }

    /// The members but one.
    pub(crate) fn others(&self, own: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.signed.record().present().map(|member| member.node).filter(move |node| *node != own)
    }

    /// The node behind a key, past members included.
    pub(crate) fn node_of(&self, key: &PublicKey) -> Option<NodeId> {
        self.signed.record().member_of(key).map(|member| member.node)
    }

    /// What is reconciled.
    pub(crate) fn snapshot(&self, horizon_ms: u64) -> Snapshot {
        let horizon_ms = horizon_ms.max(self.log.summary().horizon_ms);
        Snapshot { horizon_ms, items: self.log.items_from(horizon_ms).collect() }
    }

    /// What is not asked for.
    pub(crate) fn skipped(&self) -> BTreeSet<MessageId> {
        self.refused.iter().chain(self.quarantine.keys().copied()).collect()
    }

    /// Sets a message aside; false when too many wait already.
    pub(crate) fn set_aside(&mut self, message: Verified) -> bool {
        let bytes: usize = self.quarantine.values().map(|message| message.wire().len()).sum();
        if self.quarantine.len() >= QUARANTINE_MAX || bytes + message.wire().len() > QUARANTINE_BYTES_MAX {
            return false;
        }
        self.quarantine.insert(message.id(), message);
        true
    }

    /// What becomes of a message for which there is no place. Only what its author
    /// has too much of is not fetched again: all others wait for space or time.
    pub(crate) fn is_over(&mut self, id: MessageId, over: OverQuota) -> Verdict {
        match over {
            OverQuota::Author(_) => {
                self.refused.add(id);
                Verdict::Refused
            }
            OverQuota::AuthorOfCreator | OverQuota::AuthorOfNode => {
                self.refused.add(id);
                self.waits_for_others = true;
                Verdict::Refused
            }
            OverQuota::Rate | OverQuota::Room | OverQuota::Creator | OverQuota::Node => Verdict::Later,
        }
    }

    /// What must be written of an author after a message of it.
    pub(crate) fn author_write(&self, key: &PublicKey) -> Write {
        let author = self.log.author(key);
        Write::Author {
            room: self.signed.id(),
            author: *key,
            seq: author.seq,
            head: author.head,
            forked: author.forked,
        }
    }

    /// Whether it is more than a little over its retention.
    pub(crate) fn is_over_retention(&self) -> bool {
        is_over_retention(&self.log, self.signed.record().retention)
    }

    /// What counts for its creator and this node.
    pub(crate) fn share(&self) -> Share {
        let (messages, bytes) = (self.log.len(), self.log.bytes());
        Share { room: self.signed.id(), creator: self.creator, messages, bytes }
    }

    /// Forgets what is over the room's retention: everything too old, and the
    /// oldest when there is more than a little too much.
    pub(crate) fn prune(&mut self, now_ms: u64) -> Vec<Write> {
        let retention = self.signed.record().retention;
        let cutoff = now_ms.saturating_sub(u64::from(retention.days) * DAY_MS);
        let messages = retention.messages.min(ROOM_MESSAGES_MAX);
        let is_over = self.is_over_retention();
        let has_old = self.log.items_from(0).next().is_some_and(|(wall_ms, _)| wall_ms < cutoff);
        if !is_over && !has_old {
            return Vec::new();
        }
        let (messages, bytes) = if is_over { (messages as usize, ROOM_BYTES_MAX) } else { (usize::MAX, u64::MAX) };
        self.forget(cutoff, messages, bytes)
    }

    /// Forgets the oldest part though the room's own retention would keep it: others
    /// need the space.
    pub(crate) fn make_space(&mut self) -> Vec<Write> {
        let going = (self.log.len() * FULL_FORGETS_PERCENT).div_ceil(100);
        self.forget(0, self.log.len() - going, u64::MAX)
    }

    fn forget(&mut self, cutoff_ms: u64, messages: usize, bytes: u64) -> Vec<Write> {
        let pruned = self.log.prune(cutoff_ms, messages, bytes);
        // What was refused for its author's share may fit now.
        self.refused.clear();
        tracing::info!(room = %self.signed.id(), messages = pruned.len(), "room pruned");
        vec![Write::Delete(self.signed.id(), pruned), Write::Summary(self.signed.id(), *self.log.summary())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_number_is_a_number_like_any_other() {
        let mut confirmed = Confirmed::default();
        confirmed.add(u64::MAX);
        confirmed.healed(u64::MAX, &BTreeSet::new(), Timestamp::from_millis(1));
        assert_eq!((confirmed.through, confirmed.pending(u64::MAX)), (u64::MAX, 0));
    }

    #[test]
    fn confirmations_fill_up_in_any_order() {
        let mut confirmed = Confirmed::default();
        confirmed.add(2);
        confirmed.add(3);
        assert_eq!((confirmed.through, confirmed.pending(5)), (0, 3));
        confirmed.add(1);
        assert_eq!((confirmed.through, confirmed.pending(5)), (3, 2));
        confirmed.add(7);
        confirmed.healed(6, &BTreeSet::new(), Timestamp::from_millis(1));
        assert_eq!((confirmed.through, confirmed.pending(7)), (7, 0));
    }

    #[test]
    fn what_no_session_looks_at_stays_as_it_is() {
        let (mut confirmed, at) = (Confirmed::default(), Timestamp::from_millis(1));
        confirmed.add(2);
        confirmed.healed(6, &[2, 3].into(), at);
        assert_eq!((confirmed.through, confirmed.pending(6)), (2, 1));
        confirmed.healed(7, &[3].into(), at);
        assert_eq!((confirmed.through, confirmed.pending(8)), (2, 2));
        // It came another way.
        confirmed.add(3);
        assert_eq!((confirmed.through, confirmed.pending(8)), (7, 1));
        // Far more than are held, before it and behind it.
        let mut other = Confirmed::default();
        other.healed(20_000, &[10_000].into(), at);
        assert_eq!((other.through, other.ahead.len()), (9_999, AHEAD_MAX));
        confirmed.healed(u64::MAX, &[8].into(), at);
        assert_eq!((confirmed.through, confirmed.ahead.len()), (7, AHEAD_MAX));
        confirmed.healed(u64::MAX, &BTreeSet::new(), at);
        assert_eq!((confirmed.through, confirmed.pending(u64::MAX)), (u64::MAX, 0));
    }
}
