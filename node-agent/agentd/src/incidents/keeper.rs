//! The one task that changes incidents.
//!
//! It checks, appends, and takes the row into the book, one request after the
//! other, so that the number of a step is what the ledger's order says.

use std::sync::Arc;

use osmoda_kit::error::ApiError;
use osmoda_kit::http::Caller;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{OnError, OnStop, TaskKind, Tasks};
use osmoda_node_api::agentd_records::{Incident, NewStep};
use osmoda_types::ErrorCode;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot, watch};

use super::book::{self, Book, CREATE, INCIDENTS_MAX, KINDS, RESOLVE, Rows, STEP, STEPS_MAX, Status};
use crate::api::{ledger_error, new_row};
use crate::ledger::file::{FileError, LedgerFile};
use crate::ledger::{Ledger, LedgerError, is_sound};

/// Changes that may wait. Each takes one commit; behind 32 of them a caller on a
/// slow disk has waited two seconds, and is told `busy`.
const CHANGES_WAITING_MAX: usize = 32;

/// Incidents in one answer, newest first: a page that people read.
const LISTED_MAX: usize = 100;

/// Rows read for one answer, at most; the largest incident is 502.
const LISTED_ROWS_MAX: usize = 2_000;

/// Ends when the daemon has finished what it accepted; without it incidents
/// cannot be changed, and nothing else is lost.
const KIND: TaskKind = TaskKind { on_error: OnError::LogOnly, on_stop: OnStop::Wait, ends_at: Stage::FinishAccepted };

/// What is to be recorded.
#[derive(Debug)]
pub(super) enum Change {
    /// A new incident.
    Create { name: String, id: String },
    /// A step of one.
    Step { id: String, step: NewStep },
    /// The end of one.
    Resolve { id: String },
}

type Reply = oneshot::Sender<Result<String, ApiError>>;

/// The incidents of this node; cheap to clone.
#[derive(Debug, Clone)]
pub struct Incidents {
    ledger: Ledger,
    changes: mpsc::Sender<(Caller, Change, Reply)>,
    book: watch::Receiver<Arc<Book>>,
}

impl Incidents {
    /// Reads the incidents from the ledger and starts to keep them.
    ///
    /// # Errors
    /// The ledger's, when it cannot be read.
    pub async fn start(ledger: Ledger, tasks: &Tasks) -> Result<Self, ApiError> {
        let read = ledger.read(|file: &LedgerFile| {
            let mut book = Book::default();
            file.each_of(&KINDS, |event| book.apply(event)).map(|()| book)
        });
        let book = read.await.map_err(ledger_error)?.map_err(ApiError::internal)?;
        let (publish, book) = watch::channel(Arc::new(book));
        let (changes, asked) = mpsc::channel(CHANGES_WAITING_MAX);
        tasks.spawn(KIND, "incidents", keep(ledger.clone(), publish, asked, tasks.clone()));
        Ok(Self { ledger, changes, book })
    }

    /// Records a change and returns the incident after it.
    pub(super) async fn change(&self, caller: Caller, change: Change) -> Result<Incident, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.changes.try_send((caller, change, reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                ApiError::new(ErrorCode::Busy, "too many changes of incidents at once")
            }
            mpsc::error::TrySendError::Closed(_) => stopping(),
        })?;
        let id = answer.await.map_err(|_| stopping())??;
        let rows = self.book.borrow().get(&id).cloned().ok_or_else(unknown)?;
        let read = self.ledger.read_after_append(read_all(vec![(id, rows)])).await;
        told(read)?.pop().ok_or_else(unknown)
    }

    /// One incident.
    pub(super) async fn get(&self, id: &str) -> Result<Incident, ApiError> {
        let rows = self.book.borrow().get(id).cloned().ok_or_else(unknown)?;
        let read = self.ledger.read(read_all(vec![(id.to_owned(), rows)])).await;
        told(read)?.pop().ok_or_else(unknown)
    }

    /// Incidents, newest first, within the caps of one answer.
    pub(super) async fn list(&self, status: Option<&str>) -> Result<Vec<Incident>, ApiError> {
        let wanted = {
            let book = self.book.borrow();
            let mut rows_left = LISTED_ROWS_MAX;
            book.newest(status)
                .take(LISTED_MAX)
                .take_while(|(_, rows)| {
                    let fits = rows.ids.len() <= rows_left;
                    rows_left = rows_left.saturating_sub(rows.ids.len());
                    fits
                })
                .map(|(id, rows)| (id.clone(), rows.clone()))
                .collect()
        };
        told(self.ledger.read(read_all(wanted)).await)
    }
}

/// Incidents as their rows are; `None` when one of the rows cannot be believed.
type Read = Result<Option<Vec<Incident>>, FileError>;

