//! The executor against the real approvals: what runs, and the attacks of
//! `trust.md` 3.6 on what happens between the signature and the act.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
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

#[tokio::test]
async fn an_approved_write_happens_once_and_can_be_taken_back() {
    let host = Host::new();
    let file = host.root().join("etc/motd");
    std::fs::write(&file, "old\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let view = host.approved("file.write", write("/etc/motd")).await;
    assert_eq!(view.signed.permit.class, EffectClass::Destructive);
    let detail = host.run(&view).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "new\n");
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o640);
    let kept = detail.rsplit(' ').next().unwrap();
    assert_eq!(std::fs::read_to_string(host.parts.hands.undo_dir.join(kept)).unwrap(), "old\n");
    assert_eq!(host.run(&view).await, Err(ErrorCode::ApprovalSpent));
    let made = host.approved("file.write", write("/srv/www/new")).await;
    host.run(&made).await.unwrap();
    assert_eq!(host.root().join("srv/www").read_dir().unwrap().count(), 1, "no temporary file is left");
    assert_eq!(host.last_outcome(), "done");
    host.close().await;
}

#[tokio::test]
async fn a_service_restarts_without_a_permit_and_a_reboot_never_happens() {
    let host = Host::new();
    let view = host.ask("service.restart", json!({ "unit": "app.service" })).await.unwrap();
    let free = RunRequest { permit: None, ..request(&view) };
    let answer = host.executor.run(free.clone()).await.unwrap();
    assert_eq!(answer.detail, "app.service restarted");
    assert_eq!(std::fs::read_to_string(host.root().join("restarts")).unwrap(), "try-restart -- app.service\n");
    assert_eq!(code(host.executor.run(free).await).unwrap_err(), ErrorCode::ApprovalSpent);
    assert_eq!(code(host.ask("system.reboot", json!({})).await).unwrap_err(), ErrorCode::ClassRefused);
    let alias = host.ask("service.restart", json!({ "unit": "alias.service" })).await;
    assert_eq!(
        code(alias).unwrap_err(),
        ErrorCode::CallMalformed,
        "the name decides the class, so it is the unit's own"
    );
    let own = host.ask("service.restart", json!({ "unit": "osmoda-execd.service" })).await.unwrap();
    assert_eq!(own.signed.permit.class, EffectClass::Destructive);
    host.close().await;
}

/// A restart of what does not run is a start: of a garbage collection, an upgrade, a
/// root shell on a console, any instance of a template.
#[tokio::test]
async fn a_restart_starts_nothing_that_did_not_run() {
    let host = Host::new();
    for unit in ["off.service", "off@any.service", "once.service", "off.timer", "app.timer"] {
        let asked = host.ask("service.restart", json!({ "unit": unit })).await;
        assert_eq!(code(asked).unwrap_err(), ErrorCode::Conflict, "{unit}");
    }
    // One that ran when it was asked for and does not any more.
    let view = host.ask("service.restart", json!({ "unit": "app.service" })).await.unwrap();
    let program = host.root().join("bin/systemctl");
    let text = std::fs::read_to_string(&program).unwrap();
    std::fs::write(&program, text.replace("active=active", "active=inactive")).unwrap();
    let free = RunRequest { permit: None, ..request(&view) };
    assert_eq!(code(host.executor.run(free).await).unwrap_err(), ErrorCode::Conflict);
    assert!(!host.root().join("restarts").exists());
    host.close().await;
}

