//! What nodes say of their ledgers and of those they witness.

use osmoda_types::NodeId;
use sqlx::{Row, SqlitePool};

use super::write::{begin, finish};
use super::{node_id, refused, signed, unsigned};
use crate::{ALARMS_OF_A_WITNESS_MAX, AlarmRow, HELD_OF_A_WITNESS_MAX, HeldRow, LedgerRow, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

pub(super) async fn record_ledger(pool: &SqlitePool, row: LedgerRow) -> Result<()> {
    let query = "INSERT INTO ledger_reports (node, received_ms, document) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (node) DO UPDATE SET received_ms = ?2, document = ?3";
    let statement = sqlx::query(query).bind(row.node.to_string()).bind(row.received_ms).bind(row.document);
    statement.execute(pool).await.map_err(refused("store a ledger's report"))?;
    Ok(())
}

pub(super) async fn ledgers(pool: &SqlitePool) -> Result<Vec<LedgerRow>> {
    let query = "SELECT node, received_ms, document FROM ledger_reports ORDER BY node";
    let rows = sqlx::query(query).fetch_all(pool).await.map_err(refused("list ledgers' reports"))?;
    rows.iter()
        .map(|row| Ok(LedgerRow { node: node_id(row.get(0))?, received_ms: row.get(1), document: row.get(2) }))
        .collect()
}

pub(super) async fn record_held(pool: &SqlitePool, rows: Vec<HeldRow>) -> Result<()> {
    let mut transaction = begin(pool).await?;
    for row in rows {
        let query = "INSERT INTO ledger_held (witness, node, size, note, time_s) SELECT ?1, ?2, ?3, ?4, ?5 \
                     WHERE (SELECT COUNT(*) FROM ledger_held WHERE witness = ?1) < ?6 \
                     OR EXISTS (SELECT 1 FROM ledger_held WHERE witness = ?1 AND node = ?2) \
                     ON CONFLICT (node, witness) DO UPDATE SET size = ?3, note = ?4, time_s = ?5";
        sqlx::query(query)
            .bind(row.witness.to_string())
            .bind(row.node.to_string())
            .bind(signed(row.size, "ledger size")?)
            .bind(row.note)
            .bind(signed(row.time_s, "time")?)
            .bind(i64::from(HELD_OF_A_WITNESS_MAX))
            .execute(&mut *transaction)
            .await
            .map_err(refused("store a held note"))?;
    }
    finish(transaction).await
}

pub(super) async fn held_of(pool: &SqlitePool, node: NodeId) -> Result<Vec<HeldRow>> {
    let query = "SELECT witness, node, size, note, time_s FROM ledger_held WHERE node = ?1 ORDER BY witness";
    let rows = sqlx::query(query).bind(node.to_string()).fetch_all(pool).await;
    let rows = rows.map_err(refused("list held notes"))?;
    rows.iter()
        .map(|row| {
            Ok(HeldRow {
                witness: node_id(row.get(0))?,
                node: node_id(row.get(1))?,
                size: unsigned(row.get(2), "ledger size")?,
                note: row.get(3),
                time_s: unsigned(row.get(4), "time")?,
            })
        })
        .collect()
}

pub(super) async fn record_alarm(pool: &SqlitePool, row: AlarmRow) -> Result<bool> {
    let query = "INSERT INTO ledger_alarms (witness, node, finding, held, shown, time_s, received_ms) \
                 SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 \
                 WHERE (SELECT COUNT(*) FROM ledger_alarms WHERE witness = ?1 AND node = ?2) < ?8 \
                 AND NOT EXISTS (SELECT 1 FROM ledger_alarms WHERE witness = ?1 AND node = ?2 AND finding = ?3 \
                 AND held = ?4 AND shown = ?5)";
    let done = sqlx::query(query)
        .bind(row.witness.to_string())
        .bind(row.node.to_string())
        .bind(row.finding)
        .bind(row.held)
        .bind(row.shown)
        .bind(signed(row.time_s, "time")?)
        .bind(row.received_ms)
        .bind(i64::from(ALARMS_OF_A_WITNESS_MAX))
        .execute(pool)
        .await;
    Ok(done.map_err(refused("store an alarm"))?.rows_affected() > 0)
}

pub(super) async fn alarms(pool: &SqlitePool) -> Result<Vec<AlarmRow>> {
    let query = "SELECT witness, node, finding, held, shown, time_s, received_ms FROM ledger_alarms ORDER BY id";
    let rows = sqlx::query(query).fetch_all(pool).await.map_err(refused("list alarms"))?;
    rows.iter()
        .map(|row| {
            Ok(AlarmRow {
                witness: node_id(row.get(0))?,
                node: node_id(row.get(1))?,
                finding: row.get(2),
                held: row.get(3),
                shown: row.get(4),
                time_s: unsigned(row.get(5), "time")?,
                received_ms: row.get(6),
            })
        })
        .collect()
}
