//! Healing one room between two nodes: who has what the other lacks, then the
//! messages, in strict turns over one stream. *Pure: no I/O.*
//!
//! ```text
//! opener                           answerer
//!   Sync                      ->
//!                             <-   Opened { equal } or Refused
//!   Range                     ->                        negentropy, in rounds
//!                             <-   Range
//!   Want / More               ->                        what the opener lacks
//!                             <-   Messages
//!   Messages                  ->                        what the answerer lacks
//!                             <-   Taken or PartlyTaken
//!   Done                      ->
//! ```
//! Only one side speaks at a time, so no two queues can wait for each other.
//! Both sides look at times from the larger horizon on, so what one of them has
//! pruned is neither asked for nor offered.
//!
//! Invariant: a session ends: its rounds, the ids a peer may claim and the
//! messages it may send are bounded, and every frame makes progress.

use std::collections::{BTreeSet, VecDeque};

use negentropy::{Id, Negentropy, NegentropyStorageVector};

use crate::id::{IdPrefix, MessageId, RoomId};
use crate::limits::{RANGE_BYTES_MAX, ROOM_MESSAGES_MAX, ROUNDS_MAX, WANT_IDS_MAX};
use crate::wire::{Blob, Frame};

/// Ids a peer may claim to have, and times it may claim to lack one, in one
/// session: what two full rooms can differ by.
const CLAIMS_MAX: usize = 2 * ROOM_MESSAGES_MAX as usize;

/// Messages a peer may send for one question beyond the ids asked for: ids that
/// share half of their bits, which do not occur by chance.
const EXTRA_MAX: usize = 16;

/// Questions of a peer in one session that find nothing: what it asks for may be
/// forgotten meanwhile. One that asks for what nobody has would keep the room's slot
/// with it; a session that ends for this goes on with the next one.
const EMPTY_ANSWERS_MAX: u32 = 4;

/// Ids that are hashed at once: 64 KiB of them.
const HASHED_IDS: usize = 2048;

/// What a node has of a room: times and ids, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// From when on.
    pub horizon_ms: u64,
    /// The messages.
    pub items: Vec<(u64, MessageId)>,
}

impl Snapshot {
    /// The same from a later time on.
    #[must_use]
    pub fn from(mut self, horizon_ms: u64) -> Self {
        if horizon_ms > self.horizon_ms {
            let first = self.items.partition_point(|(wall_ms, _)| *wall_ms < horizon_ms);
            self.items.drain(..first);
            self.horizon_ms = horizon_ms;
        }
        self
    }

    /// A hash over all ids in it: equal for equal sets.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"mesh1 room set");
        // In large pieces, of which BLAKE3 hashes several blocks at once.
        let mut piece = Vec::with_capacity(HASHED_IDS * 32);
        for items in self.items.chunks(HASHED_IDS) {
            piece.clear();
            items.iter().for_each(|(_, id)| piece.extend_from_slice(id.as_bytes()));
            hasher.update(&piece);
        }
        *hasher.finalize().as_bytes()
    }

    fn negentropy(self) -> Result<Negentropy<'static, NegentropyStorageVector>, SyncError> {
        let mut storage = NegentropyStorageVector::with_capacity(self.items.len());
        for (wall_ms, id) in self.items {
            storage.insert(wall_ms, Id::from_byte_array(*id.as_bytes())).map_err(SyncError::Range)?;
        }
        storage.seal().map_err(SyncError::Range)?;
        Negentropy::owned(storage, RANGE_BYTES_MAX as u64).map_err(SyncError::Range)
    }
}

/// Why a session ended early.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The ranges of the peer make no sense.
    #[error("the reconciliation failed")]
    Range(#[source] negentropy::Error),
    /// A frame that does not belong here.
    #[error("the peer sent a frame out of turn")]
    OutOfTurn,
    /// The peer claims or sends more than there can be.
    #[error("the peer goes over the bounds of a session")]
    Bounds,
}

/// What the driver of a session does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    /// Send this and give the answer to `frame`.
    Send(Frame),
    /// Load messages from the front of this list, as many as fit into a batch
    /// and at least one; then call `loaded`.
    Load(Vec<MessageId>),
    /// Put these into the room's order, parents first; then call `arranged`.
    Arrange(Vec<MessageId>),
    /// Find the messages behind these prefixes, parents first; then call `resolved`.
    Resolve(Vec<IdPrefix>),
    /// Check and keep these; then call `stored`.
    Store(Vec<Blob>),
    /// Send this, then it is over; without a frame it is over now.
    Done(Option<Frame>),
}

/// What became of the messages of [`Do::Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// All of them are kept.
    All,
    /// Some were refused, for good: the session goes on.
    Some,
    /// Nothing more can be kept now, whoever wrote it: the disk or this node is
    /// full. What is left to fetch is left; what is left to give is given.
    Full,
}

