//! Puts the daemon together.

use crate::api::{Endpoints, router};
use crate::config::{Config, Settings};
use crate::engine::Engine;
use crate::fetch::Fetcher;
use crate::host::Host;
use crate::records::{LogSteps, MakeObserver, Records};
use crate::stage::Staging;
use crate::switch::Switches;
use crate::trust::Trust;
use axum::Router;
use osmoda_journal::generation::{StoreKind, find_program};
use osmoda_kit::boot::{Boot, BootError, Daemon, Service};
use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{CallerTable, UnixClient};
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_node_api::callers;
use std::sync::Arc;
use std::time::Duration;

/// How long fleetd may take over a proxied call; a proposal waits for a commit.
const FLEETD_TIME_MAX: Duration = Duration::from_secs(30);

/// SafeSwitch on this host.
#[derive(Debug)]
pub struct Watch;

impl Daemon for Watch {
    const NAME: &'static str = "watch";
    type Config = Config;

    fn callers() -> CallerTable {
        callers::WATCH
    }

    async fn build(cx: Boot, config: Config) -> Result<Service, BootError> {
        let settings = Settings::resolve(config, cx.paths(), cx.state_dir())?;
        tracing::info!(
            runner = settings.runner.as_str(),
            store = settings.store.as_str(),
            profile = %settings.profile.display(),
            "host recognised"
        );
        let outside = Outside {
            agentd: cx.client("agentd"),
            fleetd: cx.client("fleetd").with_time_limit(FLEETD_TIME_MAX),
            clock: cx.clock(),
            make_observer: Arc::new(|| Box::new(LogSteps)),
        };
        let (_, router) = assemble(settings, outside, cx.tasks())?;
        Ok(Service::new(router))
    }
}

/// What the daemon needs of the rest of the host.
pub struct Outside {
    /// agentd, which keeps the ledger.
    pub agentd: UnixClient,
    /// fleetd.
    pub fleetd: UnixClient,
    /// The clock for people.
    pub clock: SharedClock,
    /// Who is told of journal records.
    pub make_observer: MakeObserver,
}

/// Starts the tasks and returns the handle and the endpoints.
///
/// # Errors
/// When the state folder cannot be used.
pub fn assemble(settings: Settings, outside: Outside, tasks: &Tasks) -> Result<(Engine, Router), ApiError> {
    let state_dir = settings.state_dir.clone();
    let records = Records::new(&state_dir, settings.clock.clone(), tasks.clone(), outside.make_observer);
    // The symlink store keeps what somebody put there; nothing can be fetched.
    let program = (settings.store == StoreKind::Nix).then(|| find_program("nix-store")).flatten();
    let host = Arc::new(Host::new(settings));
    let engine = Engine::start(host, records, &outside.agentd, tasks)?;
    let (switches, keeper) = Switches::open(engine.clone(), outside.clock)?;
    let stop = tasks.shutdown().token(Stage::FinishAccepted);
    tasks.spawn(TaskKind::CRITICAL, "switch sessions", keeper.run(stop));
    let endpoints = Endpoints {
        engine: engine.clone(),
        staging: Staging::in_folder(&state_dir),
        trust: Trust::in_folder(&state_dir),
        fetcher: Fetcher::new(program, tasks.clone()),
        switches,
        fleetd: outside.fleetd,
    };
    Ok((engine, router(endpoints)))
}
