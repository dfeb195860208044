//! The real daemon, killed with SIGKILL in the middle of one of the four writes
//! that must survive it: a commit of rows, the signing of a checkpoint, a
//! cosignature as a witness, the consumption of a permit. All four go on at once
//! in every round; which of them the kill falls into, and at which of its writes,
//! is random. After each: every acknowledged row is there, chain and tree verify
//! against every checkpoint that was ever shown, no permit was consumed twice, and
//! no head was cosigned that contradicts one that was cosigned before.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

mod ledgers;
#[path = "../common/permits.rs"]
mod permits;
#[path = "../common/process.rs"]
mod process;
mod trigger;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use axum::routing::get;
use axum::{Json, Router};
use osmoda_agentd::checkpoint::{CheckpointStore, FILE_NAME as CHECKPOINTS};
use osmoda_agentd::ledger::file::{FILE_NAME, LedgerFile, Mark};
use osmoda_agentd::ledger_key::{KEY_FILE, verifier, witness_name};
use osmoda_kit::keys;
use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_kit::tasks::Tasks;
use osmoda_kit::testing::{TempRoot, wait_for};
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::note::{KeyKind, Note, VerifierKey};
use osmoda_node_api::agentd::{AgentdClient, AppendRequest, Appended};
use osmoda_node_api::callers::FLEETD;
use osmoda_node_api::witness::Roster;
use osmoda_types::NodeId;
use serde_json::{Map, json};

use ledgers::{Forker, Road};
use permits::{Clients, Tried, check_permits};
use process::{LIMIT, Tokens, client, prepare_approvals, stand_in, start};
use trigger::Trigger;

/// Kills in CI. `OSMODA_KILLS` asks for more, `OSMODA_SEED` for the same again.
const KILLS: u64 = 16;

/// Clients that append, ask for permits, and ledgers that show two histories.
const APPENDERS: usize = 4;
const ASKERS: usize = 3;
const FORKERS: u8 = 2;

/// Where a kill falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    Append,
    Checkpoint,
    Cosign,
    Consume,
}

impl Point {
    const ALL: [Self; 4] = [Self::Append, Self::Checkpoint, Self::Cosign, Self::Consume];

    /// The file that is written, and up to how many writes are let through: some
    /// commits of it, and not a whole number of them.
    const fn file(self) -> (&'static str, u64) {
        match self {
            Self::Append => ("ledger.db-wal", 150),
            Self::Consume => ("ledger.db-wal", 25),
            Self::Checkpoint => ("checkpoints.db-wal", 9),
            Self::Cosign => ("witness.db-wal", 40),
        }
    }
}

/// SplitMix64: the rounds of a seed are the same on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Appends until the daemon is gone; what was acknowledged, by its mark.
async fn append(client: &AgentdClient, name: String, count: &AtomicUsize) -> Vec<(String, Appended)> {
    let mut done = Vec::new();
    loop {
        let mark = format!("{name}-{}", done.len());
        let payload = Map::from_iter([("mark".to_owned(), json!(mark))]);
        match client.append(&AppendRequest { kind: "test.kill".to_owned(), payload }).await {
            Ok(appended) => done.push((mark, appended)),
            Err(_) => return done,
        }
        count.fetch_add(1, SeqCst);
    }
}

/// Looks at the newest checkpoint until the daemon is gone; each that was shown.
async fn watch(client: &AgentdClient) -> BTreeMap<u64, String> {
    let mut shown = BTreeMap::new();
    loop {
        match client.checkpoint().await {
            Ok(newest) => {
                let before = shown.insert(newest.size, newest.note.clone());
                let (before, now) = (before.unwrap_or_else(|| newest.note.clone()), newest.note);
                assert_eq!(before, now, "two checkpoints of one size");
            }
            Err(error) if error.code == osmoda_types::ErrorCode::NotFound => {}
            Err(_) => return shown,
        }
        tokio::task::yield_now().await;
    }
}

/// A host that lives through it all.
struct Host {
    root: TempRoot,
    tokens: Tokens,
    /// What was acknowledged and shown so far.
    rows: BTreeMap<String, Appended>,
    shown: BTreeMap<u64, String>,
}

impl Host {
    fn state(&self) -> PathBuf {
        self.root.paths().state("agentd")
    }

    fn public(&self) -> [u8; 32] {
        keys::load_signing(&self.state().join(KEY_FILE)).unwrap().verifying_key().to_bytes()
    }

    /// Chain and tree hold under every checkpoint that was stored or shown, and
    /// what was acknowledged since the last look is there.
    fn check(&self, new: &[(String, Appended)]) {
        let file = LedgerFile::open(&self.state().join(FILE_NAME)).unwrap();
        let key = verifier(&self.public()).unwrap();
        let stored = CheckpointStore::open_read_only(&self.state().join(CHECKPOINTS)).unwrap();
        let stored = stored.map_or_else(Vec::new, |store| store.notes().unwrap());
        let shown = self.shown.values().map(|text| Note::parse(text.as_bytes()).unwrap());
        let mut marks: Vec<Mark> =
            stored.into_iter().chain(shown).map(|note| Mark::from(&Checkpoint::open(&note, &key).unwrap())).collect();
        marks.sort_by_key(|mark| mark.size);
        let report = file.verify_against(&marks, |fault| panic!("{fault}"), |_| {}).unwrap();
        assert_eq!(report.verified, report.total);
        let ids: Vec<i64> = new.iter().map(|(_, appended)| appended.id as i64).collect();
        let rows = file.by_ids(&ids).unwrap();
        assert_eq!(rows.len(), new.len(), "an acknowledged row is lost");
        for (row, (mark, appended)) in rows.iter().zip(new) {
            assert_eq!((row.id.unsigned_abs(), &row.hash), (appended.id, &appended.hash));
            assert!(row.payload.contains(&format!("\"mark\":\"{mark}\"")), "{}", row.payload);
        }
    }
}

