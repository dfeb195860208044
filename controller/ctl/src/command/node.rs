//! `osmoda node`.

use std::path::Path;

use osmoda_controller_api::{
    ControlOrder, InviteRow, InviteState, LedgerTrouble, MintInvite, MintedInvite, Node, Presence, RevokedNode,
};
use osmoda_types::command::Order;

use crate::cli::Node as Command;
use crate::client::part;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{Format, Rows, note, or_dash, printable};
use crate::session::Session;

/// Runs a command about nodes.
pub(crate) async fn run(session: &mut Session, command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Ls(watch) => super::list::<Node>(session, "cannot list nodes", "/nodes", watch.watch).await,
        Command::Show { node } => show(session, &node).await,
        Command::Invites => super::list::<InviteRow>(session, "cannot list invites", "/invites", false).await,
        Command::Revoke { node, key, yes } => revoke(session, &node, key.key.as_deref(), yes).await,
        Command::Invite { role, ttl } => {
            let order = MintInvite { role, ttl_seconds: ttl };
            let value = session.client.post("cannot make an invite", "/invites", &order).await?;
            session.out.object(
                &value,
                |minted: &MintedInvite| minted.id.to_string(),
                |minted| minted.invite.clone(),
            )?;
            if session.out.format() == Format::Table {
                note("on the new node: osmoda-node join INVITE (whoever uses it first joins; keep it secret)")?;
            }
            Ok(Exit::Ok)
        }
    }
}

async fn show(session: &mut Session, node: &str) -> Result<Exit, CliError> {
    let id = session.node(node).await?.id;
    let value = session.client.get("cannot show the node", &format!("/nodes/{}", part(&id.to_string()))).await?;
    session.out.object(&value, Rows::name, text)?;
    Ok(Exit::Ok)
}

/// Signs the order here; the controller only carries it.
pub(crate) async fn revoke(session: &mut Session, node: &str, key: Option<&Path>, yes: bool) -> Result<Exit, CliError> {
    let Node { id, name, .. } = session.node(node).await?;
    let key = session.key(key)?;
    if !yes && !super::confirmed(&format!("remove {} ({}) from the fleet for good?", printable(&name), id.short()))? {
        return Err(CliError::failed("nothing was done", "it was not confirmed"));
    }
    let signed = session.sign(&key, &Order::Revoke { node: id }).await?;
    let body = ControlOrder { serial: signed.serial, operator_key: signed.operator_key, signature: signed.signature };
    let path = format!("/nodes/{}/revoke", part(&id.to_string()));
    let value = session.client.post("cannot revoke the node", &path, &body).await?;
    session.out.object(
        &value,
        |revoked: &RevokedNode| revoked.name.clone(),
        |revoked| format!("{} is revoked ({})\n", printable(&revoked.name), revoked.id),
    )?;
    Ok(Exit::Ok)
}

/// The word for what is wrong with a ledger. None is no proof of the contrary:
/// that is the verifier's.
const fn trouble(trouble: LedgerTrouble) -> &'static str {
    match trouble {
        LedgerTrouble::Accused => "ACCUSED",
        LedgerTrouble::Changed => "CHANGED",
        LedgerTrouble::Sealed => "SEALED",
        LedgerTrouble::Faulty => "FAULTY",
        LedgerTrouble::Caught => "CAUGHT",
    }
}

/// The word for a presence.
pub(crate) const fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Online => "online",
        Presence::Stale => "stale",
        Presence::Offline => "offline",
        Presence::Unknown => "unknown",
    }
}

impl Rows for Node {
    const HEADS: &'static [&'static str] =
        &["name", "id", "role", "presence", "last seen", "generation", "rollout", "ledger"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.id.short(),
            self.role.to_string(),
            presence(self.presence).to_owned(),
            or_dash(self.last_seen_at.as_deref()),
            or_dash(self.generation.as_ref().map(|generation| generation.current.name())),
            or_dash(self.attempt.as_ref().map(|attempt| attempt.state)),
            or_dash(self.ledger_trouble.map(trouble)),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

fn text(node: &Node) -> String {
    let attempt = node.attempt.as_ref();
    let attempt = attempt.map(|attempt| format!("{} in rollout {}", attempt.state, attempt.rollout));
    let ledger = node.ledger.as_ref();
    let wrong = node.ledger_trouble.map(|wrong| format!(", {}", trouble(wrong))).unwrap_or_default();
    let ledger = ledger.map(|head| format!("{} rows{wrong}", head.size));
    format!(
        "name        {}\nid          {}\nrole        {}\nraft id     {}\naddresses   {}\npresence    {}\n\
         last seen   {}\ngeneration  {}\nwanted      {}\nattempt     {}\nledger      {}\nversion     {}\n",
        printable(&node.name),
        node.id,
        node.role,
        or_dash(node.raft_id.as_deref().map(printable)),
        printable(&node.addresses.join(", ")),
        presence(node.presence),
        or_dash(node.last_seen_at.as_deref().map(printable)),
        or_dash(node.generation.as_ref().map(|generation| &generation.current)),
        or_dash(node.desired.as_ref()),
        or_dash(attempt),
        or_dash(ledger),
        or_dash(node.version.as_deref().map(printable)),
    )
}

impl Rows for InviteRow {
    const HEADS: &'static [&'static str] = &["id", "role", "state", "expires", "joiner"];

    fn cells(&self) -> Vec<String> {
        let state = match self.state {
            InviteState::Open => "open",
            InviteState::Spent => "spent",
            InviteState::Expired => "expired",
        };
        vec![
            self.id.to_string(),
            self.role.to_string(),
            state.to_owned(),
            self.expires_at.clone(),
            or_dash(self.joiner.map(|node| node.short())),
        ]
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}
