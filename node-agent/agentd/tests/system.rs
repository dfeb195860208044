//! The host's facts over a real socket, with the earlier product's shapes.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

mod common;

use axum::http::Method;
use common::{Host, admin, exchange, has_keys};
use osmoda_agentd::system::{self, System};
use serde_json::json;

#[tokio::test]
async fn each_question_has_the_earlier_products_answer() {
    let host = Host::new();
    let server = host.serve(system::router(System::new(host.tasks.clone()).unwrap()));
    let client = server.client();
    let ask = async |body| exchange(&client, Method::POST, "/system/query", Some(body)).await;

    let (status, answer) = ask(json!({"query": "processes", "args": {"sort": "memory", "limit": 3}})).await;
    assert_eq!((status.as_u16(), &answer["query"]), (200, &json!("processes")));
    let rows = answer["result"].as_array().unwrap();
    assert!((1..=3).contains(&rows.len()), "{answer}");
    has_keys(&rows[0], &["pid", "name", "cpu_usage", "memory", "status", "start_time"]);
    let memory: Vec<_> = rows.iter().map(|row| row["memory"].as_u64().unwrap()).collect();
    assert!(memory.is_sorted_by(|a, b| a >= b), "{memory:?}");
    let (_, all) = ask(json!({"query": "processes", "args": {"limit": -1}})).await;
    assert!(all["result"].as_array().unwrap().iter().any(|row| row["pid"] == std::process::id()));

    let (_, disks) = ask(json!({"query": "disk"})).await;
    for disk in disks["result"].as_array().unwrap() {
        has_keys(disk, &["mount_point", "filesystem", "total", "used", "available"]);
    }
    assert!(ask(json!({"query": "hostname"})).await.1["result"].is_string());
    assert!(ask(json!({"query": "uptime"})).await.1["result"]["uptime_seconds"].as_u64().unwrap() > 0);
    let (status, unknown) = ask(json!({"query": "; reboot"})).await;
    assert_eq!(status.as_u16(), 200, "as the earlier product answered");
    assert!(unknown["result"]["error"].as_str().unwrap().contains("reboot"));
    assert_eq!(ask(json!({"args": {}})).await.0.as_u16(), 422);
    host.close(server).await;
}

#[tokio::test]
async fn a_port_that_listens_is_discovered_with_its_process() {
    let host = Host::new();
    let server = host.serve(system::router(System::new(host.tasks.clone()).unwrap()));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (status, raw) = exchange(&server.client(), Method::GET, "/system/discover", None).await;
    assert_eq!(status.as_u16(), 200);
    has_keys(&raw, &["found", "total_listening_ports", "total_systemd_services"]);
    let discovered = admin(&server).discover().await.unwrap();
    let found = discovered.found.iter().find(|found| found.port == Some(port)).unwrap();
    assert_eq!((found.pid, found.protocol.as_deref()), (Some(std::process::id()), Some("tcp")));
    assert!(found.memory_bytes.unwrap() > 0 && !found.name.is_empty());
    assert!(discovered.total_listening_ports >= 1);
    if !std::path::Path::new("/run/systemd/system").exists() {
        assert_eq!(discovered.total_systemd_services, 0);
        assert!(discovered.notes.iter().any(|note| note.contains("systemd")), "{:?}", discovered.notes);
    }
    host.close(server).await;
}
