//! Fills the index behind the commits.
//!
//! One thread of the lowest priority that, while rows come fast, works a tenth of
//! the time: then the writer and its callers come first. Searches look through the
//! newest rows themselves, as many as they can in their time; an index that is further
//! behind leaves rows between that nobody searches until it has caught up, and each
//! answer says how many (`recall`). It reads the ledger through a connection of its
//! own, in short transactions, so the write-ahead log is never held back.
//!
//! This file decides when to index; `index.rs` how.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use osmoda_kit::error::chain;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{OnError, OnStop, TaskKind, Tasks};
use tokio::sync::{Notify, Semaphore, watch};

use super::index::{FILE_NAME, Index, IndexError};
use super::{Memory, Progress, SEARCHES_AT_ONCE};
use crate::ledger::Ledger;
use crate::ledger::file::LedgerFile;

/// Rows of one step. Enough for one transaction to be cheap per row; a step of
/// typical rows is some 10 ms, which is how long a stop waits for it.
const STEP_ROWS: usize = 256;

/// Bytes of one step: rows may be 60 KiB, and a step must stay a step.
const STEP_BYTES: usize = 1 << 20;

/// Rest between two steps that each took all there was. Commits come every few
/// milliseconds under load; a transaction for each would cost more than the
/// words. What is younger is searched without the index.
const REST: Duration = Duration::from_millis(100);

/// Rows per second from which on the ledger is under load: more than one client
/// can append (2,400 on the disk of `docs/benchmarks.md`), less than a gathered
/// commit of 32 brings.
const LOAD_ROWS_PER_SECOND: f64 = 4000.0;

/// Under load, a step is followed by a rest this many times as long. Low priority
/// is not enough: a thread that is let in while the writer waits for its disk
/// keeps the core's caches and its other half. Smaller costs the appends more
/// (0 times: a fifth of them); larger lets the index fall behind faster. With this it
/// does some 2,600 rows a second and falls behind all that comes faster: after seconds
/// of 10,000 it is more rows behind than a search looks through without it, and catches
/// up when the load ends.
const LOAD_REST: u32 = 9;

/// Rest after a failure, such as a full disk.
const RETRY: Duration = Duration::from_secs(5);

/// The lowest priority there is (`man 7 sched`): about 1.5 % of a busy core.
const NICENESS: i32 = 19;

/// Its end is waited for before the ledger closes; its failure only makes
/// searches slower.
const KIND: TaskKind = TaskKind { on_error: OnError::LogOnly, on_stop: OnStop::Wait, ends_at: Stage::FinishAccepted };

