//! Following a rollout by its event stream.

use osmoda_controller_api::{Event, EventBody};
use osmoda_types::{RolloutId, RolloutState};
use tokio::time::Instant;

use crate::client::Flow;
use crate::error::CliError;
use crate::output::{Format, Output, printable};
use crate::progress::Progress;
use crate::session::Session;

/// Prints what happens until the rollout is over; returns how it ended.
pub(crate) async fn follow(
    session: &mut Session,
    id: RolloutId,
    deadline: Option<Instant>,
) -> Result<Option<RolloutState>, CliError> {
    let what = "cannot follow the rollout";
    let rollout: osmoda_controller_api::Rollout =
        crate::output::typed(session.client.get(what, &format!("/rollouts/{id}")).await?)?;
    let progress = Progress::new(rollout.summary.counts.total);
    let out = &mut session.out;
    let mut ended = None;
    let path = format!("/rollouts/{id}/events");
    let take = |message: crate::sse::Message| {
        if message.event != "event" {
            return Ok(Flow::More);
        }
        let value: serde_json::Value = serde_json::from_str(&message.data)
            .map_err(|error| CliError::failed(what, format!("an event is no JSON: {error}")))?;
        let event: Event = crate::output::typed(value.clone())?;
        progress.event(&event);
        progress.suspend(|| print(out, &value, &event))?;
        if let EventBody::RolloutState { to, .. } = event.body
            && to.is_terminal()
        {
            ended = Some(to);
            return Ok(Flow::Enough);
        }
        Ok(Flow::More)
    };
    session.client.follow(what, &path, deadline, take).await?;
    Ok(ended)
}

fn print(out: &mut Output, value: &serde_json::Value, event: &Event) -> Result<(), CliError> {
    match out.format() {
        Format::Json | Format::Jsonl => out.json_line(value)?,
        Format::Name => {}
        Format::Table => out.line(&text(event))?,
    }
    out.flush()
}

/// One event as one line.
pub(crate) fn text(event: &Event) -> String {
    let what = match &event.body {
        EventBody::RolloutState { to, wave, .. } => {
            let wave = wave.map(|wave| format!(" {}", wave + 1)).unwrap_or_default();
            format!("rollout  {to}{wave}")
        }
        EventBody::NodeState { name, from, to, .. } => format!("node     {} {from} -> {to}", printable(name)),
        EventBody::Ballot { name, yes, .. } => {
            format!("vote     {} {}", printable(name), if *yes { "yes" } else { "no" })
        }
        EventBody::Member { name, role, .. } => format!("member   {} is {}", printable(name), printable(role)),
        EventBody::Freeze { scope, frozen } => {
            format!("freeze   {} {}", printable(scope), if *frozen { "frozen" } else { "thawed" })
        }
        EventBody::Fleet { what, subject } => format!("fleet    {} {}", printable(what), printable(subject)),
    };
    let why = format!("({}, {})", printable(&event.reason), printable(&event.by));
    format!("{} {:>6} {what} {why}", printable(&event.at), event.index)
}
