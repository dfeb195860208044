//! Checkpoints, tiles and proofs over a real ledger in a folder, and the attacks
//! on them that root on the host can make (`trust.md` 1.8).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use osmoda_kit::http::Isolation;
use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_kit::testing::{FakeClock, TempRoot, wait_for};
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::note::{KeyKind, Note, Signer, VerifierKey};
use osmoda_ledger::tree::{TreeHash, verify_consistency, verify_inclusion};
use osmoda_ledger::witness::{Decision, Witness};
use osmoda_types::ErrorCode;
use rusqlite::Connection;
use serde_json::{Map, json};

use super::{Checkpoints, FILE_NAME, OpenAll, OpenAllError, Rhythm, TILES_FOLDER, Watchman};
use crate::api::new_row;
use crate::ledger::file::FILE_NAME as LEDGER_NAME;
use crate::ledger::{LedgerThreads, OpenError, WriterOptions};
use crate::ledger_key::KEY_FILE;

const LIMIT: Duration = Duration::from_secs(20);

struct World {
    checkpoints: Checkpoints,
    threads: LedgerThreads,
    tasks: Tasks,
}

fn try_open(dir: &Path) -> Result<World, OpenAllError> {
    open_with(dir, Rhythm { every: Duration::from_millis(20), ..Rhythm::default() })
}

fn open_with(dir: &Path, rhythm: Rhythm) -> Result<World, OpenAllError> {
    let open =
        OpenAll { state_dir: dir.to_owned(), options: WriterOptions::default(), clock: Arc::new(FakeClock::default()) };
    let (opened, threads) = open.open()?;
    let tasks = Tasks::new(Shutdown::new());
    let (checkpoints, signing) = Checkpoints::new(opened, tasks.clone(), Isolation::Users, rhythm).unwrap();
    tasks.spawn(TaskKind::REQUEST, "signing", signing.run());
    Ok(World { checkpoints, threads, tasks })
}

impl World {
    async fn append(&self, rows: usize) {
        let appends = (0..rows).map(|n| {
            let payload = Map::from_iter([("n".to_owned(), json!(n))]);
            self.checkpoints
                .inner
                .ledger
                .append(new_row("test.row".to_owned(), payload, "watch", Isolation::Users).unwrap())
        });
        for append in futures_util::future::join_all(appends).await {
            append.unwrap();
        }
    }

    async fn close(self) {
        self.tasks.shutdown().request(StopReason::Asked("end of test".to_owned()));
        assert!(self.tasks.drain(LIMIT).await.is_graceful());
        drop(self.checkpoints);
        self.threads.close().unwrap();
    }
}

async fn filled(dir: &Path, rows: usize) {
    let world = try_open(dir).unwrap();
    world.append(rows).await;
    world.checkpoints.now().await.unwrap();
    world.close().await;
}

fn broken(dir: &Path) -> String {
    match try_open(dir) {
        Err(OpenAllError::Ledger(OpenError::Broken { first, .. })) => first,
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("it opened"),
    }
}

#[tokio::test]
async fn a_growing_ledger_is_signed_by_itself_and_every_proof_holds() {
    let root = TempRoot::new();
    let world = try_open(root.path()).unwrap();
    world.append(700).await;
    let signed = wait_for("a checkpoint", LIMIT, || async {
        world.checkpoints.newest().filter(|newest| newest.checkpoint.size == 700)
    })
    .await;
    assert_eq!(Checkpoint::open(&signed.note, world.checkpoints.verifier()).unwrap(), signed.checkpoint);
    for id in [1, 255, 256, 257, 512, 699, 700] {
        let proof = world.checkpoints.inclusion(id, 700).await.unwrap();
        assert_eq!(proof.root, signed.checkpoint.root);
        verify_inclusion(proof.leaf, id - 1, 700, &proof.hashes, signed.checkpoint.root).unwrap();
    }
    world.append(600).await;
    let later = world.checkpoints.now().await.unwrap();
    let proof = world.checkpoints.consistency(700, later.checkpoint.size).await.unwrap();
    let (old, new) = (signed.checkpoint.root, later.checkpoint.root);
    verify_consistency(700, later.checkpoint.size, old, new, &proof.hashes).unwrap();
    for (id, size) in [(0, 5), (6, 5), (5, 100_000)] {
        let error = osmoda_kit::error::ApiError::from(world.checkpoints.inclusion(id, size).await.unwrap_err());
        assert_eq!(error.code, ErrorCode::NotFound);
    }
    world.close().await;
    let again = try_open(root.path()).unwrap();
    assert_eq!(again.checkpoints.newest().unwrap().checkpoint.size, 1300, "it is remembered");
    again.close().await;
}

