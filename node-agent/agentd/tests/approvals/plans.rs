//! Plans of several calls, and sessions that have read from outside.

use std::sync::Arc;

use osmoda_node_api::approval::{ApprovalClient, AskedCall, PlanRequest, RunBegin, SessionView, TaintRequest};
use osmoda_permit::Decision;
use osmoda_permit::testing::sign;
use osmoda_types::ErrorCode;
use serde_json::Value;

use crate::host::{Host, Witnesses, begin, code, write};

#[tokio::test]
async fn p20_a_plan_runs_its_calls_in_order_and_no_other() {
    let host = Host::new();
    let calls: Vec<AskedCall> = (0..3).map(|n| write(&format!("/etc/p{n}"))).collect();
    let plan = PlanRequest { calls, session_id: "s-1".into(), reason: String::new(), ttl_secs: None };
    let view = host.admin().plan(&plan).await.unwrap();
    let permit = &view.signed.permit;
    host.admin().sign(&permit.id, &sign(1, permit, Decision::Approve)).await.unwrap();
    let outside = host.ask("/etc/p9").await.unwrap();
    let run = async |call: &Value, position: u32| {
        let tried = RunBegin { call: call.clone(), permit: Some(permit.id), position };
        host.execd().begin(&tried).await.map(|_| ()).map_err(|error| error.code)
    };
    assert_eq!(run(&view.calls[1], 1).await, Err(ErrorCode::ApprovalInvalid), "not yet");
    assert_eq!(run(&view.calls[1], 0).await, Err(ErrorCode::ApprovalInvalid), "another order");
    assert_eq!(run(&view.calls[0], 0).await, Ok(()));
    assert_eq!(run(&view.calls[0], 0).await, Err(ErrorCode::ApprovalSpent));
    assert_eq!(run(&view.calls[0], 1).await, Err(ErrorCode::ApprovalSpent));
    assert_eq!(run(&outside.calls[0], 1).await, Err(ErrorCode::ApprovalInvalid), "one that is not in the plan");
    assert_eq!(run(&view.calls[1], 1).await, Ok(()));
    assert_eq!(run(&view.calls[2], 2).await, Ok(()));
    assert_eq!(run(&outside.calls[0], 3).await, Err(ErrorCode::ApprovalSpent), "one more");
    host.close().await;
}

#[tokio::test]
async fn p22_a_tainted_session_has_no_automatic_grave_calls_and_never_becomes_clean() {
    let host = Host::with(Arc::new(Witnesses), "automatic = [\"change_irreversible\"]\nwrite_roots = [\"/srv\"]\n");
    let taint = TaintRequest { session_id: "s-1".into(), source: "web".into() };
    let agentd = ApprovalClient::new(host.server.client_as("watch"));
    for _ in 0..2 {
        assert!(agentd.taint(&taint).await.unwrap().tainted);
    }
    assert_eq!(host.kinds(), ["session.tainted"], "once");
    let view = host.ask("/etc/motd").await.unwrap();
    assert!(view.tainted && view.display.contains("has read content from outside"));
    let free = RunBegin { permit: None, ..begin(&view, 0) };
    assert_eq!(code(host.execd().begin(&free).await), ErrorCode::ApprovalRequired);
    let session: SessionView = host.server.client().get("/session/s-2").await.unwrap();
    assert!(!session.tainted);
    host.close().await;
}
