//! The real daemon, killed with SIGKILL while clients append, again and again:
//! no acknowledged row is lost and the chain verifies each time. And the real
//! daemon on a full disk: nothing is acknowledged that is not there.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

#[path = "common/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use axum::http::Method;
use osmoda_agentd::checkpoint::{CheckpointStore, FILE_NAME as CHECKPOINTS};
use osmoda_agentd::ledger::file::{FILE_NAME, LedgerFile};
use osmoda_agentd::ledger::record::Row;
use osmoda_agentd::ledger::verify::Verifier;
use osmoda_agentd::ledger_key::{KEY_FILE, verifier};
use osmoda_backup::{Archive, Limits, Plan, Source};
use osmoda_kit::clock::Timestamp;
use osmoda_kit::http::Credentials;
use osmoda_kit::keys;
use osmoda_kit::testing::{TempRoot, wait_for};
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_node_api::agentd::{AgentdClient, AppendRequest, Appended, Event, EventQuery};
use osmoda_node_api::agentd_memory::Ingest;
use osmoda_node_api::agentd_records::NewIncident;
use osmoda_types::ErrorCode;
use serde_json::{Value, json};

use process::{LIMIT, Tokens, client, start};

/// Kills in CI. `OSMODA_KILLS=1000` for as many as the issue asks for.
const KILLS: usize = 25;

/// Every so many kills wait until a checkpoint covers what was appended, so that
/// some fall right behind one and others between two.
const SIGNED_EVERY: usize = 5;

/// Clients that append at the same time: enough that every kill falls into a
/// commit, a gather window or an answer under way.
const CLIENTS: usize = 24;

struct Daemon {
    child: Child,
    client: AgentdClient,
}

impl Daemon {
    /// Starts the daemon; `wrap` is a command line to start it through.
    fn start(root: &TempRoot, wrap: &[&str]) -> Self {
        let tokens = Tokens::mint();
        let child = start(root, &tokens, wrap);
        Self { child, client: AgentdClient::new(client(root, tokens.credentials("watch"))) }
    }

    async fn ready(&self) {
        wait_for("the daemon", LIMIT, || async { self.client.head().await.ok() }).await;
    }

    /// SIGKILL, then waits until it is gone.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn request(payload: Value) -> AppendRequest {
    let Value::Object(payload) = payload else { panic!("an object") };
    AppendRequest { kind: "test.crash".to_owned(), payload }
}

/// Appends until the daemon is gone; returns what was acknowledged.
async fn append_until_gone(
    client: AgentdClient,
    name: String,
    acknowledged: Arc<AtomicUsize>,
) -> Vec<(String, Appended)> {
    let mut done = Vec::new();
    loop {
        let mark = format!("{name}-{}", done.len());
        match client.append(&request(json!({ "mark": mark }))).await {
            Ok(appended) => {
                acknowledged.fetch_add(1, SeqCst);
                done.push((mark, appended));
            }
            Err(_) => return done,
        }
    }
}

/// Small, fixed, and spread over everything from "at once" to "many commits".
fn rows_before_kill(kill: usize) -> usize {
    [0, 1, 2, 7, 30, 100, 250, 600][kill % 8] + kill
}

