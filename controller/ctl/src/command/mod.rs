//! The commands, one file per noun.

pub(crate) mod approval;
pub(crate) mod dev;
pub(crate) mod manifest;
pub(crate) mod mesh;
pub(crate) mod operator;
pub(crate) mod room;

mod contexts;
pub(crate) mod cosign;
mod doctor;
mod events;
mod ledger;
mod node;
mod orders;
mod rollout;
mod status;

use std::io::{BufRead as _, IsTerminal as _};
use std::time::Duration;

use serde_json::Value;

use crate::cli::{Cli, Command};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{Output, Rows, note};
use crate::session::Session;

/// How often `--watch` looks again. Rollouts have their event stream; this is
/// for lists, where a second is as fast as a person reads.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Runs the command.
pub(crate) async fn run(cli: Cli) -> Result<Exit, CliError> {
    let global = &cli.global;
    match cli.command {
        Command::Context(command) => contexts::run(global, command),
        Command::Manifest(command) => manifest::run(global, command).await,
        Command::Operator(command) => operator::run(global, command).await,
        Command::Dev(command) => dev::run(global, &command),
        Command::Approval(approval) => approval::run(global, approval).await,
        Command::Mesh(mesh) => mesh::run(global, mesh).await,
        Command::Room(room) => room::run(global, room).await,
        Command::Doctor => doctor::run(global).await,
        Command::Version => version(&mut Output::stdout(global.output)),
        Command::Status => status::run(&mut Session::open(global)?).await,
        Command::Node(command) => node::run(&mut Session::open(global)?, command).await,
        Command::Rollout(command) => rollout::run(global, command).await,
        Command::Vote(command) => rollout::votes(&mut Session::open(global)?, command).await,
        Command::Ledger(command) => ledger::run(global, command).await,
        Command::Freeze(command) => orders::freeze(&mut Session::open(global)?, command).await,
        Command::Target(command) => orders::target(&mut Session::open(global)?, command).await,
    }
}

fn version(out: &mut Output) -> Result<Exit, CliError> {
    let version = osmoda_kit::version::VERSION;
    let value = serde_json::json!({
        "version": version.version, "commit": version.commit, "dirty": version.dirty,
    });
    out.object(&value, |_: &Value| version.version.to_owned(), |_| version.text.to_owned())?;
    Ok(Exit::Ok)
}

/// Prints a list, and with `--watch` again whenever it changes, until Ctrl-C.
pub(crate) async fn list<T: Rows>(
    session: &mut Session,
    what: &str,
    path: &str,
    watch: bool,
) -> Result<Exit, CliError> {
    let mut shown = session.client.list(what, path).await?;
    session.out.list::<T>(&shown)?;
    if !watch {
        return Ok(Exit::Ok);
    }
    loop {
        session.out.flush()?;
        tokio::time::sleep(WATCH_INTERVAL).await;
        let now = session.client.list(what, path).await?;
        if now != shown {
            session.out.redraw()?;
            session.out.list::<T>(&now)?;
            shown = now;
        }
    }
}

/// Asks on a terminal; elsewhere the flag must be given.
pub(crate) fn confirmed(question: &str) -> Result<bool, CliError> {
    if !std::io::stdin().is_terminal() {
        return Err(CliError::usage("this must be confirmed", "standard input is no terminal").next("give --yes"));
    }
    note(&format!("{question} [y/N]"))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
