//! The endpoints over a real socket, with a real guard and a small ledger.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it with the line that surprised them")]

mod ledger;

use ed25519_dalek::SigningKey;
use ledger::Ledger;
use osmoda_journal::generation::StoreKind;
use osmoda_journal::generation::{GenerationStore, Runner, SymlinkStore};
use osmoda_journal::{Cause, Entry, HostClock, JOURNAL_FILE, Journal, Phase, Writer};
use osmoda_kit::clock::SystemClock;
use osmoda_kit::http::testing::TestServer;
use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_kit::tasks::Tasks;
use osmoda_kit::testing::wait_for;
use osmoda_node_api::callers;
use osmoda_node_api::watch::{
    AcceptRequest, AttemptView, ContactRequest, GrantRequest, RevertRequest, StageRequest, SwitchBegin, SwitchSession,
    SwitchStatus, TRUST_FILE, TrustFile, WatchClient,
};
use osmoda_types::{
    AttemptId, ErrorCode, FleetEpoch, HealthCheck, ManifestHash, NetworkId, NodeId, Principal, Right, RolloutId,
    Signature, StorePath, statement,
};
use osmoda_watch::{LogSteps, Outside, Settings, assemble};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const NETWORK: NetworkId = NetworkId::from_bytes([9; 32]);
const NODE: NodeId = NodeId::from_bytes([1; 32]);
const ROLLOUT: RolloutId = RolloutId::from_bytes([7; 16]);
const EPOCH: FleetEpoch = FleetEpoch(4);

/// Not a test: the guard, when started by the daemon under test.
#[test]
fn child_guard() {
    if let Some(args) = std::env::var_os("API_GUARD") {
        rustix::process::setsid().unwrap();
        let args = args.into_string().unwrap();
        let options = osmoda_guard::Options::parse(args.split(' ').map(Into::into)).unwrap();
        osmoda_guard::watch_over(&options, None).unwrap();
    }
}

struct Host {
    root: tempfile::TempDir,
    server: TestServer,
    ledger: Ledger,
    ledger_server: TestServer,
    tasks: Tasks,
}

fn write_program(path: &Path, body: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, body).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn toplevel(root: &Path, name: &str) -> StorePath {
    StorePath::new(root.join("store").join(name).to_string_lossy().into_owned()).unwrap()
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// A root with toplevels a, b and c; it runs a, and trusts operator 1.
fn make_root() -> tempfile::TempDir {
    let root = tempfile::Builder::new().prefix("api").tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("run")).unwrap();
    for name in ["a", "b", "c"] {
        let path = toplevel(root.path(), name);
        let body =
            format!("#!/bin/sh\n[ $1 = boot ] || ln -sfn {} \"$OSMODA_HOST_ROOT/run/current-system\"\n", path.as_str());
        write_program(&path.as_path().join("bin/switch-to-configuration"), &body);
    }
    SymlinkStore::new(root.path().join("system")).set(&toplevel(root.path(), "a")).unwrap();
    std::os::unix::fs::symlink(toplevel(root.path(), "a").as_path(), root.path().join("run/current-system")).unwrap();
    let own = std::env::current_exe().unwrap();
    let guard = format!("#!/bin/sh\nAPI_GUARD=\"$*\" exec {} --exact child_guard --nocapture\n", own.display());
    write_program(&root.path().join("guard.sh"), &guard);
    let operator =
        Principal { name: "op".to_owned(), key: statement::public_key(&key(1)), rights: vec![Right::Deploy] };
    let trust = TrustFile { network_id: NETWORK, operators: vec![operator], serials: Default::default() };
    std::fs::write(root.path().join(TRUST_FILE), serde_json::to_vec(&trust).unwrap()).unwrap();
    root
}

impl Host {
    fn new() -> Self {
        Self::at(make_root())
    }

    fn at(root: tempfile::TempDir) -> Self {
        let ledger = Ledger::default();
        let ledger_server = TestServer::open(ledger.router());
        let (tasks, server) = start(root.path(), &ledger_server);
        Self { root, server, ledger, ledger_server, tasks }
    }

