//! What watch tells the ledger: an intent before each effect, an outcome for
//! every intent, and nothing lost when the ledger is away.
//!
//! Invariant: every row is in a file first and goes from there to the ledger, in
//! order. An activation and a commit wait until their intent is in the ledger;
//! outcomes and rollbacks wait for nothing, and behind nothing that the ledger has no
//! room for: an intent it refuses so leaves the file, its act did not begin. A row whose fate a crash or a lost
//! answer hid is looked for in the ledger before it is sent again, so each intent
//! meets its outcome. A damaged file is the one thing that leaves intents open.

use osmoda_journal::Phase;
use osmoda_kit::audit::Audit;
use osmoda_kit::error::ApiError;
use osmoda_kit::fsio;
use osmoda_kit::http::UnixClient;
use osmoda_node_api::agentd::{AgentdClient, EventQuery};
use osmoda_types::{AttemptId, ErrorCode};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// The largest trail file; a row is below 4 KiB, so this is some hundred rows.
const TRAIL_BYTES_MAX: u64 = 1024 * 1024;

/// The most rows kept while the ledger is away. An attempt makes seven, and
/// none is activated without the ledger, so only what is put off or rolled back
/// can add to them.
const SPOOL_ROWS_MAX: usize = 128;

/// How many of the newest intents are searched for one whose answer was lost.
/// It is the last one that was sent, unless a ledger restored rows meanwhile.
const SEARCH_ROWS: i64 = 50;

/// What is intended and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Act {
    /// An attempt as a whole.
    Attempt,
    /// Moving the boot default to the target.
    Commit,
    /// Returning to the baseline.
    Rollback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    Intent,
    Outcome,
    Deferred,
}

/// An intent that was put down.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Intended {
    attempt: AttemptId,
    act: Act,
    /// Its row, once the ledger has confirmed it.
    row: Option<i64>,
    /// The ledger may hold it more than once.
    is_repeated: bool,
    /// An outcome was put down.
    has_outcome: bool,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Row {
    attempt: AttemptId,
    act: Act,
    part: Part,
    payload: Value,
}

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The intents of the last attempt, and older ones that are not over.
    intended: Vec<Intended>,
    /// The last attempt and phase that were told.
    told: Option<(AttemptId, String)>,
    /// Rows the ledger has not confirmed.
    spool: VecDeque<Row>,
}

/// The trail; owned by the driver.
#[derive(Debug)]
pub(crate) struct Trail {
    audit: Audit,
    ledger: AgentdClient,
    path: PathBuf,
    file: File,
    /// The first row of the spool may be in the ledger already.
    is_doubtful: bool,
}

impl Act {
    const fn stem(self) -> &'static str {
        match self {
            Act::Attempt => "watch.attempt",
            Act::Commit => "watch.commit",
            Act::Rollback => "watch.rollback",
        }
    }
}

impl Row {
    fn kind(&self) -> String {
        let part = match self.part {
            Part::Intent => "intent",
            Part::Outcome => "outcome",
            Part::Deferred => "deferred",
        };
        format!("{}.{part}", self.act.stem())
    }

    /// Whether nothing is done before the ledger has it: the intent of whatever does
    /// not lead back.
    fn is_waited_for(&self) -> bool {
        self.part == Part::Intent && self.act != Act::Rollback && self.payload["undo"] != json!(true)
    }
}

