//! Running a daemon from its arguments to its exit code.

use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use rustix::fs::Mode;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::context::make_folders;
use super::{Boot, BootArgs, BootError, Daemon, ListenError, Service, ToldBy};
use crate::config;
use crate::error::chain;
use crate::http::{refusals, serve_unix};
use crate::lock::{LockError, RootLock};
use crate::paths::Paths;
use crate::shutdown::{Shutdown, StopReason};
use crate::tasks::{DrainReport, TaskKind};
use crate::{metrics, telemetry, version};

/// How long a stop may take. systemd kills after `TimeoutStopSec` (20 s in our
/// units); half of that leaves room to say who was late. Long enough for a
/// ledger or Raft flush, short enough for a reboot.
pub const DRAIN_TIME_LIMIT: Duration = Duration::from_secs(10);

/// The exit code of a failure (`ux.md` section 2).
pub const EXIT_FAILED: u8 = 1;

/// The exit code of wrong arguments or configuration.
pub const EXIT_USAGE: u8 = 2;

/// The exit code after a second signal: 128 + SIGINT, the shell's own.
const EXIT_INTERRUPTED: i32 = 130;

/// How many polls of tasks a worker makes before it asks for ready sockets and
/// timers. With tokio's own 61 an answer waits for that many polls of a transfer
/// that never pauses: the p99 of a small call beside bulk was 6.6 ms, with 7 it
/// is 3.9 ms, for no processor time that could be measured (`bench mesh`,
/// 2026-11-22). Much smaller, and a busy daemon asks the kernel at every turn.
const EVENT_INTERVAL: u32 = 7;

/// How a daemon ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Why it stopped.
    pub reason: StopReason,
    /// How the drain went.
    pub drain: DrainReport,
}

impl Ended {
    /// Whether it stopped because it was asked to, with nobody late.
    #[must_use]
    pub fn is_graceful(&self) -> bool {
        matches!(self.reason, StopReason::Asked(_)) && self.drain.is_graceful()
    }
}

/// A runtime as daemons have it, with that many threads for async work; also for
/// whoever measures what a daemon does.
///
/// # Errors
/// When the kernel gives no thread or no descriptor.
pub fn runtime(name: &str, workers: usize) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name(name)
        .event_interval(EVENT_INTERVAL)
        .enable_all()
        .build()
}

/// Runs daemon `D` until a signal, and says how it ended in the last log line.
/// Call it from `main`, before any thread is started.
#[must_use]
pub fn run<D: Daemon>(args: &BootArgs) -> ExitCode {
    // State files, sockets and everything else is for the owner only, whatever
    // the caller's umask.
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let runtime = match runtime(D::NAME, D::WORKERS) {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no async runtime");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    runtime.block_on(async {
        let telemetry = telemetry::init(D::NAME, args.log);
        metrics::init();
        let code = run_until_signal::<D>(args).await;
        telemetry.finish();
        code
    })
}