#[tokio::test]
async fn tiles_that_were_damaged_are_made_anew_before_anything_is_proven() {
    let root = TempRoot::new();
    let world = try_open(root.path()).unwrap();
    world.append(600).await;
    let signed = world.checkpoints.now().await.unwrap();
    let tile = root.path().join(TILES_FOLDER).join("tile/0/000");
    let good = std::fs::read(&tile).unwrap();
    for damage in [vec![0; 8192], Vec::new(), good[..100].to_vec()] {
        std::fs::write(&tile, &damage).unwrap();
        let proof = world.checkpoints.inclusion(10, 600).await.unwrap();
        verify_inclusion(proof.leaf, 9, 600, &proof.hashes, signed.checkpoint.root).unwrap();
        assert_eq!(std::fs::read(&tile).unwrap(), good);
    }
    std::fs::remove_dir_all(root.path().join(TILES_FOLDER)).unwrap();
    world.checkpoints.consistency(100, 600).await.unwrap();
    world.close().await;
    std::fs::write(&tile, vec![7; 8192]).unwrap();
    try_open(root.path()).unwrap().close().await;
    assert_eq!(std::fs::read(&tile).unwrap(), good, "the start looks at every full tile");
}

#[tokio::test]
async fn a_witness_is_brought_forward_and_its_cosignature_is_checked_and_kept() {
    let root = TempRoot::new();
    let world = try_open(root.path()).unwrap();
    world.append(10).await;
    world.checkpoints.now().await.unwrap();
    let key = SigningKey::from_bytes(&[9; 32]);
    let known = VerifierKey::new("osmoda.witness/b", KeyKind::Witness, &Signer::public(&key)).unwrap();
    let witness = Witness { name: known.name(), signer: &key };
    let mut held = None;
    for rows in [0, 300, 0] {
        world.append(rows).await;
        let size = world.checkpoints.now().await.unwrap().checkpoint.size;
        let old = held.as_ref().map_or(0, |head: &osmoda_ledger::witness::WitnessedHead| head.size);
        let newest = world.checkpoints.newest().unwrap();
        let request = world.checkpoints.request(&newest, old).await.unwrap();
        let ledger = world.checkpoints.verifier();
        let Decision::Accept { new, cosignature } =
            witness.judge(Some(ledger), held.as_ref(), &request, 1_800_000_000).unwrap()
        else {
            panic!("a consistent ledger is cosigned");
        };
        held = Some(*new);
        let lie = Note::cosign("something else\n", known.name(), &key, 1).unwrap();
        assert!(world.checkpoints.add_cosignature(size, known.clone(), lie).await.is_err());
        let note = world.checkpoints.add_cosignature(size, known.clone(), cosignature).await.unwrap();
        assert_eq!(note.check(&known).unwrap().unwrap().time_s, Some(1_800_000_000));
        assert_eq!(world.checkpoints.newest_cosigned(1).await.unwrap().unwrap(), note);
    }
    assert_eq!(world.checkpoints.newest_cosigned(2).await.unwrap(), None);
    let newest = world.checkpoints.newest().unwrap();
    assert!(world.checkpoints.request(&newest, 100_000).await.is_err(), "a witness that has seen more: an old disk");
    world.close().await;
}

