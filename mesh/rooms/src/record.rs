//! The record of a room: its name, its members, how long it keeps messages.
//!
//! Rule of membership: **the creator's node signs it, alone.** A member adds
//! somebody by asking the creator; whoever is in the newest record may read and
//! write, nobody else. One writer means one newest record: revisions order them,
//! and a creator that signs two records of one revision harms its own room only,
//! because every node then keeps the one with the larger hash.
//!
//! Invariant: the room's id is the hash of its creator's key and nonce, so no
//! other key can sign a record of it. Invariant: whether a message is admissible
//! is a function of the newest record and the message alone, so nodes with the
//! same record keep the same messages.

use std::collections::BTreeMap;

use osmoda_types::{NodeId, PublicKey, Signature, statement};
use serde::{Deserialize, Serialize};

use crate::hlc::{Hlc, WALL_MS_MAX};
use crate::id::RoomId;
use crate::limits::{
    KEYS_PER_MEMBER_MAX, MEMBERS_EVER_MAX, MEMBERS_MAX, NAME_BYTES_MAX, RECORD_BYTES_MAX, ROOM_MESSAGES_MAX,
};

const VERSION: u8 = 1;
const LINE: &[u8] = b"mesh1 room record";
const SIGNATURE_BYTES: usize = 64;

/// The longest retention: ten years.
const RETAIN_DAYS_MAX: u32 = 3_650;

/// Who may become a member by asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Join {
    /// Only whom a member adds.
    Added,
    /// Any voter or node of the fleet that knows the room's id.
    Fleet,
}

/// How much a room keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Messages; at most [`ROOM_MESSAGES_MAX`].
    pub messages: u32,
    /// Days.
    pub days: u32,
}

impl Default for Retention {
    /// A quarter of a year: longer history belongs into a store for it.
    fn default() -> Self {
        Self { messages: ROOM_MESSAGES_MAX, days: 90 }
    }
}

/// One member under one key, present or past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its node.
    pub node: NodeId,
    /// The key its messages are signed with.
    pub key: PublicKey,
    /// When it left or was removed; its messages up to then stay.
    pub left: Option<Hlc>,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its creator's key.
    pub creator: PublicKey,
    /// Makes the id unique.
    pub nonce: [u8; 16],
    /// Its name.
    pub name: String,
    /// When it was made, in ms; at most [`WALL_MS_MAX`].
    pub created_ms: u64,
    /// Grows with each change.
    pub revision: u64,
    /// Who may join by asking.
    pub join: Join,
    /// How much it keeps.
    pub retention: Retention,
    /// Its members, in the order in which they came; once per key.
    pub members: Vec<Member>,
}

/// The keys of a record and until when each is admitted, to look many up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(BTreeMap<PublicKey, Option<Hlc>>);

#[derive(Serialize, Deserialize)]
struct Fields {
    creator: [u8; 32],
    nonce: [u8; 16],
    name: String,
    created_ms: u64,
    revision: u64,
    join: Join,
    retention: Retention,
    members: Vec<([u8; 32], [u8; 32], Option<Hlc>)>,
}

/// Why bytes are no record, or a change to one is not possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Over its size.
    #[error("a room record over the limit")]
    TooLarge,
    /// It does not parse, or not in its canonical form.
    #[error("not a room record of this version")]
    Malformed,
    /// A field breaks its rule.
    #[error("a room record with a wrong {0}")]
    Field(&'static str),
    /// The signature is not its creator's.
    #[error("a room record that its creator did not sign")]
    Signature,
    /// The room has as many members as it can.
    #[error("the room has {MEMBERS_MAX} members, or had {MEMBERS_EVER_MAX} over its life")]
    Full,
}

/// A record with its creator's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    id: RoomId,
    record: Record,
    wire: Vec<u8>,
}

impl Record {
    fn canonical(&self) -> Result<Vec<u8>, RecordError> {
        let member = |member: &Member| (*member.node.as_bytes(), *member.key.as_bytes(), member.left);
        let fields = Fields {
            creator: *self.creator.as_bytes(),
            nonce: self.nonce,
            name: self.name.clone(),
            created_ms: self.created_ms,
            revision: self.revision,
            join: self.join,
            retention: self.retention,
            members: self.members.iter().map(member).collect(),
        };
        postcard::to_extend(&fields, vec![VERSION]).map_err(|_| RecordError::Malformed)
    }

