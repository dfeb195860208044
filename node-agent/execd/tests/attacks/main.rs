//! The executor against the real approvals: what runs, and the attacks of
//! `trust.md` 3.6 on what happens between the signature and the act.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

mod objects;
mod refusals;
mod runs;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router};
use osmoda_agentd::api::Api;
use osmoda_agentd::approval::gate::HeadGate;
use osmoda_agentd::approval::{Answer, Approvals, Resolver};
use osmoda_agentd::ledger::file::{FILE_NAME, LedgerFile};
use osmoda_agentd::ledger::{Ledger, LedgerThreads, WriterOptions};
use osmoda_execd::hands::{ActError, Answer as HandsAnswer, Hands, Restore, Systemctl};
use osmoda_execd::{Executor, Parts};
use osmoda_kit::audit::Audit;
use osmoda_kit::boot::Daemon;
use osmoda_kit::clock::Clock as _;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::testing::TestServer;
use osmoda_kit::http::{Isolation, UnixClient};
use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_kit::testing::{FakeClock, wait_for};
use osmoda_node_api::agentd::{Event, EventQuery};
use osmoda_node_api::approval::{ApprovalClient, AskedCall, PermitRequest, PermitView, RunBegin, RunBegun};
use osmoda_node_api::approval_files::store_trust;
use osmoda_node_api::execd::RunRequest;
use osmoda_permit::testing::{self, approver, sign};
use osmoda_permit::{Call, Decision, EffectClass, HostTrust, Moment, Operation, Permit, SignedPermit, State};
use osmoda_types::{ErrorCode, NetworkId, NodeId};
use serde_json::{Map, Value, json};
use tokio::sync::{Semaphore, watch};

const POLICY: &str =
    "write_roots = [\"/srv\"]\n[limits]\nsession_requests_per_minute = 10000\nrequests_per_day = 10000\n";

/// Witnesses that answer.
struct Witnesses;

impl HeadGate for Witnesses {
    fn ready(&self) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn witnessed(&self, _: u64) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// agentd sees with the executor's eyes, as on a host.
struct Eyes(Hands);

impl Resolver for Eyes {
    fn resolve<'a>(&'a self, call: &'a AskedCall) -> Answer<'a, Map<String, Value>> {
        Box::pin(async move {
            let tool = osmoda_permit::Tool::of(&call.tool).unwrap();
            self.0.look(&tool.parse(call.args.as_object().unwrap()).unwrap()).await
        })
    }
}

struct Host {
    dir: tempfile::TempDir,
    server: TestServer,
    threads: Option<LedgerThreads>,
    clock: Arc<FakeClock>,
    parts: Parts,
    executor: Executor,
}

impl Host {
    fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    fn at(dir: tempfile::TempDir) -> Self {
        Self::with(dir, Arc::new(Witnesses))
    }