/// Why the follower ended early.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// The thread could not be started.
    #[error("cannot start the index thread")]
    Thread(#[source] std::io::Error),
    /// The thread panicked; its hook has said where.
    #[error("the index thread panicked")]
    Panicked,
    /// Waiting for it failed.
    #[error("the index thread was not joined")]
    Join(#[source] osmoda_kit::tasks::BlockingFailed),
}

impl Memory {
    /// Starts to index the ledger `ledger_path`, beside which the index lies.
    ///
    /// # Errors
    /// [`ThreadError::Thread`].
    pub fn start(ledger: Ledger, ledger_path: &Path, tasks: &Tasks) -> Result<Self, ThreadError> {
        let index_path = ledger_path.with_file_name(FILE_NAME);
        let (publish, progress) = watch::channel(Progress::default());
        let damage = Arc::new(Damage::default());
        // One wake is as good as many: the thread looks at the ledger and at what was
        // reported, not at the wakes.
        let (wake, woken) = sync_channel(1);
        let (ledger_file, index_file) = (ledger_path.to_owned(), index_path.clone());
        let worker = Worker { ledger_path: ledger_file, index_path: index_file, publish, damage: Arc::clone(&damage) };
        let thread = std::thread::Builder::new()
            .name("ledger-index".to_owned())
            .spawn(move || worker.run(&woken))
            .map_err(ThreadError::Thread)?;
        tasks.spawn(KIND, "search index", follow(ledger.clone(), tasks.clone(), Arc::clone(&damage), wake, thread));
        let searches = Arc::new(Semaphore::new(SEARCHES_AT_ONCE));
        Ok(Self {
            ledger,
            tasks: tasks.clone(),
            ledger_path: ledger_path.to_owned(),
            index_path,
            progress,
            damage,
            searches,
        })
    }

    /// How far the index has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Makes the index anew: rows it knows were dropped.
    pub fn rebuild(&self) {
        self.damage.report();
    }

    /// Resolves when every row up to `id` is indexed. Cancel-safe.
    pub async fn indexed(&self, id: i64) {
        let mut progress = self.progress.clone();
        if progress.wait_for(|progress| progress.indexed >= id).await.is_err() {
            tracing::debug!("search index ended");
        }
    }
}

/// A wish for the index to be made anew. It is kept until the thread has followed it,
/// whatever wakes wait: words of rows that were dropped must not stay.
#[derive(Debug, Default)]
pub(super) struct Damage {
    is_reported: AtomicBool,
    reported: Notify,
}

impl Damage {
    /// Asks for it.
    pub(super) fn report(&self) {
        self.is_reported.store(true, SeqCst);
        self.reported.notify_one();
    }

    /// Whether it was asked for since this was called last.
    fn take(&self) -> bool {
        self.is_reported.swap(false, SeqCst)
    }

    /// What was taken could not be done.
    fn give_back(&self) {
        self.is_reported.store(true, SeqCst);
    }
}

/// Wakes the thread after commits and reports, and joins it when a stop has come.
async fn follow(
    ledger: Ledger,
    tasks: Tasks,
    damage: Arc<Damage>,
    wake: SyncSender<()>,
    thread: std::thread::JoinHandle<()>,
) -> Result<(), ThreadError> {
    let stop = tasks.shutdown().token(Stage::FinishAccepted);
    let mut state = ledger.follow();
    // A commit wakes the thread once in `REST` at most: it sleeps that long anyway.
    let mut commits_seen_from = tokio::time::Instant::now();
    loop {
        let grown = async {
            tokio::time::sleep_until(commits_seen_from).await;
            state.changed().await
        };
        tokio::select! {
            biased;
            // Cancel-safe: a token's state is not consumed.
            () = stop.cancelled() => break,
            // Cancel-safe: a permit that was stored stays stored.
            () = damage.reported.notified() => {}
            // Cancel-safe: the timer has its time from outside, and what changed is
            // still seen as changed by the next call.
            changed = grown => {
                if changed.is_err() {
                    break;
                }
                commits_seen_from = tokio::time::Instant::now() + REST;
            }
        }
        // Full means that a wake is waiting already; gone, that the thread ended.
        if wake.try_send(()).is_err() {
            tracing::trace!("the index is awake");
        }
    }
    drop(wake);
    let joined = tasks.blocking("join search index", move || thread.join()).await.map_err(ThreadError::Join)?;
    joined.map_err(|_| ThreadError::Panicked)
}

/// What the thread owns.
struct Worker {
    ledger_path: std::path::PathBuf,
    index_path: std::path::PathBuf,
    publish: watch::Sender<Progress>,
    damage: Arc<Damage>,
}

impl Worker {
    /// Indexes until the other end of `woken` is dropped.
    fn run(&self, woken: &Receiver<()>) {
        if let Err(error) = rustix::process::nice(NICENESS) {
            tracing::debug!(%error, "the index runs at normal priority");
        }
        let mut state = None;
        let mut pace = Pace::new(Instant::now());
        loop {
            let (begin, is_damaged) = (Instant::now(), self.damage.take());
            let (rest, has_reason) = match self.step(&mut state, is_damaged) {
                Ok(step) => (pace.rest(&step, begin, Instant::now()), step.has_more()),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "search index behind");
                    self.publish.send_modify(|progress| progress.is_usable = false);
                    state = None;
                    if is_damaged {
                        self.damage.give_back();
                    }
                    (RETRY, true)
                }
            };
            if !pause(woken, rest, has_reason) {
                return;
            }
        }
    }

    /// Indexes one step.
    fn step(&self, state: &mut Option<(LedgerFile, Index)>, is_damaged: bool) -> Result<Step, IndexError> {
        if is_damaged || state.as_ref().is_some_and(|(_, index)| !index.is_there()) {
            *state = None;
            Index::anew(&self.index_path)?;
            self.rebuilt();
        }
        let (ledger, index) = match state {
            Some(open) => open,
            None => {
                let ledger = LedgerFile::open(&self.ledger_path)?;
                let (index, is_new) = Index::open(&self.index_path, &ledger)?;
                if is_new {
                    self.rebuilt();
                }
                state.insert((ledger, index))
            }
        };
        let last = ledger.last_id()?;
        let events = ledger.after(index.position(), STEP_ROWS, STEP_BYTES)?;
        match index.add(&events) {
            Err(error) if error.is_damage() => {
                tracing::warn!(error = chain(&error), "search index damaged, made anew");
                *state = None;
                Index::anew(&self.index_path)?;
                self.rebuilt();
                return Ok(Step { indexed: 0, last });
            }
            added => added?,
        }
        let position = index.position();
        self.publish.send_modify(|progress| {
            progress.indexed = position;
            progress.is_usable = true;
        });
        metrics::gauge!("osmoda_memory_indexed_rows").set(position as f64);
        // Nothing behind the position is the end, whatever the last id says.
        Ok(Step { indexed: if events.is_empty() { last } else { position }, last })
    }

    fn rebuilt(&self) {
        metrics::counter!("osmoda_memory_rebuilds_total").increment(1);
        self.publish.send_modify(|progress| {
            progress.indexed = 0;
            progress.is_usable = false;
            progress.rebuilds += 1;
        });
    }
}

