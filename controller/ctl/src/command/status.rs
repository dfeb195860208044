//! `osmoda status`.

use osmoda_controller_api::FleetStatus;

use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{or_dash, printable};
use crate::session::Session;

/// Shows the fleet.
pub(crate) async fn run(session: &mut Session) -> Result<Exit, CliError> {
    let value = session.client.get("cannot read the fleet's status", "/status").await?;
    session.out.object(&value, |status: &FleetStatus| status.network_id.to_string(), text)?;
    Ok(Exit::Ok)
}

fn text(status: &FleetStatus) -> String {
    let name_of = |id| status.voters.iter().find(|voter| voter.node == id).map(|voter| voter.name.as_str());
    let leader = or_dash(status.leader.map(|id| name_of(id).map_or_else(|| id.short(), printable)));
    let voters: Vec<String> = status.voters.iter().map(|voter| printable(&voter.name)).collect();
    let frozen: Vec<String> = status.freezes.iter().map(|freeze| printable(&freeze.scope)).collect();
    let rollouts: Vec<String> = status.active_rollouts.iter().map(ToString::to_string).collect();
    let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
    let view = match status.following {
        true => format!("log index {}", status.applied_index),
        false => format!("NOT following the fleet: everything here is as of log index {}", status.applied_index),
    };
    // No alarm is not "verified": that takes signatures, which are checked by the verifier.
    let ledgers = match status.ledger_alarms.len() {
        0 => "no alarm".to_owned(),
        alarms => format!("ALARM of {alarms}: osmoda ledger verify --all"),
    };
    format!(
        "fleet     {}\nepoch     {}\nleader    {leader}\nvoters    {}\nmembers   {} ({} online)\nrollouts  {}\n\
         frozen    {}\nledgers   {}\nview      {view}\nversion   {}\n",
        status.network_id.short(),
        status.epoch,
        list(voters),
        status.members,
        status.online,
        list(rollouts),
        list(frozen),
        ledgers,
        printable(&status.version),
    )
}