/// Chain, tree and every checkpoint ever signed hold, and nothing acknowledged
/// is lost. Returns the size of the newest checkpoint.
fn check(path: &Path, acknowledged: &BTreeMap<String, Appended>) -> u64 {
    let file = LedgerFile::open(path).unwrap();
    let state = path.parent().unwrap();
    let store = CheckpointStore::open_read_only(&state.join(CHECKPOINTS)).unwrap().unwrap();
    let key = keys::load_signing(&state.join(KEY_FILE)).unwrap();
    let key = verifier(&key.verifying_key().to_bytes()).unwrap();
    let mut signed = 0;
    for note in store.notes().unwrap() {
        signed = Checkpoint::open(&note, &key).unwrap().size;
    }
    let marks = store.marks().unwrap();
    let report = file.verify_against(&marks, |fault| panic!("{fault}"), |_| {}).unwrap();
    assert_eq!(report.verified, report.total);
    let mut rows = BTreeMap::new();
    file.for_each(|event| {
        rows.insert(event.id.unsigned_abs(), event);
        Ok::<_, osmoda_agentd::ledger::file::FileError>(())
    })
    .unwrap();
    for (mark, appended) in acknowledged {
        let row = rows.get(&appended.id).unwrap_or_else(|| panic!("row {} of {mark} is lost", appended.id));
        assert_eq!(row.hash, appended.hash);
        assert!(row.payload.contains(&format!("\"mark\":\"{mark}\"")), "{}", row.payload);
    }
    signed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r15_no_acknowledged_row_is_lost() {
    let kills = std::env::var("OSMODA_KILLS").map_or(KILLS, |count| count.parse().unwrap());
    let mut signed = 0;
    let root = TempRoot::new();
    let path = root.paths().state("agentd").join(FILE_NAME);
    let mut acknowledged = BTreeMap::new();
    for kill in 0..kills {
        let daemon = Daemon::start(&root, &[]);
        daemon.ready().await;
        let count = Arc::new(AtomicUsize::new(0));
        let clients =
            (0..CLIENTS).map(|n| append_until_gone(daemon.client.clone(), format!("{kill}-{n}"), Arc::clone(&count)));
        let clients = futures_util::future::join_all(clients);
        let killed = async {
            let wanted = rows_before_kill(kill);
            wait_for("appends", LIMIT, || async { (count.load(SeqCst) >= wanted).then_some(()) }).await;
            if kill % SIGNED_EVERY == 0 {
                let rows = acknowledged.len() as u64;
                wait_for("a checkpoint", LIMIT, || async {
                    daemon.client.checkpoint().await.ok().filter(|newest| newest.size > rows)
                })
                .await;
            }
            daemon.kill();
        };
        let (done, ()) = tokio::join!(clients, killed);
        acknowledged.extend(done.into_iter().flatten());
        let now = check(&path, &acknowledged);
        assert!(now >= signed, "a checkpoint that was signed is gone");
        signed = now;
    }
    assert!(signed > 0 && acknowledged.len() > kills * 100, "only {} rows were acknowledged", acknowledged.len());
}

/// A file system of 1 MiB of its own for the daemon alone, gone with it.
const SMALL_DISK: &str = "mount -t tmpfs -o size=1m,mode=700 none \"$0\" && exec \"$@\"";

/// Whether this machine lets us make one.
#[expect(clippy::disallowed_methods, reason = "asks the machine once, before the test")]
fn can_mount(namespace: &str) -> bool {
    Command::new("unshare")
        .args([namespace, "mount", "-t", "tmpfs", "none", "/mnt"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[tokio::test]
async fn r16_a_full_disk_refuses_appends_and_loses_nothing() {
    let Some(namespace) = ["-m", "-Urm"].into_iter().find(|namespace| can_mount(namespace)) else {
        writeln!(std::io::stderr(), "SKIPPED: this machine gives no mount namespace").unwrap();
        return;
    };
    let root = TempRoot::new();
    let state = root.paths().state_root();
    let wrap = ["unshare", namespace, "sh", "-c", SMALL_DISK, state.to_str().unwrap()];
    let daemon = Daemon::start(&root, &wrap);
    daemon.ready().await;
    let mut acknowledged = Vec::new();
    let error = loop {
        match daemon.client.append(&request(json!({ "fill": "x".repeat(20_000) }))).await {
            Ok(appended) => acknowledged.push(appended),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 100, "the disk never filled");
    };
    assert_eq!(error.code, ErrorCode::LedgerUnavailable);
    assert!(acknowledged.len() > 5, "{}", acknowledged.len());
    assert_eq!(daemon.client.health().await.unwrap().status, "degraded");

    let mut events = daemon.client.events(&EventQuery { limit: -1, ..EventQuery::default() }).await.unwrap();
    events.reverse();
    assert_eq!(events.len(), acknowledged.len() + 1, "daemon.start and what was acknowledged, nothing else");
    verify(&events);
    for (event, appended) in events[1..].iter().zip(&acknowledged) {
        assert_eq!((event.id.unsigned_abs(), &event.hash), (appended.id, &appended.hash));
    }
    daemon.kill();
}

/// What no file may hold.
const CANARY: &str = "canary-7d1f0c55";

fn holds_canary(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holds_canary(&path));
        } else if std::fs::read(&path).is_ok_and(|b| b.windows(CANARY.len()).any(|part| part == CANARY.as_bytes())) {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn r20_no_file_of_the_daemon_holds_a_planted_secret() {
    let root = TempRoot::new();
    let daemon = Daemon::start(&root, &[]);
    daemon.ready().await;
    let secrets = json!({
        "password": CANARY,
        "deep": [{"api_key": CANARY}, {"session-token": [CANARY]}],
        "text": format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}\n-----END OPENSSH PRIVATE KEY-----"),
    });
    daemon.client.append(&request(secrets)).await.unwrap();
    // What people and agents write, what is found again, and what is handed out.
    let text = format!("it says -----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}\n-----END OPENSSH PRIVATE KEY-----");
    let socket = client(&root, Credentials::none());
    let admin = AgentdClient::new(client(&root, Credentials::none()));
    let incident = admin.open_incident(&NewIncident { name: text.clone() }).await.unwrap();
    let step = json!({ "action": text, "result": text });
    admin.add_step(&incident.id, &serde_json::from_value(step).unwrap()).await.unwrap();
    let noted = Ingest { content: Some(text), ..Ingest::default() };
    let noted = u64::try_from(admin.ingest(&noted).await.unwrap().id).unwrap();
    let found = || async { admin.memory_health().await.ok().filter(|health| health.indexed >= noted) };
    wait_for("the index", LIMIT, found).await;
    let (status, rows) = socket.exchange(Method::GET, "/ledger/export?from=1&rows=1000", None).await.unwrap();
    assert!(status.is_success() && String::from_utf8_lossy(&rows).contains("incident.create"), "{rows:?}");
    std::fs::write(root.path().join("export.jsonl"), rows).unwrap();
    let appended = daemon.client.append(&request(json!({ "last": true }))).await.unwrap();
    wait_for("a checkpoint", LIMIT, || async {
        daemon.client.checkpoint().await.ok().filter(|newest| newest.size >= appended.id)
    })
    .await;
    let source = Source { name: "agentd".to_owned(), folder: root.paths().state("agentd") };
    let plan = Plan { sources: vec![source], limits: Limits::default() };
    Archive::new(root.path().join("backups"), 7).create(&plan, Timestamp::from_millis(0)).unwrap();
    daemon.kill();
    assert_eq!(holds_canary(root.path()), Vec::<PathBuf>::new());
}

fn verify(events: &[Event]) {
    let mut verifier = Verifier::new();
    for event in events {
        let row = Row {
            id: event.id,
            ts: event.ts.as_bytes(),
            kind: event.kind.as_bytes(),
            actor: event.actor.as_bytes(),
            payload: event.payload.as_bytes(),
            prev_hash: event.prev_hash.as_bytes(),
            hash: event.hash.as_bytes(),
        };
        verifier.feed(&row, |fault| panic!("{fault}"));
    }
    assert!(verifier.finish(None, |fault| panic!("{fault}")).is_intact());
}
