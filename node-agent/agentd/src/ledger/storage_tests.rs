//! Tests of the ledger on a real file: group commit, reopening, tampering,
//! refused writes, and what the reference's verifier would read.

use std::path::Path;
use std::sync::Arc;

use osmoda_kit::clock::Timestamp;
use osmoda_kit::testing::FakeClock;
use osmoda_node_api::agentd::EventQuery;
use rusqlite::Connection;
use serde_json::Map;

use super::file::{FILE_NAME, LedgerFile};
use super::handle::State;
use super::log::Copier;
use super::payload::Payload;
use super::queue::Queue;
use super::store::{Store, connect};
use super::verify::Report;
use super::writer::{Job, NotWritten, Writer};
use super::{Ledger, LedgerError, LedgerThreads, NewRow, OpenError, StoreError, Synchronous, WriterOptions};

fn row(kind: &str, n: u64) -> NewRow {
    let payload = Payload::new(&Map::from_iter([("n".to_owned(), n.into())])).unwrap();
    NewRow::new(kind.to_owned(), "tester".to_owned(), payload).unwrap()
}

fn plain(rows: &[NewRow]) -> Vec<super::store::Entry> {
    rows.iter().map(|row| (row.clone(), None)).collect()
}

fn open(path: &Path) -> (Ledger, LedgerThreads, Report) {
    Ledger::open(path, WriterOptions::default(), Arc::new(FakeClock::default())).unwrap()
}

async fn filled(path: &Path, rows: u64) {
    let (ledger, threads, _) = open(path);
    for n in 0..rows {
        ledger.append(row("test.row", n)).await.unwrap();
    }
    threads.close().unwrap();
}

#[tokio::test]
async fn rows_come_back_verified_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    filled(&path, 3).await;
    let (ledger, threads, report) = open(&path);
    assert_eq!((report.verified, report.total), (3, 3));
    let head = ledger.append(row("test.row", 9)).await.unwrap();
    assert_eq!(head.size, 4);
    assert_eq!(ledger.state().head, head);
    threads.close().unwrap();
    assert!(!dir.path().join("ledger.db-wal").exists(), "closing leaves one file");
    assert_eq!(ledger.append(row("test.row", 10)).await, Err(LedgerError::Unavailable));
}

#[tokio::test]
async fn concurrent_appends_share_commits_and_keep_their_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, threads, _) = open(&dir.path().join(FILE_NAME));
    let appends = (0..500).map(|n| {
        let ledger = ledger.clone();
        async move { (n, ledger.append(row("test.row", n)).await.unwrap().size) }
    });
    let answers = futures_util::future::join_all(appends).await;
    let page =
        ledger.read(|file| file.events(&EventQuery { limit: -1, ..EventQuery::default() })).await.unwrap().unwrap();
    for (n, id) in answers {
        let event = page.events.iter().find(|event| event.id.unsigned_abs() == id).unwrap();
        assert_eq!(event.payload, format!("{{\"n\":{n}}}"));
    }
    let counts = ledger.counts();
    assert_eq!(counts.appends, 500);
    assert!(counts.commits <= 50, "{counts:?}");
    threads.close().unwrap();
}

#[tokio::test]
async fn a_full_queue_answers_busy_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let (ledger, threads, _) = open(&path);
    // Somebody else's lock makes the writer wait inside its commit.
    let lock = Connection::open(&path).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut waiting: Vec<_> = (0..1500).map(|n| Box::pin(ledger.append(row("test.row", n)))).collect();
    let mut busy = 0;
    for append in &mut waiting {
        if futures_util::poll!(append.as_mut()) == std::task::Poll::Ready(Err(LedgerError::Busy)) {
            busy += 1;
        }
    }
    assert!(busy >= 1500 - 1024 - 256, "{busy}");
    lock.execute_batch("ROLLBACK").unwrap();
    drop(waiting);
    threads.close().unwrap();
}