    /// Ends the daemon wherever it is, and starts it again.
    async fn restart(&mut self) {
        self.tasks.shutdown().request(StopReason::Asked("restart".to_owned()));
        self.tasks.drain(LIMIT).await;
        (self.tasks, self.server) = start(self.root.path(), &self.ledger_server);
    }

    /// Waits until the ledger has heard everything.
    async fn settled(&self) {
        wait_for("paired rows", LIMIT, async || self.ledger.unpaired().is_empty().then_some(())).await;
    }

    fn set_ledger_away(&self, is_away: bool) {
        self.ledger.lock().refused = is_away.then_some(("", ErrorCode::StateDirUnusable));
    }

    fn watch(&self) -> WatchClient {
        WatchClient::new(self.server.client_as("fleetd"))
    }

    fn toplevel(&self, name: &str) -> StorePath {
        toplevel(self.root.path(), name)
    }

    /// A manifest that moves this node, and its grant.
    fn manifest(&self, baseline: &str, target: &str) -> (String, GrantRequest) {
        let text = serde_json::json!({
            "version": 1, "name": "test", "scope": "all",
            "nodes": { NODE.to_string(): { "target": self.toplevel(target), "baseline": self.toplevel(baseline) } },
            "checks": [{"type": "command", "cmd": "/usr/bin/test", "args": ["-e", "run"]}],
            "policy": {
                "waves": [{"count": 1}], "max_unavailable": 1,
                "timings": {
                    "healthy_ms": 500, "check_deadline_ms": 20_000, "dead_man_ms": 20_000, "activation_ms": 20_000,
                },
            },
        })
        .to_string();
        let manifest = ManifestHash::of(text.as_bytes());
        (text, GrantRequest { rollout: ROLLOUT, attempt: AttemptId(65_536), epoch: EPOCH, manifest })
    }

    async fn stage(&self, baseline: &str, target: &str) -> GrantRequest {
        let (text, grant) = self.manifest(baseline, target);
        let staged = self.watch().stage(&signed(&text)).await.unwrap();
        assert_eq!(staged.current, self.toplevel(baseline));
        grant
    }

    /// Keeps in contact until the view fits.
    async fn until(&self, what: &str, fits: impl Fn(&AttemptView) -> bool) -> AttemptView {
        let watch = self.watch();
        wait_for(what, LIMIT, async || {
            let view = watch.attempt().await.unwrap();
            if let Some(attempt) = view.attempt {
                let contact = ContactRequest { attempt, index: 9, leader: "me".to_owned() };
                // The journal may move on while the contact is written.
                let late = watch.contact(&contact).await.err().filter(|error| error.code != ErrorCode::JournalIllegal);
                assert!(late.is_none(), "{late:?}");
            }
            fits(&view).then_some(view)
        })
        .await
    }

    /// The rows of the ledger, each as its type and state.
    fn told(&self) -> Vec<String> {
        let state = |row: &osmoda_kit::audit::Append| row.payload["state"].as_str().unwrap_or_default().to_owned();
        self.ledger.lock().rows.iter().map(|row| format!("{} {}", row.kind, state(row)).trim().to_owned()).collect()
    }
}

fn start(root: &Path, ledger: &TestServer) -> (Tasks, TestServer) {
    let tasks = Tasks::new(Shutdown::new());
    let outside = Outside {
        agentd: ledger.client(),
        fleetd: ledger.client(),
        clock: SystemClock::shared(),
        make_observer: Arc::new(|| Box::new(LogSteps)),
    };
    let (_, router) = assemble(settings(root), outside, &tasks).unwrap();
    (tasks, TestServer::with_table(router, callers::WATCH))
}

fn settings(root: &Path) -> Settings {
    Settings {
        host_root: root.into(),
        state_dir: root.into(),
        runner: Runner::Process,
        store: StoreKind::Symlink,
        profile: root.join("system"),
        require_signatures: false,
        guard_program: root.join("guard.sh"),
        clock: HostClock::default(),
        free_bytes_min: 0,
    }
}

fn signed(manifest: &str) -> StageRequest {
    let hash = ManifestHash::of(manifest.as_bytes());
    let message = statement::rollout(&hash, &ROLLOUT, EPOCH, &NETWORK);
    StageRequest {
        manifest_b64: data_encoding::BASE64.encode(manifest.as_bytes()),
        rollout: ROLLOUT,
        parent_epoch: EPOCH,
        operator_key: statement::public_key(&key(1)),
        signature: statement::sign(&key(1), &message),
        node: NODE,
    }
}

