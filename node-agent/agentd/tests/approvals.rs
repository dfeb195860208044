//! Approvals over a real socket: what binds, what is refused, and the attacks of
//! `trust.md` 3.6 that an executor or a model could try on agentd.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use axum::http::Method;
use osmoda_agentd::approval::gate::{HeadGate, NoWitness};
use osmoda_agentd::approval::{Answer, Approvals, Parts, Resolver};
use osmoda_agentd::ledger::file::{FILE_NAME, LedgerFile};
use osmoda_agentd::ledger::{Ledger, LedgerThreads, WriterOptions};
use osmoda_kit::boot::Daemon;
use osmoda_kit::clock::Timestamp;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::testing::TestServer;
use osmoda_kit::http::{Isolation, MODEL_UID_FIRST};
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::Tasks;
use osmoda_kit::testing::FakeClock;
use osmoda_node_api::agentd::EventQuery;
use osmoda_node_api::approval::{
    Approval, ApprovalClient, AskedCall, PermitRequest, PermitView, PlanRequest, RunBegin, RunEnd, RunOutcome,
    SessionView, TaintRequest,
};
use osmoda_node_api::approval_files::store_trust;
use osmoda_permit::testing::{approver, sign};
use osmoda_permit::{Decision, EffectClass, HostTrust, Permit, State};
use osmoda_types::{ErrorCode, NetworkId, NodeId, PermitId};
use serde_json::{Map, Value, json};

/// The executor's eyes: the same object each time.
struct Eyes(AtomicBool);

impl Resolver for Eyes {
    fn resolve<'a>(&'a self, call: &'a AskedCall) -> Answer<'a, Map<String, Value>> {
        Box::pin(async move {
            if self.0.load(SeqCst) {
                return Err(ApiError::new(ErrorCode::DaemonUnavailable, "execd is away"));
            }
            Ok(json!({ "of": call.tool, "inode": 7 }).as_object().unwrap().clone())
        })
    }
}

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

struct Host {
    server: TestServer,
    ledger: Ledger,
    threads: Option<LedgerThreads>,
    clock: Arc<FakeClock>,
    eyes: Arc<Eyes>,
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Self::with(Arc::new(Witnesses), "write_roots = [\"/srv\"]\nbreak_glass = [\"root\"]\n")
    }

    fn with(gate: Arc<dyn HeadGate>, policy: &str) -> Self {
        Self::at(tempfile::tempdir().unwrap(), gate, policy, 2, Isolation::Users)
    }

    fn at(dir: tempfile::TempDir, gate: Arc<dyn HeadGate>, policy: &str, host: u8, isolation: Isolation) -> Self {
        let path = dir.path().join(FILE_NAME);
        let clock = Arc::new(FakeClock::new());
        let (ledger, threads, _) = Ledger::open(&path, WriterOptions::default(), clock.clone()).unwrap();
        std::fs::write(dir.path().join("approvals.toml"), policy).unwrap();
        let trust = HostTrust {
            network_id: NetworkId::from_bytes([1; 32]),
            host_id: NodeId::from_bytes([host; 32]),
            operators: vec![approver("ada", 1), approver("bob", 2), approver("root", 3)],
            serials: BTreeMap::new(),
        };
        store_trust(dir.path(), &trust).unwrap();
        let eyes = Arc::new(Eyes(AtomicBool::new(false)));
        let approvals = Approvals::new(Parts {
            ledger: ledger.clone(),
            clock: clock.clone(),
            tasks: Tasks::new(Shutdown::new()),
            state_dir: dir.path().to_owned(),
            policy: dir.path().join("approvals.toml"),
            resolver: eyes.clone(),
            gate,
            isolation,
        });
        let table = osmoda_agentd::Agentd::callers();
        let table = osmoda_kit::http::CallerTable { daemons: DAEMONS, ..table };
        let server = TestServer::with_table(approvals.router(), table);
        Self { server, ledger, threads: Some(threads), clock, eyes, dir }
    }

    fn admin(&self) -> ApprovalClient {
        ApprovalClient::new(self.server.client())
    }

    fn execd(&self) -> ApprovalClient {
        ApprovalClient::new(self.server.client_as("execd"))
    }

    async fn ask(&self, path: &str) -> Result<PermitView, ApiError> {
        self.admin().request(&request(path, "s-1")).await
    }

    async fn approved(&self, path: &str) -> PermitView {
        let view = self.ask(path).await.unwrap();
        let permit = &view.signed.permit;
        self.admin().sign(&permit.id, &sign(1, permit, Decision::Approve)).await.unwrap()
    }

    fn kinds(&self) -> Vec<String> {
        let file = LedgerFile::open(&self.dir.path().join(FILE_NAME)).unwrap();
        let query = EventQuery { limit: -1, ..EventQuery::default() };
        file.events(&query).unwrap().events.into_iter().rev().map(|event| event.kind).collect()
    }

    async fn close(mut self) -> tempfile::TempDir {
        self.server.stop(Duration::from_secs(10)).await;
        self.threads.take().unwrap().close().unwrap();
        self.dir
    }
}

