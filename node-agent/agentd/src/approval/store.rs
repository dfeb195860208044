//! The tables beside the chain, and every statement over them.
//!
//! Writing functions take the connection of a guard, so they run in the
//! transaction of a ledger row; reading ones take any.

use osmoda_kit::error::ApiError;
use osmoda_permit::{ApproverSignature, Call, Covers, Moment, Permit, Policy, SignedPermit, Standing, State, Taint};
use osmoda_types::{CallHash, PermitId};
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::denials::{self, denied};
use super::refusal::{No, is_damage};

/// The schema; a migration of the ledger's database.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE permits (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        next INTEGER NOT NULL,
        calls INTEGER NOT NULL,
        permit TEXT NOT NULL,
        session_id TEXT NOT NULL,
        actor TEXT NOT NULL,
        reason TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        wall_end INTEGER NOT NULL,
        boot_end INTEGER NOT NULL,
        boot_id TEXT NOT NULL,
        decided_ms INTEGER,
        decided_by TEXT,
        break_glass TEXT
    ) WITHOUT ROWID;
    CREATE INDEX permits_by_state ON permits (state, created_ms);
    CREATE INDEX permits_by_session ON permits (session_id, created_ms);
    CREATE TABLE permit_calls (
        permit TEXT NOT NULL,
        position INTEGER NOT NULL,
        hash TEXT NOT NULL,
        subject TEXT NOT NULL,
        call TEXT NOT NULL,
        PRIMARY KEY (permit, position)
    ) WITHOUT ROWID;
    CREATE TABLE permit_signatures (
        permit TEXT NOT NULL,
        signature TEXT NOT NULL,
        PRIMARY KEY (permit, signature)
    ) WITHOUT ROWID;
    CREATE TABLE denials (
        subject TEXT PRIMARY KEY,
        permit TEXT NOT NULL,
        wall_end INTEGER NOT NULL,
        boot_end INTEGER NOT NULL,
        boot_id TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE sessions (
        id TEXT PRIMARY KEY,
        source TEXT NOT NULL,
        at_ms INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE runs (
        intent INTEGER PRIMARY KEY,
        call_hash TEXT NOT NULL UNIQUE,
        tool TEXT NOT NULL,
        permit TEXT,
        object TEXT NOT NULL,
        folder TEXT NOT NULL,
        began_ms INTEGER NOT NULL,
        outcome TEXT
    );
    CREATE INDEX runs_by_object ON runs (object, began_ms);
    CREATE INDEX runs_by_folder ON runs (folder, began_ms);
    CREATE INDEX runs_open ON runs (outcome) WHERE outcome IS NULL;
";

/// Most permits in one list; more cannot wait at once.
const LIST_MAX: u32 = 200;

/// Most bytes of all calls that wait or may be used: a thousand usual ones, or six of the
/// largest plans of files (a body of [`TEXT_BYTES_MAX`](osmoda_permit::json::TEXT_BYTES_MAX)
/// becomes some 160 KiB, with what was looked at). A list shows each up to eight times as
/// long as it is, and stays below what its readers take (24 MiB).
pub(super) const OPEN_BYTES_MAX: u64 = 1 << 20;

/// Most of them of one session: one such plan, and three quarters are left to others for
/// as long as a permit lives. With less it could not be asked for; with more one session
/// shuts asking for everybody. Only a plan of paths of kilobytes, which its objects
/// repeat, is longer, and has to be asked for in parts.
const SESSION_BYTES_MAX: u64 = OPEN_BYTES_MAX / 4;

/// Permits that are over since before a time, at most as many as one commit
/// should remove. Their rows in the ledger stay.
const PRUNABLE: &str = "SELECT id FROM permits WHERE state NOT IN ('pending', 'approved') AND wall_end < ?1
    AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.permit = permits.id AND runs.outcome IS NULL) LIMIT 500";

/// Bytes of calls that wait or may be used: of one session, and of all.
const OPEN_BYTES: &str = "SELECT coalesce(sum(CASE WHEN session_id = ?1 THEN bytes END), 0), coalesce(sum(bytes), 0)
    FROM (SELECT session_id, length(CAST(call AS BLOB)) AS bytes FROM permits
          JOIN permit_calls ON permit_calls.permit = permits.id WHERE state IN ('pending', 'approved'))";

/// One day and one minute, in milliseconds.
const DAY_MS: i64 = 24 * 3_600_000;
const MINUTE_MS: i64 = 60_000;

/// A permit with all that hangs on it.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) signed: SignedPermit,
    pub(super) standing: Standing,
    pub(super) calls: Vec<StoredCall>,
    pub(super) session_id: String,
    pub(super) taint: Taint,
    pub(super) actor: String,
    pub(super) reason: String,
    pub(super) created_ms: i64,
    pub(super) decided_ms: Option<i64>,
    pub(super) decided_by: Option<String>,
    pub(super) break_glass: Option<String>,
}

