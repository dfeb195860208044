//! Who and what is refused, whatever is signed.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use osmoda_agentd::approval::Answer;
use osmoda_agentd::approval::gate::{HeadGate, NoWitness};
use osmoda_agentd::ledger::file::{FILE_NAME, LedgerFile};
use osmoda_kit::boot::Daemon;
use osmoda_kit::clock::Timestamp;
use osmoda_kit::http::{Isolation, MODEL_UID_FIRST};
use osmoda_kit::shutdown::StopReason;
use osmoda_kit::testing::wait_for;
use osmoda_node_api::agentd::EventQuery;
use osmoda_node_api::approval::{Approval, AskedCall, PermitRequest, PlanRequest, RunBegin};
use osmoda_permit::testing::sign;
use osmoda_permit::{Decision, EffectClass, State};
use osmoda_types::ErrorCode;
use serde_json::json;

use crate::host::{Host, Witnesses, begin, code, request, write};

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
    assert_eq!(host.kinds().iter().filter(|kind| *kind == "approval.refused").count(), 1, "two of one kind");
    host.close().await;
}

#[tokio::test]
async fn p19_attempts_to_approve_are_counted_and_do_not_grow_the_ledger() {
    let host = Host::new();
    let id = host.ask("/etc/motd").await.unwrap().signed.permit.id;
    let admin = host.server.client();
    for _ in 0..50 {
        let answer: Approval = admin.post(&format!("/approval/{id}/approve"), &json!({})).await.unwrap();
        assert_eq!(answer.status, "pending");
    }
    let refused = || host.kinds().iter().filter(|kind| *kind == "approval.refused").count();
    assert_eq!(refused(), 1, "the first, before its answer");
    host.clock.advance(Duration::from_secs(61));
    host.approvals.start_sweep();
    wait_for("the count", Duration::from_secs(20), || async { (refused() == 2).then_some(()) }).await;
    let file = LedgerFile::open(&host.dir.path().join(FILE_NAME)).unwrap();
    let query = EventQuery { kind: Some("approval.refused".into()), ..EventQuery::default() };
    assert!(file.events(&query).unwrap().events[0].payload.contains("\"count\":49"));
    host.close().await;
}

