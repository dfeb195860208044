//! Retention on a fleet with witnesses: what goes, what stays provable.

use osmoda_ledger::audit::{Auditor, Outcome, RETAIN_TYPE, Shown};
use osmoda_ledger::tree::Tiles;
use osmoda_ledger::verify::Fault;

use super::*;
use crate::checkpoint::{CheckpointStore, TILES_FOLDER, TileFolder};
use crate::ledger::file::LedgerFile;
use crate::retention::{Keep, Retention};

fn retention(node: &Node) -> Retention {
    Retention {
        ledger: node.ledger.clone(),
        checkpoints: node.gate.checkpoints.clone(),
        gate: node.gate.clone(),
        clock: SystemClock::shared(),
        // Whatever is not among the newest hundred rows may go.
        keep: Keep { age: None, bytes: Some(0), rows: 100 },
        isolation: Isolation::Users,
    }
}

/// As `agentctl verify-ledger` looks at a live folder: its faults, from where it
/// looked, and up to where.
fn looked_at(dir: &Path) -> (Vec<Fault>, u64, u64) {
    let file = LedgerFile::open(&dir.join(LEDGER_NAME)).unwrap();
    let store = CheckpointStore::open_read_only(&dir.join(crate::checkpoint::FILE_NAME)).unwrap().unwrap();
    let base = file.beginning().unwrap().map(|beginning| beginning.base);
    let from = base.as_ref().map_or(0, |base| base.head.size);
    let key = LedgerKey::load_or_generate(&dir.join(KEY_FILE), History::Signed).unwrap();
    let log = crate::ledger_key::verifier(&key.public()).unwrap();
    let policy = osmoda_ledger::policy::Policy::majority(log, Vec::new()).unwrap();
    let shown = Shown { own: store.notes().unwrap(), held: Vec::new() };
    let mut auditor = Auditor::new(Some(policy), shown, base);
    let mut faults = Vec::new();
    let last = file.audit(&mut auditor, |fault| faults.push(fault)).unwrap();
    let to = auditor.size();
    auditor.finish(last, 0, Duration::MAX, |fault| faults.push(fault));
    (faults, from, to)
}

async fn first_row(node: &Node) -> i64 {
    node.ledger.read(|file| file.after(0, 1, usize::MAX)).await.unwrap().unwrap()[0].id
}

async fn say(node: &Node, kind: &str, payload: serde_json::Value) {
    let payload = payload.as_object().unwrap().clone();
    let row = crate::api::new_row(kind.to_owned(), payload, "agentd", Isolation::Users).unwrap();
    node.ledger.append(row).await.unwrap();
}

#[tokio::test]
async fn old_rows_go_and_what_is_left_is_verified_from_there() {
    let fleet = Fleet::of(3);
    let [one, two, three] = [1, 2, 3].map(|number| fleet.start(number));
    one.covered(700).await;
    assert_eq!(retention(&one).step().await.unwrap(), Some(512));
    assert_eq!(retention(&one).step().await.unwrap(), None, "less than a tile is left to go");
    assert_eq!(first_row(&one).await, 513);
    let size = one.covered(10).await;
    // Proofs about rows that are gone, for a witness that was away since.
    for from in [1, 300, 512, 600] {
        one.gate.checkpoints.consistency(from, size).await.unwrap();
    }
    one.gate.checkpoints.inclusion(600, size).await.unwrap();
    one.gate.checkpoints.inclusion(7, size).await.unwrap_err();
    assert!(one.ledger.read(|file| file.hash_at(512)).await.unwrap().unwrap().is_some());
    assert!(one.ledger.read(|file| file.hash_at(511)).await.unwrap().unwrap().is_none());
    fleet.stop(one).await;
    let (faults, from, to) = looked_at(&fleet.dir(1));
    assert_eq!((faults, from, to), (vec![], 512, size));

    // It starts from what is left, goes on, and drops more.
    let one = fleet.start(1);
    let size = one.covered(400).await;
    one.gate.checkpoints.consistency(300, size).await.unwrap();
    assert_eq!(retention(&one).step().await.unwrap(), Some(1024 - 256));
    one.covered(1).await;
    fleet.stop(one).await;
    assert_eq!((looked_at(&fleet.dir(1)).0, looked_at(&fleet.dir(1)).1), (vec![], 768));
    assert!(two.duty.report().await.unwrap().1.is_empty() && three.duty.report().await.unwrap().1.is_empty());
    for node in [two, three] {
        fleet.stop(node).await;
    }
}

#[tokio::test]
async fn without_witnesses_or_with_something_open_nothing_goes() {
    let fleet = Fleet::of(3);
    let [one, two, three] = [1, 2, 3].map(|number| fleet.start(number));
    say(&one, "incident.create", json!({ "incident": "i-1", "name": "disk" })).await;
    one.covered(600).await;
    assert_eq!(retention(&one).step().await.unwrap(), None, "an open incident is not over");
    say(&one, "incident.resolve", json!({ "incident": "i-1" })).await;
    for node in [two, three] {
        fleet.stop(node).await;
    }
    let not_ready = || async { one.gate.ready().await.err() };
    one.append(1).await;
    wait_for("no witness", LIMIT, not_ready).await;
    assert_eq!(retention(&one).step().await.unwrap_err().code, ErrorCode::WitnessUnavailable);
    assert_eq!(first_row(&one).await, 1);
    let [two, three] = [2, 3].map(|number| fleet.start(number));
    one.covered(1).await;
    assert_eq!(retention(&one).step().await.unwrap(), Some(256));
    for node in [one, two, three] {
        fleet.stop(node).await;
    }
}

