//! Receipts and incidents over a real socket: the earlier product's shapes, and
//! that all of it is in the ledger.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

mod common;

use axum::http::Method;
use common::{Host, admin, exchange, has_keys};
use osmoda_agentd::incidents::{self, Incidents};
use osmoda_agentd::receipts;
use osmoda_kit::http::testing::TestServer;
use osmoda_node_api::agentd_records::{Incident, NewIncident, NewStep, ReceiptQuery};
use osmoda_types::ErrorCode;
use rusqlite::Connection;
use serde_json::json;

async fn start(host: &Host) -> TestServer {
    let incidents = Incidents::start(host.ledger.clone(), &host.tasks).await.unwrap();
    host.serve(incidents::router(incidents).merge(receipts::router(host.ledger.clone())))
}

fn step(action: &str) -> NewStep {
    NewStep { action: action.to_owned(), result: "done".to_owned(), receipt_id: Some("receipt-1".to_owned()) }
}

async fn open(server: &TestServer, name: &str) -> Incident {
    admin(server).open_incident(&NewIncident { name: name.to_owned() }).await.unwrap()
}

/// A row that is durable is in the book, and its caller is told, however many read.
#[tokio::test]
async fn an_incident_that_is_recorded_is_told_when_the_reader_is_busy() {
    let host = Host::new();
    let server = start(&host).await;
    let (go, gate) = std::sync::mpsc::sync_channel::<()>(1);
    let (begins, has_begun) = tokio::sync::oneshot::channel();
    let mut first = Box::pin(host.ledger.read(move |_| {
        begins.send(()).unwrap();
        assert!(gate.recv().is_err());
    }));
    assert!(futures_util::poll!(&mut first).is_pending());
    has_begun.await.unwrap();
    let mut reads: Vec<_> = (0..16).map(|_| Box::pin(host.ledger.read(|_| ()))).collect();
    for read in &mut reads {
        assert!(futures_util::poll!(read).is_pending());
    }
    let client = admin(&server);
    assert_eq!(client.incident("none").await.unwrap_err().code, ErrorCode::NotFound);
    let new = NewIncident { name: "disk".to_owned() };
    let written = async {
        let recorded = || async { (host.ledger.state().head.size > 0).then_some(()) };
        osmoda_kit::testing::wait_for("the row", common::LIMIT, recorded).await;
        drop(go);
    };
    let (made, ()) = tokio::join!(client.open_incident(&new), written);
    let made = made.unwrap();
    assert_eq!(client.incident(&made.id).await.unwrap(), made);
    drop((first, reads));
    host.close(server).await;
}

#[tokio::test]
async fn the_shapes_of_incidents_are_the_earlier_products() {
    let host = Host::new();
    let server = start(&host).await;
    let client = server.client();
    let (status, made) =
        exchange(&client, Method::POST, "/incident/create", Some(json!({"name": "disk", "x": 1}))).await;
    assert_eq!(status.as_u16(), 200);
    has_keys(&made, &["id", "name", "status", "steps", "created_at", "resolved_at"]);
    assert_eq!((&made["name"], &made["status"], &made["steps"]), (&json!("disk"), &json!("open"), &json!([])));
    let id = made["id"].as_str().unwrap();
    // `result` is required there and optional in its tools' schema: both are taken.
    let body = json!({"action": "looked"});
    let (status, made) = exchange(&client, Method::POST, &format!("/incident/{id}/step"), Some(body)).await;
    assert_eq!(status.as_u16(), 200);
    has_keys(&made["steps"][0], &["step_number", "action", "result", "receipt_id", "timestamp"]);
    assert_eq!((&made["steps"][0]["step_number"], &made["steps"][0]["action"]), (&json!(1), &json!("looked")));
    let (status, shown) = exchange(&client, Method::GET, &format!("/incident/{id}"), None).await;
    assert_eq!((status.as_u16(), &shown), (200, &made));
    let (_, listed) = exchange(&client, Method::GET, "/incidents?status=open", None).await;
    assert_eq!(listed, json!([made]));
    for (method, path, body) in [
        (Method::GET, "/incident/none", None),
        (Method::POST, "/incident/none/step", Some(json!({"action": "x", "result": "y"}))),
    ] {
        let (status, answer) = exchange(&client, method, path, body).await;
        assert_eq!((status.as_u16(), answer["code"].as_str()), (404, Some("not_found")));
    }
    host.close(server).await;
}