#[tokio::test]
async fn a_granted_rollout_is_committed_and_can_be_reverted() {
    let host = Host::new();
    let watch = host.watch();
    let grant = host.stage("a", "b").await;
    watch.grant(&grant).await.unwrap();
    watch.grant(&grant).await.unwrap();
    host.until("acceptance", |view| view.acceptable).await;
    watch.accept(&AcceptRequest { attempt: grant.attempt }).await.unwrap();
    let view = host.until("the commit", |view| view.state == "committed").await;
    assert_eq!((view.current, view.profile), (Some(host.toplevel("b")), Some(host.toplevel("b"))));
    host.settled().await;
    let committed = [
        "watch.attempt.intent",
        "watch.commit.intent",
        "watch.commit.outcome committed",
        "watch.attempt.outcome committed",
    ];
    assert_eq!(host.told(), committed);

    let wrong = RevertRequest { rollout: ROLLOUT, attempt: grant.attempt, to: host.toplevel("c") };
    assert_eq!(watch.revert(&wrong).await.unwrap_err().code, ErrorCode::Conflict);
    // The ledger does not stand in the way of a rollback.
    host.set_ledger_away(true);
    watch.revert(&RevertRequest { to: host.toplevel("a"), ..wrong }).await.unwrap();
    let view = host.until("the revert", |view| view.state == "rolled_back").await;
    assert_eq!((view.current, view.profile), (Some(host.toplevel("a")), Some(host.toplevel("a"))));
    host.set_ledger_away(false);
    let late = [
        "watch.rollback.intent rolling_back",
        "watch.rollback.outcome rolled_back",
        "watch.attempt.outcome rolled_back",
    ];
    wait_for("the late rows", LIMIT, async || (host.told().len() >= 7).then_some(())).await;
    assert_eq!((&host.told()[4..], host.ledger.unpaired()), (late.map(str::to_owned).as_slice(), Vec::new()));
    let stale = watch.grant(&GrantRequest { attempt: AttemptId(5), ..grant }).await.unwrap_err();
    assert_eq!(stale.code, ErrorCode::AttemptStale);
    assert!(watch.history().await.unwrap().records.iter().any(|record| record.kind == "reverting"));
}

#[tokio::test]
async fn what_may_not_be_staged_is_refused_with_its_code() {
    let host = Host::new();
    let check = async |request: StageRequest, code: ErrorCode| {
        assert_eq!(host.watch().stage(&request).await.unwrap_err().code, code);
    };
    let good = signed(&host.manifest("a", "b").0);
    check(StageRequest { manifest_b64: "?".to_owned(), ..good.clone() }, ErrorCode::ManifestMalformed).await;
    check(StageRequest { signature: Signature::from_bytes([0; 64]), ..good.clone() }, ErrorCode::SignatureMissing)
        .await;
    check(StageRequest { parent_epoch: FleetEpoch(5), ..good.clone() }, ErrorCode::SignatureInvalid).await;
    let stranger = statement::public_key(&key(2));
    check(StageRequest { operator_key: stranger, ..good.clone() }, ErrorCode::PrincipalUnknown).await;
    check(StageRequest { node: NodeId::from_bytes([2; 32]), ..good }, ErrorCode::NodeUnknown).await;
    check(signed("{}"), ErrorCode::ManifestMalformed).await;
    check(signed(&" ".repeat(1024 * 1024 + 1)), ErrorCode::ManifestTooLarge).await;
    check(signed(&host.manifest("a", "a").0), ErrorCode::TargetIsBaseline).await;
    check(signed(&host.manifest("a", "nowhere").0), ErrorCode::ClosureMissing).await;
    check(signed(&host.manifest("b", "c").0), ErrorCode::Conflict).await;
    let (_, grant) = host.manifest("a", "b");
    assert_eq!(host.watch().grant(&grant).await.unwrap_err().code, ErrorCode::ManifestUnknown);
    let admin = WatchClient::new(host.server.client());
    assert_eq!(admin.grant(&grant).await.unwrap_err().code, ErrorCode::CallerDenied);
}

