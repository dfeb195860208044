//! Stopping, in stages.
//!
//! A stop is one walk through [`Stage::ALL`], in order and never back: refuse
//! new work, finish what was accepted, close the stores. Whoever must do
//! something at a stage waits for its token. This file only signals; waiting
//! for the work to end is `tasks`.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// One step of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Listeners close, queues answer `shutting_down`.
    RefuseNew,
    /// What was accepted before is brought to its end.
    FinishAccepted,
    /// Nobody writes any more: databases and logs are closed.
    CloseStores,
}

impl Stage {
    /// Every stage in the order of a stop.
    pub const ALL: [Stage; 3] = [Stage::RefuseNew, Stage::FinishAccepted, Stage::CloseStores];
}

/// Why the process is stopping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody asked: a signal, an API call, the end of a test.
    Asked(String),
    /// A part that the process cannot do without ended.
    Failed(String),
}

/// The signal shared by all parts of a process; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Set by the first request; the drain begins when it fires.
    requested: CancellationToken,
    reason: OnceLock<StopReason>,
    stages: [CancellationToken; 3],
}

impl Shutdown {
    /// A signal that nobody has given.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a stop. The first reason stands; later ones are dropped.
    pub fn request(&self, reason: StopReason) {
        if self.inner.reason.set(reason).is_err() {
            tracing::debug!("stop was already requested");
        }
        self.inner.requested.cancel();
    }

    /// Resolves when a stop was asked for. Cancel-safe.
    pub async fn requested(&self) {
        self.inner.requested.cancelled().await;
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.inner.requested.is_cancelled()
    }

    /// Why, once asked.
    #[must_use]
    pub fn reason(&self) -> Option<StopReason> {
        self.inner.reason.get().cloned()
    }

    /// The token of a stage: `token.cancelled().await` resolves, cancel-safely,
    /// when the stop reaches it.
    #[must_use]
    pub fn token(&self, stage: Stage) -> CancellationToken {
        self.inner.stages[index(stage)].clone()
    }

    /// Whether the stop has reached a stage.
    #[must_use]
    pub fn reached(&self, stage: Stage) -> bool {
        self.inner.stages[index(stage)].is_cancelled()
    }

    /// Moves the stop to a stage, and through all before it.
    pub(crate) fn enter(&self, stage: Stage) {
        for token in &self.inner.stages[..=index(stage)] {
            token.cancel();
        }
    }
}

const fn index(stage: Stage) -> usize {
    match stage {
        Stage::RefuseNew => 0,
        Stage::FinishAccepted => 1,
        Stage::CloseStores => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_entered_in_order_and_the_first_reason_stands() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_requested());
        shutdown.request(StopReason::Asked("SIGTERM".into()));
        shutdown.request(StopReason::Failed("late".into()));
        assert_eq!(shutdown.reason(), Some(StopReason::Asked("SIGTERM".into())));
        assert!(!shutdown.reached(Stage::RefuseNew));
        shutdown.enter(Stage::FinishAccepted);
        assert!(shutdown.reached(Stage::RefuseNew) && shutdown.reached(Stage::FinishAccepted));
        assert!(!shutdown.reached(Stage::CloseStores));
    }
}
