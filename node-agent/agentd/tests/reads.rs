//! Reads and refusals are in the ledger, behind the answer, and counted.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

mod common;

use axum::http::Method;
use common::{Host, LIMIT, admin, exchange};
use osmoda_agentd::ledger::file::LedgerFile;
use osmoda_agentd::{reads, receipts};
use osmoda_kit::testing::wait_for;
use osmoda_node_api::agentd::EventQuery;
use osmoda_node_api::agentd_records::ReceiptQuery;

#[tokio::test]
async fn reads_and_refusals_become_rows_with_their_count() {
    let host = Host::new();
    let router = reads::observe(receipts::router(host.ledger.clone()), host.ledger.clone(), &host.tasks);
    let server = host.serve(router);
    for _ in 0..3 {
        admin(&server).receipts(&ReceiptQuery::default()).await.unwrap();
    }
    exchange(&server.client(), Method::GET, "/receipts?since=soon", None).await;
    let rows = wait_for("both rows", LIMIT, async || {
        let page = host.ledger.read(|file: &LedgerFile| file.events(&EventQuery::default())).await.unwrap().unwrap();
        (page.events.iter().any(|event| event.kind == "agentd.refused")).then_some(page.events)
    })
    .await;
    let count: u64 = rows
        .iter()
        .filter(|event| event.kind == "agentd.read" && event.actor == "admin")
        .map(|event| serde_json::from_str::<serde_json::Value>(&event.payload).unwrap()["count"].as_u64().unwrap())
        .sum();
    assert_eq!(count, 3, "{rows:?}");
    let refused = rows.iter().find(|event| event.kind == "agentd.refused").unwrap();
    assert!(refused.payload.contains(r#""call":"GET /receipts""#) && refused.payload.contains(r#""status":400"#));
    host.close(server).await;
}

#[tokio::test]
async fn what_was_gathered_is_written_before_the_ledger_closes() {
    let host = Host::new();
    let router = reads::observe(receipts::router(host.ledger.clone()), host.ledger.clone(), &host.tasks);
    let server = host.serve(router);
    admin(&server).receipts(&ReceiptQuery::default()).await.unwrap();
    let host = Host::at(host.close(server).await);
    assert_eq!(host.ledger.state().head.size, 1);
    let server = host.serve(axum::Router::new());
    host.close(server).await;
}
