//! Lines of the journal and how damage in them is told apart. *Pure.*
//!
//! A line is `OMJ1 <number> <checksum> <body>\n`. The checksum is the first 16
//! bytes of SHA-256 over the previous checksum, the number and the body, so a
//! line that was changed, lost, repeated or moved is noticed.
//!
//! Invariant: reading gives all records that were ever acknowledged, or an
//! error; a line is only dropped when it is the last one and looks like a
//! write that never finished (no line feed, or a block that was never
//! written), because then its append was never acknowledged either.

use crate::record::Record;
use sha2::{Digest, Sha256};

/// Begins each line. Frozen: a reader that knows no other word refuses the file.
const MAGIC: &str = "OMJ1";

/// The checksum before the first line of a file.
pub(crate) const SUM_START: &str = "00000000000000000000000000000000";

/// The longest line: a plan with the checks of one node, far below this. A
/// longer one could not be told from a damaged file.
pub(crate) const LINE_BYTES_MAX: usize = 512 * 1024;

/// Why a file cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} {reason}")]
pub struct Damage {
    /// The number of the line in the file, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Where a reader stands in the chain of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Number of the next line.
    pub(crate) line: u64,
    /// Checksum of the line before it.
    pub(crate) sum: String,
    /// Bytes of the file that hold whole, valid lines.
    pub(crate) bytes: u64,
}

impl Cursor {
    pub(crate) fn start() -> Self {
        Self { line: 1, sum: SUM_START.to_owned(), bytes: 0 }
    }

    /// The line for `record`, and the cursor behind it.
    pub(crate) fn encode(&self, record: &Record) -> Result<(String, Cursor), serde_json::Error> {
        let body = record.encode()?;
        let sum = checksum(&self.sum, self.line, &body);
        let line = format!("{MAGIC} {} {sum} {body}\n", self.line);
        let bytes = self.bytes + line.len() as u64;
        Ok((line, Cursor { line: self.line + 1, sum, bytes }))
    }

    /// Reads every whole line of `bytes`, which begin where this cursor stands.
    /// A torn last line is left out; the cursor's `bytes` then ends before it.
    pub(crate) fn read(mut self, bytes: &[u8]) -> Result<(Vec<Record>, Cursor), Damage> {
        let mut records = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(end) = rest.iter().position(|b| *b == b'\n') else {
                self.check_torn(rest)?;
                break;
            };
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            match self.parse(line) {
                Ok((sum, record)) => {
                    records.push(record);
                    self = Cursor { line: self.line + 1, sum, bytes: self.bytes + end as u64 + 1 };
                }
                // A block of the last write that never reached the disk reads as zeros.
                Err(_) if after.is_empty() && line.contains(&0) && !self.has_next(line) => break,
                Err(damage) => return Err(damage),
            }
            rest = after;
        }
        Ok((records, self))
    }

    /// A last line without line feed is a write that did not finish, unless
    /// its body is whole: then the line feed was there once and was damaged.
    fn check_torn(&self, rest: &[u8]) -> Result<(), Damage> {
        let damaged = |reason| Err(Damage { line: self.line, reason });
        if rest.len() > LINE_BYTES_MAX {
            return damaged("is longer than any record");
        }
        let without_last = &rest[..rest.len() - 1];
        if self.parse(without_last).is_ok() {
            return damaged("lost its line feed");
        }
        let head = &rest[..rest.len().min(MAGIC.len())];
        if head.iter().any(|b| *b != 0) && !MAGIC.as_bytes().starts_with(head) {
            return damaged("does not begin like a record");
        }
        if self.has_next(rest) {
            return damaged("runs into the record after it");
        }
        Ok(())
    }

    /// Whether the next record begins inside this line: then this one was
    /// whole once, and its line feed was damaged.
    fn has_next(&self, line: &[u8]) -> bool {
        let mark = format!("{MAGIC} {} ", self.line + 1);
        line.windows(mark.len()).any(|window| window == mark.as_bytes())
    }

    fn parse(&self, line: &[u8]) -> Result<(String, Record), Damage> {
        let damage = |reason| Damage { line: self.line, reason };
        let text = std::str::from_utf8(line).map_err(|_| damage("is not text"))?;
        let mut parts = text.splitn(4, ' ');
        let (magic, number, sum, body) = (parts.next(), parts.next(), parts.next(), parts.next());
        let body = body.ok_or_else(|| damage("is not a record"))?;
        if magic != Some(MAGIC) {
            return Err(damage("does not begin like a record"));
        }
        if number != Some(self.line.to_string().as_str()) {
            return Err(damage("has the wrong number"));
        }
        let expected = checksum(&self.sum, self.line, body);
        if sum != Some(expected.as_str()) {
            return Err(damage("has the wrong checksum"));
        }
        let record = Record::decode(body).map_err(|_| damage("has a body without the frozen fields"))?;
        Ok((expected, record))
    }
}

fn checksum(previous: &str, line: u64, body: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(previous.as_bytes());
    hash.update(b" ");
    hash.update(line.to_string().as_bytes());
    hash.update(b" ");
    hash.update(body.as_bytes());
    data_encoding::HEXLOWER.encode(&hash.finalize()[..16])
}
