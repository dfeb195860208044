//! Linearizable reads, coalesced: one round of heartbeats serves all who wait.
//!
//! Invariant: a reader is served by a round that began after it asked, so what
//! it reads is not older than its question.

use std::sync::Arc;

use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::sync::{mpsc, oneshot};

use crate::core::{Core, member};
use crate::error::ReadError;

/// Readers that may wait; a round takes one round trip, so thousands are
/// served per second long before this fills.
const QUEUE_MAX: usize = 4096;

type Waiter = oneshot::Sender<Result<u64, ReadError>>;

/// The handle readers ask through.
#[derive(Clone)]
pub(crate) struct Reads {
    queue: mpsc::Sender<Waiter>,
    core: Arc<Core>,
}

/// What the reading task owns.
pub(crate) struct Rounds {
    queue: mpsc::Receiver<Waiter>,
    core: Arc<Core>,
}

pub(crate) fn new(core: Arc<Core>) -> (Reads, Rounds) {
    let (sender, queue) = mpsc::channel(QUEUE_MAX);
    (Reads { queue: sender, core: core.clone() }, Rounds { queue, core })
}

impl Reads {
    /// Waits until the state of this leader holds everything that was
    /// committed before the call; the answer is the next index to apply.
    pub(crate) async fn linearizable(&self) -> Result<u64, ReadError> {
        if !self.core.leads() || self.core.is_aside() {
            return Err(ReadError::NotLeader { leader: self.core.leader().filter(|leader| *leader != self.core.me) });
        }
        let (waiter, answered) = oneshot::channel();
        self.queue.try_send(waiter).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::Busy,
            mpsc::error::TrySendError::Closed(_) => ReadError::Unavailable,
        })?;
        // One round that had begun before, and one of our own.
        let limit = self.core.timing.read_limit * 2;
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(ReadError::Unavailable),
        }
    }
}

impl Rounds {
    /// Serves rounds until every handle is gone or the task is cut off.
    pub(crate) async fn run(mut self) {
        let mut waiters = Vec::new();
        while self.queue.recv_many(&mut waiters, QUEUE_MAX).await > 0 {
            let answer = self.round().await;
            for waiter in waiters.drain(..) {
                if waiter.send(answer.clone()).is_err() {
                    tracing::trace!("a reader is gone");
                }
            }
        }
    }

    async fn round(&self) -> Result<u64, ReadError> {
        let confirmed = tokio::time::timeout(self.core.timing.read_limit, self.core.raft.ensure_linearizable()).await;
        match confirmed {
            Ok(Ok(read)) => Ok(read.map_or(0, |id| id.index + 1)),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)))) => {
                let leader = forward.leader_id.zip(forward.leader_node).map(|(id, seat)| member(id, &seat));
                Err(ReadError::NotLeader { leader })
            }
            Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)) | RaftError::Fatal(_))) | Err(_) => {
                Err(ReadError::Unavailable)
            }
        }
    }
}
