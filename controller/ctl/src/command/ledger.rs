//! `osmoda ledger`.

use osmoda_controller_api::{LedgerHead, Node, Page};
use osmoda_types::Role;

use crate::cli::Ledger as Command;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{Format, Rows, note, or_dash, typed};
use crate::session::Session;

const HEADS_PATH: &str = "/ledger/heads";

/// Runs a command about ledgers.
pub(crate) async fn run(session: &mut Session, command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Heads => super::list::<LedgerHead>(session, "cannot list ledger heads", HEADS_PATH, false).await,
        Command::Verify => verify(session).await,
    }
}

/// What the heads of one node say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Finding {
    /// It only ever grew.
    Grew,
    /// It was rewritten or lost rows.
    Rewritten,
    /// The controller has never seen a head: unknown is not good.
    Unknown,
}

async fn verify(session: &mut Session) -> Result<Exit, CliError> {
    let what = "cannot verify the ledgers";
    let nodes = session.nodes().await.map_err(|error| error.about(what))?;
    let heads: Page<LedgerHead> = typed(session.client.list(what, HEADS_PATH).await?)?;
    let rows: Vec<(&Node, Option<&LedgerHead>, Finding)> = nodes
        .iter()
        .filter(|node| matches!(node.role, Role::Voter | Role::Node))
        .map(|node| {
            let head = heads.items.iter().find(|head| head.node == node.id);
            let finding = match head {
                None => Finding::Unknown,
                Some(head) if head.broken => Finding::Rewritten,
                Some(_) => Finding::Grew,
            };
            (node, head, finding)
        })
        .collect();
    let degraded = rows.iter().any(|(_, _, finding)| *finding != Finding::Grew);
    print(session, &rows)?;
    if session.out.format() == Format::Table {
        note("compared the heads the controller has seen; verify the rows on a host: agentctl verify-ledger")?;
    }
    Ok(if degraded { Exit::Degraded } else { Exit::Ok })
}

fn print(session: &mut Session, rows: &[(&Node, Option<&LedgerHead>, Finding)]) -> Result<(), CliError> {
    let objects = rows.iter().map(|(node, head, finding)| {
        serde_json::json!({
            "node": node.id, "name": node.name, "finding": finding,
            "size": head.map(|head| head.size), "hash": head.map(|head| &head.hash),
        })
    });
    let word = |finding: &Finding| match finding {
        Finding::Grew => "ok",
        Finding::Rewritten => "REWRITTEN",
        Finding::Unknown => "unknown",
    };
    match session.out.format() {
        Format::Table => {
            let cells = rows.iter().map(|(node, head, finding)| {
                vec![
                    node.name.clone(),
                    word(finding).to_owned(),
                    or_dash(head.map(|head| head.size)),
                    or_dash(head.map(|head| head.seen_at.as_str())),
                ]
            });
            session.out.table(&["node", "ledger", "rows", "seen"], cells)
        }
        Format::Name => rows
            .iter()
            .filter(|(_, _, finding)| *finding != Finding::Grew)
            .try_for_each(|(node, _, _)| session.out.line(&node.name)),
        Format::Json | Format::Jsonl => {
            let page = serde_json::json!({ "items": objects.collect::<Vec<_>>() });
            session.out.object(&page, |_: &serde_json::Value| String::new(), |_| String::new())
        }
    }
}

impl Rows for LedgerHead {
    const HEADS: &'static [&'static str] = &["node", "rows", "hash", "seen", "broken"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.size.to_string(),
            self.hash.chars().take(16).collect(),
            self.seen_at.clone(),
            if self.broken { "YES" } else { "no" }.to_owned(),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}
