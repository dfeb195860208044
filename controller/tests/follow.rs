//! Following the log: nothing lost, nothing told twice, whatever restarts.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure shows the line that surprised it")]

mod support;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use osmoda_controller_store::EventRow;
use osmoda_types::{RolloutId, Vote};
use support::{FakeVoter, LIMIT, TOKEN, TestController, ann, fleet, manifest, start_order};
use tower::ServiceExt as _;

const ID: &str = "01900000-0000-7000-8000-000000000001";

fn id() -> RolloutId {
    ID.parse().unwrap()
}

async fn propose(controller: &TestController, voter: &FakeVoter) {
    let text = manifest("/nix/store/b");
    controller.caught_up(voter).await;
    controller.call("PUT", "/manifests", Some(&text)).await;
    let (status, answer) = controller.call("POST", "/rollouts", Some(&start_order(&text, id(), 0, &ann()))).await;
    assert!(status.is_success(), "{answer}");
}

async fn events(controller: &TestController) -> Vec<EventRow> {
    controller.store.events(None, 0, 1000).await.unwrap()
}

fn told(events: &[EventRow]) -> Vec<(u64, String)> {
    events.iter().map(|row| (row.event.index, row.event.body.clone())).collect()
}

#[tokio::test]
async fn a_restarted_controller_shows_the_whole_history_and_tells_nothing_twice() {
    let (_dir, _tasks, voter, database) = fleet();
    let first = TestController::start(&voter, &database).await;
    propose(&first, &voter).await;
    let before = events(&first).await;
    assert!(before.len() > 3);
    first.stop().await;

    // While it is away the fleet goes on.
    assert_eq!(voter.vote(id(), Vote::No), None);
    let second = TestController::start(&voter, &database).await;
    second.caught_up(&voter).await;
    let after = events(&second).await;
    assert_eq!(told(&after[..before.len()]), told(&before));
    assert!(after.len() > before.len());
    assert!(after.windows(2).all(|pair| pair[0].id < pair[1].id && pair[0].event.index <= pair[1].event.index));
    let (_, rollout) = second.call("GET", &format!("/rollouts/{ID}"), None).await;
    assert_eq!(rollout["state"], "rejected");
    second.stop().await;

    // One that forgot everything reads the same from the beginning.
    let (_dir, fresh) = {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        (dir, path)
    };
    let third = TestController::start(&voter, &fresh).await;
    third.caught_up(&voter).await;
    assert_eq!(told(&events(&third).await), told(&after));
    third.stop().await;
}

#[tokio::test]
async fn a_voter_that_dies_is_followed_again_where_it_was_left() {
    let (_dir, _tasks, voter, database) = fleet();
    let controller = TestController::start(&voter, &database).await;
    propose(&controller, &voter).await;
    voter.set_down(true);
    let mut view = controller.published.view.clone();
    tokio::time::timeout(LIMIT, view.wait_for(|view| !view.following)).await.unwrap().unwrap();
    voter.vote(id(), Vote::Yes);
    voter.set_down(false);
    controller.caught_up(&voter).await;
    let (_, rollout) = controller.call("GET", &format!("/rollouts/{ID}"), None).await;
    assert_eq!(rollout["state"], "prefetch");
    let all = told(&events(&controller).await);
    let unique: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(unique.len(), all.len());
    controller.stop().await;
}

#[tokio::test]
async fn entries_that_were_compacted_come_as_a_snapshot() {
    let (_dir, _tasks, voter, database) = fleet();
    let first = TestController::start(&voter, &database).await;
    propose(&first, &voter).await;
    first.stop().await;
    voter.vote(id(), Vote::No);
    voter.compact();
    let second = TestController::start(&voter, &database).await;
    second.caught_up(&voter).await;
    let (_, rollout) = second.call("GET", &format!("/rollouts/{ID}"), None).await;
    assert_eq!(rollout["state"], "rejected");
    let last = events(&second).await.pop().unwrap();
    assert!(last.event.body.contains("entries_compacted"), "{}", last.event.body);
    second.stop().await;
}

/// Reads a stream until it told `count` events; returns their ids.
async fn read(controller: &TestController, last: Option<&str>, count: usize) -> Vec<String> {
    let mut request = Request::builder().uri(format!("/api/v1/fleet/rollouts/{ID}/events"));
    request = request.header("authorization", format!("Bearer {TOKEN}"));
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let response = controller.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut text = String::new();
    let ids =
        |text: &str| text.lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned).collect::<Vec<_>>();
    while ids(&text).len() < count {
        let frame = tokio::time::timeout(LIMIT, body.frame()).await.expect("events come").unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    ids(&text)
}

#[tokio::test]
async fn an_event_stream_resumes_after_the_last_id_seen() {
    let (_dir, _tasks, voter, database) = fleet();
    let controller = TestController::start(&voter, &database).await;
    propose(&controller, &voter).await;
    let first = read(&controller, None, 2).await;
    voter.vote(id(), Vote::Yes);
    controller.caught_up(&voter).await;
    let all = read(&controller, None, 5).await;
    assert_eq!(all[..2], first[..2]);
    assert_eq!(read(&controller, Some(&all[1]), all.len() - 2).await, all[2..]);

    let after_all = read(&controller, Some(all.last().unwrap()), 0).await;
    assert_eq!(after_all, Vec::<String>::new());
    controller.stop().await;
}
