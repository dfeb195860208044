//! The endpoints of agentd over a real socket: shapes, refusals, and that the
//! actor of a row is whoever is connected.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

use std::path::PathBuf;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, StatusCode};
use osmoda_agentd::api::Api;
use osmoda_agentd::ledger::file::FILE_NAME;
use osmoda_agentd::ledger::{Ledger, LedgerThreads, WriterOptions};
use osmoda_kit::boot::Daemon;
use osmoda_kit::http::UnixClient;
use osmoda_kit::http::testing::TestServer;
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::Tasks;
use osmoda_kit::testing::FakeClock;
use osmoda_node_api::agentd::{AgentdClient, AppendRequest, EventQuery, LedgerHead};
use osmoda_types::ErrorCode;
use serde_json::{Value, json};

struct Fixture {
    server: TestServer,
    ledger: Ledger,
    threads: Option<LedgerThreads>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self::with(WriterOptions::default())
    }

    fn with(options: WriterOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let clock = std::sync::Arc::new(FakeClock::new());
        let (ledger, threads, _) = Ledger::open(&path, options, clock).unwrap();
        let api = Api::new(ledger.clone(), Tasks::new(Shutdown::new())).unwrap();
        let server = TestServer::with_table(api.router(), osmoda_agentd::Agentd::callers());
        Self { server, ledger, threads: Some(threads), path, _dir: dir }
    }

    fn watch(&self) -> UnixClient {
        self.server.client_as("watch")
    }

    async fn close(&mut self) {
        self.server.stop(Duration::from_secs(10)).await;
        if let Some(threads) = self.threads.take() {
            threads.close().unwrap();
        }
    }
}

fn request(kind: &str, payload: Value) -> AppendRequest {
    let Value::Object(payload) = payload else { panic!("an object") };
    AppendRequest { kind: kind.to_owned(), payload }
}

async fn raw(client: &UnixClient, body: impl Into<Bytes>) -> (StatusCode, Value) {
    let (status, answer) = client.exchange(Method::POST, "/ledger/append", Some(body.into())).await.unwrap();
    (status, serde_json::from_slice(&answer).unwrap())
}

#[tokio::test]
async fn an_append_is_in_the_log_with_the_caller_as_actor() {
    let mut fixture = Fixture::new();
    let client = AgentdClient::new(fixture.watch());
    assert_eq!(client.head().await.unwrap(), LedgerHead { size: 0, hash: "0".repeat(64) });
    let sent = json!({"b": 1, "actor": "root", "a": {"x|y": "é"}});
    let appended = client.append(&request("watch.activate.intent", sent)).await.unwrap();
    assert_eq!(appended.id, 1);
    assert_eq!(client.head().await.unwrap(), LedgerHead { size: 1, hash: appended.hash.clone() });
    let events = client.events(&EventQuery::default()).await.unwrap();
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!((event.id, event.kind.as_str(), event.actor.as_str()), (1, "watch.activate.intent", "watch"));
    assert_eq!(event.payload, r#"{"a":{"x|y":"é"},"actor":"root","b":1,"isolation":"none"}"#);
    assert_eq!((event.prev_hash.as_str(), event.hash.as_str()), ("0".repeat(64).as_str(), appended.hash.as_str()));
    fixture.close().await;
}

#[tokio::test]
async fn only_daemons_append_and_the_administrator_reads() {
    let mut fixture = Fixture::new();
    let admin = AgentdClient::new(fixture.server.client());
    let refused = admin.append(&request("x.y", json!({}))).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::CallerDenied);
    assert_eq!(fixture.ledger.state().head.size, 0);
    assert_eq!(admin.events(&EventQuery::default()).await.unwrap(), []);
    assert_eq!(admin.head().await.unwrap().size, 0);
    let health = admin.health().await.unwrap();
    assert_eq!(health.status, "ok");
    assert!(!health.version.is_empty() && !health.commit.is_empty());
    fixture.close().await;
}

