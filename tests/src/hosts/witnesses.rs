//! What root of a host does to its ledger, found out by the other hosts; and
//! what a destructive call needs of them.
//!
//! Each attack is done as well as it can be (`attack.rs`), on another host, and the
//! honest ledger is put back afterwards, so that the fleet goes on. Claims are read
//! off the other hosts and off `osmoda ledger verify --all` at the controller; the
//! attacked host is believed in nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use osmoda_node_api::agentd_records::NewIncident;
use osmoda_node_api::witness::{Alarm, Finding, WitnessReport};
use osmoda_types::{NodeId, PermitId};

use super::attack::Attack;
use super::bed::Bed;
use super::command::until;
use super::console::{Console, Said, ask_to_write, run_permit};
use super::fleet::Fleet;
use super::host::Host;
use super::programs;

/// A live ledger makes a checkpoint at least this often (docs/ledger.md).
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// Cosignatures of all rows are there within seconds of the last row.
const COVERED_TIME_MAX: Duration = Duration::from_secs(30);

/// Where agentd has its state.
const STATE: &str = "/var/lib/osmoda/agentd";

/// Where its honest state waits, beside it for its owner's sake.
const HONEST: &str = "/var/lib/osmoda/agentd.honest";

/// Where yesterday's disk is kept.
const YESTERDAY: &str = "/var/lib/osmoda/agentd.yesterday";

/// The units of a host's ledger. The socket would start the service again.
const UNITS: [&str; 2] = ["osmoda-agentd.socket", "osmoda-agentd.service"];

/// Rows that are cut: less than a second of a rollout.
const CUT_ROWS: usize = 5;

/// A destructive call with one witness down.
pub(super) async fn one_down(bed: &Bed, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let [acting, witness, other] = three(bed)?;
    let console = Console::open(bed, fleet).await?;
    let path = "/etc/osmoda-witness-down";
    stop(witness).await?;
    let ran = async {
        let permit = approved(&console, acting, path, "one is enough").await?;
        run_permit(acting, &permit).await
    };
    let ran = ran.await;
    start(witness).await?;
    let ran = ran?;
    ensure!(ran.exit == 0 && ran.text.contains("done"), "exit code {}: {}", ran.exit, ran.text);
    ensure!(acting.run(&["cat", path]).await? == "one is enough", "{path} is not what was approved");
    let found = format!(
        "{} is down, {} cosigned: the call on {} is done with 1 of 2 witnesses",
        witness.name(),
        other.name(),
        acting.name()
    );
    Ok(vec![found])
}

/// A destructive call with every witness down: refused, and the permit is kept.
pub(super) async fn all_down(bed: &Bed, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let [acting, first, second] = three(bed)?;
    let console = Console::open(bed, fleet).await?;
    // The node may learn of their end only by the first call: that one it begins,
    // and gives up when no cosignature comes.
    let (begun, path) = ("/etc/osmoda-quorum-down-begun", "/etc/osmoda-quorum-down");
    let first_permit = approved(&console, acting, begun, "with witnesses only").await?;
    let permit = approved(&console, acting, path, "with witnesses only").await?;
    stop(first).await?;
    stop(second).await?;
    let refusals = async {
        refused(acting, &first_permit, begun).await?;
        refused(acting, &permit, path).await
    };
    let refusal = refusals.await;
    start(first).await?;
    start(second).await?;
    let refusal = refusal?;
    let ran = until("the same permit with its witnesses back", COVERED_TIME_MAX, || async move {
        let ran = run_permit(acting, &permit).await?;
        ensure!(ran.exit == 0 || ran.text.contains("witness_unavailable"), "{}", ran.text);
        Ok((ran.exit == 0).then_some(ran))
    });
    ensure!(ran.await?.text.contains("done"), "the permit was not good for the call");
    let why = refusal.text.lines().find(|line| line.contains("witness_unavailable")).unwrap_or_default().trim();
    Ok(vec![
        format!("exit code {}, {why}; nothing was written", refusal.exit),
        "the permit was kept: with the witnesses back the same call is done".to_owned(),
    ])
}

