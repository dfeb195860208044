//! The program against a small controller: exit codes, output, errors.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure shows the line that surprised it")]

use std::path::Path;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post, put};
use osmoda_kit::process::{self, Output, Spec};
use osmoda_types::{ManifestHash, NetworkId, PublicKey, RolloutId, Signature, statement};
use serde_json::{Value, json};

/// The public key of RFC 8032's first test.
const LEDGER_KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

const ID: &str = "01900000-0000-7000-8000-000000000001";

/// What the small controller was asked to do.
#[derive(Clone, Default)]
struct Seen {
    orders: std::sync::Arc<std::sync::Mutex<Vec<(String, Value)>>>,
}

fn rollout(state: &str) -> Value {
    json!({
        "id": ID, "name": "web 2", "scope": "web", "manifest": "ab".repeat(32), "state": state,
        "wave": 0, "waves": 2, "parent_epoch": 3, "operator": "me", "proposed_index": 9, "updated_index": 9,
        "created_at": "2026-01-01T00:00:00.000Z", "updated_at": "2026-01-01T00:00:00.000Z",
        "counts": {"total": 1, "waiting": 1, "in_flight": 0, "moved": 0, "committed": 0, "rolled_back": 0,
                   "failed": 0, "excluded": 0},
        "max_unavailable": 1, "failure_budget": 0, "threshold": 1, "votes": [], "nodes": [],
    })
}

fn status() -> Value {
    json!({
        "network_id": "07".repeat(32), "epoch": 3, "mesh_epoch": 1, "voters": [], "members": 1, "online": 0,
        "applied_index": 9, "following": false, "active_rollouts": [], "freezes": [], "version": "0.1.0",
    })
}

fn event(id: u64, kind: &str, body: Value) -> String {
    let mut event = json!({"id": id.to_string(), "index": id, "at": "2026-01-01T00:00:00.000Z", "rollout": ID,
                           "kind": kind, "by": "leader web-1", "reason": "quorum"});
    event.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    format!("id: {id}\nevent: event\ndata: {event}\n\n")
}

async fn events(headers: HeaderMap) -> ([(&'static str, &'static str); 1], String) {
    let to = |state: &str| json!({"to": state, "wave": 0});
    // The first stream breaks off in the middle; the second must be asked for
    // what comes after.
    let text = match headers.get("last-event-id").map(|id| id.to_str().unwrap()) {
        None => ": hello\n\n".to_owned() + &event(1, "rollout_state", to("voting")) + "id: 2\nevent: ev",
        Some("1") => event(2, "rollout_state", to("wave")) + &event(3, "rollout_state", to("committed")),
        Some(other) => panic!("resumed after {other}"),
    };
    ([("content-type", "text/event-stream")], text)
}

async fn controller() -> (String, Seen) {
    let seen = Seen::default();
    let base = "/api/v1/fleet";
    let refused = |code: &'static str, status: StatusCode| {
        move || async move { (status, axum::Json(json!({"error": "no", "code": code, "request_id": "req_1"}))) }
    };
    let order = |State(seen): State<Seen>, uri: axum::http::Uri, axum::Json(body): axum::Json<Value>| async move {
        seen.orders.lock().unwrap().push((uri.path().to_owned(), body));
        axum::Json(rollout("voting"))
    };
    let items = |value: Value| move || async move { axum::Json(json!({ "items": [value] })) };
    let node = json!({"id": "11".repeat(32), "name": "web-1", "role": "node", "addresses": [], "presence": "online"});
    let ledger = json!({"node": "11".repeat(32), "name": "web-1", "key": LEDGER_KEY, "held": [], "alarms": []});
    let app = Router::new()
        .route(&format!("{base}/status"), get(|| async { axum::Json(status()) }))
        .route(&format!("{base}/nodes"), get(items(node)))
        .route(&format!("{base}/ledger"), get(items(ledger)))
        .route(&format!("{base}/ledger/heads"), get(|| async { axum::Json(json!({ "items": [] })) }))
        .route(&format!("{base}/manifests"), put(|| async { axum::Json(json!({"hash": "", "bytes": 1})) }))
        .route(&format!("{base}/rollouts"), post(order).get(items(rollout("voting"))))
        .route(&format!("{base}/rollouts/{ID}"), get(|| async { axum::Json(rollout("voting")) }))
        .route(&format!("{base}/rollouts/{ID}/events"), get(events))
        .route(&format!("{base}/rollouts/{ID}/pause"), post(refused("rollout_state", StatusCode::CONFLICT)))
        .route(&format!("{base}/principals"), get(refused("unauthorized", StatusCode::UNAUTHORIZED)))
        .route("/healthz", get(|| async { axum::Json(json!({"ok": true, "version": "0.1.0"})) }))
        .fallback(refused("not_found", StatusCode::NOT_FOUND))
        .with_state(seen.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test server that ends with the test's runtime")]
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (format!("http://{address}"), seen)
}

