//! A host with approvals over a real socket, for the tests beside.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use osmoda_agentd::approval::gate::HeadGate;
use osmoda_agentd::approval::{Answer, Approvals, Parts, Resolver};
use osmoda_agentd::ledger::file::{FILE_NAME, LedgerFile};
use osmoda_agentd::ledger::{Ledger, LedgerThreads, WriterOptions};
use osmoda_kit::boot::Daemon;
use osmoda_kit::clock::{Clock, Timestamp};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::Isolation;
use osmoda_kit::http::testing::TestServer;
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::Tasks;
use osmoda_kit::testing::FakeClock;
use osmoda_node_api::agentd::EventQuery;
use osmoda_node_api::approval::{ApprovalClient, AskedCall, PermitRequest, PermitView, RunBegin};
use osmoda_node_api::approval_files::store_trust;
use osmoda_permit::testing::{approver, sign};
use osmoda_permit::{Decision, HostTrust};
use osmoda_types::{ErrorCode, NetworkId, NodeId};
use serde_json::{Map, Value, json};

/// The executor's eyes: why they see nothing, and how often they looked; the same
/// object each time.
pub(crate) struct Eyes(pub(crate) Mutex<Option<ErrorCode>>, pub(crate) AtomicU32);

impl Resolver for Eyes {
    fn resolve<'a>(&'a self, call: &'a AskedCall) -> Answer<'a, Map<String, Value>> {
        Box::pin(async move {
            self.1.fetch_add(1, SeqCst);
            if let Some(code) = *self.0.lock().unwrap() {
                return Err(ApiError::new(code, "they see nothing"));
            }
            Ok(json!({ "of": call.tool, "inode": 7 }).as_object().unwrap().clone())
        })
    }
}

/// Witnesses that answer.
pub(crate) struct Witnesses;

impl HeadGate for Witnesses {
    fn ready(&self) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn witnessed(&self, _: u64) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// The clock of approvals. Who looks at it runs what was left there for it: a guard
/// looks at it in its transaction, on the writer's thread.
#[derive(Default)]
pub(crate) struct Looked {
    clock: FakeClock,
    then: Mutex<VecDeque<Box<dyn FnOnce() + Send>>>,
}

impl Looked {
    /// Leaves that for the look after those that have something left for them.
    pub(crate) fn leave(&self, then: impl FnOnce() + Send + 'static) {
        self.then.lock().unwrap().push_back(Box::new(then));
    }
}

impl std::fmt::Debug for Looked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.clock.fmt(f)
    }
}

impl Clock for Looked {
    fn now_wall(&self) -> Timestamp {
        let then = self.then.lock().unwrap().pop_front();
        if let Some(then) = then {
            then();
        }
        self.clock.now_wall()
    }

    fn now_boot(&self) -> Duration {
        self.clock.now_boot()
    }

    fn boot_id(&self) -> String {
        self.clock.boot_id()
    }
}