const DAEMONS: &[osmoda_kit::http::DaemonUser] = &[
    osmoda_kit::http::DaemonUser { name: "agentd", user: "osmoda-agentd" },
    osmoda_kit::http::DaemonUser { name: "execd", user: "root" },
    osmoda_kit::http::DaemonUser { name: "fleetd", user: "osmoda-fleetd" },
    osmoda_kit::http::DaemonUser { name: "watch", user: "root" },
];

fn write(path: &str) -> AskedCall {
    AskedCall { tool: "file.write".into(), args: json!({ "path": path, "content": "new\n" }) }
}

fn request(path: &str, session: &str) -> PermitRequest {
    PermitRequest { call: write(path), session_id: session.into(), reason: "because".into(), ttl_secs: None }
}

fn begin(view: &PermitView, position: u32) -> RunBegin {
    let call = view.calls[position as usize].clone();
    RunBegin { call, permit: Some(view.signed.permit.id), position }
}

/// Begins a run; where the reader's queue is full, again.
async fn patiently(execd: &ApprovalClient, run: &RunBegin) -> Result<(), ErrorCode> {
    loop {
        match execd.begin(run).await {
            Err(error) if error.code == ErrorCode::Busy => {}
            other => return other.map(|_| ()).map_err(|error| error.code),
        }
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, ApiError>) -> ErrorCode {
    result.unwrap_err().code
}

#[tokio::test]
async fn a_signed_permit_is_used_once_and_every_step_is_in_the_ledger() {
    let host = Host::new();
    let view = host.ask("/etc/motd").await.unwrap();
    assert_eq!((view.state, view.signed.permit.class), (State::Pending, EffectClass::Destructive));
    assert!(view.display.contains("path      \"/etc/motd\"") && view.display.is_ascii());
    assert_eq!(code(host.execd().begin(&begin(&view, 0)).await), ErrorCode::ApprovalRequired);
    let signature = sign(1, &view.signed.permit, Decision::Approve);
    let view = host.admin().sign(&view.signed.permit.id, &signature).await.unwrap();
    assert_eq!((view.state, view.approved_by.as_slice()), (State::Approved, &["ada".to_owned()][..]));
    let begun = host.execd().begin(&begin(&view, 0)).await.unwrap();
    assert_eq!(host.execd().open_runs().await.unwrap().len(), 1);
    let end = RunEnd { run: begun.run, outcome: RunOutcome::Done, detail: "written".into() };
    assert_eq!(host.execd().end(&end).await.unwrap().outcome.as_deref(), Some("done"));
    assert_eq!(code(host.execd().end(&end).await), ErrorCode::Conflict, "an outcome is written once");
    assert_eq!(host.admin().show(&view.signed.permit.id).await.unwrap().state, State::Consumed);
    let expected =
        ["approval.requested", "approval.signed", "approval.approved", "exec.run.intent", "exec.run.outcome"];
    assert_eq!(host.kinds(), expected);
    host.close().await;
}

#[tokio::test]
async fn p01_no_identity_near_a_model_can_approve() {
    let host = Host::new();
    let view = host.ask("/etc/motd").await.unwrap();
    let id = view.signed.permit.id;
    let callers = osmoda_kit::http::Callers::by_users(osmoda_agentd::Agentd::callers(), "root:x:0:0::/:/x\n");
    assert_eq!(code(callers.identify(MODEL_UID_FIRST, None, None, Some("execd"))), ErrorCode::CallerDenied);
    // The administrator without a key: the shape is kept, nothing is unlocked.
    let admin = host.server.client();
    for body in [json!({}), json!({ "decided_by": "ada" })] {
        let answer: Approval = admin.post(&format!("/approval/{id}/approve"), &body).await.unwrap();
        assert_eq!((answer.status.as_str(), answer.approvers_signed), ("pending", 0));
        assert!(answer.note.is_some());
    }
    // Keys of nobody, of somebody without the right, and a copied signature of another permit.
    let other = host.ask("/etc/issue").await.unwrap().signed.permit;
    for signature in [sign(9, &view.signed.permit, Decision::Approve), sign(1, &other, Decision::Approve)] {
        let refused = code(host.admin().sign(&id, &signature).await);
        assert!(matches!(refused, ErrorCode::PrincipalUnknown | ErrorCode::SignatureInvalid), "{refused}");
    }
    for daemon in ["agentd", "execd", "watch"] {
        let client = host.server.client_as(daemon);
        let tried = client.post::<Approval>(&format!("/approval/{id}/approve"), &json!({})).await;
        assert_eq!(code(tried), ErrorCode::CallerDenied, "{daemon}");
    }
    assert_eq!(host.admin().show(&id).await.unwrap().state, State::Pending);
    assert_eq!(host.kinds().iter().filter(|kind| *kind == "approval.refused").count(), 2);
    host.close().await;
}

#[tokio::test]
async fn p02_of_10000_replays_none_is_accepted() {
    let host = Host::new();
    let view = host.approved("/etc/motd").await;
    host.execd().begin(&begin(&view, 0)).await.unwrap();
    let rows = host.kinds().len();
    let execd = host.execd();
    for _ in 0..100 {
        let replays = (0..100).map(|_| async { patiently(&execd, &begin(&view, 0)).await.unwrap_err() });
        for refused in futures_util::future::join_all(replays).await {
            assert_eq!(refused, ErrorCode::ApprovalSpent);
        }
    }
    assert_eq!(host.kinds().len(), rows);
    host.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p03_of_100_at_once_one_is_accepted() {
    let host = Host::new();
    for _ in 0..5 {
        let view = host.approved("/etc/motd").await;
        let execd = host.execd();
        let race = (0..100).map(|_| async { patiently(&execd, &begin(&view, 0)).await });
        let results = futures_util::future::join_all(race).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(ErrorCode::ApprovalSpent))), "{results:?}");
    }
    assert_eq!(host.kinds().iter().filter(|kind| *kind == "exec.run.intent").count(), 5);
    host.close().await;
}

