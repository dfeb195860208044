//! The program as a person uses it: real files, exit codes, output.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use osmoda_agentd::ledger::file::FILE_NAME;
use osmoda_agentd::ledger::payload::Payload;
use osmoda_agentd::ledger::{Ledger, NewRow, WriterOptions};
use osmoda_kit::testing::{FakeClock, TempRoot};
use rusqlite::Connection;
use serde_json::Value;

#[expect(clippy::disallowed_methods, reason = "the program under test, with a plain environment")]
fn agentctl(root: &TempRoot, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_agentctl")).arg("--root").arg(root.path()).args(words).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn row(kind: &str, actor: &str, payload: &str) -> NewRow {
    let Value::Object(payload) = serde_json::from_str(payload).unwrap() else { panic!("an object") };
    NewRow::new(kind.to_owned(), actor.to_owned(), Payload::new(&payload).unwrap()).unwrap()
}

/// A node with a ledger of these rows.
async fn node(rows: &[(&str, &str, &str)]) -> TempRoot {
    let root = TempRoot::new();
    let dir = root.paths().state("agentd");
    std::fs::create_dir_all(&dir).unwrap();
    let clock = Arc::new(FakeClock::new());
    let (ledger, threads, _) = Ledger::open(&dir.join(FILE_NAME), WriterOptions::default(), clock).unwrap();
    for (kind, actor, payload) in rows {
        ledger.append(row(kind, actor, payload)).await.unwrap();
    }
    threads.close().unwrap();
    root
}

