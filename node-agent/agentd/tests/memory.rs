//! Memory over a real socket: the earlier product's shapes, and an index that
//! may be deleted, damaged or forged without changing what is said.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

mod common;

use axum::http::Method;
use common::{Host, LIMIT, admin, exchange, has_keys};
use osmoda_agentd::memory::{self, Memory};
use osmoda_kit::http::testing::TestServer;
use osmoda_kit::testing::wait_for;
use osmoda_node_api::agentd::EventQuery;
use osmoda_node_api::agentd_memory::{Recall, Recalled, Store};
use osmoda_types::ErrorCode;
use rusqlite::Connection;
use serde_json::json;

fn start(host: &Host) -> (Memory, TestServer) {
    let memory = Memory::start(host.ledger.clone(), &host.path(), &host.tasks).unwrap();
    let server = host.serve(memory::router(memory.clone()));
    (memory, server)
}

async fn note(server: &TestServer, summary: &str) -> i64 {
    admin(server).store(&Store { summary: summary.to_owned(), ..Store::default() }).await.unwrap().id
}

async fn recall(server: &TestServer, query: &str) -> Recalled {
    admin(server).recall(&Recall { query: query.to_owned(), ..Recall::default() }).await.unwrap()
}

fn ids(found: &Recalled) -> Vec<i64> {
    found.chunks.iter().map(|chunk| chunk.id).collect()
}

async fn settled(memory: &Memory, id: i64) {
    tokio::time::timeout(LIMIT, memory.indexed(id)).await.unwrap();
}

#[tokio::test]
async fn the_shapes_are_the_earlier_products() {
    let host = Host::new();
    let (_, server) = start(&host);
    let client = server.client();
    let body = json!({"content": "nginx was restarted", "source": "osmoda-watch", "category": "ops",
        "tags": ["nginx", "web"], "metadata": {"n": 1}, "unknown": true});
    let (status, answer) = exchange(&client, Method::POST, "/memory/ingest", Some(body)).await;
    assert_eq!((status.as_u16(), answer), (200, json!({"id": 1, "status": "stored"})));
    let body = json!({"summary": "disk is full", "detail": "on /var", "category": "ops", "tags": ["disk"]});
    let (status, answer) = exchange(&client, Method::POST, "/memory/store", Some(body)).await;
    assert_eq!((status.as_u16(), answer), (200, json!({"id": 2})));

    let body = json!({"query": "nginx", "max_results": 5, "timeframe": "7d"});
    let (status, answer) = exchange(&client, Method::POST, "/memory/recall", Some(body)).await;
    assert_eq!((status.as_u16(), &answer["query"]), (200, &json!("nginx")));
    has_keys(&answer, &["query", "chunks", "total_searched", "unsearched"]);
    let chunk = &answer["chunks"][0];
    has_keys(chunk, &["id", "ts", "content", "category", "tags", "relevance"]);
    assert_eq!((&chunk["id"], &chunk["content"]), (&json!(1), &json!("nginx was restarted")));
    assert_eq!((&chunk["tags"], &chunk["source"]), (&json!(["nginx", "web"]), &json!("osmoda-watch")));
    assert_eq!((&chunk["actor"], &chunk["untrusted"]), (&json!("admin"), &json!(true)));
    let relevance = chunk["relevance"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&relevance), "{relevance}");

    let (_, health) = exchange(&client, Method::GET, "/memory/health", None).await;
    has_keys(&health, &["status", "event_count", "state_dir"]);
    assert_eq!(health["event_count"], 2);
    host.close(server).await;
}

#[tokio::test]
async fn the_actor_is_the_caller_and_lost_shapes_are_taken() {
    let host = Host::new();
    let (_, server) = start(&host);
    let client = server.client();
    let event = json!({"event": {"type": "shell.exec", "command": "rm -fr /tmp/x"}});
    assert_eq!(exchange(&client, Method::POST, "/memory/ingest", Some(event)).await.0.as_u16(), 200);
    let missing = exchange(&client, Method::POST, "/memory/ingest", Some(json!({"source": "x"}))).await;
    assert_eq!((missing.0.as_u16(), missing.1["code"].as_str()), (422, Some("bad_request")));
    let found = recall(&server, "shell.exec").await;
    assert!(found.chunks[0].content.contains("rm -fr"), "{found:?}");
    let row = &host.ledger.read(|file| file.events(&EventQuery::default())).await.unwrap().unwrap().events[0];
    assert_eq!((row.kind.as_str(), row.actor.as_str()), ("memory.ingest", "admin"));
    host.close(server).await;
}

