//! The ledger as the rest of the daemon uses it: a handle that is cheap to
//! clone, in front of one thread that writes, its helper that copies the log, and one
//! that reads.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use osmoda_kit::clock::{SharedClock, Timestamp};
use osmoda_kit::fsio::FsError;
use osmoda_ledger::tree::TreeHash;
use tokio::sync::{oneshot, watch};

use super::file::{FileError, LedgerFile, Mark};
use super::log::Copier;
use super::queue::{PushError, Queue};
use super::record::Head;
use super::seal::Seal;
use super::store::{CannotOpen, Guard, NewRow, Store, StoreError, Synchronous, connect};
use super::verify::{Fault, Report};
use super::writer::{Job, NotWritten, Writer};

/// Appends that may wait for the writer. Four full batches: a client that is
/// refused sooner would only come back, and one that waits behind more would
/// see its own time limit first on a slow disk (50 ms a sync).
const APPENDS_WAITING_MAX: usize = 1024;

/// Queries that may wait for the reader. A query may take a second on a large
/// ledger; sixteen of them are as long as a caller waits.
const READS_WAITING_MAX: usize = 16;

/// How the writer groups and syncs. [`WriterOptions::default`] is what the
/// daemon uses; anything else is for measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterOptions {
    /// Most rows in one commit. 256 is where the gain flattens (`trust.md` 1.4)
    /// and a commit still takes about 4 ms.
    pub batch_rows_max: usize,
    /// Longest wait for others to join a commit. 2 ms is ten commits of a fast
    /// disk, and little beside one of a slow disk (`trust.md` 1.4).
    pub gather_window: Duration,
    /// Whether commits are synced.
    pub synchronous: Synchronous,
    /// Bytes that must be free on the file system of the ledger for an act to begin;
    /// what ends one, and a rollback, is written down to the last byte.
    pub reserve_bytes: u64,
}

/// What is kept free by default (`trust.md` 1.3): outcomes of a thousand acts of the
/// largest size. Less, and an act that was begun might end unrecorded.
pub(crate) const RESERVE_MEBIBYTES: u32 = 64;

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            batch_rows_max: 256,
            gather_window: Duration::from_millis(2),
            synchronous: Synchronous::Full,
            reserve_bytes: u64::from(RESERVE_MEBIBYTES) << 20,
        }
    }
}

impl WriterOptions {
    /// One commit per append, as without group commit. For measurement only.
    #[must_use]
    pub const fn one_commit_per_append() -> Self {
        let synchronous = Synchronous::Full;
        Self { batch_rows_max: 1, gather_window: Duration::ZERO, synchronous, reserve_bytes: 0 }
    }
}

/// The ledger could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be created, opened or migrated.
    #[error(transparent)]
    Open(#[from] CannotOpen),
    /// The file cannot be walked to its end.
    #[error("cannot read the ledger")]
    Unreadable(#[source] rusqlite::Error),
    /// Chain or grammar do not hold. Nothing was appended.
    #[error("the ledger is broken: verified up to {} of {}, first fault: {first}", report.verified, report.total)]
    Broken {
        /// What the verifier found.
        report: Box<Report>,
        /// The first fault, as text.
        first: String,
    },
    /// The ledger could be read but not opened a second time for queries.
    #[error("cannot open the ledger for queries")]
    Reader(#[source] FileError),
    /// A thread could not be started.
    #[error("cannot start a thread for the ledger")]
    Thread(#[source] std::io::Error),
}

/// An append or a query was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The queue is full; nothing was done.
    #[error("too many requests wait for the ledger")]
    Busy,
    /// The row was not written, or the ledger is closed. Nothing was recorded,
    /// so what was to be recorded must not be done. Where a sync failed, which ends the
    /// daemon, the next start may find the row all the same: begun, and never done.
    #[error("the ledger cannot be written")]
    Unavailable,
    /// Less room is left than an act may begin with. Nothing was recorded; what ends
    /// acts still is.
    #[error("too little room is left beside the ledger to begin an act")]
    NoRoom,
}

/// A guarded append was not done.
#[derive(Debug)]
pub(crate) enum Guarded<E> {
    /// The guard said no, and why.
    Refused(E),
    /// The ledger did not take it.
    Ledger(LedgerError),
}

/// What the writer publishes after each commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The head of what is durable.
    pub head: Head,
    /// The root of the tree over the same rows.
    pub root: TreeHash,
    /// Whether the last commit succeeded.
    pub is_writable: bool,
    /// Whether the writer has stopped for good; the daemon must restart.
    pub is_failed: bool,
}

impl State {
    fn of(store: &Store) -> Self {
        Self { head: store.head(), root: store.root(), is_writable: true, is_failed: false }
    }
}

/// Counts since start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) appends: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) busy: AtomicU64,
}