    fn with(dir: tempfile::TempDir, gate: Arc<dyn HeadGate>) -> Self {
        let root = dir.path().join("root");
        for folder in ["srv/www", "etc/cron.d", "etc/osmoda", "bin"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        let clock = Arc::new(FakeClock::new());
        let tasks = Tasks::new(Shutdown::new());
        let policy = dir.path().join("approvals.toml");
        std::fs::write(&policy, POLICY).unwrap();
        let state = |daemon: &str| {
            let state = dir.path().join(daemon);
            std::fs::create_dir_all(&state).unwrap();
            let trust = HostTrust {
                network_id: NetworkId::from_bytes([1; 32]),
                host_id: NodeId::from_bytes([2; 32]),
                operators: vec![approver("ada", 1), approver("bob", 2)],
                serials: BTreeMap::new(),
            };
            store_trust(&state, &trust).unwrap();
            state
        };
        let hands = Hands {
            undo_dir: dir.path().join("undo"),
            systemctl: Some(Systemctl::at(systemctl(&root))),
            restore: None,
            tasks: tasks.clone(),
            root,
        };
        let agentd = state("agentd");
        let path = agentd.join(FILE_NAME);
        let (ledger, threads, _) = Ledger::open(&path, WriterOptions::default(), clock.clone()).unwrap();
        let approvals = Approvals::new(osmoda_agentd::approval::Parts {
            ledger: ledger.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            state_dir: agentd,
            policy: policy.clone(),
            resolver: Arc::new(Eyes(hands.clone())),
            gate,
            isolation: Isolation::Users,
        });
        let api = Api::new(ledger, tasks.clone()).unwrap();
        let router = api.router().merge(approvals.router());
        let server = TestServer::with_table(router, osmoda_agentd::Agentd::callers());
        let parts = Parts {
            state_dir: state("execd"),
            policy,
            clock: clock.clone(),
            tasks,
            approvals: ApprovalClient::new(server.client_as("execd")),
            audit: Audit::new(server.client_as("execd")),
            hands,
            isolation: Isolation::Users,
        };
        let executor = Executor::open(parts.clone()).unwrap();
        Self { dir, server, threads: Some(threads), clock, parts, executor }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn admin(&self) -> ApprovalClient {
        ApprovalClient::new(self.server.client())
    }

    async fn ask(&self, tool: &str, args: Value) -> Result<PermitView, ApiError> {
        let call = AskedCall { tool: tool.into(), args };
        let request = PermitRequest { call, session_id: "s-1".into(), reason: String::new(), ttl_secs: None };
        self.admin().request(&request).await
    }

    async fn approved(&self, tool: &str, args: Value) -> PermitView {
        let view = self.ask(tool, args).await.unwrap();
        let permit = &view.signed.permit;
        self.admin().sign(&permit.id, &sign(1, permit, Decision::Approve)).await.unwrap()
    }

    async fn run(&self, view: &PermitView) -> Result<String, ErrorCode> {
        code(self.executor.run(request(view)).await.map(|answer| answer.detail))
    }

    fn events(&self) -> Vec<Event> {
        let file = LedgerFile::open(&self.dir.path().join("agentd").join(FILE_NAME)).unwrap();
        let mut events = file.events(&EventQuery { limit: -1, ..EventQuery::default() }).unwrap().events;
        events.reverse();
        events
    }

    /// How many refusals each of their rows tells of.
    fn refusals(&self) -> Vec<u64> {
        let events = self.events();
        let refused = events.iter().filter(|event| event.kind == "exec.refused");
        refused.map(|event| serde_json::from_str::<Value>(&event.payload).unwrap()["count"].as_u64().unwrap()).collect()
    }

    fn last_outcome(&self) -> String {
        let events = self.events();
        let last = events.iter().rev().find(|event| event.kind == "exec.run.outcome").unwrap();
        serde_json::from_str::<Value>(&last.payload).unwrap()["outcome"].as_str().unwrap().to_owned()
    }

    async fn close(mut self) -> tempfile::TempDir {
        self.server.stop(Duration::from_secs(10)).await;
        self.threads.take().unwrap().close().unwrap();
        self.dir
    }
}

fn code<T>(result: Result<T, ApiError>) -> Result<T, ErrorCode> {
    result.map_err(|error| error.code)
}

fn request(view: &PermitView) -> RunRequest {
    RunRequest { call: view.calls[0].clone(), permit: Some(view.signed.clone()), position: 0 }
}

fn write(path: &str) -> Value {
    json!({ "path": path, "content": "new\n" })
}

/// A small systemd: one unit whose file is in the root, and a note of each restart.
fn systemctl(root: &Path) -> PathBuf {
    let unit = root.join("etc/app.service");
    std::fs::write(&unit, "[Service]\nExecStart=/bin/app\n").unwrap();
    let program = root.join("bin/systemctl");
    let text = format!(
        "#!/bin/sh\nfor id; do :; done\n[ \"$id\" = alias.service ] && id=app.service\n\
         active=active; type=simple\ncase \"$id\" in off*) active=inactive;; once*) type=oneshot;; esac\ncase \"$1\" in\n\
         show) echo \"Id=$id\"; echo LoadState=loaded; echo ActiveState=$active; echo Type=$type; echo FragmentPath={unit}; echo DropInPaths=; echo NeedDaemonReload=no;;\n\
         *restart) echo \"$*\" >> {root}/restarts; /usr/bin/env >> {root}/environment;;\nesac\n",
        unit = unit.display(),
        root = root.display(),
    );
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// A look that waits until it is let go, and counts itself.
struct Slow {
    begun: watch::Sender<usize>,
    go: Arc<Semaphore>,
}

impl Restore for Slow {
    fn look<'a>(&'a self, _: &'a str) -> HandsAnswer<'a, Map<String, Value>> {
        Box::pin(async move {
            self.begun.send_modify(|begun| *begun += 1);
            self.go.acquire().await.unwrap().forget();
            Ok(Map::new())
        })
    }

    fn restore<'a>(&'a self, _: &'a str, _: &'a Map<String, Value>) -> HandsAnswer<'a, String, ActError> {
        Box::pin(async { Ok(String::new()) })
    }
}
