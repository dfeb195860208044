//! Calls to the controller's REST interface. One attempt per call: a person or
//! a script decides whether to repeat; only event streams reconnect.

use std::time::Duration;

use futures_util::StreamExt as _;
use osmoda_controller_api::{BASE, ErrorBody, LIMIT_MAX};
use osmoda_kit::secret::Secret;
use osmoda_types::ErrorCode;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use crate::context::Target;
use crate::error::CliError;
use crate::exit::Exit;
use crate::sse::{Message, Parser};

/// How long one call may take. The controller itself waits at most 15 s for
/// the quorum; the rest is the way.
const CALL_TIME_LIMIT: Duration = Duration::from_secs(30);

/// How long to try to reach the controller.
const CONNECT_TIME_LIMIT: Duration = Duration::from_secs(5);

/// The largest answer read: a page of 500 nodes has about 1 MB.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A stream that is silent for so long is dead: the controller sends a comment
/// every 15 s.
const STREAM_SILENCE_MAX: Duration = Duration::from_secs(45);

/// Pause before a stream is opened again; long enough to not hammer a
/// controller that restarts, short enough that nobody looks twice.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// A client of one controller.
pub(crate) struct Client {
    http: reqwest::Client,
    server: String,
    token: Option<Secret<String>>,
}

impl Client {
    pub(crate) fn new(target: Target) -> Result<Self, CliError> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIME_LIMIT)
            // A redirect would carry the token to another place.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("osmoda/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| CliError::failed("cannot set up HTTP", error.to_string()))?;
        Ok(Self { http, server: target.server.0, token: target.token.map(|(token, _)| token) })
    }

    /// The controller's address.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.server));
        match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }

    /// Reads an object below `/api/v1/fleet`.
    pub(crate) async fn get(&self, what: &str, path: &str) -> Result<Value, CliError> {
        let bytes = self.send(what, self.request(Method::GET, &format!("{BASE}{path}"))).await?;
        json(what, &bytes)
    }

    /// Reads exact bytes below `/api/v1/fleet`.
    pub(crate) async fn get_bytes(&self, what: &str, path: &str) -> Result<Vec<u8>, CliError> {
        self.send(what, self.request(Method::GET, &format!("{BASE}{path}"))).await
    }

    /// Reads a whole list, page by page, into one object with `items`.
    pub(crate) async fn list(&self, what: &str, path: &str) -> Result<Value, CliError> {
        let mut all: Vec<Value> = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let from = cursor.as_deref().map(|cursor| format!("&cursor={}", part(cursor))).unwrap_or_default();
            let url = format!("{BASE}{path}?limit={LIMIT_MAX}{from}");
            let mut page = json(what, &self.send(what, self.request(Method::GET, &url)).await?)?;
            if let Some(items) = page.get_mut("items").and_then(Value::as_array_mut) {
                all.append(items);
            }
            cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                return Ok(serde_json::json!({ "items": all }));
            }
        }
    }

    /// Sends an order.
    pub(crate) async fn post<T: serde::Serialize>(&self, what: &str, path: &str, body: &T) -> Result<Value, CliError> {
        let bytes = self.send(what, self.request(Method::POST, &format!("{BASE}{path}")).json(body)).await?;
        json(what, &bytes)
    }

    /// Stores exact bytes.
    pub(crate) async fn put_bytes(&self, what: &str, path: &str, body: Vec<u8>) -> Result<Value, CliError> {
        let request = self.request(Method::PUT, &format!("{BASE}{path}"));
        let request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body);
        json(what, &self.send(what, request).await?)
    }

    /// Asks the controller whether it is healthy, without a token's rights.
    pub(crate) async fn health(&self, what: &str) -> Result<Value, CliError> {
        let bytes = self.send(what, self.http.get(format!("{}/healthz", self.server))).await?;
        json(what, &bytes)
    }

    async fn send(&self, what: &str, request: reqwest::RequestBuilder) -> Result<Vec<u8>, CliError> {
        let answer = request.timeout(CALL_TIME_LIMIT).send().await.map_err(|error| self.unreachable(what, &error))?;
        let status = answer.status();
        let bytes = self.read(what, answer).await?;
        if status.is_success() { Ok(bytes) } else { Err(refusal(what, status, &bytes)) }
    }

    async fn read(&self, what: &str, answer: reqwest::Response) -> Result<Vec<u8>, CliError> {
        let mut bytes = Vec::new();
        let mut body = answer.bytes_stream();
        while let Some(part) = body.next().await {
            bytes.extend_from_slice(&part.map_err(|error| self.unreachable(what, &error))?);
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(CliError::failed(what, "the answer is larger than 16 MiB"));
            }
        }
        Ok(bytes)
    }

    fn unreachable(&self, what: &str, error: &reqwest::Error) -> CliError {
        if error.is_timeout() && !error.is_connect() {
            return CliError::new(Exit::TimedOut, what, format!("{} did not answer in time", self.server));
        }
        let cause = osmoda_kit::error::chain(error);
        // reqwest hides the TLS library's error behind `dyn Error`; its text is all there is.
        let next = match cause.contains("invalid peer certificate") {
            true => "if this is the controller, name the file of its authority's certificate in SSL_CERT_FILE",
            false => "is the controller running, and is the context right? osmoda doctor",
        };
        CliError::failed(what, format!("cannot reach {}: {cause}", self.server)).next(next)
    }

    /// Follows a stream of events until `take` says it is enough. Broken
    /// connections are opened again after the last id, so no event is lost or
    /// shown twice; a refusal ends it.
    ///
    /// # Cancel safety
    /// Nothing is lost but the connection.
    pub(crate) async fn follow<F>(
        &self,
        what: &str,
        path: &str,
        deadline: Option<Instant>,
        mut take: F,
    ) -> Result<(), CliError>
    where
        F: FnMut(Message) -> Result<Flow, CliError>,
    {
        let mut last: Option<String> = None;
        let mut misses = 0_u32;
        loop {
            match self.stream(what, path, deadline, &mut last, &mut take).await {
                Ok(Flow::Enough) => return Ok(()),
                Ok(Flow::More) => misses = 0,
                // The first connection must work; afterwards a restart of the
                // controller is an ordinary thing.
                Err(error) if last.is_none() && misses == 0 || is_final(&error) => return Err(error),
                Err(_) => misses += 1,
            }
            let pause = Instant::now() + RECONNECT_PAUSE;
            match deadline {
                Some(deadline) if deadline <= pause => return Err(late(what)),
                _ => tokio::time::sleep_until(pause).await,
            }
        }
    }

    async fn stream<F>(
        &self,
        what: &str,
        path: &str,
        deadline: Option<Instant>,
        last: &mut Option<String>,
        take: &mut F,
    ) -> Result<Flow, CliError>
    where
        F: FnMut(Message) -> Result<Flow, CliError>,
    {
        let mut request = self.request(Method::GET, &format!("{BASE}{path}"));
        if let Some(last) = &*last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().await.map_err(|error| self.unreachable(what, &error))?;
        let status = answer.status();
        if !status.is_success() {
            let bytes = self.read(what, answer).await?;
            return Err(refusal(what, status, &bytes));
        }
        let mut body = answer.bytes_stream();
        let mut parser = Parser::default();
        loop {
            let silence = Instant::now() + STREAM_SILENCE_MAX;
            let limit = deadline.map_or(silence, |deadline| deadline.min(silence));
            let part = match tokio::time::timeout_at(limit, body.next()).await {
                Ok(Some(Ok(part))) => part,
                Ok(Some(Err(_)) | None) => return Ok(Flow::More),
                Err(_) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => return Err(late(what)),
                Err(_) => return Ok(Flow::More),
            };
            for message in parser.feed(&part) {
                if message.id.is_some() {
                    last.clone_from(&message.id);
                }
                if take(message)? == Flow::Enough {
                    return Ok(Flow::Enough);
                }
            }
        }
    }
}

