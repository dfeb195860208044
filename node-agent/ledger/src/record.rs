//! One ledger row and the hash that links it to the row before. *Pure.*
//!
//! The formula is the earlier product's, byte for byte, so that its verifier
//! accepts our files and ours reads its (`docs` of the reference, 1.1):
//! `hash = hex(SHA256("{id}|{ts}|{type}|{actor}|{payload}|{prev_hash}"))`.
//!
//! Invariant: two different rows that keep the grammar (`grammar.rs`) never
//! share a pre-image, because only `payload` may hold a `|` and `prev_hash`
//! has a fixed length (test `no_two_rows_of_the_grammar_share_a_pre_image`).
//!
//! This file does not judge rows; that is the verifier's.

use sha2::{Digest, Sha256};

/// Length of a chain hash as it is stored: SHA-256 in lower-case hex.
pub const HASH_HEX_BYTES: usize = 64;

/// A row as it stands in storage. The columns are raw bytes, because a damaged
/// file may hold anything and the verifier must be able to say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Position in the chain; the first row has 1.
    pub id: i64,
    /// When it was appended, `YYYY-MM-DDTHH:MM:SS.mmmZ`.
    pub ts: &'a [u8],
    /// What happened, such as `watch.activate.intent`.
    pub kind: &'a [u8],
    /// Who did it, as the connection proved it.
    pub actor: &'a [u8],
    /// Canonical JSON (RFC 8785).
    pub payload: &'a [u8],
    /// The hash of the row before; 64 zeros for the first.
    pub prev_hash: &'a [u8],
    /// The hash of this row.
    pub hash: &'a [u8],
}

impl Row<'_> {
    /// The hash this row should carry, computed from its other columns.
    #[must_use]
    pub fn expected_hash(&self) -> ChainHash {
        ChainHash::of(self.id, self.ts, self.kind, self.actor, self.payload, self.prev_hash)
    }

    /// Writes the record, the pre-image of the hash and the entry of the tree,
    /// in the place of what the buffer holds.
    pub fn record_into(&self, buffer: &mut Vec<u8>) {
        buffer.clear();
        self.push_record(buffer);
    }

    /// Adds the record to what the buffer holds.
    pub(crate) fn push_record(&self, buffer: &mut Vec<u8>) {
        push_decimal(buffer, self.id);
        for column in [self.ts, self.kind, self.actor, self.payload, self.prev_hash] {
            buffer.push(b'|');
            buffer.extend_from_slice(column);
        }
    }

    /// Reads a record back: the row it is the record of, but for the row's own
    /// hash, which is empty. `None` when it is no record.
    ///
    /// Only one split is possible: the first four columns have no `|` in them,
    /// and the last has a fixed length.
    #[must_use]
    pub fn from_record(record: &[u8]) -> Option<Row<'_>> {
        let at = record.len().checked_sub(HASH_HEX_BYTES + 1)?;
        let (front, prev_hash) = record.split_at(at);
        let mut columns = front.splitn(5, |b| *b == b'|');
        let mut next = || columns.next();
        let (id, ts, kind, actor, payload) = (next()?, next()?, next()?, next()?, next()?);
        // Everything else of the row is a piece of the record; a number has one
        // spelling that would be written again.
        let digits = id.strip_prefix(b"-").unwrap_or(id);
        if !matches!(digits, [b'1'..=b'9', ..]) && id != b"0" {
            return None;
        }
        let id = std::str::from_utf8(id).ok()?.parse().ok()?;
        Some(Row { id, ts, kind, actor, payload, prev_hash: prev_hash.strip_prefix(b"|")?, hash: b"" })
    }
}

/// The hash of a row: 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChainHash([u8; HASH_HEX_BYTES]);

impl ChainHash {
    /// What the first row names as the hash before it.
    pub const GENESIS: Self = Self([b'0'; HASH_HEX_BYTES]);