#[tokio::test]
async fn updates_deletes_and_replacements_are_blocked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    filled(&path, 2).await;
    let conn = Connection::open(&path).unwrap();
    for sql in [
        "UPDATE events SET actor = 'x' WHERE id = 1",
        "DELETE FROM events WHERE id = 2",
        "DELETE FROM events",
        "INSERT OR REPLACE INTO events (id, type, actor, payload, prev_hash, hash) VALUES (1, 'x', 'x', '{}', '', '')",
        "REPLACE INTO events (id, type, actor, payload, prev_hash, hash) VALUES (2, 'x', 'x', '{}', '', '')",
    ] {
        let error = conn.execute(sql, []).unwrap_err();
        assert!(error.to_string().contains("append-only"), "{sql}: {error}");
    }
}

#[tokio::test]
async fn a_changed_or_cut_file_does_not_open() {
    for sql in [
        "UPDATE events SET payload = '{\"n\":7}' WHERE id = 2",
        "UPDATE events SET ts = '2020-01-01T00:00:00.000Z' WHERE id = 3",
        "UPDATE events SET actor = CAST(actor AS BLOB) WHERE id = 2",
        "DELETE FROM events WHERE id = 2",
        "DELETE FROM events WHERE id = 3",
        "DELETE FROM events",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        filled(&path, 3).await;
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("DROP TRIGGER events_no_update; DROP TRIGGER events_no_delete;").unwrap();
        conn.execute_batch(sql).unwrap();
        drop(conn);
        let opened = Ledger::open(&path, WriterOptions::default(), Arc::new(FakeClock::default()));
        assert!(matches!(opened, Err(OpenError::Broken { .. })), "{sql}: {opened:?}");
        assert!(!LedgerFile::open(&path).unwrap().verify(|_| {}).unwrap().is_intact(), "{sql}");
    }
}

#[tokio::test]
async fn r16_a_full_disk_refuses_everything_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let mut store = Store::open(&path, Synchronous::Full).unwrap();
    store.verify(&[], |_| {}, |_| {}).unwrap();
    let now = Timestamp::from_millis(0);
    store.commit(plain(&[row("test.row", 1)]), now).unwrap();
    let head = store.head();
    let big = Payload::new(&Map::from_iter([("x".to_owned(), "x".repeat(50_000).into())])).unwrap();
    let big = NewRow::new("test.big".to_owned(), "tester".to_owned(), big).unwrap();

    store.limit_pages(8);
    let refused = store.commit(plain(&[row("test.row", 2), big.clone()]), now);
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert_eq!(store.head(), head, "nothing of the batch stays");
    assert_eq!(store.commit(plain(&[row("test.row", 3)]), now).unwrap()[0].unwrap().size, 2, "small rows still fit");

    store.limit_pages(10_000);
    assert_eq!(store.commit(plain(&[big]), now).unwrap()[0].unwrap().size, 3, "space came back");
    assert!(store.verify(&[], |_| {}, |_| {}).unwrap().is_intact());
}

/// A sync that failed is never tried again as if the pages were still there: the
/// writer refuses all that waits and ends, and the daemon with it.
#[tokio::test]
async fn r16_a_sync_that_fails_stops_the_writer_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let mut store = Store::open(&path, Synchronous::Full).unwrap();
    store.verify(&[], |_| {}, |_| {}).unwrap();
    store.commit(plain(&[row("test.row", 1)]), Timestamp::from_millis(0)).unwrap();
    let head = store.head();
    store.fail_sync();
    let queue = Arc::new(Queue::new(8));
    let mut answers = Vec::new();
    for n in 2..4 {
        let (reply, answer) = tokio::sync::oneshot::channel();
        queue.push(Job { row: row("test.row", n), guard: None, reply }).unwrap();
        answers.push(answer);
    }
    let first = State { head, root: store.root(), is_writable: true, is_failed: false };
    let (state, told) = tokio::sync::watch::channel(first);
    // One row a commit: the second waits while the first one's sync fails.
    let options = WriterOptions::one_commit_per_append();
    let (counters, clock) = (Arc::default(), Arc::new(FakeClock::default()));
    let folder = dir.path().to_owned();
    let copier = Copier::start(connect(&path, Synchronous::Full).unwrap()).unwrap();
    let writer = Writer { store, copier, queue: Arc::clone(&queue), state, counters, clock, options, folder };
    let ended = std::thread::spawn(move || writer.run()).join().unwrap();
    assert!(matches!(ended, Err(StoreError::Failed(_))), "{ended:?}");
    for answer in answers {
        assert_eq!(answer.await.unwrap(), Err(NotWritten::Refused));
    }
    assert!(told.borrow().is_failed && !told.borrow().is_writable);
    let (reply, _answer) = tokio::sync::oneshot::channel();
    assert!(queue.push(Job { row: row("test.row", 4), guard: None, reply }).is_err(), "nothing is taken any more");
    // Only a start, which reads and verifies the file, goes on.
    let (ledger, threads, report) = open(&path);
    assert_eq!((report.verified, ledger.state().head), (1, head));
    threads.close().unwrap();
}

