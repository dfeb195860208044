//! The processes under test: the daemon's engine and the guard's library, each
//! with the hook in its journal, in a process of its own.

use crate::hook::Hook;
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use osmoda_guard::Options;
use osmoda_journal::generation::StoreKind;
use osmoda_journal::{HostClock, Plan};
use osmoda_kit::clock::SystemClock;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Allowed, CallerTable, Callers, Credentials, Json, Row, UnixClient, serve_unix};
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::Tasks;
use osmoda_node_api::watch::{AttemptView, GrantRequest};
use osmoda_watch::{Engine, Outside, Settings, assemble};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Everything is open: who may call is not what is tested here.
pub(crate) const OPEN: CallerTable =
    CallerTable { daemons: &[], rows: &[Row { method: "*", path: "/*", allowed: &[Allowed::Admin] }] };

/// A grant with its plan: the periods of these tests are below the manifest's floors.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct TestGrant {
    pub grant: GrantRequest,
    pub plan: Plan,
}

pub(crate) fn callers() -> Arc<Callers> {
    Arc::new(Callers::by_tokens(OPEN, rustix::process::geteuid().as_raw(), Default::default()))
}

pub(crate) fn watch(root: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let tasks = Tasks::new(Shutdown::new());
        let settings = Settings {
            host_root: root.into(),
            state_dir: root.into(),
            runner: osmoda_journal::generation::Runner::Process,
            store: StoreKind::Symlink,
            profile: root.join("profiles/system"),
            require_signatures: false,
            guard_program: root.join("guard.sh"),
            clock: HostClock::new(root.join("boot_id")),
            free_bytes_min: 0,
        };
        let hook_root = PathBuf::from(root);
        let outside = Outside {
            agentd: UnixClient::new(root.join("agentd.sock"), Credentials::none()),
            fleetd: UnixClient::new(root.join("fleetd.sock"), Credentials::none()),
            clock: SystemClock::shared(),
            make_observer: Arc::new(move || Box::new(Hook::new(&hook_root))),
        };
        let (engine, router) = assemble(settings, outside, &tasks).unwrap();
        let router = router.merge(Router::new().route("/test/grant", post(grant)).with_state(engine));
        let socket = root.join("watch.sock");
        std::fs::remove_file(&socket).unwrap_or_default();
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        serve_unix(&tasks, "watch", listener, router, callers());
        // Until it is killed.
        std::future::pending::<()>().await;
    });
}

async fn grant(State(engine): State<Engine>, Json(request): Json<TestGrant>) -> Result<Json<AttemptView>, ApiError> {
    engine.grant(&request.grant, request.plan).await.map(Json)
}

pub(crate) fn guard(root: &Path, args: &str) {
    rustix::process::setsid().unwrap();
    let options = Options::parse(args.split(' ').map(Into::into)).unwrap();
    osmoda_guard::watch_over(&options, Some(Box::new(Hook::new(root)))).unwrap();
}
