//! The node program: one unit per daemon, or all under one supervisor.
//!
//! `init` and `join` make a host a node, `daemon NAME` is what a unit starts,
//! `run` keeps all daemons of a node as children of one process, `invite` and
//! `status` ask the local daemons.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong arguments or settings.

mod cli;
mod enrol;
mod failure;
mod host;
mod local;
mod restart;
mod supervise;
mod users;

use std::process::ExitCode;

use clap::Parser as _;
use osmoda_kit::boot::{self, BootArgs};
use osmoda_kit::paths::Paths;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::cli::{Cli, Command, DaemonName};
use crate::failure::Failure;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Init(args) => enrol::init(&args).map_err(Failure::from).and_then(|member| local::enrolled(&member)),
        Command::Join { invite, host } => join(&host, &invite),
        Command::Run { root, log } => return supervise::run(&root, log).unwrap_or_else(|failure| failure.report()),
        Command::Daemon { name, boot } => return daemon(name, &boot).unwrap_or_else(|failure| failure.report()),
        Command::Invite(args) => block_on(local::invite(&args)),
        Command::Status(args) => block_on(local::status(&args)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn join(args: &enrol::HostArgs, invite: &str) -> Result<(), Failure> {
    let invite = local::invite_text(invite)?;
    block_on(async {
        let member = enrol::join(args, &invite).await?;
        local::enrolled(&member)
    })
}

/// Becomes one daemon.
fn daemon(name: DaemonName, args: &BootArgs) -> Result<ExitCode, Failure> {
    if args.token_fd.is_some() {
        // A supervised daemon ends with its supervisor, however that one ends.
        set_parent_process_death_signal(Some(Signal::TERM)).map_err(Failure::supervisor)?;
    }
    if name == DaemonName::Watch {
        host::check_runner(&Paths::new(&args.root), args.config.as_deref())?;
    }
    Ok(match name {
        DaemonName::Agentd => boot::run::<osmoda_agentd::Agentd>(args),
        DaemonName::Execd => boot::run::<osmoda_execd::Execd>(args),
        DaemonName::Mesh => boot::run::<osmoda_meshd::Meshd>(args),
        DaemonName::Watch => boot::run::<osmoda_watch::Watch>(args),
        DaemonName::Fleetd => boot::run::<osmoda_fleetd::Fleetd>(args),
    })
}

fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::runtime)?;
    runtime.block_on(work)
}