#[tokio::test]
async fn p05_a_permit_of_a_restored_database_is_of_another_boot() {
    let host = Host::new();
    let view = host.approved("/etc/motd").await;
    let signed = view.signed.clone();
    let copy = tempfile::tempdir().unwrap();
    let dir = host.close().await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    // Used, then the old database put back, on a host that was restarted for it.
    let host = Host::at(copy, Arc::new(Witnesses), "", 2, Isolation::Users);
    host.clock.reboot();
    let again = host.admin().show(&signed.permit.id).await.unwrap();
    assert_eq!(again.state, State::Expired);
    assert_eq!(code(host.execd().begin(&begin(&again, 0)).await), ErrorCode::ApprovalExpired);
    host.close().await;
}

#[tokio::test]
async fn p06_a_permit_of_one_host_or_session_does_not_fit_another() {
    let (ours, theirs) =
        (Host::new(), Host::at(tempfile::tempdir().unwrap(), Arc::new(Witnesses), "", 5, Isolation::Users));
    let view = ours.approved("/etc/motd").await;
    assert_eq!(code(theirs.execd().begin(&begin(&view, 0)).await), ErrorCode::ApprovalInvalid);
    let mut call = view.calls[0].clone();
    call["session_id"] = json!("s-2");
    let tried = RunBegin { call, permit: Some(view.signed.permit.id), position: 0 };
    assert_eq!(code(ours.execd().begin(&tried).await), ErrorCode::ApprovalInvalid);
    assert_eq!(ours.admin().show(&view.signed.permit.id).await.unwrap().state, State::Approved, "it was not used up");
    ours.close().await;
    theirs.close().await;
}

