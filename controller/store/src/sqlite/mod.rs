//! The store in one SQLite file: the default, for one controller.
//!
//! Write-ahead log with `synchronous=FULL`, so that what was answered survives
//! a power cut. One writer connection (SQLite has one writer anyway; waiting
//! in our queue is fairer than its busy loop) and a pool of read-only ones.

mod ledger;
mod read;
mod write;

use std::path::Path;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use osmoda_types::{ManifestHash, NodeId, RolloutId};

use crate::{
    AlarmRow, EventBounds, EventRow, HeadChange, HeadRow, HeldRow, LedgerRow, NodeSeen, Progress, Projection,
    RolloutRow, Store, StoreError, StoreFuture,
};

/// How long a connection waits for SQLite's own lock. The only outside writer
/// is a person with the `sqlite3` shell; past this they have forgotten it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Read connections: a few pages at once. Each costs a thread and a page
/// cache of 2 MB, so not one per request.
const READERS: u32 = 4;

/// How long a request waits for a connection before it fails.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// The store in one SQLite file.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl SqliteStore {
    /// Opens or creates the file and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Open`] when it cannot be opened, [`StoreError::Migrate`]
    /// when it is of a newer version or damaged.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let at = |source| StoreError::Open { path: path.to_owned(), source };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options.clone())
            .await
            .map_err(at)?;
        migrator().run(&writer).await.map_err(|source| StoreError::Migrate { path: path.to_owned(), source })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options.create_if_missing(false).read_only(true))
            .await
            .map_err(at)?;
        Ok(Self { writer, readers })
    }
}

/// The migrations, compiled in. A number is never reused and a text, once
/// released, never changed: sqlx compares checksums and refuses to start.
fn migrator() -> Migrator {
    let simple = |number, name: &'static str, text: &'static str| {
        Migration::new(number, name.into(), MigrationType::Simple, sqlx::SqlSafeStr::into_sql_str(text), false)
    };
    Migrator::with_migrations(vec![
        simple(1, "projection", include_str!("../../migrations/sqlite/0001_projection.sql")),
        simple(2, "witnessing", include_str!("../../migrations/sqlite/0002_witnessing.sql")),
    ])
}

fn refused(operation: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |source| StoreError::Query { operation, source }
}

fn corrupt(what: &'static str, value: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt { what, value: value.to_string().chars().take(80).collect() }
}

/// SQLite has no unsigned numbers; ours are indexes and sizes far below 2^63.
fn signed(number: u64, what: &'static str) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| corrupt(what, number))
}

fn unsigned(number: i64, what: &'static str) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| corrupt(what, number))
}

impl Store for SqliteStore {
    fn progress(&self) -> StoreFuture<'_, Progress> {
        Box::pin(read::progress(&self.readers))
    }

    fn commit(&self, projection: Projection) -> StoreFuture<'_, u64> {
        Box::pin(write::commit(&self.writer, projection))
    }

    fn rollout(&self, id: RolloutId) -> StoreFuture<'_, Option<RolloutRow>> {
        Box::pin(read::rollout(&self.readers, id))
    }

    fn rollouts(&self, below: Option<(u64, RolloutId)>, limit: u32) -> StoreFuture<'_, Vec<RolloutRow>> {
        Box::pin(read::rollouts(&self.readers, below, limit))
    }

    fn events(&self, rollout: Option<RolloutId>, after: u64, limit: u32) -> StoreFuture<'_, Vec<EventRow>> {
        Box::pin(read::events(&self.readers, rollout, after, limit))
    }

    fn event_bounds(&self) -> StoreFuture<'_, EventBounds> {
        Box::pin(read::event_bounds(&self.readers))
    }

    fn prune_events(&self, keep: u64) -> StoreFuture<'_, u64> {
        Box::pin(write::prune_events(&self.writer, keep))
    }

    fn put_manifest(&self, hash: ManifestHash, bytes: Vec<u8>, stored_ms: i64) -> StoreFuture<'_, ()> {
        Box::pin(write::put_manifest(&self.writer, hash, bytes, stored_ms))
    }

    fn manifest(&self, hash: ManifestHash) -> StoreFuture<'_, Option<Vec<u8>>> {
        Box::pin(read::manifest(&self.readers, hash))
    }

    fn nodes_seen(&self, rows: Vec<NodeSeen>) -> StoreFuture<'_, ()> {
        Box::pin(write::nodes_seen(&self.writer, rows))
    }

    fn nodes(&self) -> StoreFuture<'_, Vec<NodeSeen>> {
        Box::pin(read::nodes(&self.readers))
    }

    fn record_head(&self, head: HeadRow) -> StoreFuture<'_, HeadChange> {
        Box::pin(write::record_head(&self.writer, head))
    }

    fn ledger_heads(&self) -> StoreFuture<'_, Vec<HeadRow>> {
        Box::pin(read::ledger_heads(&self.readers))
    }

    fn record_ledger(&self, row: LedgerRow) -> StoreFuture<'_, ()> {
        Box::pin(ledger::record_ledger(&self.writer, row))
    }

    fn ledgers(&self) -> StoreFuture<'_, Vec<LedgerRow>> {
        Box::pin(ledger::ledgers(&self.readers))
    }

    fn record_held(&self, rows: Vec<HeldRow>) -> StoreFuture<'_, ()> {
        Box::pin(ledger::record_held(&self.writer, rows))
    }

    fn held_of(&self, node: NodeId) -> StoreFuture<'_, Vec<HeldRow>> {
        Box::pin(ledger::held_of(&self.readers, node))
    }

    fn record_alarm(&self, row: AlarmRow) -> StoreFuture<'_, bool> {
        Box::pin(ledger::record_alarm(&self.writer, row))
    }

    fn alarms(&self) -> StoreFuture<'_, Vec<AlarmRow>> {
        Box::pin(ledger::alarms(&self.readers))
    }

    fn token_hash(&self, name: &str) -> StoreFuture<'_, Option<Vec<u8>>> {
        Box::pin(read::token_hash(&self.readers, name.to_owned()))
    }

    fn set_token_hash(&self, name: &str, hash: Vec<u8>) -> StoreFuture<'_, ()> {
        Box::pin(write::set_token_hash(&self.writer, name.to_owned(), hash))
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            // Readers first: the writer's close then folds the write-ahead log
            // into the file, which readers would hold open.
            self.readers.close().await;
            self.writer.close().await;
            Ok(())
        })
    }
}

/// A node id as stored.
fn node_id(text: &str) -> Result<NodeId, StoreError> {
    text.parse().map_err(|_| corrupt("node id", text))
}
