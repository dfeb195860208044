//! "Busy" says that nothing was done: what is durable is told, however many read.

use std::convert::Infallible;
use std::future::pending;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use futures_util::FutureExt as _;
use osmoda_agentd::ledger::payload::Payload;
use osmoda_agentd::ledger::{Ledger, LedgerError, NewRow};
use osmoda_kit::testing::wait_for;
use osmoda_node_api::approval::{Approval, TaintRequest};
use osmoda_permit::testing::sign;
use osmoda_permit::{Decision, State};
use osmoda_types::ErrorCode;
use serde_json::json;

use crate::host::{Host, code};

const LIMIT: Duration = Duration::from_secs(20);

/// Takes the reader and every place before it, until the gate opens. A read whose asker
/// has left keeps its place.
fn crowd(ledger: &Ledger, gate: Receiver<()>) {
    let (begins, has_begun) = sync_channel(1);
    let held = ledger.read(move |_| {
        begins.send(()).unwrap();
        assert!(gate.recv().is_err());
    });
    assert!(held.now_or_never().is_none());
    has_begun.recv().unwrap();
    for _ in 0..16 {
        assert!(ledger.read(|_| ()).now_or_never().is_none());
    }
    assert_eq!(ledger.read(|_| ()).now_or_never(), Some(Err(LedgerError::Busy)));
}

async fn written(ledger: &Ledger, rows: u64) {
    wait_for("the row", LIMIT, || async { (ledger.state().head.size >= rows).then_some(()) }).await;
}

/// Does what records so many rows, each in its turn while no more reads are taken: they
/// are from the row's transaction until it is durable.
async fn in_a_crowd<T>(host: &Host, rows: u64, work: impl Future<Output = T>) -> T {
    let before = host.ledger.state().head.size;
    let crowded = |_| {
        let ((opens, gate), ledger) = (sync_channel::<()>(0), host.ledger.clone());
        host.looked.leave(move || crowd(&ledger, gate));
        opens
    };
    let gates: Vec<_> = (0..rows).map(crowded).collect();
    let open = async {
        for (row, gate) in (before + 1..).zip(gates) {
            written(&host.ledger, row).await;
            drop(gate);
        }
        pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        // Dropping the gates opens them: the work is over.
        told = work => told,
        // It never ends by itself.
        never = open => match never {},
    }
}

#[tokio::test]
async fn signatures_denials_and_taints_that_were_recorded_are_told() {
    let host = Host::new();
    let permit = host.ask("/etc/motd").await.unwrap().signed.permit;
    let (admin, approve) = (host.admin(), sign(1, &permit, Decision::Approve));
    let approved = in_a_crowd(&host, 2, admin.sign(&permit.id, &approve)).await.unwrap();
    assert_eq!(approved.state, State::Approved, "a signature that is kept is not left without its approval");
    let permit = host.ask("/etc/issue").await.unwrap().signed.permit;
    let deny = sign(2, &permit, Decision::Deny);
    assert_eq!(in_a_crowd(&host, 1, admin.sign(&permit.id, &deny)).await.unwrap().state, State::Denied);
    let id = host.ask("/etc/hosts").await.unwrap().signed.permit.id;
    let (client, path) = (host.server.client(), format!("/approval/{id}/deny"));
    let nothing = json!({});
    let denied: Approval = in_a_crowd(&host, 1, client.post(&path, &nothing)).await.unwrap();
    assert_eq!(denied.status, "denied");
    let taint = TaintRequest { session_id: "s-1".into(), source: "web".into() };
    assert!(in_a_crowd(&host, 1, admin.taint(&taint)).await.unwrap().tainted);
    host.close().await;
}

/// Handed in again it does what it did not the first time, in a crowd too.
#[tokio::test]
async fn a_signature_that_was_kept_is_not_told_to_have_been_busy() {
    let host = Host::new();
    let permit = host.ask("/etc/motd").await.unwrap().signed.permit;
    let (admin, approve) = (host.admin(), sign(1, &permit, Decision::Approve));
    let rows = host.ledger.state().head.size;
    let (reader, gate) = sync_channel::<()>(0);
    let ledger = host.ledger.clone();
    host.looked.leave(move || crowd(&ledger, gate));
    // Somebody else's row holds the writer, while as many wait for it as may.
    let ((writer, hold), (begins, has_begun)) = (sync_channel::<()>(0), tokio::sync::oneshot::channel());
    host.looked.leave(move || {
        begins.send(()).unwrap();
        assert!(hold.recv().is_err());
    });
    let taint = TaintRequest { session_id: "s-1".into(), source: "web".into() };
    let other = async {
        written(&host.ledger, rows + 1).await;
        admin.taint(&taint).await
    };
    let full = async {
        has_begun.await.unwrap();
        let row =
            || NewRow::new("x".to_owned(), "me".to_owned(), Payload::new(&serde_json::Map::new()).unwrap()).unwrap();
        let taken = (0..).take_while(|_| host.ledger.append(row()).now_or_never().is_none()).count();
        drop(reader);
        rows + 2 + u64::try_from(taken).unwrap()
    };
    let signed = async {
        let signed = admin.sign(&permit.id, &approve).await;
        drop(writer);
        signed
    };
    let (signed, tainted, rows) = tokio::join!(signed, other, full);
    assert_eq!(code(signed), ErrorCode::LedgerUnavailable);
    assert!(tainted.unwrap().tainted);
    written(&host.ledger, rows).await;
    let kept = admin.show(&permit.id).await.unwrap();
    assert_eq!((kept.state, kept.approved_by.as_slice()), (State::Pending, ["ada".to_owned()].as_slice()));
    let approved = in_a_crowd(&host, 1, admin.sign(&permit.id, &approve)).await.unwrap();
    assert_eq!(approved.state, State::Approved);
    host.close().await;
}
