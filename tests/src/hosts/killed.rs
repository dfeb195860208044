//! The executor is killed in the middle of approved calls: a call is done once or not
//! at all, a permit is used once, and the ledger says what became of it.
//!
//! When it is killed is seen by a program on the host: a call takes milliseconds.

use anyhow::{Context, ensure};
use osmoda_node_api::agentd::{AgentdClient, EventQuery};
use osmoda_types::PermitId;
use serde_json::Value;

use super::bed::Bed;
use super::command::until;
use super::console::{Console, ask_to_write_in, run_witnessed};
use super::controller::VIEW_TIME_MAX;
use super::fleet::Fleet;
use super::host::Host;

/// Below no write root, so each call needs a permit and witnesses.
const FOLDER: &str = "/srv/osmoda-killed";

const OLD: &str = "as it was";
const NEW: &str = "as it was approved";

const UNIT: &str = "osmoda-execd.service";

/// At each point so often.
const ROUNDS: usize = 2;

/// So many in all, while each call was quicker than whoever kills.
const ROUNDS_MAX: usize = 12;

/// What has happened when it is killed: the call was asked for, a file with the new
/// content is there, it has its name.
const POINTS: [&str; 3] = ["asked", "written", "placed"];

/// Kills a process at a point. What was written is not seen when it has its name already.
const KILLER: &str = r#"
pid=$1; point=$2; folder=$3; new=$4
placed() { read -r line < "$folder/file"; [ "$line" = "$new" ]; }
seen() {
  case $point in
    asked) ;;
    written) set -- "$folder"/.osmoda-*; [ -e "$1" ] || placed ;;
    placed) placed ;;
  esac
}
until seen; do :; done
kill -9 "$pid"
"#;

/// What is known of the runs of a permit.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    content: String,
    begun: usize,
    outcomes: Vec<String>,
}

/// All of it.
pub(super) async fn run(bed: &Bed, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let host = bed.hosts().first().context("the bed has no hosts")?;
    let console = Console::open(bed, fleet).await?;
    let (mut cut, mut rounds) = (0, 0);
    while rounds < POINTS.len() * ROUNDS || (cut == 0 && rounds < ROUNDS_MAX) {
        let point = POINTS[rounds % POINTS.len()];
        let found = one(host, &console, point, rounds).await.with_context(|| format!("killed when {point}"))?;
        cut += usize::from(found == ["unknown"]);
        rounds += 1;
    }
    ensure!(cut > 0, "no run was cut off in the middle");
    Ok(vec![format!("{rounds} times the executor was killed, {cut} runs were cut off; none was done twice or lost")])
}

/// One round; returns the outcomes that the ledger has before it is asked again.
async fn one(host: &Host, console: &Console<'_>, point: &str, round: usize) -> anyhow::Result<Vec<String>> {
    let folder = format!("{FOLDER}/{round}");
    let path = format!("{folder}/file");
    host.run(&["mkdir", "-p", &folder]).await?;
    std::fs::write(host.file(&path)?, OLD).with_context(|| path.clone())?;
    // A session of its own: each may ask for ten calls a minute.
    let permit = ask_to_write_in(host, &format!("killed-{round}"), &path, NEW).await?;
    console.arrived(&permit).await?;
    let signed = console.decide("approve", &permit).await?;
    ensure!(signed.exit == 0, "{}", signed.text);
    host.run(&["systemctl", "start", UNIT]).await?;
    let pid = host.run(&["systemctl", "show", "--value", "-p", "MainPID", UNIT]).await?;
    let killer = ["sh", "-c", KILLER, "sh", pid.trim(), point, &folder, NEW];
    let (cut, killed) = tokio::join!(run_witnessed(host, &permit), host.run(&killer));
    killed?;
    // However it ended for its caller: what the ledger has counts.
    let _said = cut?;
    until("no open run", VIEW_TIME_MAX, || async move {
        host.run(&["systemctl", "start", UNIT]).await?;
        let said = host.run_any(&["agentctl", "verify-ledger", "--json"]).await?;
        let report: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        Ok((report["open_intents"] == 0).then_some(()))
    })
    .await?;
    let before = look(host, &permit, &path).await?;
    let again = run_witnessed(host, &permit).await?;
    let after = look(host, &permit, &path).await?;
    ensure!(after.begun == 1 && after.outcomes.len() == 1, "not one run with one outcome: {after:?}; {}", again.text);
    if before.begun == 0 {
        ensure!(before.content == OLD, "it wrote before its run was begun");
        ensure!(again.exit == 0 && after.content == NEW, "the permit was not used, and is of no use: {}", again.text);
    } else {
        ensure!(again.exit != 0, "a used permit was good for another run: {}", again.text);
        ensure!(after == before, "a refused run did something: {before:?}, then {after:?}");
        ensure!(before.content == NEW || before.outcomes != ["done"], "said to be done, and is not");
    }
    Ok(before.outcomes)
}

async fn look(host: &Host, permit: &PermitId, path: &str) -> anyhow::Result<Seen> {
    let content = std::fs::read_to_string(host.file(path)?).with_context(|| path.to_owned())?;
    ensure!([OLD, NEW].contains(&content.as_str()), "it is neither old nor new: {content:?}");
    let ledger = AgentdClient::new(host.client("agentd")?);
    let rows = async |kind: &str| {
        let query = EventQuery { kind: Some(kind.to_owned()), ..EventQuery::default() };
        let rows = ledger.events(&query).await?.into_iter();
        let read = rows.map(|row| Ok((row.id, serde_json::from_str::<Value>(&row.payload).context("a payload")?)));
        read.collect::<anyhow::Result<Vec<_>>>()
    };
    let intents = rows("exec.run.intent").await?.into_iter();
    let begun: Vec<i64> = intents.filter(|(_, row)| row["permit"] == permit.to_string()).map(|(id, _)| id).collect();
    let ended = rows("exec.run.outcome").await?.into_iter().map(|(_, row)| row);
    let of_it = ended.filter(|row| row["intent"].as_i64().is_some_and(|intent| begun.contains(&intent)));
    let outcomes = of_it.map(|row| row["outcome"].as_str().unwrap_or_default().to_owned()).collect();
    Ok(Seen { content, begun: begun.len(), outcomes })
}