#[tokio::test]
async fn r16_no_act_begins_on_the_reserve_and_what_ends_one_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let options = WriterOptions { reserve_bytes: u64::MAX, ..WriterOptions::default() };
    let path = dir.path().join(FILE_NAME);
    let (ledger, threads, _) = Ledger::open(&path, options, Arc::new(FakeClock::default())).unwrap();
    for kind in ["exec.run.intent", "watch.attempt.intent", "fleet.vote.intent"] {
        assert_eq!(ledger.append(row(kind, 1)).await, Err(LedgerError::NoRoom), "{kind}");
    }
    let marked = |mark: serde_json::Value| {
        let payload = Payload::new(&Map::from_iter([("attempt".to_owned(), 1.into()), ("undo".to_owned(), mark)]));
        NewRow::new("watch.attempt.intent".to_owned(), "watch".to_owned(), payload.unwrap()).unwrap()
    };
    for mark in [false.into(), "true".into(), 1.into()] {
        assert_eq!(ledger.append(marked(mark)).await, Err(LedgerError::NoRoom));
    }
    ledger.append(marked(true.into())).await.unwrap();
    for kind in ["watch.attempt.outcome", "watch.rollback.intent", "watch.rollback.outcome", "ledger.retain.intent"] {
        ledger.append(row(kind, 1)).await.unwrap();
    }
    assert_eq!((ledger.state().head.size, ledger.state().is_writable), (5, true));
    threads.close().unwrap();
    let (ledger, threads, _) = open(&path);
    ledger.append(row("exec.run.intent", 1)).await.unwrap();
    threads.close().unwrap();
}

#[tokio::test]
async fn a_seal_stays_due_until_it_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let (ledger, threads, _) = open(&path);
    ledger.write_seal().unwrap();
    let file = dir.path().join(super::SEAL_FILE);
    assert!(!ledger.is_seal_due() && !file.exists(), "an open ledger has none");
    std::fs::create_dir(&file).unwrap();
    assert!(ledger.seal("caught") && !ledger.seal("again"));
    assert!(ledger.write_seal().is_err() && ledger.is_seal_due());
    std::fs::remove_dir(&file).unwrap();
    ledger.write_seal().unwrap();
    assert!(!ledger.is_seal_due());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "caught\n");
    threads.close().unwrap();
    let (ledger, threads, _) = open(&path);
    assert_eq!((ledger.sealed(), ledger.is_seal_due()), (Some("caught"), false));
    threads.close().unwrap();
}

#[tokio::test]
async fn r14_time_never_goes_back_even_if_the_clock_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let mut store = Store::open(&path, Synchronous::Full).unwrap();
    store.verify(&[], |_| {}, |_| {}).unwrap();
    store.commit(plain(&[row("test.row", 1)]), Timestamp::from_millis(5_000)).unwrap();
    store.commit(plain(&[row("test.row", 2)]), Timestamp::from_millis(1_000)).unwrap();
    drop(store);
    let mut store = Store::open(&path, Synchronous::Full).unwrap();
    store.verify(&[], |_| {}, |_| {}).unwrap();
    store.commit(plain(&[row("test.row", 3)]), Timestamp::from_millis(2_000)).unwrap();
    assert!(store.verify(&[], |_| {}, |_| {}).unwrap().is_intact());
    let newest = LedgerFile::open(&path).unwrap().events(&EventQuery::default()).unwrap().events.remove(0);
    assert_eq!(newest.ts, "1970-01-01T00:00:05.000Z");
}