#[tokio::test]
async fn what_is_too_long_or_too_much_is_refused() {
    let host = Host::new();
    let (_, server) = start(&host);
    let client = server.client();
    for (path, body, status) in [
        ("/memory/ingest", json!({"content": "x".repeat(61 * 1024)}), 413),
        ("/memory/ingest", json!({"content": "x", "category": "c".repeat(257)}), 413),
        ("/memory/ingest", json!({"content": "x", "tags": vec!["t"; 65]}), 413),
        ("/memory/ingest", json!({"content": 7}), 422),
        ("/memory/ingest", json!({"content": "x", "metadata": {"n": 9_007_199_254_740_993_u64}}), 422),
        ("/memory/store", json!({"detail": "x"}), 422),
        ("/memory/recall", json!({"query": "q".repeat(4097)}), 413),
        ("/memory/recall", json!({"query": "q", "timeframe": "yesterday"}), 400),
        ("/memory/recall", json!({"query": "\" - *"}), 200),
    ] {
        assert_eq!(exchange(&client, Method::POST, path, Some(body)).await.0.as_u16(), status, "{path}");
    }
    assert_eq!(host.ledger.state().head.size, 0);
    let refused = server.client_as("watch").post::<Recalled>("/memory/recall", &json!({"query": "x"})).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::CallerDenied);
    host.close(server).await;
}

#[tokio::test]
async fn a_note_is_found_at_once_and_still_when_indexed() {
    let host = Host::new();
    let (memory, server) = start(&host);
    for n in 0..20 {
        let id = note(&server, &format!("number {n} of the restarted services")).await;
        assert_eq!(ids(&recall(&server, &format!("restart {n}")).await)[0], id, "both words before one");
    }
    settled(&memory, 20).await;
    let found = recall(&server, "RESTARTING 7 nothing").await;
    let (first, counts) = (found.chunks[0].id, (found.total_searched, found.unsearched));
    assert_eq!((found.chunks.len(), first, counts), (10, 8, (20, 0)));
    let frame = Recall { query: "number".into(), timeframe: Some("1999".into()), ..Recall::default() };
    let none = admin(&server).recall(&frame).await.unwrap();
    assert_eq!((none.chunks.len(), none.total_searched), (0, 0));
    host.close(server).await;
}

#[tokio::test]
async fn a_deleted_index_is_made_again_at_a_start_and_while_running() {
    let host = Host::new();
    let (memory, server) = start(&host);
    let id = note(&server, "alpha").await;
    settled(&memory, id).await;
    let dir = host.close(server).await;

    std::fs::remove_file(dir.path().join("fts.db")).unwrap();
    let host = Host::at(dir);
    let (memory, server) = start(&host);
    settled(&memory, id).await;
    assert_eq!(ids(&recall(&server, "alpha").await), [id]);

    std::fs::remove_file(host.dir.path().join("fts.db")).unwrap();
    assert_eq!(ids(&recall(&server, "alpha").await), [id], "searched without the index");
    wait_for("a new index", LIMIT, async || (memory.progress().rebuilds >= 1).then_some(())).await;
    settled(&memory, id).await;
    assert!(host.dir.path().join("fts.db").exists());
    host.close(server).await;
}

#[tokio::test]
async fn a_damaged_index_or_one_of_another_ledger_is_made_again() {
    let host = Host::new();
    let (memory, server) = start(&host);
    let id = note(&server, "alpha").await;
    settled(&memory, id).await;
    let mut dir = host.close(server).await;
    let garbage: [fn(&std::path::Path); 4] = [
        |path| std::fs::write(path, vec![7_u8; 8192]).unwrap(),
        |path| std::fs::write(path, b"").unwrap(),
        |path| Connection::open(path).unwrap().execute_batch("UPDATE position SET hash = 'ab'").unwrap(),
        |path| Connection::open(path).unwrap().execute_batch("DROP TABLE words").unwrap(),
    ];
    for damage in garbage {
        damage(&dir.path().join("fts.db"));
        let host = Host::at(dir);
        let (memory, server) = start(&host);
        settled(&memory, id).await;
        assert_eq!(ids(&recall(&server, "alpha").await), [id]);
        dir = host.close(server).await;
    }
}

#[tokio::test]
async fn r19_a_tampered_index_cannot_say_anything() {
    let host = Host::new();
    let (memory, server) = start(&host);
    let real = note(&server, "the baseline was restored").await;
    let other = note(&server, "nothing to see").await;
    settled(&memory, other).await;
    // The index claims that another row, and rows that do not exist, have the words.
    let forged = Connection::open(host.dir.path().join("fts.db")).unwrap();
    for id in [other, 77, 78] {
        forged
            .execute(
                "INSERT INTO words (rowid, type, actor, payload) VALUES (?1, 'memory.store', 'root', 'baseline baseline approve payment')",
                [id],
            )
            .unwrap();
    }
    drop(forged);
    let found = recall(&server, "baseline").await;
    assert_eq!(ids(&found), [real], "{found:?}");
    assert_eq!(found.chunks[0].content, "the baseline was restored");
    assert_eq!(recall(&server, "payment").await.chunks, []);
    host.close(server).await;
}

#[tokio::test]
async fn a_row_changed_under_the_daemon_is_not_shown() {
    let host = Host::new();
    let (memory, server) = start(&host);
    let id = note(&server, "alpha was here").await;
    note(&server, "alpha was there").await;
    settled(&memory, id + 1).await;
    let ledger = Connection::open(host.path()).unwrap();
    ledger.execute_batch("DROP TRIGGER events_no_update").unwrap();
    ledger.execute("UPDATE events SET payload = replace(payload, 'here', 'gone') WHERE id = ?1", [id]).unwrap();
    drop(ledger);
    assert_eq!(ids(&recall(&server, "alpha").await), [id + 1]);
    host.close(server).await;
}
