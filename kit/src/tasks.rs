//! The only door for spawning, and the registry behind it.
//!
//! Invariant: every task has a name, a kind and an owner that joins it; a drain
//! ends with no task running, and names those that had to be cut off.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use crate::error::chain;
use crate::shutdown::{Shutdown, Stage, StopReason};

/// The share of a drain's time kept for closing stores, at least. Two seconds
/// is a WAL checkpoint of some ten megabytes on a slow disk (measured locally);
/// with less, work that hangs in stage two would cost a clean store.
const STORES_TIME: Duration = Duration::from_secs(2);

/// What happens to the process when a task fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Log it; the process goes on.
    LogOnly,
    /// The process cannot do without it: drain and exit with failure. The task
    /// ending by itself before a stop counts as failure too.
    StopProcess,
}

/// What a stop does to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// It sees the stage's token and ends by itself.
    Wait,
    /// It may be cut at any await; the drain does that.
    Abort,
}

/// The two decisions every task carries, and the stage at which it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskKind {
    /// What its failure does.
    pub on_error: OnError,
    /// What a stop does to it.
    pub on_stop: OnStop,
    /// The stage in which the drain expects it to end.
    pub ends_at: Stage,
}

impl TaskKind {
    /// The process stops without it; it watches `FinishAccepted` and ends itself.
    pub const CRITICAL: TaskKind =
        TaskKind { on_error: OnError::StopProcess, on_stop: OnStop::Wait, ends_at: Stage::FinishAccepted };

    /// Useful but not needed; cut off in `FinishAccepted`.
    pub const BACKGROUND: TaskKind =
        TaskKind { on_error: OnError::LogOnly, on_stop: OnStop::Abort, ends_at: Stage::FinishAccepted };

    /// Work for one caller (a connection, a request): fails alone, is finished in a stop.
    pub const REQUEST: TaskKind =
        TaskKind { on_error: OnError::LogOnly, on_stop: OnStop::Wait, ends_at: Stage::FinishAccepted };

    /// Owns a database or log: outlives every writer, ends at `CloseStores`.
    pub const STORE: TaskKind =
        TaskKind { on_error: OnError::StopProcess, on_stop: OnStop::Wait, ends_at: Stage::CloseStores };

    /// Takes in new work: ends as soon as a stop begins.
    pub const INTAKE: TaskKind =
        TaskKind { on_error: OnError::StopProcess, on_stop: OnStop::Wait, ends_at: Stage::RefuseNew };
}

/// What a task may return: nothing, or a result whose error is logged.
pub trait TaskOutcome: Send + 'static {
    /// The failure as one line, if there is one.
    fn failure(self) -> Option<String>;
}

impl TaskOutcome for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: std::error::Error + Send + 'static> TaskOutcome for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| chain(&error))
    }
}

/// A way to cut one task off early, or to wait for it. Dropping it does nothing:
/// the registry owns the task.
#[derive(Debug)]
pub struct TaskHandle {
    abort: AbortHandle,
    done: watch::Receiver<bool>,
}

impl TaskHandle {
    /// Cuts the task off at its next await.
    pub fn abort(&self) {
        self.abort.abort();
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.abort.is_finished()
    }

    /// Waits for its end. Cancel-safe.
    pub async fn finished(&mut self) {
        // An error means that the sender is gone, and it goes only with the task.
        if self.done.wait_for(|done| *done).await.is_err() {
            tracing::trace!("task ended without a word");
        }
    }
}

/// A piece of blocking work did not return.
#[derive(Debug, thiserror::Error)]
#[error("blocking work {name} panicked or was cancelled")]
pub struct BlockingFailed {
    name: Cow<'static, str>,
    #[source]
    source: tokio::task::JoinError,
}

/// How a drain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainReport {
    /// Tasks that did not end in time, by name; empty in a graceful stop.
    pub late: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl DrainReport {
    /// Whether every task ended by itself.
    #[must_use]
    pub fn is_graceful(&self) -> bool {
        self.late.is_empty()
    }
}

/// The registry; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    shutdown: Shutdown,
    running: Mutex<Running>,
    /// Counts changes of `running`; the drain waits on it instead of polling.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Running {
    next: u64,
    tasks: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    name: Cow<'static, str>,
    kind: TaskKind,
    /// Absent only while the task is being started.
    abort: Option<AbortHandle>,
}