#[tokio::test]
async fn a_row_that_somebody_else_wrote_stops_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let (ledger, threads, _) = open(&path);
    ledger.append(row("test.row", 1)).await.unwrap();
    let conn = Connection::open(&path).unwrap();
    conn.execute("INSERT INTO events (type, actor, payload, prev_hash, hash) VALUES ('x', 'x', '{}', '', '')", [])
        .unwrap();
    assert_eq!(ledger.append(row("test.row", 2)).await, Err(LedgerError::Unavailable));
    ledger.failed().await;
    assert_eq!(ledger.append(row("test.row", 3)).await, Err(LedgerError::Unavailable));
    assert!(threads.close().is_err());
}

/// Rows are written many at a time: each column is its own, and a guard finds all
/// rows before its own, wherever in the batch it stands.
#[tokio::test]
async fn rows_of_a_batch_are_written_in_order_around_guards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let mut store = Store::open(&path, Synchronous::Full).unwrap();
    store.verify(&[], |_| {}, |_| {}).unwrap();
    let mut batch = plain(&(0..100).map(|n| row(&format!("test.row{n}"), n)).collect::<Vec<_>>());
    for (at, holds) in [(0, true), (31, false), (40, true), (41, false), (99, true)] {
        batch[at].1 = Some(Box::new(move |conn, id| {
            let count = conn.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i64>(0))?;
            assert_eq!(count, id - 1, "at {at}");
            Ok(holds)
        }));
    }
    let heads = store.commit(batch, Timestamp::from_millis(0)).unwrap();
    assert_eq!(heads.iter().filter(|head| head.is_none()).count(), 2);
    assert_eq!(store.verify(&[], |_| {}, |_| {}).unwrap().verified, 98);
    let page = LedgerFile::open(&path).unwrap().events(&EventQuery { limit: -1, ..EventQuery::default() }).unwrap();
    for (n, head) in heads.iter().enumerate() {
        let Some(head) = head else { continue };
        let event = page.events.iter().find(|event| event.id.unsigned_abs() == head.size).unwrap();
        assert_eq!((event.kind.clone(), event.payload.clone()), (format!("test.row{n}"), format!("{{\"n\":{n}}}")));
        assert_eq!((event.actor.as_str(), event.hash.as_str()), ("tester", head.hash.as_str()));
    }
}

#[tokio::test]
async fn a_long_log_is_copied_into_the_file_while_rows_come() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let (ledger, threads, _) = open(&path);
    let big = Payload::new(&Map::from_iter([("x".to_owned(), "x".repeat(50_000).into())])).unwrap();
    let big = NewRow::new("test.big".to_owned(), "tester".to_owned(), big).unwrap();
    let bytes = |name: &str| std::fs::metadata(dir.path().join(name)).map_or(0, |file| file.len());
    let mut count = 0;
    // 4 MB of log are 80 such rows; many more than that end in the file.
    while bytes(FILE_NAME) < 20_000_000 {
        futures_util::future::try_join_all((0..16).map(|_| ledger.append(big.clone()))).await.unwrap();
        count += 16;
        assert!(bytes("ledger.db-wal") < 40_000_000, "the log is not begun again");
        assert!(count < 10_000, "nothing is copied");
    }
    let counts = ledger.counts();
    assert!(counts.syncs > counts.commits, "{counts:?}");
    threads.close().unwrap();
    let (_, threads, report) = open(&path);
    assert_eq!(report.verified, count);
    threads.close().unwrap();
}

