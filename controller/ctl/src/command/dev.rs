//! `osmoda dev`: a fleet of real programs on this machine.

use std::path::Path;

use osmoda_ctl::dev::fleet::{Fleet, FleetError};
use osmoda_ctl::dev::member::Programs;

use crate::cli::{Dev as Command, Global};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{Output, note};

/// Runs a command about a development fleet.
pub(crate) fn run(global: &Global, command: &Command) -> Result<Exit, CliError> {
    let out = &mut Output::stdout(global.output);
    match command {
        Command::Up { dir, nodes, voters } => up(out, dir, *nodes, *voters),
        Command::Down { dir, keep_files } => down(out, dir, *keep_files),
    }
}

fn up(out: &mut Output, dir: &Path, nodes: u16, voters: Option<u16>) -> Result<Exit, CliError> {
    let what = "cannot start the development fleet";
    let voters = voters.unwrap_or(if nodes < 3 { 1 } else { 3 });
    if ![1, 3, 5, 7].contains(&voters) || voters > nodes {
        return Err(CliError::usage(what, format!("{voters} of {nodes} nodes cannot vote: 1, 3, 5 or 7 of them")));
    }
    let programs = Programs::beside_this().map_err(|error| CliError::failed(what, error.to_string()))?;
    let fleet = Fleet::plan(dir, programs, nodes.into(), voters.into()).map_err(|error| failed(what, &error))?;
    // A closed standard error is no reason to stop in the middle.
    let mut say = |text: &str| drop(note(text));
    fleet.up(&mut say).map_err(|error| {
        let next = format!("look at the logs in {}, then: osmoda dev down --dir {}", dir.display(), dir.display());
        failed(what, &error).next(next)
    })?;
    let value = serde_json::json!({
        "dir": fleet.layout.dir(), "server": fleet.server(), "store": fleet.store.name(),
        "token_file": fleet.layout.admin_token(&fleet.controller.name), "operator_key": fleet.layout.operator_key(),
        "nodes": fleet.nodes.iter().map(|node| &node.name).collect::<Vec<_>>(),
    });
    out.object(&value, |_: &serde_json::Value| fleet.server(), |_| reach(&fleet))?;
    Ok(Exit::Ok)
}

/// How to reach a fleet, as commands.
fn reach(fleet: &Fleet) -> String {
    format!(
        "osmoda context add dev --server {} --token-file {} --operator-key {} --use\nosmoda node ls\nosmoda dev down --dir {}",
        fleet.server(),
        fleet.layout.admin_token(&fleet.controller.name).display(),
        fleet.layout.operator_key().display(),
        fleet.layout.dir().display(),
    )
}

fn down(out: &mut Output, dir: &Path, keep_files: bool) -> Result<Exit, CliError> {
    let what = "cannot stop the development fleet";
    let fleet = Fleet::load(dir).map_err(|error| failed(what, &error))?;
    let killed = fleet.down();
    if !keep_files {
        fleet.remove().map_err(|error| failed(what, &error))?;
    }
    let value = serde_json::json!({ "dir": fleet.layout.dir(), "killed": killed });
    let text = |_: &serde_json::Value| format!("stopped; {killed} processes had to be killed");
    out.object(&value, |_: &serde_json::Value| fleet.layout.dir().display().to_string(), text)?;
    Ok(Exit::Ok)
}

fn failed(what: &str, error: &FleetError) -> CliError {
    let exit = match error {
        FleetError::Exists { .. } => Exit::Conflict,
        FleetError::Absent { .. } => Exit::NotFound,
        FleetError::Late { .. } => Exit::TimedOut,
        _ => Exit::Failed,
    };
    CliError::new(exit, what, osmoda_kit::error::chain(error))
}