/// A snapshot of the ledger's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerCounts {
    /// Rows made durable.
    pub appends: u64,
    /// Transactions that made them so.
    pub commits: u64,
    /// Disk syncs, at most: one per commit, three per checkpoint.
    pub syncs: u64,
    /// Rows that storage refused.
    pub refused: u64,
    /// Appends that found the queue full.
    pub busy: u64,
}

type ReadJob = Box<dyn FnOnce(&LedgerFile) + Send>;

/// The handle.
#[derive(Clone)]
pub struct Ledger {
    appends: Arc<Queue<Job>>,
    reads: Arc<Queue<ReadJob>>,
    state: watch::Receiver<State>,
    counters: Arc<Counters>,
    clock: SharedClock,
    sealed: Arc<OnceLock<String>>,
    seal: Arc<Seal>,
    /// The seal's file says so too.
    is_seal_written: Arc<AtomicBool>,
}

/// The threads behind the handle; whoever opened the ledger closes it.
pub struct LedgerThreads {
    appends: Arc<Queue<Job>>,
    reads: Arc<Queue<ReadJob>>,
    writer: JoinHandle<Result<(), StoreError>>,
    reader: JoinHandle<()>,
}

impl Ledger {
    /// Opens or creates the ledger, verifies all of it, and starts its threads.
    /// Blocks for the walk: 160,000 rows a second on two busy cores (measured
    /// 2026-11-22, `bench ledger`). It is never cut short: what a daemon would
    /// remember of an earlier check could be changed with the file.
    ///
    /// # Errors
    /// Each [`OpenError`]; [`OpenError::Broken`] means the daemon must not run.
    pub fn open(
        path: &Path,
        options: WriterOptions,
        clock: SharedClock,
    ) -> Result<(Self, LedgerThreads, Report), OpenError> {
        Self::open_against(path, options, clock, &[], |_| {})
    }

