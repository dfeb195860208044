//! The committed log from any index on, for whoever follows the fleet.
//!
//! A follower pulls: nothing is buffered for one that is slow. Invariant: what
//! it gets is contiguous; when the entries it needs were already cut from the
//! log, it gets the whole state first and goes on behind it.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::Stream;
use openraft::EntryPayload;
use osmoda_types::RaftId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::machine::{Machine, StateMachine};
use crate::store::{LogStore, StoreFault};
use crate::types::{Entry, Item};

/// Bytes of entries read at once; what one follower holds in memory.
const READ_BYTES_MAX: usize = 256 * 1024;

/// One step of the committed log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// The whole state; entries from `next_index` on follow.
    Snapshot {
        /// The first index that is not in the state.
        next_index: u64,
        /// The encoded state.
        state: Bytes,
    },
    /// One entry. Entries of Raft itself (a new leader, members) have no items.
    Entry {
        /// Its log index.
        index: u64,
        /// The voter that made it; `None` for Raft's own.
        proposer: Option<RaftId>,
        /// Its commands, in order.
        items: Vec<Item>,
    },
}

/// A reader of the committed log. Made by `Consensus::committed_from`.
pub struct CommittedLog<S> {
    next: u64,
    read: VecDeque<Entry>,
    applied: watch::Receiver<u64>,
    log: LogStore,
    machine: Machine<S>,
    stopping: CancellationToken,
}

impl<S: StateMachine> CommittedLog<S> {
    pub(crate) fn new(from: u64, log: LogStore, machine: Machine<S>, stopping: CancellationToken) -> Self {
        Self { next: from, read: VecDeque::new(), applied: machine.applied(), log, machine, stopping }
    }

    /// The next step, waiting for it if need be; `None` when the voter stops.
    ///
    /// # Errors
    /// [`StoreFault`] when the log cannot be read; the voter stops then.
    ///
    /// # Cancel safety
    /// Cancel-safe: nothing is lost, the next call gives the same step.
    pub async fn next(&mut self) -> Result<Option<Committed>, StoreFault> {
        loop {
            if let Some(entry) = self.read.pop_front() {
                self.next = entry.log_id.index + 1;
                return Ok(Some(step(entry)));
            }
            let until = tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = self.stopping.cancelled() => return Ok(None),
                // Cancel-safe: the watch keeps its value.
                until = self.applied.wait_for(|applied| *applied > self.next) => match until {
                    Ok(until) => *until,
                    Err(_) => return Ok(None),
                },
            };
            self.read = self.log.read(self.next, until, READ_BYTES_MAX).await?.into();
            if self.read.front().is_none_or(|entry| entry.log_id.index != self.next) {
                // Cut from the log meanwhile: the state holds it.
                self.read.clear();
                let (next_index, state) = self.machine.encode();
                self.next = next_index;
                return Ok(Some(Committed::Snapshot { next_index, state }));
            }
        }
    }

    /// The same as a stream, which ends after an error or when the voter stops.
    pub fn into_stream(self) -> impl Stream<Item = Result<Committed, StoreFault>> + Send {
        futures_util::stream::unfold(Some(self), |log| async {
            let mut log = log?;
            match log.next().await {
                Ok(Some(step)) => Some((Ok(step), Some(log))),
                Ok(None) => None,
                Err(fault) => Some((Err(fault), None)),
            }
        })
    }
}

fn step(entry: Entry) -> Committed {
    let index = entry.log_id.index;
    match entry.payload {
        EntryPayload::Normal(batch) => Committed::Entry { index, proposer: Some(batch.proposer), items: batch.items },
        EntryPayload::Blank | EntryPayload::Membership(_) => {
            Committed::Entry { index, proposer: None, items: Vec::new() }
        }
    }
}
