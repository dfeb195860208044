//! Clients that ask for permits, sign them and consume each twice at once, until
//! the daemon is gone; and what the ledger says came of it.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "helpers of tests: what surprised is what is wanted")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use osmoda_agentd::ledger::file::{FILE_NAME, FileError, LedgerFile};
use osmoda_kit::http::Credentials;
use osmoda_kit::testing::TempRoot;
use osmoda_node_api::approval::{ApprovalClient, AskedCall, PermitRequest, PermitView, RunBegin};
use osmoda_permit::Decision;
use osmoda_permit::testing::sign;
use osmoda_types::ErrorCode;
use serde_json::{Value, json};

use crate::process::{Tokens, client};

/// What became of one permit.
pub struct Tried {
    pub view: PermitView,
    pub acknowledged: Vec<u64>,
}

#[derive(Clone)]
pub struct Clients {
    pub admin: ApprovalClient,
    pub execd: ApprovalClient,
}

impl Clients {
    pub fn new(root: &TempRoot, tokens: &Tokens) -> Self {
        let of = |credentials| ApprovalClient::new(client(root, credentials));
        Self { admin: of(Credentials::none()), execd: of(tokens.credentials("execd")) }
    }

    /// Asks, signs, and tries to consume twice at once, until the daemon is gone.
    pub async fn work(&self, name: String, consumed: &AtomicUsize) -> Vec<Tried> {
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
    pub async fn again(&self, tried: &mut Tried) {
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

/// No permit was consumed twice, none that was acknowledged is lost. Returns how
/// many were consumed.
pub fn check_permits(root: &TempRoot, all: &[Tried]) -> usize {
    let intents = intents(root);
    let mut used = 0;
    for tried in all {
        let id = tried.view.signed.permit.id.to_string();
        let rows = intents.get(&id).cloned().unwrap_or_default();
        assert!(rows.len() <= 1, "{id} was consumed {} times", rows.len());
        assert!(tried.acknowledged.len() <= 1, "{id} was acknowledged twice");
        assert!(tried.acknowledged.iter().all(|run| rows.contains(run)), "{id}: an acknowledged run is lost");
        used += rows.len();
    }
    used
}
