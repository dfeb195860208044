//! Byte pipes over Unix sockets: one line of JSON each way, then raw bytes.
//!
//! ```text
//!  caller ──{"peer":…,"token":…}\n──► server        ◄──{"ok":true}\n──, or
//!                                                   ◄──{"error":…,"code":…}\n── and the end
//! ```
//! Invariant: no handler sees a pipe whose caller the table does not allow
//! ([`STREAM`](crate::http::STREAM) rows); what follows the first line is not touched.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::serve::Listener;
use osmoda_types::ErrorCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::error::{ApiError, ErrorBody};
use crate::http::{Caller, Callers, Credentials};
use crate::shutdown::Stage;
use crate::tasks::{TaskKind, Tasks};

/// The longest first line in bytes: names and two 64-digit ids fit ten times over.
pub const LINE_BYTES_MAX: usize = 4096;

/// Pipes at once per socket: a fleet of a hundred nodes with ten streams each.
/// Each is a task and two descriptors.
pub const PIPES_MAX: usize = 1024;

/// How long the first line may take: it is written with the connection.
const LINE_TIME_LIMIT: Duration = Duration::from_secs(5);

/// An admitted caller that waits for its answer. Dropping it hangs up.
#[derive(Debug)]
pub struct Opening<H> {
    /// Who it is.
    pub caller: Caller,
    /// What it asked for.
    pub hello: H,
    stream: UnixStream,
}

impl<H> Opening<H> {
    /// Answers `{"ok":true}` and hands over the pipe.
    ///
    /// # Errors
    /// [`ErrorCode::DaemonUnavailable`] when the caller is gone.
    pub async fn accept(self) -> Result<(H, UnixStream), ApiError> {
        let mut stream = self.stream;
        stream.write_all(b"{\"ok\":true}\n").await.map_err(gone)?;
        Ok((self.hello, stream))
    }

    /// Answers with an error and hangs up.
    pub async fn refuse(self, error: ApiError) {
        refuse(self.stream, error).await;
    }
}

/// Hands every admitted caller of `listener` to `handler`, each in its own task,
/// until a stop begins. `name` is the socket's name, as in the callers table.
/// A pipe that is meant to end with the process watches `Stage::RefuseNew`.
pub fn serve_streams<H, F, Fut>(
    tasks: &Tasks,
    name: &'static str,
    listener: UnixListener,
    callers: Arc<Callers>,
    handler: F,
) where
    H: DeserializeOwned + Send + 'static,
    F: Fn(Opening<H>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let door = Door { tasks: tasks.clone(), name, callers };
    tasks.spawn(TaskKind::INTAKE, format!("listener {name}.sock"), door.accept(listener, handler));
}

/// Opens a pipe: connects, says `hello` with the credentials, waits for `ok`.
///
/// # Errors
/// [`ErrorCode::DaemonUnavailable`] when nobody listens or the other side hangs
/// up, [`ErrorCode::Timeout`], or the refusal of the other side.
pub async fn open(
    socket: &Path,
    credentials: &Credentials,
    hello: Map<String, Value>,
    time_limit: Duration,
) -> Result<UnixStream, ApiError> {
    let opening = async {
        let mut stream = UnixStream::connect(socket).await.map_err(gone)?;
        stream.write_all(&first_line(credentials, hello)).await.map_err(gone)?;
        let answer = read_line(&mut stream).await?;
        let answer: Map<String, Value> = serde_json::from_slice(&answer).map_err(|_| malformed())?;
        if answer.get("ok") == Some(&Value::Bool(true)) {
            return Ok(stream);
        }
        let body: ErrorBody = serde_json::from_value(Value::Object(answer)).map_err(|_| malformed())?;
        let code = body.code.unwrap_or(ErrorCode::Internal);
        Err(ApiError::new(code, body.error))
    };
    tokio::time::timeout(time_limit, opening)
        .await
        .unwrap_or_else(|_| Err(ApiError::new(ErrorCode::Timeout, format!("no answer within {time_limit:?}"))))
}

