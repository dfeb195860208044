//! The batching proposer: many commands, one log entry, one round of fsyncs.
//!
//! Batches form by themselves: while earlier entries are being written, what
//! arrives waits and goes together into the next one; nothing lingers.
//! Invariant: every accepted command is answered within the write limit, and
//! "unknown" whenever it may have been written.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::error::{ClientWriteError, RaftError};
use osmoda_kit::clock::SharedClock;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::core::{Core, member};
use crate::error::ProposeError;
use crate::store::Counters;
use crate::types::{
    Batch, COMMAND_BYTES_MAX, COMMANDS_PER_ENTRY_MAX, ENTRY_BYTES_SOFT_MAX, Item, Replies, command_index,
};

/// Commands that may wait. Eight full entries, some 100 ms of work on a slow
/// disk; beyond that a caller is better told to come back.
const QUEUE_MAX: usize = 8 * COMMANDS_PER_ENTRY_MAX;

/// Entries written at once: the second one's fsync overlaps the first one's
/// replication; more only make batches smaller (openraft writes one by one).
const IN_FLIGHT_MAX: usize = 2;

/// The answer to a committed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Log index of the entry that carries the command.
    pub index: u64,
    /// The command's own index.
    pub command_index: u64,
    /// What the state machine answered.
    pub bytes: Bytes,
}

type Answer = Result<Reply, ProposeError>;

/// A command on its way into an entry.
struct Pending {
    item: Item,
    answer: oneshot::Sender<Answer>,
}

/// The handle that accepts commands.
#[derive(Clone)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Pending>,
    core: Arc<Core>,
    stopping: CancellationToken,
}

/// What the proposer's task owns.
pub(crate) struct Batcher {
    queue: mpsc::Receiver<Pending>,
    core: Arc<Core>,
    clock: SharedClock,
    counters: Arc<Counters>,
    limit: Duration,
}

/// Makes the handle and the task behind it. `stopping` ends new proposals.
pub(crate) fn new(
    core: Arc<Core>,
    clock: SharedClock,
    counters: Arc<Counters>,
    stopping: CancellationToken,
) -> (Proposer, Batcher) {
    let (sender, queue) = mpsc::channel(QUEUE_MAX);
    let limit = core.timing.write_limit;
    (Proposer { queue: sender, core: core.clone(), stopping }, Batcher { queue, core, clock, counters, limit })
}

impl Proposer {
    /// Hands over one command and waits for its answer.
    pub(crate) async fn propose(&self, request_id: [u8; 16], command: Bytes) -> Answer {
        if command.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: command.len() });
        }
        self.check_leads()?;
        let (answer, answered) = oneshot::channel();
        let pending = Pending { item: Item { request_id, command }, answer };
        self.queue.try_send(pending).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ProposeError::Busy,
            mpsc::error::TrySendError::Closed(_) => ProposeError::Unavailable,
        })?;
        let answer = self.answer(answered).await;
        let outcome = match &answer {
            Ok(_) => "committed",
            Err(ProposeError::Unknown) => "unknown",
            Err(_) => "refused",
        };
        metrics::counter!("osmoda_raft_proposals_total", "outcome" => outcome).increment(1);
        answer
    }

    async fn answer(&self, answered: oneshot::Receiver<Answer>) -> Answer {
        // Twice the limit covers waiting in the queue for one stuck write; the
        // batcher answers earlier, this only ends the wait if it is gone.
        match tokio::time::timeout(self.core.timing.write_limit * 2, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }

    fn check_leads(&self) -> Result<(), ProposeError> {
        let core = &self.core;
        if self.stopping.is_cancelled() {
            return Err(ProposeError::Unavailable);
        }
        if !core.leads() {
            return Err(ProposeError::NotLeader { leader: core.leader() });
        }
        if core.is_aside() {
            return Err(ProposeError::NotLeader { leader: None });
        }
        if core.leads_with_quorum() { Ok(()) } else { Err(ProposeError::Unavailable) }
    }
}

