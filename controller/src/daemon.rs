//! The controller as a daemon of `osmoda-kit`: what starts, in which order, and
//! what ends it.
//!
//! Order: store → token → mesh → follower → links → REST. A stop refuses new
//! requests and links, lets the follower store its snapshot, writes presence
//! down, then closes the store.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::routing::get;
use osmoda_controller_store::{SqliteStore, Store};
use osmoda_kit::boot::{Boot, BootError, Daemon, Service};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Allowed, CallerTable, Row};
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_kit::version::VERSION;
use osmoda_mesh::KeyChange;
use osmoda_types::ErrorCode;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::follower::{Follower, Published};
use crate::inbox::Inbox;
use crate::join::{mesh_dir, unusable};
use crate::link::LinkService;
use crate::presence::Presence;
use crate::rest::{App, AppParts, stored};
use crate::rotation::{self, Rotation};
use crate::voters::Fleet;
use crate::{NAME, mesh, token};

/// The database in the state folder.
const DATABASE: &str = "controller.db";

/// How often presence is written down: what a crash forgets is at most this
/// much of last-seen times, and a fleet of 10,000 costs one transaction.
const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// Who may call the local socket: the administrator, to see that it lives and
/// to give it new keys.
const ROWS: &[Row] = &[
    Row { method: "GET", path: "/health", allowed: &[Allowed::Admin] },
    Row { method: "GET", path: "/metrics", allowed: &[Allowed::Admin] },
    Row { method: "POST", path: "/identity/rotate", allowed: &[Allowed::Admin] },
];

/// The controller.
#[derive(Debug)]
pub struct Controller;

impl Daemon for Controller {
    const NAME: &'static str = NAME;
    type Config = Config;

    fn callers() -> CallerTable {
        CallerTable { daemons: &[], rows: ROWS }
    }

    async fn build(cx: Boot, config: Config) -> Result<Service, BootError> {
        let config = config.with_flags();
        let faults = osmoda_kit::config::Validate::faults(&config);
        if !faults.is_empty() {
            return Err(ApiError::new(ErrorCode::ConfigInvalid, faults.join("; ")).into());
        }
        let rotation = start(&cx, &config).await?;
        let health = || async {
            let version = serde_json::json!({
                "ok": true, "version": VERSION.version, "commit": VERSION.commit, "dirty": VERSION.dirty,
            });
            Json(version)
        };
        Ok(Service::new(Router::new().route("/health", get(health)).merge(rotation::router(rotation))))
    }
}

async fn start(cx: &Boot, config: &Config) -> Result<Arc<Rotation>, ApiError> {
    let (tasks, clock, folder) = (cx.tasks(), cx.clock(), cx.state_dir());
    let mesh_state = osmoda_mesh::state::load(&mesh_dir(&folder)).map_err(unusable)?;
    let network = mesh_state.network;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&folder.join(DATABASE)).await.map_err(stored)?);
    spawn_store(tasks, &store);
    let admin = token::ensure(&*store, &folder).await?;
    let presence = Presence::new(clock.clone(), store.nodes().await.map_err(stored)?);
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        let code = match error.kind() {
            std::io::ErrorKind::AddrInUse => ErrorCode::PortInUse,
            _ => ErrorCode::ConfigInvalid,
        };
        ApiError::new(code, format!("cannot listen on {}", config.listen)).with_source(error)
    })?;

    let handle = mesh::start(mesh_state, config.mesh_listen, tasks, clock.clone())?;
    let fleet = Fleet::new(Arc::new(mesh::MeshVoters::new(handle.clone())));
    let opened = Follower::open(fleet.clone(), Arc::clone(&store), clock.clone(), network).await;
    let (follower, published) = opened.map_err(ApiError::internal)?;
    let finish = tasks.shutdown().token(Stage::FinishAccepted);
    tasks.spawn(TaskKind::CRITICAL, "log follower", follower.run(finish.clone()));
    let change = Arc::new(KeyChange::new(handle.clone(), network, mesh_dir(&folder), tasks.clone()));
    let rotation = Arc::new(Rotation { change: change.clone(), fleet: fleet.clone(), tasks: tasks.clone() });
    let (dir, views) = (mesh_dir(&folder), published.view.clone());
    let members = mesh::follow_members(handle.clone(), change, dir, views, finish.clone());
    tasks.spawn(TaskKind::CRITICAL, "members", members);
    let epoch = mesh::follow_epoch(handle.clone(), mesh_dir(&folder), published.view.clone(), finish);
    tasks.spawn(TaskKind::CRITICAL, "mesh epoch", epoch);
    let inbox = Inbox::default();
    let links = LinkService::new(presence.clone(), inbox.clone(), Arc::clone(&store), clock.clone(), tasks.clone());
    mesh::serve_links(&handle, links, tasks)?;
    spawn_flush(tasks, &store, &presence, &published);
    let app = App::new(AppParts {
        store,
        fleet,
        published,
        presence,
        inbox,
        clock,
        network,
        own: handle.local_id(),
        token: admin,
        shutdown: tasks.shutdown().clone(),
    });
    serve(tasks, listener, app.router(), config)?;
    Ok(rotation)
}

fn spawn_store(tasks: &Tasks, store: &Arc<dyn Store>) {
    let (store, close) = (Arc::clone(store), tasks.shutdown().token(Stage::CloseStores));
    tasks.spawn(TaskKind::STORE, "store", async move {
        close.cancelled().await;
        store.close().await
    });
}

/// Writes presence down now and then, and once more at the stop.
fn spawn_flush(tasks: &Tasks, store: &Arc<dyn Store>, presence: &Presence, published: &Published) {
    let (store, presence, view) = (Arc::clone(store), presence.clone(), published.view.clone());
    let stop = tasks.shutdown().token(Stage::FinishAccepted);
    tasks.spawn(TaskKind::CRITICAL, "presence", async move {
        loop {
            let over = tokio::select! {
                biased;
                // Cancel-safe: a token.
                () = stop.cancelled() => true,
                // Cancel-safe: a timer.
                () = tokio::time::sleep(FLUSH_EVERY) => false,
            };
            let rows = presence.take_dirty();
            if !rows.is_empty() {
                store.nodes_seen(rows).await?;
            }
            metrics::gauge!("osmoda_controller_nodes_online").set(f64::from(presence.online()));
            let state = view.borrow().state.clone();
            crate::witnessed::measure(&*store, &state).await?;
            if over {
                return Ok::<(), osmoda_controller_store::StoreError>(());
            }
        }
    });
}

#[cfg(not(feature = "tls"))]
fn serve(tasks: &Tasks, listener: TcpListener, router: Router, _config: &Config) -> Result<(), ApiError> {
    spawn_rest(tasks, listener, router);
    Ok(())
}

#[cfg(feature = "tls")]
fn serve(tasks: &Tasks, listener: TcpListener, router: Router, config: &Config) -> Result<(), ApiError> {
    match &config.tls {
        None => spawn_rest(tasks, listener, router),
        Some(files) => spawn_rest(tasks, crate::tls::TlsListener::start(listener, files, tasks)?, router),
    }
    Ok(())
}

fn spawn_rest<L>(tasks: &Tasks, listener: L, router: Router)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let stop = tasks.shutdown().token(Stage::RefuseNew);
    if let Ok(address) = listener.local_addr() {
        tracing::info!(?address, "rest listens");
    }
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
    tasks.spawn(TaskKind::CRITICAL, "rest", async move { serving.await });
}
