//! Real ledgers in folders that witness each other, and root on one of the hosts
//! (`trust.md` 1.8). Between them lies no network: a post that can be cut.

mod anchor;
mod lies;
mod retention;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use osmoda_kit::clock::{SharedClock, SystemClock};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::Isolation;
use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_kit::testing::{TempRoot, wait_for};
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::exchange::AddCheckpoint;
use osmoda_ledger::note::Note;
use osmoda_ledger::witness::WitnessedHead;
use osmoda_node_api::witness::{Alarm, Finding, LoggedHead, Peer, Question, Reply, Roster};
use osmoda_types::{ErrorCode, LedgerHash, NodeId, PublicKey};
use rusqlite::Connection;
use serde_json::{Map, json};
use tokio::sync::{mpsc, watch};

use super::courier::{Courier, Post};
use super::coverage::Coverage;
use super::duty::{Duty, DutyParts};
use super::gate::WitnessGate;
use super::operator::Operators;
use super::store::{Asked, FILE_NAME, WitnessStore};
use crate::approval::gate::HeadGate;
use crate::checkpoint::tests::rehash_from;
use crate::checkpoint::{Checkpoints, OpenAll, Rhythm};
use crate::ledger::file::FILE_NAME as LEDGER_NAME;
use crate::ledger::{Ledger, LedgerError, LedgerThreads, SEAL_FILE, WriterOptions};
use crate::ledger_key::{History, KEY_FILE, LedgerKey};

const LIMIT: Duration = Duration::from_secs(20);

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// Reaches the duties that are registered; each question is said by one node.
#[derive(Clone)]
struct Road {
    from: NodeId,
    duties: Arc<Mutex<BTreeMap<NodeId, Duty>>>,
    lies: Arc<Mutex<BTreeMap<NodeId, lies::Lie>>>,
}

impl Post for Road {
    fn ask(&self, witness: NodeId, question: Question) -> BoxFuture<'static, Result<Reply, ApiError>> {
        if let Some(lie) = self.lies.lock().unwrap().get_mut(&witness) {
            return lie.answer(&question);
        }
        let (from, duty) = (self.from, self.duties.lock().unwrap().get(&witness).cloned());
        let gone = || ApiError::new(ErrorCode::PeerOffline, "no road there");
        async move { duty.ok_or_else(gone)?.answer(from, question).await }.boxed()
    }
}

/// Some hosts, each with a folder that stays when its node stops.
struct Fleet {
    root: TempRoot,
    roster: Vec<Peer>,
    duties: Arc<Mutex<BTreeMap<NodeId, Duty>>>,
    lies: Arc<Mutex<BTreeMap<NodeId, lies::Lie>>>,
    /// The witnesses'.
    clock: SharedClock,
}

impl Fleet {
    fn of(count: u8) -> Self {
        let root = TempRoot::new();
        let peer = |number: u8| {
            let dir = root.path().join(number.to_string());
            std::fs::create_dir_all(&dir).unwrap();
            let key = LedgerKey::load_or_generate(&dir.join(KEY_FILE), History::None).unwrap();
            let key = Some(PublicKey::from_bytes(key.public()));
            Peer { node: id(number), name: format!("n{number}"), key, logged: None }
        };
        let roster = (1..=count).map(peer).collect();
        Self { root, roster, duties: Arc::default(), lies: Arc::default(), clock: SystemClock::shared() }
    }

    fn dir(&self, number: u8) -> PathBuf {
        self.root.path().join(number.to_string())
    }

    fn roster(&self, number: u8) -> Roster {
        let others: Vec<Peer> = self.roster.iter().filter(|peer| peer.node != id(number)).cloned().collect();
        let needed = others.len().div_ceil(2);
        Roster { node: id(number), others, needed, logged: None }
    }