/// A permit for a file that is to be written on a host, approved at the console.
async fn approved(console: &Console<'_>, acting: &Host, path: &str, content: &str) -> anyhow::Result<PermitId> {
    let permit = ask_to_write(acting, path, content).await?;
    console.arrived(&permit).await?;
    let signed = console.decide("approve", &permit).await?;
    ensure!(signed.exit == 0, "{}", signed.text);
    Ok(permit)
}

/// A run that must be refused for want of witnesses, and have done nothing.
async fn refused(acting: &Host, permit: &PermitId, path: &str) -> anyhow::Result<Said> {
    let ran = run_permit(acting, permit).await?;
    ensure!(ran.exit != 0 && ran.text.contains("witness_unavailable"), "exit code {}: {}", ran.exit, ran.text);
    ensure!(!acting.file(path)?.exists(), "{path} was written without witnesses");
    Ok(ran)
}

/// Every row hashed again and the tree rebuilt, signed with the stolen key.
pub(super) async fn rewrite(bed: &Bed, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let [victim, ..] = three(bed)?;
    // The forged checkpoint itself, of as many rows as they have cosigned, is a fork.
    attack(bed, fleet, victim, &[Finding::Rewritten, Finding::Forked], async |victim| {
        let rows = forge(victim, Attack::Rewrite).await?;
        Ok(format!("row 2 of {rows} is another one, every later row hashed again, signed with the stolen key"))
    })
    .await
}

/// The newest rows are cut off, and everything that tells of them.
pub(super) async fn cut(bed: &Bed, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let [_, victim, _] = three(bed)?;
    attack(bed, fleet, victim, &[Finding::Shortened], async |victim| {
        let rows = forge(victim, Attack::Cut { rows: CUT_ROWS }).await?;
        Ok(format!("the last {CUT_ROWS} rows are gone, {rows} are left, signed with the stolen key"))
    })
    .await
}

/// Yesterday's state folder, untouched, as a restored disk has it.
pub(super) async fn old_disk(bed: &Bed, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let [.., victim] = three(bed)?;
    stop(victim).await?;
    victim.run(&["cp", "-a", STATE, YESTERDAY]).await?;
    start(victim).await?;
    // A day of work.
    for _ in 0..3 {
        work(victim).await?;
    }
    attack(bed, fleet, victim, &[Finding::Shortened], async |victim| {
        victim.run(&["rm", "-rf", STATE]).await?;
        victim.run(&["mv", YESTERDAY, STATE]).await?;
        Ok("yesterday's disk is back".to_owned())
    })
    .await
}

/// A row changed under the running daemon: its own verification, on its timer,
/// finds it, and the operator sees it at the controller.
pub(super) async fn fault(bed: &Bed, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let [_, victim, _] = three(bed)?;
    let console = Console::open(bed, fleet).await?;
    let config = victim.file("/etc/osmoda/agentd.toml")?;
    stop(victim).await?;
    programs::write(&config, "[ledger]\nverify_every_seconds = 1\n")?;
    start(victim).await?;
    let found = async {
        forge(victim, Attack::Flip).await?;
        let asked = Instant::now();
        let word = shown(&console, victim, "FAULTY").await?;
        let elapsed = asked.elapsed();
        let said = console.run(&["ledger", "verify", "--all", "--wait", "1"]).await?;
        let found = "its own verification found";
        ensure!(of(&said.text, &victim.name()).contains(found) && said.exit != 0, "exit {}: {}", said.exit, said.text);
        let seconds = elapsed.as_secs_f64();
        anyhow::Ok(format!(
            "{} finds a changed row by itself; `osmoda node ls` says {word} {seconds:.1} s after it",
            victim.name()
        ))
    };
    let found = found.await;
    let back = async {
        // Not an older copy: that would be an old disk.
        forge(victim, Attack::Flip).await?;
        std::fs::remove_file(&config).with_context(|| format!("removing {}", config.display()))?;
        stop(victim).await?;
        start(victim).await?;
        shown(&console, victim, "").await.context("the honest ledger is put back")
    };
    let back = back.await;
    // What came first says more than what followed from it.
    let found = found?;
    back?;
    Ok(vec![found])
}

