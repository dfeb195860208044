//! Backups and the card over a real socket, with the earlier product's shapes.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use common::{Host, LIMIT, admin, exchange, has_keys};
use futures_util::future::{BoxFuture, FutureExt};
use osmoda_agentd::approval::gate::HeadGate;
use osmoda_agentd::approval::{Answer, Approvals, Parts, Resolver};
use osmoda_agentd::backup::{self, BackupSettings, Backups, Maker, Restoring};
use osmoda_agentd::card::{self, Card};
use osmoda_agentd::ledger::file::LedgerFile;
use osmoda_agentd::witness::Coverage;
use osmoda_backup::{Archive, Limits, Listed, Plan, Source};
use osmoda_kit::clock::Clock;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Credentials, Isolation, UnixClient, testing::TestServer};
use osmoda_kit::testing::{FakeClock, wait_for};
use osmoda_node_api::agentd::EventQuery;
use osmoda_node_api::agentd_backup::Backup;
use osmoda_node_api::agentd_card::{CardService, CardWitnesses, GenerateCard};
use osmoda_node_api::approval::AskedCall;
use osmoda_node_api::approval_files::store_trust;
use osmoda_node_api::execd::{ExecdClient, MadeBackup};
use osmoda_permit::HostTrust;
use osmoda_types::{ErrorCode, NetworkId, NodeId};
use serde_json::{Map, Value, json};

/// The executor's part, over the folder of the test's ledger alone.
struct Copies {
    archive: Archive,
    plan: Plan,
    clock: Arc<FakeClock>,
}

fn shown(listed: Listed) -> Backup {
    Backup {
        backup_id: listed.id,
        path: listed.path.display().to_string(),
        size_bytes: listed.bytes,
        created_at: listed.created_at.to_string(),
        files: listed.files as u64,
        manifest_sha256: listed.manifest_sha256,
    }
}

impl Maker for Copies {
    fn create(&self) -> BoxFuture<'_, Result<MadeBackup, ApiError>> {
        let made = self.archive.create(&self.plan, self.clock.now_wall()).map_err(ApiError::from);
        let made =
            made.map(|(listed, left)| MadeBackup { backup: shown(listed), left_out: left.left_out.len() as u64 });
        async { made }.boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Backup>, ApiError>> {
        let listed = self.archive.list().map_err(ApiError::from);
        async { Ok(listed?.into_iter().map(shown).collect()) }.boxed()
    }
}

fn backups(host: &Host, every: Option<Duration>) -> Backups {
    let source = Source { name: "agentd".to_owned(), folder: host.dir.path().to_owned() };
    let copies = Copies {
        archive: Archive::new(host.dir.path().join("backups"), 7),
        plan: Plan { sources: vec![source], limits: Limits::default() },
        clock: Arc::clone(&host.clock),
    };
    let settings = BackupSettings { maker: Arc::new(copies), every, isolation: Isolation::None };
    Backups::new(settings, host.ledger.clone(), host.clock.clone(), host.tasks.clone())
}

/// Nobody can be asked for a look at anything.
struct Blind;

impl Resolver for Blind {
    fn resolve<'a>(&'a self, _: &'a AskedCall) -> Answer<'a, Map<String, Value>> {
        Box::pin(async { Err(ApiError::new(ErrorCode::Unsupported, "nothing to look at")) })
    }
}

impl HeadGate for Blind {
    fn ready(&self) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn witnessed(&self, _: u64) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// The endpoints, with nobody's approval of anything. What an executor does with
/// one is in its own tests.
fn restoring(host: &Host) -> Restoring {
    let trust = HostTrust {
        network_id: NetworkId::from_bytes([1; 32]),
        host_id: NodeId::from_bytes([2; 32]),
        operators: vec![],
        serials: BTreeMap::new(),
    };
    store_trust(host.dir.path(), &trust).unwrap();
    let approvals = Approvals::new(Parts {
        ledger: host.ledger.clone(),
        clock: host.clock.clone(),
        tasks: host.tasks.clone(),
        state_dir: host.dir.path().to_owned(),
        policy: host.dir.path().join("approvals.toml"),
        resolver: Arc::new(Blind),
        gate: Arc::new(Blind),
        isolation: Isolation::Users,
    });
    let nowhere = UnixClient::new(host.dir.path().join("execd.sock"), Credentials::none());
    Restoring { backups: backups(host, None), approvals, executor: ExecdClient::new(nowhere) }
}

async fn kinds(host: &Host) -> Vec<String> {
    let page = host.ledger.read(|file: &LedgerFile| file.events(&EventQuery::default())).await.unwrap().unwrap();
    page.events.into_iter().rev().map(|event| event.kind).collect()
}

#[tokio::test]
async fn a_backup_is_made_listed_and_recorded() {
    let host = Host::new();
    let server = host.serve(backup::router(restoring(&host)));
    let client = server.client();
    assert_eq!(exchange(&client, Method::GET, "/backup/list", None).await.1, json!([]));
    let (status, made) = exchange(&client, Method::POST, "/backup/create", None).await;
    assert_eq!(status.as_u16(), 200, "{made}");
    has_keys(&made, &["backup_id", "path", "size_bytes", "created_at"]);
    assert_eq!(exchange(&client, Method::GET, "/backup/list", None).await.1, json!([made]));
    assert_eq!(kinds(&host).await, ["backup.create.intent", "backup.create.outcome"]);
    let copy = std::path::Path::new(made["path"].as_str().unwrap()).join("files/agentd/ledger.db");
    let report = LedgerFile::open(&copy).unwrap().verify(|_| {}).unwrap();
    assert!(report.is_intact() && report.total == 1, "the ledger as it was after the intent: {report:?}");
    host.close(server).await;
}

#[tokio::test]
async fn putting_back_is_refused_without_a_permit() {
    let host = Host::new();
    let server = host.serve(backup::router(restoring(&host)));
    let made = admin(&server).create_backup().await.unwrap();
    let code = async |id: &str| admin(&server).restore_backup(id).await.unwrap_err().code;
    assert_eq!(code("../etc").await, ErrorCode::BadRequest);
    assert_eq!(code("backup-19990101-000000").await, ErrorCode::NotFound);
    assert_eq!(code(&made.backup_id).await, ErrorCode::ApprovalRequired);
    let manifest = std::path::Path::new(&made.path).join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text + "\n").unwrap();
    assert_eq!(code(&made.backup_id).await, ErrorCode::Conflict, "not what the ledger recorded");
    host.close(server).await;
}

