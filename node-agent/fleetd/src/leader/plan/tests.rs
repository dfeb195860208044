//! The plan on real states of a small fleet: nodes 0, 1 and 2 vote, node 3 is
//! the canary. Leader 0 unless a test says otherwise.

use osmoda_rollout::testing::{
    End, Log, NODES, Point, Said, Short, VOTERS, genesis, grant, node, open, order, propose, raft_id, rollout, staged,
    subkey, vote,
};
use osmoda_types::Policy;
use osmoda_types::command::OpenWave;

use super::*;
use crate::reports::Seen;

const SECOND: Duration = Duration::from_secs(1);

/// A leader with what it sees.
struct Leader {
    log: Log,
    number: u8,
    online: BTreeSet<NodeId>,
    seen: BTreeMap<NodeId, Seen>,
    memory: Memory,
    now: Duration,
}

impl Leader {
    fn of(log: Log) -> Self {
        let online = (0..NODES).map(node).collect();
        Self { log, number: 0, online, seen: BTreeMap::new(), memory: Memory::default(), now: 1000 * SECOND }
    }

    fn at(point: Point) -> Self {
        Self::of(Log::at(0, point))
    }

    /// With a pause of five seconds between two grants.
    fn staggered(point: Point) -> Self {
        Self::of(Log::at_with(0, point, |policy: &mut Policy| policy.stagger_ms = 5000))
    }

    fn plan(&mut self) -> Plan {
        let seen = self.seen.clone().into();
        let seeing = Seeing {
            state: &self.log.state,
            leader: raft_id(self.number),
            online: &self.online,
            seen: &seen,
            now: self.now,
        };
        self.memory.plan(&seeing)
    }

    fn plan_after(&mut self, time: Duration) -> Plan {
        self.now += time;
        self.plan()
    }

    /// Another voter leads, and knows nothing of what this one remembered.
    fn fails_over(&mut self, to: u8) {
        self.number = to;
        self.memory = Memory::default();
    }

    fn says_ready(&mut self, who: u8, ready: Option<NodeAttempt>) {
        self.seen.insert(node(who), Seen { observed_index: 1, ready });
    }

    /// The attempt of a node of rollout 0.
    fn attempt(&self, who: u8) -> NodeAttempt {
        let row = &self.log.state.rollout(&rollout(0)).expect("rollout 0").rows[&node(who)];
        NodeAttempt { rollout: rollout(0), node: node(who), attempt: row.attempt.expect("an attempt") }
    }

    /// Brings a node of the second wave to its end.
    fn commits(&mut self, who: u8) {
        let leader = if who == self.number { (who + 1) % VOTERS } else { self.number };
        let outcome = self.log.send(&grant(1, &[who]), leader);
        assert_eq!(outcome.reply.result(), Ok(()), "grant of {who}");
        self.log.must(&self.log.accept(who));
        self.log.must(&self.log.report(who, End::Committed));
    }
}

fn bodies(bodies: impl Into<Vec<Body>>) -> Plan {
    Plan { bodies: bodies.into(), step_aside: false }
}

fn grants(wave: u32, nodes: &[u8]) -> Body {
    Body::Grant(Grant { rollout: rollout(0), wave, nodes: nodes.iter().map(|who| node(*who)).collect() })
}

fn opens(wave: u32, eligible: &[u8], deferred: &[u8]) -> Body {
    let nodes = |of: &[u8]| of.iter().map(|who| node(*who)).collect();
    Body::OpenWave(OpenWave { rollout: rollout(0), wave, eligible: nodes(eligible), deferred: nodes(deferred) })
}

fn timings() -> osmoda_types::Timings {
    osmoda_types::Timings::default()
}

#[test]
fn a_ready_node_is_accepted_in_its_own_attempt_only() {
    let mut leader = Leader::at(Point::Granted);
    let of = leader.attempt(3);
    assert_eq!(leader.plan(), bodies([]), "nobody said anything");
    let wrong = [
        None,
        Some(NodeAttempt { attempt: AttemptId(of.attempt.0 + 1), ..of }),
        Some(NodeAttempt { attempt: AttemptId(of.attempt.0 - 1), ..of }),
        Some(NodeAttempt { rollout: rollout(1), ..of }),
        Some(NodeAttempt { node: node(4), ..of }),
    ];
    for ready in wrong {
        leader.says_ready(3, ready);
        assert_eq!(leader.plan(), bodies([]), "{ready:?}");
    }
    leader.seen.clear();
    leader.says_ready(4, Some(of));
    assert_eq!(leader.plan(), bodies([]), "another node's word");
    leader.says_ready(3, Some(of));
    assert_eq!(leader.plan(), bodies([Body::Accept(of)]));
    leader.log.must(&leader.log.accept(3));
    assert_eq!(leader.plan(), bodies([]), "it is accepted");
}

