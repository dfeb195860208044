//! The last step: ledgers verified offline, and journals joined to the log.
//!
//! Invariant: a node counts as verified only when its chain holds and every
//! attempt of its journal has a row before it and a row after it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use osmoda_controller_api::EventBody;
use osmoda_ctl::dev::proc;
use osmoda_journal::Kind;
use osmoda_node_api::agentd::Event as LedgerRow;
use osmoda_types::{AttemptId, NodeId, NodeState, RolloutId};
use serde_json::Value;

use super::Outcome;
use super::steps::{Demo, LOOK_EVERY, Peer};

/// How long the last rows may take to arrive: they are spooled behind the
/// journal and sent from there.
const ROWS_TIME: Duration = Duration::from_secs(10);

/// Verifies all ledgers, then counts grants.
pub(super) fn verify(demo: &Demo<'_>, outcome: &mut Outcome) -> anyhow::Result<Vec<String>> {
    let mut rows = 0;
    let mut attempts = 0;
    for peer in &demo.peers {
        let (its_rows, its_attempts) =
            verify_node(demo, peer).with_context(|| format!("the ledger of {}", peer.member.name))?;
        rows += its_rows;
        attempts += its_attempts;
        outcome.ledgers_verified += 1;
    }
    let (granted, double) = count_grants(demo)?;
    outcome.double_grants = double;
    ensure!(double == 0, "{double} grants are double, or in a journal and not in the log");
    Ok(vec![
        format!("{} ledgers verified, {rows} rows", outcome.ledgers_verified),
        format!("{attempts} attempts, each with its rows of intent and outcome"),
        format!("{granted} grants in the log, each in one journal and given once"),
    ])
}

fn verify_node(demo: &Demo<'_>, peer: &Peer) -> anyhow::Result<(usize, usize)> {
    let began = Instant::now();
    loop {
        match look(demo, peer) {
            Ok(found) => return Ok(found),
            Err(why) if began.elapsed() > ROWS_TIME => return Err(why),
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

fn look(demo: &Demo<'_>, peer: &Peer) -> anyhow::Result<(usize, usize)> {
    let agentctl = demo.fleet.programs.path("agentctl");
    let root = peer.facts.root().display().to_string();
    proc::output(&agentctl, &["--root", &root, "verify-ledger", "--json"]).context("agentctl verify-ledger")?;
    let export = proc::output(&agentctl, &["--root", &root, "export"]).context("agentctl export")?;
    let rows: Vec<LedgerRow> =
        export.lines().map(|line| serde_json::from_str(line).context("a row")).collect::<Result<_, _>>()?;
    let mut told: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.kind.starts_with("watch.")) {
        let payload: Value = serde_json::from_str(&row.payload).context("a payload")?;
        if let Some(attempt) = payload.get("attempt").and_then(Value::as_u64) {
            told.entry(attempt).or_default().insert(&row.kind);
        }
    }
    let attempts: BTreeSet<AttemptId> = peer.facts.journal()?.iter().map(|record| record.attempt).collect();
    let attempts: BTreeSet<AttemptId> = attempts.into_iter().filter(|attempt| attempt.0 > 0).collect();
    for attempt in &attempts {
        let kinds = told.get(&attempt.0).with_context(|| format!("attempt {attempt} has no row"))?;
        // An attempt that ended before anything changed had nothing to intend.
        let deferred = peer.facts.kinds(*attempt)?.last() == Some(&Kind::Deferred);
        let wanted: &[&str] = match deferred {
            true => &["watch.attempt.deferred"],
            false => &["watch.attempt.intent", "watch.attempt.outcome"],
        };
        if let Some(missing) = wanted.iter().find(|kind| !kinds.contains(*kind)) {
            bail!("attempt {attempt} has no row {missing}");
        }
    }
    Ok((rows.len(), attempts.len()))
}

/// Grants by rollout and node: in the log, as the controller replayed it, and
/// in the journals. Returns how many the log has, and how many are too many.
fn count_grants(demo: &Demo<'_>) -> anyhow::Result<(usize, u64)> {
    let mut in_log: BTreeMap<(RolloutId, NodeId), BTreeSet<String>> = BTreeMap::new();
    for past in &demo.past {
        for event in demo.operator.events(past.id).with_context(|| format!("the events of {}", past.name))? {
            if let EventBody::NodeState { node, to: NodeState::Granted, attempt, .. } = event.body {
                let attempt = attempt.with_context(|| format!("a grant of {} has no attempt", past.name))?;
                in_log.entry((past.id, node)).or_default().insert(attempt);
            }
        }
    }
    let mut double: u64 = in_log.values().map(|attempts| attempts.len() as u64 - 1).sum();
    for past in &demo.past {
        for peer in &demo.peers {
            let known = in_log.get(&(past.id, peer.id));
            let attempts = peer.facts.attempts(past.id)?;
            double += attempts.len().saturating_sub(1) as u64;
            let foreign = |attempt: &&AttemptId| known.is_none_or(|known| !known.contains(&attempt.to_string()));
            double += attempts.iter().filter(foreign).count() as u64;
        }
    }
    Ok((in_log.values().map(BTreeSet::len).sum(), double))
}