struct Door {
    tasks: Tasks,
    name: &'static str,
    callers: Arc<Callers>,
}

impl Door {
    async fn accept<H, F, Fut>(self, mut listener: UnixListener, handler: F)
    where
        H: DeserializeOwned + Send + 'static,
        F: Fn(Opening<H>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let stop = self.tasks.shutdown().token(Stage::RefuseNew);
        let slots = Arc::new(Semaphore::new(PIPES_MAX));
        loop {
            let stream = tokio::select! {
                biased;
                // Cancel-safe: a token's state is not consumed.
                () = stop.cancelled() => return,
                // Cancel-safe: a connection not yet returned stays in the backlog.
                (stream, _) = Listener::accept(&mut listener) => stream,
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                tracing::warn!(socket = self.name, limit = PIPES_MAX, "pipe refused, too many are open");
                continue;
            };
            let (name, callers, handler) = (self.name, Arc::clone(&self.callers), handler.clone());
            self.tasks.spawn(TaskKind::REQUEST, format!("{name}.sock pipe"), async move {
                let _slot = slot;
                if let Some(opening) = admit(name, &callers, stream).await {
                    handler(opening).await;
                }
            });
        }
    }
}

/// Reads the first line and judges its sender; answers a refusal itself.
async fn admit<H: DeserializeOwned>(name: &str, callers: &Callers, mut stream: UnixStream) -> Option<Opening<H>> {
    let line = tokio::time::timeout(LINE_TIME_LIMIT, read_line(&mut stream)).await;
    let line = line.unwrap_or_else(|_| Err(ApiError::new(ErrorCode::Timeout, "the first line did not come in time")));
    match line.and_then(|line| judge(name, callers, &stream, &line)) {
        Ok((caller, hello)) => Some(Opening { caller, hello, stream }),
        Err(error) => {
            tracing::info!(socket = name, code = %error.code, "pipe refused");
            refuse(stream, error).await;
            None
        }
    }
}

fn judge<H: DeserializeOwned>(
    name: &str,
    callers: &Callers,
    stream: &UnixStream,
    line: &[u8],
) -> Result<(Caller, H), ApiError> {
    let mut hello: Map<String, Value> = serde_json::from_slice(line).map_err(|_| malformed())?;
    let (token, daemon) = (hello.remove("token"), hello.remove("daemon"));
    let text = |value: &Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
    let peer = stream.peer_cred().map_err(ApiError::internal)?;
    let caller = callers.identify(peer.uid(), peer.pid(), text(&token).as_deref(), text(&daemon).as_deref())?;
    callers.allow_stream(caller.who, name)?;
    let hello = serde_json::from_value(Value::Object(hello))
        .map_err(|error| ApiError::new(ErrorCode::BadRequest, format!("the first line is not understood: {error}")))?;
    Ok((caller, hello))
}

async fn refuse(mut stream: UnixStream, error: ApiError) {
    let body = ErrorBody { error: error.message, code: Some(error.code) };
    let Ok(mut line) = serde_json::to_vec(&body) else { return };
    line.push(b'\n');
    // The caller may be gone already; then nobody wants the answer.
    if let Err(error) = stream.write_all(&line).await {
        tracing::debug!(%error, "refused caller is gone");
    }
}

fn first_line(credentials: &Credentials, mut hello: Map<String, Value>) -> Vec<u8> {
    if let Some(token) = credentials.stream_token() {
        hello.insert("token".to_owned(), token.into());
    }
    if let Some(daemon) = credentials.stream_daemon() {
        hello.insert("daemon".to_owned(), daemon.into());
    }
    let mut line = Value::Object(hello).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Reads to the first newline and not a byte further: what follows is the pipe's.
async fn read_line(stream: &mut UnixStream) -> Result<Vec<u8>, ApiError> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await {
            Ok(b'\n') => return Ok(line),
            Ok(byte) if line.len() < LINE_BYTES_MAX => line.push(byte),
            Ok(_) => return Err(ApiError::new(ErrorCode::TooLarge, "the first line is too long")),
            Err(error) => return Err(gone(error)),
        }
    }
}