/// To look costs root work, and whoever may ask may ask at once.
#[tokio::test]
async fn p19_a_flood_of_looks_is_told_to_come_again() {
    let host = Host::new();
    let asked = AskedCall { tool: "service.restart".into(), args: json!({ "unit": "app.service" }) };
    let look = || host.executor.resolve(&asked);
    // Each of those that look waits for a program; the one too many waits for nothing.
    let (one, two, three, four, five) = tokio::join!(look(), look(), look(), look(), look());
    for looked in [one, two, three, four] {
        looked.unwrap();
    }
    assert_eq!(code(five).unwrap_err(), ErrorCode::Busy);
    host.executor.resolve(&asked).await.unwrap();
    host.close().await;
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

/// Whoever asks and hangs up, again and again, has no more looks than who waits.
#[tokio::test]
async fn p19_a_look_holds_its_place_when_its_asker_has_left() {
    let host = Host::new();
    let (begun, mut seen) = watch::channel(0);
    let go = Arc::new(Semaphore::new(0));
    let hands = Hands { restore: Some(Arc::new(Slow { begun, go: go.clone() })), ..host.parts.hands.clone() };
    let executor = Executor::open(Parts { hands, ..host.parts.clone() }).unwrap();
    let asked = AskedCall { tool: "backup.restore".into(), args: json!({ "backup_id": "backup-1" }) };
    for n in 1..=4 {
        let leaving = executor.resolve(&asked);
        tokio::select! {
            biased;
            looked = leaving => panic!("{looked:?}"),
            // Dropping the look is what is tested.
            seen = seen.wait_for(|begun| *begun == n) => drop(seen.unwrap()),
        }
    }
    tokio::select! {
        biased;
        // Dropping it would end nothing that counts: it is the last that is asked.
        looked = executor.resolve(&asked) => assert_eq!(code(looked).unwrap_err(), ErrorCode::Busy),
        // Dropping a watch loses nothing.
        _ = seen.wait_for(|begun| *begun == 5) => panic!("a fifth looks"),
    }
    go.add_permits(5);
    let looked = loop {
        match executor.resolve(&asked).await {
            Err(error) if error.code == ErrorCode::Busy => tokio::task::yield_now().await,
            looked => break looked,
        }
    };
    looked.unwrap();
    host.close().await;
}

#[tokio::test]
async fn p04_power_lost_between_consumption_and_act_is_an_unknown_outcome() {
    let host = Host::new();
    let view = host.approved("file.write", write("/etc/motd")).await;
    // The executor consumed the permit and died before it touched anything.
    let begin = RunBegin { call: view.calls[0].clone(), permit: Some(view.signed.permit.id), position: 0 };
    host.parts.approvals.begin(&begin).await.unwrap();
    let restarted = Executor::open(host.parts.clone()).unwrap();
    assert_eq!(restarted.close_open_runs().await.unwrap(), 1);
    assert_eq!(host.last_outcome(), "unknown");
    assert_eq!(restarted.close_open_runs().await.unwrap(), 0);
    assert_eq!(host.run(&view).await, Err(ErrorCode::ApprovalSpent));
    assert!(!host.root().join("etc/motd").exists());
    host.close().await;
}

#[tokio::test]
async fn p05_a_ledger_of_yesterday_does_not_bring_a_permit_back() {
    let host = Host::new();
    std::fs::write(host.root().join("etc/motd"), "old\n").unwrap();
    let view = host.approved("file.write", write("/etc/motd")).await;
    let dir = host.close().await;
    let database = dir.path().join("agentd").join(FILE_NAME);
    let yesterday = std::fs::read(&database).unwrap();
    let host = Host::at(dir);
    host.run(&view).await.unwrap();
    let dir = host.close().await;
    // The disk of agentd goes back; the boot, the clocks and the file are as when it was signed.
    for entry in std::fs::read_dir(dir.path().join("agentd")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with(FILE_NAME) {
            std::fs::remove_file(path).unwrap();
        }
    }
    std::fs::write(&database, yesterday).unwrap();
    std::fs::write(dir.path().join("root/etc/motd"), "old\n").unwrap();
    let host = Host::at(dir);
    assert_eq!(host.admin().show(&view.signed.permit.id).await.unwrap().state, State::Approved, "agentd has forgotten");
    assert_eq!(host.run(&view).await, Err(ErrorCode::ApprovalSpent), "the executor has not");
    host.close().await;
}

/// What somebody does to the host after the signature.
type Change = fn(&Path);

#[tokio::test]
async fn p09_links_renames_and_other_folders_between_approval_and_act_are_refused() {
    let host = Host::new();
    let (root, target) = (host.root(), host.root().join("srv/www/page"));
    let outside = root.join("etc/shadow");
    std::fs::write(&outside, "secret\n").unwrap();
    let changes: [(&str, Change); 6] = [
        ("a link in its place", |root| {
            std::fs::remove_file(root.join("srv/www/page")).unwrap();
            symlink(root.join("etc/shadow"), root.join("srv/www/page")).unwrap();
        }),
        ("another file in its place", |root| {
            std::fs::write(root.join("srv/www/other"), "old\n").unwrap();
            std::fs::rename(root.join("srv/www/other"), root.join("srv/www/page")).unwrap();
        }),
        ("other content", |root| std::fs::write(root.join("srv/www/page"), "edited\n").unwrap()),
        ("gone", |root| std::fs::remove_file(root.join("srv/www/page")).unwrap()),
        ("the folder is another one", |root| {
            std::fs::rename(root.join("srv/www"), root.join("srv/www.old")).unwrap();
            std::fs::create_dir(root.join("srv/www")).unwrap();
            std::fs::hard_link(root.join("srv/www.old/page"), root.join("srv/www/page")).unwrap();
        }),
        ("the folder is a link", |root| {
            std::fs::rename(root.join("srv/www"), root.join("srv/www.old")).unwrap();
            symlink(root.join("srv/www.old"), root.join("srv/www")).unwrap();
        }),
    ];
    for (what, change) in changes {
        let folder = root.join("srv/www");
        if folder.is_symlink() {
            std::fs::remove_file(&folder).unwrap();
        } else {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        if root.join("srv/www.old").exists() {
            std::fs::remove_dir_all(root.join("srv/www.old")).unwrap();
        }
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&target, "old\n").unwrap();
        let view = host.approved("file.write", write("/srv/www/page")).await;
        change(&root);
        let refused = host.run(&view).await.unwrap_err();
        assert!(matches!(refused, ErrorCode::ObjectChanged | ErrorCode::CallMalformed), "{what}: {refused}");
        assert_eq!(
            host.admin().show(&view.signed.permit.id).await.unwrap().state,
            State::Approved,
            "{what}: not used up"
        );
    }
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "secret\n");
    // And what leads through a link is not even asked for.
    symlink(root.join("etc"), root.join("srv/link")).unwrap();
    assert_eq!(code(host.ask("file.write", write("/srv/link/motd")).await).unwrap_err(), ErrorCode::CallMalformed);
    host.close().await;
}

