//! Retention: the oldest rows go, the proof that they were there stays.
//!
//! ```text
//! tiles of the rows durable ► intent row ► witnesses cosign it ► one commit: outcome
//!   row, beginning, rows gone
//! ```
//! Off unless it is configured. Rows go from the first on and a whole number of
//! tiles at a time; the tree over them stays, so every later proof holds, and
//! `agentctl verify-ledger` says from where it verified.
//!
//! Invariant: what is dropped lies below a checkpoint that a quorum of witnesses
//! cosigned and from which the kept tree was proven. Without witnesses nothing is.
//! Invariant: a stop anywhere leaves the rows or their beginning, because both
//! change in one commit. An intent without outcome dropped nothing.
//! What is not over is kept: an open incident, a run without outcome, and
//! whatever came after them.

use std::time::Duration;

use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::http::Isolation;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::Tasks;
use osmoda_ledger::audit::RETAIN_TYPE;
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::tree::TILE_HASHES;
use rusqlite::OptionalExtension;
use serde_json::{Map, Value, json};

use crate::api::{ledger_error, new_row};
use crate::approval::gate::HeadGate;
use crate::checkpoint::{CheckpointFailed, Checkpoints};
use crate::incidents;
use crate::ledger::base::{self, Beginning};
use crate::ledger::file::{FileError, LedgerFile};
use crate::ledger::record::ChainHash;
use crate::ledger::{Guarded, Ledger};
use crate::witness::WitnessGate;

/// Between two looks. Age is in days, so an hour late is nothing.
const EVERY: Duration = Duration::from_secs(3600);

/// Rows dropped in one commit, 80 tiles: some 100 ms in which other appends wait.
const STEP_ROWS: u64 = 80 * TILE_HASHES as u64;

/// The row that says it is done.
const OUTCOME: &str = "ledger.retain.outcome";

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Rows younger than this; all of them where there is none.
    pub age: Option<Duration>,
    /// As many bytes of the newest rows; all of them where there is none.
    pub bytes: Option<u64>,
    /// The newest rows in any case.
    pub rows: u64,
}

/// What retention stands on.
pub struct Retention {
    /// The rows.
    pub ledger: Ledger,
    /// The tree and who signed it.
    pub checkpoints: Checkpoints,
    /// The witnesses.
    pub gate: WitnessGate,
    /// Time.
    pub clock: SharedClock,
    /// What is kept.
    pub keep: Keep,
    /// How far daemons are kept apart here.
    pub isolation: Isolation,
}

/// What could go now: the last row of it.
struct Last {
    size: u64,
    hash: ChainHash,
    ts: String,
    dropped: u64,
}

