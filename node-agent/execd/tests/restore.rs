//! `backup.restore` with the real agentd and the real executor on their sockets:
//! made, changed, refused, allowed, cut off, tampered with.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse as _;
use osmoda_agentd::api::Api;
use osmoda_agentd::approval::gate::HeadGate;
use osmoda_agentd::approval::{Answer, Approvals};
use osmoda_agentd::backup::{self, BackupSettings, Backups, Restoring};
use osmoda_agentd::ledger::file::{FILE_NAME, LedgerFile};
use osmoda_agentd::ledger::{Ledger, LedgerThreads, WriterOptions};
use osmoda_backup::{Archive, Source};
use osmoda_execd::hands::{self, Hands, NodeBackups, NodeBackupsParts, Units};
use osmoda_execd::{Executor, Parts};
use osmoda_kit::audit::Audit;
use osmoda_kit::boot::Daemon;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::testing::TestServer;
use osmoda_kit::http::{Isolation, UnixClient};
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::Tasks;
use osmoda_kit::testing::FakeClock;
use osmoda_node_api::agentd::{AgentdClient, EventQuery};
use osmoda_node_api::agentd_backup::Backup;
use osmoda_node_api::approval::{ApprovalClient, AskedCall, PermitRequest, PermitView, RunBegin};
use osmoda_node_api::approval_files::store_trust;
use osmoda_node_api::execd::{ExecdClient, RunRequest};
use osmoda_permit::testing::{approver, sign};
use osmoda_permit::{Decision, HostTrust};
use osmoda_types::{ErrorCode, NetworkId, NodeId};
use serde_json::{Value, json};

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

/// A service manager that only remembers what it was told.
#[derive(Default)]
struct Notes {
    said: Mutex<Vec<String>>,
    refuses: Mutex<Option<&'static str>>,
}

impl Notes {
    fn say(&self, verb: &'static str, units: &[String]) -> Result<(), ApiError> {
        self.said.lock().unwrap().push(format!("{verb} {}", units.join(" ")));
        let refused = *self.refuses.lock().unwrap() == Some(verb);
        if refused { Err(ApiError::new(ErrorCode::Internal, "not now")) } else { Ok(()) }
    }

    fn said(&self) -> Vec<String> {
        std::mem::take(&mut *self.said.lock().unwrap())
    }
}

impl Units for Notes {
    fn running(&self) -> hands::Answer<'_, Vec<String>> {
        Box::pin(async { Ok(vec!["osmoda-watch.service".to_owned()]) })
    }

    fn stop<'a>(&'a self, units: &'a [String]) -> hands::Answer<'a, ()> {
        Box::pin(async move { self.say("stop", units) })
    }

    fn start<'a>(&'a self, units: &'a [String]) -> hands::Answer<'a, ()> {
        Box::pin(async move { self.say("start", units) })
    }
}

struct Host {
    dir: tempfile::TempDir,
    agentd: TestServer,
    execd: TestServer,
    threads: Option<LedgerThreads>,
    units: Arc<Notes>,
    backups: NodeBackups,
    parts: Parts,
    /// Why the ledger tells nothing of its rows, if it does not.
    silent: Arc<Mutex<Option<ErrorCode>>>,
    _wire: tempfile::TempDir,
}

/// A link to the socket of a server that is made later.
fn wire(of: &tempfile::TempDir) -> PathBuf {
    of.path().join("wire.sock")
}

/// Both daemons believe ada.
fn believe(dir: &tempfile::TempDir) {
    let trust = HostTrust {
        network_id: NetworkId::from_bytes([1; 32]),
        host_id: NodeId::from_bytes([2; 32]),
        operators: vec![approver("ada", 1)],
        serials: BTreeMap::new(),
    };
    for daemon in ["agentd", "execd"] {
        store_trust(&dir.path().join(daemon), &trust).unwrap();
    }
}

