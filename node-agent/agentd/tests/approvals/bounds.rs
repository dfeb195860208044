//! What many or large requests, and many readers, may not do to others.

use std::pin::Pin;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use axum::http::Method;
use osmoda_kit::testing::wait_for;
use osmoda_node_api::approval::{AskedCall, PlanRequest, RunEnd, RunOutcome};
use osmoda_permit::testing::sign;
use osmoda_permit::{Call, Decision};
use osmoda_types::ErrorCode;
use serde_json::json;

use crate::host::{Host, begin, request, write};

const LIMIT: Duration = Duration::from_secs(20);

/// Bytes of the calls of all permits that are listed.
async fn open_bytes(host: &Host) -> usize {
    let views = host.admin().list().await.unwrap();
    let calls = views.iter().flat_map(|view| &view.calls);
    calls.map(|call| Call::from_value(call).unwrap().canonical().unwrap().len()).sum()
}

/// However much is asked for, all that waits can be told: large permits do not hide
/// those that come later.
#[tokio::test]
async fn p19_permits_that_wait_are_not_more_than_a_list_can_show() {
    let host = Host::new();
    let wide = "\u{1f600}";
    let plan = |n: usize| PlanRequest {
        calls: (0..64).map(|call| write(&format!("/etc/{n}-{call}-{}", wide.repeat(30)))).collect(),
        session_id: format!("s-{}", n / 5),
        reason: wide.repeat(256),
        ttl_secs: None,
    };
    let mut asked = 0;
    let refused = loop {
        match host.admin().plan(&plan(asked)).await {
            Ok(view) => assert_eq!(view.display.matches("the model says").count(), 1, "the reason once"),
            Err(error) => break error,
        }
        asked += 1;
        assert!(asked < 90, "no limit of bytes");
    };
    assert_eq!(refused.code, ErrorCode::QuotaExceeded);
    assert!(refused.message.contains("bytes") && !refused.message.contains("session"), "{}", refused.message);
    let bytes = open_bytes(&host).await;
    assert!(bytes <= 1 << 20 && bytes > 900 << 10, "{bytes} bytes, the last plan with them");
    let client = host.server.client().with_answer_limit(24 << 20);
    let (_, list) = client.exchange(Method::GET, "/permit/list", None).await.unwrap();
    assert!(list.len() < 12 << 20, "{} bytes of {asked} plans", list.len());
    assert_eq!(host.admin().list().await.unwrap().len(), asked);
    host.close().await;
}

/// What one session asks for, and has approved, shuts nobody else out.
#[tokio::test]
async fn p19_one_session_has_its_share_of_what_may_wait() {
    let host = Host::new();
    let plan = |n: usize, bytes: usize| PlanRequest {
        calls: (0..64)
            .map(|call| {
                let args = json!({ "path": format!("/etc/{n}-{call}"), "content": "x".repeat(bytes) });
                AskedCall { tool: "file.write".into(), args }
            })
            .collect(),
        session_id: "s-1".into(),
        reason: String::new(),
        ttl_secs: Some(8 * 3600),
    };
    // As large as a body may be.
    let permit = host.admin().plan(&plan(0, 1900)).await.unwrap().signed.permit;
    host.admin().sign(&permit.id, &sign(1, &permit, Decision::Approve)).await.unwrap();
    assert!(host.admin().plan(&plan(1, 2000)).await.is_err(), "a body has 128 KiB");
    let looks = host.eyes.1.load(SeqCst);
    let refused = host.admin().plan(&plan(2, 1900)).await.map(|view| view.state).unwrap_err();
    assert_eq!(refused.code, ErrorCode::QuotaExceeded);
    assert!(refused.message.contains("of this session"), "{}", refused.message);
    assert_eq!(host.eyes.1.load(SeqCst), looks, "what is too much without its objects is not looked at");
    host.admin().plan(&plan(3, 900)).await.unwrap();
    let bytes = open_bytes(&host).await;
    assert!(bytes <= 256 << 10 && bytes > 200 << 10, "{bytes}");
    host.admin().request(&request("/etc/issue", "s-2")).await.unwrap();
    host.close().await;
}

/// "Busy" says that nothing was done. What is durable is told, however many read.
#[tokio::test]
async fn what_was_recorded_is_told_when_the_reader_is_busy() {
    let host = Host::new();
    let run = host.approved("/etc/motd").await;
    let begun = host.execd().begin(&begin(&run, 0)).await.unwrap();
    let ((go, gate), (begins, has_begun)) = (std::sync::mpsc::sync_channel::<()>(1), tokio::sync::oneshot::channel());
    let first = host.ledger.read(move |_| {
        begins.send(()).unwrap();
        assert!(gate.recv().is_err());
    });
    let mut reads: Vec<Pin<Box<dyn Future<Output = _>>>> = vec![Box::pin(first)];
    assert!(futures_util::poll!(&mut reads[0]).is_pending());
    has_begun.await.unwrap();
    for _ in 0..16 {
        let mut read: Pin<Box<dyn Future<Output = _>>> = Box::pin(host.ledger.read(|_| ()));
        assert!(futures_util::poll!(&mut read).is_pending());
        reads.push(read);
    }
    // Who has recorded nothing is told so.
    assert_eq!(host.admin().request(&request("/etc/issue", "s-1")).await.unwrap_err().code, ErrorCode::Busy);
    let rows = host.ledger.state().head.size;
    let end = RunEnd { run: begun.run, outcome: RunOutcome::Done, detail: String::new() };
    let written = async {
        let more = || async { (host.ledger.state().head.size > rows).then_some(()) };
        wait_for("the row", LIMIT, more).await;
        drop(go);
    };
    let execd = host.execd();
    let (told, ()) = tokio::join!(execd.end(&end), written);
    assert_eq!(told.unwrap().outcome.as_deref(), Some("done"));
    drop(reads);
    host.close().await;
}
