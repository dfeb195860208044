//! The real daemon as a process of its own, with the tokens of all daemons, and
//! stand-ins for those it asks.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests: what surprised is what is wanted"
)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router};
use osmoda_kit::http::{CallerTable, Callers, Credentials, TokenFile, UnixClient, serve_unix};
use osmoda_kit::secret::Secret;
use osmoda_kit::tasks::Tasks;
use osmoda_kit::testing::TempRoot;
use osmoda_node_api::approval_files::store_trust;
use osmoda_node_api::callers::{EXECD, USERS};
use osmoda_permit::HostTrust;
use osmoda_permit::testing::approver;
use osmoda_types::{NetworkId, NodeId};
use serde_json::json;

/// How long anything may take before a test gives up.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A policy that stands in nobody's way.
const POLICY: &str = "write_roots = [\"/srv\"]\n[limits]\nsession_requests_per_minute = 1000000\n\
requests_per_day = 1000000\npending = 1000000\n";

pub struct Tokens(Vec<(&'static str, TokenFile)>);

impl Tokens {
    pub fn mint() -> Self {
        Self(TokenFile::mint(USERS))
    }

    pub fn of(&self, daemon: &str) -> TokenFile {
        self.0.iter().find(|(name, _)| *name == daemon).unwrap().1.clone()
    }

    pub fn credentials(&self, daemon: &str) -> Credentials {
        Credentials::token(Secret::new(self.of(daemon).own))
    }
}

/// Starts the daemon; `wrap` is a command line to start it through.
#[expect(clippy::disallowed_methods, reason = "kit's runner waits for the end; this child is to be killed")]
pub fn start(root: &TempRoot, tokens: &Tokens, wrap: &[&str]) -> Child {
    let test = std::env::current_exe().unwrap();
    let program: PathBuf = test.parent().unwrap().parent().unwrap().join("examples/agentd");
    assert!(program.exists(), "cargo builds examples with tests: {}", program.display());
    let mut words = wrap.to_vec();
    words.extend([program.to_str().unwrap(), "--token-fd", "0", "--root", root.path().to_str().unwrap()]);
    let mut child =
        Command::new(words[0]).args(&words[1..]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(&tokens.of("agentd")).unwrap()).unwrap();
    child
}

/// A client of the daemon, as another daemon or as the administrator.
pub fn client(root: &TempRoot, credentials: Credentials) -> UnixClient {
    UnixClient::new(root.paths().socket("agentd"), credentials).with_time_limit(LIMIT)
}

/// Puts another daemon's answers on its socket.
pub fn stand_in(
    root: &TempRoot,
    tokens: &Tokens,
    tasks: &Tasks,
    daemon: &'static str,
    table: CallerTable,
    router: Router,
) {
    let listener = tokio::net::UnixListener::bind(root.paths().socket(daemon)).unwrap();
    let peers = tokens.of(daemon).peers(USERS).unwrap();
    let callers = Callers::by_tokens(table, rustix::process::geteuid().as_raw(), peers);
    serve_unix(tasks, daemon, listener, router, Arc::new(callers));
}

/// Policy, trust and the executor's eyes: all that approvals need.
pub fn prepare_approvals(root: &TempRoot, tokens: &Tokens, tasks: &Tasks) {
    std::fs::write(root.paths().config("approvals"), POLICY).unwrap();
    std::fs::create_dir_all(root.paths().state("agentd")).unwrap();
    let trust = HostTrust {
        network_id: NetworkId::from_bytes([1; 32]),
        host_id: NodeId::from_bytes([2; 32]),
        operators: vec![approver("ada", 1)],
        serials: BTreeMap::new(),
    };
    store_trust(&root.paths().state("agentd"), &trust).unwrap();
    let router = Router::new().route("/exec/resolve", post(async || Json(json!({ "object": { "inode": 7 } }))));
    stand_in(root, tokens, tasks, "execd", EXECD, router);
}