impl Retention {
    /// Looks each hour until the stop. `done` is called when rows were dropped.
    pub async fn run(self, tasks: Tasks, done: impl Fn() + Send) {
        if self.keep.age.is_none() && self.keep.bytes.is_none() {
            return;
        }
        let stop = tasks.shutdown().token(Stage::RefuseNew);
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: a token's state is not consumed.
                () = stop.cancelled() => return,
                // Cancel-safe: an interval keeps its deadline.
                _ = tick.tick() => {}
            }
            let mut is_any = false;
            while !tasks.shutdown().is_requested() {
                match self.step().await {
                    Ok(Some(size)) => {
                        is_any = true;
                        tracing::info!(rows = size, "old rows of the ledger dropped");
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "old rows of the ledger are kept for now");
                        break;
                    }
                }
            }
            if is_any {
                done();
            }
        }
    }

    /// Drops one step's rows; tells up to which, `None` when nothing may go.
    ///
    /// # Errors
    /// [`ErrorCode::WitnessUnavailable`] and those of the ledger; then nothing went.
    ///
    /// # Cancel safety
    /// Dropped, the rows may have gone; what is left verifies either way.
    pub async fn step(&self) -> Result<Option<u64>, ApiError> {
        self.gate.ready().await?;
        let (needed, _) = self.gate.coverage.borrow().quorum();
        let Some(note) = self.checkpoints.newest_cosigned(needed).await? else { return Ok(None) };
        let covered = Checkpoint::parse(note.text()).map_err(ApiError::internal)?;
        let (keep, before) = (self.keep, self.before());
        let read = self.ledger.read(move |file| last(file, keep, before.as_deref(), covered.size)).await;
        let Some(last) = read.map_err(ledger_error)?.map_err(ApiError::internal)? else { return Ok(None) };
        let beginning = self.prove(&last, &covered).await?;
        let intent = self.intend(&last, &beginning).await?;
        if let Err(error) = self.gate.witnessed(intent).await {
            let row = self.row(OUTCOME, json!({ "intent": intent, "ok": false, "code": error.code }))?;
            self.ledger.append(row).await.map_err(ledger_error)?;
            return Err(error);
        }
        let row = self.row(OUTCOME, json!({ "intent": intent, "ok": true, "rows": last.size }))?;
        let kept = beginning.clone();
        let drop_rows = move |connection: &rusqlite::Connection, _| {
            base::drop_rows(connection, &kept)?;
            Ok(Ok::<(), std::convert::Infallible>(()))
        };
        self.ledger.append_if(row, drop_rows).await.map_err(|error| match error {
            Guarded::Refused(never) => match never {},
            Guarded::Ledger(error) => ledger_error(error),
        })?;
        self.checkpoints.begin_at(beginning.edge).await?;
        metrics::gauge!("osmoda_ledger_dropped_rows").set(last.size as f64);
        Ok(Some(last.size))
    }

    /// The time before which rows are old; none where age does not count.
    fn before(&self) -> Option<String> {
        let age = i64::try_from(self.keep.age?.as_millis()).unwrap_or(i64::MAX);
        let before = self.clock.now_wall().as_millis().saturating_sub(age).max(0);
        Some(osmoda_kit::clock::Timestamp::from_millis(before).to_string())
    }

    /// The tree over the rows that go, proven to be a beginning of what was cosigned.
    async fn prove(&self, last: &Last, covered: &Checkpoint) -> Result<Beginning, ApiError> {
        let edge = self.checkpoints.settle(last.size).await?;
        let proof = self.checkpoints.consistency(last.size, covered.size).await?;
        if proof.old != edge.root() || proof.new != covered.root {
            return Err(CheckpointFailed::Disagree { size: last.size }.into());
        }
        Ok(Beginning::new(last.hash, last.ts.clone(), edge))
    }

    async fn intend(&self, last: &Last, beginning: &Beginning) -> Result<u64, ApiError> {
        let Beginning { base, .. } = beginning;
        let payload = json!({
            "from": last.dropped + 1, "rows": base.head.size, "chain": base.head.hash.as_str(),
            "root": base.tree.root().to_base64(), "ts": base.ts,
        });
        let row = self.row(RETAIN_TYPE, payload)?;
        Ok(self.ledger.append(row).await.map_err(ledger_error)?.size)
    }

    fn row(&self, kind: &str, payload: Value) -> Result<crate::ledger::NewRow, ApiError> {
        let payload = payload.as_object().cloned().unwrap_or_else(Map::new);
        new_row(kind.to_owned(), payload, "agentd", self.isolation)
    }
}

/// The last row that may go in this step.
fn last(file: &LedgerFile, keep: Keep, before: Option<&str>, covered: u64) -> Result<Option<Last>, FileError> {
    let tile = TILE_HASHES as u64;
    let dropped = file.beginning()?.map_or(0, |beginning| beginning.base.head.size);
    let head = u64::try_from(file.last_id()?).unwrap_or(0);
    let below = |id: i64| u64::try_from(id - 1).unwrap_or(0);
    let old = before.map(|before| file.first_at(before)).transpose()?.map_or(0, below);
    let is_over = keep.bytes.map(|bytes| Ok::<_, FileError>(file.used_bytes()? > bytes)).transpose()?.unwrap_or(false);
    let wanted = if is_over { u64::MAX } else { old };
    let mut size = wanted.min(covered).min(head.saturating_sub(keep.rows)).min(dropped + STEP_ROWS);
    for open in [incidents::oldest_open(file)?, oldest_open_run(file)?].into_iter().flatten() {
        size = size.min(below(open));
    }
    let size = size / tile * tile;
    if size <= dropped {
        return Ok(None);
    }
    let Ok(id) = i64::try_from(size) else { return Ok(None) };
    let row = file.by_ids(&[id])?.pop();
    let hash = row.as_ref().and_then(|row| ChainHash::from_stored(row.hash.as_bytes()));
    Ok(row.zip(hash).map(|(row, hash)| Last { size, hash, ts: row.ts, dropped }))
}

/// The intent of the oldest run that has no outcome.
fn oldest_open_run(file: &LedgerFile) -> Result<Option<i64>, FileError> {
    let query = "SELECT min(intent) FROM runs WHERE outcome IS NULL";
    let found = file.connection().query_row(query, [], |row| row.get::<_, Option<i64>>(0)).optional();
    found.map(Option::flatten).map_err(FileError::Read)
}
