//! The main job, end to end, on real parts: five nodes, three votes, one
//! controller; good generations commit, a bad one undoes itself.
//!
//! Orders are given with the real `osmoda`; what became of them is read from
//! the nodes' own profiles, journals and ledgers, never from an answer.
//! Invariant: a step is reported as done only after its claims were checked
//! there; the program ends with 0 only when all were.

pub(crate) mod facts;
pub(crate) mod failover;
mod orders;
mod proof;
pub(crate) mod report;
pub(crate) mod steps;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use osmoda_ctl::dev::fleet::Fleet;
use osmoda_ctl::dev::member::Programs;

use report::{Reporter, Style};

/// How many nodes, and how many of them vote (the main job).
const NODES: usize = 5;
const VOTERS: usize = 3;

/// The whole main job, or a part of it that fits into CI.
#[derive(Debug, clap::Parser)]
#[command(name = "demo", version = osmoda_kit::version::VERSION.text)]
pub struct Options {
    /// One JSON object a line; the last one is the summary
    #[arg(long)]
    json: bool,
    /// Leave the fleet running and say how to reach it
    #[arg(long)]
    keep: bool,
    /// Only the good and the bad generation, and the ledgers
    #[arg(long)]
    short: bool,
    /// Folder with the programs [default: the one this program is in]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Folder of the fleet [default: a new one below /tmp]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What a run of all steps came to.
#[derive(Debug, Default)]
struct Outcome {
    next_grant: Option<Duration>,
    double_grants: u64,
    ledgers_verified: usize,
}

/// Runs the demonstration. Returns whether every claim held.
///
/// # Errors
/// Only when it could not even begin; a claim that does not hold is reported.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let style = if options.json { Style::Json } else { Style::Human };
    let mut reporter = Reporter::new(style);
    let programs = match &options.bin_dir {
        Some(dir) => Programs::in_dir(std::path::absolute(dir)?),
        None => Programs::beside_this()?,
    };
    let fleet = plan(options.dir.as_deref(), programs)?;
    let dir = fleet.layout.dir().display();
    reporter.note(&format!("fleet in {dir}, generations in the {} store", fleet.store.name()));
    let mut outcome = Outcome::default();
    let ok = all_steps(&fleet, options.short, &mut reporter, &mut outcome);
    reporter.summary(ok, outcome.next_grant, outcome.double_grants, outcome.ledgers_verified);
    leave(&fleet, options.keep, ok, &mut reporter)?;
    Ok(ok)
}

/// A fleet of five, in `dir` or in a new folder. Nothing runs yet.
///
/// # Errors
/// When the folder is in use or cannot be made.
pub(crate) fn plan(dir: Option<&Path>, programs: Programs) -> anyhow::Result<Fleet> {
    let dir = match dir {
        Some(dir) => dir.to_path_buf(),
        // Short, because the paths of sockets are below it.
        None => tempfile::Builder::new().prefix("osm-").rand_bytes(4).tempdir_in("/tmp")?.keep(),
    };
    Fleet::plan(&dir, programs, NODES, VOTERS).context("planning the fleet")
}

fn all_steps(fleet: &Fleet, short: bool, reporter: &mut Reporter, outcome: &mut Outcome) -> bool {
    let began = Instant::now();
    let started = start(fleet, reporter);
    if !note(reporter, "start", began, started) {
        return false;
    }
    let mut demo = match steps::Demo::new(fleet) {
        Ok(demo) => demo,
        Err(why) => return note(reporter, "nodes", began, Err(why)),
    };
    let mut ok = step(reporter, "g2_good", |reporter| demo.good(reporter));
    ok = ok && step(reporter, "g3_bad", |reporter| demo.bad(reporter));
    if !short {
        ok = ok && step(reporter, "g4_leader_kill", |reporter| demo.leader_kill(reporter, &mut outcome.next_grant));
        ok = ok && step(reporter, "g5_controller_kill", |reporter| demo.controller_kill(reporter));
    }
    // The proofs are worth reading after a failure too.
    let proven = step(reporter, "verify", |_| proof::verify(&demo, outcome));
    ok && proven
}

fn start(fleet: &Fleet, reporter: &mut Reporter) -> anyhow::Result<Vec<String>> {
    fleet.up(&mut |text| reporter.row("fleet", text))?;
    reporter.row("fleet", "up");
    Ok(vec![format!("{NODES} nodes, {VOTERS} votes, controller at {}", fleet.server())])
}

fn step(
    reporter: &mut Reporter,
    name: &'static str,
    work: impl FnOnce(&mut Reporter) -> anyhow::Result<Vec<String>>,
) -> bool {
    let began = Instant::now();
    reporter.row("fleet", name);
    let result = work(reporter);
    note(reporter, name, began, result)
}

fn note(reporter: &mut Reporter, name: &'static str, began: Instant, result: anyhow::Result<Vec<String>>) -> bool {
    match result {
        Ok(found) => {
            reporter.done(name, began, found);
            true
        }
        Err(why) => {
            reporter.failed(name, began, &why);
            false
        }
    }
}

/// Ends the fleet, or leaves it running. After a failure its files stay.
pub(crate) fn leave(fleet: &Fleet, keep: bool, ok: bool, reporter: &mut Reporter) -> anyhow::Result<()> {
    let dir = fleet.layout.dir().display();
    if keep {
        reporter.aside(&format!(
            "the fleet runs on:\n  {}\n  osmoda --server {} --token-file {} node ls\n  osmoda dev down --dir {dir}",
            fleet.programs.path("osmoda").display(),
            fleet.server(),
            fleet.layout.admin_token(&fleet.controller.name).display(),
        ));
        return Ok(());
    }
    let killed = fleet.down();
    if killed > 0 {
        reporter.aside(&format!("{killed} processes did not stop by themselves and were killed"));
    }
    if ok {
        return fleet.remove().context("removing the fleet's folder");
    }
    reporter.aside(&format!("logs, journals and ledgers are left in {dir}"));
    Ok(())
}
