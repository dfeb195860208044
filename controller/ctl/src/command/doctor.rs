//! `osmoda doctor`: the way from here to the fleet, step by step.
//!
//! Invariant: a step that could not be looked at is not `ok`.

use osmoda_controller_api::{FleetStatus, LedgerHead, Page, Presence};
use osmoda_types::{NodeId, Role};

use crate::cli::Global;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{Output, Rows, typed};
use crate::session::Session;

/// How a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// As it should be.
    Ok,
    /// It works, but someone should look.
    Warn,
    /// It does not work.
    Fail,
    /// Not looked at, because an earlier step failed.
    Skipped,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Step {
    check: String,
    level: Level,
    finding: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Checks everything; degraded when any step is not `ok`.
pub(crate) async fn run(global: &Global) -> Result<Exit, CliError> {
    let mut steps = Vec::new();
    match Session::open(global) {
        Ok(session) => look(&session, &mut steps).await,
        Err(error) => steps.push(failed("context", &error)),
    }
    const ALL: [&str; 7] = ["context", "controller", "token", "log", "leader", "nodes", "ledgers"];
    for name in ALL {
        if !steps.iter().any(|step| step.check == name) {
            steps.push(step(name, Level::Skipped, "an earlier step failed", None));
        }
    }
    let degraded = steps.iter().any(|step| step.level != Level::Ok);
    Output::stdout(global.output).list::<Step>(&serde_json::json!({ "items": steps }))?;
    Ok(if degraded { Exit::Degraded } else { Exit::Ok })
}

async fn look(session: &Session, steps: &mut Vec<Step>) {
    steps.push(step("context", Level::Ok, session.client.server(), None));
    match session.client.health("cannot ask the controller").await {
        Ok(health) => {
            let version = health["version"].as_str().unwrap_or("unknown version");
            steps.push(step("controller", Level::Ok, version, None));
        }
        Err(error) => return steps.push(failed("controller", &error)),
    }
    let status = match session.status().await {
        Ok(status) => status,
        Err(error) => return steps.push(failed("token", &error)),
    };
    steps.push(step("token", Level::Ok, "accepted", None));
    steps.push(log(&status));
    steps.push(leader(&status));
    steps.push(nodes(session).await);
    steps.push(ledgers(session, &status).await);
}

fn log(status: &FleetStatus) -> Step {
    let finding = format!("applied up to index {}", status.applied_index);
    match status.following {
        true => step("log", Level::Ok, finding, None),
        false => step("log", Level::Fail, format!("{finding}, but no voter answers"), Some("is a voter up?")),
    }
}

fn leader(status: &FleetStatus) -> Step {
    match status.leader {
        Some(leader) => {
            let name = status.voters.iter().find(|voter| voter.node == leader);
            step("leader", Level::Ok, name.map_or_else(|| leader.short(), |voter| voter.name.clone()), None)
        }
        None => step("leader", Level::Fail, "no voter names one", Some("are most voters up? nothing can be decided")),
    }
}

async fn nodes(session: &Session) -> Step {
    let nodes = match session.nodes().await {
        Ok(nodes) => nodes,
        Err(error) => return failed("nodes", &error),
    };
    let hosts: Vec<_> = nodes.iter().filter(|node| node.role != Role::Controller).collect();
    let away: Vec<&str> =
        hosts.iter().filter(|node| node.presence != Presence::Online).map(|node| node.name.as_str()).collect();
    match away.is_empty() {
        true => step("nodes", Level::Ok, format!("{} online", hosts.len()), None),
        false => {
            let finding = format!("{} of {} not online: {}", away.len(), hosts.len(), away.join(", "));
            step("nodes", Level::Warn, finding, Some("osmoda node ls"))
        }
    }
}

async fn ledgers(session: &Session, status: &FleetStatus) -> Step {
    let heads = session.client.list("cannot list ledger heads", "/ledger/heads").await;
    let heads: Page<LedgerHead> = match heads.and_then(typed) {
        Ok(heads) => heads,
        Err(error) => return failed("ledgers", &error),
    };
    let broken: Vec<&str> = heads.items.iter().filter(|head| head.broken).map(|head| head.name.as_str()).collect();
    if !broken.is_empty() {
        let finding = format!("rewritten: {}", broken.join(", "));
        return step("ledgers", Level::Fail, finding, Some("on that host: agentctl verify-ledger"));
    }
    if !status.ledger_alarms.is_empty() {
        let alarmed: Vec<String> = status.ledger_alarms.iter().map(NodeId::short).collect();
        let finding = format!("alarm: {}", alarmed.join(", "));
        return step("ledgers", Level::Fail, finding, Some("osmoda ledger verify --all"));
    }
    step("ledgers", Level::Ok, format!("{} seen, none rewritten", heads.items.len()), None)
}

fn step(check: &str, level: Level, finding: impl Into<String>, next: Option<&str>) -> Step {
    Step { check: check.to_owned(), level, finding: finding.into(), next: next.map(str::to_owned) }
}

fn failed(check: &str, error: &CliError) -> Step {
    let finding = format!("{}: {}", error.what, error.why);
    Step { check: check.to_owned(), level: Level::Fail, finding, next: error.next.clone() }
}

impl Rows for Step {
    const HEADS: &'static [&'static str] = &["check", "state", "finding", "next"];

    fn cells(&self) -> Vec<String> {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
            Level::Skipped => "skipped",
        };
        vec![self.check.clone(), level.to_owned(), self.finding.clone(), self.next.clone().unwrap_or_default()]
    }

    fn name(&self) -> String {
        self.check.clone()
    }
}