impl Batcher {
    /// Runs until every handle is gone or `finish` fires, then writes what was
    /// accepted before.
    pub(crate) async fn run(mut self, finish: CancellationToken) {
        let mut in_flight = FuturesUnordered::new();
        let mut carried: Option<Pending> = None;
        let mut is_closed = false;
        loop {
            let has_room = in_flight.len() < IN_FLIGHT_MAX;
            if has_room && let Some(first) = carried.take() {
                let batch = self.gather(first, &mut carried);
                in_flight.push(self.write(batch));
                continue;
            }
            if is_closed && in_flight.is_empty() {
                return;
            }
            tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = finish.cancelled(), if !self.queue.is_closed() => self.queue.close(),
                // Cancel-safe: a finished write stays in the set until taken.
                Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
                // Cancel-safe: recv takes a command only when it returns it.
                first = self.queue.recv(), if has_room && !is_closed => match first {
                    Some(first) => carried = Some(first),
                    None => is_closed = true,
                },
            }
        }
    }

    /// Takes what waits, up to the limits of an entry; the first command that
    /// does not fit any more is carried over.
    fn gather(&mut self, first: Pending, carried: &mut Option<Pending>) -> Vec<Pending> {
        let mut bytes = first.item.command.len();
        let mut batch = vec![first];
        while batch.len() < COMMANDS_PER_ENTRY_MAX && bytes < ENTRY_BYTES_SOFT_MAX {
            let Ok(next) = self.queue.try_recv() else { break };
            // Nobody waits any more: the caller gave up before it was written.
            if next.answer.is_closed() {
                continue;
            }
            bytes += next.item.command.len();
            if bytes > ENTRY_BYTES_SOFT_MAX {
                *carried = Some(next);
                break;
            }
            batch.push(next);
        }
        batch
    }

    /// Writes one entry and answers its commands.
    fn write(&self, batch: Vec<Pending>) -> impl Future<Output = ()> + Send + use<> {
        let (core, counters, limit) = (self.core.clone(), self.counters.clone(), self.limit);
        let ts_ms = self.clock.now_wall().as_millis();
        async move {
            let (items, answers): (Vec<Item>, Vec<oneshot::Sender<Answer>>) =
                batch.into_iter().map(|pending| (pending.item, pending.answer)).unzip();
            counters.batches.add(1);
            counters.commands.add(items.len() as u64);
            let result = write_batch(&core, Batch { items, proposer: core.me.raft_id, ts_ms }, limit).await;
            for (position, answer) in (0_u16..).zip(answers) {
                let reply = match &result {
                    Ok((index, Replies(replies))) => match replies.get(usize::from(position)) {
                        Some(bytes) => {
                            let command_index = command_index(*index, position);
                            Ok(Reply { index: *index, command_index, bytes: bytes.clone() })
                        }
                        None => Err(ProposeError::Unknown),
                    },
                    Err(error) => Err(error.clone()),
                };
                if answer.send(reply).is_err() {
                    tracing::trace!("the proposer of a command is gone");
                }
            }
        }
    }
}

async fn write_batch(core: &Core, batch: Batch, limit: Duration) -> Result<(u64, Replies), ProposeError> {
    match tokio::time::timeout(limit, core.raft.client_write(batch)).await {
        Ok(Ok(response)) => Ok((response.log_id.index, response.data)),
        // Refused before it was written, or cut from the log by a new leader's
        // entries: either way it is not committed and never will be.
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            let leader = forward.leader_id.zip(forward.leader_node).map(|(id, seat)| member(id, &seat));
            Err(ProposeError::NotLeader { leader })
        }
        // Only for changes of members; nothing was written.
        Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(_)))) => Err(ProposeError::Unavailable),
        // Stopped, perhaps after it was written.
        Ok(Err(RaftError::Fatal(_))) => Err(ProposeError::Unknown),
        // openraft may also never answer (issue 1761): the limit is the answer.
        Err(_) => Err(ProposeError::Unknown),
    }
}