#[tokio::test]
async fn without_a_guard_or_a_ledger_nothing_is_activated() {
    for (missing, code) in [("guard", ErrorCode::GuardUnavailable), ("ledger", ErrorCode::LedgerUnavailable)] {
        let host = Host::new();
        if missing == "guard" {
            write_program(&host.root.path().join("guard.sh"), "#!/bin/sh\nexit 1\n");
        }
        host.set_ledger_away(missing == "ledger");
        let grant = host.stage("a", "b").await;
        host.watch().grant(&grant).await.unwrap();
        let view = host.until("the deferral", |view| view.state == "deferred").await;
        assert_eq!((view.code, view.current), (Some(code), Some(host.toplevel("a"))));
        host.set_ledger_away(false);
        let rows = ["watch.attempt.intent", "watch.attempt.deferred deferred", "watch.attempt.outcome deferred"];
        wait_for("the rows", LIMIT, async || (host.told() == rows).then_some(())).await;
        assert_eq!(host.ledger.unpaired(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_target_that_fails_leaves_no_intent_open() {
    let host = Host::new();
    write_program(&host.toplevel("b").as_path().join("bin/switch-to-configuration"), "#!/bin/sh\nexit 100\n");
    let grant = host.stage("a", "b").await;
    host.watch().grant(&grant).await.unwrap();
    host.until("the rollback", |view| view.state == "rolled_back").await;
    let last = "watch.attempt.outcome rolled_back".to_owned();
    wait_for("the rows", LIMIT, async || (host.told().last() == Some(&last)).then_some(())).await;
    assert_eq!(host.ledger.unpaired(), Vec::<String>::new());
    assert!(host.told().contains(&"watch.rollback.outcome rolled_back".to_owned()), "{:?}", host.told());
}

#[tokio::test]
async fn an_intent_whose_answer_is_lost_is_found_again() {
    let mut host = Host::new();
    let grant = host.stage("a", "b").await;
    // The first intent is recorded; neither this daemon nor the next hears of it.
    host.ledger.lock().lost_answers = 1;
    host.watch().grant(&grant).await.unwrap();
    let deferred = "watch.attempt.outcome deferred".to_owned();
    host.until("the deferral", |view| view.state == "deferred").await;
    host.restart().await;
    wait_for("the rows", LIMIT, async || (host.told().last() == Some(&deferred)).then_some(())).await;
    assert_eq!(host.ledger.unpaired(), Vec::<String>::new());
    assert_eq!(host.ledger.kinds().iter().filter(|kind| *kind == "watch.attempt.intent").count(), 1);
}

#[tokio::test]
async fn an_end_that_was_not_told_is_told_after_the_next_grant() {
    let mut host = Host::new();
    let grant = host.stage("a", "b").await;
    host.watch().grant(&grant).await.unwrap();
    host.until("acceptance", |view| view.acceptable).await;
    // The daemon dies before the end, and the next one meets a journal that went on.
    host.tasks.shutdown().request(StopReason::Asked("test".to_owned()));
    host.tasks.drain(LIMIT).await;
    let open = || Journal::new(host.root.path().join(JOURNAL_FILE));
    let mut journal = open();
    let fired = Entry::RollingBack(Cause::new(ErrorCode::GuardFired, "silence"));
    journal.append(Writer::Guard, grant.attempt, HostClock::default().now().unwrap(), fired).unwrap();
    // The guard is a process of its own, is still there, and ends what it finds begun.
    let ended = async || (open().read().unwrap().phase == Phase::RolledBack).then_some(());
    wait_for("the guard's end", LIMIT, ended).await;
    let plan = journal.read().unwrap().attempt.clone().unwrap().plan;
    let later = AttemptId(grant.attempt.0 + 1);
    journal.append(Writer::Watch, later, HostClock::default().now().unwrap(), Entry::Granted(Box::new(plan))).unwrap();
    host.restart().await;
    let told = "watch.attempt.outcome rolled_back".to_owned();
    wait_for("the end of the first", LIMIT, async || host.told().contains(&told).then_some(())).await;
    host.until("acceptance of the second", |view| view.acceptable && view.attempt == Some(later)).await;
    host.watch().accept(&AcceptRequest { attempt: later }).await.unwrap();
    host.until("the end of the second", |view| view.resting && view.attempt == Some(later)).await;
    host.settled().await;
}

#[tokio::test]
async fn a_damaged_journal_keeps_the_host_where_it_is_and_raises_the_alarm() {
    let root = make_root();
    std::fs::write(root.path().join(JOURNAL_FILE), "OMJ1 1 nonsense\n").unwrap();
    let host = Host::at(root);
    assert_eq!(host.watch().attempt().await.unwrap_err().code, ErrorCode::JournalCorrupt);
    let request = signed(&host.manifest("a", "b").0);
    assert_eq!(host.watch().stage(&request).await.unwrap_err().code, ErrorCode::JournalCorrupt);
    let health = host.watch().health().await.unwrap();
    assert_eq!(health.status, "journal_corrupt");
    assert!(health.alarm.is_some());
}

#[tokio::test]
async fn a_local_switch_is_carried_out_and_kept_by_hand() {
    let host = Host::new();
    let admin = host.server.client().with_time_limit(LIMIT);
    let begin = SwitchBegin { plan: host.toplevel("b").to_string(), ttl_secs: 600, health_checks: Vec::new() };
    let begun: serde_json::Value = admin.post("/switch/begin", &begin).await.unwrap();
    assert_eq!(begun["status"], "probation");
    let id = begun["id"].as_str().unwrap().to_owned();
    let missing = SwitchBegin { plan: host.toplevel("nowhere").to_string(), ..begin.clone() };
    let refused = admin.post::<serde_json::Value>("/switch/begin", &missing).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::ClosureMissing);
    let other = SwitchBegin { plan: host.toplevel("c").to_string(), ..begin };
    let second = admin.post::<serde_json::Value>("/switch/begin", &other).await;
    assert_eq!(second.unwrap_err().code, ErrorCode::AttemptConflict);
    let kept: SwitchSession = admin.post(&format!("/switch/commit/{id}"), &serde_json::json!({})).await.unwrap();
    assert!(matches!(kept.status, SwitchStatus::Committed { .. }), "{kept:?}");
    assert_eq!(host.watch().attempt().await.unwrap().profile, Some(host.toplevel("b")));
    let again = admin.post::<SwitchSession>(&format!("/switch/rollback/{id}"), &serde_json::json!({})).await;
    assert_eq!(again.unwrap_err().code, ErrorCode::Conflict);
}

#[tokio::test]
async fn a_change_made_by_hand_is_undone_to_the_absolute_path() {
    let host = Host::new();
    let admin = host.server.client().with_time_limit(LIMIT);
    let check = HealthCheck::Command { cmd: "/usr/bin/test".to_owned(), args: vec!["-e".to_owned(), "run".to_owned()] };
    let begin = SwitchBegin { plan: "try another kernel".to_owned(), ttl_secs: 600, health_checks: vec![check] };
    let begun: serde_json::Value = admin.post("/switch/begin", &begin).await.unwrap();
    // Two generations further: one step back would not be enough.
    let store = SymlinkStore::new(host.root.path().join("system"));
    for name in ["b", "c"] {
        store.set(&host.toplevel(name)).unwrap();
    }
    let link: PathBuf = host.root.path().join("run/current-system");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(host.toplevel("c").as_path(), &link).unwrap();
    let path = format!("/switch/rollback/{}", begun["id"].as_str().unwrap());
    let undone: SwitchSession = admin.post(&path, &serde_json::json!({})).await.unwrap();
    assert!(matches!(undone.status, SwitchStatus::RolledBack { .. }), "{undone:?}");
    let view = host.watch().attempt().await.unwrap();
    assert_eq!((view.current, view.profile), (Some(host.toplevel("a")), Some(host.toplevel("a"))));
    host.settled().await;
    // It says that it only leads back: such a one is told on the last room too.
    let is_undo = |row: &osmoda_kit::audit::Append| row.payload["undo"] == true;
    assert!(host.ledger.lock().rows.iter().any(|row| row.kind == "watch.attempt.intent" && is_undo(row)));
    let bad = SwitchBegin { ttl_secs: 0, ..begin };
    assert_eq!(admin.post::<serde_json::Value>("/switch/begin", &bad).await.unwrap_err().code, ErrorCode::BadRequest);
}
