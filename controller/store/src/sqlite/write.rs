//! Changes, each in one transaction on the one writer connection.
//!
//! `BEGIN IMMEDIATE`: the lock is taken at the beginning, so a transaction
//! that reads first cannot fail when it comes to write.

use osmoda_types::ManifestHash;
use sqlx::{Row, Sqlite, SqlitePool, Transaction};

use super::read::head_row;
use super::{refused, signed, unsigned};
use crate::{HeadChange, HeadRow, NewEvent, NodeSeen, Projection, RolloutRow, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

pub(super) async fn begin(pool: &SqlitePool) -> Result<Transaction<'static, Sqlite>> {
    pool.begin_with("BEGIN IMMEDIATE").await.map_err(refused("begin a transaction"))
}

pub(super) async fn finish(transaction: Transaction<'static, Sqlite>) -> Result<()> {
    transaction.commit().await.map_err(refused("commit a transaction"))
}

pub(super) async fn commit(pool: &SqlitePool, projection: Projection) -> Result<u64> {
    let mut transaction = begin(pool).await?;
    let row = sqlx::query("SELECT applied_index FROM progress WHERE id = 1").fetch_one(&mut *transaction).await;
    let stored = unsigned(row.map_err(refused("read the progress"))?.get(0), "log index")?;
    if projection.applied_index < stored {
        return Err(StoreError::Stale { stored, offered: projection.applied_index });
    }
    if let Some(early) = projection.events.iter().find(|event| event.index <= stored) {
        return Err(StoreError::Stale { stored, offered: early.index });
    }
    for rollout in &projection.rollouts {
        put_rollout(&mut transaction, rollout).await?;
    }
    for event in &projection.events {
        add_event(&mut transaction, event).await?;
    }
    advance(&mut transaction, &projection).await?;
    let query = "SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)";
    let row = sqlx::query(query).fetch_one(&mut *transaction).await.map_err(refused("read the newest event"))?;
    let newest = unsigned(row.get(0), "event id")?;
    finish(transaction).await?;
    Ok(newest)
}

async fn put_rollout(transaction: &mut Transaction<'static, Sqlite>, row: &RolloutRow) -> Result<()> {
    let query = "INSERT INTO rollouts \
                 (id, state, terminal, proposed_index, updated_index, created_ms, updated_ms, document) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
                 ON CONFLICT (id) DO UPDATE SET state = ?2, terminal = ?3, updated_index = ?5, \
                 updated_ms = ?7, document = ?8";
    sqlx::query(query)
        .bind(row.id.to_string())
        .bind(&row.state)
        .bind(i64::from(row.terminal))
        .bind(signed(row.proposed_index, "log index")?)
        .bind(signed(row.updated_index, "log index")?)
        .bind(row.created_ms)
        .bind(row.updated_ms)
        .bind(&row.document)
        .execute(&mut **transaction)
        .await
        .map_err(refused("store a rollout"))?;
    Ok(())
}

async fn add_event(transaction: &mut Transaction<'static, Sqlite>, event: &NewEvent) -> Result<()> {
    sqlx::query("INSERT INTO events (log_index, rollout, at_ms, body) VALUES (?1, ?2, ?3, ?4)")
        .bind(signed(event.index, "log index")?)
        .bind(event.rollout.map(|id| id.to_string()))
        .bind(event.at_ms)
        .bind(&event.body)
        .execute(&mut **transaction)
        .await
        .map_err(refused("store an event"))?;
    Ok(())
}

async fn advance(transaction: &mut Transaction<'static, Sqlite>, projection: &Projection) -> Result<()> {
    let applied = signed(projection.applied_index, "log index")?;
    let statement = match &projection.snapshot {
        None => sqlx::query("UPDATE progress SET applied_index = ?1 WHERE id = 1").bind(applied),
        Some(snapshot) => {
            let query = "UPDATE progress SET applied_index = ?1, snapshot_index = ?2, snapshot = ?3 WHERE id = 1";
            sqlx::query(query).bind(applied).bind(signed(snapshot.index, "log index")?).bind(&snapshot.bytes)
        }
    };
    statement.execute(&mut **transaction).await.map_err(refused("store the progress"))?;
    Ok(())
}

