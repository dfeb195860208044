//! `health`: the one command that needs the daemon.

use std::io::Write;
use std::time::Duration;

use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Credentials, UnixClient};
use osmoda_node_api::agentd::AgentdClient;

use crate::args::Args;
use crate::failure::Failure;

/// How long the daemon may take. A host in trouble answers late; a person waits
/// this long before trying something else.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Exit code of a daemon that answers, but not `ok`.
const EXIT_DEGRADED: u8 = 1;

pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Daemon(ApiError::internal(error)))?;
    let client = UnixClient::new(args.socket(), Credentials::none()).with_time_limit(TIME_LIMIT);
    let health = runtime.block_on(AgentdClient::new(client).health()).map_err(Failure::Daemon)?;
    serde_json::to_writer_pretty(&mut *out, &health)?;
    writeln!(out)?;
    Ok(if health.status == "ok" { 0 } else { EXIT_DEGRADED })
}