async fn good_node() -> TempRoot {
    node(&[
        ("daemon.start", "agentd", "{}"),
        ("watch.activate.intent", "watch", r#"{"target":"/nix/store/a"}"#),
        ("watch.activate.outcome", "watch", r#"{"intent":2,"ok":true}"#),
    ])
    .await
}

fn ledger(root: &TempRoot) -> std::path::PathBuf {
    root.paths().state("agentd").join(FILE_NAME)
}

fn tamper(path: &Path, sql: &str) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch("DROP TRIGGER IF EXISTS events_no_update; DROP TRIGGER IF EXISTS events_no_delete;").unwrap();
    conn.execute_batch(sql).unwrap();
}

/// Writes a row with a right hash, past every check of the appender.
fn forge(path: &Path, kind: &str, payload: &str) {
    use osmoda_agentd::ledger::record::ChainHash;
    let conn = Connection::open(path).unwrap();
    let (id, ts, prev): (i64, String, String) = conn
        .query_row("SELECT id + 1, ts, hash FROM events ORDER BY id DESC LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    let hash =
        ChainHash::of(id, ts.as_bytes(), kind.as_bytes(), b"forger", payload.as_bytes(), prev.as_bytes()).to_string();
    conn.execute("INSERT INTO events VALUES (?1, ?2, ?3, 'forger', ?4, ?5, ?6)", (id, ts, kind, payload, prev, hash))
        .unwrap();
    conn.execute("DELETE FROM tree", []).unwrap();
}

#[tokio::test]
async fn broken_glass_is_named_and_is_no_fault() {
    let root = node(&[
        ("daemon.start", "agentd", "{}"),
        ("approval.break_glass", "admin", r#"{"approvers":"ada\\u202e","permit":"9f2c"}"#),
    ])
    .await;
    let out = text(&agentctl(&root, &["verify-ledger"]));
    assert!(out.contains("glass broken in row 2 at ") && out.contains("9f2c") && !out.contains('\u{202e}'), "{out}");
    let json: Value = serde_json::from_str(&text(&agentctl(&root, &["verify-ledger", "--json"]))).unwrap();
    assert_eq!((&json["exit"], &json["break_glass"]), (&0.into(), &serde_json::json!([2])));
    let rows = text(&agentctl(&root, &["export"]));
    let file = root.path().join("rows.jsonl");
    std::fs::write(&file, rows).unwrap();
    let out = text(&agentctl(&root, &["verify-ledger", "--export", file.to_str().unwrap()]));
    assert!(out.contains("glass broken in row 2 at "), "{out}");
    assert!(!text(&agentctl(&good_node().await, &["verify-ledger"])).contains("glass"));
}

#[tokio::test]
async fn a_good_ledger_is_verified_and_never_just_ok() {
    let root = good_node().await;
    let output = agentctl(&root, &["verify-ledger"]);
    assert_eq!(output.status.code(), Some(0));
    let out = text(&output);
    assert!(out.contains("verified up to 3 of 3") && out.contains("head 3 ") && out.contains("no witness"), "{out}");

    let json: Value = serde_json::from_str(&text(&agentctl(&root, &["verify-ledger", "--json"]))).unwrap();
    assert_eq!((&json["exit"], &json["verified"], &json["total"]), (&0.into(), &3.into(), &3.into()));
    assert_eq!(json["head"]["size"], 3);
}

#[tokio::test]
async fn each_kind_of_fault_has_its_exit_code() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage, i32, u64); 6] = [
        ("changed", |path| tamper(path, "UPDATE events SET actor = 'mallory' WHERE id = 2"), 1, 1),
        ("cut", |path| tamper(path, "DELETE FROM events WHERE id = 3"), 1, 2),
        ("all rows gone", |path| tamper(path, "DELETE FROM events"), 1, 0),
        ("bad form", |path| forge(path, "Bad|Type", "{}"), 4, 3),
        ("payload not canonical", |path| forge(path, "a.b", "{ }"), 4, 3),
        ("no intent", |path| forge(path, "watch.activate.outcome", r#"{"intent":1}"#), 5, 4),
    ];
    for (name, damage, code, verified) in cases {
        let root = good_node().await;
        damage(&ledger(&root));
        let output = agentctl(&root, &["verify-ledger", "--json"]);
        assert_eq!(output.status.code(), Some(code), "{name}: {}", text(&output));
        let json: Value = serde_json::from_str(&text(&output)).unwrap();
        assert_eq!((&json["exit"], &json["verified"]), (&code.into(), &verified.into()), "{name}");
        assert!(!json["faults"].as_array().unwrap().is_empty(), "{name}");
        let plain = text(&agentctl(&root, &["verify-ledger"]));
        assert!(plain.contains(&format!("verified up to {verified} of ")), "{name}: {plain}");
    }
}

#[tokio::test]
async fn an_empty_ledger_verifies_nothing_of_nothing() {
    let root = node(&[]).await;
    let output = agentctl(&root, &["verify-ledger"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output).contains("verified up to 0 of 0"));
}

#[tokio::test]
async fn an_export_verifies_like_the_file() {
    let root = good_node().await;
    let export = text(&agentctl(&root, &["export"]));
    assert_eq!(export.lines().count(), 3);
    let path = root.path().join("export.jsonl");
    let verify = |content: &str| {
        std::fs::write(&path, content).unwrap();
        agentctl(&root, &["verify-ledger", "--export", path.to_str().unwrap()])
    };
    let whole = verify(&export);
    assert_eq!(whole.status.code(), Some(0));
    assert!(text(&whole).contains("verified up to 3 of 3"));
    assert_eq!(verify(&export.replace("nix/store", "nix/stone")).status.code(), Some(1));
    assert_eq!(verify("not json\n").status.code(), Some(66));
}

#[tokio::test]
async fn a_folder_is_exported_and_verified_and_a_policy_asks_for_its_witnesses() {
    use osmoda_agentd::checkpoint::{Checkpoints, OpenAll, Rhythm};
    use osmoda_kit::http::Isolation;
    use osmoda_kit::shutdown::{Shutdown, StopReason};
    use osmoda_kit::tasks::{TaskKind, Tasks};
    use osmoda_ledger::note::{KeyKind, Note, VerifierKey};
    use osmoda_ledger::policy::{KnownWitness, Policy};

    let root = good_node().await;
    let state_dir = root.paths().state("agentd");
    let open =
        OpenAll { state_dir: state_dir.clone(), options: WriterOptions::default(), clock: Arc::new(FakeClock::new()) };
    let (opened, threads) = open.open().unwrap();
    let tasks = Tasks::new(Shutdown::new());
    let (checkpoints, signing) = Checkpoints::new(opened, tasks.clone(), Isolation::Users, Rhythm::default()).unwrap();
    tasks.spawn(TaskKind::REQUEST, "signing", signing.run());
    let signed = checkpoints.now().await.unwrap();
    let key = osmoda_kit::keys::generate_signing(&root.path().join("witness.key")).unwrap();
    let known = VerifierKey::new("osmoda.witness/b", KeyKind::Witness, &key.verifying_key().to_bytes()).unwrap();
    let witness = KnownWitness { name: "b".to_owned(), key: known.clone() };
    let policy = Policy::majority(checkpoints.verifier().clone(), vec![witness]).unwrap();
    let policy_path = root.path().join("policy");
    std::fs::write(&policy_path, policy.to_string()).unwrap();
    let policy_path = policy_path.to_str().unwrap();

    let plain = text(&agentctl(&root, &["verify-ledger"]));
    assert!(plain.contains("the policy lay beside the ledger"), "{plain}");
    let output = agentctl(&root, &["verify-ledger", "--policy", policy_path]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(
        text(&output).contains("verified up to 0 of 3, quorum 0 of 1, newest cosignature never"),
        "{}",
        text(&output)
    );

    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let line = Note::cosign(signed.note.text(), known.name(), &key, now).unwrap();
    checkpoints.add_cosignature(3, known, line).await.unwrap();
    let output = agentctl(&root, &["verify-ledger", "--policy", policy_path]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("verified up to 3 of 3, quorum 1 of 1, newest cosignature "), "{}", text(&output));

    let folder = root.path().join("export");
    let folder = folder.to_str().unwrap();
    assert_eq!(agentctl(&root, &["export", "--to", folder, "--policy", policy_path]).status.code(), Some(0));
    assert_ne!(agentctl(&root, &["export", "--to", folder]).status.code(), Some(0), "it writes over nothing");
    let output = agentctl(&root, &["verify-ledger", "--export", folder, "--policy", policy_path, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let json: Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!((&json["witnesses"], &json["policy"]), (&1.into(), &"given".into()));
    tasks.shutdown().request(StopReason::Asked("test".to_owned()));
    tasks.drain(std::time::Duration::from_secs(10)).await;
    threads.close().unwrap();
}

#[tokio::test]
async fn broken_glass_is_named_of_an_exported_folder_too() {
    use osmoda_agentd::checkpoint::{Checkpoints, OpenAll, Rhythm};
    use osmoda_kit::http::Isolation;
    use osmoda_kit::shutdown::{Shutdown, StopReason};
    use osmoda_kit::tasks::{TaskKind, Tasks};

    let glass = ("approval.break_glass", "admin", r#"{"approvers":"ada","permit":"9f2c"}"#);
    let root = node(&[("daemon.start", "agentd", "{}"), glass, glass]).await;
    let options = WriterOptions::default();
    let open = OpenAll { state_dir: root.paths().state("agentd"), options, clock: Arc::new(FakeClock::new()) };
    let (opened, threads) = open.open().unwrap();
    let tasks = Tasks::new(Shutdown::new());
    let (checkpoints, signing) = Checkpoints::new(opened, tasks.clone(), Isolation::Users, Rhythm::default()).unwrap();
    tasks.spawn(TaskKind::REQUEST, "signing", signing.run());
    checkpoints.now().await.unwrap();
    let folder = root.path().join("export");
    let folder = folder.to_str().unwrap();
    assert_eq!(agentctl(&root, &["export", "--to", folder]).status.code(), Some(0));
    let out = text(&agentctl(&root, &["verify-ledger", "--export", folder]));
    assert!(out.contains("glass broken in row 2 at ") && out.contains("9f2c"), "{out}");
    let json = text(&agentctl(&root, &["verify-ledger", "--export", folder, "--json"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["break_glass"], serde_json::json!([3, 2]), "newest first");
    tasks.shutdown().request(StopReason::Asked("test".to_owned()));
    tasks.drain(std::time::Duration::from_secs(10)).await;
    threads.close().unwrap();
}

#[tokio::test]
async fn the_ledger_is_read_while_the_daemon_has_it_open() {
    let root = TempRoot::new();
    let dir = root.paths().state("agentd");
    std::fs::create_dir_all(&dir).unwrap();
    let clock = Arc::new(FakeClock::new());
    let (ledger, threads, _) = Ledger::open(&dir.join(FILE_NAME), WriterOptions::default(), clock).unwrap();
    ledger.append(row("a.b", "watch", "{}")).await.unwrap();
    let output = agentctl(&root, &["verify-ledger"]);
    assert!(text(&output).contains("verified up to 1 of 1"), "{}", text(&output));
    ledger.append(row("a.c", "watch", "{}")).await.unwrap();
    threads.close().unwrap();
}

#[tokio::test]
async fn events_are_filtered_and_oldest_first() {
    let root = good_node().await;
    let out = text(&agentctl(&root, &["events"]));
    let kinds: Vec<_> = out.lines().map(|line| line.split_whitespace().nth(2).unwrap()).collect();
    assert_eq!(kinds, ["daemon.start", "watch.activate.intent", "watch.activate.outcome"]);
    assert_eq!(text(&agentctl(&root, &["events", "--last", "1"])).lines().count(), 1);
    assert_eq!(text(&agentctl(&root, &["events", "--actor", "agentd"])).lines().count(), 1);
    let json = text(&agentctl(&root, &["events", "--type", "watch.activate.intent", "--json"]));
    let event: Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!((&event["id"], &event["type"]), (&2.into(), &"watch.activate.intent".into()));
}

#[tokio::test]
async fn stats_count_by_type_and_state_dir_may_be_given_both_ways() {
    let root = good_node().await;
    let state = root.paths().state("agentd");
    for dir in [state.as_path(), state.parent().unwrap()] {
        let output = agentctl(&root, &["stats", "--json", "--state-dir", dir.to_str().unwrap()]);
        let stats: Value = serde_json::from_str(&text(&output)).unwrap();
        assert_eq!(stats["count"], 3);
        assert!(stats["file_bytes"].as_u64().unwrap() > 0);
    }
    assert!(text(&agentctl(&root, &["stats"])).contains("events  3"));
}

#[tokio::test]
async fn what_is_not_there_has_its_exit_code() {
    let root = TempRoot::new();
    for words in [&["verify-ledger"][..], &["events"], &["stats"], &["export"]] {
        let output = agentctl(&root, words);
        assert_eq!(output.status.code(), Some(66), "{words:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot open the ledger"), "{words:?}");
    }
    assert_eq!(agentctl(&root, &["health"]).status.code(), Some(69));
    assert_eq!(agentctl(&root, &["verify-ledger", "--no-such-flag"]).status.code(), Some(64));
    assert_eq!(agentctl(&root, &["--version"]).status.code(), Some(0));
}

#[tokio::test]
async fn a_file_damaged_below_the_rows_is_a_broken_chain() {
    let root = good_node().await;
    let mut bytes = std::fs::read(ledger(&root)).unwrap();
    let rows = bytes.windows(12).position(|w| w == b"daemon.start").unwrap() / 4096 * 4096;
    bytes[rows..rows + 16].fill(0xff);
    std::fs::write(ledger(&root), bytes).unwrap();
    assert_eq!(agentctl(&root, &["verify-ledger"]).status.code(), Some(1));
}

#[tokio::test]
async fn health_is_asked_of_the_running_daemon() {
    use osmoda_kit::boot::{self, BootArgs};
    use osmoda_kit::shutdown::{Shutdown, StopReason};
    let root = Arc::new(TempRoot::new());
    let (shutdown, args) = (Shutdown::new(), BootArgs::at(root.path()));
    let asking = async {
        let socket = root.paths().socket("agentd");
        osmoda_kit::testing::wait_for("the socket", std::time::Duration::from_secs(20), || async {
            socket.exists().then_some(())
        })
        .await;
        let asked = Arc::clone(&root);
        let output = tokio::task::spawn_blocking(move || agentctl(&asked, &["health"])).await.unwrap();
        shutdown.request(StopReason::Asked("test".to_owned()));
        output
    };
    let (ended, output) = tokio::join!(boot::serve::<osmoda_agentd::Agentd>(&args, shutdown.clone()), asking);
    assert!(ended.unwrap().is_graceful());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let health: Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!(health["status"], "ok");
    for field in ["cpu_usage", "memory_total", "load_average", "disks", "hostname", "version", "commit", "dirty"] {
        assert!(!health[field].is_null(), "{field}");
    }
}