    fn start(&self, number: u8) -> Node {
        let dir = self.dir(number);
        let open = OpenAll { state_dir: dir.clone(), options: WriterOptions::default(), clock: SystemClock::shared() };
        let (opened, threads) = open.open().unwrap();
        let (ledger, key) = (opened.ledger.clone(), opened.key.clone());
        let tasks = Tasks::new(Shutdown::new());
        let rhythm = Rhythm { every: Duration::from_millis(20), ..Rhythm::default() };
        let (checkpoints, signing) = Checkpoints::new(opened, tasks.clone(), Isolation::Users, rhythm).unwrap();
        tasks.spawn(TaskKind::REQUEST, "signing", signing.run());
        let (say, roster) = watch::channel(None);
        let duty = Duty::new(DutyParts {
            store: WitnessStore::open(&dir.join(FILE_NAME)).unwrap(),
            key,
            ledger: ledger.clone(),
            clock: self.clock.clone(),
            tasks: tasks.clone(),
            isolation: Isolation::Users,
            roster: roster.clone(),
        });
        let (report, coverage) = watch::channel(Coverage::default());
        let courier = Courier {
            ledger: ledger.clone(),
            checkpoints: checkpoints.clone(),
            roster,
            coverage: report,
            operators: Operators::new(mpsc::channel(1).1),
            post: Road { from: id(number), duties: self.duties.clone(), lies: self.lies.clone() },
            tasks: tasks.clone(),
        };
        tasks.spawn(TaskKind::REQUEST, "courier", courier.run());
        self.duties.lock().unwrap().insert(id(number), duty.clone());
        say.send_replace(Some(Arc::new(self.roster(number))));
        let gate = WitnessGate { ledger: ledger.clone(), checkpoints, coverage };
        Node { number, ledger, gate, duty, say, tasks, threads }
    }

    async fn stop(&self, node: Node) {
        self.duties.lock().unwrap().remove(&id(node.number));
        node.tasks.shutdown().request(StopReason::Asked("end of test".to_owned()));
        assert!(node.tasks.drain(LIMIT).await.is_graceful());
        let Node { threads, .. } = node;
        threads.close().unwrap();
    }
}

struct Node {
    number: u8,
    ledger: Ledger,
    gate: WitnessGate,
    duty: Duty,
    say: watch::Sender<Option<Arc<Roster>>>,
    tasks: Tasks,
    threads: LedgerThreads,
}

impl Node {
    async fn append(&self, rows: usize) -> u64 {
        let mut size = 0;
        for n in 0..rows {
            let payload = Map::from_iter([("n".to_owned(), json!(n))]);
            let row = crate::api::new_row("test.row".to_owned(), payload, "watch", Isolation::Users).unwrap();
            size = self.ledger.append(row).await.unwrap().size;
        }
        size
    }

    /// Appends rows and waits until enough witnesses have cosigned them.
    async fn covered(&self, rows: usize) -> u64 {
        let size = self.append(rows).await;
        let mut coverage = self.gate.coverage.clone();
        let waited = tokio::time::timeout(LIMIT, coverage.wait_for(|coverage| coverage.covers(size))).await;
        waited.expect("cosignatures come").unwrap();
        size
    }

    /// What brings a witness from so many rows to the newest checkpoint.
    async fn request(&self, old: u64) -> AddCheckpoint {
        let checkpoints = &self.gate.checkpoints;
        checkpoints.request(&checkpoints.newest().unwrap(), old).await.unwrap()
    }

    async fn caught(&self, node: u8) -> Alarm {
        let caught = || async {
            let (_, alarms) = self.duty.report().await.unwrap();
            alarms.into_iter().find(|alarm| alarm.node == id(node))
        };
        wait_for("an alarm", LIMIT, caught).await
    }

