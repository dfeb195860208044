//! Serving a router on a Unix socket.
//!
//! Invariant: at most [`CONNECTIONS_MAX`] connections are open; each is a task
//! of the registry; when a stop begins, the listener closes, idle connections
//! close, and requests in progress are finished. A handler that streams without
//! end watches `Stage::RefuseNew` itself, or it is named as late.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use axum::{Router, serve::Listener};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use osmoda_types::ErrorCode;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;
use tracing::Instrument;

use super::{Caller, Callers, DAEMON_HEADER, TOKEN_HEADER};
use crate::error::ApiError;
use crate::shutdown::Stage;
use crate::tasks::{TaskKind, Tasks};

/// The largest request body in bytes: the reference's limit. A route that needs
/// more layers its own `DefaultBodyLimit`.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Connections at once per socket. A node has a dozen daemons with some ten
/// connections each; the ledger bench opens 256. Each costs about 20 KiB; more
/// than this is a caller that leaks them, and it is told `busy`.
pub const CONNECTIONS_MAX: usize = 1024;

/// How long a connection may take to send the head of a request, or sit idle:
/// long against any pause of a live client, short against a leaked descriptor.
const HEAD_TIME_LIMIT: Duration = Duration::from_secs(60);

/// The whole answer to a connection over the limit; written at once or not at all.
const BUSY_ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
content-length: 51\r\nconnection: close\r\n\r\n{\"error\":\"too many open connections\",\"code\":\"busy\"}";

/// Numbers requests, so that the log lines of one can be told together.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

/// Serves `router` on `listener` until a stop begins. `name` is the socket's
/// name, for tasks and metrics.
pub fn serve_unix(tasks: &Tasks, name: &'static str, listener: UnixListener, router: Router, callers: Arc<Callers>) {
    let router = router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    let server = Server { tasks: tasks.clone(), name, router, callers };
    tasks.spawn(TaskKind::INTAKE, format!("listener {name}.sock"), server.accept(listener));
}

#[derive(Clone)]
struct Server {
    tasks: Tasks,
    name: &'static str,
    router: Router,
    callers: Arc<Callers>,
}

/// The kernel's word on who connected.
#[derive(Clone, Copy)]
struct Peer {
    uid: u32,
    pid: Option<i32>,
}

impl Server {
    async fn accept(self, mut listener: UnixListener) {
        let stop = self.tasks.shutdown().token(Stage::RefuseNew);
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let stream = tokio::select! {
                biased;
                // Cancel-safe: a token's state is not consumed.
                () = stop.cancelled() => return,
                // Cancel-safe: a connection not yet returned stays in the backlog.
                // Axum's accept waits and retries when descriptors run out.
                (stream, _) = Listener::accept(&mut listener) => stream,
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                refuse_busy(self.name, &stream);
                continue;
            };
            let peer = match stream.peer_cred() {
                Ok(cred) => Peer { uid: cred.uid(), pid: cred.pid() },
                Err(error) => {
                    tracing::warn!(socket = self.name, %error, "peer of a connection is unknown, closed");
                    continue;
                }
            };
            let server = self.clone();
            self.tasks.spawn(
                TaskKind::REQUEST,
                format!("{}.sock connection of uid {}", self.name, peer.uid),
                async move {
                    let _slot = slot;
                    server.connection(stream, peer).await;
                },
            );
        }
    }

    async fn connection(self, stream: UnixStream, peer: Peer) {
        let stop = self.tasks.shutdown().token(Stage::RefuseNew);
        let service = hyper::service::service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request, peer).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_LIMIT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            // Polled by reference: progress is kept when the other arm wins.
            ended = connection.as_mut() => ended,
            // Cancel-safe: a token's state is not consumed.
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = crate::error::chain(&error), "connection ended early");
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response {
        let begin = Instant::now();
        let id = REQUESTS.fetch_add(1, Ordering::Relaxed);
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = match self.admit(&request, peer) {
            Ok(caller) => {
                let span = tracing::info_span!("request", id, caller = %caller.who, %method, path);
                self.forward(request, caller).instrument(span).await
            }
            Err(error) => {
                tracing::info!(id, uid = peer.uid, %method, path, code = %error.code, "caller refused");
                error.into_response()
            }
        };
        let status = response.status().as_u16().to_string();
        metrics::counter!("osmoda_http_requests_total", "socket" => self.name, "status" => status).increment(1);
        metrics::histogram!("osmoda_http_request_seconds", "socket" => self.name).record(begin.elapsed().as_secs_f64());
        response
    }

    fn admit(&self, request: &Request<Incoming>, peer: Peer) -> Result<Caller, ApiError> {
        let token = header(request, TOKEN_HEADER)?;
        let daemon = header(request, DAEMON_HEADER)?;
        let (method, path) = (request.method().as_str(), request.uri().path());
        self.callers.admit((peer.uid, peer.pid), token, daemon, method, path)
    }

    async fn forward(&self, mut request: Request<Incoming>, caller: Caller) -> Response {
        request.extensions_mut().insert(caller);
        match self.router.clone().oneshot(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

fn header<'a>(request: &'a Request<Incoming>, name: &str) -> Result<Option<&'a str>, ApiError> {
    let wrong = |_| ApiError::new(ErrorCode::BadRequest, format!("header {name} is not text"));
    request.headers().get(name).map(|value| value.to_str().map_err(wrong)).transpose()
}

