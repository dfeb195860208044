//! The snapshot file: the state machine at one log index.
//!
//! Invariant: the file under its name is whole (`kit::fsio` replaces it
//! atomically) and carries the SHA-256 of its state; a file that does not
//! match is damage and never ignored, because the log behind it is gone.
//! Only one snapshot is kept: the newest.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use osmoda_kit::fsio::{self, FsError};
use osmoda_proto::log::v1 as log;
use sha2::{Digest, Sha256};

use crate::codec::{self, FORMAT_VERSION};
use crate::store::StoreFault;
use crate::types::{LogId, SnapshotMeta};

/// Largest state a snapshot may hold.
///
/// The fleet state of 10,000 nodes encodes to a few megabytes; 64 MiB leaves a
/// factor of ten. It bounds what a peer can make this voter hold in memory.
pub const SNAPSHOT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Room for the head in front of the state: log ids and the members.
const HEAD_BYTES_MAX: u64 = 1024 * 1024;

/// File name inside the data directory.
const FILE: &str = "snapshot.bin";

/// SHA-256 of a state.
pub(crate) fn state_hash(state: &[u8]) -> Vec<u8> {
    Sha256::digest(state).to_vec()
}

/// Where the snapshot lives; clones are the same file. All functions block.
///
/// Invariant: an older snapshot never replaces a newer one. One that is built
/// beside the log may finish after a newer one was installed, and the entries
/// between the two are gone by then.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    written: Arc<Mutex<Written>>,
}

#[derive(Debug, Default)]
struct Written {
    newest: Option<LogId>,
    is_closed: bool,
}

impl SnapshotFile {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { path: dir.join(FILE), written: Arc::default() }
    }

    /// Replaces the snapshot, unless the one there is newer.
    pub(crate) fn write(&self, meta: &SnapshotMeta, state: &[u8]) -> Result<(), StoreFault> {
        let mut written = self.written();
        if written.is_closed {
            return Err(StoreFault::Io { doing: "writing a snapshot", reason: "the voter has stopped".into() });
        }
        if meta.last_log_id < written.newest {
            return Ok(());
        }
        if state.len() as u64 > SNAPSHOT_BYTES_MAX {
            let reason = format!("the state has {} bytes, over the limit", state.len());
            return Err(StoreFault::Io { doing: "writing a snapshot", reason });
        }
        let head = codec::frame(&log::StoredSnapshotHead {
            version: FORMAT_VERSION,
            meta: Some(codec::snapshot_meta_to_wire(meta)),
            size_bytes: state.len() as u64,
            sha256: state_hash(state),
        });
        let head_bytes = u32::try_from(head.len()).expect("a head is members and ids, far below 4 GiB");
        let mut content = Vec::with_capacity(4 + head.len() + state.len());
        content.extend_from_slice(&head_bytes.to_be_bytes());
        content.extend_from_slice(&head);
        content.extend_from_slice(state);
        fsio::write_atomic(&self.path, &content, 0o600).map_err(|error| fault("writing a snapshot", &error))?;
        written.newest = meta.last_log_id;
        Ok(())
    }

    /// Waits for a write that is going on and refuses later ones.
    pub(crate) fn close(&self) {
        self.written().is_closed = true;
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        // The marks are set after a write only, so a panic leaves them true.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshot, when there is one.
    pub(crate) fn read(&self) -> Result<Option<(SnapshotMeta, Bytes)>, StoreFault> {
        let limit = SNAPSHOT_BYTES_MAX + HEAD_BYTES_MAX;
        let content = fsio::read_limited(&self.path, limit).map_err(|error| fault("reading a snapshot", &error))?;
        let found = content.map(parse).transpose()?;
        let mut written = self.written();
        written.newest = written.newest.max(found.as_ref().and_then(|(meta, _)| meta.last_log_id));
        Ok(found)
    }
}

fn fault(doing: &'static str, error: &FsError) -> StoreFault {
    StoreFault::from_io(doing, &error.source)
}

fn corrupt(reason: &str) -> StoreFault {
    StoreFault::Corrupt { reason: format!("snapshot: {reason}") }
}

fn parse(content: Vec<u8>) -> Result<(SnapshotMeta, Bytes), StoreFault> {
    let mut content = Bytes::from(content);
    if content.len() < 4 {
        return Err(corrupt("too short"));
    }
    let prefix = content.split_to(4);
    let head_bytes = u32::from_be_bytes(prefix[..].try_into().expect("four bytes were split off")) as usize;
    if content.len() < head_bytes {
        return Err(corrupt("too short"));
    }
    let head: log::StoredSnapshotHead = codec::unframe(&content.split_to(head_bytes))?;
    codec::check_version(head.version)?;
    if content.len() as u64 != head.size_bytes || state_hash(&content) != head.sha256 {
        return Err(corrupt("the state does not match its hash"));
    }
    let meta = codec::snapshot_meta_from_wire(head.meta.ok_or_else(|| corrupt("no meta"))?)?;
    Ok((meta, content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::LeaderId;

    fn meta() -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: Some(crate::types::LogId::new(LeaderId::new(2, 1), 40)),
            snapshot_id: "2-40".into(),
            ..SnapshotMeta::default()
        }
    }

    #[test]
    fn the_newest_snapshot_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(dir.path());
        assert_eq!(file.read(), Ok(None));
        file.write(&SnapshotMeta::default(), b"old").unwrap();
        file.write(&meta(), b"new state").unwrap();
        assert_eq!(file.read(), Ok(Some((meta(), Bytes::from_static(b"new state")))));
    }

    #[test]
    fn any_damaged_or_missing_byte_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(dir.path());
        file.write(&meta(), b"state").unwrap();
        file.write(&SnapshotMeta::default(), b"older").unwrap();
        assert_eq!(file.read().unwrap().unwrap().1, "state", "an older one does not replace it");
        let good = std::fs::read(dir.path().join(FILE)).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(dir.path().join(FILE), &bad).unwrap();
            assert!(matches!(file.read(), Err(StoreFault::Corrupt { .. })), "byte {at}");
            std::fs::write(dir.path().join(FILE), &good[..at]).unwrap();
            assert!(matches!(file.read(), Err(StoreFault::Corrupt { .. })), "cut at {at}");
        }
    }
}
