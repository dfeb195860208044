//! `osmoda rollout` and `osmoda vote`.

use std::path::Path;
use std::time::Duration;

use osmoda_controller_api::{ControlOrder, ExcludeOrder, Rollout, RolloutSummary, StartRollout, Vote};
use osmoda_types::command::Order;
use osmoda_types::{FleetEpoch, Manifest, RolloutId, statement};
use tokio::time::Instant;

use super::events;
use crate::cli::{Global, Order as OrderArgs, Rollout as Command, Vote as VoteCommand, Wait};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{Format, Rows, note, or_dash, printable, table};
use crate::session::Session;

/// Runs a command about rollouts.
pub(crate) async fn run(global: &Global, command: Command) -> Result<Exit, CliError> {
    let session = &mut Session::open(global)?;
    match command {
        Command::Ls(watch) => {
            super::list::<RolloutSummary>(session, "cannot list rollouts", "/rollouts", watch.watch).await
        }
        Command::Start { manifest, key, id, parent_epoch, dry_run, wait } => {
            let plan = Plan { manifest: &manifest, key: key.key.as_deref(), id, parent_epoch, dry_run };
            start(session, plan, &wait).await
        }
        Command::Status { rollout, watch } => show(session, &rollout, watch.watch).await,
        Command::Watch { rollout, timeout } => {
            let id = session.rollout_id(&rollout).await?;
            let deadline = timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
            events::follow(session, id, deadline).await.map(|ended| ended.map_or(Exit::Ok, Exit::of_ended))
        }
        Command::Pause(order) => control(session, &order, Verb::Pause).await.map(|_| Exit::Ok),
        Command::Resume(order) => control(session, &order, Verb::Resume).await.map(|_| Exit::Ok),
        Command::Abort { order, yes, wait } => abort(session, &order, yes, &wait).await,
        Command::Exclude { order, node } => exclude(session, &order, &node).await,
    }
}

/// Lists the ballot of a rollout.
pub(crate) async fn votes(session: &mut Session, VoteCommand::Ls { rollout }: VoteCommand) -> Result<Exit, CliError> {
    let id = session.rollout_id(&rollout).await?;
    super::list::<Vote>(session, "cannot list the votes", &format!("/rollouts/{id}/votes"), false).await
}

struct Plan<'a> {
    manifest: &'a Path,
    key: Option<&'a Path>,
    id: Option<RolloutId>,
    parent_epoch: Option<u64>,
    dry_run: bool,
}

async fn start(session: &mut Session, plan: Plan<'_>, wait: &Wait) -> Result<Exit, CliError> {
    let what = "cannot start the rollout";
    let (bytes, manifest, hash) = super::manifest::read(plan.manifest)?;
    let status = session.status().await.map_err(|error| error.about(what))?;
    let parent = FleetEpoch(plan.parent_epoch.unwrap_or(status.epoch));
    let id = plan.id.unwrap_or_default();
    if plan.dry_run {
        return dry_run(session, &manifest, hash, id, parent);
    }
    let key = session.key(plan.key)?;
    let message = statement::rollout(&hash, &id, parent, &status.network_id);
    let order = StartRollout {
        id,
        manifest: hash,
        parent_epoch: parent.0,
        operator_key: statement::public_key(&key),
        signature: statement::sign(&key, &message),
    };
    session.client.put_bytes(what, "/manifests", bytes).await?;
    let again = |error: CliError| match error.exit {
        Exit::TimedOut => error.next(format!("repeat with --id {id} --parent-epoch {parent}; that is safe")),
        _ => error,
    };
    let value = session.client.post(what, "/rollouts", &order).await.map_err(again)?;
    if !wait.wait {
        session.out.object(&value, |rollout: &Rollout| rollout.summary.id.to_string(), text)?;
        return Ok(Exit::Ok);
    }
    if session.out.format() == Format::Name {
        session.out.line(&id.to_string())?;
    } else {
        note(&format!("rollout {id} proposed"))?;
    }
    ended(session, id, wait).await
}

fn dry_run(
    session: &mut Session,
    manifest: &Manifest,
    hash: osmoda_types::ManifestHash,
    id: RolloutId,
    parent: FleetEpoch,
) -> Result<Exit, CliError> {
    let policy = &manifest.policy;
    let total = u32::try_from(manifest.nodes.len()).unwrap_or(u32::MAX);
    let mut taken = 0;
    let mut waves = Vec::new();
    for wave in 0..u32::try_from(policy.waves.len()).unwrap_or(0) {
        let size = policy.wave_size(wave, total, taken);
        taken += size;
        waves.push(size);
    }
    let plan = serde_json::json!({
        "id": id, "manifest": hash, "parent_epoch": parent, "name": manifest.name, "scope": manifest.scope,
        "nodes": total, "waves": waves, "max_unavailable": policy.max_unavailable,
        "failure_budget": policy.failure_budget, "dry_run": true,
    });
    let picture = |_: &serde_json::Value| {
        format!(
            "would propose {:?} on scope {} against fleet epoch {parent}\nmanifest  {hash}\nnodes     {total}\n\
             waves     {waves:?}\nat risk   {} at once, {} failures borne\n",
            printable(&manifest.name),
            manifest.scope,
            policy.max_unavailable,
            policy.failure_budget,
        )
    };
    session.out.object(&plan, |_: &serde_json::Value| id.to_string(), picture)?;
    Ok(Exit::Ok)
}

async fn ended(session: &mut Session, id: RolloutId, wait: &Wait) -> Result<Exit, CliError> {
    let deadline = Instant::now() + Duration::from_secs(wait.timeout);
    let ended = events::follow(session, id, Some(deadline)).await?;
    Ok(ended.map_or(Exit::Failed, Exit::of_ended))
}

