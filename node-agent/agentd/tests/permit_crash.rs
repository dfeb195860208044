//! The real daemon, killed with SIGKILL while permits are asked for, signed and
//! consumed, each by two clients at once: no permit is consumed twice, and every
//! consumption that was acknowledged is in the ledger.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router};
use osmoda_agentd::ledger::file::{FILE_NAME, FileError, LedgerFile};
use osmoda_kit::http::{Callers, Credentials, TokenFile, UnixClient, serve_unix};
use osmoda_kit::secret::Secret;
use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_kit::tasks::Tasks;
use osmoda_kit::testing::{TempRoot, wait_for};
use osmoda_node_api::approval::{ApprovalClient, AskedCall, PermitRequest, PermitView, RunBegin};
use osmoda_node_api::approval_files::store_trust;
use osmoda_node_api::callers::{EXECD, USERS};
use osmoda_permit::testing::{approver, sign};
use osmoda_permit::{Decision, HostTrust};
use osmoda_types::{ErrorCode, NetworkId, NodeId};
use serde_json::{Value, json};

/// Kills in CI; `OSMODA_KILLS` asks for more.
const KILLS: usize = 15;

/// Permits in flight at the same time.
const CLIENTS: usize = 8;

/// How long anything may take before the test gives up.
const LIMIT: Duration = Duration::from_secs(30);

const POLICY: &str = "write_roots = [\"/srv\"]\n[limits]\nsession_requests_per_minute = 1000000\n\
requests_per_day = 1000000\npending = 1000000\n";

