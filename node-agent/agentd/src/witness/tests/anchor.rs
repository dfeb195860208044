//! The fleet's log binds what witnesses cosign: a ledger with two histories, one for
//! each half of its witnesses, is caught by the log's next head.

use axum::extract::State;
use osmoda_kit::testing::FakeClock;
use osmoda_ledger::anchor::LOGGED_WITHIN_S;

use super::super::{Shown, next_head};
use super::*;
use crate::checkpoint::Watched;

impl Node {
    /// Waits until this node holds that many rows of the other's ledger.
    async fn holds(&self, node: u8, size: u64) {
        let holds = || async {
            let (held, _) = self.duty.report().await.unwrap();
            held.iter().any(|held| held.node == id(node) && held.size == size).then_some(())
        };
        wait_for("the head is held", LIMIT, holds).await;
    }
}

impl Node {
    /// Waits until that many witnesses wait for the log.
    async fn waiting_for_log(&self, count: usize) {
        let mut coverage = self.gate.coverage.clone();
        let waits = coverage.wait_for(|coverage| coverage.waiting_for_log() == count);
        tokio::time::timeout(LIMIT, waits).await.expect("so many wait for the log").unwrap();
    }

    /// The head that goes into the log next.
    async fn next_head(&self) -> Option<LoggedHead> {
        let shown = Shown {
            public: PublicKey::from_bytes([0; 32]),
            ledger: self.ledger.clone(),
            checkpoints: self.gate.checkpoints.clone(),
            roster: self.say.subscribe(),
            coverage: self.gate.coverage.clone(),
            duty: self.duty.clone(),
            watched: watch::channel(Watched::default()).1,
        };
        next_head(State(shown)).await.unwrap().0
    }
}

impl Fleet {
    /// Tells a node that the log has this head of node 1.
    fn log(&self, node: &Node, head: LoggedHead) {
        let mut roster = self.roster(node.number);
        roster.others.iter_mut().filter(|peer| peer.node == id(1)).for_each(|peer| peer.logged = Some(head));
        node.say.send_replace(Some(Arc::new(roster)));
    }

    /// Tells all of them that the log has this head of node 1.
    fn log_everywhere(&self, nodes: &[&Node], head: LoggedHead) {
        for node in nodes {
            self.log(node, head);
            if node.number == 1 {
                node.say.send_replace(Some(Arc::new(Roster { logged: Some(head), ..self.roster(1) })));
            }
        }
    }

    /// The same node with its ledger as it was in that folder.
    fn swap(&self, from: &str, to: &str) {
        std::fs::rename(self.dir(1), self.root.path().join(to)).unwrap();
        copy(&self.root.path().join(from), &self.dir(1));
    }
}

fn head(node: &Node) -> LoggedHead {
    let checkpoints = &node.gate.checkpoints;
    super::super::logged::head_of(&checkpoints.newest().unwrap().note, checkpoints.verifier()).unwrap()
}

#[tokio::test]
async fn a_ledger_shows_once_that_it_continues_the_logs_head() {
    let fleet = Fleet::of(2);
    let [one, two] = [1, 2].map(|number| fleet.start(number));
    let size = one.covered(5).await;
    let logged = head(&one);
    one.covered(300).await;
    fleet.log(&two, logged);
    let request = one.request(size + 300).await.to_string();
    let reply = two.duty.answer(id(1), Question::AddCheckpoint(request.clone())).await.unwrap();
    assert_eq!(reply, Reply::Judged { status: 428, body: format!("{}\n", logged.size) });
    let anchor = one.request(logged.size).await.to_string();
    let question = Question::Anchored { request: request.clone(), anchor };
    let reply = two.duty.answer(id(1), question).await.unwrap();
    assert!(matches!(reply, Reply::Judged { status: 200, .. }), "{reply:?}");
    let reply = two.duty.answer(id(1), Question::AddCheckpoint(request.clone())).await.unwrap();
    assert!(matches!(reply, Reply::Judged { status: 200, .. }), "{reply:?}");
    let question = Question::Anchored { request, anchor: "nonsense".to_owned() };
    let reply = two.duty.answer(id(1), question).await.unwrap();
    assert_eq!(reply, Reply::Judged { status: 400, body: String::new() });

    // And by itself, in the course of things.
    fleet.log(&two, head(&one));
    let intent = one.covered(3).await;
    one.gate.witnessed(intent).await.unwrap();
    fleet.log(&two, head(&one));
    one.covered(1).await;
    assert!(two.duty.report().await.unwrap().1.is_empty());
    for node in [one, two] {
        fleet.stop(node).await;
    }
}