fn refuse_busy(name: &'static str, stream: &UnixStream) {
    metrics::counter!("osmoda_http_connections_refused_total", "socket" => name).increment(1);
    match stream.try_write(BUSY_ANSWER) {
        Ok(_) => tracing::warn!(socket = name, limit = CONNECTIONS_MAX, "connection refused, too many are open"),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => tracing::debug!(socket = name, %error, "refused connection is gone"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::TestServer;
    use crate::http::{Allowed, CallerTable, DaemonUser, Json, Row};
    use axum::Extension;
    use axum::routing::{get, post};
    use serde::{Deserialize, Serialize};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;

    const TABLE: CallerTable = CallerTable {
        daemons: &[DaemonUser { name: "fleetd", user: "f" }, DaemonUser { name: "watch", user: "w" }],
        rows: &[
            Row { method: "GET", path: "/who", allowed: &[Allowed::Admin, Allowed::AnyDaemon] },
            Row { method: "POST", path: "/grant", allowed: &[Allowed::Daemon("fleetd")] },
        ],
    };

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Body {
        text: String,
    }

    fn who_router() -> Router {
        let who = async |Extension(caller): Extension<Caller>| Json(Body { text: caller.who.to_string() });
        let grant = async |Json(body): Json<Body>| Json(body);
        Router::new().route("/who", get(who)).route("/grant", post(grant)).route("/hidden", get(who))
    }

    #[tokio::test]
    async fn the_table_decides_and_the_handler_learns_who_calls() {
        let server = TestServer::with_table(who_router(), TABLE);
        let (admin, fleetd, watch) = (server.client(), server.client_as("fleetd"), server.client_as("watch"));
        assert_eq!(admin.get::<Body>("/who").await.unwrap().text, "admin");
        assert_eq!(fleetd.get::<Body>("/who").await.unwrap().text, "fleetd");
        let body = Body { text: "x".into() };
        assert_eq!(fleetd.post::<Body>("/grant", &body).await.unwrap(), body);
        for refused in [&admin, &watch] {
            let error = refused.post::<Body>("/grant", &body).await.unwrap_err();
            assert_eq!((error.code, error.status().as_u16()), (ErrorCode::CallerDenied, 403));
        }
        // A route without a row is nobody's.
        assert_eq!(fleetd.get::<Body>("/hidden").await.unwrap_err().code, ErrorCode::CallerDenied);
    }

    #[tokio::test]
    async fn a_wrong_token_is_not_an_administrator() {
        let server = TestServer::with_table(who_router(), TABLE);
        let token = crate::secret::Secret::new("ab".repeat(32));
        let socket = server.client().socket().to_owned();
        let stranger = crate::http::UnixClient::new(socket, crate::http::Credentials::token(token));
        assert_eq!(stranger.get::<Body>("/who").await.unwrap_err().code, ErrorCode::Unauthorized);
    }

    #[tokio::test]
    async fn bad_bodies_get_the_status_of_the_reference() {
        let server = TestServer::open(who_router());
        let client = server.client();
        let send = async |body: Vec<u8>| {
            let answer = client.exchange(axum::http::Method::POST, "/grant", Some(body.into())).await.unwrap();
            let error = ApiError::from_answer(answer.0, &answer.1);
            (answer.0.as_u16(), error.code)
        };
        assert_eq!(send(b"{".to_vec()).await, (400, ErrorCode::BadRequest));
        assert_eq!(send(br#"{"text":1}"#.to_vec()).await, (422, ErrorCode::BadRequest));
        assert_eq!(send(br#"["text"]"#.to_vec()).await, (422, ErrorCode::BadRequest));
        let large = format!("{{\"text\":\"{}\"}}", "a".repeat(BODY_BYTES_MAX));
        assert_eq!(send(large.into_bytes()).await, (413, ErrorCode::TooLarge));
    }

    #[tokio::test]
    async fn a_stop_finishes_the_request_and_closes_idle_connections() {
        let (began, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (began_by_handler, go_for_handler) = (Arc::clone(&began), Arc::clone(&go));
        let slow = async move || {
            began_by_handler.notify_one();
            go_for_handler.notified().await;
            Json(Body { text: "done".into() })
        };
        let server = TestServer::open(who_router().route("/slow", get(slow)));
        let client = server.client();
        client.get::<Body>("/who").await.unwrap();
        let mut idle = UnixStream::connect(client.socket()).await.unwrap();

        let socket = client.socket().to_owned();
        let stop = async {
            began.notified().await;
            let stopping = server.stop(Duration::from_secs(20));
            tokio::pin!(stopping);
            // The idle connection closes while the request still runs.
            let mut rest = Vec::new();
            tokio::select! {
                report = &mut stopping => panic!("stopped before the request ended: {report:?}"),
                read = idle.read_to_end(&mut rest) => assert_eq!(read.unwrap(), 0),
            }
            go.notify_one();
            stopping.await
        };
        let (answer, report) = tokio::join!(client.get::<Body>("/slow"), stop);
        assert_eq!(answer.unwrap().text, "done");
        assert!(report.is_graceful(), "{report:?}");
        assert!(UnixStream::connect(&socket).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn a_connection_over_the_limit_is_told_busy() {
        let (body, head) = (51, "content-length: 51");
        let text = std::str::from_utf8(BUSY_ANSWER).unwrap();
        assert!(text.contains(head));
        let (_, json) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(json.len(), body);
        let error = ApiError::from_answer(axum::http::StatusCode::SERVICE_UNAVAILABLE, json.as_bytes());
        assert_eq!(error.code, ErrorCode::Busy);

        let (mut near, far) = UnixStream::pair().unwrap();
        refuse_busy("test", &far);
        drop(far);
        near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap_err();
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }
}
