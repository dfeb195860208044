//! The REST interface: every endpoint is there, every endpoint refuses.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure shows the line that surprised it")]

mod support;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use osmoda_controller_api::endpoint::{Body as Carries, Endpoint, endpoints};
use osmoda_types::command::Order;
use osmoda_types::{RolloutId, Vote};
use serde_json::json;
use support::{TestController, VOTER, ann, fleet, key, manifest, order, start_order};

const ID: &str = "01900000-0000-7000-8000-000000000001";

/// Endpoints that answer without a token, and so have no 401. The list may
/// only shrink.
const OPEN: [&str; 1] = ["openapi"];

fn id() -> RolloutId {
    ID.parse().unwrap()
}

/// The path with ids that exist nowhere.
fn strange(endpoint: &Endpoint) -> String {
    let hex = "ee".repeat(32);
    let path = endpoint.path.replace("{hash}", &hex);
    if path.contains("/nodes/") || path.contains("/ledger/") {
        path.replace("{id}", &hex)
    } else {
        path.replace("{id}", ID)
    }
}

#[tokio::test]
async fn every_endpoint_is_mounted_and_wants_the_token() {
    let (_dir, _tasks, voter, database) = fleet();
    let controller = TestController::start(&voter, &database).await;
    for endpoint in endpoints() {
        let call = |token: Option<&'static str>| {
            let mut request = Request::builder().method(endpoint.method.as_str()).uri(strange(&endpoint));
            if let Some(token) = token {
                request = request.header("authorization", token);
            }
            controller.send(request.body(Body::empty()).unwrap())
        };
        if endpoint.open {
            assert!(OPEN.contains(&endpoint.operation), "{} is open", endpoint.operation);
            assert_eq!(call(None).await.0, StatusCode::OK);
            continue;
        }
        for token in [None, Some("Bearer wrong"), Some("Basic YTpi"), Some("Bearer")] {
            let (status, body) = call(token).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{} with {token:?}", endpoint.operation);
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["code"], "unauthorized");
            assert!(body["request_id"].as_str().unwrap().starts_with("req_"));
        }
    }
    controller.stop().await;
}