#[tokio::test]
async fn p07_every_flipped_byte_of_the_arguments_is_refused() {
    let host = Host::new();
    let view = host.approved("/etc/motd").await;
    let text = view.calls[0].to_string();
    let client = host.server.client_as("execd");
    for place in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[place] ^= 1;
        let body =
            [br#"{"permit":""#, view.signed.permit.id.to_string().as_bytes(), br#"","call":"#, &bytes, b"}"].concat();
        let (status, _) = client.exchange(Method::POST, "/run/begin", Some(body.into())).await.unwrap();
        assert!(!status.is_success(), "byte {place}");
    }
    assert!(host.execd().begin(&begin(&view, 0)).await.is_ok(), "the unchanged call runs");
    host.close().await;
}

#[tokio::test]
async fn p11_a_permit_ends_on_the_millisecond_by_either_clock() {
    for how in 0..4 {
        let host = Host::new();
        let view = host.approved("/etc/motd").await;
        match how {
            0 => host.clock.advance(Duration::from_millis(599_999)),
            1 => host.clock.advance(Duration::from_millis(600_000)),
            2 => {
                // The clock is set back after the time has passed.
                host.clock.advance(Duration::from_secs(601));
                host.clock.jump_wall(Timestamp::from_millis(0));
            }
            // Only the wall clock moved: set forward by a day.
            _ => host.clock.jump_wall(Timestamp::from_millis(1_900_000_000_000)),
        }
        let begun = host.execd().begin(&begin(&view, 0)).await.map_err(|error| error.code).map(|_| ());
        assert_eq!(begun, if how == 0 { Ok(()) } else { Err(ErrorCode::ApprovalExpired) }, "{how}");
        host.close().await;
    }
}

#[tokio::test]
async fn p12_a_denial_is_final_for_its_time_and_in_every_session() {
    let host = Host::new();
    let view = host.ask("/etc/motd").await.unwrap();
    let permit = view.signed.permit;
    let denied = host.admin().sign(&permit.id, &sign(2, &permit, Decision::Deny)).await.unwrap();
    assert_eq!((denied.state, denied.decided_by.as_deref()), (State::Denied, Some("bob")));
    assert_eq!(
        code(host.admin().sign(&permit.id, &sign(1, &permit, Decision::Approve)).await),
        ErrorCode::ApprovalDenied
    );
    assert_eq!(
        code(host.admin().sign(&permit.id, &sign(3, &permit, Decision::BreakGlass)).await),
        ErrorCode::ApprovalDenied
    );
    for session in ["s-1", "s-2"] {
        assert_eq!(code(host.admin().request(&request("/etc/motd", session)).await), ErrorCode::ApprovalDenied);
    }
    assert!(host.ask("/etc/issue").await.is_ok(), "another call is another matter");
    host.clock.advance(Duration::from_secs(601));
    assert!(host.ask("/etc/motd").await.is_ok(), "the denial's time is over");
    host.close().await;
}

