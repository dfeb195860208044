//! Calling a daemon over its socket: the one client.
//!
//! Every call has a time limit and an answer limit. A call that changed nothing
//! for certain fails with its own code; one whose effect cannot be known fails
//! with `outcome_unknown`. Nothing is retried here, except that a request which
//! was never sent, because an idle connection had died, goes out on a new one.

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use osmoda_types::ErrorCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{DAEMON_HEADER, TOKEN_HEADER};
use crate::error::ApiError;
use crate::secret::Secret;

/// Time limit unless the caller sets one. Local daemons answer in milliseconds;
/// ten seconds is a fault, not a load.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Answer limit unless the caller sets one: four times the largest request.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Idle connections kept per client: the calls a daemon has in flight at once
/// in normal work. More are opened when needed and closed after use.
const IDLE_MAX: usize = 16;

/// How a client says who it is.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    kind: Kind,
}

#[derive(Debug, Clone, Default)]
enum Kind {
    /// The socket's own word (uid) is enough, or the caller is an administrator.
    #[default]
    None,
    Token(Arc<Secret<String>>),
    Claim(&'static str),
}

impl Credentials {
    /// Nothing but the uid.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A token of the supervisor.
    #[must_use]
    pub fn token(token: Secret<String>) -> Self {
        Self { kind: Kind::Token(Arc::new(token)) }
    }

    /// The name of a daemon that runs as root.
    #[must_use]
    pub fn claim(daemon: &'static str) -> Self {
        Self { kind: Kind::Claim(daemon) }
    }

    /// The token, for the first line of a raw stream.
    #[must_use]
    pub fn stream_token(&self) -> Option<&str> {
        match &self.kind {
            Kind::Token(token) => Some(token.expose()),
            Kind::None | Kind::Claim(_) => None,
        }
    }

    /// The claimed daemon, for the first line of a raw stream.
    #[must_use]
    pub fn stream_daemon(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Claim(daemon) => Some(daemon),
            Kind::None | Kind::Token(_) => None,
        }
    }
}

/// A client of one socket; cheap to clone, its clones share idle connections.
#[derive(Debug, Clone)]
pub struct UnixClient {
    socket: Arc<Path>,
    credentials: Credentials,
    time_limit: Duration,
    answer_bytes_max: usize,
    idle: Arc<Mutex<Vec<Link>>>,
}

