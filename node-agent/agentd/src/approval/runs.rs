//! Runs: what was begun, how it ended, and how much of it needs no permit.
//!
//! Like `store`: writing functions take the connection of a guard.

use osmoda_node_api::approval::RunView;
use osmoda_permit::{Call, Moment, Policy};
use osmoda_types::{CallHash, PermitId};
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::refusal::No;
use super::store::damaged;

/// One hour, in milliseconds.
const HOUR_MS: i64 = 3_600_000;

/// A run without a permit, within the quota of its object and folder (P14).
pub(super) fn within_quota(
    connection: &Connection,
    [object, folder]: &[String; 2],
    policy: &Policy,
    now: &Moment,
) -> rusqlite::Result<Result<(), No>> {
    let limits = &policy.limits;
    for (column, key, limit) in
        [("object", object, limits.object_changes_per_hour), ("folder", folder, limits.folder_changes_per_hour)]
    {
        let count: u32 = connection.query_row(
            &format!("SELECT count(*) FROM runs WHERE {column} = ?1 AND permit IS NULL AND began_ms > ?2"),
            (key, now.wall_ms - HOUR_MS),
            |row| row.get(0),
        )?;
        if count >= limit {
            let text = format!("{count} changes of {key} without a permit in an hour, the limit is {limit}");
            return Ok(Err(No::new(osmoda_types::ErrorCode::QuotaExceeded, text)));
        }
    }
    Ok(Ok(()))
}

/// Whether the call was begun before; its nonce makes each call one of a kind.
pub(super) fn was_begun(connection: &Connection, hash: &CallHash) -> rusqlite::Result<bool> {
    connection
        .query_row("SELECT EXISTS (SELECT 1 FROM runs WHERE call_hash = ?1)", [hash.to_string()], |row| row.get(0))
}

/// Notes that a run begins; `intent` is the id of its row.
pub(super) fn insert_run(
    connection: &Connection,
    intent: i64,
    call: &Call,
    hash: &CallHash,
    permit: Option<&PermitId>,
    now: &Moment,
) -> rusqlite::Result<()> {
    let [object, folder] = call.operation.object_keys();
    connection.execute(
        "INSERT INTO runs (intent, call_hash, tool, permit, object, folder, began_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        (
            intent,
            hash.to_string(),
            call.tool.name(),
            permit.map(ToString::to_string),
            object,
            folder,
            now.wall_ms,
        ),
    )?;
    Ok(())
}

/// Gives a run its outcome, once; returns whether it was open.
pub(super) fn end_run(connection: &Connection, intent: i64, outcome: &str) -> rusqlite::Result<bool> {
    let changed =
        connection.execute("UPDATE runs SET outcome = ?1 WHERE intent = ?2 AND outcome IS NULL", (outcome, intent))?;
    Ok(changed == 1)
}

/// One run.
pub(super) fn run(connection: &Connection, intent: i64) -> rusqlite::Result<Option<RunView>> {
    connection
        .query_row("SELECT intent, call_hash, tool, permit, outcome FROM runs WHERE intent = ?1", [intent], read_run)
        .optional()
}

/// Runs without an outcome, oldest first.
pub(super) fn open_runs(connection: &Connection) -> rusqlite::Result<Vec<RunView>> {
    let mut statement = connection.prepare_cached(
        "SELECT intent, call_hash, tool, permit, outcome FROM runs WHERE outcome IS NULL ORDER BY intent LIMIT 1000",
    )?;
    statement.query_map([], read_run)?.collect()
}

fn read_run(row: &Row<'_>) -> rusqlite::Result<RunView> {
    let permit: Option<String> = row.get(3)?;
    Ok(RunView {
        run: row.get::<_, i64>(0)?.unsigned_abs(),
        call_hash: row.get::<_, String>(1)?.parse().map_err(|_| damaged("call hash"))?,
        tool: row.get(2)?,
        permit: permit.map(|id| id.parse().map_err(|_| damaged("permit id"))).transpose()?,
        outcome: row.get(4)?,
    })
}