/// Killed after its intent: no row is gone, the ledger verifies, the next goes.
#[tokio::test]
async fn a_cut_that_was_cut_off_dropped_nothing_and_is_made_again() {
    let fleet = Fleet::of(3);
    let [one, two, three] = [1, 2, 3].map(|number| fleet.start(number));
    one.covered(600).await;
    say(&one, RETAIN_TYPE, json!({ "rows": 256, "chain": "cut off here" })).await;
    fleet.stop(one).await;
    assert_eq!((looked_at(&fleet.dir(1)).0, looked_at(&fleet.dir(1)).1), (vec![], 0));
    let one = fleet.start(1);
    one.covered(1).await;
    assert_eq!(retention(&one).step().await.unwrap(), Some(256));
    one.covered(1).await;
    fleet.stop(one).await;
    assert_eq!((looked_at(&fleet.dir(1)).0, looked_at(&fleet.dir(1)).1), (vec![], 256));
    for node in [two, three] {
        fleet.stop(node).await;
    }
}

#[tokio::test]
async fn a_beginning_that_root_made_up_is_a_broken_ledger() {
    let fleet = Fleet::of(3);
    let nodes = [1, 2, 3].map(|number| fleet.start(number));
    nodes[0].covered(600).await;
    assert_eq!(retention(&nodes[0]).step().await.unwrap(), Some(256));
    nodes[0].covered(1).await;
    for node in nodes {
        fleet.stop(node).await;
    }
    let file = Connection::open(fleet.dir(1).join(LEDGER_NAME)).unwrap();
    file.execute("DELETE FROM events WHERE id = 300", []).unwrap_err();
    let whole = std::fs::read(fleet.dir(1).join(LEDGER_NAME)).unwrap();
    let changes = [
        "UPDATE retained SET hash = (SELECT hash FROM events WHERE id = 300)",
        "UPDATE retained_tiles SET hashes = zeroblob(length(hashes))",
        "UPDATE retained SET size = 512; DELETE FROM events WHERE id <= 512",
        "DELETE FROM retained",
    ];
    for change in changes {
        file.execute_batch(change).unwrap();
        let open = OpenAll { state_dir: fleet.dir(1), options: WriterOptions::default(), clock: SystemClock::shared() };
        assert!(open.open().is_err(), "{change}");
        let path = fleet.dir(1).join(LEDGER_NAME);
        for suffix in ["-wal", "-shm"] {
            drop(std::fs::remove_file(format!("{}{suffix}", path.display())));
        }
        std::fs::write(&path, &whole).unwrap();
    }
}

/// What `agentctl verify-ledger` says of a folder when witnesses hold those notes.
fn judged(dir: &Path, held: Vec<Note>) -> osmoda_ledger::audit::Verdict {
    let file = LedgerFile::open(&dir.join(LEDGER_NAME)).unwrap();
    let beginning = file.beginning().unwrap().unwrap();
    let key = LedgerKey::load_or_generate(&dir.join(KEY_FILE), History::Signed).unwrap();
    let policy = osmoda_ledger::policy::Policy::majority(key.verifier().unwrap(), Vec::new()).unwrap();
    let shown = Shown { own: Vec::new(), held };
    let mut auditor = Auditor::new(Some(policy), shown, Some(beginning.base));
    let last = file.audit(&mut auditor, |_| {}).unwrap();
    let folder = TileFolder::at(dir.join(TILES_FOLDER), beginning.edge);
    auditor.look_below(&mut Tiles::new(&folder));
    auditor.finish(last, 0, Duration::MAX, |_| {})
}

/// Root drops what a witness has seen under a beginning of its own making.
#[tokio::test]
async fn a_note_below_the_beginning_is_compared_with_the_tiles() {
    let fleet = Fleet::of(3);
    let [one, two, three] = [1, 2, 3].map(|number| fleet.start(number));
    one.covered(300).await;
    let below = one.gate.checkpoints.now().await.unwrap().note.clone();
    one.covered(400).await;
    assert_eq!(retention(&one).step().await.unwrap(), Some(512));
    one.covered(1).await;
    for node in [one, two, three] {
        fleet.stop(node).await;
    }
    let dir = fleet.dir(1);
    let honest = judged(&dir, vec![below.clone()]);
    assert_eq!((honest.outcome, honest.unproven), (Outcome::Verified, 0), "{honest:?}");

    // The same key signed another past of as many rows.
    let other = Note::parse(fleet.note(300, 9).as_bytes()).unwrap();
    let forged = judged(&dir, vec![below.clone(), other.clone()]);
    assert_eq!((forged.outcome, forged.outcome.exit_code()), (Outcome::Contradicted, 3));
    assert!(forged.evidence.iter().any(|evidence| evidence.held == other), "{:?}", forged.evidence);

    // Tiles that lead elsewhere, or are gone, prove nothing in either direction.
    let tile = dir.join(TILES_FOLDER).join("tile/0/001");
    let bytes = std::fs::read(&tile).unwrap();
    std::fs::write(&tile, vec![7; bytes.len()]).unwrap();
    for _ in 0..2 {
        let unproven = judged(&dir, vec![below.clone()]);
        assert_eq!((unproven.outcome, unproven.unproven), (Outcome::Uncovered, 1), "{unproven:?}");
        // Wrong the first time, gone the second.
        drop(std::fs::remove_file(&tile));
    }
}
