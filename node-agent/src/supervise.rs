//! `osmoda-node run`: every daemon of a node as a child of one process.
//!
//! For development, the demonstration and hosts without systemd. All children
//! have one uid, so sockets are told apart by tokens: each daemon gets a random
//! one on its standard input, with the table of the others' (`architecture.md`
//! 2.1). A daemon that ends is started again after a pause.
//!
//! Invariant: when `run` returns, no child is left. Children end with this
//! process too when it is killed: each asks the kernel for that at its start.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use osmoda_fleetd::beginning::{self, FleetDir};
use osmoda_kit::boot::EXIT_FAILED;
use osmoda_kit::http::TokenFile;
use osmoda_kit::lock::{LockError, RootLock};
use osmoda_kit::paths::Paths;
use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_kit::telemetry::{self, LogFormat};
use osmoda_node_api::callers::USERS;
use osmoda_types::ErrorCode;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::host;
use crate::restart::Restarts;

/// How long a daemon may take to stop before it is killed: its own drain is
/// shorter (10 s), and an operator waits for this long at most.
const STOP_TIME: Duration = Duration::from_secs(15);

/// How long the supervisor's own drain may take. Longer than [`STOP_TIME`], so
/// that it always gets to kill who is late.
const DRAIN_TIME: Duration = Duration::from_secs(20);

