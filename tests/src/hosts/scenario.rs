//! The scenarios: what is done to the hosts and what must be true afterwards.
//!
//! Invariant: a scenario counts as passed only when every claim was read off the
//! hosts themselves: the running system, the boot default, the profile and the
//! journal. What fleetd says is used to know when to look.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, ensure};
use osmoda_types::ErrorCode;

use super::bed::Bed;
use super::fleet::Fleet;
use super::generation::Generation;
use super::host::Systems;
use super::uids;

/// What can be shown on the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Scenario {
    /// A good release reaches every host.
    Good,
    /// A unit fails after activation: the canary returns, nobody else moves.
    Bad,
    /// The new generation takes the network down: the guard restores the
    /// baseline without help.
    Cut,
    /// Each daemon refuses each caller outside its row of the table.
    Uids,
}

impl Scenario {
    /// All of them, in an order in which each finds what it needs.
    pub const ALL: [Self; 4] = [Self::Good, Self::Bad, Self::Cut, Self::Uids];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Cut => "cut",
            Self::Uids => "uids",
        }
    }
}

/// What a scenario found.
#[derive(Debug, serde::Serialize)]
pub struct Outcome {
    /// Its name.
    pub scenario: &'static str,
    /// Whether every claim held.
    pub ok: bool,
    /// How long it took.
    pub seconds: f64,
    /// What was checked and found, or the first claim that did not hold.
    pub found: Vec<String>,
    /// What each host runs, boots and has as its profile afterwards.
    hosts: BTreeMap<String, Systems>,
}

/// Enrols the hosts and runs the scenarios; each outcome is handed on at once.
///
/// # Errors
/// The bed or the fleet does not work. A scenario that fails is an outcome.
pub async fn run_scenarios(
    bed: &Bed,
    scenarios: &[Scenario],
    mut tell: impl FnMut(&Outcome) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let start = Instant::now();
    let fleet = Fleet::enrol(bed).await.context("enrolling the hosts")?;
    tell(&outcome("enrol", start, bed, Ok(vec!["every host is a voter of one fleet".to_owned()]))?)?;
    let mut all = true;
    for scenario in scenarios {
        let start = Instant::now();
        let found = match scenario {
            Scenario::Good => good(bed, &fleet).await,
            Scenario::Bad => bad(bed, &fleet).await,
            Scenario::Cut => cut(bed, &fleet).await,
            Scenario::Uids => uids::run(bed).await,
        };
        let outcome = outcome(scenario.name(), start, bed, found)?;
        all &= outcome.ok;
        tell(&outcome)?;
    }
    Ok(all)
}

