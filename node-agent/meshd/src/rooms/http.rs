//! The room endpoints of `mesh.sock`.
//!
//! Reference paths keep their shapes (`reference/mesh.md` section 9); `/room/{id}/…`
//! is new. Making a room and changing its members is recorded in the ledger
//! first; messages are not: each is signed and chained to its author's last, and
//! a copy in the ledger of every member would say nothing more.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use axum::routing::{get, post};
use osmoda_kit::audit::Audit;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::Json;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh_rooms::{MessageId, RoomId};
use osmoda_node_api::rooms::{
    CreateRoom, Deliveries, HISTORY_DEFAULT, HISTORY_MAX, JoinRoom, Room, RoomMessage, RoomSummary, SendText, Sent,
};
use osmoda_types::ErrorCode;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::Rooms;

/// Events on their way to a reader of a tail; one that is slower is told later
/// how many it missed.
const EVENTS: usize = 64;

/// Between two comments on a silent tail: below the minute after which proxies
/// and clients give a silent connection up.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What the endpoints share.
pub(crate) struct Api {
    /// The rooms, or why there are none; the rest of the daemon works anyway.
    rooms: Result<Rooms, (ErrorCode, String)>,
    audit: Audit,
    tasks: Tasks,
}

impl Api {
    pub(crate) fn new(rooms: Result<Rooms, ApiError>, audit: Audit, tasks: Tasks) -> Self {
        let rooms = rooms.map_err(|error| {
            tracing::error!(error = osmoda_kit::error::chain(&error), "rooms are not available");
            (error.code, error.message)
        });
        Self { rooms, audit, tasks }
    }

    fn rooms(&self) -> Result<&Rooms, ApiError> {
        self.rooms.as_ref().map_err(|(code, text)| ApiError::new(*code, text.clone()))
    }
}

pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/rooms", get(list))
        .route("/room/create", post(create))
        .route("/room/join", post(join))
        .route("/room/leave", post(leave))
        .route("/room/send", post(send))
        .route("/room/history", get(history))
        .route("/room/{id}/history", get(history_of))
        .route("/room/{id}/tail", get(tail))
        .route("/room/{id}/delivery", get(delivery))
        .with_state(api)
}

/// A text that is no id names no room: the reference answers 404.
fn room(text: &str) -> Result<RoomId, ApiError> {
    text.parse().map_err(|error: osmoda_mesh_rooms::NotARoomId| ApiError::new(ErrorCode::NotFound, error.to_string()))
}

async fn list(State(api): State<Arc<Api>>) -> Result<Json<Vec<RoomSummary>>, ApiError> {
    api.rooms()?.list().await.map(Json)
}

async fn create(State(api): State<Arc<Api>>, Json(create): Json<CreateRoom>) -> Result<Json<Room>, ApiError> {
    let rooms = api.rooms()?;
    let what = json!({ "name": create.name, "members": create.peer_ids });
    let intent = api.audit.intent("mesh.room.create", what).await?;
    let made = rooms.create(&create).await;
    intent.outcome(json!({ "room": made.as_ref().ok().map(|room| &room.id), "made": made.is_ok() })).await?;
    made.map(Json)
}

async fn join(State(api): State<Arc<Api>>, Json(join): Json<JoinRoom>) -> Result<Json<Room>, ApiError> {
    let (rooms, id) = (api.rooms()?, room(&join.room_id)?);
    let what = json!({ "room": id.to_string(), "node": join.peer_id });
    let intent = api.audit.intent("mesh.room.join", what).await?;
    let joined = rooms.join(id, join.peer_id).await;
    intent.outcome(json!({ "joined": joined.is_ok() })).await?;
    joined.map(Json)
}

async fn leave(State(api): State<Arc<Api>>, Json(leave): Json<JoinRoom>) -> Result<Json<serde_json::Value>, ApiError> {
    let (rooms, id) = (api.rooms()?, room(&leave.room_id)?);
    let what = json!({ "room": id.to_string(), "node": leave.peer_id });
    let intent = api.audit.intent("mesh.room.leave", what).await?;
    let left = rooms.leave(id, leave.peer_id).await;
    intent.outcome(json!({ "left": left.is_ok() })).await?;
    left.map(|()| Json(json!({ "left": leave.room_id })))
}