#[tokio::test]
async fn incidents_are_the_same_after_a_restart() {
    let host = Host::new();
    let server = start(&host).await;
    let client = admin(&server);
    let first = open(&server, "first").await;
    let second = open(&server, "second").await;
    let x = step("x");
    let (one, two) = tokio::join!(
        async {
            for n in 0..10 {
                client.add_step(&first.id, &step(&format!("{n}"))).await.unwrap();
            }
        },
        client.add_step(&second.id, &x)
    );
    let ((), two) = (one, two.unwrap());
    assert_eq!(two.steps.len(), 1);
    client.resolve_incident(&second.id).await.unwrap();
    let again = client.resolve_incident(&second.id).await.unwrap_err();
    assert_eq!(again.code, ErrorCode::Conflict);
    let late = client.add_step(&second.id, &step("late")).await.unwrap_err();
    assert_eq!(late.code, ErrorCode::Conflict);
    let before = client.incidents(None).await.unwrap();
    assert_eq!(before.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["second", "first"]);
    let actions: Vec<_> = before[1].steps.iter().map(|step| step.action.clone()).collect();
    assert_eq!(actions, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(before[0].resolved_at.is_some());

    let host = Host::at(host.close(server).await);
    let server = start(&host).await;
    assert_eq!(admin(&server).incidents(None).await.unwrap(), before);
    assert_eq!(admin(&server).incidents(Some("open")).await.unwrap().len(), 1);
    host.close(server).await;
}

#[tokio::test]
async fn an_incident_whose_rows_were_changed_says_so() {
    let host = Host::new();
    let server = start(&host).await;
    let incident = open(&server, "disk").await;
    let ledger = Connection::open(host.path()).unwrap();
    ledger.execute_batch("DROP TRIGGER events_no_update; UPDATE events SET actor = 'mallory'").unwrap();
    drop(ledger);
    assert_eq!(admin(&server).incident(&incident.id).await.unwrap_err().code, ErrorCode::LedgerBroken);
    host.close(server).await;
}

#[tokio::test]
async fn long_texts_and_other_callers_are_refused() {
    let host = Host::new();
    let server = start(&host).await;
    let client = server.client();
    let id = open(&server, "disk").await.id;
    let step = format!("/incident/{id}/step");
    for (path, body, status) in [
        ("/incident/create", json!({"name": "n".repeat(257)}), 413),
        ("/incident/create", json!({"name": " "}), 400),
        ("/incident/create", json!({}), 422),
        (step.as_str(), json!({"action": "a".repeat(8193), "result": "x"}), 413),
        (step.as_str(), json!({"action": "a", "result": "r".repeat(8193)}), 413),
        (step.as_str(), json!({"result": "x"}), 422),
    ] {
        assert_eq!(exchange(&client, Method::POST, path, Some(body)).await.0.as_u16(), status, "{path}");
    }
    assert_eq!(host.ledger.state().head.size, 1);
    let refused = server.client_as("watch").get::<Vec<Incident>>("/incidents").await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::CallerDenied);
    host.close(server).await;
}

#[tokio::test]
async fn receipts_are_ledger_rows_in_the_earlier_shape() {
    let host = Host::new();
    let server = start(&host).await;
    for n in 0..60 {
        open(&server, &format!("incident {n}")).await;
    }
    let client = server.client();
    let (status, receipts) = exchange(&client, Method::GET, "/receipts", None).await;
    assert_eq!((status.as_u16(), receipts.as_array().unwrap().len()), (200, 50));
    let first = &receipts[0];
    has_keys(first, &["id", "event_id", "receipt_type", "actor", "summary", "detail", "timestamp", "reversible"]);
    assert_eq!((&first["id"], &first["event_id"]), (&json!("receipt-60"), &json!(60)));
    assert_eq!((&first["receipt_type"], &first["actor"]), (&json!("incident.create"), &json!("admin")));
    assert_eq!((&first["summary"], &first["reversible"]), (&json!("incident.create: incident 59"), &json!(false)));

    let count = async |query: ReceiptQuery| admin(&server).receipts(&query).await.unwrap().len();
    assert_eq!(count(ReceiptQuery { limit: Some(-1), ..ReceiptQuery::default() }).await, 60);
    assert_eq!(count(ReceiptQuery { limit: Some(0), ..ReceiptQuery::default() }).await, 0);
    assert_eq!(count(ReceiptQuery { limit: Some(7), ..ReceiptQuery::default() }).await, 7);
    assert_eq!(count(ReceiptQuery { kind: Some("t.none".into()), ..ReceiptQuery::default() }).await, 0);
    assert_eq!(count(ReceiptQuery { since: Some("2999".into()), ..ReceiptQuery::default() }).await, 0);
    assert_eq!(count(ReceiptQuery { since: Some("7d".into()), ..ReceiptQuery::default() }).await, 50);
    let bad = admin(&server).receipts(&ReceiptQuery { since: Some("soon".into()), ..ReceiptQuery::default() }).await;
    assert_eq!(bad.unwrap_err().code, ErrorCode::BadRequest);
    host.close(server).await;
}
