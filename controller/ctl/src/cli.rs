//! The command line: every command, flag and example.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use osmoda_types::Role;

use crate::output::Format;

const EXAMPLES: &str = "\
Examples:
  osmoda context add lab --server http://127.0.0.1:8700 --token-file ./admin.token --use
  osmoda operator keygen ./me.key --name me
  osmoda node ls
  osmoda manifest build release.toml --out release.json
  osmoda rollout start release.json --key ./me.key --wait

Exit codes:
  0 ok  1 failed  2 usage  3 not found  4 denied or not authenticated
  5 conflict, or rejected by the quorum  6 timed out  7 payment required
  8 degraded  130 interrupted";

/// Operates an osModa fleet through its controller.
#[derive(Debug, Parser)]
#[command(name = "osmoda", version = osmoda_kit::version::VERSION.text, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Use this context instead of the current one (env OSMODA_CONTEXT)
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Use this controller, whatever the context says (env OSMODA_SERVER)
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Read the token from this file (env OSMODA_TOKEN_FILE, or the token itself in OSMODA_TOKEN)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// How to print results
    #[arg(short, long, global = true, value_enum, default_value = "table", value_name = "FORMAT")]
    pub(crate) output: Format,
    /// Say more about errors
    #[arg(long, global = true)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows the fleet: epoch, leader, voters, what runs
    #[command(after_help = "Examples:\n  osmoda status\n  osmoda status -o json")]
    Status,
    /// Shows nodes and invites new ones
    #[command(subcommand)]
    Node(Node),
    /// Starts, watches and stops rollouts
    #[command(subcommand)]
    Rollout(Rollout),
    /// Shows how the voters voted
    #[command(subcommand)]
    Vote(Vote),
    /// Verifies the nodes' ledgers and shows their heads
    #[command(subcommand)]
    Ledger(Ledger),
    /// Makes and checks release manifests
    #[command(subcommand)]
    Manifest(Manifest),
    /// Makes operator keys and shows who may sign
    #[command(subcommand)]
    Operator(Operator),
    /// Forbids and allows rollouts on a scope
    #[command(subcommand)]
    Freeze(Freeze),
    /// Shows and clears the deny-list
    #[command(subcommand)]
    Target(Target),
    /// Talks in rooms of the node on this machine
    Room(crate::command::room::Room),
    /// Shows, signs and denies what waits for a person
    Approval(crate::command::approval::Approval),
    /// Looks at the mesh of the node on this machine
    Mesh(crate::command::mesh::Mesh),
    /// Chooses which controller is meant
    #[command(subcommand)]
    Context(Context),
    /// Runs a whole fleet on this machine, for development
    #[command(subcommand)]
    Dev(Dev),
    /// Checks the way from here to the fleet; exit 8 when something is not as it should be
    #[command(after_help = "Examples:\n  osmoda doctor\n  osmoda doctor -o json")]
    Doctor,
    /// Shows which build this is
    #[command(after_help = "Examples:\n  osmoda version")]
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Lists the nodes
    #[command(after_help = "Examples:\n  osmoda node ls\n  osmoda node ls --watch\n  osmoda node ls -o name")]
    Ls(Watch),
    /// Shows one node
    #[command(after_help = "Examples:\n  osmoda node show web-1\n  osmoda node show 3fa9c2 -o json")]
    Show {
        /// Its name, or the beginning of its id
        node: String,
    },
    /// Makes an invite for one new node
    #[command(after_help = "Examples:\n  osmoda node invite\n  osmoda node invite --role voter --ttl 900")]
    Invite {
        /// What the joiner becomes: voter, node or controller
        #[arg(long, default_value_t = Role::Node)]
        role: Role,
        /// How long it can be used, in seconds
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
    },
    /// Lists the invites and what became of them
    #[command(after_help = "Examples:\n  osmoda node invites")]
    Invites,
    /// Removes a member for good: closes its links everywhere, never admits its keys again
    #[command(after_help = "Examples:\n  osmoda node revoke web-3 --key me.key\n  osmoda node revoke web-3 --yes")]
    Revoke {
        /// Its name, or the beginning of its id
        node: String,
        #[command(flatten)]
        key: Key,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Watching a list.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Print again whenever something changes
    #[arg(long)]
    pub(crate) watch: bool,
}

