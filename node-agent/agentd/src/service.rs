//! Agentd as a daemon: opens the ledger, says that it started, serves, closes.
//!
//! Invariant: nothing is served before the whole chain was verified and the
//! `daemon.start` row is durable; a broken chain or an unwritable ledger ends
//! the start.

use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::boot::{Boot, BootError, Daemon, Service};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::CallerTable;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{BlockingFailed, TaskKind, Tasks};
use osmoda_kit::version::VERSION;
use osmoda_node_api::approval_files::{POLICY_NAME, store_trust};
use osmoda_node_api::execd::ExecdClient;
use osmoda_node_api::fleet::FleetClient;
use osmoda_node_api::mesh::MeshClient;
use osmoda_permit::trust::TRUST_FILE;
use osmoda_types::PublicKey;
use serde_json::{Map, json};

use crate::api::{self, Api};
use crate::approval::{Approvals, Parts};
use crate::checkpoint::{self, Checkpoints, OpenAll, Rhythm, Watchman};
use crate::config::Config;
use crate::ledger::verify::Report;
use crate::ledger::{Ledger, LedgerThreads, StoreError, WriterOptions};
use crate::parts;
use crate::reads::{self, ReadsParts};
use crate::retention::{Keep, Retention};
use crate::subkey::Registration;
use crate::witness::{self, WitnessGate};

/// Between two looks for trust: execd may not be up yet, the node not enrolled.
const TRUST_EVERY: Duration = Duration::from_secs(10);

/// The newest rows that retention never drops, however large they are.
const KEPT_ROWS: u64 = 4096;

/// The daemon.
#[derive(Debug)]
pub struct Agentd;