/// Who is in the fleet, as fleetd says.
fn fleet(host: &Host, tasks: &Tasks, forkers: &[Forker]) {
    let others = forkers.iter().map(Forker::peer).collect();
    let roster = Roster { node: NodeId::from_bytes([2; 32]), others, needed: 1, logged: None };
    let router = Router::new().route("/ledger/roster", get(async move || Json(roster.clone())));
    stand_in(&host.root, &host.tokens, tasks, "fleetd", FLEETD, router);
}

/// The last look over everything; what was tried, in a line.
fn conclude(host: &Host, permits: &[Tried], forkers: &[Forker]) -> String {
    let all: Vec<_> = host.rows.clone().into_iter().collect();
    host.check(&all);
    let used = check_permits(&host.root, permits);
    let cosigned: usize = forkers.iter().map(|forker| forker.cosigned).sum();
    let refused: usize = forkers.iter().map(|forker| forker.refusals).sum();
    assert!(used > 0 && cosigned > 0 && !host.shown.is_empty());
    format!(
        "{} rows, {used} of {} permits used, {cosigned} heads cosigned, {refused} second histories refused, \
         {} checkpoints shown: nothing lost, nothing twice",
        host.rows.len(),
        permits.len(),
        host.shown.len(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r15_nothing_acknowledged_is_lost_or_done_twice_wherever_it_is_killed() {
    let kills = variable("OSMODA_KILLS").unwrap_or(KILLS);
    let seed = variable("OSMODA_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let mut dice = Dice(seed);
    let mut host =
        Host { root: TempRoot::new(), tokens: Tokens::mint(), rows: BTreeMap::new(), shown: BTreeMap::new() };
    let tasks = Tasks::new(Shutdown::new());
    prepare_approvals(&host.root, &host.tokens, &tasks);
    let mut forkers: Vec<Forker> = (10..10 + FORKERS).map(Forker::new).collect();
    fleet(&host, &tasks, &forkers);
    let clients = Clients::new(&host.root, &host.tokens);
    let daemon = AgentdClient::new(client(&host.root, host.tokens.credentials("watch")));
    let mut permits: Vec<Tried> = Vec::new();
    let mut hits: BTreeMap<Point, usize> = BTreeMap::new();
    for kill in 0..kills {
        let point = Point::ALL[dice.below(4) as usize];
        let (file, bound) = point.file();
        let writes = 1 + dice.below(bound);
        let mut child = start(&host.root, &host.tokens, &[]);
        wait_for("the daemon", LIMIT, || async { daemon.head().await.ok() }).await;
        let public = host.public();
        let witness = VerifierKey::new(&witness_name(&public), KeyKind::Witness, &public).unwrap();
        let road = Road { root: &host.root, tokens: &host.tokens, witness: &witness };
        for forker in &mut forkers {
            forker.look_again(&road).await;
        }
        for tried in permits.iter_mut().rev().take(2 * ASKERS) {
            clients.again(tried).await;
        }
        let (appended, consumed, cosigned) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let appends = (0..APPENDERS).map(|n| append(&daemon, format!("{kill}-{n}"), &appended));
        let asks = (0..ASKERS).map(|n| clients.work(format!("{kill}-{n}"), &consumed));
        let forks = forkers.iter_mut().map(|forker| forker.work(&road, &cosigned));
        // A consumption is a row too: what makes it this kind is that one just ended.
        let awaited = if point == Point::Consume { 1 + dice.below(8) as usize } else { 0 };
        let state = host.state();
        let armed = async {
            wait_for("a consumption", LIMIT, || async { (consumed.load(SeqCst) >= awaited).then_some(()) }).await;
            Trigger::set(&child, &state, file, writes as usize)
        };
        let (trigger, rows, tried, _, shown) = tokio::join!(
            armed,
            futures_util::future::join_all(appends),
            futures_util::future::join_all(asks),
            futures_util::future::join_all(forks),
            watch(&daemon),
        );
        trigger.join();
        child.wait().unwrap();
        *hits.entry(point).or_default() += 1;
        for (size, note) in shown {
            let before = host.shown.insert(size, note.clone());
            assert!(before.is_none_or(|before| before == note), "two checkpoints of {size} rows, seed {seed}");
        }
        let rows: Vec<_> = rows.into_iter().flatten().collect();
        host.check(&rows);
        host.rows.extend(rows);
        permits.extend(tried.into_iter().flatten());
    }
    writeln!(std::io::stderr(), "seed {seed}: {kills} kills {hits:?}; {}", conclude(&host, &permits, &forkers))
        .unwrap();
    assert!(host.rows.len() as u64 > kills);
    tasks.shutdown().request(StopReason::Asked("end of test".into()));
    tasks.drain(LIMIT).await;
}