#[tokio::test]
async fn p14_many_small_changes_become_one_that_needs_a_permit() {
    let host = Host::new();
    let mut results = Vec::new();
    for n in 0..40 {
        // Reversible: below a write root. Each call is asked for, then run without a permit.
        let view = host.admin().request(&request(&format!("/srv/www/{n}"), &format!("s-{n}"))).await.unwrap();
        assert_eq!(view.signed.permit.class, EffectClass::ChangeReversible);
        let free = RunBegin { permit: None, ..begin(&view, 0) };
        results.push(host.execd().begin(&free).await.map(|_| ()).map_err(|error| error.code));
    }
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 30, "the folder's quota");
    assert_eq!(results[30], Err(ErrorCode::QuotaExceeded));
    let one = |session: String| {
        let host = &host;
        async move {
            let view = host.admin().request(&request("/srv/data/one", &session)).await.unwrap();
            host.execd().begin(&RunBegin { permit: None, ..begin(&view, 0) }).await
        }
    };
    for n in 0..6 {
        one(format!("t-{n}")).await.unwrap();
    }
    assert_eq!(code(one("t-7".into()).await), ErrorCode::QuotaExceeded, "the object's quota");
    // Over the quota it runs with a permit.
    let view = host.approved("/srv/www/more").await;
    host.execd().begin(&begin(&view, 0)).await.unwrap();
    host.close().await;
}

#[tokio::test]
async fn p18_without_executor_policy_trust_or_witnesses_nothing_is_approved() {
    let host = Host::new();
    host.eyes.0.store(true, SeqCst);
    assert_eq!(code(host.ask("/etc/motd").await), ErrorCode::DaemonUnavailable);
    host.eyes.0.store(false, SeqCst);
    let view = host.approved("/etc/motd").await;
    std::fs::write(host.dir.path().join("approvals.toml"), "automatic = [\"destructive\"]\n").unwrap();
    assert_eq!(code(host.execd().begin(&begin(&view, 0)).await), ErrorCode::ConfigInvalid);
    std::fs::write(host.dir.path().join("approvals.toml"), "").unwrap();
    let trust = host.dir.path().join("trust.json");
    std::fs::write(&trust, "{}").unwrap();
    assert_eq!(code(host.execd().begin(&begin(&view, 0)).await), ErrorCode::PrincipalUnknown);
    std::fs::remove_file(&trust).unwrap();
    assert_eq!(code(host.execd().begin(&begin(&view, 0)).await), ErrorCode::PrincipalUnknown);
    assert_eq!(code(host.ask("/etc/motd").await), ErrorCode::PrincipalUnknown);
    host.close().await;

    let alone = Host::with(Arc::new(NoWitness), "break_glass = [\"root\"]\n");
    let view = alone.approved("/etc/motd").await;
    assert_eq!(code(alone.execd().begin(&begin(&view, 0)).await), ErrorCode::WitnessUnavailable);
    let id = view.signed.permit.id;
    assert_eq!(alone.admin().show(&id).await.unwrap().state, State::Approved, "the permit was not used up");
    let permit = &view.signed.permit;
    let not_named = alone.admin().sign(&id, &sign(1, permit, Decision::BreakGlass)).await;
    assert_eq!(code(not_named), ErrorCode::PrincipalDenied);
    let broken = alone.admin().sign(&id, &sign(3, permit, Decision::BreakGlass)).await.unwrap();
    assert_eq!(broken.break_glass.as_deref(), Some("root"));
    alone.execd().begin(&begin(&view, 0)).await.unwrap();
    assert!(alone.kinds().contains(&"approval.break_glass".to_owned()));
    alone.close().await;
}

/// Witnesses that are there when asked and gone when needed.
struct Fleeting;

impl HeadGate for Fleeting {
    fn ready(&self) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn witnessed(&self, intent: u64) -> Answer<'_, ()> {
        Box::pin(async move { NoWitness.witnessed(intent).await })
    }
}

#[tokio::test]
async fn witnesses_lost_after_the_intent_stop_the_effect_and_the_outcome_says_so() {
    let host = Host::with(Arc::new(Fleeting), "");
    let view = host.approved("/etc/motd").await;
    assert_eq!(code(host.execd().begin(&begin(&view, 0)).await), ErrorCode::WitnessUnavailable);
    assert_eq!(host.execd().open_runs().await.unwrap(), []);
    assert_eq!(host.kinds().last().unwrap(), "exec.run.outcome");
    host.close().await;
}

