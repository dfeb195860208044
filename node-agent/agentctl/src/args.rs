//! The command line, with the earlier product's names and defaults.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use osmoda_agentd::ledger::file::FILE_NAME;
use osmoda_kit::paths::Paths;

/// The name of the daemon whose ledger and socket these are.
const DAEMON: &str = "agentd";

/// How old the newest cosignature may be where nothing else is said. A live
/// ledger is cosigned each minute; a day also lets yesterday's export pass.
const MAX_AGE_S: u64 = 24 * 3600;

/// Node-local tools of osModa.
#[derive(Debug, Parser)]
#[command(name = "agentctl", version = osmoda_kit::version::VERSION.text)]
pub(crate) struct Args {
    /// Root directory of the node.
    #[arg(long, global = true, default_value = "/")]
    root: PathBuf,

    /// Folder that holds ledger.db, or its parent [default: ROOT/var/lib/osmoda/agentd].
    #[arg(long, global = true)]
    state_dir: Option<PathBuf>,

    /// Socket of agentd [default: ROOT/run/osmoda/agentd.sock].
    #[arg(long, global = true)]
    socket: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Walk the whole chain and print every break.
    VerifyLedger(VerifyOptions),
    /// Print the newest events, oldest first.
    Events(EventOptions),
    /// Print all rows as JSON lines, oldest first, or write a folder that anybody
    /// can verify offline with `verify-ledger --export`.
    Export(ExportOptions),
    /// Print totals of the ledger.
    Stats {
        /// As one JSON line.
        #[arg(long)]
        json: bool,
    },
    /// Ask agentd how it and the host are.
    Health,
}

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyOptions {
    /// Verify an export instead of the live files: a folder made by `export --to`,
    /// or JSON lines, oldest first; `-` is standard input.
    #[arg(long, value_name = "PATH")]
    pub(crate) export: Option<PathBuf>,

    /// Whose word is enough: a C2SP tlog-policy file kept apart from the ledger.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// Folder with the signed notes that witnesses hold of this ledger.
    #[arg(long, value_name = "DIR")]
    pub(crate) heads: Option<PathBuf>,

    /// How old the newest cosignature may be, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = MAX_AGE_S)]
    pub(crate) max_age: u64,

    /// As one JSON line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExportOptions {
    /// Write a folder instead; it must not exist or be empty.
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,

    /// The policy to put into the folder [default: the ledger's key, no witnesses].
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EventOptions {
    /// How many rows.
    #[arg(long, default_value_t = 20)]
    pub(crate) last: u32,

    /// Only rows of exactly this type.
    #[arg(long = "type")]
    pub(crate) kind: Option<String>,

    /// Only rows of exactly this actor.
    #[arg(long)]
    pub(crate) actor: Option<String>,

    /// As JSON lines.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Args {
    /// The ledger's file. `--state-dir` may name agentd's own folder or, as in
    /// the earlier product, the folder above it.
    pub(crate) fn ledger(&self) -> PathBuf {
        let Some(dir) = &self.state_dir else {
            return Paths::new(&self.root).state(DAEMON).join(FILE_NAME);
        };
        let inside = dir.join(FILE_NAME);
        let below = dir.join(DAEMON).join(FILE_NAME);
        if !inside.exists() && below.exists() { below } else { inside }
    }

    /// agentd's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| Paths::new(&self.root).socket(DAEMON))
    }
}
