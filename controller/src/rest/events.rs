//! Server-sent events from the stored outbox.
//!
//! Invariant: a stream tells every stored event after its cursor, in order and
//! once; a client that comes back with the last id it saw loses nothing. When
//! events it missed were pruned it is told `reset` first.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{Event as Message, KeepAlive};
use futures_util::Stream;
use osmoda_controller_api::Event;
use osmoda_controller_store::EventRow;
use osmoda_kit::clock::Timestamp;
use osmoda_kit::error::ApiError;
use osmoda_kit::shutdown::Stage;
use osmoda_types::{ErrorCode, RolloutId};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::body::id;
use super::{Answer, App, rollouts, stored};
use crate::projection::StoredBody;

/// Events read at once: a page of about 100 kB.
const PAGE: u32 = 256;

/// How often a quiet stream says that it lives; proxies cut idle ones after 60 s.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long browsers wait before they reconnect.
const RETRY: Duration = Duration::from_secs(2);

/// Where to resume.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resume {
    cursor: Option<String>,
}

/// `GET /events`.
pub(super) async fn fleet(
    State(app): State<App>,
    resume: Result<Query<Resume>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Answer<Sse<impl Stream<Item = Result<Message, Infallible>>>> {
    // Without a cursor: from now on. The past of a whole fleet is a list.
    let newest = *app.published.newest_event.borrow();
    let after = cursor(resume, &headers)?.unwrap_or(newest);
    open(&app, None, after).await
}

/// `GET /rollouts/{id}/events`.
pub(super) async fn rollout(
    State(app): State<App>,
    Path(text): Path<String>,
    resume: Result<Query<Resume>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Answer<Sse<impl Stream<Item = Result<Message, Infallible>>>> {
    let rollout: RolloutId = id("the rollout id", &text)?;
    rollouts::find(&app, rollout).await?;
    // Without a cursor: from its beginning.
    let after = cursor(resume, &headers)?.unwrap_or(0);
    open(&app, Some(rollout), after).await
}

fn cursor(
    resume: Result<Query<Resume>, axum::extract::rejection::QueryRejection>,
    headers: &HeaderMap,
) -> Result<Option<u64>, ApiError> {
    let bad = || ApiError::new(ErrorCode::BadRequest, "the cursor is the id of an event");
    let Query(resume) = resume.map_err(|_| bad())?;
    let header = headers.get("last-event-id").map(|value| value.to_str().map_err(|_| bad())).transpose()?;
    header.or(resume.cursor.as_deref()).map(|text| text.parse().map_err(|_| bad())).transpose()
}

/// A stream in the middle of its work.
struct Reader {
    app: App,
    rollout: Option<RolloutId>,
    after: u64,
    buffer: std::vec::IntoIter<EventRow>,
    first: Option<Message>,
    newest: tokio::sync::watch::Receiver<u64>,
    stop: CancellationToken,
    /// Held as long as the stream is open.
    _permit: OwnedSemaphorePermit,
}

async fn open(
    app: &App,
    rollout: Option<RolloutId>,
    after: u64,
) -> Answer<Sse<impl Stream<Item = Result<Message, Infallible>> + use<>>> {
    let permit = Arc::clone(&app.streams).try_acquire_owned();
    let permit = permit.map_err(|_| ApiError::new(ErrorCode::Busy, "too many event streams are open"))?;
    let bounds = app.store.event_bounds().await.map_err(stored)?;
    let pruned = after > 0 && after + 1 < bounds.oldest;
    let first = match pruned || after > bounds.newest {
        true => Message::default().event("reset").data("{\"reason\":\"the cursor is not here any more\"}"),
        false => Message::default().comment("hello"),
    };
    let reader = Reader {
        app: app.clone(),
        rollout,
        after: if after > bounds.newest { 0 } else { after },
        buffer: Vec::new().into_iter(),
        first: Some(first.retry(RETRY)),
        newest: app.published.newest_event.clone(),
        stop: app.shutdown.token(Stage::RefuseNew),
        _permit: permit,
    };
    let stream = futures_util::stream::unfold(reader, |mut reader| async {
        let message = reader.next().await?;
        Some((Ok(message), reader))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl Reader {
    /// The next message; nothing when the stream is over.
    async fn next(&mut self) -> Option<Message> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            if let Some(row) = self.buffer.next() {
                self.after = row.id;
                return message(&row);
            }
            // Marked before the read: what is stored in between wakes us.
            self.newest.borrow_and_update();
            let read = self.app.store.events(self.rollout, self.after, PAGE).await;
            match read {
                Ok(rows) if !rows.is_empty() => self.buffer = rows.into_iter(),
                Ok(_) => tokio::select! {
                    biased;
                    // Cancel-safe: a token.
                    () = self.stop.cancelled() => return None,
                    // Cancel-safe, as documented for `changed`.
                    changed = self.newest.changed() => changed.ok()?,
                },
                Err(error) => {
                    tracing::warn!(error = osmoda_kit::error::chain(&error), "event stream ends early");
                    return None;
                }
            }
        }
    }
}

fn message(row: &EventRow) -> Option<Message> {
    let parsed: Result<StoredBody, _> = serde_json::from_str(&row.event.body);
    let StoredBody { by, reason, body } = match parsed {
        Ok(body) => body,
        Err(error) => {
            tracing::error!(id = row.id, %error, "stored event cannot be read");
            return None;
        }
    };
    let event = Event {
        id: row.id.to_string(),
        index: row.event.index,
        at: Timestamp::from_millis(row.event.at_ms).to_string(),
        rollout: row.event.rollout,
        by,
        reason,
        body,
    };
    let data = serde_json::to_string(&event).ok()?;
    Some(Message::default().event("event").id(&event.id).data(data))
}
