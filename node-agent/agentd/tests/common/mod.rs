//! A daemon's parts on a temporary socket, for tests of its endpoints.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests: the line that surprised is what is wanted"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode};
use osmoda_agentd::ledger::file::FILE_NAME;
use osmoda_agentd::ledger::{Ledger, LedgerThreads, WriterOptions};
use osmoda_kit::boot::Daemon;
use osmoda_kit::http::UnixClient;
use osmoda_kit::http::testing::TestServer;
use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_kit::tasks::Tasks;
use osmoda_kit::testing::FakeClock;
use osmoda_node_api::agentd::AgentdClient;
use serde_json::Value;

/// The longest any of these tests waits for a value.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A ledger in a folder of its own, and what is built on it.
pub struct Host {
    pub dir: tempfile::TempDir,
    pub ledger: Ledger,
    pub clock: Arc<FakeClock>,
    pub tasks: Tasks,
    threads: Option<LedgerThreads>,
}

impl Host {
    pub fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    /// Opens the ledger of a folder that may hold one.
    pub fn at(dir: tempfile::TempDir) -> Self {
        let clock = Arc::new(FakeClock::new());
        let (ledger, threads, _) =
            Ledger::open(&dir.path().join(FILE_NAME), WriterOptions::default(), clock.clone()).unwrap();
        Self { dir, ledger, clock, tasks: Tasks::new(Shutdown::new()), threads: Some(threads) }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join(FILE_NAME)
    }

    pub fn serve(&self, router: Router) -> TestServer {
        TestServer::with_table(router, osmoda_agentd::Agentd::callers())
    }

    /// Stops everything and gives the folder back.
    pub async fn close(mut self, server: TestServer) -> tempfile::TempDir {
        server.stop(LIMIT).await;
        self.tasks.shutdown().request(StopReason::Asked("end of test".to_owned()));
        let report = self.tasks.drain(LIMIT).await;
        assert!(report.is_graceful(), "{report:?}");
        self.threads.take().unwrap().close().unwrap();
        self.dir
    }
}

/// The administrator's client.
pub fn admin(server: &TestServer) -> AgentdClient {
    AgentdClient::new(server.client())
}

/// One exchange in plain JSON, as a client of the earlier product makes it.
pub async fn exchange(client: &UnixClient, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
    let body = body.map(|body| body.to_string().into());
    let (status, answer) = client.exchange(method, path, body).await.unwrap();
    (status, serde_json::from_slice(&answer).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&answer))))
}

/// The keys of an object, sorted.
pub fn keys(value: &Value) -> Vec<String> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    keys
}

/// Asserts that an object has at least these keys: fields may be added to the
/// earlier product's shapes, none may go.
#[track_caller]
pub fn has_keys(value: &Value, wanted: &[&str]) {
    let keys = keys(value);
    for key in wanted {
        assert!(keys.iter().any(|found| found == key), "no {key} in {value}");
    }
}