async fn show(session: &mut Session, rollout: &str, watch: bool) -> Result<Exit, CliError> {
    let path = format!("/rollouts/{}", session.rollout_id(rollout).await?);
    let what = "cannot show the rollout";
    let mut shown = session.client.get(what, &path).await?;
    session.out.object(&shown, |rollout: &Rollout| rollout.summary.id.to_string(), text)?;
    while watch && !is_over(&shown)? {
        session.out.flush()?;
        tokio::time::sleep(super::WATCH_INTERVAL).await;
        let now = session.client.get(what, &path).await?;
        if now != shown {
            session.out.redraw()?;
            session.out.object(&now, |rollout: &Rollout| rollout.summary.id.to_string(), text)?;
            shown = now;
        }
    }
    Ok(Exit::Ok)
}

fn is_over(value: &serde_json::Value) -> Result<bool, CliError> {
    let rollout: Rollout = crate::output::typed(value.clone())?;
    Ok(rollout.summary.state.is_terminal())
}

#[derive(Clone, Copy)]
enum Verb {
    Pause,
    Resume,
    Abort,
}

async fn control(session: &mut Session, args: &OrderArgs, verb: Verb) -> Result<RolloutId, CliError> {
    let rollout = session.rollout_id(&args.rollout).await?;
    let key = session.key(args.key.key.as_deref())?;
    let order = match verb {
        Verb::Pause => Order::Pause { rollout },
        Verb::Resume => Order::Resume { rollout },
        Verb::Abort => Order::Abort { rollout },
    };
    let signed = session.sign(&key, &order).await?;
    let body = ControlOrder { serial: signed.serial, operator_key: signed.operator_key, signature: signed.signature };
    let path = format!("/rollouts/{rollout}/{}", order.verb());
    let what = format!("cannot {} the rollout", order.verb());
    let value = session.client.post(&what, &path, &body).await?;
    session.out.object(&value, |rollout: &Rollout| rollout.summary.id.to_string(), text)?;
    Ok(rollout)
}

async fn abort(session: &mut Session, args: &OrderArgs, yes: bool, wait: &Wait) -> Result<Exit, CliError> {
    if !yes && !super::confirmed("abort the rollout and return every moved node to its baseline?")? {
        return Err(CliError::failed("nothing was done", "it was not confirmed"));
    }
    let rollout = control(session, args, Verb::Abort).await?;
    if !wait.wait {
        return Ok(Exit::Ok);
    }
    let deadline = Instant::now() + Duration::from_secs(wait.timeout);
    // An abort that was waited for is done when everything is back; a rollout
    // that committed before the order came is the surprise.
    match events::follow(session, rollout, Some(deadline)).await? {
        Some(osmoda_types::RolloutState::RolledBack) => Ok(Exit::Ok),
        Some(osmoda_types::RolloutState::Committed) => Ok(Exit::Conflict),
        _ => Ok(Exit::Failed),
    }
}

async fn exclude(session: &mut Session, args: &OrderArgs, node: &str) -> Result<Exit, CliError> {
    let rollout = session.rollout_id(&args.rollout).await?;
    let node = session.node(node).await?.id;
    let key = session.key(args.key.key.as_deref())?;
    let signed = session.sign(&key, &Order::Exclude { rollout, node }).await?;
    let body =
        ExcludeOrder { node, serial: signed.serial, operator_key: signed.operator_key, signature: signed.signature };
    let path = format!("/rollouts/{rollout}/exclude");
    let value = session.client.post("cannot exclude the node", &path, &body).await?;
    session.out.object(&value, |rollout: &Rollout| rollout.summary.id.to_string(), text)?;
    Ok(Exit::Ok)
}

impl Rows for RolloutSummary {
    const HEADS: &'static [&'static str] = &["id", "name", "scope", "state", "wave", "nodes", "started", "why"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.name.clone(),
            self.scope.clone(),
            self.state.to_string(),
            wave_of(self),
            format!("{}/{}", self.counts.moved, self.counts.total),
            self.created_at.clone(),
            or_dash(self.reason.as_deref()),
        ]
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}

impl Rows for Vote {
    const HEADS: &'static [&'static str] = &["voter", "id", "vote"];

    fn cells(&self) -> Vec<String> {
        let vote = match self.yes {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        vec![self.name.clone(), self.voter.short(), vote.to_owned()]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// `2/3`: the second of three waves.
fn wave_of(summary: &RolloutSummary) -> String {
    summary.wave.map_or_else(|| "-".to_owned(), |wave| format!("{}/{}", wave + 1, summary.waves))
}

fn text(rollout: &Rollout) -> String {
    let summary = &rollout.summary;
    let yes = rollout.votes.iter().filter(|vote| vote.yes == Some(true)).count();
    let mut text = format!(
        "rollout   {}\nname      {}\nscope     {}\nstate     {}\nwhy       {}\nwave      {}\nvotes     {yes} yes \
         of {}, {} needed\nat risk   {} of at most {}\noperator  {}\nmanifest  {}\n\n",
        summary.id,
        printable(&summary.name),
        printable(&summary.scope),
        summary.state,
        or_dash(summary.reason.as_deref().map(printable)),
        wave_of(summary),
        rollout.votes.len(),
        rollout.threshold,
        summary.counts.in_flight,
        rollout.max_unavailable,
        printable(&summary.operator),
        summary.manifest,
    );
    let rows = rollout.nodes.iter().map(|node| {
        vec![
            node.name.clone(),
            node.state.to_string(),
            or_dash(node.wave.map(|wave| wave + 1)),
            node.target.name().to_owned(),
            node.baseline.name().to_owned(),
            or_dash(node.code),
        ]
    });
    text.push_str(&table(&["node", "state", "wave", "target", "baseline", "why"], rows));
    text
}