impl Trail {
    /// The trail kept in `state_dir`, of rows for the ledger behind `agentd`. A
    /// damaged file is put aside, not trusted and not overwritten.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub(crate) fn open(agentd: &UnixClient, state_dir: &Path) -> Result<Self, ApiError> {
        let path = state_dir.join("trail.json");
        let fail = |error: fsio::FsError| ApiError::new(error.code(), "the trail is unusable").with_source(error);
        let file = match fsio::read_limited(&path, TRAIL_BYTES_MAX).map_err(fail)? {
            None => File::default(),
            Some(bytes) => match serde_json::from_slice(&bytes) {
                Ok(file) => file,
                Err(error) => {
                    tracing::error!(%error, path = %path.display(), "the trail is damaged, put aside");
                    std::fs::rename(&path, path.with_extension("damaged")).map_err(ApiError::internal)?;
                    File::default()
                }
            },
        };
        let (audit, ledger) = (Audit::new(agentd.clone()), AgentdClient::new(agentd.clone()));
        // The run before may have ended between sending and noting it.
        let is_doubtful = !file.spool.is_empty();
        Ok(Self { audit, ledger, path, file, is_doubtful })
    }

    /// Puts down an intent, once, and waits until the ledger has it.
    ///
    /// # Errors
    /// [`ErrorCode::LedgerUnavailable`] and the like; the act must not begin. The
    /// intent stays in the trail and needs its outcome all the same. It does not after
    /// [`ErrorCode::DiskFull`]: the ledger has no room for acts that begin.
    pub(crate) async fn intend(&mut self, attempt: AttemptId, act: Act, payload: Value) -> Result<(), ApiError> {
        self.put_intent(attempt, act, payload)?;
        let no_room = self.send_all().await?;
        match self.find(attempt, act) {
            Some(Intended { row: Some(_), .. }) => Ok(()),
            _ => {
                Err(no_room.unwrap_or_else(|| ApiError::new(ErrorCode::LedgerGrammar, "the ledger refused the intent")))
            }
        }
    }

    /// Puts down an intent, once.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub(crate) fn put_intent(&mut self, attempt: AttemptId, act: Act, payload: Value) -> Result<(), ApiError> {
        if self.find(attempt, act).is_none() {
            self.intend_row(attempt, act, payload);
            self.save()?;
        }
        Ok(())
    }

    /// Puts down what a phase means for the acts of an attempt, once.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub(crate) fn tell(&mut self, attempt: AttemptId, phase: Phase, payload: &Value) -> Result<(), ApiError> {
        let news = (attempt, phase.as_str().to_owned());
        if self.file.told.as_ref() == Some(&news) {
            return Ok(());
        }
        let is_open = |act: &Option<&Intended>| act.is_some_and(|act| !act.has_outcome);
        if is_open(&self.find(attempt, Act::Commit)) {
            self.push(attempt, Act::Commit, Part::Outcome, payload);
        }
        match phase {
            Phase::RollingBack if self.find(attempt, Act::Rollback).is_none() => {
                self.intend_row(attempt, Act::Rollback, payload.clone());
            }
            Phase::RollingBack => {}
            Phase::Deferred => {
                self.push(attempt, Act::Attempt, Part::Deferred, payload);
                if self.find(attempt, Act::Attempt).is_some() {
                    self.push(attempt, Act::Attempt, Part::Outcome, payload);
                }
            }
            _ => {
                if self.find(attempt, Act::Rollback).is_some() {
                    self.push(attempt, Act::Rollback, Part::Outcome, payload);
                }
                self.push(attempt, Act::Attempt, Part::Outcome, payload);
            }
        }
        self.file.told = Some(news);
        self.save()
    }

    /// Attempts other than the present one that have intents without outcome: a
    /// next one began before their end was told.
    pub(crate) fn left_open(&self, present: Option<AttemptId>) -> Vec<AttemptId> {
        let open = self.file.intended.iter().filter(|act| !act.has_outcome && Some(act.attempt) != present);
        let mut left: Vec<AttemptId> = open.map(|act| act.attempt).collect();
        left.dedup();
        left
    }

    /// Gives every open intent of an attempt its outcome.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub(crate) fn close(&mut self, attempt: AttemptId, payload: &Value) -> Result<(), ApiError> {
        for act in [Act::Commit, Act::Rollback, Act::Attempt] {
            if self.find(attempt, act).is_some_and(|act| !act.has_outcome) {
                self.push(attempt, act, Part::Outcome, payload);
            }
        }
        self.save()
    }

    /// Sends what is kept.
    ///
    /// # Errors
    /// Why rows are left.
    pub(crate) async fn deliver(&mut self) -> Result<(), ApiError> {
        self.send_all().await.map(drop)
    }

    /// Sends what is kept; returns why the last intent was refused that there was no
    /// room for.
    async fn send_all(&mut self) -> Result<Option<ApiError>, ApiError> {
        let mut no_room = None;
        while let Some(row) = self.file.spool.front().cloned() {
            match self.send(&row).await {
                Ok(()) => {}
                // Grammar faults would block everything behind them for ever.
                Err(error) if error.code == ErrorCode::LedgerGrammar => {
                    tracing::error!(kind = row.kind(), error = %error, "the ledger refused a row, dropped");
                    if row.part == Part::Intent {
                        self.file.intended.retain(|act| (act.attempt, act.act) != (row.attempt, row.act));
                    }
                }
                // So would this one, rollbacks among them, as long as room is low.
                Err(error) if error.code == ErrorCode::DiskFull && row.is_waited_for() => {
                    tracing::warn!(kind = row.kind(), "the ledger has no room for an act to begin");
                    self.forget_unbegun(&row);
                    no_room = Some(error);
                }
                Err(error) => {
                    self.is_doubtful = true;
                    let rows = self.file.spool.len();
                    tracing::warn!(code = %error.code, rows, "the ledger does not take rows");
                    return Err(error);
                }
            }
            self.is_doubtful = false;
            self.file.spool.pop_front();
            self.forget_ended();
            self.save()?;
        }
        Ok(no_room)
    }

    /// Forgets an act that did not begin, and an outcome that was to tell so.
    fn forget_unbegun(&mut self, intent: &Row) {
        let of = (intent.attempt, intent.act);
        self.file.intended.retain(|act| (act.attempt, act.act) != of);
        self.file.spool.retain(|row| row.part != Part::Outcome || (row.attempt, row.act) != of);
    }

    async fn send(&mut self, row: &Row) -> Result<(), ApiError> {
        match row.part {
            Part::Deferred => self.audit.record(&row.kind(), row.payload.clone()).await.map(drop),
            Part::Intent => {
                let present = if self.is_doubtful { self.search(row).await? } else { Vec::new() };
                let id = match present.first() {
                    Some(id) => *id,
                    None => self.send_intent(row).await?,
                };
                let is_repeated = self.is_doubtful;
                if let Some(act) = self.find_mut(row.attempt, row.act) {
                    (act.row, act.is_repeated) = (Some(id), is_repeated);
                }
                Ok(())
            }
            Part::Outcome => {
                let intents = match self.find(row.attempt, row.act) {
                    Some(Intended { row: Some(id), is_repeated: false, .. }) => vec![*id],
                    _ => self.search(row).await?,
                };
                if intents.is_empty() {
                    let kind = format!("{}.unpaired", row.act.stem());
                    return self.audit.record(&kind, row.payload.clone()).await.map(drop);
                }
                for intent in intents {
                    let mut payload = row.payload.clone();
                    payload["intent"] = json!(intent);
                    self.audit.record(&row.kind(), payload).await?;
                }
                Ok(())
            }
        }
    }

    async fn send_intent(&self, row: &Row) -> Result<i64, ApiError> {
        match self.audit.record(&row.kind(), row.payload.clone()).await {
            Ok(recorded) => Ok(recorded.id),
            // One sent before may have come in after it was looked for.
            Err(error) if error.code == ErrorCode::DiskFull && self.is_doubtful => {
                self.search(row).await?.first().copied().ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// The ledger's intents of the act that a row belongs to, oldest first.
    async fn search(&self, row: &Row) -> Result<Vec<i64>, ApiError> {
        let kind = Row { part: Part::Intent, ..row.clone() }.kind();
        let query = EventQuery { kind: Some(kind), limit: SEARCH_ROWS, ..EventQuery::default() };
        let events = self.ledger.events(&query).await.map_err(|error| {
            ApiError::new(ErrorCode::LedgerUnavailable, "the ledger cannot be searched").with_source(error)
        })?;
        let is_wanted = |payload: &str| {
            let payload: Value = serde_json::from_str(payload).unwrap_or_default();
            payload["attempt"] == json!(row.attempt)
        };
        Ok(events.iter().rev().filter(|event| is_wanted(&event.payload)).map(|event| event.id).collect())
    }

    fn find(&self, attempt: AttemptId, act: Act) -> Option<&Intended> {
        self.file.intended.iter().find(|one| (one.attempt, one.act) == (attempt, act))
    }

    fn find_mut(&mut self, attempt: AttemptId, act: Act) -> Option<&mut Intended> {
        self.file.intended.iter_mut().find(|one| (one.attempt, one.act) == (attempt, act))
    }

    fn intend_row(&mut self, attempt: AttemptId, act: Act, payload: Value) {
        self.file.intended.push(Intended { attempt, act, row: None, is_repeated: false, has_outcome: false });
        self.push(attempt, act, Part::Intent, &payload);
    }

    fn push(&mut self, attempt: AttemptId, act: Act, part: Part, payload: &Value) {
        if part == Part::Outcome
            && let Some(act) = self.find_mut(attempt, act)
        {
            act.has_outcome = true;
        }
        self.make_room();
        self.file.spool.push_back(Row { attempt, act, part, payload: payload.clone() });
    }

    /// Drops the oldest attempt that the ledger has heard nothing of; where there
    /// is none, the oldest row.
    fn make_room(&mut self) {
        while self.file.spool.len() >= SPOOL_ROWS_MAX {
            tracing::error!("the ledger has been away for too long, the oldest rows are dropped");
            let heard = |attempt| self.file.intended.iter().any(|act| act.attempt == attempt && act.row.is_some());
            let present = self.file.spool.back().map(|row| row.attempt);
            let unheard =
                self.file.spool.iter().map(|row| row.attempt).find(|one| !heard(*one) && Some(*one) != present);
            match unheard {
                Some(attempt) => {
                    self.file.spool.retain(|row| row.attempt != attempt);
                    self.file.intended.retain(|act| act.attempt != attempt);
                }
                None => drop(self.file.spool.pop_front()),
            }
        }
    }

    /// Intents of the last attempt are kept: its outcome can still change.
    fn forget_ended(&mut self) {
        let last = self.file.intended.last().map(|act| act.attempt);
        let spool = &self.file.spool;
        let is_due = |act: &Intended| spool.iter().any(|row| (row.attempt, row.act) == (act.attempt, act.act));
        self.file.intended.retain(|act| !act.has_outcome || Some(act.attempt) == last || is_due(act));
    }

    fn save(&self) -> Result<(), ApiError> {
        let text = serde_json::to_vec(&self.file).map_err(ApiError::internal)?;
        fsio::write_atomic(&self.path, &text, 0o600)
            .map_err(|error| ApiError::new(error.code(), "the trail cannot be written").with_source(error))
    }
}

#[cfg(test)]
mod tests;