/// Reads incidents from their rows.
fn read_all(wanted: Vec<(String, Rows)>) -> impl FnOnce(&LedgerFile) -> Read + Send + 'static {
    move |file| {
        // One whose rows were dropped is gone with them, as it is after a restart.
        let dropped = file.beginning()?.map_or(0, |beginning| beginning.base.head.size);
        let is_there = |rows: &Rows| rows.ids.first().is_some_and(|id| u64::try_from(*id).is_ok_and(|id| id > dropped));
        let incidents = wanted.into_iter().filter(|(_, rows)| is_there(rows)).map(|(id, rows)| {
            let events = file.by_ids(&rows.ids)?;
            let is_whole = events.len() == rows.ids.len() && events.iter().all(is_sound);
            Ok(is_whole.then(|| book::incident(&id, &events)).flatten())
        });
        incidents.collect()
    }
}

/// A row that was changed under the daemon makes its incident unreadable, which is
/// said rather than hidden.
fn told(read: Result<Read, LedgerError>) -> Result<Vec<Incident>, ApiError> {
    let incidents = read.map_err(ledger_error)?.map_err(ApiError::internal)?;
    incidents
        .ok_or_else(|| ApiError::new(ErrorCode::LedgerBroken, "rows of the incident do not hash to what they carry"))
}

fn stopping() -> ApiError {
    ApiError::new(ErrorCode::ShuttingDown, "the daemon is stopping")
}

fn unknown() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "there is no such incident")
}

/// Serves changes until the stop, then refuses what still waits.
async fn keep(
    ledger: Ledger,
    publish: watch::Sender<Arc<Book>>,
    mut asked: mpsc::Receiver<(Caller, Change, Reply)>,
    tasks: Tasks,
) {
    let stop = tasks.shutdown().token(Stage::FinishAccepted);
    loop {
        let (caller, change, reply) = tokio::select! {
            biased;
            // Cancel-safe: a token's state is not consumed.
            () = stop.cancelled() => return,
            // Cancel-safe: a request that was not received stays in the queue.
            asked = asked.recv() => match asked {
                Some(asked) => asked,
                None => return,
            },
        };
        let result = record(&ledger, &publish, caller, change).await;
        if reply.send(result).is_err() {
            // The caller went away; the row stays.
            tracing::trace!("incident changed without its caller");
        }
    }
}

async fn record(
    ledger: &Ledger,
    publish: &watch::Sender<Arc<Book>>,
    caller: Caller,
    change: Change,
) -> Result<String, ApiError> {
    let (id, kind, payload) = row(&publish.borrow(), change)?;
    let row = new_row(kind.to_owned(), payload, &caller.who.to_string(), caller.isolation)?;
    let head = ledger.append(row).await.map_err(ledger_error)?;
    let row = i64::try_from(head.size).map_err(ApiError::internal)?;
    let read = ledger.read_after_append(move |file| file.by_ids(&[row])).await.map_err(ledger_error)?;
    let events = read.map_err(ApiError::internal)?;
    publish.send_modify(|book| events.iter().for_each(|event| Arc::make_mut(book).apply(event)));
    metrics::gauge!("osmoda_incidents").set(publish.borrow().len() as f64);
    Ok(id)
}

/// What a change is recorded as, if the book allows it.
fn row(book: &Book, change: Change) -> Result<(String, &'static str, Map<String, Value>), ApiError> {
    let (id, kind, payload) = match change {
        Change::Create { name, id } => {
            if book.len() >= INCIDENTS_MAX {
                let text = format!("there are {INCIDENTS_MAX} incidents, the limit");
                return Err(ApiError::new(ErrorCode::QuotaExceeded, text));
            }
            let payload = json!({ "incident": id, "name": name });
            (id, CREATE, payload)
        }
        Change::Step { id, step } => {
            if open(book, &id)?.steps() >= STEPS_MAX {
                let text = format!("the incident has {STEPS_MAX} steps, the limit");
                return Err(ApiError::new(ErrorCode::QuotaExceeded, text));
            }
            let mut payload = json!({ "incident": id, "action": step.action, "result": step.result });
            if let Some(receipt) = step.receipt_id {
                payload["receipt_id"] = Value::from(receipt);
            }
            (id, STEP, payload)
        }
        Change::Resolve { id } => {
            open(book, &id)?;
            let payload = json!({ "incident": id });
            (id, RESOLVE, payload)
        }
    };
    let Value::Object(payload) = payload else { unreachable!("each arm makes an object") };
    Ok((id, kind, payload))
}

fn open<'a>(book: &'a Book, id: &str) -> Result<&'a Rows, ApiError> {
    let rows = book.get(id).ok_or_else(unknown)?;
    match rows.status {
        Status::Open => Ok(rows),
        Status::Resolved => Err(ApiError::new(ErrorCode::Conflict, "the incident is resolved")),
    }
}