impl UnixClient {
    /// A client; connects when first used.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>, credentials: Credentials) -> Self {
        Self {
            socket: socket.into().into(),
            credentials,
            time_limit: TIME_LIMIT,
            answer_bytes_max: ANSWER_BYTES_MAX,
            idle: Arc::default(),
        }
    }

    /// With another time limit per call.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// With another limit for answers, in bytes.
    #[must_use]
    pub fn with_answer_limit(mut self, bytes_max: usize) -> Self {
        self.answer_bytes_max = bytes_max;
        self
    }

    /// The socket it calls.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// GET, with a JSON answer.
    ///
    /// # Errors
    /// The daemon's own error; [`ErrorCode::DaemonUnavailable`] when nobody
    /// listens; [`ErrorCode::Timeout`]; [`ErrorCode::Internal`] for an answer
    /// of another shape.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.json(Method::GET, path, None).await
    }

    /// POST of a JSON body, with a JSON answer.
    ///
    /// # Errors
    /// As [`UnixClient::get`], but [`ErrorCode::OutcomeUnknown`] in place of a
    /// timeout or a lost connection once the request was sent.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, the request may or may not have had its effect.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &(impl Serialize + Sync)) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body).map_err(ApiError::internal)?;
        self.json(Method::POST, path, Some(body.into())).await
    }

    /// GET of raw bytes.
    ///
    /// # Errors
    /// As [`UnixClient::get`].
    pub async fn get_bytes(&self, path: &str) -> Result<Bytes, ApiError> {
        let (status, answer) = self.exchange(Method::GET, path, None).await?;
        if status.is_success() { Ok(answer) } else { Err(ApiError::from_answer(status, &answer)) }
    }

    /// PUT of raw bytes, with a JSON answer.
    ///
    /// # Errors
    /// As [`UnixClient::post`].
    ///
    /// # Cancel safety
    /// As [`UnixClient::post`].
    pub async fn put_bytes<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Result<T, ApiError> {
        self.json(Method::PUT, path, Some(body.into())).await
    }

    /// Any method, raw body, raw answer, whatever its status: for proxies.
    ///
    /// # Errors
    /// Only for calls that got no answer, as [`UnixClient::post`].
    pub async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(StatusCode, Bytes), ApiError> {
        let lost = if method.is_safe() { ErrorCode::Timeout } else { ErrorCode::OutcomeUnknown };
        let call = self.call(method, path, body);
        tokio::time::timeout(self.time_limit, call).await.unwrap_or_else(|_| {
            Err(ApiError::new(lost, format!("no answer from {} within {:?}", self.name(), self.time_limit)))
        })
    }

    async fn json<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<T, ApiError> {
        let (status, answer) = self.exchange(method, path, body).await?;
        if !status.is_success() {
            return Err(ApiError::from_answer(status, &answer));
        }
        // `null` reads as `()`, and so does an empty answer.
        let answer = if answer.is_empty() { &b"null"[..] } else { &answer[..] };
        serde_json::from_slice(answer).map_err(|error| {
            ApiError::new(ErrorCode::Internal, format!("{} answered in another shape", self.name())).with_source(error)
        })
    }

    async fn call(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<(StatusCode, Bytes), ApiError> {
        let safe = method.is_safe();
        let mut request = self.request(method, path, body)?;
        // An idle connection may have been closed meanwhile; then the request
        // comes back unsent and goes out on the next one, at last on a new one.
        while let Some(mut link) = self.take_idle() {
            match link.exchange(request, self.answer_bytes_max).await {
                Ok(answer) => return Ok(self.keep(link, answer)),
                Err(Failure::Unsent(unsent)) => request = *unsent,
                Err(Failure::Sent(error)) => return Err(self.sent_error(safe, error)),
            }
        }
        let mut link = self.connect().await?;
        match link.exchange(request, self.answer_bytes_max).await {
            Ok(answer) => Ok(self.keep(link, answer)),
            Err(Failure::Unsent(_)) => Err(self.unavailable("closed the connection".into())),
            Err(Failure::Sent(error)) => Err(self.sent_error(safe, error)),
        }
    }

    fn request(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Request<Full<Bytes>>, ApiError> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        match &self.credentials.kind {
            Kind::None => {}
            Kind::Claim(daemon) => request = request.header(DAEMON_HEADER, *daemon),
            Kind::Token(token) => {
                let mut value = HeaderValue::from_str(token.expose()).map_err(ApiError::internal)?;
                value.set_sensitive(true);
                request = request.header(TOKEN_HEADER, value);
            }
        }
        request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| ApiError::new(ErrorCode::BadRequest, "not a valid request path").with_source(error))
    }

    async fn connect(&self) -> Result<Link, ApiError> {
        let stream = UnixStream::connect(&*self.socket).await.map_err(|error| self.unavailable(error.into()))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unavailable(error.into()))?;
        Ok(Link { sender, connection: Some(Box::pin(connection)) })
    }

    fn take_idle(&self) -> Option<Link> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn keep<T>(&self, link: Link, answer: T) -> T {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if link.connection.is_some() && idle.len() < IDLE_MAX {
            idle.push(link);
        }
        answer
    }

    fn name(&self) -> String {
        self.socket.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn unavailable(&self, source: Box<dyn std::error::Error + Send + Sync>) -> ApiError {
        ApiError::new(ErrorCode::DaemonUnavailable, format!("{} does not answer", self.name())).with_source(source)
    }

    fn sent_error(&self, safe: bool, source: Box<dyn std::error::Error + Send + Sync>) -> ApiError {
        if safe {
            return self.unavailable(source);
        }
        let text = format!("{} closed the connection before it answered", self.name());
        ApiError::new(ErrorCode::OutcomeUnknown, text).with_source(source)
    }
}

/// What moves the bytes of a connection, when polled.
type Driver = Pin<Box<Connection<TokioIo<UnixStream>, Full<Bytes>>>>;

/// One connection. It makes progress only inside [`Link::exchange`], so no task
/// is needed to drive it.
struct Link {
    sender: SendRequest<Full<Bytes>>,
    /// `None` once it has ended: dropping it is what tells the sender.
    connection: Option<Driver>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("open", &self.connection.is_some()).finish_non_exhaustive()
    }
}

enum Failure {
    /// The request never left; here it is.
    Unsent(Box<Request<Full<Bytes>>>),
    /// It left, at least in part.
    Sent(Box<dyn std::error::Error + Send + Sync>),
}

