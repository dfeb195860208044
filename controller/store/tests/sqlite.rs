//! The SQLite store passes the suite and survives being opened again.

use osmoda_controller_store::{Projection, SqliteStore, Store, StoreError, conformance};

#[tokio::test]
async fn sqlite_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    conformance::run(|| async {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        SqliteStore::open(&dir.path().join(format!("{number}.db"))).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("controller.db");
    let store = SqliteStore::open(&path).await.unwrap();
    store.commit(Projection { applied_index: 12, ..Projection::default() }).await.unwrap();
    store.close().await.unwrap();
    assert!(store.progress().await.is_err(), "a closed store does not answer");

    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(store.progress().await.unwrap().applied_index, 12);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("controller.db");
    std::fs::write(&path, vec![b'x'; 8192]).unwrap();
    let error = SqliteStore::open(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
    assert!(error.to_string().contains("controller.db"));
}
