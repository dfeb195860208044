//! Reads and refusals are in the ledger, behind the answer, and counted.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

mod common;

use std::sync::Arc;

use axum::http::Method;
use common::{Host, LIMIT, admin, exchange};
use osmoda_agentd::ledger::file::LedgerFile;
use osmoda_agentd::reads::{self, ReadsParts};
use osmoda_agentd::receipts;
use osmoda_kit::boot::Daemon;
use osmoda_kit::http::testing::TestServer;
use osmoda_kit::http::{Callers, MODEL_UID_FIRST};
use osmoda_kit::testing::wait_for;
use osmoda_node_api::agentd::{Event, EventQuery};
use osmoda_node_api::agentd_records::ReceiptQuery;
use osmoda_types::ErrorCode;

/// Who may call, told apart as on a host where daemons have users of their own.
fn callers() -> Arc<Callers> {
    Arc::new(Callers::by_users(osmoda_agentd::Agentd::callers(), "root:x:0:0::/root:/bin/sh\n"))
}

fn observed(host: &Host, callers: &Arc<Callers>) -> TestServer {
    let parts = ReadsParts {
        ledger: host.ledger.clone(),
        callers: Arc::clone(callers),
        clock: host.clock.clone(),
        tasks: host.tasks.clone(),
    };
    host.serve(reads::observe(receipts::router(host.ledger.clone()), parts))
}

async fn rows(host: &Host) -> Vec<Event> {
    let read = host.ledger.read(|file: &LedgerFile| file.events(&EventQuery::default()));
    read.await.unwrap().unwrap().events
}

fn counted(rows: &[Event], kind: &str, actor: &str, part: &str) -> u64 {
    let of = rows.iter().filter(|row| row.kind == kind && row.actor == actor && row.payload.contains(part));
    of.map(|row| serde_json::from_str::<serde_json::Value>(&row.payload).unwrap()["count"].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn reads_and_refusals_become_rows_with_their_count() {
    let host = Host::new();
    let server = observed(&host, &callers());
    for _ in 0..3 {
        admin(&server).receipts(&ReceiptQuery::default()).await.unwrap();
    }
    for _ in 0..5 {
        exchange(&server.client(), Method::GET, "/receipts?since=soon", None).await;
    }
    wait_for("rows", LIMIT, async || (host.ledger.state().head.size >= 2).then_some(())).await;
    let host = Host::at(host.close(server).await);
    let rows = rows(&host).await;
    assert_eq!(counted(&rows, "agentd.read", "admin", r#""call":"GET /receipts""#), 3, "{rows:?}");
    assert_eq!(counted(&rows, "agentd.refused", "admin", r#""code":"bad_request","count""#), 5, "{rows:?}");
    assert!(rows.len() <= 4, "the first of each and the rest of each: {rows:?}");
    let server = host.serve(axum::Router::new());
    host.close(server).await;
}

/// P1: the model calls `approval_approve`. It gets no further than the table,
/// and the ledger says that it tried.
#[tokio::test]
async fn p01_a_model_that_approves_is_refused_and_the_ledger_says_so() {
    let host = Host::new();
    let callers = callers();
    let server = observed(&host, &callers);
    let path = "/approval/0123456789abcdef0123456789abcdef/approve";
    for _ in 0..1000 {
        let refused = callers.admit((MODEL_UID_FIRST + 7, Some(1)), None, Some("execd"), "POST", path).unwrap_err();
        assert_eq!(refused.code, ErrorCode::CallerDenied);
    }
    wait_for("a row", LIMIT, async || (host.ledger.state().head.size >= 1).then_some(())).await;
    let host = Host::at(host.close(server).await);
    let rows = rows(&host).await;
    let model = format!("model:{}", MODEL_UID_FIRST + 7);
    let call = r#""call":"POST /approval/{}/approve","caller":"model:"#;
    assert_eq!(counted(&rows, "agentd.refused", &model, call), 1000, "{rows:?}");
    assert!(rows.len() <= 2 && rows[0].payload.contains(r#""code":"caller_denied""#), "{rows:?}");
    let server = host.serve(axum::Router::new());
    host.close(server).await;
}

#[tokio::test]
async fn what_was_gathered_is_written_before_the_ledger_closes() {
    let host = Host::new();
    let server = observed(&host, &callers());
    admin(&server).receipts(&ReceiptQuery::default()).await.unwrap();
    let host = Host::at(host.close(server).await);
    assert_eq!(host.ledger.state().head.size, 1);
    let server = host.serve(axum::Router::new());
    host.close(server).await;
}

/// Who reads the whole ledger, and who is refused a row or a cosignature, is in it;
/// what is asked about each checkpoint is not.
#[tokio::test]
async fn a_whole_read_and_a_refused_append_are_rows_and_polling_is_not() {
    use axum::http::StatusCode;
    use axum::routing::{get, post};
    let host = Host::new();
    let parts = ReadsParts {
        ledger: host.ledger.clone(),
        callers: callers(),
        clock: host.clock.clone(),
        tasks: host.tasks.clone(),
    };
    let refused = || async { StatusCode::FORBIDDEN };
    let mut router =
        axum::Router::new().route("/ledger/export", get(|| async { "rows" })).route("/ledger/cosign", post(refused));
    let polled = ["checkpoint", "covered", "head", "proof/consistency", "proof/inclusion", "witness"];
    for path in polled {
        router = router.route(&format!("/ledger/{path}"), get(refused));
    }
    let server = host.serve(reads::observe(router, parts));
    for path in polled {
        exchange(&server.client(), Method::GET, &format!("/ledger/{path}"), None).await;
    }
    exchange(&server.client(), Method::GET, "/ledger/export", None).await;
    exchange(&server.client(), Method::POST, "/ledger/cosign", Some(serde_json::json!({}))).await;
    let host = Host::at(host.close(server).await);
    let rows = rows(&host).await;
    assert_eq!(counted(&rows, "agentd.read", "admin", r#""call":"GET /ledger/export""#), 1, "{rows:?}");
    assert_eq!(counted(&rows, "agentd.refused", "admin", r#""call":"POST /ledger/cosign""#), 1, "{rows:?}");
    assert_eq!(rows.len(), 2, "{rows:?}");
    let server = host.serve(axum::Router::new());
    host.close(server).await;
}