/// One call of a permit.
#[derive(Debug, Clone)]
pub(super) struct StoredCall {
    pub(super) hash: CallHash,
    pub(super) subject: CallHash,
    pub(super) call: Call,
    pub(super) text: String,
}

/// What is inserted for a new permit.
#[derive(Debug, Clone)]
pub(super) struct NewPermit {
    pub(super) permit: Permit,
    pub(super) calls: Vec<StoredCall>,
    pub(super) session_id: String,
    pub(super) actor: String,
    pub(super) reason: String,
}

/// A request, as far as it is refused by a limit or a denial.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) session_id: &'a str,
    /// Requests of the session beside this one that have no permit yet.
    pub(super) others: u32,
    pub(super) subjects: &'a [CallHash],
    /// Bytes of the calls; before their objects were looked at, the least they will have.
    pub(super) bytes: u64,
}

/// A value of the database that no version of ours wrote.
pub(super) fn damaged(what: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, format!("damaged {what}").into())
}

/// One permit, if there is one of that id.
pub(super) fn load(connection: &Connection, id: &PermitId) -> rusqlite::Result<Option<Stored>> {
    let id = id.to_string();
    let found = connection
        .prepare_cached(
            "SELECT permit, state, next, session_id, actor, reason, created_ms, decided_ms, decided_by, break_glass,
                    EXISTS (SELECT 1 FROM sessions WHERE sessions.id = permits.session_id)
             FROM permits WHERE id = ?1",
        )?
        .query_row([&id], read_permit)
        .optional()?;
    let Some(mut stored) = found else { return Ok(None) };
    let mut calls = connection
        .prepare_cached("SELECT hash, subject, call FROM permit_calls WHERE permit = ?1 ORDER BY position")?;
    stored.calls = calls.query_map([&id], read_call)?.collect::<Result<_, _>>()?;
    let mut signatures =
        connection.prepare_cached("SELECT signature FROM permit_signatures WHERE permit = ?1 ORDER BY signature")?;
    stored.signed.signatures = signatures.query_map([&id], read_signature)?.collect::<Result<_, _>>()?;
    if matches!(stored.signed.permit.covers, Covers::Plan { .. }) {
        stored.signed.plan = stored.calls.iter().map(|call| call.hash).collect();
    }
    Ok(Some(stored))
}

/// Ids of permits that wait or may be used, newest first.
pub(super) fn open_ids(connection: &Connection) -> rusqlite::Result<Vec<PermitId>> {
    let mut statement = connection.prepare_cached(
        "SELECT id FROM permits WHERE state IN ('pending', 'approved') ORDER BY created_ms DESC, id LIMIT ?1",
    )?;
    statement.query_map([LIST_MAX], read_id)?.collect()
}

pub(super) fn read_id(row: &Row<'_>) -> rusqlite::Result<PermitId> {
    row.get::<_, String>(0)?.parse().map_err(|_| damaged("permit id"))
}

fn read_permit(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let permit: Permit = serde_json::from_str(&row.get::<_, String>(0)?).map_err(|_| damaged("permit"))?;
    let state = State::of(&row.get::<_, String>(1)?).ok_or_else(|| damaged("state"))?;
    let taint = if row.get(10)? { Taint::Tainted } else { Taint::Clean };
    Ok(Stored {
        signed: SignedPermit { permit, plan: Vec::new(), signatures: Vec::new() },
        standing: Standing { state, next: row.get(2)? },
        calls: Vec::new(),
        session_id: row.get(3)?,
        taint,
        actor: row.get(4)?,
        reason: row.get(5)?,
        created_ms: row.get(6)?,
        decided_ms: row.get(7)?,
        decided_by: row.get(8)?,
        break_glass: row.get(9)?,
    })
}

fn read_call(row: &Row<'_>) -> rusqlite::Result<StoredCall> {
    let text: String = row.get(2)?;
    Ok(StoredCall {
        hash: row.get::<_, String>(0)?.parse().map_err(|_| damaged("call hash"))?,
        subject: row.get::<_, String>(1)?.parse().map_err(|_| damaged("subject"))?,
        call: Call::parse(text.as_bytes()).map_err(|_| damaged("call"))?,
        text,
    })
}

