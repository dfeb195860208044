//! Asking the daemons of this node, as its administrator.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use osmoda_kit::http::{Credentials, UnixClient};
use osmoda_kit::paths::Paths;
use osmoda_mesh_protocol::INVITE_TEXT_BYTES_MAX;
use osmoda_node_api::registry::DAEMONS;
use osmoda_types::{ErrorCode, Member};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::{InviteArgs, StatusArgs};
use crate::failure::Failure;

/// How long an invite may take: it is written to the log first, and an election
/// may be under way (5 s on a WAN).
const INVITE_TIME: Duration = Duration::from_secs(15);

/// How long a daemon may take to say how it is; a person waits.
const STATUS_TIME: Duration = Duration::from_secs(3);

/// `POST /fleet/invite`.
#[derive(Debug, Serialize)]
struct MintInvite {
    role: osmoda_types::Role,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
}

/// Its answer.
#[derive(Deserialize)]
struct Minted {
    invite: String,
    id: String,
    expires_ms: i64,
}

fn client(paths: &Paths, daemon: &str, limit: Duration) -> UnixClient {
    UnixClient::new(paths.socket(daemon), Credentials::none()).with_time_limit(limit)
}

/// Makes an invite and prints it.
pub(crate) async fn invite(args: &InviteArgs) -> Result<(), Failure> {
    let ttl_ms = args.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    let request = MintInvite { role: args.role, ttl_ms };
    let fleetd = client(&Paths::new(&args.root), "fleetd", INVITE_TIME);
    let minted: Minted =
        fleetd.post("/fleet/invite", &request).await.map_err(|error| Failure::daemon("no invite was made", &error))?;
    if args.json {
        let Minted { invite, id, expires_ms } = minted;
        return print(&serde_json::json!({ "invite": invite, "id": id, "expires_ms": expires_ms }).to_string());
    }
    print(&minted.invite)
}

/// The invite as given, or read from standard input.
pub(crate) fn invite_text(argument: &str) -> Result<String, Failure> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let limit = u64::try_from(INVITE_TEXT_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(2);
    let mut text = String::new();
    std::io::stdin().lock().take(limit).read_to_string(&mut text).map_err(|error| {
        let why = format!("standard input holds no invite: {error}");
        Failure::new("this host did not become a node", ErrorCode::InviteMalformed, why)
    })?;
    Ok(text.trim().to_owned())
}

/// Says what this host became.
pub(crate) fn enrolled(member: &Member) -> Result<(), Failure> {
    print(&format!("{} {} {}", member.node, member.role, member.name))
}

/// Shows how every daemon is.
pub(crate) async fn status(args: &StatusArgs) -> Result<(), Failure> {
    let paths = Paths::new(&args.root);
    let mut answers = serde_json::Map::new();
    let mut unwell = Vec::new();
    for daemon in DAEMONS {
        let answer = match client(&paths, daemon.name, STATUS_TIME).get::<Value>("/health").await {
            Ok(answer) => answer,
            Err(error) => serde_json::json!({ "status": error.code, "error": error.message }),
        };
        if answer.get("status").and_then(Value::as_str) != Some("ok") {
            unwell.push(daemon.name);
        }
        answers.insert(daemon.name.to_owned(), answer);
    }
    match args.json {
        true => print(&Value::Object(answers).to_string())?,
        false => print(&table(&answers))?,
    }
    if unwell.is_empty() {
        return Ok(());
    }
    let why = format!("not well: {}", unwell.join(", "));
    Err(Failure::new("this node does not work as it should", ErrorCode::DaemonUnavailable, why))
}

fn table(answers: &serde_json::Map<String, Value>) -> String {
    let line = |daemon: &&str| {
        let answer = answers.get(*daemon).unwrap_or(&Value::Null);
        let text = |field: &str| answer.get(field).and_then(Value::as_str).unwrap_or("-").to_owned();
        let more = if text("error") == "-" { text("version") } else { text("error") };
        format!("{daemon:<8} {:<20} {more}", text("status"))
    };
    DAEMONS.iter().map(|daemon| daemon.name).collect::<Vec<_>>().iter().map(line).collect::<Vec<_>>().join("\n")
}

fn print(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(Failure::output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_every_daemon() {
        let mut answers = serde_json::Map::new();
        answers.insert("agentd".into(), serde_json::json!({ "status": "ok", "version": "0.1.0" }));
        answers.insert("watch".into(), serde_json::json!({ "status": "daemon_unavailable", "error": "nobody" }));
        let text = table(&answers);
        assert_eq!(text.lines().count(), DAEMONS.len());
        assert!(text.contains("agentd   ok                   0.1.0"), "{text}");
        assert!(text.contains("watch    daemon_unavailable   nobody"), "{text}");
    }
}
