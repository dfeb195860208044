//! What one row says by itself: the hashes of its columns and whether it keeps
//! the grammar. *Pure.*
//!
//! Everything that costs time needs no row before it, so rows can be looked at
//! in any order and on any thread (`walk.rs`); what needs the order is little and
//! stays with the verifier (`verify.rs`).

use crate::grammar;
use crate::payload::{Payload, PayloadError};
use crate::record::{ChainHash, Row};
use crate::tree::TreeHash;

/// Bytes after which a batch is full: a few hundred typical rows, so that handing
/// it over costs nothing beside looking at it, and a few batches stay in the
/// processor's cache.
const BATCH_BYTES: usize = 128 << 10;

/// What a row says by itself.
#[derive(Debug)]
pub struct Looked {
    /// The leaf that the row is in the tree.
    pub(crate) leaf: TreeHash,
    /// The hash of its columns.
    pub(crate) hash: ChainHash,
    /// Whether `ts` is of the stored form.
    pub(crate) is_ts: bool,
    /// Whether `type` is a name.
    pub(crate) is_kind: bool,
    /// Whether `actor` is a name.
    pub(crate) is_actor: bool,
    /// The intent that an outcome names; whether the payload keeps rule L3.
    pub(crate) intent: Result<Option<u64>, PayloadError>,
}

impl Looked {
    /// Looks at a row. `buffer` is for its record; it may hold anything.
    #[must_use]
    pub fn at(row: &Row<'_>, buffer: &mut Vec<u8>) -> Self {
        buffer.clear();
        buffer.push(TreeHash::LEAF);
        row.push_record(buffer);
        Self::of(row, buffer)
    }

    /// `entry` is the pre-image of the leaf: a zero and the record.
    fn of(row: &Row<'_>, entry: &[u8]) -> Self {
        // Only an outcome's payload is looked into; of the others the form is enough.
        let intent = if grammar::outcome_stem(row.kind).is_some() {
            Payload::check_intent(row.payload)
        } else {
            Payload::check_form(row.payload).map(|()| None)
        };
        Self {
            leaf: TreeHash::of_entry(entry),
            hash: ChainHash::of_record(&entry[1..]),
            is_ts: grammar::is_ts(row.ts),
            is_kind: grammar::is_name(row.kind),
            is_actor: grammar::is_name(row.actor),
            intent,
        }
    }
}

/// Where the columns of a row begin and end in a batch: its entry, then its hash.
#[derive(Debug, Clone, Copy)]
struct Place {
    id: i64,
    entry: usize,
    ts: usize,
    kind: usize,
    actor: usize,
    payload: usize,
    prev_hash: usize,
    record_end: usize,
    end: usize,
    /// Given as a record alone: its hash is the one that is computed.
    is_bare: bool,
}

/// Rows that follow each other, and what was seen of them.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    places: Vec<Place>,
    looked: Vec<Looked>,
}

impl Batch {
    /// Adds a row.
    pub fn push(&mut self, row: &Row<'_>) {
        let entry = self.bytes.len();
        self.bytes.push(TreeHash::LEAF);
        row.push_record(&mut self.bytes);
        let record_end = self.bytes.len();
        // From behind, because only the id's digits have no known number.
        let prev_hash = record_end - row.prev_hash.len();
        let payload = prev_hash - 1 - row.payload.len();
        let actor = payload - 1 - row.actor.len();
        let kind = actor - 1 - row.kind.len();
        let ts = kind - 1 - row.ts.len();
        self.bytes.extend_from_slice(row.hash);
        let end = self.bytes.len();
        self.places.push(Place {
            id: row.id,
            entry,
            ts,
            kind,
            actor,
            payload,
            prev_hash,
            record_end,
            end,
            is_bare: false,
        });
    }

    /// Adds the row of a record, whose hash is the record's; `false` when it is
    /// no record.
    #[must_use]
    pub fn push_record(&mut self, record: &[u8]) -> bool {
        let Some(row) = Row::from_record(record) else { return false };
        self.push(&row);
        if let Some(place) = self.places.last_mut() {
            place.is_bare = true;
        }
        true
    }

    /// Whether it is time to hand it over.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
        self.looked.clear();
    }

    /// Looks at each row.
    pub(crate) fn look(&mut self) {
        let Self { bytes, places, looked } = self;
        looked.extend(places.iter().map(|place| Looked::of(&place.row(bytes), &bytes[place.entry..place.record_end])));
    }

    /// Hands over each row that was looked at, in order.
    pub(crate) fn each<E>(&self, mut each: impl FnMut(&Row<'_>, &Looked) -> Result<(), E>) -> Result<(), E> {
        self.places.iter().zip(&self.looked).try_for_each(|(place, looked)| {
            let mut row = place.row(&self.bytes);
            if place.is_bare {
                row.hash = looked.hash.as_bytes();
            }
            each(&row, looked)
        })
    }
}

impl Place {
    fn row<'a>(&self, bytes: &'a [u8]) -> Row<'a> {
        Row {
            id: self.id,
            ts: &bytes[self.ts..self.kind - 1],
            kind: &bytes[self.kind..self.actor - 1],
            actor: &bytes[self.actor..self.payload - 1],
            payload: &bytes[self.payload..self.prev_hash - 1],
            prev_hash: &bytes[self.prev_hash..self.record_end],
            hash: &bytes[self.record_end..self.end],
        }
    }
}
