//! `osmoda room` against a small mesh daemon on a local socket.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure shows the line that surprised it")]

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use osmoda_kit::process::{self, Output, Spec};
use osmoda_kit::testing::TempRoot;
use serde_json::{Value, json};

const ID: &str = "0b8f2d0e-7a51-8c3e-9d40-5f6a7b8c9d0e";

fn message(text: &str) -> Value {
    json!({
        "from": "ab".repeat(32), "name": "web-1", "text": text, "ts": "2026-01-01T00:00:00.000Z", "seq": 1,
        "id": "cd".repeat(32), "author_seq": 1, "late": true, "forked": false, "untrusted": true,
    })
}

/// A node's root with a mesh daemon that knows one room.
fn node() -> TempRoot {
    let root = TempRoot::new();
    let room = json!({"id": ID, "name": "ops", "member_count": 2, "message_count": 1,
                      "created_at": "2026-01-01T00:00:00.000Z"});
    let rooms = move || async move { axum::Json(json!([room])) };
    let send = |axum::Json(body): axum::Json<Value>| async move {
        assert_eq!(body, json!({"room_id": ID, "text": "hello"}));
        axum::Json(json!({"delivered_to": 1, "id": "ef".repeat(32), "author_seq": 7}))
    };
    let create = |axum::Json(body): axum::Json<Value>| async move {
        assert_eq!(
            body,
            json!({"name": "ops", "peer_ids": ["ab".repeat(32)], "join": "fleet", "retain_messages": 100})
        );
        axum::Json(json!({
            "id": ID, "name": "o\u{1b}ps", "members": ["ab".repeat(32)], "messages": [], "creator": "cd".repeat(32),
            "created_at": "6429-10-17T02:45:55.327Z", "join": "fleet",
            "forgotten": {"messages": 0, "bytes": 0, "before": "1970-01-01T00:00:00.000Z", "digest": "00".repeat(32)},
        }))
    };
    let leave = |axum::Json(body): axum::Json<Value>| async move {
        assert_eq!(body["room_id"], ID);
        if body["peer_id"].is_null() { Ok(axum::Json(json!({"left": ID}))) } else { Err(StatusCode::NOT_FOUND) }
    };
    let delivery = || async {
        let member = |name: &str, confirmed: u64, healed: Value| {
            json!({"node": "ab".repeat(32), "name": name, "connected": true, "confirmed": confirmed,
                   "pending": 7 - confirmed, "healed_at": healed})
        };
        let at = json!("2026-01-01T00:00:00.000Z");
        axum::Json(json!({"author_seq": 7, "members": [member("web-1", 7, at), member("web-2", 3, Value::Null)]}))
    };
    let refused =
        || async { (StatusCode::SERVICE_UNAVAILABLE, axum::Json(json!({"error": "no link", "code": "peer_offline"}))) };
    let tail = || async {
        let data = message("hi\u{1b}[2J");
        let text =
            format!(": hello\n\nid: 1\nevent: message\ndata: {data}\n\nevent: missed\ndata: {{\"messages\":3}}\n\n");
        ([("content-type", "text/event-stream")], text)
    };
    let app = Router::new()
        .route("/rooms", get(rooms))
        .route("/room/send", post(send))
        .route("/room/join", post(refused))
        .route("/room/create", post(create))
        .route("/room/leave", post(leave))
        .route(&format!("/room/{ID}/delivery"), get(delivery))
        .route(&format!("/room/{ID}/history"), get(|| async { axum::Json(json!([message("first")])) }))
        .route(&format!("/room/{ID}/tail"), get(tail));
    let listener = tokio::net::UnixListener::bind(root.paths().socket("mesh")).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test server that ends with the test's runtime")]
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    root
}

async fn room(root: &TempRoot, args: &[&str]) -> (Output, String, String) {
    let folder = root.path().display().to_string();
    let all = [&["room"], args, &["--root", &folder]].concat();
    let output =
        process::run(&Spec::new(env!("CARGO_BIN_EXE_osmoda")).args(all).env("HOME", root.path())).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

#[tokio::test]
async fn rooms_are_listed_written_read_and_followed_on_the_local_socket() {
    let (root, node) = (node(), "ab".repeat(32));
    for (args, exit, stdout, stderr) in [
        (&["ls"][..], 0, "ops", ""),
        (&["ls", "-o", "name"], 0, ID, ""),
        (&["send", "ops", "hello"], 0, "sent as 7 of this node, to 1 linked members", ""),
        (&["history", ID, "--limit", "5"], 0, "first", ""),
        (&["history", ID, "-o", "json"], 0, "\"untrusted\": true", ""),
        (&["join", ID], 1, "", "peer_offline"),
        (&["create", "ops", "--add", &node, "--open", "--keep-messages", "100"], 0, "made by  cdcdcdcd", ""),
        (&["create", "ops", "--add", &node, "--open", "--keep-messages", "100", "-o", "name"], 0, ID, ""),
        (&["leave", "ops"], 0, "left 0b8f2d0e", ""),
        (&["leave", ID, "--node", &node], 3, "", "cannot leave the room"),
        (&["delivery", "ops"], 0, "web-1   yes     7          0        2026-01-01T00:00:00.000Z", ""),
        (&["delivery", "ops"], 0, "web-2   yes     3          4        -", ""),
        (&["delivery", "ops", "-o", "json"], 0, "\"author_seq\": 7", ""),
        (&["send", "nowhere", "hello"], 3, "", "nowhere"),
        // The stub ends its stream, which a daemon does only when it stops.
        (&["tail", "ops"], 1, "web-1 [late]: hi\u{fffd}[2J", "3 messages were too fast"),
    ] {
        let (output, out, err) = room(&root, args).await;
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {out}{err}");
        assert!(out.contains(stdout) && err.contains(stderr), "{args:?}: {out}{err}");
        assert!(!out.contains('\u{1b}'), "{args:?}: {out}");
    }
}

#[tokio::test]
async fn without_a_node_the_socket_is_named() {
    let root = TempRoot::new();
    let (output, _, err) = room(&root, &["ls"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(err.contains("mesh.sock"), "{err}");
}
