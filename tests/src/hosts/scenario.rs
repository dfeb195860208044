//! The scenarios: what is done to the hosts and what must be true afterwards.
//!
//! Invariant: a scenario counts as passed only when every claim was read off the
//! hosts themselves: the running system, the boot default, the profile and the
//! journal. What fleetd says is used to know when to look.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use osmoda_node_api::watch::HistoryEntry;
use osmoda_types::{AttemptId, ErrorCode};

use super::bed::Bed;
use super::command::until;
use super::fleet::{Fleet, Release};
use super::generation::{Generation, Signed};
use super::host::{Host, Systems};
use super::{controller, inbox, killed, uids, witnesses};

/// How long the last rows of a ledger may take after everything is at rest.
const LEDGER_TIME_MAX: Duration = Duration::from_secs(30);

/// An activation that never ends is killed after this. The baseline's own, which
/// takes a second or two on a busy machine, has the same time.
const HANGING_ACTIVATION_MS: u64 = 8_000;

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
    /// A release without the fleet key's signature: no host takes it.
    Unsigned,
    /// An activation that ends with a failure, and one that never ends.
    BrokenActivation,
    /// Each daemon refuses each caller outside its row of the table.
    Uids,
    /// A controller joins and shows every host.
    Controller,
    /// A call waits in the controller's inbox, is approved and runs once; another
    /// is denied.
    Inbox,
    /// The executor is killed in the middle of approved calls.
    ExecutorKilled,
    /// A destructive call with one witness down is done.
    WitnessDown,
    /// A destructive call with every witness down is refused.
    QuorumDown,
    /// A row is changed under the running daemon: its own timer finds it, and the
    /// controller shows it.
    LedgerFault,
    /// Root rewrites its whole ledger: the others find out.
    LedgerRewrite,
    /// Root cuts the tail of its ledger: the others find out.
    LedgerTruncation,
    /// Yesterday's disk is restored: the others find out.
    LedgerRollback,
}

impl Scenario {
    /// All of them, in an order in which each finds what it needs.
    pub const ALL: [Self; 15] = [
        Self::Good,
        Self::Bad,
        Self::Cut,
        Self::Unsigned,
        Self::BrokenActivation,
        Self::Uids,
        Self::Controller,
        Self::Inbox,
        Self::ExecutorKilled,
        Self::WitnessDown,
        Self::QuorumDown,
        Self::LedgerFault,
        Self::LedgerRewrite,
        Self::LedgerTruncation,
        Self::LedgerRollback,
    ];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Cut => "cut",
            Self::Unsigned => "unsigned",
            Self::BrokenActivation => "broken-activation",
            Self::Uids => "uids",
            Self::Controller => "controller",
            Self::Inbox => "inbox",
            Self::ExecutorKilled => "executor-killed",
            Self::WitnessDown => "witness-down",
            Self::QuorumDown => "quorum-down",
            Self::LedgerFault => "ledger-fault",
            Self::LedgerRewrite => "ledger-rewrite",
            Self::LedgerTruncation => "ledger-truncation",
            Self::LedgerRollback => "ledger-rollback",
        }
    }

    /// Whether a word of the command line means this one: its name, a group of
    /// scenarios (`ledger`) or all of them.
    #[must_use]
    pub fn is_meant_by(self, word: &str) -> bool {
        word == "all" || self.name() == word || self.name().split_once('-').is_some_and(|(group, _)| group == word)
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
            Scenario::Unsigned => unsigned(bed, &fleet).await,
            Scenario::BrokenActivation => broken_activation(bed, &fleet).await,
            Scenario::Uids => uids::run(bed).await,
            Scenario::Controller => controller::run(bed).await,
            Scenario::Inbox => inbox::run(bed, &fleet).await,
            Scenario::ExecutorKilled => killed::run(bed, &fleet).await,
            Scenario::WitnessDown => witnesses::one_down(bed, &fleet).await,
            Scenario::QuorumDown => witnesses::all_down(bed, &fleet).await,
            Scenario::LedgerFault => witnesses::fault(bed, &fleet).await,
            Scenario::LedgerRewrite => witnesses::rewrite(bed, &fleet).await,
            Scenario::LedgerTruncation => witnesses::cut(bed, &fleet).await,
            Scenario::LedgerRollback => witnesses::old_disk(bed, &fleet).await,
        };
        let outcome = outcome(scenario.name(), start, bed, found)?;
        all &= outcome.ok;
        tell(&outcome)?;
    }
    let start = Instant::now();
    let outcome = outcome("ledger", start, bed, ledgers(bed).await)?;
    tell(&outcome)?;
    Ok(all && outcome.ok)
}