fn gone(source: std::io::Error) -> ApiError {
    ApiError::new(ErrorCode::DaemonUnavailable, "the other side of the pipe is gone").with_source(source)
}

fn malformed() -> ApiError {
    ApiError::new(ErrorCode::BadRequest, "the first line is not a JSON object").with_status(StatusCode::BAD_REQUEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::tokens;
    use crate::http::{Allowed, CallerTable, DaemonUser, Row, STREAM};
    use crate::secret::Secret;
    use crate::shutdown::{Shutdown, StopReason};
    use crate::testing::TempRoot;
    use serde::Deserialize;
    use std::path::PathBuf;

    const TABLE: CallerTable = CallerTable {
        daemons: &[DaemonUser { name: "fleetd", user: "f" }],
        rows: &[Row { method: STREAM, path: "/pipe", allowed: &[Allowed::Daemon("fleetd")] }],
    };
    const LIMIT: Duration = Duration::from_secs(10);

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Hello {
        service: String,
    }

    /// A server that echoes, except for the service `no`.
    fn echo() -> (TempRoot, PathBuf, Tasks, Credentials) {
        let root = TempRoot::new();
        let path = root.paths().socket("pipe");
        let (token, peers) = tokens("fleetd", TABLE.daemons);
        let callers = Callers::by_tokens(TABLE, rustix::process::geteuid().as_raw(), peers);
        let tasks = Tasks::new(Shutdown::new());
        let listener = UnixListener::bind(&path).unwrap();
        serve_streams(&tasks, "pipe", listener, Arc::new(callers), async |opening: Opening<Hello>| {
            assert_eq!(opening.caller.who.to_string(), "fleetd");
            if opening.hello.service == "no" {
                return opening.refuse(ApiError::new(ErrorCode::PeerOffline, "nobody there")).await;
            }
            let (_, mut stream) = opening.accept().await.unwrap();
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        });
        (root, path, tasks, Credentials::token(Secret::new(token)))
    }

    fn hello(service: &str) -> Map<String, Value> {
        Map::from_iter([("service".to_owned(), service.into())])
    }

    #[tokio::test]
    async fn an_admitted_caller_gets_a_clean_pipe() {
        let (_root, path, tasks, fleetd) = echo();
        let mut stream = open(&path, &fleetd, hello("raft"), LIMIT).await.unwrap();
        stream.write_all(b"line\nraw\0bytes").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"line\nraw\0bytes");
        tasks.shutdown().request(StopReason::Asked("test".into()));
        assert!(tasks.drain(LIMIT).await.is_graceful());
    }

    #[tokio::test]
    async fn callers_outside_the_table_and_bad_first_lines_are_refused() {
        let (_root, path, _tasks, fleetd) = echo();
        let code = async |credentials, hello| open(&path, credentials, hello, LIMIT).await.unwrap_err().code;
        let nobody = Credentials::none();
        assert_eq!(code(&nobody, hello("raft")).await, ErrorCode::CallerDenied);
        let stranger = Credentials::token(Secret::new("ab".repeat(32)));
        assert_eq!(code(&stranger, hello("raft")).await, ErrorCode::Unauthorized);
        assert_eq!(code(&fleetd, hello("no")).await, ErrorCode::PeerOffline);
        assert_eq!(code(&fleetd, Map::new()).await, ErrorCode::BadRequest);
        assert_eq!(code(&fleetd, hello(&"x".repeat(LINE_BYTES_MAX))).await, ErrorCode::TooLarge);

        let mut raw = UnixStream::connect(&path).await.unwrap();
        raw.write_all(b"GET / HTTP/1.1\n").await.unwrap();
        let mut answer = String::new();
        raw.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("bad_request"), "{answer}");
    }
}
