//! Nodes dial in: what they say is shown, and only about themselves.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure shows the line that surprised it")]

mod support;

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use osmoda_kit::tasks::TaskKind;
use osmoda_mesh::StreamPeer;
use osmoda_mesh_protocol::Service;
use osmoda_proto::link::v1::link_client::LinkClient;
use osmoda_proto::link::v1::link_server::LinkServer;
use osmoda_proto::link::v1::{self as pb, down, up};
use osmoda_types::{MeshEpoch, NodeId, Role};
use serde_json::json;
use support::{LIMIT, TestController, VOTER, fleet};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};

/// A pipe whose other end the mesh has proven.
struct Pipe(DuplexStream, NodeId);

impl Connected for Pipe {
    type ConnectInfo = StreamPeer;
    fn connect_info(&self) -> StreamPeer {
        StreamPeer { node: self.1, role: Role::Voter, epoch: MeshEpoch(1), service: Service::Link }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A client whose pipe is proven to be `node`'s.
fn dial(controller: &TestController, node: NodeId) -> LinkClient<Channel> {
    let (sender, incoming) = mpsc::channel::<Result<Pipe, std::io::Error>>(4);
    let serving = tonic::transport::Server::builder()
        .add_service(LinkServer::new(controller.links.clone()))
        .serve_with_incoming(tokio_stream::wrappers::ReceiverStream::new(incoming));
    controller.tasks.spawn(TaskKind::BACKGROUND, "test links", serving);
    let connector = tower::service_fn(move |_| {
        let sender = sender.clone();
        async move {
            let (near, far) = tokio::io::duplex(1 << 16);
            sender.send(Ok(Pipe(far, node))).await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(near))
        }
    });
    LinkClient::new(Endpoint::from_static("http://fake.invalid").connect_with_connector_lazy(connector))
}

fn hello(node: NodeId) -> pb::Up {
    let hello = pb::Hello { node: node.as_bytes().to_vec(), version: "1.2.3".into(), ..pb::Hello::default() };
    pb::Up { item: Some(up::Item::Hello(hello)) }
}

#[tokio::test]
async fn a_node_that_dials_in_is_shown_with_what_it_runs() {
    let (_dir, _tasks, voter, database) = fleet();
    let controller = TestController::start(&voter, &database).await;
    controller.caught_up(&voter).await;
    let (ups, queue) = mpsc::channel(8);
    ups.send(hello(VOTER)).await.unwrap();
    let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
    let mut downs = dial(&controller, VOTER).attach(queue).await.unwrap().into_inner();
    let next = async |downs: &mut tonic::Streaming<pb::Down>| {
        tokio::time::timeout(LIMIT, downs.message()).await.unwrap().unwrap().unwrap().item.unwrap()
    };
    let down::Item::Welcome(welcome) = next(&mut downs).await else { panic!("no welcome") };
    assert_eq!(welcome.interval_ms, 2000);

    let beat = pb::Heartbeat { seq: 1, status_hash: vec![1], applied_index: 3, ..pb::Heartbeat::default() };
    ups.send(pb::Up { item: Some(up::Item::Heartbeat(beat)) }).await.unwrap();
    assert!(matches!(next(&mut downs).await, down::Item::WantStatus(_)));
    let status = pb::NodeStatus { current: "/nix/store/a".into(), ..pb::NodeStatus::default() };
    ups.send(pb::Up { item: Some(up::Item::Status(status)) }).await.unwrap();
    for size in [4, 2] {
        let head = pb::LedgerHead { size, hash: vec![7; 32] };
        ups.send(pb::Up { item: Some(up::Item::LedgerHead(head)) }).await.unwrap();
    }
    let event = pb::Event { seq: 5, kind: "boot".into(), ..pb::Event::default() };
    ups.send(pb::Up { item: Some(up::Item::Event(event)) }).await.unwrap();
    // Messages are taken in order, so this answers for all before it.
    assert_eq!(next(&mut downs).await, down::Item::EventAck(pb::EventAck { seq: 5 }));

    let (_, node) = controller.call("GET", &format!("/nodes/{VOTER}"), None).await;
    assert_eq!((&node["presence"], &node["version"]), (&json!("online"), &json!("1.2.3")));
    assert_eq!(node["generation"]["current"], "/nix/store/a");
    assert_eq!((&node["ledger"]["size"], &node["ledger"]["broken"]), (&json!(4), &json!(true)));
    controller.stop().await;
}

#[tokio::test]
async fn a_node_cannot_speak_for_another() {
    let (_dir, _tasks, voter, database) = fleet();
    let controller = TestController::start(&voter, &database).await;
    let (ups, queue) = mpsc::channel(8);
    ups.send(hello(VOTER)).await.unwrap();
    let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
    let stranger = NodeId::from_bytes([9; 32]);
    let mut downs = dial(&controller, stranger).attach(queue).await.unwrap().into_inner();
    let refused = tokio::time::timeout(LIMIT, downs.message()).await.unwrap().unwrap_err();
    assert_eq!(refused.metadata().get("osmoda-code").unwrap(), "caller_denied");
    let (_, node) = controller.call("GET", &format!("/nodes/{VOTER}"), None).await;
    assert_ne!(node["presence"], "online");
    controller.stop().await;
}

#[tokio::test]
async fn what_a_node_says_of_ledgers_is_shown_and_survives_a_restart() {
    let (_dir, _tasks, voter, database) = fleet();
    let controller = TestController::start(&voter, &database).await;
    controller.caught_up(&voter).await;
    let (_, before) = controller.call("GET", &format!("/ledger/{VOTER}"), None).await;
    assert_eq!((&before["report"], &before["held"]), (&json!(null), &json!([])));

    let (ups, queue) = mpsc::channel(8);
    ups.send(hello(VOTER)).await.unwrap();
    let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
    let mut downs = dial(&controller, VOTER).attach(queue).await.unwrap().into_inner();
    let covered = "origin\n7\n".to_owned();
    let own = pb::LedgerReport { key: vec![5; 32], rows: 8, covered, needed: 1, witnesses: 2, ..Default::default() };
    let faulty = pb::LedgerReport { fault: "row 3: the hash is another".into(), ..own.clone() };
    ups.send(pb::Up { item: Some(up::Item::LedgerReport(faulty)) }).await.unwrap();
    // What a node's own verification found is an alarm here, and what it found last counts.
    let (page, status) = shown(&controller, "faulty").await;
    assert_eq!(page["items"][0]["ledger_trouble"], "faulty", "{page}");
    assert_eq!(status["ledger_alarms"], json!([VOTER]));
    let node = VOTER.as_bytes().to_vec();
    let held = pb::HeldNote { node: node.clone(), size: 6, note: "six".into(), time_s: 60 };
    let (finding, was, is) = ("forked".to_owned(), "a".to_owned(), "b".to_owned());
    let alarm = pb::LedgerAlarm { node, finding, held: was, shown: is, time_s: 9 };
    let items = [
        up::Item::LedgerReport(own),
        up::Item::HeldNotes(pb::HeldNotes { notes: vec![held] }),
        up::Item::LedgerAlarm(alarm.clone()),
        up::Item::LedgerAlarm(alarm.clone()),
    ];
    for item in items {
        ups.send(pb::Up { item: Some(item) }).await.unwrap();
    }
    let bad = pb::LedgerAlarm { finding: "bored".into(), ..alarm };
    ups.send(pb::Up { item: Some(up::Item::LedgerAlarm(bad)) }).await.unwrap();
    let refused = loop {
        match tokio::time::timeout(LIMIT, downs.message()).await.unwrap() {
            Ok(message) => assert!(message.is_some()),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.metadata().get("osmoda-code").unwrap(), "bad_request");
    controller.stop().await;

    let controller = TestController::start(&voter, &database).await;
    controller.caught_up(&voter).await;
    let (_, page) = controller.call("GET", "/ledger", None).await;
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    let ledger = &page["items"][0];
    assert_eq!((&ledger["report"]["rows"], &ledger["report"]["covered"]), (&json!(8), &json!("origin\n7\n")));
    assert_eq!((&ledger["held"][0]["witness"], &ledger["held"][0]["size"]), (&json!(VOTER), &json!(6)));
    assert_eq!(ledger["alarms"].as_array().unwrap().len(), 1);
    assert_eq!(ledger["alarms"][0]["finding"], "forked");
    let (_, status) = controller.call("GET", "/status", None).await;
    assert_eq!(status["ledger_alarms"], json!([VOTER]));
    // One word alone proves nothing.
    let (page, _) = shown(&controller, "accused").await;
    assert_eq!(page["items"][0]["ledger_trouble"], "accused", "{page}");
    controller.stop().await;
}

/// The list of nodes and the status, once a node's ledger is shown so.
async fn shown(controller: &TestController, trouble: &str) -> (serde_json::Value, serde_json::Value) {
    let looked = async {
        loop {
            let (_, page) = controller.call("GET", "/nodes", None).await;
            if page["items"][0]["ledger_trouble"] == trouble {
                return (page, controller.call("GET", "/status", None).await.1);
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, looked).await.unwrap()
}