#[tokio::test]
async fn r05_rows_rehashed_under_a_signed_checkpoint_do_not_open() {
    let root = TempRoot::new();
    filled(root.path(), 30).await;
    let file = Connection::open(root.path().join(LEDGER_NAME)).unwrap();
    file.execute_batch("DROP TRIGGER events_no_update; DROP TRIGGER events_no_delete;").unwrap();
    rehash_from(&file, 20, r#"{"n":"forged"}"#);
    drop(file);
    let first = broken(root.path());
    assert!(first.contains("not those of the checkpoint") || first.contains("stored tree"), "{first}");
}

/// What root does who has read the source.
pub(crate) fn rehash_from(file: &Connection, from: i64, payload: &str) {
    use crate::ledger::record::{ChainHash, Row};
    let last: i64 = file.query_row("SELECT max(id) FROM events", [], |row| row.get(0)).unwrap();
    let mut tree = osmoda_ledger::tree::Frontier::new();
    for id in 1..=last {
        let columns: [String; 5] = file
            .query_row("SELECT ts, type, actor, payload, prev_hash FROM events WHERE id = ?1", [id], |row| {
                Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?])
            })
            .unwrap();
        let [ts, kind, actor, mut body, mut prev] = columns;
        if id == from {
            body = payload.to_owned();
        }
        if id > 1 {
            prev = file.query_row("SELECT hash FROM events WHERE id = ?1", [id - 1], |row| row.get(0)).unwrap();
        }
        let mut record = Vec::new();
        let row = Row {
            id,
            ts: ts.as_bytes(),
            kind: kind.as_bytes(),
            actor: actor.as_bytes(),
            payload: body.as_bytes(),
            prev_hash: prev.as_bytes(),
            hash: b"",
        };
        row.record_into(&mut record);
        tree.append(TreeHash::of_leaf(&record));
        let hash = ChainHash::of_record(&record).to_string();
        file.execute("UPDATE events SET payload = ?2, prev_hash = ?3, hash = ?4 WHERE id = ?1", (id, body, prev, hash))
            .unwrap();
    }
    file.execute("UPDATE tree SET size = ?1, frontier = ?2", (last, tree.to_bytes())).unwrap();
}

#[tokio::test]
async fn r07_a_tail_that_was_cut_with_every_trace_of_it_in_the_ledger_does_not_open() {
    for cut in [1, 10] {
        let root = TempRoot::new();
        filled(root.path(), 30).await;
        let file = Connection::open(root.path().join(LEDGER_NAME)).unwrap();
        file.execute_batch("DROP TRIGGER events_no_update; DROP TRIGGER events_no_delete;").unwrap();
        file.execute("DELETE FROM events WHERE id > (SELECT max(id) FROM events) - ?1", [cut]).unwrap();
        file.execute("UPDATE sqlite_sequence SET seq = seq - ?1", [cut]).unwrap();
        rehash_from(&file, 0, "");
        drop(file);
        assert!(broken(root.path()).contains("checkpoint"));
    }
}

#[tokio::test]
async fn r08_the_ledger_of_yesterday_beside_the_checkpoints_of_today_does_not_open() {
    let root = TempRoot::new();
    filled(root.path(), 20).await;
    let yesterday = std::fs::read(root.path().join(LEDGER_NAME)).unwrap();
    filled(root.path(), 20).await;
    std::fs::write(root.path().join(LEDGER_NAME), yesterday).unwrap();
    assert!(broken(root.path()).contains("checkpoint"));
    // Both restored together is what only a witness can see: `request` and its 409.
}

