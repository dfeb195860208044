//! What a permit binds, and that it is used once.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use osmoda_kit::clock::{Clock as _, Timestamp};
use osmoda_kit::http::Isolation;
use osmoda_kit::testing::wait_for;
use osmoda_node_api::approval::{RunBegin, RunEnd, RunOutcome};
use osmoda_node_api::approval_files::{load_trust, store_trust};
use osmoda_permit::signature::SSH_NAMESPACE;
use osmoda_permit::testing::{sign, ssh_sign};
use osmoda_permit::{ApproverSignature, Decision, EffectClass, HostTrust, Proof, State};
use osmoda_types::ErrorCode;
use serde_json::json;

use crate::host::{Host, Witnesses, begin, code, patiently};

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
    for how in 0..5 {
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
            // The host slept: the boot clock went on, and the wall clock was set back.
            3 => {
                let before = host.clock.now_wall();
                host.clock.advance(Duration::from_millis(600_000));
                host.clock.jump_wall(before);
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

/// Text before the armour is signed by nobody: with another one it is the same
/// signature, and neither fills the permit nor keeps others from being counted.
#[tokio::test]
async fn a_signature_handed_in_again_with_other_text_around_it_adds_nothing() {
    let host = Host::with(Arc::new(Witnesses), "[approvers]\ndestructive = 2\n");
    let permit = host.ask("/etc/motd").await.unwrap().signed.permit;
    let plain = ssh_sign(1, &permit, Decision::Approve, SSH_NAMESPACE);
    let Proof::Ssh { armored } = &plain.proof else { panic!("{plain:?}") };
    for n in 0..40 {
        let proof = Proof::Ssh { armored: format!("{}\n{armored}", n.to_string().repeat(1000)) };
        let varied = ApproverSignature { decision: plain.decision, proof };
        let view = host.admin().sign(&permit.id, &varied).await.unwrap();
        assert_eq!((view.state, view.signed.signatures), (State::Pending, vec![plain.clone()]));
    }
    // The same person's key by another program.
    host.admin().sign(&permit.id, &sign(1, &permit, Decision::Approve)).await.unwrap();
    assert_eq!(host.kinds(), ["approval.requested", "approval.signed"]);
    let view = host.admin().sign(&permit.id, &sign(2, &permit, Decision::Approve)).await.unwrap();
    assert_eq!((view.state, view.signed.signatures.len()), (State::Approved, 2));
    host.execd().begin(&begin(&view, 0)).await.unwrap();
    host.close().await;
}

/// Who signed and is an approver no more has not signed: the trust file that counts
/// is the one of now.
#[tokio::test]
async fn the_signature_of_an_approver_who_was_revoked_counts_no_more() {
    let host = Host::new();
    let view = host.approved("/etc/motd").await;
    let trust = load_trust(host.dir.path()).unwrap();
    let operators = trust.operators.iter().filter(|one| one.name != "ada").cloned().collect();
    store_trust(host.dir.path(), &HostTrust { operators, ..trust.clone() }).unwrap();
    assert_eq!(code(host.execd().begin(&begin(&view, 0)).await), ErrorCode::ApprovalInvalid);
    let shown = host.admin().show(&view.signed.permit.id).await.unwrap();
    assert_eq!((shown.state, shown.approved_by.len()), (State::Approved, 0), "it was not used up");
    // With them back it is theirs again.
    store_trust(host.dir.path(), &trust).unwrap();
    host.execd().begin(&begin(&view, 0)).await.unwrap();
    host.close().await;
}

/// Two days after its end a permit leaves the tables; what it was stays in the
/// ledger, and it runs as little as before. One that is open, or has an open run, stays.
#[tokio::test]
async fn old_permits_are_removed_and_cannot_be_replayed() {
    let host = Host::new();
    let (used, open) = (host.approved("/etc/a").await, host.approved("/etc/b").await);
    for view in [&used, &open] {
        host.execd().begin(&begin(view, 0)).await.unwrap();
    }
    let run = host.execd().open_runs().await.unwrap()[0].run;
    host.execd().end(&RunEnd { run, outcome: RunOutcome::Done, detail: String::new() }).await.unwrap();
    host.clock.advance(Duration::from_secs(24 * 3600));
    host.approvals.start_sweep().abort();
    host.clock.advance(Duration::from_secs(2 * 24 * 3600));
    host.approvals.start_sweep();
    let pruned = || async { host.kinds().contains(&"approval.pruned".to_owned()).then_some(()) };
    wait_for("the row", Duration::from_secs(20), pruned).await;
    assert_eq!(code(host.admin().show(&used.signed.permit.id).await), ErrorCode::NotFound);
    assert_eq!(host.admin().show(&open.signed.permit.id).await.unwrap().state, State::Consumed);
    assert_eq!(code(host.execd().begin(&begin(&used, 0)).await), ErrorCode::NotFound);
    assert_eq!(code(host.execd().begin(&begin(&open, 0)).await), ErrorCode::ApprovalSpent);
    host.close().await;
}