#[tokio::test]
async fn split_view_for_two_halves_of_the_witnesses_is_caught_by_the_logs_next_head() {
    let fleet = Fleet::of(3);
    let [one, two, three] = [1, 2, 3].map(|number| fleet.start(number));
    let size = one.covered(10).await;
    two.holds(1, size).await;
    three.holds(1, size).await;
    fleet.stop(one).await;
    copy(&fleet.dir(1), &fleet.root.path().join("fork"));

    // The one history for the one half of the witnesses.
    let road = fleet.duties.lock().unwrap().remove(&id(3)).unwrap();
    let one = fleet.start(1);
    let size = one.covered(5).await;
    two.holds(1, size).await;
    let logged = head(&one);
    fleet.stop(one).await;

    // And the other for the other, at a size of its own.
    fleet.duties.lock().unwrap().insert(id(3), road);
    let road = fleet.duties.lock().unwrap().remove(&id(2)).unwrap();
    fleet.swap("fork", "one");
    let one = fleet.start(1);
    let size = one.covered(7).await;
    three.holds(1, size).await;
    assert!(three.duty.report().await.unwrap().1.is_empty(), "nobody can tell yet");

    fleet.log(&three, logged);
    let intent = one.append(1).await;
    assert_eq!(one.gate.witnessed(intent).await.unwrap_err().code, ErrorCode::WitnessUnavailable);
    let alarm = three.caught(1).await;
    assert_eq!(alarm.finding, Finding::Rewritten);
    let (held, shown) = (Note::parse(alarm.held.as_bytes()).unwrap(), Note::parse(alarm.shown.as_bytes()).unwrap());
    let verifier = one.gate.checkpoints.verifier();
    let sizes = [held, shown].map(|note| Checkpoint::open(&note, verifier).unwrap().size);
    assert_eq!(sizes[0], logged.size, "both are signed by the ledger that lied");
    assert!(sizes[1] >= size);
    three.holds(1, size).await;
    drop(road);
    for node in [one, two, three] {
        fleet.stop(node).await;
    }
}

/// Two of four must cosign, and after the newest head in the log they are up one at a
/// time, each for longer than it cosigns beyond that head.
#[tokio::test]
async fn witnesses_that_come_back_one_at_a_time_go_on_with_the_logs_next_head() {
    let clock = Arc::new(FakeClock::new());
    let mut fleet = Fleet::of(5);
    fleet.clock = clock.clone();
    let [one, two, three] = [1, 2, 3].map(|number| fleet.start(number));
    one.covered(5).await;
    let logged = one.next_head().await.unwrap();
    fleet.log_everywhere(&[&one, &two, &three], logged);
    let away = |number: u8| fleet.duties.lock().unwrap().remove(&id(number)).unwrap();
    for (number, witness, other) in [(2, &two, 3), (3, &three, 2)] {
        let road = away(other);
        let size = one.append(1).await;
        witness.holds(1, size).await;
        one.waiting_for_log(0).await;
        assert_eq!(one.next_head().await, Some(logged), "no other head has enough cosignatures");
        clock.advance(Duration::from_secs(LOGGED_WITHIN_S + 1));
        one.append(1).await;
        one.waiting_for_log(1).await;
        let refused = one.gate.witnessed(1).await.unwrap_err();
        assert!(refused.message.contains("1 wait until the fleet's log"), "{number}: {}", refused.message);
        fleet.duties.lock().unwrap().insert(id(other), road);
    }
    let newest = one.next_head().await.unwrap();
    assert!(newest.size > logged.size);
    fleet.log_everywhere(&[&one, &two, &three], newest);
    one.covered(1).await;
    for node in [one, two, three] {
        fleet.stop(node).await;
    }
}