/// The operator's key.
#[derive(Debug, Args)]
pub(crate) struct Key {
    /// The operator's key file; absent: the context's
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
}

/// Waiting for the end.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Wait until the rollout is over; the exit code says how it ended
    #[arg(long)]
    pub(crate) wait: bool,
    /// Give up waiting after so many seconds (the rollout goes on)
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(crate) timeout: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Rollout {
    /// Lists the rollouts, newest first
    #[command(after_help = "Examples:\n  osmoda rollout ls\n  osmoda rollout ls --watch")]
    Ls(Watch),
    /// Signs and proposes a rollout
    #[command(after_help = "Examples:\n  osmoda rollout start release.json --key me.key --wait\n  \
        osmoda rollout start release.json --dry-run")]
    Start {
        /// The manifest
        manifest: PathBuf,
        #[command(flatten)]
        key: Key,
        /// Name the rollout (UUID); repeat a start whose outcome is unknown with the same id
        #[arg(long, value_name = "UUID")]
        id: Option<osmoda_types::RolloutId>,
        /// The fleet epoch it is made against; absent: the present one
        #[arg(long, value_name = "N")]
        parent_epoch: Option<u64>,
        /// Show what would be proposed, and do nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Shows one rollout
    #[command(after_help = "Examples:\n  osmoda rollout status latest\n  osmoda rollout status latest --watch")]
    Status {
        /// Its id, or `latest`
        rollout: String,
        #[command(flatten)]
        watch: Watch,
    },
    /// Tells what happens in a rollout until it is over
    #[command(after_help = "Examples:\n  osmoda rollout watch latest\n  osmoda rollout watch latest -o jsonl")]
    Watch {
        /// Its id, or `latest`
        rollout: String,
        /// Give up after so many seconds (the rollout goes on)
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Stops granting until it is resumed
    #[command(after_help = "Examples:\n  osmoda rollout pause latest --key me.key")]
    Pause(Order),
    /// Goes on after a pause
    #[command(after_help = "Examples:\n  osmoda rollout resume latest --key me.key")]
    Resume(Order),
    /// Ends a rollout; every node that moved returns to its baseline
    #[command(after_help = "Examples:\n  osmoda rollout abort latest --key me.key --yes --wait")]
    Abort {
        #[command(flatten)]
        order: Order,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Takes a node out of a rollout
    #[command(after_help = "Examples:\n  osmoda rollout exclude latest web-3 --key me.key")]
    Exclude {
        #[command(flatten)]
        order: Order,
        /// The node's name, or the beginning of its id
        node: String,
    },
}

/// A signed order to one rollout.
#[derive(Debug, Args)]
pub(crate) struct Order {
    /// Its id, or `latest`
    pub(crate) rollout: String,
    #[command(flatten)]
    pub(crate) key: Key,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Vote {
    /// Lists the ballot of a rollout
    #[command(after_help = "Examples:\n  osmoda vote ls latest")]
    Ls {
        /// Its id, or `latest`
        rollout: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ledger {
    /// Lists the heads the controller has seen
    #[command(after_help = "Examples:\n  osmoda ledger heads")]
    Heads,
    /// Verifies the ledgers of the fleet from signed notes, without believing the controller
    #[command(after_help = "Examples:\n  osmoda ledger verify --all\n  osmoda ledger verify web-1\n  \
        osmoda ledger verify --all --keys ledger-keys.txt -o json\n\nEvery signature is checked here. The worst \
        ledger decides the exit code:\n0 verified, 1 a signature is broken, 2 rows are not covered by enough \
        witnesses or one\nwitness accuses it without proof, 3 a ledger was rolled back or forked (both \
        signed notes\nare printed), 6 nothing recent is known.\nThe rows themselves are verified on the host: agentctl verify-ledger.")]
    #[command(group = clap::ArgGroup::new("which").args(["node", "all"]).required(true))]
    Verify {
        /// A node's name or id
        node: Option<String>,
        /// Every node of the fleet
        #[arg(long)]
        all: bool,
        /// Trust these keys instead of the controller's: a line per node, its name or id and the key in hex
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
        /// Wait this many seconds at most for the newest rows to be covered
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        wait: u64,
    },
    /// Cosigns the ledger of a fleet of one, after checking it against what was cosigned before
    #[command(after_help = "Examples:\n  osmoda ledger cosign --root / --key me.key\n  \
        osmoda ledger cosign --root / --key me.key --follow\n\nWhat was cosigned last is kept in this \
        command's own folder (witness/ beside config.toml).\nA ledger that contradicts it is not cosigned: both \
        signed notes are printed, exit code 3.\nCalls that need a witness are done while somebody follows.")]
    Cosign(crate::command::cosign::CosignArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Manifest {
    /// Makes a manifest from a short description (TOML or JSON)
    #[command(after_help = crate::command::manifest::BUILD_HELP)]
    Build {
        /// The description
        spec: PathBuf,
        /// Write the manifest here instead of to standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Checks a manifest and prints its hash
    #[command(after_help = "Examples:\n  osmoda manifest check release.json")]
    Check {
        /// The manifest
        manifest: PathBuf,
    },
    /// Prints the exact bytes of a manifest the controller keeps
    #[command(after_help = "Examples:\n  osmoda manifest get 3fa9…")]
    Get {
        /// Its hash
        hash: osmoda_types::ManifestHash,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Operator {
    /// Makes a key: FILE (0600) and FILE.pub
    #[command(after_help = "Examples:\n  osmoda operator keygen ./me.key --name me\n\nThe printed line is what \
        `osmoda-node init --operator` and `osmoda operator add` take.")]
    Keygen {
        /// Where to write it
        file: PathBuf,
        /// What the fleet calls its owner
        #[arg(long)]
        name: String,
    },
    /// Lists who may sign
    #[command(after_help = "Examples:\n  osmoda operator ls")]
    Ls,
    /// Adds a principal, or replaces the rights of one
    #[command(after_help = "Examples:\n  osmoda operator add ci.key.pub --right deploy --key me.key")]
    Add {
        /// The public key file made by keygen
        public_key: PathBuf,
        /// What it may sign: deploy, control, admin, approve
        #[arg(long = "right", required = true, value_name = "RIGHT", value_parser = crate::command::operator::right)]
        rights: Vec<osmoda_types::Right>,
        #[command(flatten)]
        key: Key,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Freeze {
    /// Lists frozen scopes
    #[command(after_help = "Examples:\n  osmoda freeze ls")]
    Ls,
    /// Forbids rollouts on a scope
    #[command(after_help = "Examples:\n  osmoda freeze set web --key me.key\n  osmoda freeze set '*' --key me.key")]
    Set(ScopeOrder),
    /// Allows them again
    #[command(after_help = "Examples:\n  osmoda freeze lift web --key me.key")]
    Lift(ScopeOrder),
}

/// A signed order about a scope.
#[derive(Debug, Args)]
pub(crate) struct ScopeOrder {
    /// The scope; `*` is every scope
    pub(crate) scope: String,
    #[command(flatten)]
    pub(crate) key: Key,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Target {
    /// Lists targets that failed and may not be proposed again
    #[command(after_help = "Examples:\n  osmoda target denied")]
    Denied,
    /// Takes a target off the deny-list
    #[command(after_help = "Examples:\n  osmoda target allow /nix/store/…-nixos-system-web-1 --key me.key")]
    Allow {
        /// The target
        target: osmoda_types::StorePath,
        #[command(flatten)]
        key: Key,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dev {
    /// Starts one controller and some nodes as processes of this machine
    #[command(after_help = "Examples:\n  osmoda dev up\n  osmoda dev up --dir /tmp/lab --nodes 3")]
    Up {
        /// The folder of the fleet; keep it short, sockets are below it
        #[arg(long, default_value = "/tmp/osm-dev", value_name = "DIR")]
        dir: PathBuf,
        /// How many nodes
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=32))]
        nodes: u16,
        /// How many of them vote: 1, 3, 5 or 7 [default: 3, or 1 of fewer nodes]
        #[arg(long)]
        voters: Option<u16>,
    },
    /// Stops a fleet that `up` started and removes its folder
    #[command(after_help = "Examples:\n  osmoda dev down\n  osmoda dev down --dir /tmp/lab --keep-files")]
    Down {
        /// The folder of the fleet
        #[arg(long, default_value = "/tmp/osm-dev", value_name = "DIR")]
        dir: PathBuf,
        /// Leave the folder, with its logs, as it is
        #[arg(long)]
        keep_files: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Context {
    /// Lists the contexts; the current one is marked
    #[command(after_help = "Examples:\n  osmoda context ls")]
    Ls,
    /// Adds or replaces a context
    #[command(after_help = "Examples:\n  osmoda context add lab --server http://127.0.0.1:8700 \
        --token-file ./admin.token --operator-key ./me.key --use")]
    Add {
        /// Its name
        name: String,
        /// The operator key used when --key is absent
        #[arg(long, value_name = "FILE")]
        operator_key: Option<PathBuf>,
        /// Make it the current one
        #[arg(long = "use")]
        current: bool,
    },
    /// Makes a context the current one
    #[command(after_help = "Examples:\n  osmoda context use lab")]
    Use {
        /// Its name
        name: String,
    },
    /// Forgets a context
    #[command(after_help = "Examples:\n  osmoda context rm lab")]
    Rm {
        /// Its name
        name: String,
    },
    /// Shows which controller is meant, and what said so
    #[command(after_help = "Examples:\n  osmoda context show")]
    Show,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn walk(command: &clap::Command, path: &str, visit: &mut dyn FnMut(&str, &clap::Command)) {
        visit(path, command);
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            walk(sub, &format!("{path} {}", sub.get_name()), visit);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_and_json() {
        let mut command = Cli::command();
        command.build();
        walk(&command, "osmoda", &mut |path, command| {
            assert!(command.get_arguments().any(|arg| arg.get_id() == "output"), "{path} has no -o");
            if command.has_subcommands() {
                return;
            }
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:") && help.contains(path), "{path} has no example");
        });
    }

    #[test]
    fn help_is_as_reviewed() {
        let mut command = Cli::command().version("0.0.0");
        command.build();
        let mut all = String::new();
        walk(&command, "osmoda", &mut |path, command| {
            let help = command.clone().render_help().to_string();
            // The flags of every command are shown once.
            let help = match path {
                "osmoda" => help,
                _ => help.lines().filter(|line| !is_global(line)).collect::<Vec<_>>().join("\n"),
            };
            all.push_str(&format!("$ {path} --help\n{}\n\n", help.trim_end()));
        });
        insta::assert_snapshot!("help", all);
    }

    fn is_global(line: &str) -> bool {
        ["--context <", "--server <", "--token-file <", "--output <", "--verbose", "-h, --help"]
            .iter()
            .any(|flag| line.trim_start().starts_with(flag) || line.contains(&format!(" {flag}")))
    }

    #[test]
    fn exit_codes_in_the_help_are_those_of_the_program() {
        for exit in crate::exit::Exit::ALL {
            let text = format!("{} {}", exit.number(), exit.about());
            assert!(EXAMPLES.replace("\n ", "").contains(&text), "{text}");
        }
    }
}