    fn check(&self) -> Result<(), RecordError> {
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || self.name.chars().any(char::is_control) {
            return Err(RecordError::Field("name"));
        }
        if self.created_ms > WALL_MS_MAX {
            return Err(RecordError::Field("time"));
        }
        let Retention { messages, days } = self.retention;
        if !(1..=ROOM_MESSAGES_MAX).contains(&messages) || !(1..=RETAIN_DAYS_MAX).contains(&days) {
            return Err(RecordError::Field("retention"));
        }
        let mut keys: Vec<_> = self.members.iter().map(|member| (member.node, member.key)).collect();
        let mut present: Vec<_> = self.present().map(|member| member.node).collect();
        let (all, now) = (keys.len(), present.len());
        keys.sort_unstable();
        keys.dedup();
        present.sort_unstable();
        present.dedup();
        if keys.len() != all || present.len() != now {
            return Err(RecordError::Field("member twice"));
        }
        if self.members.len() > MEMBERS_EVER_MAX || self.present().count() > MEMBERS_MAX {
            return Err(RecordError::Full);
        }
        Ok(())
    }

    /// The room's id.
    #[must_use]
    pub fn id(&self) -> RoomId {
        RoomId::derive(&self.creator, &self.nonce)
    }

    /// Signs it.
    ///
    /// # Errors
    /// [`RecordError`] when it breaks a rule.
    pub fn sign(self, sign: impl FnOnce(&[u8]) -> Signature) -> Result<Signed, RecordError> {
        self.check()?;
        let canonical = self.canonical()?;
        let signature = sign(&[LINE, &canonical].concat());
        let wire = [&signature.as_bytes()[..], &canonical].concat();
        Ok(Signed { id: self.id(), record: self, wire })
    }

    /// Those who are members now.
    pub fn present(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.left.is_none())
    }

    /// Whether the node may read and write.
    #[must_use]
    pub fn has(&self, node: &NodeId) -> bool {
        self.present().any(|member| member.node == *node)
    }

    /// The member behind a key, past ones included.
    #[must_use]
    pub fn member_of(&self, key: &PublicKey) -> Option<&Member> {
        self.members.iter().find(|member| member.key == *key)
    }

    /// The key under which a node is in the room, or was last.
    #[must_use]
    pub fn key_of(&self, node: &NodeId) -> Option<PublicKey> {
        let of_node = || self.members.iter().filter(|member| member.node == *node);
        let present = of_node().find(|member| member.left.is_none());
        present.or_else(|| of_node().max_by_key(|member| member.left)).map(|member| member.key)
    }

    /// Its keys; of two entries with one key the first counts, as in [`Record::member_of`].
    #[must_use]
    pub fn keys(&self) -> Keys {
        let mut keys = BTreeMap::new();
        for member in &self.members {
            keys.entry(member.key).or_insert(member.left);
        }
        Keys(keys)
    }

    /// Whether a message of this author at this time belongs into the room.
    #[must_use]
    pub fn admits(&self, author: &PublicKey, at: Hlc) -> bool {
        self.member_of(author).is_some_and(|member| member.left.is_none_or(|left| at <= left))
    }

    /// The next revision, with one more member; the same when it is one already. One
    /// that comes back with another key stands there twice: what it said under the
    /// one before stays. Of more than [`KEYS_PER_MEMBER_MAX`] the first goes.
    ///
    /// # Errors
    /// [`RecordError::Full`].
    pub fn with(&self, node: NodeId, key: PublicKey) -> Result<Self, RecordError> {
        let mut next = self.clone();
        if next.has(&node) {
            return Ok(next);
        }
        match next.members.iter_mut().find(|member| member.node == node && member.key == key) {
            Some(member) => member.left = None,
            None => next.members.push(Member { node, key, left: None }),
        }
        let mut keys = next.members.iter().filter(|member| member.node == node).count();
        next.members.retain(|member| {
            let is_over = member.node == node && member.left.is_some() && keys > KEYS_PER_MEMBER_MAX;
            keys -= usize::from(is_over);
            !is_over
        });
        next.revision += 1;
        next.check().map(|()| next)
    }

    /// The next revision, in which the member has left; the same when it is none.
    #[must_use]
    pub fn without(&self, node: &NodeId, at: Hlc) -> Self {
        let mut next = self.clone();
        if let Some(member) = next.members.iter_mut().find(|member| member.node == *node && member.left.is_none()) {
            member.left = Some(at);
            next.revision += 1;
        }
        next
    }
}