/// agentd, with a ledger that tells nothing of its rows while there is a reason.
fn silenced(router: Router, why: Arc<Mutex<Option<ErrorCode>>>) -> Router {
    router.layer(from_fn(move |request: Request, next: Next| {
        let refused = why.lock().unwrap().filter(|_| request.uri().path() == "/events/log");
        async move {
            match refused {
                Some(code) => ApiError::new(code, "not now").into_response(),
                None => next.run(request).await,
            }
        }
    }))
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for daemon in ["agentd", "execd", "watch", "mesh", "root"] {
            std::fs::create_dir_all(dir.path().join(daemon)).unwrap();
        }
        believe(&dir);
        let (clock, tasks) = (Arc::new(FakeClock::new()), Tasks::new(Shutdown::new()));
        let wires = tempfile::tempdir().unwrap();
        let (ledger, threads, _) =
            Ledger::open(&dir.path().join("agentd").join(FILE_NAME), WriterOptions::default(), clock.clone()).unwrap();
        let policy = dir.path().join("approvals.toml");
        let call_execd = ExecdClient::new(UnixClient::new(wire(&wires), osmoda_kit::http::Credentials::none()));
        let approvals = Approvals::new(osmoda_agentd::approval::Parts {
            ledger: ledger.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            state_dir: dir.path().join("agentd"),
            policy: policy.clone(),
            resolver: Arc::new(call_execd.clone()),
            gate: Arc::new(Witnesses),
            isolation: Isolation::Users,
        });
        let units = Arc::new(Notes::default());
        let agentd_client = |daemon: &TestServer| daemon.client_as("execd");
        let settings = BackupSettings { maker: Arc::new(call_execd.clone()), every: None, isolation: Isolation::Users };
        let planned = Backups::new(settings, ledger.clone(), clock.clone(), tasks.clone());
        let restoring = Restoring { backups: planned, approvals: approvals.clone(), executor: call_execd };
        let api = Api::new(ledger, tasks.clone()).unwrap();
        let router = api.router().merge(approvals.router()).merge(backup::router(restoring));
        let silent = Arc::<Mutex<Option<ErrorCode>>>::default();
        let router = silenced(router, silent.clone());
        let agentd = TestServer::with_table(router, osmoda_agentd::Agentd::callers());
        let source = |name: &str| Source { name: name.to_owned(), folder: dir.path().join(name) };
        let backups = NodeBackups::new(NodeBackupsParts {
            archive: Archive::new(dir.path().join("execd/backups"), 7),
            sources: ["agentd", "execd", "mesh", "watch"].map(source).to_vec(),
            state_dir: dir.path().join("execd"),
            units: units.clone(),
            ledger: AgentdClient::new(agentd_client(&agentd)),
            clock: clock.clone(),
            tasks: tasks.clone(),
        });
        let parts = Parts {
            state_dir: dir.path().join("execd"),
            policy,
            clock,
            tasks: tasks.clone(),
            approvals: ApprovalClient::new(agentd_client(&agentd)),
            audit: Audit::new(agentd_client(&agentd)),
            hands: Hands {
                root: dir.path().join("root"),
                undo_dir: dir.path().join("execd/undo"),
                systemctl: None,
                restore: Some(Arc::new(backups.clone())),
                tasks,
            },
            isolation: Isolation::Users,
        };
        let executor = Executor::open(parts.clone()).unwrap();
        let execd = TestServer::open(executor.router().merge(osmoda_execd::backups(backups.clone())));
        std::os::unix::fs::symlink(execd.client().socket(), wire(&wires)).unwrap();
        let host = Self { dir, agentd, execd, threads: Some(threads), units, backups, parts, silent, _wire: wires };
        host.write("old");
        host
    }

    /// The state of two daemons, in files that are no histories.
    fn write(&self, text: &str) {
        for name in ["watch/watchers.json", "mesh/notes.json"] {
            std::fs::write(self.dir.path().join(name), text).unwrap();
        }
        std::fs::write(self.dir.path().join("mesh/mesh.key"), format!("canary of the key, {text}")).unwrap();
    }

    fn state(&self) -> [String; 3] {
        ["watch/watchers.json", "mesh/notes.json", "mesh/mesh.key"]
            .map(|name| std::fs::read_to_string(self.dir.path().join(name)).unwrap())
    }

    fn admin(&self) -> AgentdClient {
        AgentdClient::new(self.agentd.client())
    }

    async fn ask(&self, id: &str) -> Result<PermitView, ApiError> {
        let call = AskedCall { tool: "backup.restore".into(), args: json!({ "backup_id": id }) };
        let request = PermitRequest { call, session_id: "s-1".into(), reason: String::new(), ttl_secs: None };
        ApprovalClient::new(self.agentd.client()).request(&request).await
    }

    async fn permit(&self, id: &str) -> PermitView {
        let view = self.ask(id).await.unwrap();
        let approvals = ApprovalClient::new(self.agentd.client());
        approvals.sign(&view.signed.permit.id, &sign(1, &view.signed.permit, Decision::Approve)).await.unwrap()
    }

    async fn restore(&self, id: &str) -> Result<String, ErrorCode> {
        self.admin().restore_backup(id).await.map(|answer| answer.status).map_err(|error| error.code)
    }

    async fn made(&self) -> Backup {
        self.admin().create_backup().await.unwrap()
    }

    fn outcomes(&self) -> Vec<String> {
        let file = LedgerFile::open(&self.dir.path().join("agentd").join(FILE_NAME)).unwrap();
        let query = EventQuery { kind: Some("exec.run.outcome".into()), limit: -1, ..EventQuery::default() };
        let text =
            |payload: &str| serde_json::from_str::<Value>(payload).unwrap()["outcome"].as_str().unwrap().to_owned();
        file.events(&query).unwrap().events.iter().rev().map(|event| text(&event.payload)).collect()
    }

    async fn close(mut self) {
        self.agentd.stop(Duration::from_secs(10)).await;
        self.execd.stop(Duration::from_secs(10)).await;
        self.threads.take().unwrap().close().unwrap();
    }
}

