//! Queries on the read pool.

use osmoda_types::{ManifestHash, RolloutId};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};

use super::{corrupt, node_id, refused, signed, unsigned};
use crate::{EventBounds, EventRow, HeadRow, NewEvent, NodeSeen, Progress, RolloutRow, Snapshot, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

pub(super) async fn progress(pool: &SqlitePool) -> Result<Progress> {
    let query = "SELECT applied_index, snapshot_index, snapshot FROM progress WHERE id = 1";
    let row = sqlx::query(query).fetch_one(pool).await.map_err(refused("read the progress"))?;
    let snapshot: Option<Vec<u8>> = row.get(2);
    let index = unsigned(row.get(1), "log index")?;
    Ok(Progress {
        applied_index: unsigned(row.get(0), "log index")?,
        snapshot: snapshot.map(|bytes| Snapshot { index, bytes }),
    })
}

pub(super) async fn rollout(pool: &SqlitePool, id: RolloutId) -> Result<Option<RolloutRow>> {
    let query = "SELECT id, state, terminal, proposed_index, updated_index, created_ms, updated_ms, document \
                 FROM rollouts WHERE id = ?1";
    let row = sqlx::query(query).bind(id.to_string()).fetch_optional(pool).await;
    row.map_err(refused("read a rollout"))?.as_ref().map(rollout_row).transpose()
}

pub(super) async fn rollouts(
    pool: &SqlitePool,
    below: Option<(u64, RolloutId)>,
    limit: u32,
) -> Result<Vec<RolloutRow>> {
    let query = "SELECT id, state, terminal, proposed_index, updated_index, created_ms, updated_ms, document \
                 FROM rollouts WHERE (proposed_index, id) < (?1, ?2) \
                 ORDER BY proposed_index DESC, id DESC LIMIT ?3";
    let (index, id) = match below {
        Some((index, id)) => (signed(index, "log index")?, id.to_string()),
        None => (i64::MAX, String::new()),
    };
    let rows = sqlx::query(query).bind(index).bind(id).bind(i64::from(limit)).fetch_all(pool).await;
    rows.map_err(refused("list rollouts"))?.iter().map(rollout_row).collect()
}

fn rollout_row(row: &SqliteRow) -> Result<RolloutRow> {
    Ok(RolloutRow {
        id: rollout_id(row.get(0))?,
        state: row.get(1),
        terminal: row.get::<i64, _>(2) != 0,
        proposed_index: unsigned(row.get(3), "log index")?,
        updated_index: unsigned(row.get(4), "log index")?,
        created_ms: row.get(5),
        updated_ms: row.get(6),
        document: row.get(7),
    })
}

fn rollout_id(text: &str) -> Result<RolloutId> {
    text.parse().map_err(|_| corrupt("rollout id", text))
}

pub(super) async fn events(
    pool: &SqlitePool,
    rollout: Option<RolloutId>,
    after: u64,
    limit: u32,
) -> Result<Vec<EventRow>> {
    let after = signed(after, "event id")?;
    let rows = match rollout {
        Some(id) => {
            let query = "SELECT id, log_index, rollout, at_ms, body FROM events \
                         WHERE rollout = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
            sqlx::query(query).bind(id.to_string()).bind(after).bind(i64::from(limit)).fetch_all(pool).await
        }
        None => {
            let query = "SELECT id, log_index, rollout, at_ms, body FROM events \
                         WHERE id > ?1 ORDER BY id LIMIT ?2";
            sqlx::query(query).bind(after).bind(i64::from(limit)).fetch_all(pool).await
        }
    };
    rows.map_err(refused("read events"))?.iter().map(event_row).collect()
}

fn event_row(row: &SqliteRow) -> Result<EventRow> {
    let rollout: Option<&str> = row.get(2);
    Ok(EventRow {
        id: unsigned(row.get(0), "event id")?,
        event: NewEvent {
            index: unsigned(row.get(1), "log index")?,
            rollout: rollout.map(rollout_id).transpose()?,
            at_ms: row.get(3),
            body: row.get(4),
        },
    })
}

pub(super) async fn event_bounds(pool: &SqlitePool) -> Result<EventBounds> {
    // sqlite_sequence remembers the newest id even when its row was pruned.
    let query = "SELECT COALESCE((SELECT MIN(id) FROM events), 0), \
                 COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)";
    let row = sqlx::query(query).fetch_one(pool).await.map_err(refused("read the bounds of the events"))?;
    Ok(EventBounds { oldest: unsigned(row.get(0), "event id")?, newest: unsigned(row.get(1), "event id")? })
}

pub(super) async fn manifest(pool: &SqlitePool, hash: ManifestHash) -> Result<Option<Vec<u8>>> {
    let query = "SELECT bytes FROM manifests WHERE hash = ?1";
    let row = sqlx::query(query).bind(hash.to_string()).fetch_optional(pool).await;
    Ok(row.map_err(refused("read a manifest"))?.map(|row| row.get(0)))
}

pub(super) async fn nodes(pool: &SqlitePool) -> Result<Vec<NodeSeen>> {
    let query = "SELECT id, last_seen_ms, report FROM nodes ORDER BY id";
    let rows = sqlx::query(query).fetch_all(pool).await.map_err(refused("list nodes"))?;
    rows.iter()
        .map(|row| Ok(NodeSeen { node: node_id(row.get(0))?, last_seen_ms: row.get(1), report: row.get(2) }))
        .collect()
}

pub(super) async fn ledger_heads(pool: &SqlitePool) -> Result<Vec<HeadRow>> {
    let query = "SELECT node, size, hash, seen_ms, broken FROM ledger_heads ORDER BY node";
    let rows = sqlx::query(query).fetch_all(pool).await.map_err(refused("list ledger heads"))?;
    rows.iter().map(head_row).collect()
}

pub(super) fn head_row(row: &SqliteRow) -> Result<HeadRow> {
    Ok(HeadRow {
        node: node_id(row.get(0))?,
        size: unsigned(row.get(1), "ledger size")?,
        hash: row.get(2),
        seen_ms: row.get(3),
        broken: row.get::<i64, _>(4) != 0,
    })
}

pub(super) async fn token_hash(pool: &SqlitePool, name: String) -> Result<Option<Vec<u8>>> {
    let row = sqlx::query("SELECT hash FROM tokens WHERE name = ?1").bind(name).fetch_optional(pool).await;
    Ok(row.map_err(refused("read a token"))?.map(|row| row.get(0)))
}
