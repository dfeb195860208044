//! What happens to the rows when the ledger has room for what ends acts only.

use super::*;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use osmoda_kit::audit::{Append, Recorded};
use osmoda_kit::http::testing::TestServer;
use osmoda_node_api::agentd::Event;
use std::sync::{Arc, Mutex};

const FIRST: AttemptId = AttemptId(1);
const SECOND: AttemptId = AttemptId(2);

/// A ledger that refuses what agentd does while its reserve is all that is left.
#[derive(Default)]
struct Ledger {
    rows: Vec<Append>,
    has_room: bool,
    /// The next row is answered as lost, and comes in with the one after it.
    is_slow: bool,
    late: Option<Append>,
}

type Shared = Arc<Mutex<Ledger>>;

async fn append(State(ledger): State<Shared>, Json(row): Json<Append>) -> Result<Json<Recorded>, ApiError> {
    let mut ledger = ledger.lock().unwrap();
    if std::mem::take(&mut ledger.is_slow) {
        ledger.late = Some(row);
        return Err(ApiError::new(ErrorCode::Timeout, "slow"));
    }
    let late = ledger.late.take();
    ledger.rows.extend(late);
    let is_free = row.kind.starts_with("watch.rollback") || row.payload["undo"] == json!(true);
    if !ledger.has_room && row.kind.ends_with(".intent") && !is_free {
        return Err(ApiError::new(ErrorCode::DiskFull, "no room"));
    }
    ledger.rows.push(row);
    Ok(Json(Recorded { id: i64::try_from(ledger.rows.len()).unwrap(), hash: "00".repeat(32) }))
}

async fn events(State(ledger): State<Shared>) -> Json<Vec<Event>> {
    let ledger = ledger.lock().unwrap();
    let event = |(id, row): (i64, &Append)| Event {
        id,
        ts: String::new(),
        kind: row.kind.clone(),
        actor: "watch".to_owned(),
        payload: row.payload.to_string(),
        prev_hash: String::new(),
        hash: String::new(),
    };
    Json((1..).zip(&ledger.rows).map(event).collect())
}

struct Fixture {
    trail: Trail,
    ledger: Shared,
    _server: TestServer,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new(has_room: bool) -> Self {
        let ledger: Shared = Arc::new(Mutex::new(Ledger { has_room, ..Ledger::default() }));
        let routes = Router::new().route("/ledger/append", post(append)).route("/events/log", get(events));
        let server = TestServer::open(routes.with_state(Arc::clone(&ledger)));
        let dir = tempfile::tempdir().unwrap();
        let trail = Trail::open(&server.client(), dir.path()).unwrap();
        Self { trail, ledger, _server: server, _dir: dir }
    }

    /// What the ledger has been told, with the rows that outcomes name.
    fn told(&self) -> Vec<String> {
        let ledger = self.ledger.lock().unwrap();
        let intent = |row: &Append| row.payload["intent"].as_i64().map(|id| format!(" of {id}")).unwrap_or_default();
        ledger.rows.iter().map(|row| format!("{}{}", row.kind, intent(row))).collect()
    }
}

fn about(attempt: AttemptId) -> Value {
    json!({ "attempt": attempt })
}

#[tokio::test]
async fn an_undo_is_told_while_there_is_no_room_for_an_attempt() {
    let mut fixture = Fixture::new(false);
    let trail = &mut fixture.trail;
    let refused = trail.intend(FIRST, Act::Attempt, about(FIRST)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::DiskFull);
    trail.tell(FIRST, Phase::Deferred, &about(FIRST)).unwrap();
    trail.deliver().await.unwrap();
    let undo = json!({ "attempt": SECOND, "undo": true });
    trail.put_intent(SECOND, Act::Attempt, undo.clone()).unwrap();
    trail.deliver().await.unwrap();
    for phase in [Phase::RollingBack, Phase::RolledBack] {
        trail.tell(SECOND, phase, &undo).unwrap();
    }
    trail.deliver().await.unwrap();
    assert!(trail.file.spool.is_empty());
    let rows = [
        "watch.attempt.deferred",
        "watch.attempt.intent",
        "watch.rollback.intent",
        "watch.rollback.outcome of 3",
        "watch.attempt.outcome of 2",
    ];
    assert_eq!(fixture.told(), rows);
}

#[tokio::test]
async fn a_commit_without_room_does_not_hold_up_the_rollback_after_it() {
    let mut fixture = Fixture::new(true);
    fixture.trail.intend(FIRST, Act::Attempt, about(FIRST)).await.unwrap();
    fixture.ledger.lock().unwrap().has_room = false;
    let trail = &mut fixture.trail;
    for _ in 0..3 {
        let refused = trail.intend(FIRST, Act::Commit, about(FIRST)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::DiskFull);
    }
    for phase in [Phase::RollingBack, Phase::RolledBack] {
        trail.tell(FIRST, phase, &about(FIRST)).unwrap();
    }
    trail.deliver().await.unwrap();
    let rows =
        ["watch.attempt.intent", "watch.rollback.intent", "watch.rollback.outcome of 2", "watch.attempt.outcome of 1"];
    assert_eq!(fixture.told(), rows);
}

/// Put down while the ledger was away, with what came of it, and refused when it is back.
#[tokio::test]
async fn what_waited_for_the_ledger_is_refused_with_all_that_hangs_on_it() {
    let mut fixture = Fixture::new(false);
    let trail = &mut fixture.trail;
    trail.put_intent(FIRST, Act::Attempt, about(FIRST)).unwrap();
    trail.tell(FIRST, Phase::Deferred, &about(FIRST)).unwrap();
    assert_eq!(trail.file.spool.len(), 3);
    trail.deliver().await.unwrap();
    assert!(trail.file.spool.is_empty() && trail.left_open(None).is_empty());
    assert_eq!(fixture.told(), ["watch.attempt.deferred"]);
}

/// The answer to an intent was lost, it is not there when it is looked for, and comes
/// in before the second one is refused.
#[tokio::test]
async fn an_intent_that_came_in_late_is_not_forgotten() {
    let mut fixture = Fixture::new(false);
    fixture.ledger.lock().unwrap().is_slow = true;
    let trail = &mut fixture.trail;
    assert_eq!(trail.intend(FIRST, Act::Attempt, about(FIRST)).await.unwrap_err().code, ErrorCode::LedgerUnavailable);
    trail.intend(FIRST, Act::Attempt, about(FIRST)).await.unwrap();
    trail.tell(FIRST, Phase::RolledBack, &about(FIRST)).unwrap();
    trail.deliver().await.unwrap();
    assert_eq!(fixture.told(), ["watch.attempt.intent", "watch.attempt.outcome of 1"]);
}