/// Waits until `osmoda node ls` ends a host's line with that word; a ledger that was
/// caught before says so for good.
async fn shown(console: &Console<'_>, host: &Host, word: &str) -> anyhow::Result<String> {
    until("what `osmoda node ls` shows of a ledger", COVERED_TIME_MAX, || async move {
        let nodes = console.run(&["node", "ls"]).await?;
        let line = nodes.text.lines().find(|line| line.starts_with(&host.name())).unwrap_or_default();
        let last = line.split_whitespace().last().unwrap_or_default();
        let is_it = if word.is_empty() { last != "FAULTY" } else { last == word };
        Ok(is_it.then(|| last.to_owned()))
    })
    .await
}

/// Waits until a ledger is witnessed to its last row, does something to it, and
/// tells who found it out, when and with which evidence.
async fn attack(
    bed: &Bed,
    fleet: &Fleet,
    victim: &Host,
    findings: &[Finding],
    act: impl AsyncFnOnce(&Host) -> anyhow::Result<String>,
) -> anyhow::Result<Vec<String>> {
    let console = Console::open(bed, fleet).await?;
    let node = fleet.node(victim)?;
    // A witness whose own disk was put back holds less than it has told; a new row
    // brings it up.
    work(victim).await?;
    covered(bed, victim, node).await?;
    stop(victim).await?;
    victim.run(&["cp", "-a", STATE, HONEST]).await?;
    let found = found_out(bed, &console, victim, node, findings, act).await;
    let back = put_back(victim).await;
    let found = found?;
    back?;
    covered(bed, victim, node).await.context("the honest ledger is put back")?;
    Ok(found)
}

/// Adds a row to a host's ledger.
async fn work(host: &Host) -> anyhow::Result<()> {
    let incident = NewIncident { name: "an ordinary day".to_owned() };
    let _made: serde_json::Value = host.client("agentd")?.post("/incident/create", &incident).await?;
    Ok(())
}

/// Root of the host does it with a program on the host.
async fn forge(victim: &Host, attack: Attack) -> anyhow::Result<u64> {
    let attack = serde_json::to_string(&attack)?;
    let rows = victim.run(&["/usr/local/bin/hosts", "forge", STATE, &attack]).await?;
    rows.trim().parse().with_context(|| rows.clone())
}

async fn found_out(
    bed: &Bed,
    console: &Console<'_>,
    victim: &Host,
    node: NodeId,
    findings: &[Finding],
    act: impl AsyncFnOnce(&Host) -> anyhow::Result<String>,
) -> anyhow::Result<Vec<String>> {
    let done = act(victim).await?;
    let asked = Instant::now();
    start(victim).await?;
    // Ready: it has verified itself and found nothing.
    let served = Instant::now();
    let by = until("every other host's alarm", CHECKPOINT_INTERVAL, || async move {
        let mut by = Vec::new();
        for host in bed.hosts().iter().filter(|host| host.index != victim.index) {
            let Some(alarm) = newest_alarm(host, node).await? else { return Ok(None) };
            ensure!(findings.contains(&alarm.finding), "{} found {:?}", host.name(), alarm.finding);
            by.push(host.name());
        }
        Ok(Some(by))
    });
    let by = by.await?;
    let (since_start, since_served) = (asked.elapsed(), served.elapsed());
    ensure!(since_start < CHECKPOINT_INTERVAL, "found out after {since_start:?}");
    // A witness stores its alarm before it answers, so the caught one learns of it later.
    let rest = CHECKPOINT_INTERVAL.saturating_sub(since_start);
    let sealed =
        until(
            "the seal of the ledger with another past",
            rest,
            || async move { Ok(witness_report(victim).await?.refused) },
        );
    let sealed = sealed.await?;
    let evidence = evidence(console, victim).await?;
    Ok(vec![
        format!("{}: {done}; its own start found nothing", victim.name()),
        format!(
            "{} found it {:.1} s after it was served, {:.1} s after the start (interval: {} s)",
            by.join(" and "),
            since_served.as_secs_f64(),
            since_start.as_secs_f64(),
            CHECKPOINT_INTERVAL.as_secs()
        ),
        format!("{} takes no more rows: {sealed}", victim.name()),
        evidence,
    ])
}

