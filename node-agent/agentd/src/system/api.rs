//! The endpoints of the host's facts, with the earlier product's shapes.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::Json;
use osmoda_kit::tasks::Tasks;
use osmoda_node_api::agentd_system::{Discovered, SystemAnswer, SystemQuery};
use osmoda_types::ErrorCode;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::look::{self, Looker, PROCESSES_MAX};
use crate::limits::QUESTION_BYTES;

/// Processes when nothing else is asked, the earlier product's number.
const PROCESSES_DEFAULT: i64 = 50;

/// Looks at once. One holds the table of processes; a second one waits for it,
/// and more would only pile up behind a mount that does not answer.
const LOOKS_AT_ONCE: usize = 2;

/// How long a look may take: tens of milliseconds on a host with a thousand
/// processes, unless a mount hangs.
const LOOK_TIME_LIMIT: Duration = Duration::from_secs(10);

/// The host as the endpoints see it; cheap to clone.
#[derive(Debug, Clone)]
pub struct System {
    looker: Arc<Mutex<Looker>>,
    tasks: Tasks,
    looks: Arc<Semaphore>,
}

impl System {
    /// Takes the first look.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn new(tasks: Tasks) -> Result<Self, ApiError> {
        let looker = Looker::new().map_err(ApiError::internal)?;
        Ok(Self { looker: Arc::new(Mutex::new(looker)), tasks, looks: Arc::new(Semaphore::new(LOOKS_AT_ONCE)) })
    }

    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Looker) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = Arc::clone(&self.looks)
            .try_acquire_owned()
            .map_err(|_| ApiError::new(ErrorCode::Busy, "the host is being looked at"))?;
        let looker = Arc::clone(&self.looker);
        let looked = self.tasks.blocking("look at the host", move || {
            let _permit = permit;
            // It holds only numbers; a panic leaves nothing half-made that matters.
            look(&mut looker.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match tokio::time::timeout(LOOK_TIME_LIMIT, looked).await {
            Ok(looked) => looked.map_err(ApiError::internal),
            Err(_) => Err(ApiError::new(ErrorCode::Timeout, "the host could not be looked at in time")),
        }
    }
}

/// The routes.
pub fn router(system: System) -> Router {
    Router::new().route("/system/query", post(query)).route("/system/discover", get(discover)).with_state(system)
}

async fn query(State(system): State<System>, Json(body): Json<SystemQuery>) -> Result<Json<SystemAnswer>, ApiError> {
    QUESTION_BYTES.check("query", &body.query)?;
    let args = body.args.unwrap_or_default();
    let result = match body.query.as_str() {
        "processes" => {
            let by_memory = args["sort"] == "memory";
            let limit = args["limit"].as_i64().unwrap_or(PROCESSES_DEFAULT);
            let limit = usize::try_from(limit).unwrap_or(PROCESSES_MAX).min(PROCESSES_MAX);
            system.look(move |looker| looker.processes(by_memory, limit)).await?
        }
        "disk" => system.look(|_| look::disks()).await?.map_err(ApiError::internal)?,
        "hostname" => Value::from(sysinfo::System::host_name().map_err(ApiError::internal)?),
        "uptime" => json!({ "uptime_seconds": sysinfo::System::uptime().map_err(ApiError::internal)? }),
        other => {
            let name: String = other.chars().take(64).collect();
            json!({ "error": format!("unknown query {name:?}; known are processes, disk, hostname and uptime") })
        }
    };
    Ok(Json(SystemAnswer { query: body.query, result }))
}

async fn discover(State(system): State<System>) -> Result<Json<Discovered>, ApiError> {
    let services = system.look(|looker| looker.services(Path::new("/proc")));
    let (services, units) = tokio::join!(services, look::units());
    let mut discovered = services?;
    look::add_units(&mut discovered, units);
    Ok(Json(discovered))
}