#[tokio::test]
async fn r18_a_ledger_whose_key_is_gone_or_another_does_not_open() {
    let root = TempRoot::new();
    filled(root.path(), 5).await;
    let path = root.path().join(KEY_FILE);
    let key = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(try_open(root.path()).err().unwrap().code(), ErrorCode::IdentityMissing);
    assert!(!path.exists(), "it is not made again");
    osmoda_kit::keys::store(&path, &[5; 32]).unwrap();
    assert_eq!(try_open(root.path()).err().unwrap().code(), ErrorCode::LedgerBroken);
    std::fs::remove_file(&path).unwrap();
    osmoda_kit::keys::store(&path, key[..].try_into().unwrap()).unwrap();
    try_open(root.path()).unwrap().close().await;
}

#[tokio::test]
async fn a_checkpoint_that_somebody_changed_does_not_open() {
    let root = TempRoot::new();
    filled(root.path(), 5).await;
    let file = Connection::open(root.path().join(FILE_NAME)).unwrap();
    file.execute("UPDATE checkpoints SET note = replace(note, '5', '6')", []).unwrap();
    drop(file);
    assert!(try_open(root.path()).is_err());
}

#[tokio::test]
async fn the_watchman_finds_what_was_changed_while_the_daemon_runs() {
    let root = TempRoot::new();
    let world = try_open(root.path()).unwrap();
    world.append(50).await;
    world.checkpoints.now().await.unwrap();
    let clock = Arc::new(FakeClock::default());
    let (watchman, found) = Watchman::new(root.path().to_owned(), clock, world.tasks.clone());
    watchman.look().await;
    let watched = found.borrow().clone();
    assert_eq!((watched.verified, watched.total, &watched.alarm), (50, 50, &None));
    let file = Connection::open(root.path().join(LEDGER_NAME)).unwrap();
    file.execute_batch("DROP TRIGGER events_no_update; UPDATE events SET actor = 'nobody' WHERE id = 33").unwrap();
    watchman.look().await;
    let watched = found.borrow().clone();
    assert_eq!((watched.verified, watched.total), (32, 50));
    assert!(watched.alarm.unwrap().contains("row 33"));
    world.close().await;
}

#[tokio::test]
async fn a_ledger_that_nobody_writes_to_says_that_it_is_alive() {
    let root = TempRoot::new();
    let rhythm = Rhythm { every: Duration::from_millis(5), heartbeat: Duration::from_millis(50) };
    let world = open_with(root.path(), rhythm).unwrap();
    world.append(1).await;
    let signed = wait_for("two heartbeats", LIMIT, || async {
        world.checkpoints.newest().filter(|newest| newest.checkpoint.size >= 3)
    })
    .await;
    assert!(signed.checkpoint.size < 10, "one beat for each silence");
    world.close().await;
}

/// The disk is full for the checkpoints only: nothing is signed that is not kept,
/// and rows are taken all the same.
#[tokio::test]
async fn r16_a_checkpoint_that_cannot_be_kept_is_not_made() {
    let root = TempRoot::new();
    let world = open_with(root.path(), Rhythm { every: Duration::from_secs(3600), ..Rhythm::default() }).unwrap();
    world.append(1).await;
    let first = world.checkpoints.now().await.unwrap().checkpoint.size;
    world.checkpoints.inner.store().limit_pages(1);
    let mut failed = None;
    // The pages there are may hold some more notes.
    for _ in 0..200 {
        world.append(1).await;
        if let Err(error) = world.checkpoints.now().await {
            failed = Some(error);
            break;
        }
    }
    assert!(matches!(failed, Some(super::CheckpointFailed::Stopping)), "{failed:?}");
    let newest = world.checkpoints.newest().unwrap().checkpoint.size;
    assert!(newest >= first && newest < world.checkpoints.inner.ledger.state().head.size);
    world.checkpoints.inner.store().limit_pages(100_000);
    let size = world.checkpoints.inner.ledger.state().head.size;
    assert_eq!(world.checkpoints.now().await.unwrap().checkpoint.size, size, "space came back");
    world.close().await;
}
