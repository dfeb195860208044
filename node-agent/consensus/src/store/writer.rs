//! The one thread that writes the log, with group commit.
//!
//! Invariant: operations reach the disk in the order they were queued.
//! Invariant: an operation is answered only after the commit that holds it
//! returned, or with the fault that stopped the store. A vote is a commit of
//! its own; neighbouring appends share one.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use openraft::storage::LogFlushed;
use tokio::sync::oneshot;

use crate::store::StoreFault;
use crate::store::engine::{Change, Engine};
use crate::store::health::{Counters, Health};
use crate::store::tail::Tail;
use crate::types::{Entry, LogId, TypeConfig, Vote, entry_bytes};

/// Operations that may wait for the disk.
///
/// openraft 0.9 waits for each of its writes, so one voter queues a handful;
/// the bound only keeps a fault in that assumption from eating memory.
const QUEUE_MAX: usize = 256;

/// Bytes of entries after which a group takes no further append, so that one
/// commit stays well under a heartbeat even on a slow disk.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Who waits for a durable write.
pub(crate) type Done = oneshot::Sender<Result<(), StoreFault>>;

/// One queued write.
pub(crate) enum Op {
    Append(Vec<Entry>, LogFlushed<TypeConfig>),
    Vote(Vote, Done),
    Truncate(u64, Done),
    Purge(LogId, Done),
    /// Write the commit mark and end the thread.
    Close(Done),
}

/// The handle to the writer thread.
pub(crate) struct Writer {
    queue: SyncSender<Op>,
    thread: Mutex<Option<JoinHandle<()>>>,
    health: Health,
}

impl Writer {
    pub(crate) fn start(
        engine: Arc<Engine>,
        tail: Arc<Mutex<Tail>>,
        health: Health,
        counters: Arc<Counters>,
    ) -> Result<Self, StoreFault> {
        let (queue, operations) = sync_channel(QUEUE_MAX);
        let thread = Thread { engine, tail, health: health.clone(), counters };
        // A thread and not a task: fsync blocks, and the order of writes must
        // not depend on a pool.
        let thread = std::thread::Builder::new()
            .name("raft-log".into())
            .spawn(move || thread.run(&operations))
            .map_err(|error| StoreFault::from_io("starting the writer", &error))?;
        Ok(Self { queue, thread: Mutex::new(Some(thread)), health })
    }

    /// Queues an operation; when the thread is gone it is answered with the
    /// fault that ended it.
    pub(crate) async fn submit(&self, mut op: Op) {
        loop {
            match self.queue.try_send(op) {
                Ok(()) => return,
                Err(TrySendError::Disconnected(op)) => return answer(op, Err(self.stopped())),
                Err(TrySendError::Full(back)) => {
                    // Only reached when the disk stalls; openraft cannot take
                    // a refusal here, so wait a little and offer it again.
                    op = back;
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            }
        }
    }

    /// Queues an operation and waits until it is durable.
    pub(crate) async fn run(&self, op: impl FnOnce(Done) -> Op) -> Result<(), StoreFault> {
        let (done, written) = oneshot::channel();
        self.submit(op(done)).await;
        written.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    /// Ends the thread after everything queued before; twice is harmless.
    pub(crate) async fn close(&self) {
        if let Err(fault) = self.run(Op::Close).await {
            tracing::warn!(%fault, "the raft log was closed after a fault");
        }
        let thread = self.thread.lock().expect("the lock is held for one move only").take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the raft log writer panicked");
        }
    }

    fn stopped(&self) -> StoreFault {
        self.health.fault().unwrap_or(StoreFault::Io { doing: "writing", reason: "the log is closed".into() })
    }
}

/// What the writer thread owns.
struct Thread {
    engine: Arc<Engine>,
    tail: Arc<Mutex<Tail>>,
    health: Health,
    counters: Arc<Counters>,
}

impl Thread {
    fn run(self, operations: &Receiver<Op>) {
        let mut carried = None;
        while let Some(first) = carried.take().or_else(|| operations.recv().ok()) {
            let (group, next) = gather(first, operations);
            carried = next;
            let is_end = matches!(group.last(), Some(Op::Close(_)));
            let result = self.write(&group);
            for op in group {
                answer(op, result.clone());
            }
            if is_end {
                return;
            }
        }
    }

    /// One commit for the whole group, then the marks in memory.
    fn write(&self, group: &[Op]) -> Result<(), StoreFault> {
        if let Some(fault) = self.health.fault() {
            return Err(fault);
        }
        let mut changes: Vec<Change<'_>> = Vec::with_capacity(group.len() + 1);
        let mut durable_until = None;
        for op in group {
            match op {
                Op::Append(entries, _) => {
                    durable_until = entries.last().map(|entry| entry.log_id.index + 1).or(durable_until);
                    changes.push(Change::Append(entries));
                    self.counters.entries.add(entries.len() as u64);
                }
                Op::Vote(vote, _) => changes.push(Change::Vote(*vote)),
                Op::Truncate(from, _) => changes.push(Change::Truncate(*from)),
                Op::Purge(upto, _) => changes.push(Change::Purge(*upto)),
                Op::Close(_) => {}
            }
        }
        changes.extend(self.commit_mark(group, durable_until).map(|mark| Change::Committed(Some(mark))));
        if changes.is_empty() {
            return Ok(());
        }
        let begin = Instant::now();
        let result = self.engine.commit(&changes);
        metrics::histogram!("osmoda_raft_commit_seconds").record(begin.elapsed());
        self.counters.commits.add(1);
        match &result {
            Err(fault) => {
                tracing::error!(%fault, "the raft log cannot be written");
                self.health.poison(fault);
            }
            Ok(()) => {
                if let Some(until) = durable_until {
                    self.tail.lock().expect("no code panics while it holds the tail").mark_durable(until);
                }
            }
        }
        result
    }

    /// The commit mark that may go with this group: only entries that the
    /// group itself, or one before it, makes durable.
    fn commit_mark(&self, group: &[Op], durable_until: Option<u64>) -> Option<LogId> {
        let tail = self.tail.lock().expect("no code panics while it holds the tail");
        match (group.last(), durable_until) {
            (Some(Op::Close(_)), _) => tail.committed_below(u64::MAX),
            (_, Some(until)) => tail.committed_below(until),
            (_, None) => None,
        }
    }
}

/// Takes what may share a commit with `first`; the one that may not is
/// returned beside the group.
fn gather(first: Op, operations: &Receiver<Op>) -> (Vec<Op>, Option<Op>) {
    let mut bytes = append_bytes(&first);
    let mut group = vec![first];
    while matches!(group.last(), Some(Op::Append(..))) && bytes < GROUP_BYTES_MAX {
        match operations.try_recv() {
            Ok(op @ Op::Append(..)) => {
                bytes += append_bytes(&op);
                group.push(op);
            }
            Ok(other) => return (group, Some(other)),
            Err(_) => break,
        }
    }
    (group, None)
}

fn append_bytes(op: &Op) -> usize {
    match op {
        Op::Append(entries, _) => entries.iter().map(entry_bytes).sum(),
        _ => 0,
    }
}

/// Tells whoever waits how its operation ended.
fn answer(op: Op, result: Result<(), StoreFault>) {
    match op {
        Op::Append(_, callback) => callback.log_io_completed(result.map_err(std::io::Error::other)),
        Op::Vote(_, done) | Op::Truncate(_, done) | Op::Purge(_, done) | Op::Close(done) => {
            if done.send(result).is_err() {
                tracing::debug!("nobody waits for this write any more");
            }
        }
    }
}