    /// As [`Ledger::open`], and compares the rows with checkpoints that were
    /// signed over them (oldest first): rows that were cut off or changed since
    /// are a broken ledger. Hands each leaf of the tree to `leaf`, in order.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open_against(
        path: &Path,
        options: WriterOptions,
        clock: SharedClock,
        marks: &[Mark],
        leaf: impl FnMut(TreeHash),
    ) -> Result<(Self, LedgerThreads, Report), OpenError> {
        let seal = Arc::new(Seal::beside(path));
        // Before there is anybody who could append.
        let sealed: OnceLock<String> = seal.read().map(OnceLock::from).unwrap_or_default();
        let mut store = Store::open(path, options.synchronous)?;
        let mut first = None;
        let mut keep_first = |fault: Fault| {
            if first.is_none() {
                first = Some(fault.to_string());
            }
        };
        let report = store.verify(marks, &mut keep_first, leaf).map_err(OpenError::Unreadable)?;
        if !report.is_intact() {
            return Err(OpenError::Broken { report: Box::new(report), first: first.unwrap_or_default() });
        }
        let file = LedgerFile::open(path).map_err(OpenError::Reader)?;

        let appends = Arc::new(Queue::new(APPENDS_WAITING_MAX));
        let reads: Arc<Queue<ReadJob>> = Arc::new(Queue::new(READS_WAITING_MAX));
        let counters = Arc::new(Counters::default());
        let (publish, state) = watch::channel(State::of(&store));
        let copier = Copier::start(connect(path, options.synchronous)?).map_err(OpenError::Thread)?;
        let writer = Writer {
            store,
            copier,
            queue: Arc::clone(&appends),
            state: publish,
            counters: Arc::clone(&counters),
            clock: Arc::clone(&clock),
            options,
            folder: path.parent().unwrap_or(Path::new(".")).to_owned(),
        };
        let writer = thread("ledger-writer", move || writer.run())?;
        let reader = thread("ledger-reader", {
            let reads = Arc::clone(&reads);
            move || serve_reads(&reads, &file)
        })?;
        let threads = LedgerThreads { appends: Arc::clone(&appends), reads: Arc::clone(&reads), writer, reader };
        let is_seal_written = Arc::new(AtomicBool::new(sealed.get().is_some()));
        let sealed = Arc::new(sealed);
        Ok((Self { appends, reads, state, counters, clock, sealed, seal, is_seal_written }, threads, report))
    }

    /// Appends a row and waits until it is durable.
    ///
    /// # Errors
    /// [`LedgerError::Busy`], [`LedgerError::NoRoom`]: the row is not in the ledger and
    /// will not be. [`LedgerError::Unavailable`]: likewise, but after a sync that failed.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the append back: the row is written,
    /// only nobody learns of it.
    pub async fn append(&self, row: NewRow) -> Result<Head, LedgerError> {
        self.push(row, None).await
    }

    /// Appends a row if `guard` says so, in one transaction with what `guard`
    /// changes in the database; waits until both are durable. The guard runs on
    /// the writer's thread with the id of the row to come, and must be short: it
    /// holds up everybody's commit.
    ///
    /// # Errors
    /// [`Guarded::Refused`] with the guard's own answer: neither row nor change
    /// is there. [`Guarded::Ledger`], likewise.
    ///
    /// # Cancel safety
    /// As [`Ledger::append`].
    pub(crate) async fn append_if<E: Send + 'static>(
        &self,
        row: NewRow,
        guard: impl FnOnce(&rusqlite::Connection, i64) -> rusqlite::Result<Result<(), E>> + Send + 'static,
    ) -> Result<Head, Guarded<E>> {
        let (say, said) = std::sync::mpsc::sync_channel(1);
        let guard = move |connection: &rusqlite::Connection, id: i64| {
            let answer = guard(connection, id)?;
            let held = answer.is_ok();
            if let Err(refusal) = answer {
                // The channel holds one; nobody else sends.
                drop(say.try_send(refusal));
            }
            Ok(held)
        };
        match self.push(row, Some(Box::new(guard))).await {
            Ok(head) => Ok(head),
            Err(error) => Err(said.try_recv().map_or(Guarded::Ledger(error), Guarded::Refused)),
        }
    }

    async fn push(&self, row: NewRow, guard: Option<Guard>) -> Result<Head, LedgerError> {
        if self.sealed.get().is_some() {
            return Err(LedgerError::Unavailable);
        }
        let (reply, answer) = oneshot::channel();
        self.appends.push(Job { row, guard, reply }).map_err(|refused| self.refusal(refused))?;
        match answer.await {
            Ok(Ok(head)) => Ok(head),
            // The writer is gone, or the batch was refused.
            Ok(Err(NotWritten::NoRoom)) => Err(LedgerError::NoRoom),
            Ok(Err(NotWritten::Refused)) | Err(_) => Err(LedgerError::Unavailable),
        }
    }

    /// Runs a query on the reader's thread.
    ///
    /// # Errors
    /// [`LedgerError::Busy`], or [`LedgerError::Unavailable`] while closing.
    ///
    /// # Cancel safety
    /// Cancel-safe: the answer of a query nobody waits for is dropped.
    pub async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&LedgerFile) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.query(query, Queue::push).await
    }

    /// As [`Ledger::read`], for who has just appended and reads what came of it. It
    /// waits behind any number of others: "busy" says that nothing was done, and would
    /// have a durable append made again. Such reads are as many as appends are under way.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`] while closing.
    ///
    /// # Cancel safety
    /// As [`Ledger::read`].
    pub(crate) async fn read_after_append<T: Send + 'static>(
        &self,
        query: impl FnOnce(&LedgerFile) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.query(query, Queue::push_beyond).await
    }

    async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&LedgerFile) -> T + Send + 'static,
        push: fn(&Queue<ReadJob>, ReadJob) -> Result<(), PushError>,
    ) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let job: ReadJob = Box::new(move |file| {
            // Nobody listening is fine: the caller went away.
            drop(reply.send(query(file)));
        });
        push(&self.reads, job).map_err(|refused| self.refusal(refused))?;
        answer.await.map_err(|_| LedgerError::Unavailable)
    }

    /// The head and whether the ledger can be written, as of the last commit.
    #[must_use]
    pub fn state(&self) -> State {
        let state = *self.state.borrow();
        State { is_writable: state.is_writable && self.sealed.get().is_none(), ..state }
    }

    /// Takes no more appends until a person has looked: others remember a past
    /// that this ledger does not have, and each row more would be one more lie
    /// about it. A restart does not open it either, once [`Ledger::write_seal`] has
    /// succeeded; whoever seals calls it until then. Returns whether it was open before.
    pub(crate) fn seal(&self, reason: &str) -> bool {
        self.sealed.set(reason.to_owned()).is_ok()
    }

    /// Whether the ledger is sealed and its file does not say so yet: a restart would
    /// open it until the first answer of a witness seals it again.
    pub(crate) fn is_seal_due(&self) -> bool {
        self.sealed.get().is_some() && !self.is_seal_written.load(SeqCst)
    }

    /// Puts the seal on disk, if it is due; durable when this returns. Blocks, and
    /// waits for neither appends nor queries: the queue of either may be full.
    ///
    /// # Errors
    /// [`FsError`] when it could not be written; it is due still.
    pub(crate) fn write_seal(&self) -> Result<(), FsError> {
        if let Some(reason) = self.sealed.get().filter(|_| self.is_seal_due()) {
            self.seal.write(reason)?;
            self.is_seal_written.store(true, SeqCst);
        }
        Ok(())
    }

    /// Why the ledger is sealed, if it is.
    #[must_use]
    pub fn sealed(&self) -> Option<&str> {
        self.sealed.get().map(String::as_str)
    }

    /// The seal's file.
    pub(crate) fn seal_file(&self) -> &Arc<Seal> {
        &self.seal
    }

    /// The time the next row would get, before rule L1.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now_wall()
    }

    /// Follows the head: changes after every commit.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Resolves when the writer has stopped for good. Cancel-safe.
    pub async fn failed(&self) {
        let mut state = self.state.clone();
        // An error means that the writer is gone: closed in order, or panicked.
        if state.wait_for(|state| state.is_failed).await.is_err() {
            tracing::debug!("ledger writer ended");
        }
    }

    /// Counts since start.
    #[must_use]
    pub fn counts(&self) -> LedgerCounts {
        let counters = &self.counters;
        LedgerCounts {
            appends: counters.appends.load(Relaxed),
            commits: counters.commits.load(Relaxed),
            syncs: counters.syncs.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            busy: counters.busy.load(Relaxed),
        }
    }

    fn refusal(&self, refused: PushError) -> LedgerError {
        match refused {
            PushError::Full => {
                self.counters.busy.fetch_add(1, Relaxed);
                LedgerError::Busy
            }
            PushError::Closed => LedgerError::Unavailable,
        }
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for LedgerThreads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LedgerThreads")
    }
}

impl LedgerThreads {
    /// Refuses new work, writes what was accepted, empties the write-ahead log
    /// and joins the threads. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] when the last commit or the checkpoint failed; what was
    /// acknowledged is durable all the same.
    pub fn close(self) -> Result<(), StoreError> {
        self.reads.close();
        // The reader first: the last connection to close removes the log, and a
        // read-only one may not. A panic was already reported by its hook.
        if self.reader.join().is_err() {
            tracing::error!("ledger reader panicked");
        }
        self.appends.close();
        self.writer.join().unwrap_or(Err(StoreError::Panicked))
    }
}

fn serve_reads(queue: &Queue<ReadJob>, file: &LedgerFile) {
    let mut jobs = Vec::with_capacity(1);
    while queue.take(1, 1, Duration::ZERO, &mut jobs) {
        for job in jobs.drain(..) {
            job(file);
        }
    }
}

fn thread<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, OpenError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(OpenError::Thread)
}
