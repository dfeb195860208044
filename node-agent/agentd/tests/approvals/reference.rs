//! The earlier product's endpoints.

use axum::http::Method;
use osmoda_node_api::approval::Approval;
use osmoda_permit::testing::sign;
use osmoda_permit::{Decision, Permit};
use osmoda_types::{ErrorCode, PermitId};
use serde_json::{Value, json};

use crate::host::{Host, code};

#[tokio::test]
async fn the_reference_endpoints_keep_their_shapes() {
    let host = Host::new();
    let client = host.server.client();
    let ask = |body: Value| {
        let client = client.clone();
        async move {
            let body = serde_json::to_vec(&body).unwrap();
            let (status, answer) = client.exchange(Method::POST, "/approval/request", Some(body.into())).await.unwrap();
            (status.as_u16(), serde_json::from_slice::<Value>(&answer).unwrap())
        }
    };
    let (status, answer) = ask(json!({ "command": "ls /tmp", "reason": "look", "actor": "root" })).await;
    assert_eq!((status, &answer["status"], &answer["id"]), (200, &json!("auto_approved"), &json!("")));
    assert_eq!(host.kinds(), ["approval.auto_approved"], "an answer, a row and no permit");
    assert!(host.admin().list().await.unwrap().is_empty());
    let (status, answer) = ask(json!({ "command": "rm -rf /tmp/x", "reason": "look", "actor": "root" })).await;
    assert_eq!((status, &answer["status"], &answer["command"]), (201, &json!("pending"), &json!("rm -rf /tmp/x")));
    assert_eq!((&answer["actor"], &answer["reason"]), (&json!("admin"), &json!("look")), "who, not who he says he is");
    let id = answer["id"].as_str().unwrap().to_owned();
    let pending: Vec<Approval> = client.get("/approval/pending").await.unwrap();
    assert_eq!((pending.len(), pending[0].id.as_str()), (1, id.as_str()));
    let one: Approval = client.get(&format!("/approval/{id}")).await.unwrap();
    let permit: Permit = host.admin().show(&id.parse::<PermitId>().unwrap()).await.unwrap().signed.permit;
    let signature = sign(1, &permit, Decision::Approve);
    let approved: Approval = client
        .post(&format!("/approval/{id}/approve"), &json!({ "decided_by": "x", "signature": signature }))
        .await
        .unwrap();
    assert_eq!((approved.status.as_str(), approved.decided_by.as_deref()), ("approved", Some("ada")));
    let again = client.post::<Approval>(&format!("/approval/{id}/approve"), &json!({})).await;
    assert_eq!(code(again), ErrorCode::NotFound);
    assert_eq!(code(client.get::<Approval>("/approval/nope").await), ErrorCode::NotFound);
    assert!(one.expires_at > one.created_at);
    for (field, value) in [
        ("ttl_secs", json!(-1)),
        ("ttl_secs", json!(i64::MAX / 1_000_000)),
        ("command", json!("x".repeat(4097))),
        ("reason", json!("x".repeat(1025))),
    ] {
        let mut body = json!({ "command": "reboot", "reason": "" });
        body[field] = value;
        assert!(matches!(ask(body).await.0, 400 | 422), "{field}");
    }
    let (_, other) = ask(json!({ "command": "reboot", "reason": "" })).await;
    let denied: Approval =
        client.post(&format!("/approval/{}/deny", other["id"].as_str().unwrap()), &json!({})).await.unwrap();
    assert_eq!((denied.status.as_str(), denied.decided_by.as_deref()), ("denied", Some("admin")));
    host.close().await;
}
