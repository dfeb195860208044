//! The one way a daemon starts, runs and stops.
//!
//! Order: arguments → umask → logs → root lock → daemon lock → configuration →
//! callers → build → sockets → ready → run → drain → last line. A step that
//! fails ends the start with one clear error and undoes nothing, because nothing
//! outside the process has changed yet.
//! Invariant: two daemons of one name never run on one root directory; the last
//! log line says how the process ended.

mod context;
mod listen;
mod run;

use std::path::PathBuf;

use axum::Router;
use osmoda_types::ErrorCode;
use serde::de::DeserializeOwned;

use crate::config::{ConfigErrors, Validate};
use crate::error::ApiError;
use crate::http::{CallerTable, TokenError};
use crate::lock::LockError;
use crate::telemetry::LogFormat;

pub use context::Boot;
pub use listen::ListenError;
pub use run::{DRAIN_TIME_LIMIT, EXIT_FAILED, EXIT_USAGE, Ended, run, runtime, serve};

/// The arguments every daemon takes.
#[derive(Debug, Clone, clap::Args)]
pub struct BootArgs {
    /// Root directory; many nodes can live on one machine, each below its own.
    #[arg(long, default_value = "/", value_name = "DIR")]
    pub root: PathBuf,

    /// Configuration file [default: <root>/etc/osmoda/<daemon>.toml, if it exists].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Form of the log on stderr.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log: LogFormat,

    /// Descriptor to read the daemons' tokens from (set by `osmoda-node run`).
    #[arg(long, value_name = "N", hide = true)]
    pub token_fd: Option<u32>,
}

impl BootArgs {
    /// Arguments for a daemon below `root`, as a test or supervisor would give them.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), config: None, log: LogFormat::Text, token_fd: None }
    }
}

/// What a daemon crate provides.
pub trait Daemon: Send + 'static {
    /// Its name: of its socket, its state folder, its configuration file.
    const NAME: &'static str;

    /// Its settings. Every field has a default, because the file may be absent.
    type Config: DeserializeOwned + Default + Validate + Send + 'static;

    /// Threads for async work. A daemon serves a handful of local callers; two
    /// threads let one slow handler not stall `/health`, and keep an idle daemon small.
    const WORKERS: usize = 2;

    /// Who may call it.
    fn callers() -> CallerTable;

    /// Opens its stores, starts its tasks and returns what to serve. Sockets
    /// beside the main one are taken with [`Boot::listen`].
    ///
    /// # Errors
    /// [`BootError`]; the process then ends with it as its last words.
    fn build(cx: Boot, config: Self::Config) -> impl Future<Output = Result<Service, BootError>> + Send;
}

/// What a daemon serves on its main socket.
#[derive(Debug)]
pub struct Service {
    /// Its endpoints, `/health` among them; `/metrics` is added.
    pub router: Router,
    pub(crate) refusals: ToldBy,
}

/// Who tells the ledger of refused callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToldBy {
    /// The start of every daemon, over the ledger's socket.
    Boot,
    /// The daemon.
    Itself,
}

impl Service {
    /// Serves this router.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self { router, refusals: ToldBy::Boot }
    }

    /// The same, of a daemon that takes refused callers out of
    /// [`Callers::refusals`](crate::http::Callers::refusals) itself.
    #[must_use]
    pub fn telling_refusals_itself(self) -> Self {
        Self { refusals: ToldBy::Itself, ..self }
    }
}

/// Why a daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The configuration has faults.
    #[error("the configuration is not valid")]
    Config(#[from] ConfigErrors),
    /// Another program runs on the directory, or the lock cannot be used.
    #[error("cannot take the lock")]
    Lock(#[from] LockError),
    /// A socket cannot be had.
    #[error("cannot listen")]
    Listen(#[from] ListenError),
    /// The supervisor's tokens cannot be had.
    #[error("cannot take over the tokens")]
    Tokens(#[from] TokenError),
    /// The state folder cannot be made or written.
    #[error("cannot use the state folder")]
    State(#[from] crate::fsio::FsError),
    /// The daemon's own part failed.
    #[error("cannot build the service")]
    Service(#[source] ApiError),
}

impl From<ApiError> for BootError {
    fn from(error: ApiError) -> Self {
        BootError::Service(error)
    }
}

impl BootError {
    /// The code of the last log line.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            BootError::Config(_) => ErrorCode::ConfigInvalid,
            BootError::Lock(error) => error.code(),
            BootError::Listen(error) => error.code(),
            BootError::Tokens(_) => ErrorCode::Unauthorized,
            BootError::State(error) => error.code(),
            BootError::Service(error) => error.code,
        }
    }
}