#[test]
fn a_paused_rollout_accepts_what_is_under_way_and_one_that_is_undone_does_not() {
    let mut leader = Leader::at(Point::Granted);
    let of = leader.attempt(3);
    leader.says_ready(3, Some(of));
    leader.log.must(&order(Short::Pause(0), 1));
    assert_eq!(leader.plan(), bodies([Body::Accept(of)]));
    leader.log.must(&order(Short::Abort(0), 2));
    assert_eq!(leader.plan(), bodies([]));
}

#[test]
fn the_first_wave_opens_when_the_first_in_rank_holds_its_closure() {
    assert_eq!(Leader::at(Point::Voting).plan(), bodies([]));
    let mut leader = Leader::at(Point::Prefetch);
    leader.log.must(&staged(4, Said::Expected));
    assert_eq!(leader.plan(), bodies([]), "node 3 goes first and is still fetching");
    leader.log.must(&staged(3, Said::Expected));
    assert_eq!(leader.plan(), bodies([opens(0, &[3], &[])]));
    leader.online.remove(&node(3));
    assert_eq!(leader.plan(), bodies([opens(0, &[4], &[3])]), "who is away is deferred");
}

#[test]
fn the_next_wave_opens_after_the_verdict_only() {
    let mut leader = Leader::at(Point::Soak);
    assert_eq!(leader.plan(), bodies([]));
    assert_eq!(Leader::at(Point::Verdict).plan(), bodies([opens(1, &[0, 1, 2, 4, 5], &[])]));
}

#[test]
fn grants_fill_the_budget_with_those_online_nodes_without_a_vote_first() {
    assert_eq!(Leader::at(Point::Canary).plan(), bodies([grants(0, &[3])]));
    let mut leader = Leader::at(Point::SecondWave);
    assert_eq!(leader.plan(), bodies([grants(1, &[4, 5])]));
    leader.online.remove(&node(5));
    assert_eq!(leader.plan(), bodies([grants(1, &[4, 1])]), "one voter beside it");
    leader.online.remove(&node(2));
    assert_eq!(leader.plan(), bodies([grants(1, &[4])]), "no voter while another is away");
    leader.log.must(&order(Short::Freeze(false), 1));
    assert_eq!(leader.plan(), bodies([]), "frozen");
}

#[test]
fn a_stagger_lets_one_node_go_at_a_time_and_pauses_in_between() {
    let mut leader = Leader::staggered(Point::SecondWave);
    assert_eq!(leader.plan(), bodies([grants(1, &[4])]));
    leader.log.must(&grant(1, &[4]));
    assert_eq!(leader.plan_after(4999 * SECOND / 1000), bodies([]));
    assert_eq!(leader.plan_after(SECOND / 1000), bodies([grants(1, &[5])]));
}

#[test]
fn a_new_leader_starts_at_once_within_the_budget() {
    let mut leader = Leader::staggered(Point::SecondWave);
    assert_eq!(leader.plan(), bodies([grants(1, &[4])]));
    leader.log.must(&grant(1, &[4]));
    leader.fails_over(1);
    assert_eq!(leader.plan_after(SECOND), bodies([grants(1, &[5])]), "no pause that it knows of");
    leader.log.must(&grant(1, &[5]));
    leader.fails_over(2);
    assert_eq!(leader.plan_after(SECOND), bodies([]), "two are at risk already");
}

#[test]
fn a_host_that_was_busy_is_granted_again() {
    let mut leader = Leader::at(Point::Granted);
    assert_eq!(leader.plan(), bodies([]));
    leader.log.must(&leader.log.report(3, End::Busy));
    assert_eq!(leader.plan(), bodies([grants(0, &[3])]));
}

#[test]
fn who_leads_again_starts_as_a_new_leader_does() {
    let mut leader = Leader::staggered(Point::SecondWave);
    assert_eq!(leader.plan(), bodies([grants(1, &[4])]));
    leader.log.must(&grant(1, &[4]));
    leader.memory.clear();
    assert_eq!(leader.plan(), bodies([grants(1, &[5])]));
}

#[test]
fn the_leader_steps_aside_for_its_own_node_and_the_next_one_grants_it() {
    let mut leader = Leader::at(Point::SecondWave);
    for who in [4, 5, 1] {
        leader.commits(who);
    }
    assert_eq!(leader.plan(), bodies([grants(1, &[2])]), "others first");
    leader.log.must(&grant(1, &[2]));
    assert_eq!(leader.plan(), bodies([]), "not while another voter is in flight");
    leader.log.must(&leader.log.accept(2));
    leader.log.must(&leader.log.report(2, End::Committed));
    assert_eq!(leader.plan(), Plan { bodies: Vec::new(), step_aside: true });
    leader.fails_over(1);
    assert_eq!(leader.plan(), bodies([grants(1, &[0])]));
}

