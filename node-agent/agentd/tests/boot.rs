//! Starting and stopping agentd: what a broken ledger, an unusable folder or a
//! second daemon do, and what a clean stop leaves.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

use std::future::Future;
use std::time::Duration;

use osmoda_agentd::Agentd;
use osmoda_agentd::ledger::file::{FILE_NAME, LedgerFile};
use osmoda_kit::boot::{self, BootArgs};
use osmoda_kit::http::{Credentials, UnixClient};
use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_kit::testing::{TempRoot, wait_for};
use osmoda_node_api::agentd::{AgentdClient, EventQuery};
use osmoda_types::ErrorCode;
use rusqlite::Connection;

/// Runs the daemon beside `work`, then stops it. The code of a start that failed.
async fn run<F: Future<Output = ()>>(root: &TempRoot, work: impl FnOnce(AgentdClient) -> F) -> Result<(), ErrorCode> {
    let shutdown = Shutdown::new();
    let args = BootArgs::at(root.path());
    let served = boot::serve::<Agentd>(&args, shutdown.clone());
    let client = UnixClient::new(root.paths().socket("agentd"), Credentials::none());
    let worked = async {
        let socket = root.paths().socket("agentd");
        wait_for("the socket", Duration::from_secs(20), || async { socket.exists().then_some(()) }).await;
        work(AgentdClient::new(client)).await;
        shutdown.request(StopReason::Asked("test".to_owned()));
    };
    tokio::pin!(served, worked);
    let ended = tokio::select! {
        // Polled by reference; when the start fails there is nothing to work with.
        ended = &mut served => ended,
        // Polled by reference; the daemon is then awaited to its end.
        () = &mut worked => served.await,
    };
    let ended = ended.map_err(|error| error.code())?;
    assert!(ended.is_graceful(), "{ended:?}");
    Ok(())
}

fn ledger(root: &TempRoot) -> std::path::PathBuf {
    root.paths().state("agentd").join(FILE_NAME)
}

#[tokio::test]
async fn each_start_is_recorded_and_a_stop_leaves_one_verified_file() {
    let root = TempRoot::new();
    for start in 1..=3_usize {
        run(&root, |client| async move {
            let query = EventQuery { kind: Some("daemon.start".to_owned()), ..EventQuery::default() };
            let events = client.events(&query).await.unwrap();
            assert_eq!(events.len(), start);
            assert_eq!((events[0].kind.as_str(), events[0].actor.as_str()), ("daemon.start", "agentd"));
            assert!(events[0].payload.contains(r#""isolation":"none""#), "{}", events[0].payload);
        })
        .await
        .unwrap();
        assert!(!ledger(&root).with_extension("db-wal").exists());
        let report = LedgerFile::open(&ledger(&root)).unwrap().verify(|_| {}).unwrap();
        // Each start, and that somebody read the log.
        assert_eq!((report.verified, report.total), (2 * start as u64, 2 * start as u64));
    }
}

#[tokio::test]
async fn a_broken_chain_stops_the_daemon_and_the_file_stays_as_it_is() {
    let root = TempRoot::new();
    run(&root, |_| async {}).await.unwrap();
    run(&root, |_| async {}).await.unwrap();
    let conn = Connection::open(ledger(&root)).unwrap();
    conn.execute_batch("DROP TRIGGER events_no_update; UPDATE events SET actor = 'mallory' WHERE id = 1;").unwrap();
    drop(conn);
    assert_eq!(run(&root, |_| async {}).await, Err(ErrorCode::LedgerBroken));
    let rows: i64 = Connection::open(ledger(&root))
        .unwrap()
        .query_row("SELECT count(*) FROM events", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 2, "nothing was appended to a broken chain");
}

#[tokio::test]
async fn a_file_that_is_no_database_stops_the_daemon() {
    let root = TempRoot::new();
    run(&root, |_| async {}).await.unwrap();
    std::fs::write(ledger(&root), vec![7_u8; 8192]).unwrap();
    assert_eq!(run(&root, |_| async {}).await, Err(ErrorCode::LedgerBroken));
    let garbage = std::fs::read(ledger(&root)).unwrap();
    assert_eq!(garbage, vec![7_u8; 8192]);
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_used_is_named() {
    let root = TempRoot::new();
    std::fs::write(root.paths().state("agentd"), b"a file where the folder should be").unwrap();
    assert_eq!(run(&root, |_| async {}).await, Err(ErrorCode::StateDirUnusable));
}

#[tokio::test]
async fn a_ledger_that_cannot_be_written_refuses_the_start() {
    let root = TempRoot::new();
    run(&root, |_| async {}).await.unwrap();
    // A lock that is never given back stands for any storage that refuses.
    let lock = Connection::open(ledger(&root)).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(run(&root, |_| async {}).await, Err(ErrorCode::LedgerUnavailable));
}

#[tokio::test]
async fn two_daemons_on_one_root_directory_are_refused() {
    let root = TempRoot::new();
    let second = &root;
    run(&root, |_| async move {
        let args = BootArgs::at(second.path());
        let refused = boot::serve::<Agentd>(&args, Shutdown::new()).await;
        assert_eq!(refused.err().map(|error| error.code()), Some(ErrorCode::RootLocked));
    })
    .await
    .unwrap();
}