/// Witnesses who answer after somebody has changed the host: the permit was judged,
/// the object looked at, the intent written, and the act is next.
struct Changing {
    root: PathBuf,
    change: Change,
}

impl HeadGate for Changing {
    fn ready(&self) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn witnessed(&self, _: u64) -> Answer<'_, ()> {
        (self.change)(&self.root);
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn p09_what_changes_while_witnesses_are_asked_is_seen_by_the_second_look() {
    let changes: [(&str, Change, &str); 5] = [
        (
            "another file in its place",
            |root| {
                std::fs::write(root.join("etc/other"), "theirs\n").unwrap();
                std::fs::rename(root.join("etc/other"), root.join("etc/motd")).unwrap();
            },
            "theirs\n",
        ),
        ("other content", |root| std::fs::write(root.join("etc/motd"), "theirs\n").unwrap(), "theirs\n"),
        (
            "a link in its place",
            |root| {
                std::fs::write(root.join("etc/shadow"), "theirs\n").unwrap();
                std::fs::remove_file(root.join("etc/motd")).unwrap();
                symlink(root.join("etc/shadow"), root.join("etc/motd")).unwrap();
            },
            "theirs\n",
        ),
        ("gone", |root| std::fs::remove_file(root.join("etc/motd")).unwrap(), ""),
        (
            "the folder is another one",
            |root| {
                std::fs::rename(root.join("etc"), root.join("etc.old")).unwrap();
                std::fs::create_dir(root.join("etc")).unwrap();
                std::fs::hard_link(root.join("etc.old/motd"), root.join("etc/motd")).unwrap();
            },
            "old\n",
        ),
    ];
    for (what, change, left) in changes {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let host = Host::with(dir, Arc::new(Changing { root: root.clone(), change }));
        std::fs::write(root.join("etc/motd"), "old\n").unwrap();
        let view = host.approved("file.write", write("/etc/motd")).await;
        let refused = host.run(&view).await.unwrap_err();
        assert!(matches!(refused, ErrorCode::ObjectChanged | ErrorCode::CallMalformed), "{what}: {refused}");
        assert_eq!(std::fs::read_to_string(root.join("etc/motd")).unwrap_or_default(), left, "{what}");
        assert_eq!(host.last_outcome(), "refused", "{what}");
        assert_eq!(host.run(&view).await, Err(ErrorCode::ApprovalSpent), "{what}: the permit is used up");
        host.close().await;
    }
}

#[tokio::test]
async fn p10_a_unit_that_changes_while_witnesses_are_asked_is_not_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let change: Change = |root| std::fs::write(root.join("etc/app.service"), "[Service]\nExecStart=/evil\n").unwrap();
    let host = Host::with(dir, Arc::new(Changing { root: root.clone(), change }));
    let view = host.approved("service.restart", json!({ "unit": "sshd.service" })).await;
    assert_eq!(host.run(&view).await, Err(ErrorCode::ObjectChanged));
    assert_eq!(host.last_outcome(), "refused");
    assert!(!root.join("restarts").exists());
    host.close().await;
}

