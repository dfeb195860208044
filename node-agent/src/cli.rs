//! The command line of `osmoda-node`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use osmoda_kit::boot::BootArgs;
use osmoda_kit::telemetry::LogFormat;
use osmoda_types::Role;

use crate::enrol::HostArgs;

/// One node of an osModa fleet.
#[derive(Debug, Parser)]
#[command(name = "osmoda-node", version = osmoda_kit::version::VERSION.text)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Begins a fleet with this host as its first voter
    #[command(
        after_help = "Example:\n  osmoda-node init --name web-1 --operator me.key.pub --advertise 10.0.0.1:18800"
    )]
    Init(HostArgs),
    /// Joins a fleet with an invite
    #[command(after_help = "Example:\n  osmoda node invite | ssh web-2 osmoda-node join - --name web-2")]
    Join {
        /// The invite, or `-` to read it from standard input, where no process list shows it
        invite: String,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Runs every daemon of this node under one supervisor
    Run {
        /// Directory that holds everything of this node
        #[arg(long, default_value = "/", value_name = "DIR")]
        root: PathBuf,
        /// Form of the log on stderr
        #[arg(long, value_enum, default_value_t = LogFormat::Text)]
        log: LogFormat,
    },
    /// Becomes one daemon; what a unit starts
    Daemon {
        /// Which one
        name: DaemonName,
        #[command(flatten)]
        boot: BootArgs,
    },
    /// Makes an invite on this voter, as its administrator
    Invite(InviteArgs),
    /// Shows how the daemons of this node are; exit 1 when one is not well
    Status(StatusArgs),
}

/// The daemons by name, in the order of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DaemonName {
    /// The ledger
    Agentd,
    /// The executor
    Execd,
    /// Streams between nodes
    Mesh,
    /// SafeSwitch on this host
    Watch,
    /// Membership, ballots, rollouts
    Fleetd,
}

/// What `invite` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct InviteArgs {
    /// Directory that holds everything of this node
    #[arg(long, default_value = "/", value_name = "DIR")]
    pub(crate) root: PathBuf,
    /// What the joiner becomes: voter, node or controller
    #[arg(long, default_value_t = Role::Node)]
    pub(crate) role: Role,
    /// How long it can be spent, such as 900s, 15m or 2h [default: 1h]
    #[arg(long, value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// Print the answer of the daemon instead of the invite alone
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `status` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Directory that holds everything of this node
    #[arg(long, default_value = "/", value_name = "DIR")]
    pub(crate) root: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Reads a number with `s`, `m` or `h`; without a letter it is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a number with s, m or h, such as 15m".to_owned();
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, "s"),
    };
    let seconds_each = match unit {
        "h" => 3600,
        "m" => 60,
        _ => 1,
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds_each).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent_and_knows_every_daemon() {
        Cli::command().debug_assert();
        let names: Vec<String> = DaemonName::value_variants()
            .iter()
            .filter_map(|name| name.to_possible_value())
            .map(|value| value.get_name().to_owned())
            .collect();
        let registered: Vec<&str> = osmoda_node_api::registry::DAEMONS.iter().map(|daemon| daemon.name).collect();
        assert_eq!(names, registered);
    }

    #[test]
    fn periods_are_read_with_their_unit() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert!(duration("m").is_err() && duration("1d").is_err() && duration("-1s").is_err());
        assert!(duration(&format!("{}h", u64::MAX)).is_err());
    }
}
