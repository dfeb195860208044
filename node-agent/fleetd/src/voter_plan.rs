//! Which change of the Raft membership comes next. *Pure*.
//!
//! Invariant: the number of voters is odd after every change. A fleet goes from
//! one voter to three and from three to five in one joint change, never through
//! an even number, which would need more votes and tolerate no more losses
//! (`architecture.md` 3.2).

use std::collections::{BTreeMap, BTreeSet};

use osmoda_types::{NodeId, RaftId};

/// Most voters: with seven, three may be lost at once; more only slows commits
/// (`consensus.md` D4).
pub(crate) const VOTERS_MAX: usize = 7;

/// What the membership is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Present {
    /// Who votes.
    pub(crate) voting: BTreeSet<RaftId>,
    /// Who only follows, and whether it has caught up.
    pub(crate) learners: BTreeMap<RaftId, bool>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Lets a registered voter follow the log.
    AddLearner(RaftId, NodeId),
    /// Makes these the voters, in one joint change.
    Vote(BTreeSet<RaftId>),
}

/// The next change towards `registered`, or `None` when there is nothing to do
/// yet. `registered` is who may vote: one Raft id for each voter's node.
pub(crate) fn next(registered: &BTreeMap<NodeId, RaftId>, present: &Present) -> Option<Step> {
    let known = |id: &RaftId| present.voting.contains(id) || present.learners.contains_key(id);
    if let Some((node, id)) = registered.iter().find(|(_, id)| !known(id)) {
        return Some(Step::AddLearner(*id, *node));
    }
    let wanted: BTreeSet<RaftId> = registered.values().copied().collect();
    let stay: BTreeSet<RaftId> = present.voting.intersection(&wanted).copied().collect();
    let ready = present.learners.iter().filter(|(id, caught_up)| **caught_up && wanted.contains(id)).map(|(id, _)| *id);
    let candidates: Vec<RaftId> = stay.iter().copied().chain(ready.filter(|id| !stay.contains(id))).collect();
    let size = largest_odd(candidates.len().min(VOTERS_MAX));
    // A smaller group than now is only taken to drop voters that left for good,
    // and never below the odd size that still has the majority of the old one.
    if size < present.voting.len() && size * 2 <= present.voting.len() {
        return None;
    }
    let voting: BTreeSet<RaftId> = candidates.into_iter().take(size).collect();
    (size > 0 && voting != present.voting && !loses_without_need(&voting, present, &wanted))
        .then_some(Step::Vote(voting))
}

/// Whether a wanted present voter would lose its vote.
fn loses_without_need(voting: &BTreeSet<RaftId>, present: &Present, wanted: &BTreeSet<RaftId>) -> bool {
    present.voting.iter().any(|id| wanted.contains(id) && !voting.contains(id))
}

const fn largest_odd(number: usize) -> usize {
    if number.is_multiple_of(2) { number.saturating_sub(1) } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(registered: &[u64], voting: &[u64], learners: &[(u64, bool)], expected: Option<Step>) {
        let node = |id: u64| NodeId::from_bytes([id as u8; 32]);
        let registered = registered.iter().map(|id| (node(*id), RaftId(*id))).collect();
        let present = Present {
            voting: voting.iter().copied().map(RaftId).collect(),
            learners: learners.iter().map(|(id, caught_up)| (RaftId(*id), *caught_up)).collect(),
        };
        assert_eq!(next(&registered, &present), expected);
    }

    fn vote(ids: &[u64]) -> Option<Step> {
        Some(Step::Vote(ids.iter().copied().map(RaftId).collect()))
    }

    #[test]
    fn one_becomes_three_in_one_change_and_never_two() {
        check(&[1, 2], &[1], &[], Some(Step::AddLearner(RaftId(2), NodeId::from_bytes([2; 32]))));
        check(&[1, 2], &[1], &[(2, true)], None);
        check(&[1, 2, 3], &[1], &[(2, true), (3, false)], None);
        check(&[1, 2, 3], &[1], &[(2, true), (3, true)], vote(&[1, 2, 3]));
        check(&[1, 2, 3], &[1, 2, 3], &[], None);
    }

    #[test]
    fn three_become_five_when_two_have_caught_up() {
        check(&[1, 2, 3, 4, 5], &[1, 2, 3], &[(4, true), (5, false)], None);
        check(&[1, 2, 3, 4, 5], &[1, 2, 3], &[(4, true), (5, true)], vote(&[1, 2, 3, 4, 5]));
        check(&[1, 2, 3, 4, 5, 6, 7, 8, 9], &[1, 2, 3], &[(4, true), (5, true), (6, true), (7, true), (8, true)], {
            Some(Step::AddLearner(RaftId(9), NodeId::from_bytes([9; 32])))
        });
    }

    #[test]
    fn a_voter_with_a_lost_disk_is_replaced_by_its_new_id() {
        // Node 3 came back as 13; its old id is no longer registered.
        check(&[1, 2, 13], &[1, 2, 3], &[(13, false)], None);
        check(&[1, 2, 13], &[1, 2, 3], &[(13, true)], vote(&[1, 2, 13]));
    }

    #[test]
    fn a_voter_that_left_is_dropped_only_to_an_odd_size() {
        check(&[1, 2], &[1, 2, 3], &[], None);
        check(&[1, 2, 3], &[1, 2, 3, 4, 5], &[], vote(&[1, 2, 3]));
    }
}