/// Needs root and the right to mount, and says so where it has neither.
#[tokio::test]
async fn p09_a_protected_folder_mounted_below_a_write_root_stays_protected() {
    use osmoda_kit::process::{Spec, run};
    let host = Host::new();
    for (folder, mounted) in [("etc/cron.d", "srv/jobs"), ("srv/harmless", "srv/www")] {
        let (folder, mounted) = (host.root().join(folder), host.root().join(mounted));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(&mounted).unwrap();
        let spec = Spec::new("/bin/mount").args([Path::new("--bind"), &folder, &mounted]);
        match run(&spec.time_limit(Duration::from_secs(10))).await {
            Ok(output) if output.success() => {}
            _ => {
                writeln!(std::io::stderr(), "SKIPPED: this process may not mount").unwrap();
                return host.close().await.close().unwrap();
            }
        }
    }
    let mut results = Vec::new();
    for path in ["/srv/jobs/evil", "/srv/www/page"] {
        let view = host.ask("file.write", write(path)).await.unwrap();
        assert_eq!(view.signed.permit.class, EffectClass::ChangeReversible);
        let free = RunRequest { permit: None, ..request(&view) };
        results.push(code(host.executor.run(free).await).map(|_| ()));
    }
    for mounted in ["srv/jobs", "srv/www"] {
        let spec = Spec::new("/bin/umount").args([host.root().join(mounted)]);
        assert!(run(&spec.time_limit(Duration::from_secs(10))).await.unwrap().success());
    }
    assert_eq!(results, [Err(ErrorCode::ClassRefused), Ok(())]);
    assert!(!host.root().join("etc/cron.d/evil").exists());
    host.close().await;
}

#[tokio::test]
async fn p10_the_same_unit_name_with_another_file_is_refused() {
    let host = Host::new();
    let view = host.ask("service.restart", json!({ "unit": "app.service" })).await.unwrap();
    std::fs::write(host.root().join("etc/app.service"), "[Service]\nExecStart=/bin/evil\n").unwrap();
    let free = RunRequest { permit: None, ..request(&view) };
    assert_eq!(code(host.executor.run(free).await).unwrap_err(), ErrorCode::ObjectChanged);
    assert!(!host.root().join("restarts").exists());
    host.close().await;
}

#[tokio::test]
async fn p15_programs_are_started_with_nothing_of_the_callers_environment() {
    let host = Host::new();
    let view = host.ask("service.restart", json!({ "unit": "app.service" })).await.unwrap();
    host.executor.run(RunRequest { permit: None, ..request(&view) }).await.unwrap();
    let environment = std::fs::read_to_string(host.root().join("environment")).unwrap();
    // What the shell of the small systemd sets for itself.
    let own = ["PWD=", "SHLVL=", "_=", "OLDPWD="];
    for line in environment.lines() {
        assert!(own.iter().any(|name| line.starts_with(name)), "{line}");
    }
    for unit in ["--help", "-x.service", "app.service;reboot", "app service", "../x.service"] {
        let asked =
            host.executor.resolve(&AskedCall { tool: "service.restart".into(), args: json!({ "unit": unit }) }).await;
        assert_eq!(code(asked).unwrap_err(), ErrorCode::CallMalformed, "{unit}");
    }
    host.close().await;
}