/// The log that a reader of an old state lets grow is cut when the reader is gone.
#[tokio::test]
async fn a_log_that_grew_behind_a_reader_is_cut_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let (ledger, threads, _) = open(&path);
    let big = Payload::new(&Map::from_iter([("x".to_owned(), "x".repeat(50_000).into())])).unwrap();
    let big = NewRow::new("test.big".to_owned(), "tester".to_owned(), big).unwrap();
    let append = async || {
        futures_util::future::try_join_all((0..16).map(|_| ledger.append(big.clone()))).await.unwrap();
    };
    let bytes = || std::fs::metadata(dir.path().join("ledger.db-wal")).map_or(0, |file| file.len());
    append().await;
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM events").unwrap();
    let limit = u64::from(super::log::FILE_BYTES_MAX);
    while bytes() < 2 * limit {
        append().await;
    }
    reader.execute_batch("COMMIT").unwrap();
    for _ in 0..2_000 {
        if bytes() <= limit {
            break;
        }
        append().await;
    }
    assert!(bytes() <= limit, "{} bytes", bytes());
    threads.close().unwrap();
}

/// Two connections that write and copy at once made a whole file unreadable in
/// versions before this one.
#[test]
fn sqlite_is_one_that_may_copy_while_another_writes() {
    assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
}

#[tokio::test]
async fn queries_filter_page_and_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let (ledger, threads, _) = open(&path);
    for n in 0..10 {
        ledger.append(row(if n % 2 == 0 { "test.even" } else { "test.odd" }, n)).await.unwrap();
    }
    let ids = |query: EventQuery| {
        let ledger = ledger.clone();
        async move {
            let page = ledger.read(move |file| file.events(&query)).await.unwrap().unwrap();
            assert!(!page.is_truncated);
            page.events.iter().map(|event| event.id).collect::<Vec<_>>()
        }
    };
    let all = EventQuery { limit: -1, ..EventQuery::default() };
    assert_eq!(ids(all.clone()).await, (1..=10).rev().collect::<Vec<_>>());
    assert_eq!(ids(EventQuery { limit: 2, ..all.clone() }).await, [10, 9]);
    assert_eq!(ids(EventQuery { limit: 0, ..all.clone() }).await, [0; 0]);
    assert_eq!(ids(EventQuery { kind: Some("test.odd".into()), limit: 2, ..all.clone() }).await, [10, 8]);
    assert_eq!(ids(EventQuery { actor: Some("nobody".into()), ..all.clone() }).await, [0; 0]);
    assert_eq!(ids(EventQuery { before: Some(3), ..all }).await, [2, 1]);
    threads.close().unwrap();
    let stats = LedgerFile::open(&path).unwrap().stats().unwrap();
    assert_eq!(stats.count, 10);
    assert_eq!(stats.by_type, [("test.even".to_owned(), 5), ("test.odd".to_owned(), 5)]);
}

#[tokio::test]
async fn a_query_without_limit_stops_at_the_cap_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let mut store = Store::open(&path, Synchronous::Off).unwrap();
    store.verify(&[], |_| {}, |_| {}).unwrap();
    let rows: Vec<_> = (0..10_001).map(|n| row("test.row", n)).collect();
    store.commit(plain(&rows), Timestamp::from_millis(0)).unwrap();
    let page = LedgerFile::open(&path).unwrap().events(&EventQuery { limit: -1, ..EventQuery::default() }).unwrap();
    assert_eq!((page.events.len(), page.is_truncated), (10_000, true));
}

/// The walk of the reference's `verify-ledger`, in its own terms: any break is
/// one it would print.
#[tokio::test]
async fn the_reference_verifier_would_accept_the_file() {
    use sha2::{Digest, Sha256};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    filled(&path, 20).await;
    let conn = Connection::open(&path).unwrap();
    let mut statement =
        conn.prepare("SELECT id, ts, type, actor, payload, prev_hash, hash FROM events ORDER BY id ASC").unwrap();
    let mut prev = "0".repeat(64);
    let mut rows = statement.query([]).unwrap();
    let mut count = 0;
    while let Some(row) = rows.next().unwrap() {
        let text = |n: usize| row.get::<_, String>(n).unwrap();
        assert_eq!(text(5), prev);
        let record = [row.get::<_, i64>(0).unwrap().to_string(), text(1), text(2), text(3), text(4), text(5)].join("|");
        let hash: String = Sha256::digest(record).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(text(6), hash);
        prev = hash;
        count += 1;
    }
    assert_eq!(count, 20);
}
