//! Witness before act: a grave call goes on when enough other nodes have
//! cosigned a ledger that holds its intent.

use std::time::Duration;

use osmoda_kit::error::ApiError;
use osmoda_types::ErrorCode;
use tokio::sync::watch;

use super::coverage::Coverage;
use crate::approval::Answer;
use crate::approval::gate::HeadGate;
use crate::checkpoint::Checkpoints;
use crate::ledger::Ledger;

/// How long cosignatures may take: a commit and a round trip of the slowest
/// witness that is needed. A caller waits behind it.
const COVER_TIME: Duration = Duration::from_secs(5);

/// The gate of a node with witnesses.
#[derive(Debug, Clone)]
pub struct WitnessGate {
    pub(crate) ledger: Ledger,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) coverage: watch::Receiver<Coverage>,
}

impl WitnessGate {
    fn check_open(&self) -> Result<(), ApiError> {
        match self.ledger.sealed() {
            Some(reason) => Err(refusal(&format!("this ledger takes no more rows: {reason}"))),
            None => Ok(()),
        }
    }

    fn check_ready(&self) -> Result<(), ApiError> {
        self.check_open()?;
        let coverage = self.coverage.borrow();
        let (needed, of) = coverage.quorum();
        if needed == 0 {
            return Err(refusal("this node has no witness; only an approver named in break_glass can allow it"));
        }
        if coverage.is_ready() {
            return Ok(());
        }
        Err(refusal(&match coverage.waiting_for_log() {
            0 => format!("fewer than {needed} of {of} witnesses answer"),
            waiting => format!(
                "fewer than {needed} of {of} witnesses cosign: {waiting} wait until the fleet's log has a newer head of this ledger"
            ),
        }))
    }

    async fn cover(&self, intent: u64) -> Result<(), ApiError> {
        let signed = self.checkpoints.now().await.map_err(ApiError::from)?;
        if signed.checkpoint.size < intent {
            return Err(refusal("the intent is not in the newest checkpoint"));
        }
        let mut coverage = self.coverage.clone();
        let covered = coverage.wait_for(|coverage| coverage.covers(intent)).await;
        covered.map(drop).map_err(|_| ApiError::new(ErrorCode::ShuttingDown, "the daemon is stopping"))
    }
}

impl HeadGate for WitnessGate {
    fn ready(&self) -> Answer<'_, ()> {
        Box::pin(async { self.check_ready() })
    }

    fn witnessed(&self, intent: u64) -> Answer<'_, ()> {
        Box::pin(async move {
            self.check_ready()?;
            match tokio::time::timeout(COVER_TIME, self.cover(intent)).await {
                // Enough others may have cosigned while one of them caught it.
                Ok(covered) => covered.and_then(|()| self.check_open()),
                Err(_) => Err(refusal("too few witnesses cosigned the intent in time")),
            }
        })
    }
}

fn refusal(text: &str) -> ApiError {
    ApiError::new(ErrorCode::WitnessUnavailable, text.to_owned())
}