#[tokio::test]
async fn p18_a_gate_that_is_gone_slow_or_false_runs_nothing() {
    let host = Host::new();
    let view = host.approved("file.write", write("/etc/motd")).await;
    let gone = UnixClient::new(host.dir.path().join("none.sock"), osmoda_kit::http::Credentials::none());
    // One that lets everything begin, and one that never answers.
    let yes = Router::new()
        .route("/run/begin", post(async || Json(RunBegun { run: 1, hash: "0".repeat(64) })))
        .route("/ledger/append", post(async || Json(json!({ "id": 1, "hash": "0".repeat(64) }))))
        .route("/run/end", post(async || Json(json!({ "run": 1, "tool": "x", "call_hash": "0".repeat(64) }))));
    let (yes, slow) =
        (TestServer::open(yes), TestServer::open(Router::new().route("/run/begin", post(std::future::pending::<()>))));
    let with = |client: UnixClient| {
        let parts =
            Parts { approvals: ApprovalClient::new(client.clone()), audit: Audit::new(client), ..host.parts.clone() };
        Executor::open(parts).unwrap()
    };
    for client in [gone, slow.client().with_time_limit(Duration::from_millis(200))] {
        let refused = code(with(client).run(request(&view)).await).unwrap_err();
        assert!(refused.is_retryable(), "{refused}");
        assert!(!host.root().join("etc/motd").exists());
    }
    // The false gate says yes; the executor judges for itself.
    let lied_to = with(yes.client());
    let unsigned = host.ask("file.write", write("/etc/issue")).await.unwrap();
    assert_eq!(code(lied_to.run(request(&unsigned)).await).unwrap_err(), ErrorCode::ApprovalInvalid);
    let without = RunRequest { permit: None, ..request(&unsigned) };
    assert_eq!(code(lied_to.run(without).await).unwrap_err(), ErrorCode::ApprovalRequired);
    let mut foreign = request(&unsigned);
    foreign.permit.as_mut().unwrap().signatures = vec![sign(9, &unsigned.signed.permit, Decision::Approve)];
    assert_eq!(code(lied_to.run(foreign).await).unwrap_err(), ErrorCode::ApprovalInvalid);
    assert!(!host.root().join("etc/issue").exists());
    host.close().await;
}

#[tokio::test]
async fn p21_files_that_run_later_need_a_permit_wherever_files_may_be_written() {
    let host = Host::new();
    std::fs::write(&host.parts.policy, "write_roots = [\"/srv\"]\n").unwrap();
    std::fs::create_dir_all(host.root().join("srv/repo/.git/hooks")).unwrap();
    for folder in
        ["etc/systemd/system", "etc/profile.d", "etc/osmoda", "var/lib/osmoda/execd", "var/spool/cron", "root"]
    {
        std::fs::create_dir_all(host.root().join(folder)).unwrap();
    }
    for path in [
        "/etc/cron.d/job",
        "/etc/systemd/system/evil.service",
        "/etc/osmoda/approvals.toml",
        "/var/lib/osmoda/execd/trust.json",
        "/var/spool/cron/root",
        "/root/.bashrc",
        "/srv/repo/.git/hooks/pre-commit",
        "/srv/repo/evil.timer",
        "/srv/repo/.bashrc",
    ] {
        let view = host.ask("file.write", write(path)).await.unwrap();
        assert_eq!(view.signed.permit.class, EffectClass::Destructive, "{path}");
        let free = RunRequest { permit: None, ..request(&view) };
        assert_eq!(code(host.executor.run(free).await).unwrap_err(), ErrorCode::ApprovalRequired, "{path}");
        assert!(!host.root().join(&path[1..]).exists());
    }
    let harmless = host.ask("file.write", write("/srv/repo/readme")).await.unwrap();
    host.executor.run(RunRequest { permit: None, ..request(&harmless) }).await.unwrap();
    assert!(host.events().iter().filter(|event| event.kind == "exec.refused").count() >= 9, "refusals are recorded");
    host.close().await;
}

/// Who tries the same in a loop makes no row each time; all are counted.
#[tokio::test]
async fn refusals_in_a_loop_are_counted_and_do_not_grow_the_ledger() {
    let host = Host::new();
    let view = host.ask("file.write", write("/etc/motd")).await.unwrap();
    for _ in 0..50 {
        let free = RunRequest { permit: None, ..request(&view) };
        assert_eq!(code(host.executor.run(free).await).unwrap_err(), ErrorCode::ApprovalRequired);
    }
    assert_eq!(host.refusals(), [1], "the first, before its answer");
    let tasks = host.parts.tasks.clone();
    tasks.spawn(TaskKind::REQUEST, "reconcile", host.executor.clone().reconcile());
    tasks.shutdown().request(StopReason::Asked("test".to_owned()));
    assert!(tasks.drain(Duration::from_secs(20)).await.is_graceful());
    assert_eq!(host.refusals(), [1, 49], "the rest at the stop");
    host.close().await;
}