fn outcome(
    scenario: &'static str,
    start: Instant,
    bed: &Bed,
    found: anyhow::Result<Vec<String>>,
) -> anyhow::Result<Outcome> {
    let seconds = (start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    let mut hosts = BTreeMap::new();
    for host in bed.hosts() {
        hosts.insert(host.name(), host.systems()?);
    }
    let ok = found.is_ok();
    let found = found.unwrap_or_else(|cause| vec![format!("{cause:#}")]);
    Ok(Outcome { scenario, ok, seconds, found, hosts })
}

/// Builds one toplevel per host.
async fn build(bed: &Bed, make: impl Fn(&str) -> Generation) -> anyhow::Result<Vec<String>> {
    let mut targets = Vec::new();
    for host in bed.hosts() {
        targets.push(bed.builder().build(&make(&host.name())).await?);
    }
    Ok(targets)
}

async fn good(bed: &Bed, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let targets = build(bed, |host| Generation::new("good", host).workload("good")).await?;
    let rollout = fleet.propose(bed, "good", &targets).await?;
    let phase = fleet.ended(bed, rollout).await?;
    ensure!(phase == "committed", "the rollout ended as {phase}");
    for (host, target) in bed.hosts().iter().zip(&targets) {
        fleet.resting(host).await?;
        let systems = host.systems()?;
        let everywhere = [&systems.runs, &systems.boots, &systems.profile];
        ensure!(everywhere.iter().all(|path| path.as_ref() == Some(target)), "{}: {systems:?}", host.name());
        let unit =
            host.run(&["systemctl", "show", "-p", "Environment", "-p", "ActiveState", "workload.service"]).await?;
        ensure!(unit.contains("VERSION=good") && unit.contains("ActiveState=active"), "{}: {unit}", host.name());
    }
    Ok(vec![format!("{} hosts run, boot and keep their target; the workload is the new one", targets.len())])
}

async fn bad(bed: &Bed, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    // Starts well, so that the activation succeeds, and fails a second later.
    let failing = "[Unit]\nDescription=Workload that fails\n\n[Service]\nExecStart=/bin/sh -c 'sleep 1; exit 7'\n";
    let targets = build(bed, |host| Generation::new("bad", host).unit("workload.service", failing)).await?;
    let found = refused_rollout(bed, fleet, "bad", &targets).await?;
    let again = fleet.propose(bed, "bad again", &targets).await;
    let refusal = again.err().context("a target that failed was accepted a second time")?;
    let code = refusal.downcast_ref::<osmoda_kit::error::ApiError>().map(|error| error.code);
    ensure!(code == Some(ErrorCode::TargetDenied), "the second attempt was refused otherwise: {refusal:#}");
    Ok(vec![found, "a second attempt is refused with target_denied".to_owned()])
}

async fn cut(bed: &Bed, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let cutting = "[Unit]\nDescription=Takes the network down\n\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                   ExecStart=/usr/sbin/ip link set eth0 down\nExecStop=/usr/sbin/ip link set eth0 up\n";
    let targets = build(bed, |host| Generation::new("cut", host).workload("cut").unit("cut.service", cutting)).await?;
    let found = refused_rollout(bed, fleet, "cut", &targets).await?;
    for host in bed.hosts() {
        let link = host.run(&["ip", "-br", "link", "show", "eth0"]).await?;
        ensure!(link.contains("UP"), "{}: the network is still down: {link}", host.name());
    }
    let deciders = who_rolled_back(bed, fleet, &targets).await?;
    ensure!(deciders == ["guard"], "the roll-back was begun by {deciders:?}");
    Ok(vec![found, "the guard restored the baseline; the network is up again".to_owned()])
}

/// Proposes a release that must be undone, and checks that every host is where
/// it was and that exactly one of them had moved.
async fn refused_rollout(bed: &Bed, fleet: &Fleet, name: &str, targets: &[String]) -> anyhow::Result<String> {
    let before: Vec<Systems> = bed.hosts().iter().map(super::host::Host::systems).collect::<Result<_, _>>()?;
    let rollout = fleet.propose(bed, name, targets).await?;
    let phase = fleet.ended(bed, rollout).await?;
    ensure!(phase.starts_with("rolled_back"), "the rollout ended as {phase}");
    let mut moved = Vec::new();
    for ((host, target), before) in bed.hosts().iter().zip(targets).zip(&before) {
        fleet.resting(host).await?;
        let systems = host.systems()?;
        ensure!(&systems == before, "{}: was {before:?}, is {systems:?}", host.name());
        let history = fleet.history(host).await?;
        let granted = history.records.iter().any(|row| row.target.as_ref().is_some_and(|path| path.as_str() == target));
        if granted {
            moved.push(host.name());
        }
    }
    ensure!(moved.len() == 1, "hosts that had moved: {moved:?}");
    Ok(format!("{phase}: {} had moved, every host is on what it ran before", moved[0]))
}

/// Who began the roll-back of the attempts at these targets.
async fn who_rolled_back(bed: &Bed, fleet: &Fleet, targets: &[String]) -> anyhow::Result<Vec<String>> {
    let mut writers = Vec::new();
    for (host, target) in bed.hosts().iter().zip(targets) {
        let history = fleet.history(host).await?;
        let attempt = history
            .records
            .iter()
            .find(|row| row.target.as_ref().is_some_and(|path| path.as_str() == target))
            .map(|row| row.attempt);
        let begun =
            history.records.into_iter().filter(|row| Some(row.attempt) == attempt && row.kind == "rolling_back");
        writers.extend(begun.map(|row| row.writer));
    }
    Ok(writers)
}