/// Whether a stream goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Wait for the next event.
    More,
    /// That was all that was wanted.
    Enough,
}

fn is_final(error: &CliError) -> bool {
    error.exit == Exit::TimedOut && error.code.is_none() || error.code.is_some_and(|code| !code.is_retryable())
}

fn late(what: &str) -> CliError {
    CliError::new(Exit::TimedOut, what, "it was not over in time").next("it goes on without this program; look again")
}

fn json(what: &str, bytes: &[u8]) -> Result<Value, CliError> {
    serde_json::from_slice(bytes).map_err(|error| CliError::failed(what, format!("the answer is no JSON: {error}")))
}

fn refusal(what: &str, status: StatusCode, bytes: &[u8]) -> CliError {
    match serde_json::from_slice::<ErrorBody>(bytes) {
        Ok(body) => CliError::refused(what, body),
        // Not our envelope: something in between answered.
        Err(_) => {
            let code = match status.as_u16() {
                401 => Some(ErrorCode::Unauthorized),
                403 => Some(ErrorCode::CallerDenied),
                404 => Some(ErrorCode::NotFound),
                _ => None,
            };
            let exit = code.map_or(Exit::Failed, Exit::of_code);
            CliError::new(exit, what, format!("the address answered {status}, but not as a controller does"))
                .next("is this the controller's address? osmoda context ls")
        }
    }
}

/// Quotes one part of a path: ids are plain, but what the user typed may not be.
pub(crate) fn part(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted.push_str(&format!("%{byte:02X}"));
        }
    }
    quoted
}
