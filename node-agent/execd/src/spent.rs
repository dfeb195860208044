//! What this executor has begun, in a file of its own.
//!
//! A second list beside agentd's: a ledger that was put back from yesterday has
//! forgotten what was used since, this file has not (P5). Invariant: a hash is on
//! disk before its effect begins, and a hash that is there is refused.
//!
//! This file blocks.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use osmoda_kit::error::ApiError;
use osmoda_kit::fsio;
use osmoda_types::{CallHash, ErrorCode};

/// The file's name in the state folder.
const NAME: &str = "spent";

/// How long an entry is kept: a permit lives for eight hours at most, so after
/// two days its expiry alone refuses it.
const KEEP_MS: i64 = 2 * 24 * 3_600_000;

/// Largest file: some 100,000 entries of 80 bytes, far above what quotas allow
/// in two days. A larger one is not ours.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// The list.
#[derive(Debug)]
pub(crate) struct Spent {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines; what a failed write left behind them is cut off.
    bytes: u64,
    begun: BTreeMap<CallHash, i64>,
}

impl Spent {
    /// Reads the list and drops what is too old.
    pub(crate) fn open(state_dir: &Path, now_ms: i64) -> Result<Self, ApiError> {
        let path = state_dir.join(NAME);
        let bytes = fsio::read_limited(&path, FILE_BYTES_MAX)?.unwrap_or_default();
        Self::rewrite(path, parse(&bytes)?, now_ms)
    }

    /// Writes the list anew without what is too old.
    fn rewrite(path: PathBuf, mut begun: BTreeMap<CallHash, i64>, now_ms: i64) -> Result<Self, ApiError> {
        begun.retain(|_, at| at.saturating_add(KEEP_MS) > now_ms);
        let lines: String = begun.iter().map(|(hash, at)| line(hash, *at)).collect();
        fsio::write_atomic(&path, lines.as_bytes(), 0o600)?;
        let file = open(&path)?;
        Ok(Self { path, file, bytes: lines.len() as u64, begun })
    }

    /// Whether the call was begun before.
    pub(crate) fn contains(&self, hash: &CallHash) -> bool {
        self.begun.contains_key(hash)
    }

    /// Notes that the call begins now; durable when this returns.
    pub(crate) fn add(&mut self, hash: CallHash, now_ms: i64) -> Result<(), ApiError> {
        if self.contains(&hash) {
            return Err(ApiError::new(ErrorCode::ApprovalSpent, "this call was begun before"));
        }
        let text = line(&hash, now_ms);
        if self.bytes + text.len() as u64 > FILE_BYTES_MAX {
            *self = Self::rewrite(self.path.clone(), self.begun.clone(), now_ms)?;
        }
        if self.bytes + text.len() as u64 > FILE_BYTES_MAX {
            return Err(ApiError::new(ErrorCode::QuotaExceeded, "too many calls were begun in two days"));
        }
        // Even when the disk refuses it: what may be on disk counts as used.
        self.begun.insert(hash, now_ms);
        let done =
            self.whole().and_then(|()| self.file.write_all(text.as_bytes())).and_then(|()| self.file.sync_data());
        done.map_err(|source| fsio::FsError::new("write", &self.path, source))?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Cuts off what a write that failed may have left: the next line must not be
    /// glued to half of one.
    fn whole(&self) -> std::io::Result<()> {
        match self.file.metadata()?.len() == self.bytes {
            true => Ok(()),
            false => self.file.set_len(self.bytes),
        }
    }
}

fn open(path: &Path) -> Result<File, ApiError> {
    let opened = OpenOptions::new().append(true).mode(0o600).open(path);
    opened.map_err(|source| fsio::FsError::new("open", path, source).into())
}

fn line(hash: &CallHash, at_ms: i64) -> String {
    format!("{hash} {at_ms}\n")
}

/// A last line without its end was never followed by an effect. Anything else
/// that is no line of ours means that the list cannot be believed.
fn parse(bytes: &[u8]) -> Result<BTreeMap<CallHash, i64>, ApiError> {
    let damaged = || ApiError::new(ErrorCode::StateDirUnusable, "the list of begun calls is damaged");
    let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let entry = |line: &str| {
        let (hash, at) = line.split_once(' ')?;
        Some((hash.parse::<CallHash>().ok()?, at.parse::<i64>().ok()?))
    };
    whole.lines().map(|line| entry(line).ok_or_else(damaged)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_remembered_across_restarts_and_torn_writes() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (CallHash::from_bytes([1; 32]), CallHash::from_bytes([2; 32]));
        let mut spent = Spent::open(dir.path(), 1000).unwrap();
        spent.add(one, 1000).unwrap();
        assert_eq!(spent.add(one, 1001).unwrap_err().code, ErrorCode::ApprovalSpent);
        drop(spent);
        let path = dir.path().join(NAME);
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(line(&two, 5).as_bytes().split_last().unwrap().1)
            .unwrap();
        let spent = Spent::open(dir.path(), 2000).unwrap();
        assert!(spent.contains(&one) && !spent.contains(&two), "a torn line began nothing");
        drop(spent);
        let later = Spent::open(dir.path(), 1000 + KEEP_MS).unwrap();
        assert!(!later.contains(&one), "two days later its permit's expiry refuses it");
        drop(later);
        let mut spent = Spent::open(dir.path(), 1000).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"half a li").unwrap();
        spent.add(two, 1000).unwrap();
        drop(spent);
        assert!(Spent::open(dir.path(), 1000).unwrap().contains(&two), "half a line is cut off before the next");
        std::fs::write(&path, "nonsense\n").unwrap();
        assert_eq!(Spent::open(dir.path(), 0).unwrap_err().code, ErrorCode::StateDirUnusable);
    }
}
