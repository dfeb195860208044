//! What a host is told, by a small `watch` that answers as it is set to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::testing::TestServer;
use osmoda_kit::tasks::TaskKind;
use osmoda_kit::testing::wait_for;
use osmoda_node_api::watch::Trusted;
use osmoda_rollout::testing::{ANN, BOB, Log, network, principal, signed};
use osmoda_types::{ErrorCode, Right, statement};

use super::*;
use crate::replica::{self, Follower};

/// The seeds of the keys of operators that are added.
const CARL: u8 = 210;
const DORA: u8 = 211;

/// A test's longest wait.
const LIMIT: Duration = Duration::from_secs(20);

/// What the host was asked, and what it answers next; without a word, yes.
#[derive(Debug, Clone, Default)]
struct Host {
    asked: Arc<Mutex<Vec<TrustRequest>>>,
    answers: Arc<Mutex<VecDeque<Option<ErrorCode>>>>,
}

impl Host {
    fn serve(&self) -> TestServer {
        TestServer::open(Router::new().route("/trust/add", post(add)).with_state(self.clone()))
    }

    /// The next answers.
    fn answers(&self, codes: &[Option<ErrorCode>]) {
        self.answers.lock().unwrap().extend(codes);
    }

    /// Name and serial of everything asked since the last time.
    fn asked(&self) -> Vec<(String, u64)> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.into_iter().map(|request| (request.principal.name, request.serial)).collect()
    }
}

async fn add(State(host): State<Host>, Json(request): Json<TrustRequest>) -> Result<Json<Trusted>, ApiError> {
    host.asked.lock().unwrap().push(request);
    match host.answers.lock().unwrap().pop_front().flatten() {
        Some(code) => Err(ApiError::new(code, "as the test said")),
        None => Ok(Json(Trusted { operators: 1 })),
    }
}

/// Everything around one [`Trust`].
struct Scene {
    log: Log,
    host: Host,
    server: TestServer,
    follower: Follower,
    replica: Replica,
    told: BTreeSet<(PublicKey, u64)>,
}

impl Scene {
    fn new() -> Self {
        let host = Host::default();
        let server = host.serve();
        let (follower, replica, _events) = replica::new(Shutdown::new());
        Self { log: Log::fleet(), host, server, follower, replica, told: BTreeSet::new() }
    }

    fn adds(&mut self, name: &str, seed: u8, rights: &[Right], by: u8, serial: u64) {
        let order = Order::AddPrincipal(principal(name, seed, rights));
        self.log.expect(signed(order, serial, by, by));
    }

    fn trust(&self) -> Trust {
        let shutdown = self.server.tasks().shutdown().clone();
        Trust { replica: self.replica.clone(), host: WatchClient::new(self.server.client()), shutdown }
    }

    /// One round of telling: whether all was told, and what was asked.
    async fn tells(&mut self) -> (bool, Vec<(String, u64)>) {
        let all = self.trust().tell(&self.log.state, &mut self.told).await;
        (all, self.host.asked())
    }

    fn publishes(&mut self) {
        self.follower.restore(self.log.state.last_index() + 1, &self.log.state.encode()).unwrap();
    }

    async fn hears(&self, expected: &[(&str, u64)]) {
        let mut heard = Vec::new();
        wait_for(format!("{expected:?}"), LIMIT, || {
            heard.extend(self.host.asked());
            let enough = heard.len() >= expected.len();
            async move { enough.then_some(()) }
        })
        .await;
        assert_eq!(heard, owned(expected));
    }
}

fn owned(asked: &[(&str, u64)]) -> Vec<(String, u64)> {
    asked.iter().map(|(name, serial)| ((*name).to_owned(), *serial)).collect()
}

#[tokio::test]
async fn operators_of_the_genesis_are_not_told_and_added_ones_are_with_their_signature() {
    let mut scene = Scene::new();
    assert_eq!(scene.tells().await, (true, Vec::new()));
    scene.adds("carl", CARL, &[Right::Deploy], ANN, 4);
    assert!(scene.trust().tell(&scene.log.state, &mut scene.told).await);
    let asked = scene.host.asked.lock().unwrap().clone();
    let [request] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!(request.principal, principal("carl", CARL, &[Right::Deploy]));
    let statement = statement::control(&Order::AddPrincipal(request.principal.clone()), 4, &network());
    assert_eq!(statement::verify(&request.operator_key, &statement, &request.signature), Ok(()));
}