    /// Computes the hash of a row from its other columns.
    #[must_use]
    pub fn of(id: i64, ts: &[u8], kind: &[u8], actor: &[u8], payload: &[u8], prev_hash: &[u8]) -> Self {
        let mut sha = Sha256::new();
        sha.update(id.to_string());
        for column in [ts, kind, actor, payload, prev_hash] {
            sha.update(b"|");
            sha.update(column);
        }
        Self(hex(&sha.finalize().into()))
    }

    /// Computes the hash of a row from its record.
    #[must_use]
    pub fn of_record(record: &[u8]) -> Self {
        Self(hex(&Sha256::digest(record).into()))
    }

    /// Takes a stored hash; `None` unless it is 64 lower-case hex digits.
    #[must_use]
    pub fn from_stored(bytes: &[u8]) -> Option<Self> {
        let hex: [u8; HASH_HEX_BYTES] = bytes.try_into().ok()?;
        hex.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(hex))
    }

    /// The digits as bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The digits as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex digits are ASCII")
    }
}

impl std::fmt::Display for ChainHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChainHash({})", &self.as_str()[..8])
    }
}

fn hex(digest: &[u8; 32]) -> [u8; HASH_HEX_BYTES] {
    let mut hex = [0; HASH_HEX_BYTES];
    data_encoding::HEXLOWER.encode_mut(digest, &mut hex);
    hex
}

fn push_decimal(buffer: &mut Vec<u8>, number: i64) {
    if number < 0 {
        // Only in a damaged file, where speed does not matter.
        buffer.extend_from_slice(number.to_string().as_bytes());
        return;
    }
    let (mut digits, mut at, mut rest) = ([0_u8; 20], 20, number.unsigned_abs());
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    buffer.extend_from_slice(&digits[at..]);
}

/// Where a ledger ends: how many rows it has and the hash of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Rows in the chain; also the id of the last row.
    pub size: u64,
    /// Hash of the last row; [`ChainHash::GENESIS`] when there is none.
    pub hash: ChainHash,
}

impl Head {
    /// The head of a ledger without rows.
    pub const EMPTY: Self = Self { size: 0, hash: ChainHash::GENESIS };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_reference_formula() {
        // Computed apart from this code:
        // printf '1|2026-01-02T03:04:05.678Z|daemon.start|agentd|{}|000…0' | sha256sum
        let hash = ChainHash::of(
            1,
            b"2026-01-02T03:04:05.678Z",
            b"daemon.start",
            b"agentd",
            b"{}",
            ChainHash::GENESIS.as_bytes(),
        );
        assert_eq!(hash.as_str(), "136c5b80fdff4f22fe47d0073f0b2314a0c04273ac0bfee42a59d8c0b5581f03");
    }

    #[test]
    fn a_record_is_read_back_and_nothing_else_is_one() {
        let prev_hash = ChainHash::GENESIS;
        let row = Row {
            id: 1_234_567_890,
            ts: b"2026-01-02T03:04:05.678Z",
            kind: b"a",
            actor: b"b",
            payload: br#"{"x":"|y|"}"#,
            prev_hash: prev_hash.as_bytes(),
            hash: b"",
        };
        let mut record = Vec::new();
        row.record_into(&mut record);
        assert_eq!(ChainHash::of_record(&record), row.expected_hash());
        assert_eq!(Row::from_record(&record), Some(row));
        for bad in [
            &b""[..],
            b"1|2",
            &[b"0", &record[..]].concat(),
            &[b"+", &record[..]].concat(),
            &[b"-0", &record[..]].concat(),
        ] {
            assert_eq!(Row::from_record(bad), None);
        }
    }

    #[test]
    fn a_stored_hash_is_64_lower_case_hex_digits() {
        assert_eq!(ChainHash::from_stored(&[b'0'; 64]), Some(ChainHash::GENESIS));
        assert_eq!(ChainHash::from_stored(&[b'A'; 64]), None);
        assert_eq!(ChainHash::from_stored(&[b'a'; 63]), None);
        assert_eq!(ChainHash::from_stored(&[b'a'; 65]), None);
    }
}
