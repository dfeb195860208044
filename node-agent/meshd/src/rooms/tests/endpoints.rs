//! The endpoints, with the shapes of the reference.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::Method;
use axum::routing::post;
use futures_util::future::join_all;
use osmoda_kit::audit::Audit;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::testing::TestServer;
use osmoda_types::{ErrorCode, Role};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::world::{LIMIT, Node};
use crate::rooms::http::{Api, router};

fn ledger() -> TestServer {
    let append = async || axum::Json(json!({ "id": 1, "hash": "00" }));
    TestServer::open(Router::new().route("/ledger/append", post(append)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_the_earlier_product_find_their_shapes() {
    let (node, ledger) = (Node::new(Role::Voter).await, ledger());
    let api = Api::new(Ok(node.rooms.clone()), Audit::new(ledger.client()), node.tasks.clone());
    let server = TestServer::open(router(Arc::new(api)));
    let client = server.client();
    let room: Value = client.post("/room/create", &json!({ "name": "ops" })).await.unwrap();
    let id = room["id"].as_str().unwrap().to_owned();
    assert_eq!((room["name"].as_str(), room["members"].as_array().unwrap().len()), (Some("ops"), 1));
    assert!(room["messages"].as_array().unwrap().is_empty() && room["created_at"].is_string());
    for field in ["text", "message"] {
        let sent: Value = client.post("/room/send", &json!({ "room_id": id, field: "hello" })).await.unwrap();
        assert_eq!(sent["delivered_to"], 0);
    }
    let rooms: Value = client.get("/rooms").await.unwrap();
    let expected =
        json!({ "id": id, "name": "ops", "member_count": 1, "message_count": 2, "created_at": room["created_at"] });
    assert_eq!(rooms, json!([expected]));
    for path in [format!("/room/history?room_id={id}&limit=1"), format!("/room/{id}/history?limit=1")] {
        let history: Value = client.get(&path).await.unwrap();
        let [message] = history.as_array().unwrap().as_slice() else { panic!("{history}") };
        assert_eq!((message["text"].as_str(), message["seq"].as_u64()), (Some("hello"), Some(2)));
        assert_eq!((message["from"].as_str(), &message["untrusted"]), (Some(&*node.id().to_string()), &json!(true)));
        assert!(message["ts"].is_string());
    }
    let joined: Value = client.post("/room/join", &json!({ "room_id": id, "peer_id": node.id() })).await.unwrap();
    assert_eq!(joined["id"], json!(id));
    let delivery: Value = client.get(&format!("/room/{id}/delivery")).await.unwrap();
    assert_eq!(delivery, json!({ "author_seq": 2, "members": [] }));

    for (path, body) in [
        ("/room/send", json!({ "room_id": "0b8f2d0e-7a51-8c3e-9d40-5f6a7b8c9d0e", "text": "x" })),
        ("/room/send", json!({ "room_id": "no id", "text": "x" })),
        ("/room/join", json!({ "room_id": "0b8f2d0e-7a51-8c3e-9d40-5f6a7b8c9d0e" })),
    ] {
        assert_eq!(client.post::<Value>(path, &body).await.unwrap_err().code, ErrorCode::NotFound, "{path} {body}");
    }
    let error = client.post::<Value>("/room/create", &json!({ "name": "" })).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::BadRequest);
    let large = json!({ "room_id": id, "text": "x".repeat(40_000) });
    assert_eq!(client.post::<Value>("/room/send", &large).await.unwrap_err().code, ErrorCode::TooLarge);
    let (status, _) = client.exchange(Method::POST, "/room/send", Some(Bytes::from_static(b"{}"))).await.unwrap();
    assert_eq!(status.as_u16(), 422);
    server.stop(LIMIT).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_tells_what_was_and_what_comes_once() {
    let (node, ledger) = (Node::new(Role::Voter).await, ledger());
    let api = Api::new(Ok(node.rooms.clone()), Audit::new(ledger.client()), node.tasks.clone());
    let server = TestServer::open(router(Arc::new(api)));
    let room = node.create(&[], osmoda_node_api::rooms::JoinRule::Added).await;
    node.rooms.send(room, "first".to_owned()).await.unwrap();
    let mut stream = UnixStream::connect(server.client().socket()).await.unwrap();
    let request = format!("GET /room/{room}/tail?limit=5 HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let read_until = async |stream: &mut UnixStream, seen: &mut String, text: &str| {
        let mut bytes = [0; 4096];
        while !seen.contains(text) {
            let count = tokio::time::timeout(LIMIT, stream.read(&mut bytes)).await.unwrap().unwrap();
            assert!(count > 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    read_until(&mut stream, &mut seen, "\"first\"").await;
    node.rooms.send(room, "second".to_owned()).await.unwrap();
    read_until(&mut stream, &mut seen, "\"second\"").await;
    assert_eq!((seen.matches("event: message").count(), seen.matches("\"first\"").count()), (2, 1), "{seen}");
    assert!(seen.contains("text/event-stream"));
    drop(stream);
    server.stop(LIMIT).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_too_slow_hears_how_many_it_missed() {
    /// More than wait in the tail, on their way to the reader and in the socket.
    const SENT: usize = 1_200;
    let (node, ledger) = (Node::new(Role::Voter).await, ledger());
    let api = Api::new(Ok(node.rooms.clone()), Audit::new(ledger.client()), node.tasks.clone());
    let server = TestServer::open(router(Arc::new(api)));
    let room = node.create(&[], osmoda_node_api::rooms::JoinRule::Added).await;
    let mut stream = UnixStream::connect(server.client().socket()).await.unwrap();
    let request = format!("GET /room/{room}/tail HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = vec![0; 64 * 1024];
    // The head of the answer: from here on it listens.
    let count = stream.read(&mut seen).await.unwrap();
    seen.truncate(count);
    let text = "x".repeat(8 * 1024);
    join_all((0..SENT).map(|_| node.rooms.send(room, text.clone())))
        .await
        .into_iter()
        .for_each(|sent| drop(sent.unwrap()));
    node.rooms.send(room, "the last".to_owned()).await.unwrap();
    let mut part = vec![0; 64 * 1024];
    let ends = |seen: &[u8]| String::from_utf8_lossy(&seen[seen.len().saturating_sub(4096)..]).contains("the last");
    while !ends(&seen) {
        let count = tokio::time::timeout(LIMIT, stream.read(&mut part)).await.unwrap().unwrap();
        assert!(count > 0, "the stream ended");
        seen.extend_from_slice(&part[..count]);
    }
    let seen = String::from_utf8(seen).unwrap();
    let missed = seen.split("event: missed\ndata: {\"messages\":").skip(1);
    let missed: usize = missed.map(|rest| rest[..rest.find('}').unwrap()].parse::<usize>().unwrap()).sum();
    assert!(missed > 0);
    assert_eq!(seen.matches("event: message\n").count() + missed, SENT + 1);
    drop(stream);
    server.stop(LIMIT).await;
    node.stop().await;
}

#[tokio::test]
async fn without_a_store_rooms_say_why_and_nothing_else_is_touched() {
    let (root, ledger) = (osmoda_kit::testing::TempRoot::new(), ledger());
    let tasks = osmoda_kit::tasks::Tasks::new(osmoda_kit::shutdown::Shutdown::new());
    std::fs::write(root.path().join("rooms.db"), vec![7; 9000]).unwrap();
    let refused = crate::rooms::store::Store::open(&root.path().join("rooms.db")).err().unwrap();
    let api = Api::new(Err(ApiError::from(refused)), Audit::new(ledger.client()), tasks);
    let server = TestServer::open(router(Arc::new(api)));
    let error = server.client().get::<Value>("/rooms").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::StateDirUnusable);
    let create = server.client().post::<Value>("/room/create", &json!({ "name": "x" })).await;
    assert_eq!(create.unwrap_err().code, ErrorCode::StateDirUnusable);
}