/// Whatever was done to the hosts, their ledgers hold and no intent is left open.
async fn ledgers(bed: &Bed) -> anyhow::Result<Vec<String>> {
    let mut rows = 0;
    for host in bed.hosts() {
        // The last rows follow the end of an attempt.
        let report = until("paired rows", LEDGER_TIME_MAX, || async move {
            let said = host.run_any(&["agentctl", "verify-ledger", "--json"]).await?;
            let report: serde_json::Value = serde_json::from_str(&said).with_context(|| said.clone())?;
            ensure!(report["exit"] == 0, "{}: {said}", host.name());
            Ok((report["open_intents"] == 0).then_some(report))
        });
        let report = report.await.with_context(|| format!("the ledger of {}", host.name()))?;
        rows += report["verified"].as_u64().unwrap_or_default();
    }
    Ok(vec![format!("{rows} rows on {} hosts verify, no intent is open", bed.hosts().len())])
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
    for (host, target) in bed.hosts().iter().zip(&targets) {
        ensure!(!has(host, target)?, "{} has its target before it was staged", host.name());
    }
    let release = Release::new("good", targets);
    let rollout = fleet.propose(bed, &release).await?;
    let phase = fleet.ended(bed, rollout).await?;
    ensure!(phase == "committed", "the rollout ended as {phase}");
    for (host, target) in bed.hosts().iter().zip(&release.targets) {
        fleet.resting(host).await?;
        let systems = host.systems()?;
        let everywhere = [&systems.runs, &systems.boots, &systems.profile];
        ensure!(everywhere.iter().all(|path| path.as_ref() == Some(target)), "{}: {systems:?}", host.name());
        let unit =
            host.run(&["systemctl", "show", "-p", "Environment", "-p", "ActiveState", "workload.service"]).await?;
        ensure!(unit.contains("VERSION=good") && unit.contains("ActiveState=active"), "{}: {unit}", host.name());
    }
    Ok(vec![
        "staging fetched the closures from the signed cache".to_owned(),
        format!("{} hosts run, boot and keep their target; the workload is the new one", bed.hosts().len()),
    ])
}

/// Whether a path is in a host's store.
fn has(host: &Host, path: &str) -> anyhow::Result<bool> {
    Ok(host.file(path)?.exists())
}

async fn bad(bed: &Bed, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    // Starts well, so that the activation succeeds, and fails a second later.
    let failing = "[Unit]\nDescription=Workload that fails\n\n[Service]\nExecStart=/bin/sh -c 'sleep 1; exit 7'\n";
    let targets = build(bed, |host| Generation::new("bad", host).unit("workload.service", failing)).await?;
    let bad = Release::new("bad", targets);
    let found = refused_rollout(bed, fleet, &bad).await?;
    let again = fleet.propose(bed, &Release::new("bad again", bad.targets)).await;
    let refusal = again.err().context("a target that failed was accepted a second time")?;
    let code = refusal.downcast_ref::<osmoda_kit::error::ApiError>().map(|error| error.code);
    ensure!(code == Some(ErrorCode::TargetDenied), "the second attempt was refused otherwise: {refusal:#}");
    Ok(vec![found, "a second attempt is refused with target_denied".to_owned()])
}

async fn cut(bed: &Bed, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let cutting = "[Unit]\nDescription=Takes the network down\n\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                   ExecStart=/usr/sbin/ip link set eth0 down\nExecStop=/usr/sbin/ip link set eth0 up\n";
    let targets = build(bed, |host| Generation::new("cut", host).workload("cut").unit("cut.service", cutting)).await?;
    let cut = Release::new("cut", targets);
    let found = refused_rollout(bed, fleet, &cut).await?;
    for host in bed.hosts() {
        let link = host.run(&["ip", "-br", "link", "show", "eth0"]).await?;
        ensure!(link.contains("UP"), "{}: the network is still down: {link}", host.name());
    }
    let begun = rollbacks(bed, fleet, &cut).await?;
    let deciders: Vec<&str> = begun.iter().map(|row| row.writer.as_str()).collect();
    ensure!(deciders == ["guard"], "the roll-back was begun by {deciders:?}");
    Ok(vec![found, "the guard restored the baseline; the network is up again".to_owned()])
}

