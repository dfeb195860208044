//! `osmoda approval request` and `run`: what an operator on a node does instead
//! of a model: asks that a call may run, and runs it once it may.
//!
//! Invariant: nothing is decided here. The node resolves the object, the executor
//! checks the permit by itself; this only carries words.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use osmoda_node_api::approval::{AskedCall, PermitRequest, PermitView};
use osmoda_node_api::execd::{RunAnswer, RunRequest};
use serde_json::json;

use super::{Source, describe};
use crate::error::CliError;
use crate::local::Local;
use crate::output::{Output, note};

/// The session of calls that a person asks for on the node.
const SESSION: &str = "operator";

/// How long a run may take: a restore, the longest of the tools, and the
/// witnesses before it.
const RUN_TIME_MAX: Duration = Duration::from_secs(180);

/// A call to ask for.
#[derive(Debug, Args)]
pub(super) struct Request {
    /// The tool, such as `service.restart`, `file.write`, `backup.restore`
    tool: String,
    /// Its arguments, as NAME=TEXT
    #[arg(value_name = "NAME=TEXT", value_parser = argument)]
    args: Vec<(String, String)>,
    /// Why; approvers see it as your words
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// The session that asks
    #[arg(long, value_name = "NAME", default_value = SESSION)]
    session: String,
    /// How long it may wait for approvers
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<i64>,
}

fn argument(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("an argument is NAME=TEXT")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Asks for the call and shows what would run.
pub(super) async fn request(node: &Local, out: &mut Output, request: Request) -> Result<(), CliError> {
    let count = request.args.len();
    let args: BTreeMap<String, String> = request.args.into_iter().collect();
    if args.len() != count {
        return Err(CliError::usage("the call has two readings", "an argument is given twice"));
    }
    let body = PermitRequest {
        call: AskedCall { tool: request.tool, args: json!(args) },
        session_id: request.session,
        reason: request.reason,
        ttl_secs: request.ttl,
    };
    let value = node.post("the call cannot be asked for", "/permit/request", &body).await?;
    let view: PermitView = crate::output::typed(value.clone())?;
    let text = describe(&view)?;
    out.object(&value, |view: &PermitView| view.signed.permit.id.to_string(), |_| text)
}

/// Hands the call and its permit to the executor.
pub(super) async fn run(source: &Source, root: Option<&Path>, out: &mut Output, id: &str) -> Result<(), CliError> {
    source.node()?;
    let (_, view) = source.find(id).await?;
    note(&describe(&view)?)?;
    let call = usize::try_from(view.next).ok().and_then(|next| view.calls.get(next)).cloned();
    let call = call.ok_or_else(|| CliError::failed("nothing was run", "every call of this permit was begun before"))?;
    let request = RunRequest { call, position: view.next, permit: Some(view.signed) };
    let root = root.unwrap_or(Path::new("/"));
    let executor = Local::daemon(root, "execd").patient(RUN_TIME_MAX);
    let value = executor.post("the call was not done", "/exec/run", &request).await?;
    let text = |answer: &RunAnswer| format!("run {} {}: {}\n", answer.run, answer.outcome.as_str(), answer.detail);
    out.object(&value, |answer: &RunAnswer| answer.run.to_string(), text)
}