#[derive(Debug)]
enum Phase {
    Opening(Snapshot),
    Ranges,
    Fetching { asked: usize, got: usize, more: bool },
    Arranging,
    Giving,
}

/// The side that opened the session.
#[derive(Debug)]
pub struct Opener {
    phase: Phase,
    ranges: Option<Negentropy<'static, NegentropyStorageVector>>,
    rounds: u32,
    skip: BTreeSet<MessageId>,
    need: VecDeque<MessageId>,
    /// What the peer lacks; all of it ours, so never more than the snapshot.
    have: BTreeSet<MessageId>,
    /// How often one of ours was said to be missing there.
    missed: usize,
    giving: VecDeque<MessageId>,
    refused: bool,
}

impl Opener {
    /// A session over what this node has. Ids in `skip` are not fetched: they
    /// were refused, or wait.
    #[must_use]
    pub fn new(room: RoomId, revision: u64, snapshot: Snapshot, skip: BTreeSet<MessageId>) -> (Self, Frame) {
        let frame =
            Frame::Sync { room, revision, horizon_ms: snapshot.horizon_ms, fingerprint: snapshot.fingerprint() };
        let phase = Phase::Opening(snapshot);
        let (need, giving) = (VecDeque::new(), VecDeque::new());
        let have = BTreeSet::new();
        let opener = Self { phase, ranges: None, rounds: 0, skip, need, have, missed: 0, giving, refused: false };
        (opener, frame)
    }

    /// Whether the peer has all that this node had when the session began: it did
    /// not lack any, or took what it was given. Asked when the session is over.
    #[must_use]
    pub const fn is_confirmed(&self) -> bool {
        !self.refused
    }

    /// How many ids are held for the rest of the session.
    pub(crate) fn held(&self) -> usize {
        self.need.len() + self.have.len() + self.giving.len()
    }

    /// Takes the peer's frame. [`Frame::Refused`] and the record in
    /// [`Frame::Opened`] are the driver's.
    ///
    /// # Errors
    /// [`SyncError`]: the session is over.
    pub fn frame(&mut self, frame: Frame) -> Result<Do, SyncError> {
        match (std::mem::replace(&mut self.phase, Phase::Ranges), frame) {
            (Phase::Opening(_), Frame::Opened { equal: true, .. }) => Ok(Do::Done(None)),
            (Phase::Opening(snapshot), Frame::Opened { horizon_ms, .. }) => {
                let mut ranges = snapshot.from(horizon_ms).negentropy()?;
                let first = ranges.initiate().map_err(SyncError::Range)?;
                self.ranges = Some(ranges);
                Ok(Do::Send(Frame::Range(Blob(first))))
            }
            (Phase::Ranges, Frame::Range(Blob(bytes))) => self.range(&bytes),
            (Phase::Fetching { asked, got, .. }, Frame::Messages { list, more }) => {
                let got = got + list.len();
                if got > asked + EXTRA_MAX || (more && list.is_empty()) {
                    return Err(SyncError::Bounds);
                }
                self.phase = Phase::Fetching { asked, got, more };
                if list.is_empty() { Ok(self.stored(Stored::All)) } else { Ok(Do::Store(list)) }
            }
            (Phase::Giving, Frame::Taken) => Ok(self.give()),
            (Phase::Giving, Frame::PartlyTaken) => {
                self.refused = true;
                Ok(self.give())
            }
            _ => Err(SyncError::OutOfTurn),
        }
    }

    fn range(&mut self, bytes: &[u8]) -> Result<Do, SyncError> {
        self.rounds += 1;
        let ranges = self.ranges.as_mut().ok_or(SyncError::OutOfTurn)?;
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let next = ranges.reconcile_with_ids(bytes, &mut have, &mut need).map_err(SyncError::Range)?;
        let id = |id: Id| MessageId::from_bytes(id.to_bytes());
        self.missed += have.len();
        self.have.extend(have.into_iter().map(id));
        self.need.extend(need.into_iter().map(id).filter(|id| !self.skip.contains(id)));
        if self.need.len() > CLAIMS_MAX || self.missed > CLAIMS_MAX || self.rounds > ROUNDS_MAX {
            return Err(SyncError::Bounds);
        }
        match next {
            Some(bytes) => Ok(Do::Send(Frame::Range(Blob(bytes)))),
            None => {
                self.ranges = None;
                // Ranges may be looked at twice when a frame was full.
                distinct(&mut self.need);
                Ok(self.fetch())
            }
        }
    }

    fn fetch(&mut self) -> Do {
        let ids: Vec<_> = self.need.drain(..self.need.len().min(WANT_IDS_MAX)).collect();
        if ids.is_empty() {
            self.phase = Phase::Arranging;
            let have = std::mem::take(&mut self.have);
            return if have.is_empty() { self.give() } else { Do::Arrange(have.into_iter().collect()) };
        }
        self.phase = Phase::Fetching { asked: ids.len(), got: 0, more: false };
        Do::Send(Frame::Want(ids.iter().map(MessageId::prefix).collect()))
    }