async fn unsigned(bed: &Bed, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let before: Vec<Systems> = bed.hosts().iter().map(Host::systems).collect::<Result<_, _>>()?;
    let mut targets = Vec::new();
    for host in bed.hosts() {
        let generation = Generation::new("unsigned", &host.name()).workload("unsigned");
        targets.push(bed.builder().publish(&generation, Signed::No).await?);
    }
    let since = bed.hosts().first().context("the bed has no hosts")?.run(&["date", "+%F %T"]).await?;
    let release = Release::new("unsigned", targets);
    let rollout = fleet.propose(bed, &release).await?;
    for host in bed.hosts() {
        let line = fleet.refusal(host, since.trim()).await?;
        let code = ErrorCode::ClosureUnsigned.as_str();
        ensure!(line.contains(code), "{}: refused otherwise: {line}", host.name());
    }
    fleet.abort(bed, rollout).await?;
    let phase = fleet.ended(bed, rollout).await?;
    ensure!(phase.starts_with("rolled_back"), "the rollout ended as {phase}");
    for ((host, target), before) in bed.hosts().iter().zip(&release.targets).zip(&before) {
        let systems = host.systems()?;
        ensure!(&systems == before, "{}: was {before:?}, is {systems:?}", host.name());
        ensure!(!has(host, target)?, "{} has the unsigned target in its store", host.name());
        ensure!(attempt_at(fleet, host, target).await?.is_none(), "{} was granted it", host.name());
    }
    Ok(vec!["every host refused it at staging with closure_unsigned; it is in no store, no host moved".to_owned()])
}

async fn broken_activation(bed: &Bed, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let failing = build(bed, |host| Generation::new("restart", host).workload("restart").needs_restart()).await?;
    let failing = Release::new("broken-activation: needs a restart", failing);
    let mut found = vec![refused_rollout(bed, fleet, &failing).await?];
    let begun = rollbacks(bed, fleet, &failing).await?;
    let told: Vec<_> = begun.iter().map(|row| (row.code, row.detail.clone().unwrap_or_default())).collect();
    let [(Some(ErrorCode::ActivationFailed), detail)] = told.as_slice() else { bail!("rolled back for {told:?}") };
    ensure!(detail.contains("100"), "the activation ended otherwise: {detail}");
    found.push("exit code 100 is an activation that failed".to_owned());

    // Marks its process, so that it can be looked for afterwards.
    let hanging = "exec sleep 86399";
    let hanging = build(bed, |host| Generation::new("hanging", host).workload("hanging").activate(hanging)).await?;
    let hanging = Release::new("broken-activation: hangs", hanging).activation_ms(HANGING_ACTIVATION_MS);
    found.push(refused_rollout(bed, fleet, &hanging).await?);
    let codes: Vec<_> = rollbacks(bed, fleet, &hanging).await?.into_iter().map(|row| row.code).collect();
    ensure!(codes == [Some(ErrorCode::ActivationTimeout)], "rolled back for {codes:?}");
    for host in bed.hosts() {
        let left = host.run_any(&["pgrep", "-f", "[s]leep 86399"]).await?;
        ensure!(left.trim().is_empty(), "{}: the activation still runs: {left}", host.name());
    }
    found.push("an activation that hangs is killed at its time limit, with all it started".to_owned());
    Ok(found)
}

/// Proposes a release that must be undone, and checks that every host is where
/// it was and that exactly one of them had moved.
async fn refused_rollout(bed: &Bed, fleet: &Fleet, release: &Release) -> anyhow::Result<String> {
    let before: Vec<Systems> = bed.hosts().iter().map(Host::systems).collect::<Result<_, _>>()?;
    let rollout = fleet.propose(bed, release).await?;
    let phase = fleet.ended(bed, rollout).await?;
    ensure!(phase.starts_with("rolled_back"), "the rollout ended as {phase}");
    let mut moved = Vec::new();
    for ((host, target), before) in bed.hosts().iter().zip(&release.targets).zip(&before) {
        fleet.resting(host).await?;
        let systems = host.systems()?;
        ensure!(&systems == before, "{}: was {before:?}, is {systems:?}", host.name());
        if attempt_at(fleet, host, target).await?.is_some() {
            moved.push(host.name());
        }
    }
    ensure!(moved.len() == 1, "hosts that had moved: {moved:?}");
    Ok(format!("{phase}: {} had moved, every host is on what it ran before", moved[0]))
}

/// The attempt that a host made at a target.
async fn attempt_at(fleet: &Fleet, host: &Host, target: &str) -> anyhow::Result<Option<AttemptId>> {
    let history = fleet.history(host).await?;
    let is_it = |row: &&HistoryEntry| row.target.as_ref().is_some_and(|path| path.as_str() == target);
    Ok(history.records.iter().find(is_it).map(|row| row.attempt))
}

/// The records with which the roll-backs of a release were begun.
async fn rollbacks(bed: &Bed, fleet: &Fleet, release: &Release) -> anyhow::Result<Vec<HistoryEntry>> {
    let mut begun = Vec::new();
    for (host, target) in bed.hosts().iter().zip(&release.targets) {
        let Some(attempt) = attempt_at(fleet, host, target).await? else { continue };
        let history = fleet.history(host).await?;
        begun.extend(history.records.into_iter().filter(|row| row.attempt == attempt && row.kind == "rolling_back"));
    }
    Ok(begun)
}