async fn newest_alarm(host: &Host, node: NodeId) -> anyhow::Result<Option<Alarm>> {
    let report: WitnessReport = host.client("agentd")?.get("/ledger/witness").await?;
    Ok(report.alarms.into_iter().rfind(|alarm| alarm.node == node))
}

/// `osmoda ledger verify --all` says who lied, prints both signed notes and ends
/// with 3; `osmoda status` and `osmoda node ls` say so too.
async fn evidence(console: &Console<'_>, victim: &Host) -> anyhow::Result<String> {
    let name = victim.name();
    let said = until("the evidence at the controller", COVERED_TIME_MAX, || {
        let name = name.clone();
        async move {
            let said = console.run(&["ledger", "verify", "--all", "--wait", "1"]).await?;
            let of_it = of(&said.text, &name);
            let has_both =
                of_it.contains("CAUGHT: ") && of_it.contains("--- signed before") && of_it.contains("--- signed later");
            Ok((said.exit == 3 && has_both).then_some(said))
        }
    });
    let said = said.await?;
    let notes = of(&said.text, &name).matches("\u{2014} osmoda.ledger/").count();
    ensure!(notes >= 2, "the notes are not signed: {}", said.text);
    let status = console.run(&["status"]).await?;
    ensure!(status.text.contains("ALARM of "), "{}", status.text);
    shown(console, victim, "CAUGHT").await?;
    let what = of(&said.text, &name).lines().find(|line| line.contains("CAUGHT: ")).map(str::trim).map(str::to_owned);
    Ok(format!("`osmoda ledger verify --all` exits with 3 and both signed notes: {}", what.unwrap_or_default()))
}

/// The lines about one host.
fn of(text: &str, name: &str) -> String {
    let begin = format!("{name}: ");
    let lines = text.lines().skip_while(|line| !line.starts_with(&begin));
    let rest = lines.clone().skip(1).take_while(|line| line.starts_with(' '));
    lines.take(1).chain(rest).collect::<Vec<_>>().join("\n")
}

/// Waits until every other host has cosigned all rows of a ledger.
async fn covered(bed: &Bed, victim: &Host, node: NodeId) -> anyhow::Result<()> {
    until("a ledger that every witness has cosigned", COVERED_TIME_MAX, || async move {
        let Ok(own) = witness_report(victim).await else { return Ok(None) };
        ensure!(own.refused.is_none(), "{} takes no rows: {:?}", victim.name(), own.refused);
        for host in bed.hosts().iter().filter(|host| host.index != victim.index) {
            let Ok(report) = witness_report(host).await else { return Ok(None) };
            let held = report.held.iter().find(|held| held.node == node).map_or(0, |held| held.size);
            if held < own.rows {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

async fn witness_report(host: &Host) -> anyhow::Result<WitnessReport> {
    Ok(host.client("agentd")?.get("/ledger/witness").await?)
}

async fn put_back(victim: &Host) -> anyhow::Result<()> {
    stop(victim).await?;
    victim.run(&["rm", "-rf", STATE]).await?;
    victim.run(&["mv", HONEST, STATE]).await?;
    start(victim).await
}

async fn stop(host: &Host) -> anyhow::Result<()> {
    host.run(&[["systemctl", "stop"].as_slice(), &UNITS].concat()).await.map(drop)
}

async fn start(host: &Host) -> anyhow::Result<()> {
    host.run(&[["systemctl", "start"].as_slice(), &UNITS].concat()).await.map(drop)
}

fn three(bed: &Bed) -> anyhow::Result<[&Host; 3]> {
    let hosts: Vec<&Host> = bed.hosts().iter().take(3).collect();
    hosts.try_into().ok().context("three hosts are needed")
}