/// What one step found and did.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// The last row that is indexed now.
    indexed: i64,
    /// The last row there was when the step began.
    last: i64,
}

impl Step {
    /// Whether there was more than the step took.
    const fn has_more(self) -> bool {
        self.indexed < self.last
    }
}

/// How fast the ledger grows, and what rest follows from it.
#[derive(Debug)]
struct Pace {
    /// The ledger's last row as the step before saw it, and when.
    seen: Option<i64>,
    at: Instant,
}

impl Pace {
    const fn new(now: Instant) -> Self {
        Self { seen: None, at: now }
    }

    /// The rest after a step that went on from `begin` until `now`.
    fn rest(&mut self, step: &Step, begin: Instant, now: Instant) -> Duration {
        let grown = self.seen.map_or(0, |seen| (step.last - seen).max(0));
        let rate = grown as f64 / begin.duration_since(self.at).as_secs_f64().max(f64::MIN_POSITIVE);
        (self.seen, self.at) = (Some(step.last), begin);
        match step.has_more() {
            false => REST,
            true if rate >= LOAD_ROWS_PER_SECOND => now.duration_since(begin) * LOAD_REST,
            true => Duration::ZERO,
        }
    }
}

/// Waits for `rest` at least, then for a reason to look again unless there is
/// one; false when the daemon stops.
fn pause(woken: &Receiver<()>, rest: Duration, mut has_reason: bool) -> bool {
    let begin = Instant::now();
    loop {
        let left = rest.saturating_sub(begin.elapsed());
        let received = if !left.is_zero() {
            woken.recv_timeout(left)
        } else if has_reason {
            woken.recv_timeout(Duration::ZERO)
        } else {
            woken.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match received {
            Ok(()) => has_reason = true,
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) if left.is_zero() => return true,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rest after a step of 10 ms that came `after_ms` behind the one before.
    fn rest(seen: Option<i64>, after_ms: u64, indexed: i64, last: i64) -> Duration {
        let start = Instant::now();
        let begin = start + Duration::from_millis(after_ms);
        Pace { seen, at: start }.rest(&Step { indexed, last }, begin, begin + Duration::from_millis(10))
    }

    #[test]
    fn under_load_a_tenth_of_the_time_is_for_the_index() {
        assert_eq!(rest(Some(1000), 100, 1256, 3000), Duration::from_millis(90));
        assert_eq!(rest(Some(1000), 100, 1256, 1399), Duration::ZERO, "390 rows in 100 ms are no load");
    }

    #[test]
    fn a_long_ledger_that_does_not_grow_is_indexed_without_rest() {
        assert_eq!(rest(Some(1_000_000), 10, 256, 1_000_000), Duration::ZERO);
        assert_eq!(rest(None, 0, 256, 1_000_000), Duration::ZERO, "the first step knows no rate");
    }

    #[test]
    fn what_is_caught_up_rests_whatever_the_load() {
        assert_eq!(rest(Some(1000), 10, 2000, 2000), REST);
        assert_eq!(rest(Some(2000), 10, 500, 1000), Duration::ZERO, "a ledger that shrank is no load");
    }

    /// The thread is in a step, and a wake waits for its end already.
    #[tokio::test]
    async fn a_wish_to_make_the_index_anew_is_not_lost_behind_a_wake() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(crate::ledger::file::FILE_NAME);
        let clock = Arc::new(osmoda_kit::testing::FakeClock::new());
        let (ledger, threads, _) = Ledger::open(&path, crate::ledger::WriterOptions::default(), clock).unwrap();
        let tasks = Tasks::new(osmoda_kit::shutdown::Shutdown::new());
        let (damage, (wake, woken)) = (Arc::new(Damage::default()), sync_channel(1));
        wake.try_send(()).unwrap();
        let (end, ended) = sync_channel::<()>(1);
        let (learn, learned) = tokio::sync::oneshot::channel();
        let step = std::thread::spawn({
            let damage = Arc::clone(&damage);
            move || {
                ended.recv().unwrap();
                assert!(pause(&woken, Duration::ZERO, false), "the wake that waited");
                assert!(damage.take(), "the next step makes it anew");
                assert!(!damage.take(), "once");
                learn.send(()).unwrap();
                assert!(!pause(&woken, Duration::ZERO, false));
            }
        });
        let follow = follow(ledger.clone(), tasks.clone(), Arc::clone(&damage), wake, step);
        let mut follow = Box::pin(follow);
        assert!(futures_util::poll!(follow.as_mut()).is_pending());
        damage.report();
        assert!(futures_util::poll!(follow.as_mut()).is_pending());
        end.send(()).unwrap();
        learned.await.unwrap();
        tasks.shutdown().request(osmoda_kit::shutdown::StopReason::Asked("test".to_owned()));
        let (ended, _) = tokio::join!(follow, tasks.drain(Duration::from_secs(20)));
        ended.unwrap();
        threads.close().unwrap();
    }
}