#[tokio::test]
async fn p19_a_flood_of_requests_meets_limits() {
    let host = Host::new();
    let ask = |n: u32, session: String| {
        let host = &host;
        async move { host.admin().request(&request(&format!("/etc/f{n}"), &session)).await.map_err(|error| error.code) }
    };
    let mut taken = 0;
    for n in 0..50 {
        taken += u32::from(ask(n, "s-1".into()).await.is_ok());
    }
    assert_eq!(taken, 10, "one session in one minute");
    for n in 50..300 {
        taken += u32::from(ask(n, format!("s-{n}")).await.is_ok());
    }
    assert_eq!(taken, 100, "as many as may wait");
    for hour in 0..10 {
        host.clock.advance(Duration::from_secs(3600));
        for n in 0..50 {
            taken += u32::from(ask(1000 + hour * 50 + n, format!("h-{hour}-{n}")).await.is_ok());
        }
    }
    assert!(taken <= 200, "{taken} in a day");
    host.close().await;
}

#[tokio::test]
async fn p20_a_plan_runs_its_calls_in_order_and_no_other() {
    let host = Host::new();
    let calls: Vec<AskedCall> = (0..3).map(|n| write(&format!("/etc/p{n}"))).collect();
    let plan = PlanRequest { calls, session_id: "s-1".into(), reason: String::new(), ttl_secs: None };
    let view = host.admin().plan(&plan).await.unwrap();
    let permit = &view.signed.permit;
    host.admin().sign(&permit.id, &sign(1, permit, Decision::Approve)).await.unwrap();
    let outside = host.ask("/etc/p9").await.unwrap();
    let run = async |call: &Value, position: u32| {
        let tried = RunBegin { call: call.clone(), permit: Some(permit.id), position };
        host.execd().begin(&tried).await.map(|_| ()).map_err(|error| error.code)
    };
    assert_eq!(run(&view.calls[1], 1).await, Err(ErrorCode::ApprovalInvalid), "not yet");
    assert_eq!(run(&view.calls[1], 0).await, Err(ErrorCode::ApprovalInvalid), "another order");
    assert_eq!(run(&view.calls[0], 0).await, Ok(()));
    assert_eq!(run(&view.calls[0], 0).await, Err(ErrorCode::ApprovalSpent));
    assert_eq!(run(&view.calls[0], 1).await, Err(ErrorCode::ApprovalSpent));
    assert_eq!(run(&outside.calls[0], 1).await, Err(ErrorCode::ApprovalInvalid), "one that is not in the plan");
    assert_eq!(run(&view.calls[1], 1).await, Ok(()));
    assert_eq!(run(&view.calls[2], 2).await, Ok(()));
    assert_eq!(run(&outside.calls[0], 3).await, Err(ErrorCode::ApprovalSpent), "one more");
    host.close().await;
}

#[tokio::test]
async fn p22_a_tainted_session_has_no_automatic_grave_calls_and_never_becomes_clean() {
    let host = Host::with(Arc::new(Witnesses), "automatic = [\"change_irreversible\"]\nwrite_roots = [\"/srv\"]\n");
    let taint = TaintRequest { session_id: "s-1".into(), source: "web".into() };
    let agentd = ApprovalClient::new(host.server.client_as("watch"));
    for _ in 0..2 {
        assert!(agentd.taint(&taint).await.unwrap().tainted);
    }
    assert_eq!(host.kinds(), ["session.tainted"], "once");
    let view = host.ask("/etc/motd").await.unwrap();
    assert!(view.tainted && view.display.contains("has read content from outside"));
    let free = RunBegin { permit: None, ..begin(&view, 0) };
    assert_eq!(code(host.execd().begin(&free).await), ErrorCode::ApprovalRequired);
    let session: SessionView = host.server.client().get("/session/s-2").await.unwrap();
    assert!(!session.tainted);
    host.close().await;
}

