//! What agentd serves beside the ledger itself: each part started and its routes
//! put together, in one place.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use osmoda_kit::boot::{Boot, BootError};
use osmoda_kit::error::ApiError;
use osmoda_kit::tasks::TaskKind;
use osmoda_node_api::execd::ExecdClient;

use crate::approval::Approvals;
use crate::backup::{self, BackupSettings, Backups, Restoring};
use crate::card::{self, Card};
use crate::checkpoint::Checkpoints;
use crate::config::Config;
use crate::incidents::{self, Incidents};
use crate::ledger::Ledger;
use crate::ledger::file::FILE_NAME;
use crate::memory::{self, Memory};
use crate::receipts;
use crate::system::{self, System};
use crate::witness::WitnessGate;

/// Starts every part on an open ledger.
///
/// # Errors
/// [`BootError`] when one cannot start.
pub(crate) async fn start(
    ledger: &Ledger,
    approvals: &Approvals,
    witnessed: (&Checkpoints, &WitnessGate),
    cx: &Boot,
    config: &Config,
) -> Result<(Router, Memory), BootError> {
    let ledger_path = cx.state_dir().join(FILE_NAME);
    let memory = Memory::start(ledger.clone(), &ledger_path, cx.tasks()).map_err(ApiError::internal)?;
    let incidents = Incidents::start(ledger.clone(), cx.tasks()).await?;
    let system = System::new(cx.tasks().clone())?;
    let backups = backups(ledger, cx, config);
    cx.tasks().spawn(TaskKind::REQUEST, "backup schedule", backups.clone().keep_schedule());
    let restoring = Restoring { backups, approvals: approvals.clone(), executor: ExecdClient::new(cx.client("execd")) };
    let router = memory::router(memory.clone())
        .merge(incidents::router(incidents))
        .merge(receipts::router(ledger.clone()))
        .merge(system::router(system))
        .merge(backup::router(restoring))
        .merge(card::router(card(ledger, witnessed, cx)));
    Ok((router, memory))
}

/// Backups of the node, made by the executor.
fn backups(ledger: &Ledger, cx: &Boot, config: &Config) -> Backups {
    let hours = u64::from(config.backup.every_hours);
    let settings = BackupSettings {
        maker: Arc::new(ExecdClient::new(cx.client("execd"))),
        every: (hours > 0).then(|| Duration::from_secs(hours * 3600)),
        isolation: cx.isolation(),
    };
    Backups::new(settings, ledger.clone(), cx.clock(), cx.tasks().clone())
}

fn card(ledger: &Ledger, (checkpoints, gate): (&Checkpoints, &WitnessGate), cx: &Boot) -> Card {
    Card {
        file: cx.state_dir().join(card::FILE_NAME),
        ledger: ledger.clone(),
        tasks: cx.tasks().clone(),
        daemons: Card::asked().map(|daemon| (daemon, cx.client(daemon))).collect(),
        own_socket: cx.paths().socket(cx.name()),
        ledger_key: checkpoints.public_key(),
        coverage: gate.coverage.clone(),
    }
}