impl Keys {
    /// As [`Record::admits`].
    #[must_use]
    pub fn admits(&self, author: &PublicKey, at: Hlc) -> bool {
        self.0.get(author).is_some_and(|left| left.is_none_or(|left| at <= left))
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn has(&self, key: &PublicKey) -> bool {
        self.0.contains_key(key)
    }

    /// Those of which a newer record does not admit all that these do, of messages up to
    /// the newest one.
    pub fn lost_with<'a>(&'a self, newer: &'a Keys, newest: Hlc) -> impl Iterator<Item = &'a PublicKey> {
        let until = move |left: Option<Hlc>| left.map_or(newest, |left| left.min(newest));
        let is_less = move |key, left| newer.0.get(key).is_none_or(|newer| until(*newer) < until(left));
        self.0.iter().filter(move |(key, left)| is_less(key, **left)).map(|(key, _)| key)
    }
}

impl Signed {
    /// Reads a record off the wire and checks the signature.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(wire: &[u8]) -> Result<Self, RecordError> {
        if wire.len() > RECORD_BYTES_MAX {
            return Err(RecordError::TooLarge);
        }
        let canonical = wire.get(SIGNATURE_BYTES..).ok_or(RecordError::Malformed)?;
        let [VERSION, fields @ ..] = canonical else { return Err(RecordError::Malformed) };
        let fields: Fields = postcard::from_bytes(fields).map_err(|_| RecordError::Malformed)?;
        let member =
            |(node, key, left)| Member { node: NodeId::from_bytes(node), key: PublicKey::from_bytes(key), left };
        let record = Record {
            creator: PublicKey::from_bytes(fields.creator),
            nonce: fields.nonce,
            name: fields.name,
            created_ms: fields.created_ms,
            revision: fields.revision,
            join: fields.join,
            retention: fields.retention,
            members: fields.members.into_iter().map(member).collect(),
        };
        record.check()?;
        if record.canonical()? != canonical {
            return Err(RecordError::Malformed);
        }
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(&wire[..SIGNATURE_BYTES]);
        statement::verify(&record.creator, &[LINE, canonical].concat(), &Signature::from_bytes(signature))
            .map_err(|_| RecordError::Signature)?;
        Ok(Self { id: record.id(), record, wire: wire.to_vec() })
    }

    /// The room.
    #[must_use]
    pub const fn id(&self) -> RoomId {
        self.id
    }