/// Why the ledger did not close in order.
#[derive(Debug, thiserror::Error)]
enum CloseError {
    #[error("the ledger failed")]
    Store(#[from] StoreError),
    #[error("the ledger was not closed")]
    Blocking(#[from] BlockingFailed),
}

impl Daemon for Agentd {
    const NAME: &'static str = "agentd";
    type Config = Config;

    /// One: with two, each wakes the other to look for more work whenever it gets
    /// some, which was a sixth of the time of an append that is alone (`bench ledger`).
    /// No handler computes for long here: files are read, and rows hashed and written,
    /// on threads of their own.
    const WORKERS: usize = 1;

    fn callers() -> CallerTable {
        osmoda_node_api::callers::AGENTD
    }

    async fn build(cx: Boot, config: Config) -> Result<Service, BootError> {
        let reserve_bytes = u64::from(config.ledger.reserve_mebibytes) << 20;
        let options = WriterOptions { reserve_bytes, ..WriterOptions::default() };
        let open = OpenAll { state_dir: cx.state_dir(), options, clock: cx.clock() };
        let opened = cx.tasks().blocking("open ledger", move || open.open()).await.map_err(ApiError::internal)?;
        let (opened, threads) = opened.map_err(ApiError::from)?;
        let (ledger, report) = (opened.ledger.clone(), opened.report.clone());
        cx.tasks().spawn(TaskKind::STORE, "ledger", keep(ledger.clone(), threads, cx.tasks().clone()));
        tracing::info!(rows = report.total, "ledger verified");
        if report.intent_faults > 0 {
            tracing::warn!(acts = report.intent_faults, "ledger holds acts without intent");
        }
        match ledger.sealed() {
            // It serves what it has, as evidence, and records nothing.
            Some(reason) => tracing::error!(reason, "the ledger is sealed: it takes no rows until a person has looked"),
            None => {
                record_start(&ledger, &cx, &report).await?;
                record_lifted(&ledger, &cx).await?;
            }
        }
        let key = opened.key.clone();
        make_key_known(&cx, PublicKey::from_bytes(key.public()));
        let signing = Checkpoints::new(opened, cx.tasks().clone(), cx.isolation(), Rhythm::default());
        let (checkpoints, signing) = signing.map_err(ApiError::from)?;
        cx.tasks().spawn(TaskKind::REQUEST, "ledger checkpoints", signing.run());
        let (watchman, watched) = Watchman::new(cx.state_dir(), cx.clock(), cx.tasks().clone());
        let watchman = watchman.every(Duration::from_secs(config.ledger.verify_every_seconds.into()));
        cx.tasks().spawn(TaskKind::BACKGROUND, "ledger watchman", watchman.run());
        let witnessing = witness::start(&cx, &ledger, &checkpoints, key, watched.clone()).await?;
        let gate = witnessing.gate.clone();
        let approvals = approvals(&ledger, &cx, witnessing.gate);
        cx.tasks().spawn(TaskKind::BACKGROUND, "inherited trust", inherit_trust(cx.clone()));
        approvals.start_sweep();
        let (parts, memory) = parts::start(&ledger, &approvals, (&checkpoints, &gate), &cx, &config).await?;
        let retention = retention(&ledger, &checkpoints, gate, &cx, &config);
        // The index has the words of rows that are gone; it is made anew without them.
        let retaining = retention.run(cx.tasks().clone(), move || memory.rebuild());
        cx.tasks().spawn(TaskKind::REQUEST, "ledger retention", retaining);
        let api = Api::new(ledger.clone(), cx.tasks().clone()).map_err(ApiError::internal)?;
        let api = api.with_checks(checkpoints.clone(), watched);
        let router = api.router().merge(approvals.router()).merge(checkpoint::router(checkpoints));
        let router = router.merge(witnessing.router).merge(parts);
        let reads = ReadsParts { ledger, callers: cx.callers(), clock: cx.clock(), tasks: cx.tasks().clone() };
        Ok(Service::new(reads::observe(router, reads)).telling_refusals_itself())
    }
}

/// What the configuration says about old rows.
fn retention(ledger: &Ledger, checkpoints: &Checkpoints, gate: WitnessGate, cx: &Boot, config: &Config) -> Retention {
    let (days, mebibytes) = (u64::from(config.retention.days), config.retention.mebibytes);
    let keep = Keep {
        age: (days > 0).then(|| Duration::from_secs(days * 24 * 3600)),
        bytes: (mebibytes > 0).then_some(mebibytes << 20),
        rows: KEPT_ROWS,
    };
    let (ledger, checkpoints) = (ledger.clone(), checkpoints.clone());
    Retention { ledger, checkpoints, gate, clock: cx.clock(), keep, isolation: cx.isolation() }
}

/// Approvals over the daemon's own files and the executor's socket.
fn approvals(ledger: &Ledger, cx: &Boot, gate: WitnessGate) -> Approvals {
    Approvals::new(Parts {
        ledger: ledger.clone(),
        clock: cx.clock(),
        tasks: cx.tasks().clone(),
        state_dir: cx.state_dir(),
        policy: cx.paths().config(POLICY_NAME),
        resolver: Arc::new(ExecdClient::new(cx.client("execd"))),
        gate: Arc::new(gate),
        isolation: cx.isolation(),
    })
}

fn make_key_known(cx: &Boot, key: PublicKey) {
    let registration = Registration {
        key,
        mesh: MeshClient::new(cx.client("mesh")),
        fleet: FleetClient::new(cx.client("fleetd")),
        shutdown: cx.shutdown().clone(),
    };
    cx.tasks().spawn(TaskKind::REQUEST, "ledger key to the fleet", registration.run());
}

/// Holds the ledger open until the stop reaches its stores, or until it fails.
async fn keep(ledger: Ledger, threads: LedgerThreads, tasks: Tasks) -> Result<(), CloseError> {
    let close = tasks.shutdown().token(Stage::CloseStores);
    tokio::select! {
        biased;
        // Cancel-safe: a token's state is not consumed.
        () = close.cancelled() => {}
        // Cancel-safe: it only watches.
        () = ledger.failed() => {}
    }
    Ok(tasks.blocking("close ledger", move || threads.close()).await??)
}

async fn record_start(ledger: &Ledger, cx: &Boot, report: &Report) -> Result<(), ApiError> {
    let payload = Map::from_iter([
        ("version".to_owned(), json!(VERSION.version)),
        ("commit".to_owned(), json!(VERSION.commit)),
        ("dirty".to_owned(), json!(VERSION.dirty)),
        ("verified".to_owned(), json!(report.verified)),
    ]);
    let row = api::new_row("daemon.start".to_owned(), payload, cx.name(), cx.isolation())?;
    ledger.append(row).await.map_err(api::ledger_error)?;
    Ok(())
}

/// A person opened a sealed ledger: a row says so before the file is forgotten.
async fn record_lifted(ledger: &Ledger, cx: &Boot) -> Result<(), ApiError> {
    let seal = Arc::clone(ledger.seal_file());
    let lifted = cx.tasks().blocking("read seal", move || seal.lifted()).await.map_err(ApiError::internal)?;
    let Some(reason) = lifted else { return Ok(()) };
    let payload = Map::from_iter([("reason".to_owned(), json!(reason))]);
    let row = api::new_row("ledger.unsealed".to_owned(), payload, cx.name(), cx.isolation())?;
    ledger.append(row).await.map_err(api::ledger_error)?;
    tracing::warn!(reason, "a sealed ledger was opened by hand");
    let seal = Arc::clone(ledger.seal_file());
    cx.tasks().blocking("forget seal", move || seal.forget_lifted()).await.map_err(ApiError::internal)??;
    Ok(())
}

/// A node enrolled before there were approvals has no trust here: the executor,
/// which is root, has it from watch. What is there is never touched.
async fn inherit_trust(cx: Boot) {
    let executor = ExecdClient::new(cx.client("execd"));
    let mut tick = tokio::time::interval(TRUST_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let state_dir = cx.state_dir();
        if state_dir.join(TRUST_FILE).exists() {
            return;
        }
        let Ok(trust) = executor.trusted().await else { continue };
        let operators = trust.operators.len();
        match cx.tasks().blocking("write trust", move || store_trust(&state_dir, &trust)).await {
            Ok(Ok(())) => {
                tracing::warn!(operators, "this node was enrolled before approvals: it trusts watch's operators now");
            }
            Ok(Err(error)) => tracing::warn!(code = %error.code, "trust not written"),
            Err(error) => tracing::warn!(%error, "trust not written"),
        }
    }
}