async fn run_until_signal<D: Daemon>(args: &BootArgs) -> ExitCode {
    let shutdown = Shutdown::new();
    let (terminate, interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals cannot be watched");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let served = serve::<D>(args, shutdown.clone());
    tokio::pin!(served);
    let ended = tokio::select! {
        // Polled by reference and to its end: the other arm never resolves.
        ended = &mut served => ended,
        // Cancel-safe: signals are counted by the runtime, not by the future.
        never = watch_signals(&shutdown, terminate, interrupt) => match never {},
    };
    last_words(D::NAME, ended)
}

/// The first signal asks for a stop; the second ends the process at once.
async fn watch_signals(shutdown: &Shutdown, mut terminate: Signal, mut interrupt: Signal) -> std::convert::Infallible {
    loop {
        let name = tokio::select! {
            // Cancel-safe, as documented for `Signal::recv`.
            _ = terminate.recv() => "SIGTERM",
            // Cancel-safe, likewise.
            _ = interrupt.recv() => "SIGINT",
        };
        if shutdown.is_requested() {
            tracing::error!(signal = name, "second signal, stopped without draining");
            exit_at_once();
        }
        shutdown.request(StopReason::Asked(name.to_owned()));
    }
}

#[allow(clippy::disallowed_methods, reason = "a second signal means: do not wait for anything")]
fn exit_at_once() -> ! {
    std::process::exit(EXIT_INTERRUPTED)
}

/// The last log line and the exit code.
fn last_words(name: &'static str, ended: Result<Ended, BootError>) -> ExitCode {
    match ended {
        Err(BootError::Config(errors)) => {
            for fault in &errors.faults {
                tracing::error!(daemon = name, path = %errors.path.display(), fault, "configuration fault");
            }
            tracing::error!(daemon = name, code = %BootError::Config(errors).code(), "did not start");
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            tracing::error!(daemon = name, code = %error.code(), error = chain(&error), "did not start");
            ExitCode::from(EXIT_FAILED)
        }
        Ok(ended) => {
            let took_ms = u64::try_from(ended.drain.took.as_millis()).unwrap_or(u64::MAX);
            let late = ended.drain.late.join(", ");
            match &ended.reason {
                StopReason::Asked(by) if ended.is_graceful() => {
                    tracing::info!(daemon = name, by, took_ms, "stopped gracefully");
                    return ExitCode::SUCCESS;
                }
                StopReason::Asked(by) => tracing::error!(daemon = name, by, took_ms, late, "stopped, tasks were late"),
                StopReason::Failed(why) => tracing::error!(daemon = name, why, took_ms, late, "stopped by a failure"),
            }
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Runs daemon `D` until `shutdown` is requested, then drains it. The inner
/// part of [`run`], for tests and for several daemons in one process.
///
/// # Errors
/// [`BootError`] when it did not start.
///
/// # Cancel safety
/// Not cancel-safe: dropped, tasks run on without a drain. Request a stop instead.
pub async fn serve<D: Daemon>(args: &BootArgs, shutdown: Shutdown) -> Result<Ended, BootError> {
    let paths = Paths::new(&args.root);
    make_folders(&paths, D::NAME)?;
    let _locks = take_locks(&paths, D::NAME)?;
    let config = load_config::<D>(args, &paths)?;
    let cx = Boot::prepare::<D>(args, shutdown.clone())?;
    let built = start::<D>(&cx, config).await;
    if let Err(error) = built {
        // Tasks that build had started end before the process does.
        shutdown.request(StopReason::Failed("did not start".to_owned()));
        let drain = cx.tasks().drain(DRAIN_TIME_LIMIT).await;
        tracing::debug!(late = drain.late.join(", "), "start undone");
        cx.remove_sockets();
        return Err(error);
    }
    notify(&[NotifyState::Ready]);
    tracing::info!(daemon = D::NAME, version = version::VERSION.text, isolation = cx.isolation().as_str(), "ready");

    shutdown.requested().await;
    notify(&[NotifyState::Stopping]);
    let reason = shutdown.reason().unwrap_or(StopReason::Asked("unknown".to_owned()));
    tracing::info!(daemon = D::NAME, ?reason, "draining");
    let drain = cx.tasks().drain(DRAIN_TIME_LIMIT).await;
    cx.remove_sockets();
    Ok(Ended { reason, drain })
}

async fn start<D: Daemon>(cx: &Boot, config: D::Config) -> Result<(), BootError> {
    // Bound first, served last: callers wait in the backlog instead of failing.
    let listener = cx.listen(D::NAME)?;
    let Service { router, refusals } = D::build(cx.clone(), config).await?;
    if refusals == ToldBy::Boot {
        let telling = refusals::tell_ledger(D::NAME, cx.callers(), cx.audit(), cx.clock(), cx.tasks().clone());
        cx.tasks().spawn(TaskKind::REQUEST, "refusals", telling);
    }
    let router = router.merge(Router::new().route("/metrics", get(async || metrics::render())));
    serve_unix(cx.tasks(), D::NAME, listener, router, cx.callers());
    Ok(())
}

/// The root directory shared, the daemon's name alone. The order is fixed, so
/// that two programs cannot hold each other up.
fn take_locks(paths: &Paths, name: &str) -> Result<(Option<RootLock>, RootLock), BootError> {
    let root = match RootLock::shared(&paths.root_lock()) {
        Ok(lock) => Some(lock),
        // Only `init`, as root, makes this file on a real host; without it there
        // is nobody to keep out.
        Err(LockError::File(error)) if error.source.kind() == std::io::ErrorKind::PermissionDenied => None,
        Err(error) => return Err(error.into()),
    };
    let own = RootLock::exclusive(&paths.daemon_lock(name))?;
    Ok((root, own))
}

fn load_config<D: Daemon>(args: &BootArgs, paths: &Paths) -> Result<D::Config, BootError> {
    let path = args.config.clone().unwrap_or_else(|| paths.config(D::NAME));
    if args.config.is_some() && !path.exists() {
        return Err(config::ConfigErrors { path, faults: vec!["the file does not exist".to_owned()] }.into());
    }
    Ok(config::load(&path)?)
}

/// Tells systemd; elsewhere nothing listens and nothing happens.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "service manager was not told");
    }
}

impl From<ListenError> for crate::error::ApiError {
    fn from(error: ListenError) -> Self {
        Self::new(error.code(), error.to_string()).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Validate;
    use crate::http::{Allowed, CallerTable, Credentials, DaemonUser, Row, UnixClient};
    use crate::shutdown::Stage;
    use crate::tasks::{TaskKind, Tasks};
    use crate::testing::{TempRoot, wait_for};
    use osmoda_types::ErrorCode;
    use serde::Deserialize;

    struct Small;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Settings {
        answer: u8,
        fail: bool,
        hang: bool,
    }

    impl Validate for Settings {
        fn faults(&self) -> Vec<String> {
            if self.answer > 100 { vec!["answer: over 100".to_owned()] } else { Vec::new() }
        }
    }

    impl Daemon for Small {
        const NAME: &'static str = "small";
        type Config = Settings;

        fn callers() -> CallerTable {
            CallerTable {
                daemons: &[DaemonUser { name: "small", user: "osmoda-small" }],
                rows: &[Row { method: "GET", path: "/*", allowed: &[Allowed::Admin] }],
            }
        }

        async fn build(cx: Boot, config: Settings) -> Result<Service, BootError> {
            if config.fail {
                return Err(crate::error::ApiError::new(ErrorCode::StoreUnavailable, "no store").into());
            }
            if config.hang {
                cx.tasks().spawn(TaskKind::REQUEST, "stuck", std::future::pending::<()>());
            }
            let stop = cx.shutdown().token(Stage::FinishAccepted);
            cx.tasks().spawn(TaskKind::CRITICAL, "worker", async move { stop.cancelled().await });
            assert!(cx.state_dir().is_dir());
            Ok(Service::new(Router::new().route("/answer", get(async move || config.answer.to_string()))))
        }
    }

    /// Runs `Small` in the background until the returned signal.
    fn begin(root: &TempRoot, tasks: &Tasks) -> (Shutdown, tokio::sync::oneshot::Receiver<Result<Ended, BootError>>) {
        let shutdown = Shutdown::new();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let (args, signal) = (BootArgs::at(root.path()), shutdown.clone());
        tasks.spawn(TaskKind::REQUEST, "daemon", async move {
            let ended = serve::<Small>(&args, signal).await;
            assert!(sender.send(ended).is_ok(), "nobody waits");
        });
        (shutdown, receiver)
    }

    async fn answer(root: &TempRoot) -> u8 {
        let client = UnixClient::new(root.paths().socket("small"), Credentials::none());
        wait_for("the daemon", Duration::from_secs(10), async || client.get::<u8>("/answer").await.ok()).await
    }

    #[tokio::test]
    async fn a_daemon_serves_keeps_a_second_one_out_and_stops_gracefully() {
        let root = TempRoot::new();
        std::fs::write(root.paths().config("small"), "answer = 42\n").unwrap();
        let tasks = Tasks::new(Shutdown::new());
        let (shutdown, ended) = begin(&root, &tasks);
        assert_eq!(answer(&root).await, 42);

        let second = serve::<Small>(&BootArgs::at(root.path()), Shutdown::new()).await.unwrap_err();
        assert_eq!(second.code(), ErrorCode::RootLocked);
        assert!(RootLock::exclusive(&root.paths().root_lock()).is_err(), "init must wait for the daemon");
        assert_eq!(answer(&root).await, 42, "the first one was not disturbed");

        shutdown.request(StopReason::Asked("test".to_owned()));
        let ended = ended.await.unwrap().unwrap();
        assert!(ended.is_graceful(), "{ended:?}");
        assert!(!root.paths().socket("small").exists());
        assert!(RootLock::exclusive(&root.paths().root_lock()).is_ok());
    }

    #[tokio::test]
    async fn somebody_elses_socket_is_port_in_use() {
        let root = TempRoot::new();
        let _other = std::os::unix::net::UnixListener::bind(root.paths().socket("small")).unwrap();
        let error = serve::<Small>(&BootArgs::at(root.path()), Shutdown::new()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::PortInUse);
    }

    #[tokio::test]
    async fn all_configuration_faults_end_the_start() {
        let root = TempRoot::new();
        std::fs::write(root.paths().config("small"), "answer = 101\ncolour = 1\n").unwrap();
        let error = serve::<Small>(&BootArgs::at(root.path()), Shutdown::new()).await.unwrap_err();
        let BootError::Config(errors) = error else { panic!("{error:?}") };
        assert_eq!(errors.faults.len(), 2, "{:?}", errors.faults);

        let args = BootArgs { config: Some("/no/such.toml".into()), ..BootArgs::at(root.path()) };
        assert_eq!(serve::<Small>(&args, Shutdown::new()).await.unwrap_err().code(), ErrorCode::ConfigInvalid);
    }

    #[tokio::test]
    async fn a_failed_build_leaves_no_socket_and_no_lock() {
        let root = TempRoot::new();
        std::fs::write(root.paths().config("small"), "fail = true\n").unwrap();
        let error = serve::<Small>(&BootArgs::at(root.path()), Shutdown::new()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::StoreUnavailable);
        assert!(!root.paths().socket("small").exists());
        assert!(RootLock::exclusive(&root.paths().daemon_lock("small")).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_hangs_is_named_in_the_end() {
        let root = TempRoot::new();
        std::fs::write(root.paths().config("small"), "hang = true\n").unwrap();
        let tasks = Tasks::new(Shutdown::new());
        let (shutdown, ended) = begin(&root, &tasks);
        answer(&root).await;
        shutdown.request(StopReason::Asked("test".to_owned()));
        let ended = ended.await.unwrap().unwrap();
        assert_eq!(ended.drain.late, ["stuck"]);
        assert!(!ended.is_graceful());
    }
}