#[tokio::test]
async fn every_endpoint_refuses_what_it_cannot_use() {
    let (_dir, _tasks, voter, database) = fleet();
    let controller = TestController::start(&voter, &database).await;
    controller.caught_up(&voter).await;
    for endpoint in endpoints().iter().filter(|endpoint| !endpoint.open) {
        let (method, path) = (endpoint.method.as_str(), strange(endpoint));
        let path = path.strip_prefix("/api/v1/fleet").unwrap();
        let name = endpoint.operation;
        if !endpoint.query.is_empty() {
            for query in ["cursor=!", "limit=0", "limit=501", "nonsense=1"] {
                let (status, body) = controller.call(method, &format!("{path}?{query}"), None).await;
                // A thing that does not exist is missed before its page is.
                let refused = status == StatusCode::BAD_REQUEST || status == StatusCode::NOT_FOUND;
                assert!(refused, "{name}?{query}: {status} {body}");
            }
        }
        if matches!(endpoint.body, Carries::Json(_)) {
            for (body, expected) in [
                ("{", StatusCode::BAD_REQUEST),
                ("[null,null]", StatusCode::UNPROCESSABLE_ENTITY),
                ("{\"surplus\":1}", StatusCode::UNPROCESSABLE_ENTITY),
                ("{}", StatusCode::UNPROCESSABLE_ENTITY),
            ] {
                let (status, answer) = controller.call(method, path, Some(body)).await;
                assert_eq!(status, expected, "{name} with {body}: {answer}");
                assert_eq!(answer["code"], "bad_request", "{name}");
            }
            let large = format!("{{\"a\":\"{}\"}}", "x".repeat(70_000));
            let (status, answer) = controller.call(method, path, Some(&large)).await;
            assert_eq!((status, &answer["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("too_large")), "{name}");
        }
        if endpoint.path.contains('{') && matches!(endpoint.body, Carries::None) {
            let (status, answer) = controller.call(method, path, None).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{name}: {answer}");
            let (status, _) = controller.call(method, &path.replace(ID, "x").replace("eeee", "x"), None).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{name}");
        }
    }
    let (status, answer) = controller.call("PUT", "/manifests", Some("{}")).await;
    assert_eq!((status, &answer["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("manifest_malformed")));
    let (status, answer) = controller.call("PUT", "/manifests", Some(&"x".repeat((1 << 20) + 2))).await;
    assert_eq!((status, &answer["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("manifest_too_large")));
    let (status, _) = controller.call("DELETE", "/nodes", None).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let (status, _) = controller.call("GET", "/nothing", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    controller.stop().await;
}

#[tokio::test]
async fn a_rollout_goes_from_the_upload_to_the_ballot() {
    let (_dir, _tasks, voter, database) = fleet();
    let controller = TestController::start(&voter, &database).await;
    controller.caught_up(&voter).await;
    let text = manifest("/nix/store/b");
    let early = start_order(&text, id(), 0, &ann());
    let (status, answer) = controller.call("POST", "/rollouts", Some(&early)).await;
    assert_eq!((status, &answer["code"]), (StatusCode::NOT_FOUND, &json!("manifest_unknown")));
    let (status, stored) = controller.call("PUT", "/manifests", Some(&text)).await;
    assert_eq!(status, StatusCode::CREATED);
    let hash = stored["hash"].as_str().unwrap();
    let request = Request::builder().uri(format!("/api/v1/fleet/manifests/{hash}"));
    let request = request.header("authorization", format!("Bearer {}", support::TOKEN)).body(Body::empty()).unwrap();
    assert_eq!(controller.send(request).await.1, text.as_bytes());

    for (order, code) in [
        (start_order(&text, id(), 0, &key(99)), "principal_unknown"),
        (start_order(&text, id(), 5, &ann()), "epoch_stale"),
        (early.replace(ID, "01900000-0000-7000-8000-000000000002"), "signature_invalid"),
    ] {
        let (_, answer) = controller.call("POST", "/rollouts", Some(&order)).await;
        assert_eq!(answer["code"], code);
    }
    for _ in 0..2 {
        let (status, rollout) = controller.call("POST", "/rollouts", Some(&early)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{rollout}");
        assert_eq!((&rollout["state"], &rollout["operator"]), (&json!("voting"), &json!("ann")));
    }
    assert!(voter.manifests() >= 1);
    assert_eq!(voter.vote(id(), Vote::Yes), None);
    controller.caught_up(&voter).await;
    let (_, votes) = controller.call("GET", &format!("/rollouts/{ID}/votes"), None).await;
    assert_eq!((&votes["items"][0]["yes"], &votes["items"][0]["name"]), (&json!(true), &json!("voter-1")));
    let (_, list) = controller.call("GET", "/rollouts", None).await;
    assert_eq!((&list["items"][0]["state"], list["items"].as_array().unwrap().len()), (&json!("prefetch"), 1));
    let (_, status) = controller.call("GET", "/status", None).await;
    assert_eq!((&status["epoch"], &status["leader"]), (&json!(1), &json!(VOTER)));
    controller.stop().await;
}

#[tokio::test]
async fn signed_orders_reach_the_log_once() {
    let (_dir, _tasks, voter, database) = fleet();
    let controller = TestController::start(&voter, &database).await;
    controller.caught_up(&voter).await;
    let text = manifest("/nix/store/b");
    controller.call("PUT", "/manifests", Some(&text)).await;
    controller.call("POST", "/rollouts", Some(&start_order(&text, id(), 0, &ann()))).await;
    voter.vote(id(), Vote::Yes);
    controller.caught_up(&voter).await;

    let pause = order(&Order::Pause { rollout: id() }, 1, &ann(), json!({}));
    let (status, rollout) = controller.call("POST", &format!("/rollouts/{ID}/pause"), Some(&pause)).await;
    assert_eq!(
        (status, &rollout["state"], &rollout["reason"]),
        (StatusCode::ACCEPTED, &json!("paused"), &json!("operator"))
    );
    let (_, answer) = controller.call("POST", &format!("/rollouts/{ID}/abort"), Some(&pause)).await;
    assert_eq!(answer["code"], "signature_invalid", "an order is for one verb");
    let resume = order(&Order::Resume { rollout: id() }, 2, &ann(), json!({}));
    let (_, rollout) = controller.call("POST", &format!("/rollouts/{ID}/resume"), Some(&resume)).await;
    assert_eq!(rollout["state"], "prefetch");
    let freeze = order(&Order::Freeze { scope: "web".into() }, 3, &ann(), json!({"scope": "web"}));
    let (status, _) = controller.call("POST", "/freezes", Some(&freeze)).await;
    assert_eq!(status, StatusCode::CREATED);
    let (_, list) = controller.call("GET", "/freezes", None).await;
    assert_eq!((&list["items"][0]["scope"], &list["items"][0]["by"]), (&json!("web"), &json!("ann")));
    let lift = order(&Order::Unfreeze { scope: "web".into() }, 4, &ann(), json!({"scope": "web"}));
    assert_eq!(controller.call("POST", "/freezes/lift", Some(&lift)).await.0, StatusCode::OK);
    let abort = order(&Order::Abort { rollout: id() }, 5, &ann(), json!({}));
    let (_, rollout) = controller.call("POST", &format!("/rollouts/{ID}/abort"), Some(&abort)).await;
    assert_eq!((&rollout["state"], &rollout["reason"]), (&json!("rolled_back"), &json!("aborted")));

    let stale = order(&Order::Freeze { scope: "x".into() }, 4, &ann(), json!({"scope": "x"}));
    let (status, _) = controller.call("POST", "/freezes", Some(&stale)).await;
    assert!(status.is_client_error(), "a serial that went back is refused");
    controller.stop().await;
}

#[tokio::test]
async fn invites_are_minted_by_a_voter_and_a_dead_quorum_is_named() {
    let (_dir, _tasks, voter, database) = fleet();
    let controller = TestController::start(&voter, &database).await;
    let (status, minted) = controller.call("POST", "/invites", Some("{\"role\":\"node\",\"ttl_seconds\":600}")).await;
    assert_eq!((status, &minted["invite"]), (StatusCode::CREATED, &json!("secret-text")));
    let (status, _) = controller.call("POST", "/invites", Some("{\"role\":\"node\",\"ttl_seconds\":1}")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _) = controller.call("POST", "/invites", Some("{\"role\":\"room_guest\"}")).await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    voter.set_down(true);
    let (status, answer) = controller.call("POST", "/invites", Some("{\"role\":\"node\"}")).await;
    assert_eq!((status, answer["code"].as_str().unwrap()), (StatusCode::SERVICE_UNAVAILABLE, "peer_offline"));
    controller.stop().await;
}

#[tokio::test]
async fn errors_are_problem_documents_for_those_who_ask() {
    let (_dir, _tasks, voter, database) = fleet();
    let controller = TestController::start(&voter, &database).await;
    let request = Request::builder().uri("/api/v1/fleet/nodes").header("accept", "application/problem+json");
    let (status, body) = controller.send(request.body(Body::empty()).unwrap()).await;
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status.as_u16(), &body["status"], &body["title"]), (401, &json!(401), &json!("Unauthorized")));
    let (status, health) = controller.send(Request::builder().uri("/healthz").body(Body::empty()).unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(String::from_utf8(health).unwrap().contains("applied_index"));
    controller.stop().await;
}
