//! The executor as a daemon.

use std::sync::Arc;
use std::time::Duration;

use osmoda_backup::{Archive, Source};
use osmoda_kit::boot::{Boot, BootError, Daemon, Service};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::CallerTable;
use osmoda_kit::tasks::TaskKind;
use osmoda_node_api::agentd::AgentdClient;
use osmoda_node_api::approval::ApprovalClient;
use osmoda_node_api::approval_files::POLICY_NAME;
use osmoda_node_api::callers;
use osmoda_node_api::mesh::MeshClient;
use osmoda_node_api::registry::DAEMONS;

use crate::config::Config;
use crate::executor::{Executor, Parts};
use crate::hands::{Daemons, Hands, NodeBackups, NodeBackupsParts, Systemctl};
use crate::http;
use crate::inherit::Inherit;

/// How long agentd may take to let a call begin: other nodes sign first.
const BEGIN_TIME_MAX: Duration = Duration::from_secs(30);

/// The folder of old contents, in the state folder.
const UNDO_FOLDER: &str = "undo";

/// The folder of backups, in the state folder.
const BACKUPS_FOLDER: &str = "backups";

/// The daemon.
#[derive(Debug)]
pub struct Execd;

impl Daemon for Execd {
    const NAME: &'static str = "execd";
    type Config = Config;

    fn callers() -> CallerTable {
        callers::EXECD
    }

    async fn build(cx: Boot, config: Config) -> Result<Service, BootError> {
        let paths = cx.paths();
        // Away from the real root the machine's systemd is not this node's.
        let systemctl = if paths.is_system() { Systemctl::of_host() } else { None };
        let backups = backups(&cx, &config, systemctl.clone());
        // Before anything is served: what runs after this sees one state or the other.
        backups.recover().await?;
        let hands = Hands {
            root: paths.host_root().to_owned(),
            undo_dir: cx.state_dir().join(UNDO_FOLDER),
            systemctl,
            restore: Some(Arc::new(backups.clone())),
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
        let inherit = Inherit {
            own: cx.state_dir(),
            watch: paths.state("watch"),
            mesh: MeshClient::new(cx.client("mesh")),
            tasks: cx.tasks().clone(),
        };
        cx.tasks().spawn(TaskKind::BACKGROUND, "inherited trust", inherit.run());
        Ok(Service::new(executor.router().merge(http::backups(backups))))
    }
}

/// Backups of every daemon of this node.
fn backups(cx: &Boot, config: &Config, systemctl: Option<Systemctl>) -> NodeBackups {
    let source = |name: &str| Source { name: name.to_owned(), folder: cx.paths().state(name) };
    let folder = config.backup.folder.clone().unwrap_or_else(|| cx.state_dir().join(BACKUPS_FOLDER));
    NodeBackups::new(NodeBackupsParts {
        archive: Archive::new(folder, config.backup.keep),
        sources: DAEMONS.iter().map(|daemon| source(daemon.name)).collect(),
        state_dir: cx.state_dir(),
        units: Arc::new(Daemons::new(systemctl, DAEMONS.iter().map(|daemon| daemon.name))),
        ledger: AgentdClient::new(cx.client("agentd")),
        clock: cx.clock(),
        tasks: cx.tasks().clone(),
    })
}
