//! Real hosts in namespaces: `cargo xtask hosts up N | down | scenario NAME|all`.
//!
//! Exit codes: 0 done, 1 failed, 2 usage, 3 the machine lacks a prerequisite.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use osmoda_tests::hosts::{self, Bed, BedError, CellSpec, Outcome, Scenario, run_scenarios};

/// Starts, shows and ends real hosts on this machine.
#[derive(Debug, Parser)]
#[command(name = "hosts", bin_name = "cargo xtask hosts")]
struct Args {
    /// The bed's folder [default: $OSMODA_HOSTS_DIR or /tmp/osmoda-hosts].
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Starts N hosts with systemd and leaves them running.
    Up {
        /// How many.
        count: u8,
    },
    /// Ends the hosts and removes everything they left.
    Down,
    /// Runs a scenario, or all of them, on three hosts of its own.
    Scenario {
        /// good, bad, cut, unsigned, broken-activation, uids, controller, inbox,
        /// witness-down, quorum-down, ledger-fault, ledger-rewrite,
        /// ledger-truncation, ledger-rollback; ledger (the last four) or all.
        name: String,
        /// One JSON line per scenario and a last one.
        #[arg(long)]
        json: bool,
        /// Leaves the hosts running.
        #[arg(long)]
        keep: bool,
    },
    /// Makes calls inside a host as the user it is started as.
    #[command(hide = true)]
    Probe { calls: String },
    /// Changes the ledger in a folder, inside a host, as its root could.
    #[command(hide = true)]
    Forge { state: PathBuf, attack: String },
    /// First process of a host, outside its namespaces.
    #[command(hide = true)]
    CellEnter { spec: String },
    /// First process of a host, inside its namespaces.
    #[command(hide = true)]
    CellRoot { spec: String },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.task {
        Task::CellEnter { spec } => cell(spec, hosts::enter_cell),
        Task::CellRoot { spec } => cell(spec, hosts::root_cell),
        Task::Probe { calls } => probe(calls),
        Task::Forge { state, attack } => forge(state, attack),
        _ => asynchronous(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed terminal leaves nobody to tell.
            drop(writeln!(std::io::stderr(), "error: {}", chain(&error)));
            ExitCode::from(if matches!(error, BedError::Prerequisites(_)) { 3 } else { 1 })
        }
    }
}

fn chain(error: &BedError) -> String {
    match error {
        BedError::Failed(cause) => format!("{cause:#}"),
        BedError::Prerequisites(_) => error.to_string(),
    }
}

fn cell(spec: &str, stage: fn(&CellSpec) -> anyhow::Result<()>) -> Result<(), BedError> {
    let spec = serde_json::from_str(spec).map_err(anyhow::Error::from)?;
    Ok(stage(&spec)?)
}

fn asynchronous(args: Args) -> Result<(), BedError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> Result<(), BedError> {
    let folder = Bed::folder(args.dir);
    match args.task {
        Task::Up { count } => {
            let bed = Bed::up(&folder, count).await?;
            let mut out = std::io::stdout().lock();
            for line in bed.describe() {
                writeln!(out, "{line}").map_err(anyhow::Error::from)?;
            }
        }
        Task::Down => Bed::down(&folder).await?,
        Task::Scenario { name, json, keep } => scenario(&beside(folder), &name, json, keep).await?,
        Task::CellEnter { .. } | Task::CellRoot { .. } | Task::Probe { .. } | Task::Forge { .. } => {
            unreachable!("handled before the runtime was made")
        }
    }
    Ok(())
}

/// Scenarios have a bed of their own, so that one left by `up` stays as it is.
fn beside(folder: PathBuf) -> PathBuf {
    let mut name = folder.into_os_string();
    name.push("-scenario");
    name.into()
}

fn probe(calls: &str) -> Result<(), BedError> {
    let calls: Vec<hosts::Call> = serde_json::from_str(calls).map_err(anyhow::Error::from)?;
    let answers = serde_json::to_string(&hosts::probe(&calls)?).map_err(anyhow::Error::from)?;
    Ok(writeln!(std::io::stdout(), "{answers}").map_err(anyhow::Error::from)?)
}

fn forge(state: &Path, attack: &str) -> Result<(), BedError> {
    let attack = serde_json::from_str(attack).map_err(anyhow::Error::from)?;
    let rows = hosts::carry_out(state, attack)?;
    Ok(writeln!(std::io::stdout(), "{rows}").map_err(anyhow::Error::from)?)
}

/// Hosts of every scenario: enough for a quorum that survives one of them.
const HOSTS: u8 = 3;

async fn scenario(folder: &Path, name: &str, json: bool, keep: bool) -> Result<(), BedError> {
    let scenarios: Vec<Scenario> = Scenario::ALL.into_iter().filter(|one| one.is_meant_by(name)).collect();
    if scenarios.is_empty() {
        let names = Scenario::ALL.map(Scenario::name).join(", ");
        return Err(anyhow::anyhow!("no scenario is called {name:?}: {names} or all").into());
    }
    Bed::down(folder).await.context("removing what an earlier run left")?;
    let start = Instant::now();
    let bed = Bed::up(folder, HOSTS).await;
    let up = start.elapsed().as_secs_f64();
    let mut seconds = BTreeMap::from([("up", up)]);
    let result = match &bed {
        Ok(bed) => run_scenarios(bed, &scenarios, |outcome| {
            seconds.insert(outcome.scenario, outcome.seconds);
            show(outcome, json)
        })
        .await
        .map_err(BedError::from),
        Err(_) => Ok(false),
    };
    if keep && let Ok(bed) = &bed {
        for line in bed.describe() {
            writeln!(std::io::stderr(), "{line}").map_err(anyhow::Error::from)?;
        }
        let how = format!("cargo xtask hosts --dir {} down", bed.path().display());
        writeln!(std::io::stderr(), "{how} removes them").map_err(anyhow::Error::from)?;
    } else {
        Bed::down(folder).await?;
    }
    bed?;
    let ok = result?;
    let last = serde_json::json!({ "ok": ok, "hosts": HOSTS, "seconds": seconds });
    writeln!(std::io::stdout(), "{last}").map_err(anyhow::Error::from)?;
    if ok { Ok(()) } else { Err(anyhow::anyhow!("a claim did not hold").into()) }
}

fn show(outcome: &Outcome, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, outcome)?;
        writeln!(out)?;
    } else {
        let word = if outcome.ok { "ok" } else { "FAILED" };
        writeln!(out, "{:<17} {:<6} {:>7.1} s  {}", outcome.scenario, word, outcome.seconds, outcome.found.join("; "))?;
    }
    Ok(out.flush()?)
}