pub(crate) struct Host {
    pub(crate) server: TestServer,
    pub(crate) ledger: Ledger,
    pub(crate) threads: Option<LedgerThreads>,
    pub(crate) clock: FakeClock,
    pub(crate) looked: Arc<Looked>,
    pub(crate) eyes: Arc<Eyes>,
    pub(crate) approvals: Approvals,
    pub(crate) tasks: Tasks,
    pub(crate) dir: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::with(Arc::new(Witnesses), "write_roots = [\"/srv\"]\nbreak_glass = [\"root\"]\n")
    }

    pub(crate) fn with(gate: Arc<dyn HeadGate>, policy: &str) -> Self {
        Self::at(tempfile::tempdir().unwrap(), gate, policy, 2, Isolation::Users)
    }

    pub(crate) fn at(
        dir: tempfile::TempDir,
        gate: Arc<dyn HeadGate>,
        policy: &str,
        host: u8,
        isolation: Isolation,
    ) -> Self {
        let path = dir.path().join(FILE_NAME);
        let looked = Arc::new(Looked::default());
        let clock = looked.clock.clone();
        let (ledger, threads, _) = Ledger::open(&path, WriterOptions::default(), Arc::new(clock.clone())).unwrap();
        std::fs::write(dir.path().join("approvals.toml"), policy).unwrap();
        let trust = HostTrust {
            network_id: NetworkId::from_bytes([1; 32]),
            host_id: NodeId::from_bytes([host; 32]),
            operators: vec![approver("ada", 1), approver("bob", 2), approver("root", 3)],
            serials: BTreeMap::new(),
        };
        store_trust(dir.path(), &trust).unwrap();
        let eyes = Arc::new(Eyes(Mutex::default(), AtomicU32::new(0)));
        let tasks = Tasks::new(Shutdown::new());
        let approvals = Approvals::new(Parts {
            ledger: ledger.clone(),
            clock: looked.clone(),
            tasks: tasks.clone(),
            state_dir: dir.path().to_owned(),
            policy: dir.path().join("approvals.toml"),
            resolver: eyes.clone(),
            gate,
            isolation,
        });
        let table = osmoda_agentd::Agentd::callers();
        let table = osmoda_kit::http::CallerTable { daemons: DAEMONS, ..table };
        let server = TestServer::with_table(approvals.clone().router(), table);
        Self { server, ledger, threads: Some(threads), clock, looked, eyes, approvals, tasks, dir }
    }

    pub(crate) fn admin(&self) -> ApprovalClient {
        ApprovalClient::new(self.server.client())
    }

    pub(crate) fn execd(&self) -> ApprovalClient {
        ApprovalClient::new(self.server.client_as("execd"))
    }

    pub(crate) async fn ask(&self, path: &str) -> Result<PermitView, ApiError> {
        self.admin().request(&request(path, "s-1")).await
    }

    pub(crate) async fn approved(&self, path: &str) -> PermitView {
        let view = self.ask(path).await.unwrap();
        let permit = &view.signed.permit;
        self.admin().sign(&permit.id, &sign(1, permit, Decision::Approve)).await.unwrap()
    }

    /// The executor looks, and fails with that from now on.
    pub(crate) fn blind(&self, code: Option<ErrorCode>) {
        *self.eyes.0.lock().unwrap() = code;
    }

    pub(crate) fn kinds(&self) -> Vec<String> {
        let file = LedgerFile::open(&self.dir.path().join(FILE_NAME)).unwrap();
        let query = EventQuery { limit: -1, ..EventQuery::default() };
        file.events(&query).unwrap().events.into_iter().rev().map(|event| event.kind).collect()
    }

    pub(crate) async fn close(mut self) -> tempfile::TempDir {
        self.server.stop(Duration::from_secs(10)).await;
        self.threads.take().unwrap().close().unwrap();
        self.dir
    }
}

pub(crate) const DAEMONS: &[osmoda_kit::http::DaemonUser] = &[
    osmoda_kit::http::DaemonUser { name: "agentd", user: "osmoda-agentd" },
    osmoda_kit::http::DaemonUser { name: "execd", user: "root" },
    osmoda_kit::http::DaemonUser { name: "fleetd", user: "osmoda-fleetd" },
    osmoda_kit::http::DaemonUser { name: "watch", user: "root" },
];

pub(crate) fn write(path: &str) -> AskedCall {
    AskedCall { tool: "file.write".into(), args: json!({ "path": path, "content": "new\n" }) }
}

pub(crate) fn request(path: &str, session: &str) -> PermitRequest {
    PermitRequest { call: write(path), session_id: session.into(), reason: "because".into(), ttl_secs: None }
}

pub(crate) fn begin(view: &PermitView, position: u32) -> RunBegin {
    let call = view.calls[position as usize].clone();
    RunBegin { call, permit: Some(view.signed.permit.id), position }
}

/// Begins a run; where the reader's queue is full, again.
pub(crate) async fn patiently(execd: &ApprovalClient, run: &RunBegin) -> Result<(), ErrorCode> {
    loop {
        match execd.begin(run).await {
            Err(error) if error.code == ErrorCode::Busy => {}
            other => return other.map(|_| ()).map_err(|error| error.code),
        }
    }
}

pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, ApiError>) -> ErrorCode {
    result.unwrap_err().code
}