#[tokio::test]
async fn scheduled_backups_are_made_when_the_newest_is_old() {
    let host = Host::new();
    let scheduled = backups(&host, Some(Duration::from_millis(20)));
    host.tasks.spawn(osmoda_kit::tasks::TaskKind::REQUEST, "schedule", scheduled.clone().keep_schedule());
    for wanted in 1..=2 {
        wait_for("a backup", LIMIT, async || {
            // The clock goes on only here, so each look sees a newer time.
            host.clock.advance(Duration::from_secs(1));
            (scheduled.list().await.unwrap().len() >= wanted).then_some(())
        })
        .await;
    }
    let server = host.serve(axum::Router::new());
    host.close(server).await;
}

fn card(host: &Host, other: &TestServer) -> Card {
    let mut covered = Coverage::default();
    covered.set_witnesses([NodeId::from_bytes([7; 32])], 1);
    covered.cosigned(NodeId::from_bytes([7; 32]), 3);
    let (_, coverage) = tokio::sync::watch::channel(covered);
    Card {
        file: host.dir.path().join(card::FILE_NAME),
        ledger: host.ledger.clone(),
        tasks: host.tasks.clone(),
        daemons: vec![("watch", other.client()), ("fleetd", host.serve(axum::Router::new()).client())],
        own_socket: "/run/osmoda/agentd.sock".into(),
        ledger_key: "ab".repeat(32),
        coverage,
    }
}

#[tokio::test]
async fn the_card_lists_what_answers_and_nothing_else() {
    let host = Host::new();
    let health = axum::routing::get(async || axum::Json(json!({"version": "9.9"})));
    let watch = TestServer::open(axum::Router::new().route("/health", health));
    let server = host.serve(card::router(card(&host, &watch)));
    let (status, raw) = exchange(&server.client(), Method::GET, "/agent/card", None).await;
    assert_eq!(status.as_u16(), 200, "{raw}");
    has_keys(&raw, &["type", "name", "description", "services", "active", "supportedTrust"]);
    let found = admin(&server).card().await.unwrap();
    let names: Vec<_> = found.services.iter().map(|service| (service.name.as_str(), service.verified)).collect();
    assert_eq!(names, [("mcp", true), ("safeswitch", true)], "fleetd does not answer");
    assert_eq!(found.services[1].version.as_deref(), Some("9.9"));
    assert_eq!(
        (found.active, found.supported_trust.join(" ")),
        (true, "hash-chain-ledger witnessed-ledger".to_owned())
    );
    assert_eq!((found.keys[0].purpose.as_str(), found.keys[0].key.len()), ("ledger_key", 64));
    assert_eq!(found.witnesses, Some(CardWitnesses { needed: 1, of: 1, answer: true, rows: 3 }));
    watch.stop(LIMIT).await;
    host.close(server).await;
}

#[tokio::test]
async fn the_operators_words_are_kept_and_what_he_adds_is_not_called_verified() {
    let host = Host::new();
    let watch = TestServer::open(axum::Router::new());
    let server = host.serve(card::router(card(&host, &watch)));
    let added = CardService { name: "shop".into(), endpoint: "https://x".into(), version: None, verified: true };
    let words = GenerateCard { name: "web-1".into(), description: "serves".into(), services: Some(vec![added]) };
    let made = admin(&server).generate_card(&words).await.unwrap();
    assert_eq!((made.name.as_str(), made.description.as_str()), ("web-1", "serves"));
    assert!(made.services.iter().any(|service| service.name == "shop" && !service.verified), "{made:?}");
    assert_eq!(admin(&server).card().await.unwrap(), made);
    assert_eq!(kinds(&host).await, ["agent.card.generate"]);
    let long = GenerateCard { name: "n".repeat(129), ..words };
    assert_eq!(admin(&server).generate_card(&long).await.unwrap_err().code, ErrorCode::TooLarge);
    std::fs::write(host.dir.path().join(card::FILE_NAME), b"{").unwrap();
    assert_eq!(admin(&server).card().await.unwrap_err().code, ErrorCode::StateDirUnusable);
    watch.stop(LIMIT).await;
    host.close(server).await;
}
