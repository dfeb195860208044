//! A voter whose disk runs full: it stops with its code and acknowledges
//! nothing, the others go on, and with space again it goes on from its own log.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use osmoda_ctl::dev::fleet::Fleet;
use osmoda_ctl::dev::member::{Member, Programs};
use osmoda_kit::http::{Credentials, UnixClient};
use osmoda_kit::paths::Paths;
use osmoda_types::NodeId;
use serde::Deserialize;

use super::FaultError;
use super::tmpfs::Tmpfs;
use crate::hosts::until;

/// Every node votes: the smallest fleet that goes on without one.
const VOTERS: usize = 3;

/// How long each step may take on a busy machine. A daemon that ended is
/// started again after at most 30 s.
const TIME: Duration = Duration::from_secs(60);

/// Orders until the log must have wanted a page that the disk does not have.
const ORDERS_MAX: usize = 200;

/// The text of `disk_full` in a voter's log.
const FULL: &str = "no space is left";

/// What a voter says about itself; the fields that are compared.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Status {
    leader: Option<NodeId>,
    term: u64,
    applied_index: u64,
    raft_voters: Vec<u64>,
    state_hash: String,
}

/// Runs the scenario with the programs beside this one.
///
/// # Errors
/// [`FaultError::Prerequisite`] without the right to mount;
/// [`FaultError::Failed`] with what was not as it must be.
pub async fn full(say: &mut dyn FnMut(&str)) -> Result<(), FaultError> {
    if !rustix::process::geteuid().is_root() {
        return Err(FaultError::Prerequisite("root, to mount a small tmpfs"));
    }
    let folder = tempfile::Builder::new().prefix("osm-full-").tempdir().context("making a folder")?;
    let programs = Programs::beside_this().context("finding the programs")?;
    let fleet = Fleet::plan(&folder.path().join("fleet"), programs, VOTERS, VOTERS).context("planning a fleet")?;
    let last = fleet.nodes.last().context("a planned node")?;
    let disk = Tmpfs::mount(state_dir(&fleet, last))?;
    let result = on_fleet(&fleet, &disk, say).await;
    let killed = fleet.down();
    if result.is_err() {
        for node in &fleet.nodes {
            let log = std::fs::read_to_string(fleet.layout.log(&node.name)).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            say(&format!("{}:\n{}", node.name, tail.into_iter().rev().collect::<Vec<_>>().join("\n")));
        }
    }
    result?;
    if killed > 0 {
        return Err(anyhow::anyhow!("{killed} processes had to be killed").into());
    }
    Ok(())
}

async fn on_fleet(fleet: &Fleet, disk: &Tmpfs, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let [first, second, third] = fleet.nodes.as_slice() else { bail!("a fleet of three") };
    fleet.up(say).context("starting the fleet")?;
    order_led(fleet, "set").await?;
    let before = same(fleet, &[first, second, third]).await.context("a fleet in step")?;
    let incarnation = incarnation(fleet, third)?;

    say("the third voter's disk is filled");
    disk.fill()?;
    let mut frozen = true;
    for _ in 0..ORDERS_MAX {
        if has_stopped(fleet, third)? {
            break;
        }
        let verb = if frozen { "lift" } else { "set" };
        order_led(fleet, verb).await.context("an order while one disk is full")?;
        frozen = !frozen;
    }
    until("the third voter to stop with disk_full", TIME, || async { Ok(has_stopped(fleet, third)?.then_some(())) })
        .await?;

    say("the other two go on");
    let verb = if frozen { "lift" } else { "set" };
    order_led(fleet, verb).await.context("an order without the third voter")?;
    let without = same(fleet, &[first, second]).await.context("two voters in step")?;
    ensure!(without.applied_index > before.applied_index, "nothing was committed: {without:?}");

    say("with one of them gone, the full one makes no quorum");
    drop(fleet.processes().kill(second));
    if let Ok(answer) = order(fleet, "set") {
        bail!("one voter and a full one committed an order: {answer}");
    }
    fleet.start(second)?;
    let together = same(fleet, &[first, second]).await.context("two voters in step again")?;

    say("with space it goes on from its own log");
    disk.free()?;
    let after = same(fleet, &[first, second, third]).await.context("three voters in step again")?;
    ensure!(after.applied_index >= together.applied_index && after.term >= before.term, "{before:?}, then {after:?}");
    ensure!(after.raft_voters == before.raft_voters, "a voter came back as another one: {before:?}, then {after:?}");
    ensure!(self::incarnation(fleet, third)? == incarnation, "the third voter forgot who it was");

    say("and votes: one of the others goes, the orders go on");
    drop(fleet.processes().kill(first));
    until("an order by the second and the third voter", TIME, || async { Ok(order(fleet, "set").ok()) }).await?;
    same(fleet, &[second, third]).await.context("the second and the third voter in step")?;
    Ok(())
}

/// Gives a signed order that changes nothing but the log and the freezes.
/// Freezing what is frozen is no error; lifting what is not is one.
fn order(fleet: &Fleet, verb: &str) -> anyhow::Result<String> {
    let key = fleet.layout.operator_key().display().to_string();
    Ok(fleet.osmoda(&["freeze", verb, "faults", "--key", &key])?)
}

/// The same, asked again while there is no leader: the one that stopped may have led.
/// Then nothing was decided; what else is answered ends it.
async fn order_led(fleet: &Fleet, verb: &str) -> anyhow::Result<String> {
    until("a leader for an order", TIME, || async {
        match order(fleet, verb) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if format!("{error:#}").contains("(raft_unavailable)") => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await
}

/// Waits until these voters say the same with a leader, and returns it.
async fn same(fleet: &Fleet, voters: &[&Member]) -> anyhow::Result<Status> {
    until("voters in step", TIME, || async {
        let mut all = Vec::new();
        for voter in voters {
            let paths = Paths::new(fleet.layout.root(&voter.name));
            let fleetd = UnixClient::new(paths.socket("fleetd"), Credentials::none());
            let Ok(status) = fleetd.get::<Status>("/status").await else { return Ok(None) };
            all.push(status);
        }
        let Some(first) = all.first().cloned() else { return Ok(None) };
        let in_step =
            first.leader.is_some() && first.raft_voters.len() == VOTERS && all.iter().all(|one| *one == first);
        Ok(in_step.then_some(first))
    })
    .await
}

/// Whether the voter's own log says that it stopped for want of space.
fn has_stopped(fleet: &Fleet, voter: &Member) -> anyhow::Result<bool> {
    let path = fleet.layout.log(&voter.name);
    let log = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let says = |words: &[&str]| log.lines().any(|line| words.iter().all(|word| line.contains(word)));
    Ok(says(&["ERROR", FULL]) && says(&["daemon", "fleetd", "exit status: 1"]))
}

fn state_dir(fleet: &Fleet, voter: &Member) -> PathBuf {
    Paths::new(fleet.layout.root(&voter.name)).state("fleetd")
}

/// The file that says as whom the voter counts.
fn incarnation(fleet: &Fleet, voter: &Member) -> anyhow::Result<Vec<u8>> {
    let path = state_dir(fleet, voter).join("incarnation");
    std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
}