    async fn sealed(&self) -> String {
        wait_for("the seal", LIMIT, || async { self.ledger.sealed().map(str::to_owned) }).await
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_grave_act_waits_for_the_quorum_and_is_refused_without_it() {
    let fleet = Fleet::of(4);
    let [one, two, three, four] = [1, 2, 3, 4].map(|number| fleet.start(number));
    let intent = one.covered(3).await;
    one.gate.ready().await.unwrap();
    one.gate.witnessed(intent).await.unwrap();

    // One of three witnesses is down: two are enough of a fleet of four.
    fleet.stop(four).await;
    let intent = one.append(1).await;
    one.gate.witnessed(intent).await.unwrap();

    fleet.stop(three).await;
    let intent = one.append(1).await;
    let refused = one.gate.witnessed(intent).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::WitnessUnavailable);
    let not_ready = || async { one.gate.ready().await.err() };
    assert_eq!(wait_for("not ready", LIMIT, not_ready).await.code, ErrorCode::WitnessUnavailable);

    let three = fleet.start(3);
    let ready = || async { one.gate.ready().await.ok() };
    wait_for("ready again", LIMIT, ready).await;
    let intent = one.append(1).await;
    one.gate.witnessed(intent).await.unwrap();
    for node in [one, two, three] {
        fleet.stop(node).await;
    }
}

#[tokio::test]
async fn a_fleet_of_one_has_no_witness_and_says_so() {
    let fleet = Fleet::of(1);
    let one = fleet.start(1);
    let intent = one.append(1).await;
    assert_eq!(one.gate.ready().await.unwrap_err().code, ErrorCode::WitnessUnavailable);
    assert_eq!(one.gate.witnessed(intent).await.unwrap_err().code, ErrorCode::WitnessUnavailable);
    fleet.stop(one).await;
}

#[tokio::test]
async fn r05_a_ledger_that_root_rewrote_with_its_own_key_is_caught_by_every_witness() {
    let fleet = Fleet::of(3);
    let [one, two, three] = [1, 2, 3].map(|number| fleet.start(number));
    one.covered(30).await;
    fleet.stop(one).await;
    let dir = fleet.dir(1);
    // All that would tell is taken away; the key is root's too.
    std::fs::remove_file(dir.join(crate::checkpoint::FILE_NAME)).unwrap();
    // So short a ledger has no full tile yet.
    assert!(!dir.join(crate::checkpoint::TILES_FOLDER).exists());
    let file = Connection::open(dir.join(LEDGER_NAME)).unwrap();
    file.execute_batch("DROP TRIGGER events_no_update; DROP TRIGGER events_no_delete;").unwrap();
    rehash_from(&file, 7, r#"{"n":"forged"}"#);
    drop(file);

    let one = fleet.start(1);
    for witness in [&two, &three] {
        let alarm = witness.caught(1).await;
        assert!(matches!(alarm.finding, Finding::Forked | Finding::Rewritten), "{alarm:?}");
        assert_ne!(alarm.held, alarm.shown);
    }
    assert!(one.sealed().await.contains("rewritten"));
    for node in [one, two, three] {
        fleet.stop(node).await;
    }
}

#[tokio::test]
async fn r08_yesterdays_disk_restored_whole_is_caught_and_takes_no_more_rows() {
    let fleet = Fleet::of(3);
    let [one, two, three] = [1, 2, 3].map(|number| fleet.start(number));
    one.covered(10).await;
    fleet.stop(one).await;
    let yesterday = fleet.root.path().join("yesterday");
    copy(&fleet.dir(1), &yesterday);
    let one = fleet.start(1);
    one.covered(20).await;
    fleet.stop(one).await;
    std::fs::remove_dir_all(fleet.dir(1)).unwrap();
    copy(&yesterday, &fleet.dir(1));

    let one = fleet.start(1);
    assert!(one.sealed().await.contains("old disk"));
    let row = crate::api::new_row("test.row".to_owned(), Map::new(), "watch", Isolation::Users).unwrap();
    one.ledger.append(row).await.unwrap_err();
    for witness in [&two, &three] {
        let alarm = witness.caught(1).await;
        assert_eq!(alarm.finding, Finding::Shortened);
        assert!(alarm.held.starts_with("osmoda.ledger/") && alarm.shown.starts_with("osmoda.ledger/"));
    }
    for node in [one, two, three] {
        fleet.stop(node).await;
    }
}

/// The fleet is away when the caught node starts again: the seal holds, whatever
/// was done to the database meanwhile, until a person opens it.
#[tokio::test]
async fn r08_a_caught_ledger_stays_sealed_over_a_restart_without_witnesses() {
    let fleet = Fleet::of(3);
    let [one, two, three] = [1, 2, 3].map(|number| fleet.start(number));
    let yesterday = fleet.root.path().join("yesterday");
    one.covered(5).await;
    fleet.stop(one).await;
    copy(&fleet.dir(1), &yesterday);
    let one = fleet.start(1);
    one.covered(5).await;
    fleet.stop(one).await;
    for name in [LEDGER_NAME, crate::checkpoint::FILE_NAME] {
        std::fs::copy(yesterday.join(name), fleet.dir(1).join(name)).unwrap();
    }
    let one = fleet.start(1);
    assert!(one.sealed().await.contains("old disk"));
    let file = fleet.dir(1).join(crate::ledger::SEAL_FILE);
    wait_for("the file", LIMIT, || async { file.exists().then_some(()) }).await;
    for node in [one, two, three] {
        fleet.stop(node).await;
    }

    let row = || crate::api::new_row("test.row".to_owned(), Map::new(), "watch", Isolation::Users).unwrap();
    let one = fleet.start(1);
    assert!(one.ledger.sealed().is_some_and(|reason| reason.contains("old disk")), "before anything was asked");
    one.ledger.append(row()).await.unwrap_err();
    assert_eq!(one.gate.ready().await.unwrap_err().code, ErrorCode::WitnessUnavailable);
    fleet.stop(one).await;
    std::fs::rename(&file, fleet.dir(1).join(crate::ledger::SEAL_LIFTED)).unwrap();
    let one = fleet.start(1);
    one.ledger.append(row()).await.unwrap();
    // What is grave still waits for a witness's first answer.
    assert_eq!(one.gate.ready().await.unwrap_err().code, ErrorCode::WitnessUnavailable);
    fleet.stop(one).await;
}

#[tokio::test]
async fn r07_the_fleets_log_remembers_a_head_when_every_witness_is_away() {
    let fleet = Fleet::of(3);
    let one = fleet.start(1);
    one.append(5).await;
    let verifier = one.gate.checkpoints.verifier().clone();
    let logged = |note: &Note| super::logged::head_of(note, &verifier).unwrap();
    let say = |head| one.say.send_replace(Some(Arc::new(Roster { logged: Some(head), ..fleet.roster(1) })));
    let genuine = logged(&one.gate.checkpoints.now().await.unwrap().note);
    say(genuine);
    one.append(1).await;
    // What its key never signed says nothing, whoever leads the fleet.
    say(LoggedHead { size: 900, ..genuine });
    say(LoggedHead { hash: LedgerHash::from_bytes([9; 32]), ..genuine });
    one.append(1).await;
    assert_eq!(one.ledger.sealed(), None);
    say(logged(&Note::parse(fleet.note(900, 9).as_bytes()).unwrap()));
    assert!(one.sealed().await.contains("longer"));
    fleet.stop(one).await;
}

/// The reader is busy with a query that does not end, and the disk has no room.
#[tokio::test]
async fn r07_a_seal_that_cannot_be_written_is_written_as_soon_as_it_can() {
    let fleet = Fleet::of(3);
    let one = fleet.start(1);
    one.append(5).await;
    let ((go, gate), (begun, has_begun)) = (std::sync::mpsc::sync_channel::<()>(1), tokio::sync::oneshot::channel());
    let mut reads = vec![
        one.ledger
            .read(move |_| {
                begun.send(()).unwrap();
                assert!(gate.recv().is_err());
            })
            .boxed(),
    ];
    assert!(futures_util::poll!(&mut reads[0]).is_pending());
    has_begun.await.unwrap();
    for _ in 0..16 {
        let mut read = one.ledger.read(|_| ()).boxed();
        assert!(futures_util::poll!(&mut read).is_pending());
        reads.push(read);
    }
    assert_eq!(one.ledger.read(|_| ()).await, Err(LedgerError::Busy));
    let seal = fleet.dir(1).join(SEAL_FILE);
    std::fs::create_dir(&seal).unwrap();
    let note = Note::parse(fleet.note(900, 9).as_bytes()).unwrap();
    let head = super::logged::head_of(&note, one.gate.checkpoints.verifier());
    one.say.send_replace(Some(Arc::new(Roster { logged: head, ..fleet.roster(1) })));
    assert!(one.sealed().await.contains("longer"));
    std::fs::remove_dir(&seal).unwrap();
    let written = async || std::fs::read_to_string(&seal).ok().filter(|text| text.contains("longer"));
    wait_for("the file", LIMIT, written).await;
    drop((go, reads));
    fleet.stop(one).await;
}

#[tokio::test]
async fn r17_a_stranger_and_one_peer_in_anothers_name_are_cosigned_nothing() {
    let fleet = Fleet::of(3);
    let [one, two] = [1, 2].map(|number| fleet.start(number));
    one.append(3).await;
    let signed = one.gate.checkpoints.now().await.unwrap();
    let body = one.request(0).await.to_string();
    assert_eq!(signed.checkpoint.size, 3);
    for (from, status) in [(9, 404), (3, 404)] {
        let reply = two.duty.answer(id(from), Question::AddCheckpoint(body.clone())).await.unwrap();
        assert_eq!(reply, Reply::Judged { status, body: String::new() }, "node {from}");
        assert_eq!(two.duty.answer(id(from), Question::Held).await.unwrap(), Reply::Held(None));
    }
    let reply = two.duty.answer(id(1), Question::AddCheckpoint("nonsense".to_owned())).await.unwrap();
    assert_eq!(reply, Reply::Judged { status: 400, body: String::new() });
    for node in [one, two] {
        fleet.stop(node).await;
    }
}

#[tokio::test]
async fn what_a_witness_cosigned_it_still_holds_after_a_restart() {
    let fleet = Fleet::of(2);
    let [one, two] = [1, 2].map(|number| fleet.start(number));
    let size = one.covered(4).await;
    fleet.stop(two).await;
    let two = fleet.start(2);
    let (held, alarms) = two.duty.report().await.unwrap();
    assert!(alarms.is_empty());
    assert!(held.iter().any(|held| held.node == id(1) && held.size == size), "{held:?}");
    // An old request that was held up on the way is refused and alarms nobody.
    one.append(2).await;
    let old = one.request(0).await;
    let reply = two.duty.answer(id(1), Question::AddCheckpoint(old.to_string())).await.unwrap();
    let Reply::Judged { status, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(status, 409);
    assert!(two.duty.report().await.unwrap().1.is_empty());
    for node in [one, two] {
        fleet.stop(node).await;
    }
}

#[tokio::test]
async fn a_sealed_node_cosigns_nobody_and_still_says_what_it_holds() {
    let fleet = Fleet::of(2);
    let [one, two] = [1, 2].map(|number| fleet.start(number));
    one.covered(3).await;
    assert!(two.ledger.seal("caught"));
    one.append(1).await;
    let body = one.request(3).await.to_string();
    let refused = two.duty.answer(id(1), Question::AddCheckpoint(body)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::LedgerUnavailable);
    let held = two.duty.answer(id(1), Question::Held).await.unwrap();
    assert!(matches!(held, Reply::Held(Some(_))), "{held:?}");
    for node in [one, two] {
        fleet.stop(node).await;
    }
}

#[tokio::test]
async fn r08_a_witness_that_lost_its_file_begins_with_what_the_log_remembers() {
    let fleet = Fleet::of(2);
    let [one, two] = [1, 2].map(|number| fleet.start(number));
    one.covered(5).await;
    fleet.stop(two).await;
    for suffix in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(fleet.dir(2).join(format!("{FILE_NAME}{suffix}"))));
    }
    let two = fleet.start(2);
    let verifier = one.gate.checkpoints.verifier().clone();
    let remembered = Note::parse(fleet.note(900, 9).as_bytes()).unwrap();
    let mut roster = fleet.roster(2);
    roster.others[0].logged = super::logged::head_of(&remembered, &verifier);
    two.say.send_replace(Some(Arc::new(roster)));
    one.append(1).await;
    assert!(one.sealed().await.contains("old disk"));
    assert_eq!(two.caught(1).await.held, remembered.to_string());
    for node in [one, two] {
        fleet.stop(node).await;
    }
}

/// Root of a host begins anew with a key of its own making, and vouches for it.
#[test]
fn r06_of_each_node_one_note_is_told() {
    let root = TempRoot::new();
    let mut store = WitnessStore::open(&root.path().join(FILE_NAME)).unwrap();
    for (name, time_s) in [("old", 5), ("new", 9), ("other", 7)] {
        let key = LedgerKey::load_or_generate(&root.path().join(name), History::None).unwrap();
        let chain = osmoda_ledger::record::ChainHash::GENESIS;
        let root = osmoda_ledger::tree::TreeHash::new([1; 32]);
        let note = Checkpoint { origin: key.origin(), size: time_s, root, chain }.sign(&key).unwrap();
        let node = id(if name == "other" { 2 } else { 1 });
        store.seed(node, &key.verifier().unwrap(), &WitnessedHead { size: time_s, root, note, time_s }).unwrap();
    }
    let told: Vec<_> = store.all_held().unwrap().into_iter().map(|held| (held.node, held.size)).collect();
    assert_eq!(told, [(id(1), 9), (id(2), 7)]);
}

/// No cosignature leaves whose head cannot be kept.
#[test]
fn r16_a_witness_whose_disk_is_full_cosigns_nothing() {
    let root = TempRoot::new();
    let mut store = WitnessStore::open(&root.path().join(FILE_NAME)).unwrap();
    let own = LedgerKey::load_or_generate(&root.path().join("own"), History::None).unwrap();
    let name = crate::ledger_key::witness_name(&own.public());
    let witness = osmoda_ledger::witness::Witness { name: &name, signer: &own };
    store.limit_pages(1);
    let mut refused = 0;
    // The pages there are may hold some more notes.
    for number in 0..200 {
        let key = LedgerKey::load_or_generate(&root.path().join(number.to_string()), History::None).unwrap();
        let (chain, root) = (osmoda_ledger::record::ChainHash::GENESIS, osmoda_ledger::tree::TreeHash::new([1; 32]));
        let note = Checkpoint { origin: key.origin(), size: 5, root, chain }.sign(&key).unwrap();
        let request = AddCheckpoint { old: 0, proof: Vec::new(), note };
        let verifier = key.verifier().unwrap();
        let asked = Asked { request: &request, anchor: None, logged: None };
        if store.judge(&witness, id(1), Some(&verifier), asked, 7).is_err() {
            assert!(store.held(&verifier).unwrap().is_none());
            refused += 1;
            if refused == 2 {
                break;
            }
        }
    }
    assert_eq!(refused, 2, "and it stays so");
}
