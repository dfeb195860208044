//! The store against openraft's own suite, over restarts, and on a full disk.

use std::sync::Arc;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::{StoreBuilder, Suite, blank_ent};
use openraft::{LeaderId, RaftLogReader, StorageError};
use osmoda_types::{ErrorCode, RaftId};
use tempfile::TempDir;

use super::disk::Disk;
use super::*;
use crate::machine::{Machine, StateMachine};
use crate::snapshot::SnapshotFile;

/// A state that is the list of everything applied.
#[derive(Default)]
struct Everything(Vec<u8>);

impl StateMachine for Everything {
    type RestoreError = std::convert::Infallible;

    fn apply(&mut self, _: u64, _: RaftId, command: &[u8]) -> Vec<u8> {
        self.0.extend_from_slice(command);
        command.to_vec()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.clone()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), Self::RestoreError> {
        self.0 = bytes.to_vec();
        Ok(())
    }
}

struct OnDisk;

impl StoreBuilder<TypeConfig, LogStore, Machine<Everything>, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine<Everything>), StorageError<u64>> {
        let dir = tempfile::tempdir().unwrap();
        let log = LogStore::open(dir.path(), 1, Arc::default()).unwrap();
        let machine = Machine::open(Everything::default(), SnapshotFile::new(dir.path()), log.health().clone());
        Ok((dir, log, machine.unwrap()))
    }
}

#[test]
fn openrafts_own_suite_passes_on_real_files() {
    Suite::test_all(OnDisk).unwrap();
}

fn entries(range: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
    range.map(|index| blank_ent(term, 1, index)).collect()
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, 1), index)
}

async fn open_disk(disk: &Disk) -> LogStore {
    let counters = Arc::<Counters>::default();
    LogStore::start(Engine::open_backend(disk.clone(), 1, counters.clone()).unwrap(), counters).unwrap()
}

#[tokio::test]
async fn everything_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(dir.path(), 1, Arc::default()).unwrap();
    assert!(log.summary().is_pristine);
    log.save_vote(&Vote::new_committed(3, 1)).await.unwrap();
    log.blocking_append(entries(0..10, 3)).await.unwrap();
    log.truncate(log_id(3, 8)).await.unwrap();
    log.purge(log_id(3, 2)).await.unwrap();
    log.save_committed(Some(log_id(3, 5))).await.unwrap();
    log.close().await;
    drop(log);

    let mut log = LogStore::open(dir.path(), 1, Arc::default()).unwrap();
    assert_eq!(log.summary(), LogSummary { is_pristine: false, last_index: Some(7), term: 3 });
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(3, 1)));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(3, 5)));
    assert_eq!(log.purged(), Some(log_id(3, 2)));
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries(3..8, 3));
}

#[tokio::test]
async fn truncating_behind_entries_that_are_only_on_disk_keeps_the_last_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(dir.path(), 1, Arc::default()).unwrap();
    log.blocking_append(entries(0..10, 3)).await.unwrap();
    log.close().await;
    drop(log);
    let mut log = LogStore::open(dir.path(), 1, Arc::default()).unwrap();
    log.truncate(log_id(3, 6)).await.unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(3, 5)));
    log.blocking_append(entries(6..8, 4)).await.unwrap();
    let expected = [entries(0..6, 3), entries(6..8, 4)].concat();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), expected);
}

#[test]
fn a_log_is_not_opened_on_a_disk_that_is_as_good_as_full() {
    assert_eq!(has_room(0), Err(StoreFault::DiskFull));
    assert_eq!(has_room(FREE_BYTES_MIN - 1), Err(StoreFault::DiskFull));
    assert_eq!(has_room(FREE_BYTES_MIN), Ok(()));
}

#[tokio::test]
async fn the_log_of_another_voter_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    LogStore::open(dir.path(), 1, Arc::default()).unwrap().close().await;
    let refused = LogStore::open(dir.path(), 2, Arc::default()).err();
    assert_eq!(refused, Some(StoreFault::Foreign { found: 1, wanted: 2 }));
}

#[tokio::test]
async fn a_log_that_is_open_elsewhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = LogStore::open(dir.path(), 1, Arc::default()).unwrap();
    assert_eq!(LogStore::open(dir.path(), 1, Arc::default()).err(), Some(StoreFault::Locked));
    log.close().await;
}

#[test]
fn an_empty_or_foreign_file_is_corrupt() {
    for content in [&b""[..], b"not a database, but long enough to be looked at".repeat(200).as_slice()] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), content).unwrap();
        let fault = LogStore::open(dir.path(), 1, Arc::default()).err().unwrap();
        assert_eq!(fault.code(), ErrorCode::RaftLogCorrupt, "{fault}");
    }
}

#[tokio::test]
async fn a_flipped_bit_in_any_used_page_refuses_the_file() {
    let disk = Disk::default();
    let mut log = open_disk(&disk).await;
    log.save_vote(&Vote::new_committed(3, 1)).await.unwrap();
    log.blocking_append(entries(0..40, 3)).await.unwrap();
    log.close().await;
    drop(log);
    let mut refused = 0;
    for at in (0..disk.size()).step_by(509) {
        disk.flip(at);
        let copy = disk.lose_power(&mut super::disk::Dice::new(0));
        match Engine::open_backend(copy, 1, Arc::default()) {
            Err(fault) => {
                assert_eq!(fault.code(), ErrorCode::RaftLogCorrupt, "{fault}");
                refused += 1;
            }
            // Free space and the spare commit slot carry nothing.
            Ok((_, loaded)) => assert_eq!(
                (loaded.vote, loaded.last),
                (Some(Vote::new_committed(3, 1)), Some(log_id(3, 39))),
                "byte {at}"
            ),
        }
        disk.flip(at);
    }
    assert!(refused >= 3, "only {refused} flips hit a used page");
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing_and_poisons_the_store() {
    let disk = Disk::default();
    let mut log = open_disk(&disk).await;
    log.blocking_append(entries(0..5, 1)).await.unwrap();
    disk.fill();
    assert!(log.blocking_append(entries(5..6, 1)).await.is_err());
    assert_eq!(log.health().fault(), Some(StoreFault::DiskFull));
    // Fail-stop: also what would fit is refused from now on.
    assert!(log.save_vote(&Vote::new(9, 1)).await.is_err());
    assert_eq!(log.read_vote().await.unwrap(), None);
    log.close().await;
    drop(log);
    let log = open_disk(&disk.lose_power(&mut super::disk::Dice::new(7))).await;
    assert_eq!(log.summary().last_index, Some(4));
}

#[tokio::test]
async fn neighbouring_appends_share_a_commit_and_fsyncs_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let counters = Arc::<Counters>::default();
    let mut log = LogStore::open(dir.path(), 1, counters.clone()).unwrap();
    let before = counters.fsyncs.total();
    log.blocking_append(entries(0..100, 1)).await.unwrap();
    let spent = counters.fsyncs.total() - before;
    assert!((1..=3).contains(&spent), "a two-phase commit is two or three syncs, not {spent}");
    assert_eq!(counters.entries.total(), 100);
}