/// Why supervision could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another supervisor runs on this root.
    #[error("this node runs already")]
    Lock(#[from] LockError),
    /// The host belongs to no fleet, or its beginning is damaged.
    #[error("this host is no node")]
    Beginning(#[from] beginning::Error),
    /// What the host lacks.
    #[error("the host is not fit")]
    Host(#[from] host::Error),
    /// This program, a runtime or signals.
    #[error("the supervisor cannot start")]
    Start(#[source] std::io::Error),
    /// A daemon could not be started.
    #[error("could not start {daemon}")]
    Spawn {
        /// The daemon.
        daemon: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A daemon could not be waited for.
    #[error("lost track of {daemon}")]
    Wait {
        /// The daemon.
        daemon: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// The code shown beside the message.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Lock(error) => error.code(),
            Self::Beginning(error) => error.code(),
            Self::Host(error) => error.code(),
            Self::Start(_) | Self::Spawn { .. } | Self::Wait { .. } => ErrorCode::Internal,
        }
    }
}

/// Runs the node below `root` until a signal; logs go to standard error.
///
/// # Errors
/// When it cannot begin; what happens later is in the log and the exit code.
pub(crate) fn run(root: &Path, log: LogFormat) -> Result<ExitCode, crate::failure::Failure> {
    Ok(supervise(root, log)?)
}

fn supervise(root: &Path, log: LogFormat) -> Result<ExitCode, Error> {
    let root = std::path::absolute(root).map_err(Error::Start)?;
    let paths = Paths::new(&root);
    host::check_runner(&paths, None)?;
    FleetDir::new(paths.state("fleetd")).beginning()?;
    let _lock = RootLock::exclusive(&paths.state_root().join("run.lock"))?;
    let program = std::env::current_exe().map_err(Error::Start)?;
    // One thread: the kernel ties a child to the thread that made it, and this
    // one lives as long as the process.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
    runtime.block_on(async {
        let telemetry = telemetry::init("osmoda-node", log);
        let ended = keep_running(&Plan { program, root, log }).await;
        telemetry.finish();
        ended
    })
}

async fn keep_running(plan: &Plan) -> Result<ExitCode, Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Start)?;
    let shutdown = Shutdown::new();
    let tasks = Tasks::new(shutdown.clone());
    start(plan, &tasks);
    tokio::select! {
        biased;
        // Cancel-safe: waits for a token.
        () = shutdown.requested() => {}
        // Cancel-safe, as documented for `Signal::recv`.
        _ = terminate.recv() => shutdown.request(StopReason::Asked("SIGTERM".to_owned())),
        // Cancel-safe, likewise.
        _ = interrupt.recv() => shutdown.request(StopReason::Asked("SIGINT".to_owned())),
    }
    let drain = tasks.drain(DRAIN_TIME).await;
    let reason = shutdown.reason();
    let late = drain.late.join(", ");
    if drain.is_graceful() && matches!(reason, Some(StopReason::Asked(_))) {
        tracing::info!(?reason, "node stopped gracefully");
        return Ok(ExitCode::SUCCESS);
    }
    tracing::error!(?reason, late, "node stopped by a failure, or a daemon was late");
    Ok(ExitCode::from(EXIT_FAILED))
}

/// What is supervised.
#[derive(Debug, Clone)]
struct Plan {
    /// This program, which is also every daemon.
    program: PathBuf,
    /// The node's root directory.
    root: PathBuf,
    /// The form of the daemons' logs.
    log: LogFormat,
}

/// Starts every daemon and keeps it running until a stop is requested.
fn start(plan: &Plan, tasks: &Tasks) {
    for (daemon, tokens) in TokenFile::mint(USERS) {
        let input = serde_json::to_vec(&tokens).expect("a struct of strings always serialises");
        let keeper = Keeper { daemon, plan: plan.clone(), input, shutdown: tasks.shutdown().clone() };
        tasks.spawn(TaskKind::CRITICAL, daemon, keeper.run());
    }
}

/// Keeps one daemon running.
struct Keeper {
    daemon: &'static str,
    plan: Plan,
    input: Vec<u8>,
    shutdown: Shutdown,
}

impl Keeper {
    async fn run(self) -> Result<(), Error> {
        let mut restarts = Restarts::default();
        while !self.shutdown.is_requested() {
            let began = Instant::now();
            let mut child = self.start().await?;
            let status = tokio::select! {
                biased;
                // Cancel-safe: waits for a token and holds nothing.
                () = self.shutdown.requested() => return self.stop(child).await,
                // Cancel-safe: `Child::wait` may be called again, as `stop` does.
                status = child.wait() => status.map_err(|source| Error::Wait { daemon: self.daemon, source })?,
            };
            let pause = restarts.ended(began.elapsed());
            self.report(status, restarts.in_a_row(), pause);
            tokio::select! {
                biased;
                // Cancel-safe: as above.
                () = self.shutdown.requested() => {}
                // Cancel-safe: a timer.
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }

    fn report(&self, status: ExitStatus, in_a_row: u32, pause: Duration) {
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        tracing::error!(daemon = self.daemon, %status, in_a_row, pause_ms, "daemon ended and will be started again");
    }

    #[expect(clippy::disallowed_methods, reason = "a supervised child, not a bounded run: it is kept and restarted")]
    async fn start(&self) -> Result<Child, Error> {
        let fail = |source| Error::Spawn { daemon: self.daemon, source };
        let log = match self.plan.log {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let mut child = Command::new(&self.plan.program)
            .args(["daemon", self.daemon, "--token-fd", "0", "--log", log, "--root"])
            .arg(&self.plan.root)
            .env_clear()
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(fail)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A daemon that ended before reading is reported by its status.
            if let Err(error) = stdin.write_all(&self.input).await {
                tracing::warn!(daemon = self.daemon, %error, "daemon did not read its token");
            }
        }
        tracing::info!(daemon = self.daemon, pid = child.id(), "daemon started");
        Ok(child)
    }

    async fn stop(&self, mut child: Child) -> Result<(), Error> {
        let fail = |source| Error::Wait { daemon: self.daemon, source };
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            match kill_process(pid, Signal::TERM) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(fail(error.into())),
            }
        }
        match tokio::time::timeout(STOP_TIME, child.wait()).await {
            Ok(status) => {
                let status = status.map_err(fail)?;
                tracing::info!(daemon = self.daemon, %status, "daemon stopped");
                Ok(())
            }
            Err(_) => {
                tracing::error!(daemon = self.daemon, "daemon did not stop in time and is killed");
                child.kill().await.map_err(fail)
            }
        }
    }
}