#[tokio::test]
async fn two_of_three_people_are_two_people() {
    let host = Host::with(Arc::new(Witnesses), "[approvers]\ndestructive = 2\n");
    let view = host.ask("/etc/motd").await.unwrap();
    let permit = view.signed.permit;
    let state =
        async |seed| host.admin().sign(&permit.id, &sign(seed, &permit, Decision::Approve)).await.unwrap().state;
    assert_eq!(state(1).await, State::Pending);
    assert_eq!(state(1).await, State::Pending, "the same signature again");
    assert_eq!(state(2).await, State::Approved);
    host.close().await;
}

#[tokio::test]
async fn the_reference_endpoints_keep_their_shapes_and_nothing_is_automatic() {
    let host = Host::new();
    let client = host.server.client();
    let ask = |body: Value| {
        let client = client.clone();
        async move {
            let body = serde_json::to_vec(&body).unwrap();
            let (status, answer) = client.exchange(Method::POST, "/approval/request", Some(body.into())).await.unwrap();
            (status.as_u16(), serde_json::from_slice::<Value>(&answer).unwrap())
        }
    };
    let (status, answer) = ask(json!({ "command": "ls /tmp", "reason": "look", "actor": "root" })).await;
    assert_eq!((status, &answer["status"], &answer["command"]), (201, &json!("pending"), &json!("ls /tmp")));
    assert_eq!((&answer["actor"], &answer["reason"]), (&json!("admin"), &json!("look")), "who, not who he says he is");
    let id = answer["id"].as_str().unwrap().to_owned();
    let pending: Vec<Approval> = client.get("/approval/pending").await.unwrap();
    assert_eq!((pending.len(), pending[0].id.as_str()), (1, id.as_str()));
    let one: Approval = client.get(&format!("/approval/{id}")).await.unwrap();
    let permit: Permit = host.admin().show(&id.parse::<PermitId>().unwrap()).await.unwrap().signed.permit;
    let signature = sign(1, &permit, Decision::Approve);
    let approved: Approval = client
        .post(&format!("/approval/{id}/approve"), &json!({ "decided_by": "x", "signature": signature }))
        .await
        .unwrap();
    assert_eq!((approved.status.as_str(), approved.decided_by.as_deref()), ("approved", Some("ada")));
    let again = client.post::<Approval>(&format!("/approval/{id}/approve"), &json!({})).await;
    assert_eq!(code(again), ErrorCode::NotFound);
    assert_eq!(code(client.get::<Approval>("/approval/nope").await), ErrorCode::NotFound);
    assert!(one.expires_at > one.created_at);
    for (field, value) in [
        ("ttl_secs", json!(-1)),
        ("ttl_secs", json!(i64::MAX / 1_000_000)),
        ("command", json!("x".repeat(4097))),
        ("reason", json!("x".repeat(1025))),
    ] {
        let mut body = json!({ "command": "ls", "reason": "" });
        body[field] = value;
        assert!(matches!(ask(body).await.0, 400 | 422), "{field}");
    }
    let (_, other) = ask(json!({ "command": "reboot", "reason": "" })).await;
    let denied: Approval =
        client.post(&format!("/approval/{}/deny", other["id"].as_str().unwrap()), &json!({})).await.unwrap();
    assert_eq!((denied.status.as_str(), denied.decided_by.as_deref()), ("denied", Some("admin")));
    host.close().await;
}

#[tokio::test]
async fn where_daemons_share_a_user_grave_classes_are_refused() {
    let host =
        Host::at(tempfile::tempdir().unwrap(), Arc::new(Witnesses), "write_roots = [\"/srv\"]", 2, Isolation::None);
    assert_eq!(code(host.ask("/etc/motd").await), ErrorCode::ClassRefused);
    assert!(host.ask("/srv/a").await.is_ok());
    assert_eq!(host.ledger.state().head.size, 1);
    host.close().await;
}