fn read_signature(row: &Row<'_>) -> rusqlite::Result<ApproverSignature> {
    serde_json::from_str(&row.get::<_, String>(0)?).map_err(|_| damaged("signature"))
}

/// Stores a permit that was asked for, unless a denial still holds or too much
/// was asked.
pub(super) fn insert(
    connection: &Connection,
    new: &NewPermit,
    policy: &Policy,
    now: &Moment,
) -> rusqlite::Result<Result<(), No>> {
    let subjects: Vec<CallHash> = new.calls.iter().map(|call| call.subject).collect();
    let bytes = new.calls.iter().map(|call| call.text.len() as u64).sum();
    let wanted = Wanted { session_id: &new.session_id, others: 0, subjects: &subjects, bytes };
    if let Err(no) = may_ask(connection, &wanted, policy, now)? {
        return Ok(Err(no));
    }
    let (permit, id) = (&new.permit, new.permit.id.to_string());
    let json = serde_json::to_string(permit).map_err(|_| damaged("permit"))?;
    connection.execute(
        "INSERT INTO permits (id, state, next, calls, permit, session_id, actor, reason, created_ms, wall_end, boot_end,
                              boot_id)
         VALUES (?1, 'pending', 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        (
            &id,
            permit.covers.calls(),
            json,
            &new.session_id,
            &new.actor,
            &new.reason,
            now.wall_ms,
            permit.not_after.wall_ms,
            signed(permit.not_after.boot_ms),
            &permit.not_after.boot_id,
        ),
    )?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO permit_calls (permit, position, hash, subject, call) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (position, call) in (0_u32..).zip(&new.calls) {
        insert.execute((&id, position, call.hash.to_string(), call.subject.to_string(), &call.text))?;
    }
    Ok(Ok(()))
}

