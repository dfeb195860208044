//! The election gate: this voter may stand for election only while it could
//! win and nobody leads.
//!
//! openraft 0.9 has no pre-vote: a voter that was cut off would come back with
//! a higher term and depose a healthy leader. Invariant: elections are open
//! only when a quorum (this voter included) answered within
//! [`Timing::probe_fresh`] and nobody in it has a live leader. A leader is
//! reported dead after its lease, well before an election can be due, so the
//! gate never delays one.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use osmoda_proto::raft::v1 as wire;
use tokio::time::{Instant, MissedTickBehavior};

use crate::core::Core;
use crate::timing::Timing;
use crate::types::{Membership, Seat};

/// The newest answer of one voter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    at: Instant,
    has_live_leader: bool,
}

/// What the gate knows. *pure*
#[derive(Debug, Default)]
struct Gate {
    answers: BTreeMap<u64, Answer>,
}

impl Gate {
    /// Whether elections may happen now.
    fn is_open(&self, membership: &Membership, me: u64, own_live_leader: bool, now: Instant, timing: &Timing) -> bool {
        let fresh: BTreeMap<u64, &Answer> = self
            .answers
            .iter()
            .filter(|(_, answer)| now.duration_since(answer.at) <= timing.probe_fresh)
            .map(|(id, answer)| (*id, answer))
            .collect();
        let is_led = own_live_leader || fresh.values().any(|answer| answer.has_live_leader);
        let answered = fresh.keys().copied().chain([me]);
        !is_led && has_quorum(membership, answered)
    }
}

/// When this voter stands for election by itself. *pure*
///
/// An open gate says that every lease this voter can know of is over, so that
/// openraft's own wait (a lease and a random time-out, counted in ticks) only
/// delays. The voters stand in turn, by their ids, one election apart: so they
/// rarely ask for votes at the same time. openraft's time-out remains behind it.
#[derive(Debug, Default)]
struct Stand {
    open_since: Option<Instant>,
    stood_at: Option<Instant>,
}

impl Stand {
    fn is_due(&mut self, is_open: bool, turn: Option<u32>, now: Instant, timing: &Timing) -> bool {
        let (true, Some(turn)) = (is_open, turn) else {
            *self = Self::default();
            return false;
        };
        let since = *self.open_since.get_or_insert(now);
        let is_turn = now.duration_since(since) >= timing.turn * turn;
        // A lost election is repeated by openraft's time-out first.
        let is_again = self.stood_at.is_some_and(|at| now.duration_since(at) < timing.election_max * 2);
        let is_due = is_turn && !is_again;
        if is_due {
            self.stood_at = Some(now);
        }
        is_due
    }
}

/// This voter's place among the voters; `None` when it has no vote or is alone
/// (then openraft elects at once by itself).
fn turn_of(core: &Core) -> Option<u32> {
    let metrics = core.raft.metrics();
    let membership = metrics.borrow().membership_config.clone();
    let mut voters: Vec<u64> = membership.voter_ids().collect();
    voters.sort_unstable();
    let place = voters.iter().position(|id| *id == core.me.raft_id.0)?;
    if voters.len() > 1 { u32::try_from(place).ok() } else { None }
}

/// Whether the ids are a majority of every set of the (joint) membership.
fn has_quorum(membership: &Membership, ids: impl Iterator<Item = u64> + Clone) -> bool {
    let sets = membership.get_joint_config();
    !sets.is_empty()
        && sets.iter().all(|set| {
            let present: BTreeSet<u64> = ids.clone().filter(|id| set.contains(id)).collect();
            present.len() * 2 > set.len()
        })
}

/// One finished probe.
struct Probed {
    raft_id: u64,
    answer: Option<Answer>,
}

/// Probes the other voters and moves the gate, until the task is cut off.
pub(crate) async fn run(core: Arc<Core>) {
    let mut gate = Gate::default();
    let mut ticks = tokio::time::interval(core.timing.probe_every);
    // After a pause (a suspended machine) one probe is enough.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // One probe per voter at a time, so at most six here.
    let mut probes = FuturesUnordered::new();
    let mut busy = BTreeSet::new();
    let mut was_open = false;
    let mut stand = Stand::default();
    let mut seq = 0;
    loop {
        tokio::select! {
            biased;
            // Cancel-safe: a finished probe stays in the set until it is taken.
            Some(Probed { raft_id, answer }) = probes.next(), if !probes.is_empty() => {
                busy.remove(&raft_id);
                gate.answers.extend(answer.map(|answer| (raft_id, answer)));
            }
            // Cancel-safe: a tick that was not taken is given again.
            _ = ticks.tick() => {
                seq += 1;
                for (raft_id, seat) in other_voters(&core) {
                    if busy.insert(raft_id) {
                        probes.push(probe(core.clone(), raft_id, seat, seq));
                    }
                }
            }
        }
        core.note_lead();
        let is_open = decide(&core, &gate);
        core.raft.runtime_config().elect(is_open);
        if is_open != was_open {
            tracing::debug!(is_open, "election gate moved");
            was_open = is_open;
        }
        if stand.is_due(is_open, turn_of(&core), Instant::now(), &core.timing) {
            // Failing means that Raft has stopped, and this task ends with it.
            if core.raft.trigger().elect().await.is_err() {
                return;
            }
        }
    }
}

