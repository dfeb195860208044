//! Closes runs that were left open: with their outcome where this process knows
//! it, as `unknown` where it does not. A crash, a power cut and an agentd that
//! was away all end here.
//!
//! Invariant: no run is called unknown while it runs: whoever looks holds the
//! executor's only turn.

use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::gather::Gather;
use osmoda_kit::shutdown::Stage;
use osmoda_node_api::approval::{RunEnd, RunOutcome};

use crate::executor::Executor;

/// Between two looks: an outcome that agentd did not take is told soon after it
/// is back, and an idle executor costs two requests a minute.
const EVERY: Duration = Duration::from_secs(30);

/// After a look that failed, such as at the start, before agentd is there.
const AGAIN: Duration = Duration::from_secs(1);

impl Executor {
    /// Looks until the stop.
    pub async fn reconcile(self) {
        let stop = self.parts.tasks.shutdown().token(Stage::RefuseNew);
        loop {
            // Those that were only counted since.
            self.tell_refusals(Gather::due).await;
            let pause = match self.close_open_runs().await {
                Ok(_) => EVERY,
                Err(error) => {
                    tracing::debug!(error = chain(&error), "open runs not closed yet");
                    AGAIN
                }
            };
            tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = stop.cancelled() => return self.tell_refusals(|gathered, _| gathered.rest()).await,
                // Cancel-safe: a timer.
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Closes every run that is open now; returns how many.
    ///
    /// # Errors
    /// As the calls to agentd; what was not closed is tried again.
    pub async fn close_open_runs(&self) -> Result<usize, ApiError> {
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let _turn = turn.map_err(ApiError::internal)?;
        let open = self.parts.approvals.open_runs().await?;
        // One that is not open any more was taken, though its answer did not come.
        self.unsent().retain(|run, _| open.iter().any(|open| open.run == *run));
        let mut closed = 0;
        for run in open {
            let known = self.unsent().get(&run.run).cloned();
            let end = known.unwrap_or_else(|| {
                tracing::warn!(run = run.run, tool = run.tool, "unknown outcome");
                let detail = "unknown outcome: the executor or the host went down in between".to_owned();
                RunEnd { run: run.run, outcome: RunOutcome::Unknown, detail }
            });
            self.parts.approvals.end(&end).await?;
            self.unsent().remove(&run.run);
            closed += 1;
        }
        Ok(closed)
    }
}
