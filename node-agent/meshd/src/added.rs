//! Since when this node knows each other member: `added.json` in its state.
//!
//! The list of members does not say when somebody came, and clients of the earlier
//! product read it of every peer. So each is noted when it is first shown here. It
//! is for people: nothing is decided by it, and a file that is lost or damaged
//! begins anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use osmoda_kit::clock::Timestamp;
use osmoda_kit::error::chain;
use osmoda_kit::fsio;
use osmoda_kit::tasks::Tasks;
use osmoda_types::NodeId;

const FILE: &str = "added.json";

/// Bytes of the file: some thousand members, more than a fleet has.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Since when members are known. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Added {
    path: PathBuf,
    tasks: Tasks,
    known: Arc<Mutex<BTreeMap<NodeId, Timestamp>>>,
}

impl Added {
    /// Reads what was noted. Blocks.
    pub(crate) fn open(dir: &Path, tasks: Tasks) -> Self {
        let path = dir.join(FILE);
        let read = fsio::read_limited(&path, FILE_BYTES_MAX).ok().flatten();
        let known = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { path, tasks, known: Arc::new(Mutex::new(known)) }
    }

    /// When each of these was first shown here; whoever is no member any more is
    /// forgotten.
    pub(crate) async fn of(&self, members: Vec<NodeId>, now: Timestamp) -> BTreeMap<NodeId, Timestamp> {
        let (known, changed) = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let before = known.clone();
            known.retain(|node, _| members.contains(node));
            for node in members {
                known.entry(node).or_insert(now);
            }
            (known.clone(), *known != before)
        };
        if changed {
            let (path, bytes) = (self.path.clone(), serde_json::to_vec(&known).unwrap_or_default());
            let written = self.tasks.blocking("note members", move || fsio::write_atomic(&path, &bytes, 0o600)).await;
            match written {
                Ok(Ok(())) => {}
                // Noted in memory; the file follows with the next change.
                Ok(Err(error)) => tracing::warn!(error = chain(&error), "since when members are known is not written"),
                Err(error) => tracing::debug!(%error, "members are not noted any more"),
            }
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osmoda_kit::shutdown::Shutdown;

    #[tokio::test]
    async fn the_first_moment_stays_over_a_restart_and_who_left_is_forgotten() {
        let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::new(Shutdown::new()));
        let (one, two) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let at = Timestamp::from_millis;
        let open = || Added::open(dir.path(), tasks.clone());
        let added = open();
        assert_eq!(added.of(vec![one], at(1)).await, BTreeMap::from([(one, at(1))]));
        assert_eq!(added.of(vec![one, two], at(2)).await, BTreeMap::from([(one, at(1)), (two, at(2))]));
        assert_eq!(open().of(vec![one, two], at(3)).await, BTreeMap::from([(one, at(1)), (two, at(2))]));
        assert_eq!(open().of(vec![two], at(4)).await, BTreeMap::from([(two, at(2))]));
        assert_eq!(open().of(vec![one, two], at(5)).await, BTreeMap::from([(one, at(5)), (two, at(2))]));
        std::fs::write(dir.path().join(FILE), b"{").unwrap();
        assert_eq!(open().of(vec![two], at(6)).await, BTreeMap::from([(two, at(6))]));
    }
}