fn canaries(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let in_one = |path: PathBuf| {
        if path.is_dir() {
            canaries(&path)
        } else {
            usize::from(String::from_utf8_lossy(&std::fs::read(path).unwrap()).contains("canary"))
        }
    };
    entries.map(in_one).sum()
}

#[tokio::test]
async fn a_backup_is_put_back_with_a_permit_and_not_without_one() {
    let host = Host::new();
    let made = host.made().await;
    assert_eq!(canaries(std::path::Path::new(&made.path)), 0, "no key is in a backup");
    host.write("new");
    assert_eq!(host.restore(&made.backup_id).await, Err(ErrorCode::ApprovalRequired));
    assert_eq!(host.state(), ["new", "new", "canary of the key, new"]);
    let permit = host.permit(&made.backup_id).await;
    assert!(host.restore("backup-19990101-000000").await.is_err(), "a permit is for one backup");
    assert_eq!(host.restore(&made.backup_id).await.as_deref(), Ok("restored"));
    assert_eq!(host.state(), ["old", "old", "canary of the key, new"]);
    assert_eq!(host.units.said(), ["stop osmoda-watch.service", "start osmoda-watch.service"]);
    assert_eq!(host.outcomes(), ["done"]);
    host.write("newer");
    assert_eq!(host.restore(&made.backup_id).await, Err(ErrorCode::ApprovalRequired), "a permit is used once");
    let spent = RunRequest { call: permit.calls[0].clone(), permit: Some(permit.signed), position: 0 };
    let again = ExecdClient::new(host.execd.client()).run(&spent).await.unwrap_err();
    assert_eq!(again.code, ErrorCode::ApprovalSpent);
    host.close().await;
}