/// Whether a session may ask for calls now: none of them is denied, and not too
/// much was asked before.
pub(super) fn may_ask(
    connection: &Connection,
    wanted: &Wanted<'_>,
    policy: &Policy,
    now: &Moment,
) -> rusqlite::Result<Result<(), No>> {
    use osmoda_types::ErrorCode::QuotaExceeded;
    let Wanted { session_id, others, .. } = *wanted;
    for subject in wanted.subjects {
        if denied(connection, subject, now)? {
            return Ok(Err(No::denied()));
        }
    }
    let count =
        |sql: &str, values: &[&dyn rusqlite::ToSql]| connection.query_row(sql, values, |row| row.get::<_, u32>(0));
    let limits = &policy.limits;
    let pending = count("SELECT count(*) FROM permits WHERE state = 'pending'", &[])?;
    let of_session = count(
        "SELECT count(*) FROM permits WHERE session_id = ?1 AND created_ms > ?2",
        &[&session_id, &(now.wall_ms - MINUTE_MS)],
    )?;
    let of_day = count("SELECT count(*) FROM permits WHERE created_ms > ?1", &[&(now.wall_ms - DAY_MS)])?;
    for (count, limit, what) in [
        (pending, limits.pending, "permits wait already"),
        (of_session.saturating_add(others), limits.session_requests_per_minute, "requests of this session in a minute"),
        (of_day, limits.requests_per_day, "requests on this host in a day"),
    ] {
        if count >= limit {
            return Ok(Err(No::new(QuotaExceeded, format!("{count} {what}, the limit is {limit}"))));
        }
    }
    let (of_session, of_all) =
        connection.query_row(OPEN_BYTES, [session_id], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    for (open, limit, whose) in
        [(of_session, SESSION_BYTES_MAX, "calls of this session"), (of_all, OPEN_BYTES_MAX, "calls")]
    {
        let bytes = u64::try_from(open).unwrap_or(u64::MAX).saturating_add(wanted.bytes);
        if bytes > limit {
            let text = format!("with these, {whose} that wait or may be used have {bytes} bytes, the limit is {limit}");
            return Ok(Err(No::new(QuotaExceeded, text)));
        }
    }
    Ok(Ok(()))
}

/// Open permits that are over by either clock, or of another boot: the
/// condition of [`consume`], from the columns alone, so that one permit whose
/// text cannot be read any more does not keep the others open.
pub(super) fn over_ids(connection: &Connection, now: &Moment) -> rusqlite::Result<Vec<PermitId>> {
    let mut statement = connection.prepare_cached(
        "SELECT id FROM permits WHERE state IN ('pending', 'approved')
                                  AND (wall_end <= ?1 OR boot_end <= ?2 OR boot_id <> ?3)
         ORDER BY created_ms, id LIMIT ?4",
    )?;
    statement.query_map((now.wall_ms, signed(now.boot_ms), &now.boot_id, LIST_MAX), read_id)?.collect()
}

/// Keeps a signature, in its canonical form; the same one twice is once.
pub(super) fn add_signature(
    connection: &Connection,
    id: &PermitId,
    signature: &ApproverSignature,
) -> rusqlite::Result<()> {
    let json = serde_json::to_string(signature).map_err(|_| damaged("signature"))?;
    connection.execute(
        "INSERT OR IGNORE INTO permit_signatures (permit, signature) VALUES (?1, ?2)",
        (id.to_string(), json),
    )?;
    Ok(())
}

/// Moves a permit from one state to the next; returns whether it was there. That
/// its glass was broken is never forgotten.
pub(super) fn decide(
    connection: &Connection,
    id: &PermitId,
    from: &[State],
    to: State,
    by: &str,
    break_glass: Option<&str>,
    now: &Moment,
) -> rusqlite::Result<bool> {
    let mut done = false;
    for state in from {
        let changed = connection.execute(
            "UPDATE permits SET state = ?1, decided_ms = ?2, decided_by = ?3, break_glass = coalesce(?4, break_glass)
             WHERE id = ?5 AND state = ?6",
            (to.as_str(), now.wall_ms, by, break_glass, id.to_string(), state.as_str()),
        )?;
        done |= changed == 1;
    }
    Ok(done)
}

/// The consumption: one statement, one row (A2). Returns whether it happened.
pub(super) fn consume(
    connection: &Connection,
    id: &PermitId,
    position: u32,
    call: &CallHash,
    now: &Moment,
) -> rusqlite::Result<bool> {
    let changed = connection.execute(
        "UPDATE permits SET next = next + 1, state = CASE WHEN next + 1 = calls THEN 'consumed' ELSE 'approved' END
         WHERE id = ?1 AND state = 'approved' AND next = ?2 AND wall_end > ?3 AND boot_end > ?4 AND boot_id = ?5
           AND EXISTS (SELECT 1 FROM permit_calls WHERE permit = ?1 AND position = ?2 AND hash = ?6)",
        (id.to_string(), position, now.wall_ms, signed(now.boot_ms), &now.boot_id, call.to_string()),
    )?;
    Ok(changed == 1)
}

/// How many permits are over since before `ended_ms` and have no open run.
pub(super) fn prunable(connection: &Connection, ended_ms: i64) -> rusqlite::Result<u32> {
    connection.query_row(&format!("SELECT count(*) FROM ({PRUNABLE})"), [ended_ms], |row| row.get(0))
}

/// Removes them with all that hangs on them, and denials that are as old. Runs
/// without a permit stay: nothing but them says that such a call was done.
pub(super) fn prune(connection: &Connection, ended_ms: i64, now: &Moment) -> rusqlite::Result<()> {
    let ids: Vec<String> =
        connection.prepare_cached(PRUNABLE)?.query_map([ended_ms], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for id in ids {
        for table in ["permit_signatures", "permit_calls", "runs"] {
            connection.execute(&format!("DELETE FROM {table} WHERE permit = ?1"), [&id])?;
        }
        connection.execute("DELETE FROM permits WHERE id = ?1", [&id])?;
    }
    denials::prune(connection, ended_ms, now)
}

/// Whether the session has read content from outside.
pub(super) fn taint(connection: &Connection, session_id: &str) -> rusqlite::Result<(Taint, Option<String>)> {
    let source = connection
        .query_row("SELECT source FROM sessions WHERE id = ?1", [session_id], |row| row.get::<_, String>(0))
        .optional()?;
    Ok((if source.is_some() { Taint::Tainted } else { Taint::Clean }, source))
}

/// Marks a session; returns whether it was clean before.
pub(super) fn add_taint(
    connection: &Connection,
    session_id: &str,
    source: &str,
    now: &Moment,
) -> rusqlite::Result<bool> {
    let changed = connection.execute(
        "INSERT OR IGNORE INTO sessions (id, source, at_ms) VALUES (?1, ?2, ?3)",
        (session_id, source, now.wall_ms),
    )?;
    Ok(changed == 1)
}

/// SQLite's integers are signed; a boot of 292 million years is not met.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A read of the database that failed, as callers see it.
pub(super) fn unreadable(error: rusqlite::Error) -> ApiError {
    if is_damage(&error) {
        let text = "the permit cannot be read any more";
        return ApiError::new(osmoda_types::ErrorCode::ApprovalInvalid, text).with_source(error);
    }
    ApiError::new(osmoda_types::ErrorCode::LedgerUnavailable, "the approvals cannot be read").with_source(error)
}