async fn send(State(api): State<Arc<Api>>, Json(text): Json<SendText>) -> Result<Json<Sent>, ApiError> {
    api.rooms()?.send(room(&text.room_id)?, text.text).await.map(Json)
}

#[derive(Deserialize)]
struct OfRoom {
    room_id: String,
    limit: Option<usize>,
}

async fn history(State(api): State<Arc<Api>>, Query(of): Query<OfRoom>) -> Result<Json<Vec<RoomMessage>>, ApiError> {
    newest(&api, &of.room_id, of.limit).await
}

#[derive(Deserialize)]
struct Limit {
    limit: Option<usize>,
}

async fn history_of(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Query(Limit { limit }): Query<Limit>,
) -> Result<Json<Vec<RoomMessage>>, ApiError> {
    newest(&api, &id, limit).await
}

async fn newest(api: &Api, id: &str, limit: Option<usize>) -> Result<Json<Vec<RoomMessage>>, ApiError> {
    let limit = limit.unwrap_or(HISTORY_DEFAULT).min(HISTORY_MAX);
    api.rooms()?.show(room(id)?, limit).await.map(|room| Json(room.messages))
}

async fn delivery(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<Deliveries>, ApiError> {
    api.rooms()?.delivery(room(&id)?).await.map(Json)
}

type Events = ReceiverStream<Result<Event, Infallible>>;

/// Messages as they become durable here: `event: message`, the id of the message
/// as `id`; `event: missed` when the reader was too slow.
async fn tail(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Query(Limit { limit }): Query<Limit>,
) -> Result<Sse<axum::response::sse::KeepAliveStream<Events>>, ApiError> {
    let (rooms, id) = (api.rooms()?.clone(), room(&id)?);
    // Listening first: a message between the two is in both and told once.
    let new = rooms.tail(id).await?;
    let first = rooms.show(id, limit.unwrap_or(0).min(HISTORY_MAX)).await?.messages;
    let (sender, events) = mpsc::channel(EVENTS);
    let stop = api.tasks.shutdown().token(Stage::RefuseNew);
    api.tasks.spawn(TaskKind::BACKGROUND, format!("tail of room {id}"), async move {
        tokio::select! {
            biased;
            // Safe to drop the other arm: a reader that is cut connects again.
            () = stop.cancelled() => {}
            // Runs until the reader goes away.
            () = follow(&rooms, id, first, new, sender) => {}
        }
    });
    Ok(Sse::new(ReceiverStream::new(events)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

async fn follow(
    rooms: &Rooms,
    id: RoomId,
    first: Vec<RoomMessage>,
    mut new: broadcast::Receiver<MessageId>,
    sender: mpsc::Sender<Result<Event, Infallible>>,
) {
    let mut told: BTreeSet<String> = first.iter().map(|message| message.id.clone()).collect();
    for message in first {
        if sender.send(Ok(event(&message))).await.is_err() {
            return;
        }
    }
    loop {
        let next = tokio::select! {
            // Safe to drop: it takes nothing.
            () = sender.closed() => return,
            // Safe to drop: a receive that was not ready took nothing.
            next = new.recv() => next,
        };
        let event = match next {
            Ok(message) if told.remove(&message.to_string()) => continue,
            Ok(message) => match rooms.message(id, message).await {
                Ok(Some(message)) => event(&message),
                Ok(None) => continue,
                Err(_) => return,
            },
            Err(RecvError::Lagged(missed)) => {
                Event::default().event("missed").data(json!({ "messages": missed }).to_string())
            }
            Err(RecvError::Closed) => return,
        };
        if sender.send(Ok(event)).await.is_err() {
            return;
        }
    }
}

fn event(message: &RoomMessage) -> Event {
    let data = json!(message).to_string();
    Event::default().event("message").id(&message.id).data(data)
}