async fn osmoda(home: &Path, args: &[&str]) -> Output {
    let spec = Spec::new(env!("CARGO_BIN_EXE_osmoda")).args(args).env("HOME", home);
    process::run(&spec).await.unwrap()
}

fn check(output: &Output, exit: i32, stdout: &str, stderr: &str) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(exit), "{out}{err}");
    assert!(out.contains(stdout), "{stdout:?} is not in {out:?}");
    assert!(err.contains(stderr), "{stderr:?} is not in {err:?}");
    assert!(!out.contains('\x1b') && !err.contains('\x1b'), "no escape codes without a terminal");
}

const MANIFEST: &str = r#"{"version":1,"name":"web 2","scope":"web","nodes":{"1111111111111111111111111111111111111111111111111111111111111111":{"target":"/nix/store/b","baseline":"/nix/store/a"}},"policy":{"waves":[{"count":1}],"max_unavailable":1}}"#;

#[tokio::test]
async fn a_rollout_is_signed_here_and_followed_to_its_end() {
    let home = tempfile::tempdir().unwrap();
    let (server, seen) = controller().await;
    let file = |name: &str| home.path().join(name).display().to_string();
    check(&osmoda(home.path(), &["context", "add", "lab", "--server", &server]).await, 0, "", "");
    check(&osmoda(home.path(), &["operator", "keygen", &file("me.key"), "--name", "me"]).await, 0, "ed25519 ", "");
    std::fs::write(file("release.json"), MANIFEST).unwrap();

    let (release, key) = (file("release.json"), file("me.key"));
    let start = ["rollout", "start", &release, "--key", &key, "--id", ID];
    let output = osmoda(home.path(), &[&start[..], &["--wait", "-o", "jsonl"]].concat()).await;
    check(&output, 0, "\"to\":\"committed\"", "proposed");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3, "no event lost or doubled");

    let (path, order) = seen.orders.lock().unwrap()[0].clone();
    assert_eq!(path, "/api/v1/fleet/rollouts");
    let text = |field: &str| order[field].as_str().unwrap().to_owned();
    let key: PublicKey = text("operator_key").parse().unwrap();
    let signature: Signature = text("signature").parse().unwrap();
    let (hash, id) = (ManifestHash::of(MANIFEST.as_bytes()), ID.parse::<RolloutId>().unwrap());
    let network = NetworkId::from_bytes([7; 32]);
    let message = statement::rollout(&hash, &id, osmoda_types::FleetEpoch(3), &network);
    assert_eq!(statement::verify(&key, &message, &signature), Ok(()));
    let line = std::fs::read_to_string(file("me.key.pub")).unwrap();
    assert_eq!(line, format!("ed25519 {key} me\n"));
}

#[tokio::test]
async fn exit_codes_tell_scripts_what_happened() {
    let home = tempfile::tempdir().unwrap();
    let (server, _) = controller().await;
    let key = home.path().join("k").display().to_string();
    check(&osmoda(home.path(), &["operator", "keygen", &key, "--name", "me"]).await, 0, "", "");
    let at = |args: &[&str]| -> Vec<String> {
        ["--server", &server].iter().chain(args).map(|arg| (*arg).to_owned()).collect()
    };
    let cases: [(&[&str], i32, &str, &str); 9] = [
        (&["node", "ls"], 0, "web-1", ""),
        (&["node", "show", "web-9"], 3, "", "osmoda node ls"),
        (&["nodes"], 2, "", "unrecognized"),
        (&["operator", "ls"], 4, "", "why: no (unauthorized)"),
        (&["rollout", "pause", ID, "--key", &key], 5, "", "rollout_state"),
        (&["rollout", "pause", ID, "--key", "/nowhere"], 1, "", "operator keygen"),
        (&["rollout", "abort", ID], 2, "", "--yes"),
        (&["ledger", "verify", "--all"], 6, "it never told anything", ""),
        (&["doctor"], 8, "no voter", ""),
    ];
    for (args, exit, stdout, stderr) in cases {
        let args = at(args);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        check(&osmoda(home.path(), &args).await, exit, stdout, stderr);
    }
    let missing = osmoda(home.path(), &["node", "ls"]).await;
    check(&missing, 2, "", "osmoda context add");
    let nobody = osmoda(home.path(), &["--server", "http://127.0.0.1:1", "node", "ls"]).await;
    check(&nobody, 1, "", "cannot reach");
}

#[tokio::test]
async fn json_is_the_api_object_and_name_is_for_loops() {
    let home = tempfile::tempdir().unwrap();
    let (server, _) = controller().await;
    let output = osmoda(home.path(), &["--server", &server, "status", "-o", "json"]).await;
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), status());
    check(&osmoda(home.path(), &["--server", &server, "node", "ls", "-o", "name"]).await, 0, "web-1\n", "");
    let manifest = home.path().join("m.json");
    std::fs::write(&manifest, MANIFEST.replace("/nix/store/b", "/nix/store/a")).unwrap();
    let output = osmoda(home.path(), &["manifest", "check", &manifest.display().to_string()]).await;
    check(&output, 1, "", "target_is_baseline");
}
