//! What agentd serves beside the ledger itself: each part started and its routes
//! put together, in one place.

use axum::Router;
use osmoda_kit::boot::{Boot, BootError};
use osmoda_kit::error::ApiError;

use crate::incidents::{self, Incidents};
use crate::ledger::Ledger;
use crate::ledger::file::FILE_NAME;
use crate::memory::{self, Memory};
use crate::receipts;

/// Starts every part on an open ledger.
///
/// # Errors
/// [`BootError`] when one cannot start.
pub(crate) async fn start(ledger: &Ledger, cx: &Boot) -> Result<Router, BootError> {
    let ledger_path = cx.state_dir().join(FILE_NAME);
    let memory = Memory::start(ledger.clone(), &ledger_path, cx.tasks()).map_err(ApiError::internal)?;
    let incidents = Incidents::start(ledger.clone(), cx.tasks()).await?;
    Ok(memory::router(memory).merge(incidents::router(incidents)).merge(receipts::router(ledger.clone())))
}
