//! What many or large requests, and many readers, may not do to others.

use std::pin::Pin;
use std::time::Duration;

use axum::http::Method;
use osmoda_kit::testing::wait_for;
use osmoda_node_api::approval::{PlanRequest, RunEnd, RunOutcome};
use osmoda_types::ErrorCode;

use crate::host::{Host, begin, request, write};

const LIMIT: Duration = Duration::from_secs(20);

/// However much is asked for, all that waits can be told: large permits do not hide
/// those that come later.
#[tokio::test]
async fn p19_permits_that_wait_are_not_more_than_a_list_can_show() {
    let host = Host::new();
    let wide = "\u{1f600}";
    let plan = |n: usize| PlanRequest {
        calls: (0..64).map(|call| write(&format!("/etc/{n}-{call}-{}", wide.repeat(30)))).collect(),
        session_id: format!("s-{}", n / 10),
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
    assert!(refused.message.contains("bytes"), "{}", refused.message);
    let client = host.server.client().with_answer_limit(24 << 20);
    let (_, list) = client.exchange(Method::GET, "/permit/list", None).await.unwrap();
    assert!(list.len() < 12 << 20, "{} bytes of {asked} plans", list.len());
    assert_eq!(host.admin().list().await.unwrap().len(), asked);
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