pub(super) async fn prune_events(pool: &SqlitePool, keep: u64) -> Result<u64> {
    let query = "DELETE FROM events WHERE id <= \
                 (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?1)";
    let done = sqlx::query(query).bind(signed(keep, "count")?).execute(pool).await;
    Ok(done.map_err(refused("prune events"))?.rows_affected())
}

pub(super) async fn put_manifest(pool: &SqlitePool, hash: ManifestHash, bytes: Vec<u8>, stored_ms: i64) -> Result<()> {
    sqlx::query("INSERT INTO manifests (hash, bytes, stored_ms) VALUES (?1, ?2, ?3) ON CONFLICT (hash) DO NOTHING")
        .bind(hash.to_string())
        .bind(bytes)
        .bind(stored_ms)
        .execute(pool)
        .await
        .map_err(refused("store a manifest"))?;
    Ok(())
}

pub(super) async fn nodes_seen(pool: &SqlitePool, rows: Vec<NodeSeen>) -> Result<()> {
    let mut transaction = begin(pool).await?;
    for row in rows {
        let query = "INSERT INTO nodes (id, last_seen_ms, report) VALUES (?1, ?2, ?3) \
                     ON CONFLICT (id) DO UPDATE SET last_seen_ms = MAX(last_seen_ms, ?2), report = ?3";
        sqlx::query(query)
            .bind(row.node.to_string())
            .bind(row.last_seen_ms)
            .bind(row.report)
            .execute(&mut *transaction)
            .await
            .map_err(refused("store a node"))?;
    }
    finish(transaction).await
}

pub(super) async fn record_head(pool: &SqlitePool, head: HeadRow) -> Result<HeadChange> {
    let mut transaction = begin(pool).await?;
    let query = "SELECT node, size, hash, seen_ms, broken FROM ledger_heads WHERE node = ?1";
    let row = sqlx::query(query).bind(head.node.to_string()).fetch_optional(&mut *transaction).await;
    let stored = row.map_err(refused("read a ledger head"))?.as_ref().map(head_row).transpose()?;
    let change = compare(stored.as_ref(), &head);
    let statement = match change {
        HeadChange::Unchanged => return Ok(change),
        HeadChange::Contradicts => sqlx::query("UPDATE ledger_heads SET broken = 1 WHERE node = ?1"),
        HeadChange::Advanced => sqlx::query(
            "INSERT INTO ledger_heads (node, size, hash, seen_ms, broken) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (node) DO UPDATE SET size = ?2, hash = ?3, seen_ms = ?4",
        ),
    };
    let mut statement = statement.bind(head.node.to_string());
    if change == HeadChange::Advanced {
        statement = statement
            .bind(signed(head.size, "ledger size")?)
            .bind(head.hash)
            .bind(head.seen_ms)
            .bind(i64::from(head.broken));
    }
    statement.execute(&mut *transaction).await.map_err(refused("store a ledger head"))?;
    finish(transaction).await?;
    Ok(change)
}

fn compare(stored: Option<&HeadRow>, head: &HeadRow) -> HeadChange {
    match stored {
        None => HeadChange::Advanced,
        Some(stored) if head.size > stored.size => HeadChange::Advanced,
        Some(stored) if head.size == stored.size && head.hash == stored.hash => HeadChange::Unchanged,
        Some(_) => HeadChange::Contradicts,
    }
}

pub(super) async fn set_token_hash(pool: &SqlitePool, name: String, hash: Vec<u8>) -> Result<()> {
    sqlx::query("INSERT INTO tokens (name, hash) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET hash = ?2")
        .bind(name)
        .bind(hash)
        .execute(pool)
        .await
        .map_err(refused("store a token"))?;
    Ok(())
}
