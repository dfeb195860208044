//! What agentd serves beside the ledger itself: each part started and its routes
//! put together, in one place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use osmoda_backup::{Archive, Limits, Local, Plan, Source};
use osmoda_kit::boot::{Boot, BootError};
use osmoda_kit::error::ApiError;
use osmoda_kit::tasks::TaskKind;

use crate::backup::{self, BackupSettings, Backups};
use crate::card::{self, Card};
use crate::config::Config;
use crate::incidents::{self, Incidents};
use crate::ledger::Ledger;
use crate::ledger::file::FILE_NAME;
use crate::memory::{self, Memory};
use crate::receipts;
use crate::system::{self, System};

/// The folder of backups in the state folder.
const BACKUPS_FOLDER: &str = "backups";

/// Starts every part on an open ledger.
///
/// # Errors
/// [`BootError`] when one cannot start.
pub(crate) async fn start(ledger: &Ledger, cx: &Boot, config: Config) -> Result<Router, BootError> {
    let ledger_path = cx.state_dir().join(FILE_NAME);
    let memory = Memory::start(ledger.clone(), &ledger_path, cx.tasks()).map_err(ApiError::internal)?;
    let incidents = Incidents::start(ledger.clone(), cx.tasks()).await?;
    let system = System::new(cx.tasks().clone())?;
    let backups = backups(ledger, cx, config);
    cx.tasks().spawn(TaskKind::REQUEST, "backup schedule", backups.clone().keep_schedule());
    Ok(memory::router(memory)
        .merge(incidents::router(incidents))
        .merge(receipts::router(ledger.clone()))
        .merge(system::router(system))
        .merge(backup::router(backups))
        .merge(card::router(card(ledger, cx))))
}

/// Backups of what this daemon may read: its own state folder.
fn backups(ledger: &Ledger, cx: &Boot, config: Config) -> Backups {
    let state = cx.state_dir();
    let folder = config.backup.folder.unwrap_or_else(|| state.join(BACKUPS_FOLDER));
    let source = Source { name: cx.name().to_owned(), folder: state };
    let archive = Archive::new(folder, config.backup.keep);
    let hours = u64::from(config.backup.every_hours);
    let settings = BackupSettings {
        // Nothing is put back here, so there is nowhere to put it.
        performer: Arc::new(Local { archive, targets: BTreeMap::new() }),
        plan: Plan { sources: vec![source], limits: Limits::default() },
        every: (hours > 0).then(|| Duration::from_secs(hours * 3600)),
        isolation: cx.isolation(),
    };
    Backups::new(settings, ledger.clone(), cx.clock(), cx.tasks().clone())
}

fn card(ledger: &Ledger, cx: &Boot) -> Card {
    Card {
        file: cx.state_dir().join(card::FILE_NAME),
        ledger: ledger.clone(),
        tasks: cx.tasks().clone(),
        daemons: Card::asked().map(|daemon| (daemon, cx.client(daemon))).collect(),
        own_socket: cx.paths().socket(cx.name()),
    }
}