/// A run that was accepted before a stop may be refused after the last look for counts.
#[tokio::test]
async fn a_refusal_that_is_only_counted_during_a_stop_is_recorded() {
    let host = Host::new();
    let (begun, mut seen) = watch::channel(0);
    let go = Arc::new(Semaphore::new(1));
    let hands = Hands { restore: Some(Arc::new(Slow { begun, go: go.clone() })), ..host.parts.hands.clone() };
    let executor = Executor::open(Parts { hands, ..host.parts.clone() }).unwrap();
    // Another object than the one that is seen.
    let operation = Operation::BackupRestore { backup_id: "backup-1".into() };
    let call = Call { tool: operation.tool(), operation, ..testing::call() };
    let hash = call.hash().unwrap();
    let not_after =
        Moment { wall_ms: host.clock.now_wall().as_millis(), boot_ms: 3_600_000, boot_id: host.clock.boot_id() };
    let permit = Permit { not_after: not_after.plus_ms(600_000), ..testing::permit(hash) };
    let signatures = vec![sign(1, &permit, Decision::Approve)];
    let permit = SignedPermit { permit, plan: Vec::new(), signatures };
    let run = RunRequest { call: call.to_value(), permit: Some(permit), position: 0 };
    assert_eq!(code(executor.run(run.clone()).await).unwrap_err(), ErrorCode::ObjectChanged);
    assert_eq!(host.refusals(), [1]);
    // The reconciler has looked, and sleeps: what was open is closed, and the turn is free.
    let view = host.approved("file.write", write("/etc/motd")).await;
    let begin = RunBegin { call: view.calls[0].clone(), permit: Some(view.signed.permit.id), position: 0 };
    host.parts.approvals.begin(&begin).await.unwrap();
    let tasks = host.parts.tasks.clone();
    let mut reconciler = tasks.spawn(TaskKind::REQUEST, "reconcile", executor.clone().reconcile());
    let closed = || async { host.events().iter().any(|event| event.kind == "exec.run.outcome").then_some(()) };
    wait_for("the outcome", Duration::from_secs(20), closed).await;
    assert_eq!(executor.close_open_runs().await.unwrap(), 0);
    let late = executor.run(run);
    let stop = async {
        seen.wait_for(|begun| *begun == 2).await.unwrap();
        tasks.shutdown().request(StopReason::Asked("test".to_owned()));
        let last = async {
            reconciler.finished().await;
            assert_eq!(host.refusals(), [1], "nothing to record in its last look");
            go.add_permits(1);
        };
        let (end, ()) = tokio::join!(tasks.drain(Duration::from_secs(20)), last);
        assert!(end.is_graceful());
    };
    let (late, ()) = tokio::join!(late, stop);
    assert_eq!(code(late).unwrap_err(), ErrorCode::ObjectChanged);
    assert_eq!(host.refusals(), [1, 1]);
    host.close().await;
}

/// A unit's file may lie where others write; a pipe in its place holds up nobody.
#[tokio::test]
async fn a_unit_whose_file_is_a_pipe_is_refused_at_once() {
    let host = Host::new();
    let file = host.root().join("etc/app.service");
    std::fs::remove_file(&file).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    let refused = host.ask("service.restart", json!({ "unit": "app.service" })).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::CallMalformed);
    host.close().await;
}

#[tokio::test]
async fn refused_where_daemons_share_a_user_and_expired_for_the_executor_too() {
    let host = Host::new();
    let view = host.approved("file.write", write("/etc/motd")).await;
    let shared = Executor::open(Parts { isolation: Isolation::None, ..host.parts.clone() }).unwrap();
    assert_eq!(code(shared.run(request(&view)).await).unwrap_err(), ErrorCode::ClassRefused);
    host.clock.advance(Duration::from_secs(600));
    assert_eq!(host.run(&view).await, Err(ErrorCode::ApprovalExpired));
    host.close().await;
}