/// What agentd writes itself is believed as such: by the keeper of incidents, the
/// verifier, the executor and people.
#[tokio::test]
async fn a_daemon_writes_no_row_of_agentds_own_types() {
    let mut fixture = Fixture::new();
    let client = AgentdClient::new(fixture.watch());
    let own = [
        "agent.card.generate",
        "agentd.refused",
        "approval.approved",
        "backup.create.outcome",
        "exec.run.intent",
        "incident.create",
        "incident.resolve",
        "ledger.heartbeat",
        "memory.store",
        "session.tainted",
        "system.query",
        "witness.alarm",
    ];
    for kind in own {
        let refused = client.append(&request(kind, json!({}))).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::CallerDenied, "{kind}");
    }
    assert_eq!(fixture.ledger.state().head.size, 0);
    // Those of the other daemons, also where they begin alike.
    for kind in ["exec.refused", "execd.refused", "fleet.ballot", "mesh.refused", "watch.refused", "guard.refused"] {
        client.append(&request(kind, json!({}))).await.unwrap();
    }
    fixture.close().await;
}

#[tokio::test]
async fn malformed_requests_are_refused_and_leave_no_row() {
    let mut fixture = Fixture::new();
    let client = fixture.watch();
    let deep = format!(r#"{{"type":"a.b","payload":{}1{}}}"#, "{\"a\":".repeat(300), "}".repeat(300));
    let long = format!(r#"{{"type":"{}","payload":{{}}}}"#, "a".repeat(65));
    let cases: [(&str, u16, &str); 17] = [
        ("", 400, "bad_request"),
        ("[]", 400, "bad_request"),
        ("{", 400, "bad_request"),
        (r#"{"type":"a.b"}"#, 400, "bad_request"),
        (r#"{"payload":{}}"#, 400, "bad_request"),
        (r#"{"type":"a.b","payload":{},"actor":"root"}"#, 400, "bad_request"),
        (r#"{"type":"a.b","type":"c.d","payload":{}}"#, 400, "bad_request"),
        (r#"{"type":"a.b","payload":{"x":1,"x":2}}"#, 400, "bad_request"),
        (r#"{"type":"a.b","payload":{"x":"\ud800"}}"#, 400, "bad_request"),
        (r#"{"type":"a.b","payload":{"x":NaN}}"#, 400, "bad_request"),
        (&deep, 400, "bad_request"),
        (r#"{"type":"a.b","payload":[]}"#, 422, "ledger_grammar"),
        (r#"{"type":"a|b","payload":{}}"#, 422, "ledger_grammar"),
        (r#"{"type":"A","payload":{}}"#, 422, "ledger_grammar"),
        (&long, 422, "ledger_grammar"),
        (r#"{"type":"a.b","payload":{"x":9007199254740993}}"#, 422, "ledger_grammar"),
        (r#"{"type":"a.b","payload":{"isolation":"users"}}"#, 422, "ledger_grammar"),
    ];
    for (body, status, code) in cases {
        let (got, answer) = raw(&client, body.to_owned()).await;
        assert_eq!((got.as_u16(), answer["code"].as_str()), (status, Some(code)), "{body}: {answer}");
        assert!(answer["error"].is_string());
    }
    let (status, answer) = raw(&client, &b"{\"type\":\"a.b\",\"payload\":{\"x\":\"\xff\"}}"[..]).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (400, Some("bad_request")));
    assert_eq!(fixture.ledger.state().head.size, 0);
    fixture.close().await;
}

#[tokio::test]
async fn oversized_payloads_and_bodies_are_refused() {
    let mut fixture = Fixture::new();
    let client = fixture.watch();
    for bytes in [61 * 1024, 900 * 1024] {
        let body = json!({"type": "a.b", "payload": {"x": "x".repeat(bytes)}}).to_string();
        let (status, answer) = raw(&client, body).await;
        assert_eq!((status.as_u16(), answer["code"].as_str()), (413, Some("too_large")), "{bytes}");
    }
    let body = json!({"type": "a.b", "payload": {"x": "x".repeat(1100 * 1024)}}).to_string();
    let (status, _) = client.exchange(Method::POST, "/ledger/append", Some(body.into())).await.unwrap();
    assert_eq!(status.as_u16(), 413);
    let largest = json!({"type": "a.b", "payload": {"x": "x".repeat(60 * 1024 - 28)}}).to_string();
    assert_eq!(raw(&client, largest).await.0.as_u16(), 200);
    assert_eq!(fixture.ledger.state().head.size, 1);
    fixture.close().await;
}

#[tokio::test]
async fn queries_filter_and_bad_ones_are_refused() {
    let mut fixture = Fixture::new();
    let client = AgentdClient::new(fixture.watch());
    for n in 0..60 {
        client.append(&request(if n % 2 == 0 { "t.even" } else { "t.odd" }, json!({ "n": n }))).await.unwrap();
    }
    let count = |query: EventQuery| {
        let client = client.clone();
        async move { client.events(&query).await.unwrap().len() }
    };
    assert_eq!(count(EventQuery::default()).await, 50);
    assert_eq!(count(EventQuery { limit: -1, ..EventQuery::default() }).await, 60);
    assert_eq!(count(EventQuery { limit: -1, kind: Some("t.odd".into()), ..EventQuery::default() }).await, 30);
    assert_eq!(count(EventQuery { limit: -1, actor: Some("fleetd".into()), ..EventQuery::default() }).await, 0);
    let raw_get = |path: &'static str| {
        let client = fixture.watch();
        async move { client.exchange(Method::GET, path, None).await.unwrap().0.as_u16() }
    };
    assert_eq!(raw_get("/events/log?type=t.odd&limit=3").await, 200);
    assert_eq!(raw_get("/events/log?limit=many").await, 400);
    assert_eq!(raw_get("/events/log?before=x").await, 400);
    fixture.close().await;
}

#[tokio::test]
async fn a_query_that_is_cut_short_says_so() {
    let mut fixture = Fixture::new();
    let client = AgentdClient::new(fixture.watch());
    for _ in 0..160 {
        client.append(&request("t.big", json!({"x": "x".repeat(60_000)}))).await.unwrap();
    }
    let all = client.events(&EventQuery { limit: -1, ..EventQuery::default() }).await.unwrap();
    assert!((100..160).contains(&all.len()), "{}", all.len());
    let last = all.last().unwrap().id;
    let query = EventQuery { limit: -1, before: Some(last), ..EventQuery::default() };
    let rest = client.events(&query).await.unwrap();
    assert_eq!(all.len() + rest.len(), 160);
    fixture.close().await;
}

#[tokio::test]
async fn secrets_never_reach_the_disk() {
    let mut fixture = Fixture::new();
    let client = AgentdClient::new(fixture.watch());
    let canary = "canary-7c1f0b";
    let payload = json!({
        "api_key": canary, "nested": {"password": canary, "list": [{"session_token": canary}]},
        "pem": format!("-----BEGIN PRIVATE KEY-----\n{canary}\n"), "plain": "stays",
    });
    client.append(&request("t.secret", payload)).await.unwrap();
    fixture.close().await;
    let dir = fixture.path.parent().unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(canary.len()).any(|w| w == canary.as_bytes()));
        assert!(bytes.windows(5).any(|w| w == b"stays"));
    }
}

#[tokio::test]
async fn an_append_after_the_close_is_refused_as_unavailable() {
    let mut fixture = Fixture::new();
    let client = AgentdClient::new(fixture.watch());
    fixture.threads.take().unwrap().close().unwrap();
    let error = client.append(&request("a.b", json!({}))).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::LedgerUnavailable);
    fixture.close().await;
}

/// Whoever sends rows in order can tell this one, behind which others may go on.
#[tokio::test]
async fn an_act_that_there_is_no_room_for_is_refused_by_a_code_of_its_own() {
    let mut fixture = Fixture::with(WriterOptions { reserve_bytes: u64::MAX, ..WriterOptions::default() });
    let client = AgentdClient::new(fixture.watch());
    let refused = client.append(&request("watch.attempt.intent", json!({"attempt": 1}))).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::DiskFull);
    client.append(&request("watch.attempt.intent", json!({"attempt": 2, "undo": true}))).await.unwrap();
    client.append(&request("watch.rollback.intent", json!({"attempt": 2}))).await.unwrap();
    fixture.close().await;
}