impl Link {
    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        answer_bytes_max: usize,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let sender = &mut self.sender;
        let work = async move {
            if sender.ready().await.is_err() {
                return Err(Failure::Unsent(Box::new(request)));
            }
            let response = match sender.try_send_request(request).await {
                Ok(response) => response,
                Err(mut error) => {
                    return Err(match error.take_message() {
                        Some(unsent) => Failure::Unsent(Box::new(unsent)),
                        None => Failure::Sent(error.into_error().into()),
                    });
                }
            };
            let status = response.status();
            let body = Limited::new(response.into_body(), answer_bytes_max).collect().await.map_err(Failure::Sent)?;
            Ok((status, body.to_bytes()))
        };
        tokio::pin!(work);
        // Work and connection are polled side by side, connection first: that is
        // where a close by the other side is noticed, before anything is sent.
        poll_fn(|context| {
            let ended = self.connection.as_mut().is_some_and(|connection| connection.as_mut().poll(context).is_ready());
            if ended {
                self.connection = None;
            }
            // A request handed over by the work wakes the connection, so both go on.
            work.as_mut().poll(context)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::TestServer;
    use crate::testing::TempRoot;
    use axum::Router;
    use axum::routing::{get, post};
    use std::future::pending;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn nobody_listening_is_daemon_unavailable() {
        let root = TempRoot::new();
        let client = UnixClient::new(root.paths().socket("watch"), Credentials::none());
        let error = client.get::<()>("/health").await.unwrap_err();
        assert_eq!(error.code, ErrorCode::DaemonUnavailable);
        assert!(error.message.contains("watch.sock"), "{}", error.message);
    }

    #[tokio::test]
    async fn a_call_without_an_answer_is_a_timeout_or_an_unknown_outcome() {
        let never = async || pending::<()>().await;
        let server = TestServer::open(Router::new().route("/never", get(never).post(never)));
        let client = server.client().with_time_limit(Duration::from_millis(50));
        assert_eq!(client.get::<()>("/never").await.unwrap_err().code, ErrorCode::Timeout);
        assert_eq!(client.post::<()>("/never", &()).await.unwrap_err().code, ErrorCode::OutcomeUnknown);
    }

    #[tokio::test]
    async fn a_connection_lost_after_sending_is_an_unknown_outcome() {
        let root = TempRoot::new();
        let path = root.paths().socket("watch");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixClient::new(path, Credentials::none());
        let hang_up = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut byte = [0];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut byte).await.unwrap();
        };
        let (answer, ()) = tokio::join!(client.post::<()>("/x", &()), hang_up);
        assert_eq!(answer.unwrap_err().code, ErrorCode::OutcomeUnknown);
    }

    #[tokio::test]
    async fn an_idle_connection_that_died_is_replaced_unseen() {
        let server = TestServer::open(Router::new().route("/x", get(async || "1").post(async || "2")));
        let client = server.client();
        assert_eq!(client.get::<u8>("/x").await.unwrap(), 1);
        assert_eq!(client.idle.lock().unwrap().len(), 1);
        server.stop(Duration::from_secs(5)).await;
        let again = UnixListener::bind({
            std::fs::remove_file(client.socket()).unwrap();
            client.socket()
        })
        .unwrap();
        let tasks = crate::tasks::Tasks::new(crate::shutdown::Shutdown::new());
        let table = crate::http::CallerTable {
            daemons: &[],
            rows: &[crate::http::Row { method: "*", path: "/x", allowed: &[crate::http::Allowed::Admin] }],
        };
        let callers = crate::http::Callers::by_tokens(table, rustix::process::geteuid().as_raw(), Default::default());
        let router = Router::new().route("/x", post(async || "3"));
        crate::http::serve_unix(&tasks, "test", again, router, Arc::new(callers));
        assert_eq!(client.post::<u8>("/x", &()).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn answers_over_the_limit_and_of_another_shape_are_errors() {
        let router = Router::new()
            .route("/long", get(async || "x".repeat(2000)))
            .route("/text", get(async || "not json"))
            .route("/empty", get(async || ()));
        let server = TestServer::open(router);
        let client = server.client().with_answer_limit(1000);
        assert!(client.get::<String>("/long").await.is_err());
        assert_eq!(client.get::<u8>("/text").await.unwrap_err().code, ErrorCode::Internal);
        client.get::<()>("/empty").await.unwrap();
        assert_eq!(client.get::<()>("/none").await.unwrap_err().code, ErrorCode::NotFound);
    }
}