impl Tasks {
    /// An empty registry bound to a stop signal.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        let (changed, _) = watch::channel(0);
        Self { shared: Arc::new(Shared { shutdown, running: Mutex::default(), changed }) }
    }

    /// The stop signal of this registry.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shared.shutdown
    }

    /// Starts a task. Must be called inside a tokio runtime.
    pub fn spawn<F>(&self, kind: TaskKind, name: impl Into<Cow<'static, str>>, future: F) -> TaskHandle
    where
        F: Future + Send + 'static,
        F::Output: TaskOutcome,
    {
        let name = name.into();
        let (done_sender, done) = watch::channel(false);
        let id = {
            let mut running = self.shared.lock();
            let id = running.next;
            running.next += 1;
            running.tasks.insert(id, Entry { name: name.clone(), kind, abort: None });
            id
        };
        let guard = Deregister { shared: Arc::clone(&self.shared), id, done: done_sender };
        let shutdown = self.shared.shutdown.clone();
        let task_name = name.clone();
        let task = async move {
            // Dropped with the future, so an aborted task is deregistered too.
            let _guard = guard;
            let outcome = AssertUnwindSafe(future).catch_unwind().await;
            let failure = match outcome {
                Ok(value) => value.failure(),
                Err(panic) => Some(format!("panicked: {}", panic_text(&*panic))),
            };
            settle(&shutdown, kind, &task_name, failure);
        };
        // Not under the lock: a runtime that is shutting down drops the future
        // inside spawn, and its guard takes the lock.
        let abort = start(task).abort_handle();
        if let Some(entry) = self.shared.lock().tasks.get_mut(&id) {
            entry.abort = Some(abort.clone());
        }
        TaskHandle { abort, done }
    }

    /// Runs blocking work off the async threads and waits for its value.
    ///
    /// # Errors
    /// [`BlockingFailed`] when it panicked.
    ///
    /// # Cancel safety
    /// The work itself cannot be cancelled: it runs to its end even if this
    /// future is dropped.
    pub async fn blocking<T, W>(&self, name: impl Into<Cow<'static, str>>, work: W) -> Result<T, BlockingFailed>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        tokio::task::spawn_blocking(work).await.map_err(|source| BlockingFailed { name: name.into(), source })
    }

    /// The names of all running tasks, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.shared.lock().tasks.values().map(|entry| entry.name.to_string()).collect();
        names.sort();
        names
    }

    /// Walks the stages, waits for each stage's tasks, and cuts off what is
    /// still there at the deadline.
    ///
    /// # Cancel safety
    /// Not cancel-safe in effect: dropped half-way, tasks of later stages run on.
    pub async fn drain(&self, time_limit: Duration) -> DrainReport {
        let begin = Instant::now();
        let deadline = begin + time_limit;
        let mut late = Vec::new();
        for stage in Stage::ALL {
            self.shared.shutdown.enter(stage);
            self.abort_where(|kind| kind.on_stop == OnStop::Abort && kind.ends_at <= stage);
            let limit = match stage {
                Stage::CloseStores => deadline,
                _ => deadline.checked_sub(STORES_TIME.min(time_limit / 2)).unwrap_or(deadline),
            };
            if !self.wait_gone(stage, limit).await {
                late.extend(self.names_until(stage));
                self.abort_where(|kind| kind.ends_at <= stage);
            }
        }
        late.sort();
        late.dedup();
        DrainReport { late, took: begin.elapsed() }
    }

    /// Waits until no task that ends at or before `stage` runs; false at the limit.
    async fn wait_gone(&self, stage: Stage, limit: Instant) -> bool {
        let mut changes = self.shared.changed.subscribe();
        let gone = changes.wait_for(|_| self.names_until(stage).is_empty());
        matches!(tokio::time::timeout_at(limit, gone).await, Ok(Ok(_)))
    }

    fn names_until(&self, stage: Stage) -> Vec<String> {
        let running = self.shared.lock();
        running.tasks.values().filter(|entry| entry.kind.ends_at <= stage).map(|entry| entry.name.to_string()).collect()
    }

    fn abort_where(&self, wanted: impl Fn(TaskKind) -> bool) {
        // Aborted outside the lock, which the dropped future's guard may take.
        let wanted: Vec<AbortHandle> = {
            let running = self.shared.lock();
            let entries = running.tasks.values().filter(|entry| wanted(entry.kind));
            entries.filter_map(|entry| entry.abort.clone()).collect()
        };
        for abort in wanted {
            abort.abort();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Running> {
        // The map is valid after every statement, so a panic elsewhere leaves it usable.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a task out of the registry when its future is gone.
struct Deregister {
    shared: Arc<Shared>,
    id: u64,
    done: watch::Sender<bool>,
}

impl Drop for Deregister {
    fn drop(&mut self) {
        let entry = self.shared.lock().tasks.remove(&self.id);
        drop(entry);
        self.shared.changed.send_modify(|count| *count = count.wrapping_add(1));
        self.done.send_replace(true);
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the door that every other spawn goes through")]
fn start<F: Future<Output = ()> + Send + 'static>(task: F) -> JoinHandle<()> {
    tokio::spawn(task)
}

/// Logs how a task ended, and stops the process where its kind says so.
fn settle(shutdown: &Shutdown, kind: TaskKind, name: &str, failure: Option<String>) {
    match (kind.on_error, failure) {
        (OnError::LogOnly, Some(error)) => tracing::warn!(task = name, error, "task failed"),
        (OnError::LogOnly, None) => tracing::trace!(task = name, "task ended"),
        (OnError::StopProcess, Some(error)) => {
            tracing::error!(task = name, error, "critical task failed");
            shutdown.request(StopReason::Failed(format!("task {name} failed: {error}")));
        }
        (OnError::StopProcess, None) if !shutdown.is_requested() => {
            tracing::error!(task = name, "critical task ended before the stop");
            shutdown.request(StopReason::Failed(format!("task {name} ended before the stop")));
        }
        (OnError::StopProcess, None) => tracing::trace!(task = name, "task ended"),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    fn registry() -> (Shutdown, Tasks) {
        let shutdown = Shutdown::new();
        (shutdown.clone(), Tasks::new(shutdown))
    }

    /// A task that notes its name when its stage is reached.
    fn noting(tasks: &Tasks, kind: TaskKind, name: &'static str, notes: &Arc<Mutex<Vec<&'static str>>>) {
        let token = tasks.shutdown().token(kind.ends_at);
        let notes = Arc::clone(notes);
        tasks.spawn(kind, name, async move {
            token.cancelled().await;
            notes.lock().unwrap().push(name);
        });
    }

    #[tokio::test]
    async fn a_drain_ends_intake_then_work_then_stores() {
        let (_, tasks) = registry();
        let notes = Arc::default();
        noting(&tasks, TaskKind::STORE, "store", &notes);
        noting(&tasks, TaskKind::CRITICAL, "work", &notes);
        noting(&tasks, TaskKind::INTAKE, "intake", &notes);
        tasks.spawn(TaskKind::BACKGROUND, "poller", pending::<()>());
        tasks.shutdown().request(StopReason::Asked("test".into()));
        let report = tasks.drain(Duration::from_secs(30)).await;
        assert_eq!(report.late, Vec::<String>::new());
        assert_eq!(*notes.lock().unwrap(), ["intake", "work", "store"]);
        assert_eq!(tasks.names(), Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_task_is_named_and_stores_are_closed_all_the_same() {
        let (_, tasks) = registry();
        let notes = Arc::default();
        noting(&tasks, TaskKind::STORE, "store", &notes);
        tasks.spawn(TaskKind::REQUEST, "stuck request", pending::<()>());
        tasks.shutdown().request(StopReason::Asked("test".into()));
        let report = tasks.drain(Duration::from_secs(10)).await;
        assert_eq!(report.late, ["stuck request"]);
        assert!(report.took < Duration::from_secs(10), "{:?}", report.took);
        assert_eq!(*notes.lock().unwrap(), ["store"]);
    }

    #[tokio::test]
    async fn a_critical_failure_stops_the_process_and_says_which_task() {
        let (shutdown, tasks) = registry();
        tasks.spawn(TaskKind::CRITICAL, "writer", async { Err(std::io::Error::other("disk gone")) });
        shutdown.requested().await;
        let Some(StopReason::Failed(text)) = shutdown.reason() else { panic!("not a failure") };
        assert!(text.contains("writer") && text.contains("disk gone"), "{text}");
    }

    #[tokio::test]
    async fn a_critical_task_that_just_ends_or_panics_is_a_failure_too() {
        let (shutdown, tasks) = registry();
        tasks.spawn(TaskKind::CRITICAL, "loop", async {});
        shutdown.requested().await;
        assert!(matches!(shutdown.reason(), Some(StopReason::Failed(_))));

        let (shutdown, tasks) = registry();
        tasks.spawn(TaskKind::CRITICAL, "loop", async { assert!(tasks_are_broken(), "boom") });
        shutdown.requested().await;
        let Some(StopReason::Failed(text)) = shutdown.reason() else { panic!("not a failure") };
        assert!(text.contains("boom"), "{text}");
    }

    fn tasks_are_broken() -> bool {
        false
    }

    #[tokio::test]
    async fn a_background_failure_leaves_the_process_alone() {
        let (shutdown, tasks) = registry();
        let mut handle =
            tasks.spawn(TaskKind::BACKGROUND, "probe", async { Err::<(), _>(std::io::Error::other("no")) });
        handle.finished().await;
        assert!(!shutdown.is_requested());
    }

    #[test]
    fn spawning_while_the_runtime_shuts_down_leaves_no_entry_and_no_lock() {
        struct SpawnOnDrop(Tasks);
        impl Drop for SpawnOnDrop {
            fn drop(&mut self) {
                self.0.spawn(TaskKind::BACKGROUND, "late", async {});
            }
        }
        let (_, tasks) = registry();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let inner = SpawnOnDrop(tasks.clone());
        runtime.block_on(async {
            tasks.spawn(TaskKind::BACKGROUND, "outer", async move {
                let _inner = inner;
                pending::<()>().await;
            });
        });
        drop(runtime);
        assert_eq!(tasks.names(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn an_aborted_task_leaves_the_registry() {
        let (_, tasks) = registry();
        let mut handle = tasks.spawn(TaskKind::BACKGROUND, "poller", pending::<()>());
        assert_eq!(tasks.names(), ["poller"]);
        handle.abort();
        handle.finished().await;
        assert_eq!(tasks.names(), Vec::<String>::new());
        assert_eq!(tasks.blocking("sum", || 2 + 2).await.unwrap(), 4);
    }
}