    fn give(&mut self) -> Do {
        self.phase = Phase::Giving;
        if self.giving.is_empty() {
            return Do::Done(Some(Frame::Done));
        }
        Do::Load(self.giving.iter().take(WANT_IDS_MAX).copied().collect())
    }

    /// These are the messages of [`Do::Arrange`] in their order; those that are
    /// gone meanwhile are left out.
    pub fn arranged(&mut self, ids: Vec<MessageId>) -> Do {
        self.giving = ids.into();
        self.give()
    }

    /// What became of the messages of [`Do::Store`].
    pub fn stored(&mut self, stored: Stored) -> Do {
        if stored == Stored::Full {
            self.need.clear();
            return self.fetch();
        }
        match self.phase {
            Phase::Fetching { more: true, .. } => Do::Send(Frame::More),
            _ => self.fetch(),
        }
    }

    /// The first `taken` messages of [`Do::Load`] are in `list`; those that are
    /// gone meanwhile are left out of it.
    pub fn loaded(&mut self, taken: usize, list: Vec<Blob>) -> Do {
        self.giving.drain(..taken.clamp(1, self.giving.len().max(1)).min(self.giving.len()));
        if list.is_empty() {
            return self.give();
        }
        let more = !self.giving.is_empty();
        Do::Send(Frame::Messages { list, more })
    }
}

/// The side that answers.
#[derive(Debug)]
pub struct Answerer {
    ranges: Negentropy<'static, NegentropyStorageVector>,
    rounds: u32,
    taken: usize,
    pending: VecDeque<MessageId>,
    /// It has asked for fewer than it may at once: those were the last.
    has_asked_for_last: bool,
    empty_answers: u32,
}

impl Answerer {
    /// A session over what this node has, from the horizon it told the opener on.
    ///
    /// # Errors
    /// [`SyncError::Range`].
    pub fn new(snapshot: Snapshot) -> Result<Self, SyncError> {
        let (ranges, pending) = (snapshot.negentropy()?, VecDeque::new());
        Ok(Self { ranges, rounds: 0, taken: 0, pending, has_asked_for_last: false, empty_answers: 0 })
    }

    /// Takes the opener's frame. A [`Frame::Record`] is the driver's.
    ///
    /// # Errors
    /// [`SyncError`]: the session is over.
    pub fn frame(&mut self, frame: Frame) -> Result<Do, SyncError> {
        match frame {
            Frame::Range(Blob(bytes)) => {
                self.rounds += 1;
                if self.rounds > ROUNDS_MAX {
                    return Err(SyncError::Bounds);
                }
                let answer = self.ranges.reconcile(&bytes).map_err(SyncError::Range)?;
                Ok(Do::Send(Frame::Range(Blob(answer))))
            }
            Frame::Want(prefixes) => {
                if prefixes.is_empty() || self.has_asked_for_last || self.empty_answers > EMPTY_ANSWERS_MAX {
                    return Err(SyncError::Bounds);
                }
                self.has_asked_for_last = prefixes.len() < WANT_IDS_MAX;
                Ok(Do::Resolve(prefixes))
            }
            // There is more where the answer before said so.
            Frame::More if self.pending.is_empty() => Err(SyncError::OutOfTurn),
            Frame::More => Ok(self.load()),
            Frame::Messages { list, .. } => {
                self.taken += list.len();
                if list.is_empty() || self.taken > CLAIMS_MAX {
                    return Err(SyncError::Bounds);
                }
                Ok(Do::Store(list))
            }
            Frame::Done => Ok(Do::Done(None)),
            _ => Err(SyncError::OutOfTurn),
        }
    }

    /// These are the messages of [`Do::Resolve`].
    pub fn resolved(&mut self, ids: Vec<MessageId>) -> Do {
        self.pending = ids.into();
        self.load()
    }

    fn load(&mut self) -> Do {
        if self.pending.is_empty() {
            self.empty_answers += 1;
            return Do::Send(Frame::Messages { list: Vec::new(), more: false });
        }
        Do::Load(self.pending.iter().copied().collect())
    }

    /// As [`Opener::loaded`].
    pub fn loaded(&mut self, taken: usize, list: Vec<Blob>) -> Do {
        self.pending.drain(..taken.max(1).min(self.pending.len()));
        if list.is_empty() {
            return self.load();
        }
        Do::Send(Frame::Messages { list, more: !self.pending.is_empty() })
    }

    /// As [`Opener::stored`].
    pub fn stored(&mut self, stored: Stored) -> Do {
        match stored {
            Stored::All => Do::Send(Frame::Taken),
            Stored::Some => Do::Send(Frame::PartlyTaken),
            // The opener would only give more.
            Stored::Full => Do::Done(None),
        }
    }
}

fn distinct(ids: &mut VecDeque<MessageId>) {
    let mut seen = BTreeSet::new();
    ids.retain(|id| seen.insert(*id));
}
