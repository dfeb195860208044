//! The executor as a daemon.

use std::time::Duration;

use osmoda_kit::boot::{Boot, BootError, Daemon, Service};
use osmoda_kit::config::NoConfig;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::CallerTable;
use osmoda_kit::tasks::TaskKind;
use osmoda_node_api::approval::ApprovalClient;
use osmoda_node_api::approval_files::POLICY_NAME;
use osmoda_node_api::callers;

use crate::executor::{Executor, Parts};
use crate::hands::{Hands, Systemctl};

/// How long agentd may take to let a call begin: other nodes sign first.
const BEGIN_TIME_MAX: Duration = Duration::from_secs(30);

/// The folder of old contents, in the state folder.
const UNDO_FOLDER: &str = "undo";

/// The daemon.
#[derive(Debug)]
pub struct Execd;

impl Daemon for Execd {
    const NAME: &'static str = "execd";
    type Config = NoConfig;

    fn callers() -> CallerTable {
        callers::EXECD
    }

    async fn build(cx: Boot, _: NoConfig) -> Result<Service, BootError> {
        let paths = cx.paths();
        let hands = Hands {
            root: paths.host_root().to_owned(),
            undo_dir: cx.state_dir().join(UNDO_FOLDER),
            // Away from the real root the machine's systemd is not this node's.
            systemctl: if paths.is_system() { Systemctl::of_host() } else { None },
            restore: None,
            tasks: cx.tasks().clone(),
        };
        let parts = Parts {
            state_dir: cx.state_dir(),
            policy: paths.config(POLICY_NAME),
            clock: cx.clock(),
            tasks: cx.tasks().clone(),
            approvals: ApprovalClient::new(cx.client("agentd").with_time_limit(BEGIN_TIME_MAX)),
            audit: cx.audit(),
            hands,
            isolation: cx.isolation(),
        };
        let open = move || Executor::open(parts);
        let executor = cx.tasks().blocking("open executor", open).await.map_err(ApiError::internal)??;
        cx.tasks().spawn(TaskKind::BACKGROUND, "open runs", executor.clone().reconcile());
        Ok(Service::new(executor.router()))
    }
}