fn decide(core: &Core, gate: &Gate) -> bool {
    let metrics = core.raft.metrics();
    let membership = metrics.borrow().membership_config.clone();
    let own_live_leader = core.live_leader().is_some();
    !core.is_aside()
        && gate.is_open(membership.membership(), core.me.raft_id.0, own_live_leader, Instant::now(), &core.timing)
}

fn other_voters(core: &Core) -> Vec<(u64, Seat)> {
    let metrics = core.raft.metrics();
    let membership = metrics.borrow().membership_config.clone();
    let membership = membership.membership();
    membership
        .voter_ids()
        .filter(|id| *id != core.me.raft_id.0)
        .filter_map(|id| membership.get_node(&id).map(|seat| (id, *seat)))
        .collect()
}

fn probe(core: Arc<Core>, raft_id: u64, seat: Seat, seq: u64) -> impl Future<Output = Probed> + Send {
    // Two periods: long enough for a slow peer to count, short enough that a
    // silent one is asked again while its last answer is still fresh.
    let limit: Duration = core.timing.probe_every * 2;
    async move {
        let request = wire::ProbeRequest { raft_id: core.me.raft_id.0, seq, to: raft_id };
        let reply = core.links.call(seat.node_id, limit, |mut client| async move { client.probe(request).await }).await;
        let answer = match reply {
            Ok(reply) => Some(Answer { at: Instant::now(), has_live_leader: reply.live_leader.is_some() }),
            Err(error) => {
                tracing::trace!(raft_id, %error, "no answer to a probe");
                None
            }
        };
        Probed { raft_id, answer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as (voter, age in ms, has a live leader).
    fn check(sets: &[&[u64]], answers: &[(u64, u64, bool)], own_live_leader: bool, expected: bool) {
        let sets: Vec<BTreeSet<u64>> = sets.iter().map(|set| set.iter().copied().collect()).collect();
        let nodes: BTreeMap<u64, Seat> = sets.iter().flatten().map(|id| (*id, Seat::default())).collect();
        let membership = Membership::new(sets, nodes);
        let now = Instant::now() + Duration::from_secs(10);
        let answers = answers.iter().map(|(id, age_ms, has_live_leader)| {
            let at = now - Duration::from_millis(*age_ms);
            (*id, Answer { at, has_live_leader: *has_live_leader })
        });
        let gate = Gate { answers: answers.collect() };
        let is_open = gate.is_open(&membership, 1, own_live_leader, now, &Timing::LAN);
        assert_eq!(is_open, expected, "{gate:?}");
    }

    #[tokio::test]
    async fn elections_are_open_only_to_a_fresh_quorum_without_a_leader() {
        check(&[&[1]], &[], false, true);
        check(&[&[1, 2, 3]], &[], false, false);
        check(&[&[1, 2, 3]], &[(2, 100, false)], false, true);
        check(&[&[1, 2, 3]], &[(2, 100, true)], false, false);
        check(&[&[1, 2, 3]], &[(2, 100, false)], true, false);
        check(&[&[1, 2, 3]], &[(2, 700, false)], false, false);
        // A stale report of a leader does not close it, a fresh one does.
        check(&[&[1, 2, 3]], &[(2, 100, false), (3, 700, true)], false, true);
        check(&[&[1, 2, 3]], &[(2, 100, false), (3, 500, true)], false, false);
    }

    #[test]
    fn voters_stand_in_turn_once_the_gate_is_open_and_again_after_a_lost_election() {
        let (timing, start) = (Timing::LAN, Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let mut first = Stand::default();
        assert!(!first.is_due(false, Some(0), at(0), &timing));
        assert!(first.is_due(true, Some(0), at(200), &timing));
        assert!(!first.is_due(true, Some(0), at(400), &timing));
        assert!(first.is_due(true, Some(0), at(2_100), &timing));
        let mut third = Stand::default();
        assert!(!third.is_due(true, Some(2), at(200), &timing));
        assert!(!third.is_due(true, Some(2), at(400), &timing));
        assert!(third.is_due(true, Some(2), at(500), &timing));
        // A leader was there meanwhile: the turn counts anew.
        assert!(!third.is_due(false, Some(2), at(600), &timing));
        assert!(!third.is_due(true, Some(2), at(5_000), &timing));
        // No vote, no turn.
        assert!(!Stand::default().is_due(true, None, at(5_000), &timing));
    }

    #[tokio::test]
    async fn a_joint_membership_needs_a_quorum_of_both_sets() {
        check(&[&[1], &[1, 2, 3]], &[], false, false);
        check(&[&[1], &[1, 2, 3]], &[(3, 0, false)], false, true);
        check(&[&[1, 2, 3], &[1, 4, 5]], &[(2, 0, false), (3, 0, false)], false, false);
        check(&[&[1, 2, 3], &[1, 4, 5]], &[(2, 0, false), (5, 0, false)], false, true);
        // Somebody outside every set counts for nothing.
        check(&[&[1, 2, 3]], &[(9, 0, false)], false, false);
        check(&[], &[], false, false);
    }
}