struct Tokens(Vec<(&'static str, TokenFile)>);

impl Tokens {
    fn of(&self, daemon: &str) -> TokenFile {
        self.0.iter().find(|(name, _)| *name == daemon).unwrap().1.clone()
    }
}

#[expect(clippy::disallowed_methods, reason = "kit's runner waits for the end; this child is to be killed")]
fn start(root: &TempRoot, tokens: &Tokens) -> Child {
    let test = std::env::current_exe().unwrap();
    let program: PathBuf = test.parent().unwrap().parent().unwrap().join("examples/agentd");
    let args = ["--token-fd", "0", "--root", root.path().to_str().unwrap()];
    let mut child = Command::new(program).args(args).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(&tokens.of("agentd")).unwrap()).unwrap();
    child
}

/// The executor's eyes, on its socket.
fn serve_eyes(root: &TempRoot, tokens: &Tokens) -> Tasks {
    let tasks = Tasks::new(Shutdown::new());
    let listener = tokio::net::UnixListener::bind(root.paths().socket("execd")).unwrap();
    let router = Router::new().route("/exec/resolve", post(async || Json(json!({ "object": { "inode": 7 } }))));
    let peers = tokens.of("execd").peers(USERS).unwrap();
    let callers = Callers::by_tokens(EXECD, rustix::process::geteuid().as_raw(), peers);
    serve_unix(&tasks, "execd", listener, router, Arc::new(callers));
    tasks
}

/// What became of one permit.
struct Tried {
    view: PermitView,
    acknowledged: Vec<u64>,
}

#[derive(Clone)]
struct Clients {
    admin: ApprovalClient,
    execd: ApprovalClient,
}

impl Clients {
    /// Asks, signs, and tries to consume twice at once, until the daemon is gone.
    async fn work(&self, name: String, consumed: Arc<AtomicUsize>) -> Vec<Tried> {
        let mut tried = Vec::new();
        loop {
            let n = tried.len();
            let args = json!({ "path": format!("/srv/{name}/{n}"), "content": "x" });
            let call = AskedCall { tool: "file.write".into(), args };
            let request = PermitRequest { call, session_id: "s".into(), reason: String::new(), ttl_secs: None };
            let Ok(view) = self.admin.request(&request).await else { return tried };
            let permit = view.signed.permit.clone();
            let signed = self.admin.sign(&permit.id, &sign(1, &permit, Decision::Approve)).await;
            let acknowledged = if signed.is_ok() { self.consume(&view).await } else { Vec::new() };
            consumed.fetch_add(acknowledged.len(), SeqCst);
            tried.push(Tried { view, acknowledged });
            if signed.is_err() {
                return tried;
            }
        }
    }

    async fn consume(&self, view: &PermitView) -> Vec<u64> {
        let begin = RunBegin { call: view.calls[0].clone(), permit: Some(view.signed.permit.id), position: 0 };
        let (one, two) = tokio::join!(self.execd.begin(&begin), self.execd.begin(&begin));
        [one, two].into_iter().flatten().map(|begun| begun.run).collect()
    }

    /// After a restart: whatever was in flight is tried again.
    async fn again(&self, tried: &mut Tried) {
        let permit = tried.view.signed.permit.clone();
        match self.admin.sign(&permit.id, &sign(1, &permit, Decision::Approve)).await {
            Ok(_) => {}
            // It was consumed, or its request never became durable.
            Err(error) => assert!(
                matches!(error.code, ErrorCode::Conflict | ErrorCode::ApprovalSpent | ErrorCode::NotFound),
                "{error}"
            ),
        }
        tried.acknowledged.extend(self.consume(&tried.view).await);
    }
}

/// Intents per permit, as the ledger has them.
fn intents(root: &TempRoot) -> BTreeMap<String, Vec<u64>> {
    let file = LedgerFile::open(&root.paths().state("agentd").join(FILE_NAME)).unwrap();
    let report = file.verify(|fault| panic!("{fault}")).unwrap();
    assert_eq!(report.verified, report.total);
    let mut intents: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    file.for_each(|event| {
        if event.kind == "exec.run.intent" {
            let payload: Value = serde_json::from_str(&event.payload).unwrap();
            let permit = payload["permit"].as_str().unwrap().to_owned();
            intents.entry(permit).or_default().push(event.id.unsigned_abs());
        }
        Ok::<_, FileError>(())
    })
    .unwrap();
    intents
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p04_no_permit_is_consumed_twice_whatever_is_killed() {
    let kills = std::env::var("OSMODA_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let root = TempRoot::new();
    let tokens = Tokens(TokenFile::mint(USERS));
    std::fs::write(root.paths().config("approvals"), POLICY).unwrap();
    std::fs::create_dir_all(root.paths().state("agentd")).unwrap();
    let trust = HostTrust {
        network_id: NetworkId::from_bytes([1; 32]),
        host_id: NodeId::from_bytes([2; 32]),
        operators: vec![approver("ada", 1)],
        serials: BTreeMap::new(),
    };
    store_trust(&root.paths().state("agentd"), &trust).unwrap();
    let eyes = serve_eyes(&root, &tokens);
    let socket = root.paths().socket("agentd");
    let client = |credentials| ApprovalClient::new(UnixClient::new(socket.clone(), credentials).with_time_limit(LIMIT));
    let clients = Clients {
        admin: client(Credentials::none()),
        execd: client(Credentials::token(Secret::new(tokens.of("execd").own))),
    };
    let mut all: Vec<Tried> = Vec::new();
    for kill in 0..=kills {
        let mut child = start(&root, &tokens);
        wait_for("the daemon", LIMIT, || async { clients.admin.list().await.ok() }).await;
        for tried in all.iter_mut().rev().take(2 * CLIENTS) {
            clients.again(tried).await;
        }
        let consumed = Arc::new(AtomicUsize::new(0));
        let work = (0..CLIENTS).map(|n| clients.work(format!("{kill}-{n}"), Arc::clone(&consumed)));
        let work = futures_util::future::join_all(work);
        let killed = async {
            let wanted = [0, 1, 3, 9, 20][kill % 5];
            wait_for("consumptions", LIMIT, || async { (consumed.load(SeqCst) >= wanted).then_some(()) }).await;
            child.kill().unwrap();
            child.wait().unwrap();
        };
        let (done, ()) = tokio::join!(work, killed);
        all.extend(done.into_iter().flatten());
    }
    let intents = intents(&root);
    let mut used = 0;
    for tried in &all {
        let id = tried.view.signed.permit.id.to_string();
        let rows = intents.get(&id).cloned().unwrap_or_default();
        assert!(rows.len() <= 1, "{id} was consumed {} times", rows.len());
        assert!(tried.acknowledged.len() <= 1, "{id} was acknowledged twice");
        assert!(tried.acknowledged.iter().all(|run| rows.contains(run)), "{id}: an acknowledged run is lost");
        used += rows.len();
    }
    assert!(used > kills, "only {used} permits were consumed");
    eyes.shutdown().request(StopReason::Asked("end of test".into()));
    eyes.drain(LIMIT).await;
}
