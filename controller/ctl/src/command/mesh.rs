//! `osmoda mesh`: the mesh of the node on this machine, over its local socket.
//!
//! Only `revoke` goes to the fleet: who belongs to it is an operator's signed
//! order, not a matter of one node.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use osmoda_node_api::mesh::{Identity, PeerInfo};
use osmoda_types::Role;
use serde::Deserialize;
use serde_json::json;

use crate::cli::{Global, Key};
use crate::error::CliError;
use crate::exit::Exit;
use crate::local::Local;
use crate::output::{Format, Output, Rows, note, or_dash, printable};
use crate::session::Session;

/// Looks at the mesh of the node on this machine.
#[derive(Debug, Args)]
pub(crate) struct Mesh {
    /// The node's root directory
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the other members: round trip, loss, MTU, bytes, age of keys, epoch
    #[command(after_help = "Examples:\n  osmoda mesh peers\n  osmoda mesh peers --root /tmp/osm-dev/n1 -o json")]
    Peers,
    /// Shows who this node is
    #[command(after_help = "Examples:\n  osmoda mesh identity")]
    Identity,
    /// Makes an invite for one new node; this node must be a voter
    #[command(after_help = "Examples:\n  osmoda mesh invite\n  osmoda mesh invite --ttl 900")]
    Invite {
        /// How long it can be used, in seconds
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
    },
    /// Gives this node new keys; it stays a member under its id, and peers follow
    #[command(
        after_help = "Examples:\n  osmoda mesh rotate\n\nOpen invites of this node end. May be repeated after a failure."
    )]
    Rotate,
    /// Removes a member from the fleet for good, through the controller
    #[command(after_help = "Examples:\n  osmoda mesh revoke web-3 --key me.key")]
    Revoke {
        /// Its name, or the beginning of its id
        node: String,
        #[command(flatten)]
        key: Key,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Measures the way to another member and back
    #[command(after_help = "Examples:\n  osmoda mesh ping web-2\n  osmoda mesh ping web-2 --count 1")]
    Ping {
        /// Its name or id
        node: String,
        /// How often, at most 100
        #[arg(long, default_value_t = 4)]
        count: u32,
    },
}

/// More pings than this are a load test.
const PINGS_MAX: u32 = 100;

/// Runs the command.
pub(crate) async fn run(global: &Global, mesh: Mesh) -> Result<Exit, CliError> {
    let local = Local::new(&mesh.root);
    let mut out = Output::stdout(global.output);
    match mesh.command {
        Command::Peers => {
            let peers = local.get("cannot list peers", "/peers").await?;
            out.list::<PeerInfo>(&json!({ "items": peers }))?;
        }
        Command::Identity => {
            let identity = local.get("cannot show the identity", "/identity").await?;
            out.object(&identity, |identity: &Identity| identity.node.to_string(), text)?;
        }
        Command::Invite { ttl } => {
            let made = local.post("cannot make an invite", "/invite/create", &json!({ "ttl_secs": ttl })).await?;
            out.object(&made, |made: &Made| made.invite_code.clone(), |made| made.invite_code.clone())?;
            if out.format() == Format::Table {
                note("on the new node: osmoda-node join INVITE (whoever uses it first joins; keep it secret)")?;
            }
        }
        Command::Rotate => {
            let made = local.post("cannot change the keys", "/identity/rotate", &json!({})).await?;
            out.object(&made, |made: &Rotated| made.new_instance_id.clone(), rotated)?;
        }
        Command::Revoke { node, key, yes } => {
            return super::node::revoke(&mut Session::open(global)?, &node, key.key.as_deref(), yes).await;
        }
        Command::Ping { node, count } => {
            let path = format!("/peer/{}/ping", crate::client::part(&node));
            for _ in 0..count.min(PINGS_MAX) {
                let answer = local.post("no answer", &path, &json!({})).await?;
                out.object(&answer, |pong: &Pong| pong.round_trip_us.to_string(), pong)?;
            }
        }
    }
    Ok(Exit::Ok)
}

#[derive(Debug, Deserialize)]
struct Made {
    invite_code: String,
}

#[derive(Debug, Deserialize)]
struct Rotated {
    new_instance_id: String,
    new_pubkeys: NewKeys,
}

#[derive(Debug, Deserialize)]
struct NewKeys {
    ed25519: String,
    noise: String,
}

fn rotated(made: &Rotated) -> String {
    let NewKeys { ed25519, noise } = &made.new_pubkeys;
    format!("node      {}\nidentity  {ed25519}\ntransport {noise}\n", made.new_instance_id)
}

#[derive(Debug, Deserialize)]
struct Pong {
    name: String,
    round_trip_us: u64,
    link_rtt_us: Option<u64>,
}

fn pong(pong: &Pong) -> String {
    let link = pong.link_rtt_us.map_or_else(|| "-".to_owned(), millis);
    format!("{}: {} there and back, {link} on the link\n", printable(&pong.name), millis(pong.round_trip_us))
}

fn millis(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1000, micros % 1000)
}

fn text(identity: &Identity) -> String {
    let role = identity.role.as_ref().map(Role::to_string);
    format!(
        "node      {}\nnetwork   {}\nrole      {}\nepoch     {}\nlisten    {}\nmembers   of log index {}\n",
        identity.node,
        identity.network,
        or_dash(role),
        identity.epoch.0,
        identity.listen,
        identity.members_index,
    )
}

impl Rows for PeerInfo {
    const HEADS: &'static [&'static str] =
        &["name", "id", "role", "link", "rtt", "loss", "mtu", "in", "out", "key age", "epoch"];

    fn cells(&self) -> Vec<String> {
        let link = self.link.as_ref();
        vec![
            self.name.clone(),
            self.id.short(),
            self.role.to_string(),
            if self.connected { "up".to_owned() } else { "down".to_owned() },
            or_dash(self.rtt_us.map(millis)),
            or_dash(link.map(|link| percent(link.loss_ppm()))),
            or_dash(link.map(|link| link.mtu)),
            or_dash(link.map(|link| bytes(link.bytes_in))),
            or_dash(link.map(|link| bytes(link.bytes_out))),
            or_dash(link.map(|link| format!("{} s", link.key_age_ms / 1000))),
            or_dash(self.epoch.map(|epoch| epoch.0)),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

fn percent(ppm: u64) -> String {
    format!("{}.{:02} %", ppm / 10_000, ppm % 10_000 / 100)
}

/// With the largest binary unit that leaves at least one.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut left = count;
    while left >= 1024 && unit + 1 < UNITS.len() {
        left /= 1024;
        unit += 1;
    }
    format!("{left} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_have_their_unit() {
        assert_eq!([bytes(0), bytes(1023), bytes(1024), bytes(5 << 30)], ["0 B", "1023 B", "1 KiB", "5 GiB"]);
        assert_eq!([percent(0), percent(10_000), percent(123_456)], ["0.00 %", "1.00 %", "12.34 %"]);
        assert_eq!(millis(1_234), "1.234 ms");
    }
}