/// What was counted and is not due yet is written before the ledger closes.
#[tokio::test]
async fn attempts_to_approve_that_were_counted_are_written_at_a_stop() {
    let host = Host::new();
    let id = host.ask("/etc/motd").await.unwrap().signed.permit.id;
    host.approvals.start_sweep();
    for _ in 0..5 {
        let path = format!("/approval/{id}/approve");
        let _answer: Approval = host.server.client().post(&path, &json!({})).await.unwrap();
    }
    host.tasks.shutdown().request(StopReason::Asked("test".to_owned()));
    assert!(host.tasks.drain(Duration::from_secs(20)).await.is_graceful());
    let file = LedgerFile::open(&host.dir.path().join(FILE_NAME)).unwrap();
    let query = EventQuery { kind: Some("approval.refused".into()), ..EventQuery::default() };
    let counts: Vec<String> = file.events(&query).unwrap().events.into_iter().map(|event| event.payload).collect();
    assert!(counts.len() == 2 && counts[0].contains("\"count\":4"), "{counts:?}");
    host.close().await;
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

/// A call that needs no permit may be asked for all the same; a no to it is a no.
#[tokio::test]
async fn p12_a_denied_call_does_not_run_without_a_permit_either() {
    let host = Host::new();
    let view = host.ask("/srv/www/a").await.unwrap();
    assert_eq!(view.signed.permit.class, EffectClass::ChangeReversible);
    let permit = &view.signed.permit;
    host.admin().sign(&permit.id, &sign(2, permit, Decision::Deny)).await.unwrap();
    let free = RunBegin { permit: None, ..begin(&view, 0) };
    assert_eq!(code(host.execd().begin(&free).await), ErrorCode::ApprovalDenied);
    assert_eq!(host.execd().open_runs().await.unwrap(), []);
    host.clock.advance(Duration::from_secs(601));
    host.execd().begin(&free).await.unwrap();
    host.close().await;
}

#[tokio::test]
async fn p12_a_denial_reaches_every_permit_of_the_call_and_is_never_shortened() {
    let host = Host::new();
    let long = PermitRequest { ttl_secs: Some(3600), ..request("/etc/motd", "s-1") };
    let first = host.admin().request(&long).await.unwrap().signed.permit;
    let waiting = host.ask("/etc/motd").await.unwrap().signed.permit;
    let approved = host.approved("/etc/motd").await;
    host.admin().sign(&first.id, &sign(2, &first, Decision::Deny)).await.unwrap();
    // The shorter denial of another request of the same call takes nothing from it.
    host.admin().sign(&waiting.id, &sign(2, &waiting, Decision::Deny)).await.unwrap();
    assert_eq!(code(host.execd().begin(&begin(&approved, 0)).await), ErrorCode::ApprovalDenied, "approved before");
    let permit = &approved.signed.permit;
    let again = host.admin().sign(&permit.id, &sign(3, permit, Decision::BreakGlass)).await;
    assert_eq!(code(again), ErrorCode::ApprovalDenied, "not even the glass opens it");
    host.clock.advance(Duration::from_secs(601));
    assert_eq!(code(host.ask("/etc/motd").await), ErrorCode::ApprovalDenied, "the longer denial holds");
    host.clock.advance(Duration::from_secs(3000));
    assert!(host.ask("/etc/motd").await.is_ok());
    host.close().await;
}

/// Who asks says how long a permit lives; not how long a no to it does.
#[tokio::test]
async fn p12_a_short_life_does_not_make_a_short_denial() {
    let host = Host::new();
    let short = PermitRequest { ttl_secs: Some(5), ..request("/etc/motd", "s-1") };
    let permit = host.admin().request(&short).await.unwrap().signed.permit;
    host.admin().sign(&permit.id, &sign(2, &permit, Decision::Deny)).await.unwrap();
    for wait in [6, 593] {
        host.clock.advance(Duration::from_secs(wait));
        assert_eq!(code(host.ask("/etc/motd").await), ErrorCode::ApprovalDenied, "{wait} more seconds");
    }
    host.clock.advance(Duration::from_secs(1));
    assert!(host.ask("/etc/motd").await.is_ok());
    host.close().await;
}

/// The sweep removes what is over; a wall clock that was set forward ends no denial.
#[tokio::test]
async fn p12_a_clock_set_forward_does_not_sweep_a_denial_away() {
    let host = Host::new();
    let permit = host.ask("/etc/motd").await.unwrap().signed.permit;
    host.admin().sign(&permit.id, &sign(2, &permit, Decision::Deny)).await.unwrap();
    host.clock.jump_wall(Timestamp::from_millis(permit.not_after.wall_ms + 3 * 24 * 3_600_000));
    host.approvals.start_sweep();
    let pruned = || async { host.kinds().contains(&"approval.pruned".to_owned()).then_some(()) };
    wait_for("the row", Duration::from_secs(20), pruned).await;
    assert_eq!(code(host.ask("/etc/motd").await), ErrorCode::ApprovalDenied);
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
    host.blind(Some(ErrorCode::DaemonUnavailable));
    assert_eq!(code(host.ask("/etc/motd").await), ErrorCode::DaemonUnavailable);
    host.blind(None);
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
    // Said no to after the glass was broken, it stays one whose glass was broken.
    let view = alone.approved("/etc/issue").await;
    let permit = &view.signed.permit;
    alone.admin().sign(&permit.id, &sign(3, permit, Decision::BreakGlass)).await.unwrap();
    let denied = alone.admin().sign(&permit.id, &sign(1, permit, Decision::Deny)).await.unwrap();
    assert_eq!((denied.state, denied.break_glass.as_deref()), (State::Denied, Some("root")));
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

/// Whom a limit or a denial refuses makes root look at nothing.
#[tokio::test]
async fn p19_limits_and_denials_are_asked_before_anything_is_looked_at() {
    let host = Host::new();
    let permit = host.ask("/etc/motd").await.unwrap().signed.permit;
    host.admin().sign(&permit.id, &sign(2, &permit, Decision::Deny)).await.unwrap();
    for n in 1..10 {
        host.ask(&format!("/etc/f{n}")).await.unwrap();
    }
    assert_eq!(host.eyes.1.load(SeqCst), 10);
    assert_eq!(code(host.ask("/etc/f10").await), ErrorCode::QuotaExceeded);
    let plan = |path: &str| PlanRequest {
        calls: (0..64).map(|n| write(&format!("{path}{n}"))).collect(),
        session_id: "s-1".into(),
        reason: String::new(),
        ttl_secs: None,
    };
    assert_eq!(code(host.admin().plan(&plan("/etc/p")).await), ErrorCode::QuotaExceeded);
    assert_eq!(code(host.admin().request(&request("/etc/motd", "s-2")).await), ErrorCode::ApprovalDenied);
    assert_eq!(host.eyes.1.load(SeqCst), 10);
    host.close().await;
}

/// What is refused after a look leaves no permit, and is counted all the same.
#[tokio::test]
async fn p19_what_is_refused_by_its_form_is_not_looked_at_and_what_fails_counts() {
    let host = Host::new();
    let plan = PlanRequest {
        calls: (0..64).map(|n| write(&format!("/etc/p{n}"))).collect(),
        session_id: "s-1".into(),
        reason: String::new(),
        ttl_secs: None,
    };
    let asked = async |plan: PlanRequest| code(host.admin().plan(&plan).await);
    assert_eq!(asked(PlanRequest { ttl_secs: Some(1), ..plan.clone() }).await, ErrorCode::BadRequest);
    assert_eq!(asked(PlanRequest { reason: "x".repeat(2000), ..plan.clone() }).await, ErrorCode::BadRequest);
    assert_eq!(host.eyes.1.load(SeqCst), 0);
    // Where nobody looked nothing is counted: a busy executor locks nobody out.
    for code in [ErrorCode::Busy, ErrorCode::DaemonUnavailable] {
        host.blind(Some(code));
        for _ in 0..11 {
            assert_eq!(asked(plan.clone()).await, code);
        }
    }
    assert_eq!(host.eyes.1.swap(0, SeqCst), 22);
    host.blind(Some(ErrorCode::NotFound));
    for _ in 0..10 {
        assert_eq!(asked(plan.clone()).await, ErrorCode::NotFound);
    }
    assert_eq!(host.eyes.1.load(SeqCst), 10);
    assert_eq!(asked(plan.clone()).await, ErrorCode::QuotaExceeded);
    host.blind(None);
    assert_eq!(code(host.ask("/etc/motd").await), ErrorCode::QuotaExceeded);
    assert_eq!(host.eyes.1.load(SeqCst), 10);
    host.admin().request(&request("/etc/motd", "s-2")).await.unwrap();
    host.clock.advance(Duration::from_secs(60));
    for n in 0..10 {
        host.ask(&format!("/etc/f{n}")).await.unwrap();
    }
    assert_eq!(code(host.ask("/etc/more").await), ErrorCode::QuotaExceeded, "what came to a permit counts once");
    host.close().await;
}

/// What is taken can be read again, and run: with its frame it stays below the
/// limit of every text it is in. Two quotes are four bytes.
#[tokio::test]
async fn p19_a_call_too_large_to_be_read_again_is_not_taken() {
    let host = Host::new();
    let with = |quotes: usize| {
        let args = json!({ "path": "/etc/motd", "content": "\"".repeat(quotes) });
        let call = AskedCall { tool: "file.write".into(), args };
        PermitRequest { call, ..request("/etc/motd", "s-1") }
    };
    assert_eq!(code(host.admin().request(&with(64 * 1024 - 64)).await), ErrorCode::TooLarge);
    assert_eq!(code(host.admin().request(&with(48 * 1024)).await), ErrorCode::TooLarge);
    assert_eq!(host.admin().list().await.unwrap(), []);
    let view = host.admin().request(&with(47 * 1024)).await.unwrap();
    let permit = &view.signed.permit;
    let view = host.admin().sign(&permit.id, &sign(1, permit, Decision::Approve)).await.unwrap();
    assert_eq!(host.admin().list().await.unwrap().len(), 1);
    host.execd().begin(&begin(&view, 0)).await.unwrap();
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
