//! The writer thread: natural group commit.
//!
//! While one commit runs, appends queue up; the next commit takes them all. On
//! a fast disk a commit is over before many clients could ask again, so the
//! writer also waits, for as many appends as came last time and never longer
//! than the window: a lone client is never made to wait (last time was one),
//! 256 clients share a commit. Measured 2026-11-22 over the
//! socket, two busy cores, ext4: 75 to 120 appends a sync at 256 clients, 27 to
//! 31 at 32, one at one.
//!
//! Invariant: an append is answered with success only after its commit
//! returned; after an error nobody in the batch is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::chain;
use osmoda_kit::fsio;
use tokio::sync::{oneshot, watch};

use super::handle::{Counters, State, WriterOptions};
use super::log::{Copied, Copier, Due};
use super::queue::Queue;
use super::record::Head;
use super::store::{Entry, Guard, NewRow, Store, StoreError};

/// One append that waits for its commit.
pub(crate) struct Job {
    pub(crate) row: NewRow,
    /// What must hold for it; see [`Guard`].
    pub(crate) guard: Option<Guard>,
    /// The head after the row, or why it was not written. Nobody listening is
    /// fine: the caller went away, the row stays.
    pub(crate) reply: oneshot::Sender<Result<Head, NotWritten>>,
}

/// The batch an append was in was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotWritten {
    /// Storage or a guard refused it.
    Refused,
    /// It would begin an act, and the reserve is all that is left.
    NoRoom,
}

/// Syncs a copy of the log costs at most: log, file, and the log's new header.
const COPY_SYNCS: u64 = 3;

/// What the writer thread owns.
pub(crate) struct Writer {
    pub(crate) store: Store,
    pub(crate) copier: Copier,
    pub(crate) queue: Arc<Queue<Job>>,
    pub(crate) state: watch::Sender<State>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) clock: SharedClock,
    pub(crate) options: WriterOptions,
    /// Where the ledger lies.
    pub(crate) folder: PathBuf,
}

impl Writer {
    /// Runs until the queue is closed and empty, then empties the log; or until
    /// storage fails for good.
    pub(crate) fn run(mut self) -> Result<(), StoreError> {
        let ended = self.serve();
        if let Err(error) = &ended {
            tracing::error!(error = chain(error), "ledger writer stopped");
            self.state.send_modify(|state| state.is_failed = true);
            self.refuse_the_rest();
            if self.copier.stop().is_err() {
                tracing::error!("the copier of the ledger's log panicked");
            }
            return ended;
        }
        self.copier.stop()?;
        self.store.truncate_log()
    }

    fn serve(&mut self) -> Result<(), StoreError> {
        let max = self.options.batch_rows_max.max(1);
        let mut jobs = Vec::with_capacity(max);
        let mut wanted = 1;
        while self.queue.take(wanted, max, self.options.gather_window, &mut jobs) {
            wanted = jobs.len();
            self.keep_reserve(&mut jobs);
            if jobs.is_empty() {
                continue;
            }
            let (rows, replies): (Vec<Entry>, Vec<_>) =
                jobs.drain(..).map(|job| ((job.row, job.guard), job.reply)).unzip();
            let count = rows.len();
            let written = self.store.commit(rows, self.clock.now_wall());
            self.publish(&written, count);
            let heads = written.as_ref().map_or(&[][..], Vec::as_slice);
            for (n, reply) in replies.into_iter().enumerate() {
                answer(reply, heads.get(n).copied().flatten().ok_or(NotWritten::Refused));
            }
            match written {
                Ok(_) => {}
                Err(error @ StoreError::Refused(_)) => {
                    tracing::error!(error = chain(&error), rows = count, "ledger write refused");
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.tend_log()?;
        }
        Ok(())
    }

    /// Refuses what would begin an act while less than the reserve is left: an act
    /// that was begun must be able to end in the ledger.
    fn keep_reserve(&self, jobs: &mut Vec<Job>) {
        let reserve = self.options.reserve_bytes;
        if reserve == 0 || !jobs.iter().any(|job| job.row.begins_act()) {
            return;
        }
        // A file system that does not say has no room that anybody knows of.
        if fsio::free_bytes(&self.folder).is_ok_and(|free| free >= reserve) {
            return;
        }
        let (begin, rest): (Vec<Job>, Vec<Job>) = jobs.drain(..).partition(|job| job.row.begins_act());
        jobs.extend(rest);
        tracing::error!(reserve, acts = begin.len(), "too little room beside the ledger: no act begins");
        self.counters.refused.fetch_add(begin.len() as u64, Relaxed);
        metrics::counter!("osmoda_ledger_refused_total").increment(begin.len() as u64);
        begin.into_iter().for_each(|job| answer(job.reply, Err(NotWritten::NoRoom)));
    }

    /// Tells the head and the counters before any reply, so that whoever has a
    /// reply also sees them.
    fn publish(&self, written: &Result<Vec<Option<Head>>, StoreError>, rows: usize) {
        let counters = &self.counters;
        match written {
            Ok(heads) => {
                let rows = heads.iter().flatten().count();
                counters.appends.fetch_add(rows as u64, Relaxed);
                counters.commits.fetch_add(1, Relaxed);
                counters.syncs.fetch_add(1, Relaxed);
                metrics::counter!("osmoda_ledger_appends_total").increment(rows as u64);
                metrics::counter!("osmoda_ledger_commits_total").increment(1);
            }
            Err(_) => {
                counters.refused.fetch_add(rows as u64, Relaxed);
                metrics::counter!("osmoda_ledger_refused_total").increment(rows as u64);
            }
        }
        let (head, root) = (self.store.head(), self.store.root());
        metrics::gauge!("osmoda_ledger_rows").set(head.size as f64);
        self.state.send_modify(|state| {
            state.head = head;
            state.root = root;
            state.is_writable = written.is_ok();
        });
    }

    /// Has the log copied into the file when it is long; see [`log`](super::log).
    fn tend_log(&mut self) -> Result<(), StoreError> {
        if self.copier.is_running() {
            let ended = if self.store.log.is_too_long() { Some(self.copier.wait()) } else { self.copier.result() };
            let Some(ended) = ended else { return Ok(()) };
            if let Some(copied) = self.judge(ended)? {
                self.store.log.copied(copied);
            }
        }
        match self.store.log.due() {
            Due::Nothing => Ok(()),
            Due::Beside => self.copier.begin(),
            Due::Rest => {
                let copied = self.store.copy_log();
                self.judge(copied).map(drop)
            }
        }
    }

    fn judge(&self, copied: Result<Copied, StoreError>) -> Result<Option<Copied>, StoreError> {
        match copied {
            Ok(copied) => {
                self.counters.syncs.fetch_add(COPY_SYNCS, Relaxed);
                Ok(Some(copied))
            }
            // The log only stays longer; what it holds is durable.
            Err(error @ StoreError::Refused(_)) => {
                tracing::warn!(error = chain(&error), "the ledger's log could not be copied");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn refuse_the_rest(&self) {
        self.queue.close();
        let mut jobs = Vec::new();
        while self.queue.take(1, usize::MAX, std::time::Duration::ZERO, &mut jobs) {
            self.counters.refused.fetch_add(jobs.len() as u64, Relaxed);
            for job in jobs.drain(..) {
                answer(job.reply, Err(NotWritten::Refused));
            }
        }
    }
}

fn answer(reply: oneshot::Sender<Result<Head, NotWritten>>, result: Result<Head, NotWritten>) {
    if reply.send(result).is_err() {
        // The caller went away; its row is in the ledger, or not, all the same.
        tracing::trace!("append finished without its caller");
    }
}