#[test]
fn the_only_voter_grants_its_own_node() {
    let mut log = Log::new();
    for body in [genesis(), subkey(0), Body::RegisterVoter { node: node(0), raft_id: raft_id(0) }] {
        log.expect(body);
    }
    let mut body = propose(0, 0, 0).body(&log.state);
    let Body::Propose(proposal) = &mut body else { panic!("a proposal") };
    proposal.rows.retain(|row| row.node == node(0));
    log.expect(body);
    for cmd in [vote(0, true), staged(0, Said::Expected), open(0, &[0], &[])] {
        log.must(&cmd);
    }
    let mut leader = Leader::of(log);
    assert_eq!(leader.plan(), bodies([grants(0, &[0])]));
}

#[test]
fn a_period_of_a_phase_ends_once_and_again_only_when_it_was_not_written() {
    let mut leader = Leader::at(Point::Voting);
    let state_epoch = leader.log.state.rollout(&rollout(0)).expect("rollout 0").state_epoch;
    let deadline = Deadline::State { rollout: rollout(0), state_epoch };
    let period = Duration::from_millis(timings().vote_deadline_ms);
    assert_eq!(leader.plan(), bodies([]));
    assert_eq!(leader.plan_after(period - SECOND), bodies([]));
    assert_eq!(leader.plan_after(SECOND), bodies([Body::Deadline(deadline)]));
    assert_eq!(leader.plan_after(SECOND), bodies([]));
    leader.memory.again(&deadline);
    assert_eq!(leader.plan(), bodies([Body::Deadline(deadline)]));
    leader.memory.clear();
    assert_eq!(leader.plan(), bodies([]), "it begins anew");
    assert_eq!(leader.plan_after(period), bodies([Body::Deadline(deadline)]));
}

#[test]
fn a_node_is_given_up_after_its_time_and_before_anything_else_is_done() {
    let mut leader = Leader::of(Log::at_with(0, Point::SecondWave, |policy| policy.max_unavailable = 1));
    leader.log.must(&grant(1, &[4]));
    let of = leader.attempt(4);
    assert_eq!(leader.plan(), bodies([]));
    leader.says_ready(4, Some(of));
    let lost = Duration::from_millis(timings().lost_ms());
    let first = leader.plan_after(lost).bodies;
    assert_eq!(first, [Body::Deadline(Deadline::Node(of)), Body::Accept(of)]);
    leader.memory.again(&Deadline::Node(of));
    leader.seen.clear();
    assert_eq!(leader.plan(), bodies([Body::Deadline(Deadline::Node(of))]));
}

#[test]
fn a_new_phase_has_a_new_period() {
    let mut leader = Leader::at(Point::Voting);
    assert_eq!(leader.plan(), bodies([]));
    leader.log.must(&vote(0, true));
    leader.log.must(&vote(1, true));
    let prefetch = Duration::from_millis(timings().prefetch_deadline_ms);
    assert_eq!(leader.plan_after(prefetch), bodies([]), "it began with this look");
    assert_eq!(leader.plan_after(prefetch).bodies.len(), 1);
}

/// Plays the nodes beside the plan until the rollout ends. What the plan
/// proposes is never refused, and a leader never grants its own node.
#[test]
fn the_plan_alone_brings_a_rollout_to_its_end() {
    let mut leader = Leader::of(Log::at_with(0, Point::Staged, |policy| policy.stagger_ms = 2000));
    let mut stepped_aside = 0;
    for _ in 0..10_000 {
        let Plan { bodies, step_aside } = leader.plan_after(SECOND);
        for body in bodies {
            if let Body::Grant(Grant { nodes, .. }) = &body {
                assert!(!nodes.contains(&node(leader.number)), "its own node");
            }
            let outcome = leader.log.apply_from(body.clone(), leader.number);
            assert_eq!(outcome.reply.result(), Ok(()), "{body:?}");
        }
        if step_aside {
            stepped_aside += 1;
            leader.fails_over((leader.number + 1) % VOTERS);
        }
        let of = leader.log.state.rollout(&rollout(0)).expect("rollout 0");
        if of.phase.is_terminal() {
            assert_eq!(of.committed(), u32::from(NODES));
            assert_eq!(stepped_aside, 1, "once, for the leader's own node");
            return;
        }
        for who in 0..NODES {
            match leader.log.word(who) {
                NodeState::Granted => leader.says_ready(who, Some(leader.attempt(who))),
                NodeState::Accepted => leader.log.must(&leader.log.report(who, End::Committed)),
                _ => {}
            }
        }
    }
    panic!("the rollout did not end");
}