    /// What it says.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Its bytes.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// Whether it replaces the other one of the same room.
    #[must_use]
    pub fn replaces(&self, other: &Signed) -> bool {
        let hash = |signed: &Signed| *blake3::hash(&signed.wire[SIGNATURE_BYTES..]).as_bytes();
        let by_revision = self.record.revision.cmp(&other.record.revision);
        // Asked for every record that comes: hashed where it decides only.
        self.id == other.id && by_revision.then_with(|| hash(self).cmp(&hash(other))).is_gt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn key(n: u8) -> (SigningKey, PublicKey) {
        let key = SigningKey::from_bytes(&[n; 32]);
        let public = statement::public_key(&key);
        (key, public)
    }

    fn record() -> Record {
        let creator = key(1).1;
        Record {
            creator,
            nonce: [7; 16],
            name: "ops".to_owned(),
            created_ms: 5,
            revision: 1,
            join: Join::Added,
            retention: Retention::default(),
            members: vec![Member { node: node(1), key: creator, left: None }],
        }
    }

    #[test]
    fn a_record_reads_back_and_only_its_creator_can_sign_it() {
        let signed = record().sign(|bytes| statement::sign(&key(1).0, bytes)).unwrap();
        assert_eq!(Signed::decode(signed.wire()).unwrap(), signed);
        let forged = record().sign(|bytes| statement::sign(&key(2).0, bytes)).unwrap();
        assert_eq!(Signed::decode(forged.wire()), Err(RecordError::Signature));
        // Another creator is another room.
        assert_ne!(Record { creator: key(2).1, ..record() }.id(), signed.id());
        let mut longer = signed.wire().to_vec();
        longer.push(0);
        assert_eq!(Signed::decode(&longer), Err(RecordError::Malformed));
        assert_eq!(Signed::decode(&[0; 70]), Err(RecordError::Malformed));
    }

    #[test]
    fn members_come_leave_and_come_back_and_what_they_said_before_stays() {
        let other = key(2).1;
        let with = record().with(node(2), other).unwrap();
        assert!(with.has(&node(2)) && with.revision == 2);
        assert_eq!(with.with(node(2), other).unwrap().revision, 2);
        let without = with.without(&node(2), Hlc::at(100));
        assert!(!without.has(&node(2)) && without.revision == 3);
        assert!(without.admits(&other, Hlc::at(100)) && !without.admits(&other, Hlc::at(101)));
        assert!(!without.admits(&key(3).1, Hlc::at(1)));
        assert_eq!(without.without(&node(2), Hlc::at(200)), without);
        assert!(without.with(node(2), other).unwrap().admits(&other, Hlc::at(101)));
        assert_eq!((with.key_of(&node(2)), with.key_of(&node(3))), (Some(other), None));
    }

    #[test]
    fn what_a_member_said_stays_when_it_comes_back_with_another_key() {
        let (old, new) = (key(2).1, key(3).1);
        let left = record().with(node(2), old).unwrap().without(&node(2), Hlc::at(100));
        let back = left.with(node(2), new).unwrap();
        assert!(back.admits(&old, Hlc::at(100)) && !back.admits(&old, Hlc::at(101)) && back.admits(&new, Hlc::at(101)));
        assert_eq!((back.key_of(&node(2)), back.present().count()), (Some(new), 2));
        let signed = back.clone().sign(|bytes| statement::sign(&key(1).0, bytes)).unwrap();
        assert_eq!(Signed::decode(signed.wire()).unwrap().record(), &back);
        let gone = back.without(&node(2), Hlc::at(200));
        assert_eq!((gone.has(&node(2)), gone.key_of(&node(2))), (false, Some(new)));
        // The same one again is no entry of its own, and of many the first goes.
        let again = gone.with(node(2), old).unwrap();
        assert_eq!((again.members.len(), again.key_of(&node(2))), (3, Some(old)));
        let mut many = gone;
        for n in 10..10 + KEYS_PER_MEMBER_MAX as u8 {
            many = many.with(node(2), key(n).1).unwrap().without(&node(2), Hlc::at(300 + u64::from(n)));
        }
        assert_eq!(many.members.len(), 1 + KEYS_PER_MEMBER_MAX);
        assert!(!many.admits(&new, Hlc::at(1)) && many.admits(&key(10).1, Hlc::at(1)));
        let mut twice = back;
        twice.members[1].left = None;
        assert_eq!(twice.sign(|bytes| statement::sign(&key(1).0, bytes)), Err(RecordError::Field("member twice")));
    }

    #[test]
    fn the_newer_revision_wins_and_of_two_equal_ones_everybody_keeps_the_same() {
        let sign = |record: Record| record.sign(|bytes| statement::sign(&key(1).0, bytes)).unwrap();
        let (old, new) = (sign(record()), sign(record().with(node(2), key(2).1).unwrap()));
        assert!(new.replaces(&old) && !old.replaces(&new) && !old.replaces(&old));
        let twin = sign(Record { name: "other".to_owned(), ..record() });
        assert_ne!(twin.replaces(&old), old.replaces(&twin));
    }

    #[test]
    fn what_a_newer_record_does_not_admit_any_more_is_known_by_its_keys() {
        let before = |left| record().with(node(2), key(2).1).unwrap().without(&node(2), Hlc::at(left));
        let stays = record().with(node(2), key(2).1).unwrap();
        let newest = Hlc::at(100);
        let check = |before: &Record, newer: &Record, expected: &[PublicKey]| {
            let (before, newer) = (before.keys(), newer.keys());
            assert_eq!(before.lost_with(&newer, newest).copied().collect::<Vec<_>>(), expected);
        };
        check(&stays, &stays, &[]);
        check(&record(), &stays, &[]);
        check(&stays, &record(), &[key(2).1]);
        check(&stays, &before(99), &[key(2).1]);
        // It leaves, after all that is here.
        check(&stays, &before(100), &[]);
        check(&before(300), &before(200), &[]);
        check(&before(50), &before(40), &[key(2).1]);
        check(&before(50), &before(60), &[]);
        check(&before(50), &stays, &[]);
        // The same key once more, under another node, says nothing new.
        let mut twice = before(50);
        twice.members.push(Member { node: node(3), key: key(2).1, left: None });
        for at in [50, 51] {
            assert_eq!(twice.keys().admits(&key(2).1, Hlc::at(at)), twice.admits(&key(2).1, Hlc::at(at)));
        }
        check(&stays, &twice, &[key(2).1]);
        assert!(stays.keys().has(&key(2).1) && !record().keys().has(&key(2).1));
    }

    #[test]
    fn wrong_fields_and_too_many_members_are_refused() {
        let sign = |record: Record| record.sign(|bytes| statement::sign(&key(1).0, bytes));
        assert!(matches!(sign(Record { name: "a\n".to_owned(), ..record() }), Err(RecordError::Field("name"))));
        let none = Retention { messages: 0, days: 1 };
        assert!(matches!(sign(Record { retention: none, ..record() }), Err(RecordError::Field(_))));
        let timeless = |created_ms| sign(Record { created_ms, ..record() }).map(|_| ());
        assert_eq!(timeless(WALL_MS_MAX), Ok(()));
        assert_eq!(timeless(WALL_MS_MAX + 1), Err(RecordError::Field("time")));
        let mut full = record();
        for n in 2..=64 {
            full = full.with(node(n), key(n).1).unwrap();
        }
        assert_eq!(full.with(node(65), key(65).1), Err(RecordError::Full));
        // A record of the largest possible room still fits its frame.
        let mut ever = record();
        ever.members = (0..=255)
            .map(|n| Member { node: node(n), key: key(n).1, left: (n > 0).then(|| Hlc::at(n.into())) })
            .collect();
        ever.name = "x".repeat(NAME_BYTES_MAX);
        let signed = sign(ever).unwrap();
        assert!(Signed::decode(signed.wire()).is_ok(), "{} bytes", signed.wire().len());
    }
}
