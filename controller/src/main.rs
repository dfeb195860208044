//! osmoda-controller: `join` once, then `serve`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use osmoda_controller::{Controller, Flags, Join, NAME};
use osmoda_controller_store::{SqliteStore, Store as _};
use osmoda_kit::boot::{self, BootArgs, EXIT_FAILED, EXIT_USAGE};
use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::http::{Credentials, UnixClient};
use osmoda_kit::lock::RootLock;
use osmoda_kit::paths::Paths;

const EXAMPLES: &str = "\
Examples:
  osmoda-controller join INVITE --root /tmp/controller --mesh-listen 127.0.0.1:18900
  osmoda-controller serve --root /tmp/controller --listen 127.0.0.1:8700 --mesh-listen 127.0.0.1:18900

The admin token is in <root>/var/lib/osmoda/controller/admin.token.";

/// Shows the fleet, carries signed orders to it, decides nothing.
#[derive(Debug, Parser)]
#[command(name = "osmoda-controller", version = osmoda_kit::version::VERSION.text, after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the controller
    Serve {
        #[command(flatten)]
        boot: BootArgs,
        /// Where REST is served [default: 127.0.0.1:8700]
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<SocketAddr>,
        /// Where the mesh listens (UDP) [default: 0.0.0.0:18800]
        #[arg(long, value_name = "ADDRESS")]
        mesh_listen: Option<SocketAddr>,
    },
    /// Joins a fleet by an invite for role controller
    Join {
        /// The invite
        invite: String,
        /// Root directory
        #[arg(long, default_value = "/", value_name = "DIR")]
        root: PathBuf,
        /// What people shall call it
        #[arg(long, default_value = "controller")]
        name: String,
        /// Where its mesh will listen; an unspecified address stands for the one the issuer sees
        #[arg(long, default_value = "0.0.0.0:18800", value_name = "ADDRESS")]
        mesh_listen: SocketAddr,
    },
    /// Gives the running controller new keys; it stays a member under its id
    RotateKeys {
        /// Root directory
        #[arg(long, default_value = "/", value_name = "DIR")]
        root: PathBuf,
    },
    /// Makes a new admin token; the old one is void
    NewToken {
        /// Root directory
        #[arg(long, default_value = "/", value_name = "DIR")]
        root: PathBuf,
    },
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Serve { boot, listen, mesh_listen } => {
            if !(Flags { listen, mesh_listen }).install() {
                return ExitCode::from(EXIT_USAGE);
            }
            boot::run::<Controller>(&boot)
        }
        Command::Join { invite, root, name, mesh_listen } => once(async {
            let joined = osmoda_controller::join(Join { root, invite, name, mesh_listen }).await?;
            Ok(format!("joined fleet {} as {}\n", joined.network, joined.node))
        }),
        Command::RotateKeys { root } => once(rotate_keys(root)),
        Command::NewToken { root } => once(new_token(root)),
    }
}

/// How long the fleet may take to write the change into its log.
const ROTATE_TIME: Duration = Duration::from_secs(20);

async fn rotate_keys(root: PathBuf) -> Result<String, ApiError> {
    let client = UnixClient::new(Paths::new(&root).socket(NAME), Credentials::none()).with_time_limit(ROTATE_TIME);
    let now: serde_json::Value = client.post("/identity/rotate", &serde_json::json!({})).await?;
    Ok(format!("{now}\n"))
}

async fn new_token(root: PathBuf) -> Result<String, ApiError> {
    let paths = Paths::new(root);
    let folder = paths.state(NAME);
    let lock = RootLock::exclusive(&paths.daemon_lock(NAME))
        .map_err(|error| ApiError::new(error.code(), error.to_string()).with_source(error))?;
    let opened = SqliteStore::open(&folder.join("controller.db")).await;
    let store = opened.map_err(|error| ApiError::new(error.code(), error.to_string()).with_source(error))?;
    osmoda_controller::make_token(&store, &folder).await?;
    store.close().await.map_err(ApiError::internal)?;
    lock.release().map_err(|error| ApiError::new(error.code(), error.to_string()).with_source(error))?;
    Ok(format!("{}\n", osmoda_controller::token_path(&folder).display()))
}

/// Runs something that ends by itself: its text to standard output, its error
/// to standard error.
fn once(work: impl Future<Output = Result<String, ApiError>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return say_error(&format!("cannot start: {error}")),
    };
    match runtime.block_on(work) {
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(EXIT_FAILED),
        },
        Err(error) => say_error(&format!("{} ({})", chain(&error), error.code)),
    }
}

fn say_error(text: &str) -> ExitCode {
    let written = writeln!(std::io::stderr(), "error: {text}");
    // With standard error gone only the exit code is left to tell.
    drop(written);
    ExitCode::from(EXIT_FAILED)
}