#[tokio::test]
async fn a_backup_that_was_tampered_with_is_refused_whole() {
    let host = Host::new();
    let made = host.made().await;
    host.permit(&made.backup_id).await;
    host.write("new");
    let folder = std::path::Path::new(&made.path);
    // A file, after its permit: its list is the same, so only the content tells.
    std::fs::write(folder.join("files/watch/watchers.json"), "bad").unwrap();
    assert_eq!(host.restore(&made.backup_id).await, Err(ErrorCode::Conflict));
    assert_eq!(
        (host.state(), host.units.said()),
        (["new", "new", "canary of the key, new"].map(str::to_owned), vec![])
    );
    assert_eq!(host.outcomes(), ["refused"]);
    // File and list together: the ledger has the hash of another list.
    let list = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    std::fs::write(folder.join("manifest.json"), list + "\n").unwrap();
    assert_eq!(host.restore(&made.backup_id).await, Err(ErrorCode::Conflict));
    let call = AskedCall { tool: "backup.restore".into(), args: json!({ "backup_id": made.backup_id }) };
    let look = ExecdClient::new(host.execd.client()).resolve(&call).await.unwrap_err();
    assert_eq!(look.code, ErrorCode::Conflict, "the executor looks by itself");
    assert_eq!(host.state()[0], "new");
    host.close().await;
}

/// Root has read the backup's list by the time the ledger is asked: that is a look.
#[tokio::test]
async fn looks_that_a_ledger_without_time_cut_short_count_against_their_session() {
    let host = Host::new();
    let made = host.made().await;
    for code in [ErrorCode::Busy, ErrorCode::DaemonUnavailable] {
        *host.silent.lock().unwrap() = Some(code);
        for n in 1..=5 {
            let refused = host.ask(&made.backup_id).await.map(|view| view.state).unwrap_err();
            assert_eq!(refused.code, ErrorCode::LedgerUnavailable, "{code}, the {n}th");
        }
    }
    *host.silent.lock().unwrap() = None;
    let refused = host.ask(&made.backup_id).await.map(|view| view.state).unwrap_err();
    assert_eq!(refused.code, ErrorCode::QuotaExceeded, "the eleventh in a minute");
    host.close().await;
}

#[tokio::test]
async fn daemons_that_do_not_stop_keep_their_state_and_those_that_did_run_again() {
    let host = Host::new();
    let made = host.made().await;
    host.permit(&made.backup_id).await;
    host.write("new");
    *host.units.refuses.lock().unwrap() = Some("stop");
    assert!(host.restore(&made.backup_id).await.is_err());
    assert_eq!((host.state()[0].as_str(), host.outcomes()), ("new", vec!["refused".to_owned()]));
    assert_eq!(host.units.said(), ["stop osmoda-watch.service", "start osmoda-watch.service"]);
    host.close().await;
}

/// The executor dies after the daemons were stopped and the permit was used.
#[tokio::test]
async fn a_restoration_cut_off_is_an_unknown_outcome_and_the_node_runs_again() {
    let host = Host::new();
    let made = host.made().await;
    let permit = host.permit(&made.backup_id).await;
    host.write("new");
    let begin = RunBegin { call: permit.calls[0].clone(), permit: Some(permit.signed.permit.id), position: 0 };
    host.parts.approvals.begin(&begin).await.unwrap();
    std::fs::write(host.dir.path().join("execd/stopped.json"), r#"["osmoda-watch.service"]"#).unwrap();
    // What it does at its next start.
    host.backups.recover().await.unwrap();
    assert_eq!(host.units.said(), ["start osmoda-watch.service"]);
    host.backups.recover().await.unwrap();
    assert_eq!(host.units.said(), [""; 0], "once");
    let restarted = Executor::open(host.parts.clone()).unwrap();
    assert_eq!(restarted.close_open_runs().await.unwrap(), 1);
    assert_eq!((host.outcomes(), host.state()[0].as_str()), (vec!["unknown".to_owned()], "new"));
    assert_eq!(host.restore(&made.backup_id).await, Err(ErrorCode::ApprovalRequired));
    host.close().await;
}