#[tokio::test]
async fn other_orders_are_not_told() {
    let mut scene = Scene::new();
    scene.log.expect(signed(Order::Freeze { scope: "a".to_owned() }, 1, ANN, ANN));
    assert_eq!(scene.tells().await, (true, Vec::new()));
}

#[tokio::test]
async fn orders_go_by_their_serials_each_once() {
    let mut scene = Scene::new();
    // In the state they stand by key; carl's is the smaller one or the greater.
    scene.adds("dora", DORA, &[Right::Deploy], ANN, 1);
    scene.adds("carl", CARL, &Right::ALL, ANN, 2);
    scene.adds("bob", BOB, &[Right::Deploy], ANN, 3);
    assert_eq!(scene.tells().await, (true, owned(&[("dora", 1), ("carl", 2), ("bob", 3)])));
    assert_eq!(scene.tells().await, (true, Vec::new()));
    scene.adds("dora", DORA, &[], CARL, 4);
    assert_eq!(scene.tells().await, (true, owned(&[("dora", 4)])), "the newest order about her");
}

#[tokio::test]
async fn a_host_that_is_away_is_told_the_rest_later() {
    let mut scene = Scene::new();
    scene.adds("carl", CARL, &Right::ALL, ANN, 1);
    scene.adds("dora", DORA, &[Right::Deploy], CARL, 2);
    scene.adds("bob", BOB, &[Right::Deploy], ANN, 3);
    scene.host.answers(&[Some(ErrorCode::DaemonUnavailable)]);
    assert_eq!(scene.tells().await, (false, owned(&[("carl", 1)])), "nobody overtakes");
    scene.host.answers(&[None, Some(ErrorCode::Timeout)]);
    assert_eq!(scene.tells().await, (false, owned(&[("carl", 1), ("dora", 2)])));
    assert_eq!(scene.tells().await, (true, owned(&[("dora", 2), ("bob", 3)])));
}

#[tokio::test]
async fn an_order_by_somebody_with_a_slow_clock_is_told_again_behind_the_one_that_added_him() {
    let mut scene = Scene::new();
    scene.adds("carl", CARL, &Right::ALL, ANN, 5);
    scene.adds("dora", DORA, &[Right::Deploy], CARL, 2);
    scene.host.answers(&[Some(ErrorCode::PrincipalUnknown)]);
    assert_eq!(scene.tells().await, (true, owned(&[("dora", 2), ("carl", 5), ("dora", 2)])));
    assert_eq!(scene.tells().await, (true, Vec::new()));
}

#[tokio::test]
async fn what_a_host_refuses_for_good_is_asked_once_and_stops_nobody() {
    let mut scene = Scene::new();
    scene.adds("carl", CARL, &[Right::Deploy], ANN, 1);
    scene.host.answers(&[Some(ErrorCode::SignatureInvalid)]);
    assert_eq!(scene.tells().await, (true, owned(&[("carl", 1)])));
    scene.adds("dora", DORA, &[Right::Deploy], ANN, 2);
    assert_eq!(scene.tells().await, (true, owned(&[("dora", 2)])));
    assert_eq!(scene.tells().await, (true, Vec::new()));
}

#[tokio::test]
async fn it_follows_the_log_tries_again_by_itself_and_ends_with_the_stop() {
    let mut scene = Scene::new();
    scene.adds("carl", CARL, &Right::ALL, ANN, 1);
    scene.host.answers(&[Some(ErrorCode::DaemonUnavailable)]);
    scene.publishes();
    scene.server.tasks().spawn(TaskKind::CRITICAL, "trust", scene.trust().run());
    scene.hears(&[("carl", 1), ("carl", 1)]).await;
    scene.adds("dora", DORA, &[Right::Deploy], CARL, 2);
    scene.publishes();
    scene.hears(&[("dora", 2)]).await;
    assert!(scene.server.stop(LIMIT).await.is_graceful());
    assert_eq!(scene.host.asked(), Vec::new());
}
