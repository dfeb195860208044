//! The node on this machine, over the socket of its mesh daemon: what needs no
//! controller and no context.

use std::path::{Path, PathBuf};
use std::time::Duration;

use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Credentials, UnixClient};
use osmoda_kit::paths::Paths;
use osmoda_types::ErrorCode;
use serde_json::Value;

use crate::error::CliError;
use crate::exit::Exit;

/// The largest answer: 500 messages of a room, of the largest text.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How long an answer may take: new keys go through the log, for which the mesh
/// gives fleetd 12 s.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// The mesh daemon of the node below a root directory.
pub(crate) struct Local {
    client: UnixClient,
    pub(crate) socket: PathBuf,
}

impl Local {
    /// Nothing is asked yet.
    pub(crate) fn new(root: &Path) -> Self {
        Self::daemon(root, "mesh")
    }

    /// Another daemon of the node.
    pub(crate) fn daemon(root: &Path, daemon: &str) -> Self {
        let socket = Paths::new(root).socket(daemon);
        let client = UnixClient::new(socket.clone(), Credentials::none());
        let client = client.with_answer_limit(ANSWER_BYTES_MAX).with_time_limit(TIME_LIMIT);
        Self { client, socket }
    }

    /// Waits longer than for an answer that is ready.
    pub(crate) fn patient(self, limit: Duration) -> Self {
        Self { client: self.client.with_time_limit(limit), ..self }
    }

    /// # Errors
    /// The daemon's refusal; `what` could not be done.
    pub(crate) async fn get(&self, what: &str, path: &str) -> Result<Value, CliError> {
        self.client.get(path).await.map_err(|error| self.refused(what, &error))
    }

    /// # Errors
    /// As [`Local::get`].
    pub(crate) async fn post(
        &self,
        what: &str,
        path: &str,
        body: &(impl serde::Serialize + Sync),
    ) -> Result<Value, CliError> {
        self.client.post(path, body).await.map_err(|error| self.refused(what, &error))
    }

    /// The refusal for people, with what to do next.
    pub(crate) fn refused(&self, what: &str, error: &ApiError) -> CliError {
        let refused = CliError::new(Exit::of_code(error.code), what, format!("{} ({})", error.message, error.code));
        match error.code {
            ErrorCode::DaemonUnavailable => {
                refused.next(format!("is the node running? its socket is {}", self.socket.display()))
            }
            ErrorCode::NotFound => refused.next("osmoda room ls"),
            ErrorCode::CallerDenied | ErrorCode::Unauthorized => refused.next("run it as the local administrator"),
            ErrorCode::PeerOffline => refused.next("that node must be linked: osmoda mesh peers"),
            ErrorCode::PeerUnknown => refused.next("osmoda mesh peers"),
            _ => refused,
        }
    }
}
