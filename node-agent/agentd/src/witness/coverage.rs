//! Which witnesses have cosigned how much of this node's ledger. *Pure.*

use std::collections::BTreeMap;

use osmoda_types::{NodeId, PublicKey};

/// Who cosigns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Another node of the fleet.
    Node(NodeId),
    /// An operator's command line, for a fleet of one.
    Operator(PublicKey),
}

impl From<NodeId> for Who {
    fn from(node: NodeId) -> Self {
        Self::Node(node)
    }
}

impl From<PublicKey> for Who {
    fn from(key: PublicKey) -> Self {
        Self::Operator(key)
    }
}

/// How far each witness has followed, and how many must.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Rows cosigned, of each witness that was asked.
    cosigned: BTreeMap<Who, Standing>,
    /// How many must; 0 when there is nobody to ask.
    needed: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Standing {
    rows: u64,
    /// Whether its last answer was a cosignature.
    answers: bool,
    /// Whether its last answer was that it waits for a head of this ledger in the log.
    waits_for_log: bool,
}

impl Coverage {
    /// The witnesses there are now; what is known of those that stay is kept.
    pub fn set_witnesses(&mut self, witnesses: impl IntoIterator<Item = impl Into<Who>>, needed: usize) {
        let mut before = std::mem::take(&mut self.cosigned);
        self.cosigned =
            witnesses.into_iter().map(Into::into).map(|who| (who, before.remove(&who).unwrap_or_default())).collect();
        self.needed = needed;
    }

    /// A witness cosigned that many rows.
    pub fn cosigned(&mut self, witness: impl Into<Who>, rows: u64) {
        if let Some(standing) = self.cosigned.get_mut(&witness.into()) {
            *standing = Standing { rows: rows.max(standing.rows), answers: true, waits_for_log: false };
        }
    }

    /// A witness did not cosign what it was asked to.
    pub fn failed(&mut self, witness: impl Into<Who>) {
        if let Some(standing) = self.cosigned.get_mut(&witness.into()) {
            *standing = Standing { rows: standing.rows, ..Standing::default() };
        }
    }

    /// A witness did not cosign, because the fleet's log had no new head of this ledger
    /// for too long; returns whether that is news.
    pub fn waits_for_log(&mut self, witness: impl Into<Who>) -> bool {
        let Some(standing) = self.cosigned.get_mut(&witness.into()) else { return false };
        let before = std::mem::replace(standing, Standing { rows: standing.rows, answers: false, waits_for_log: true });
        !before.waits_for_log
    }

    /// How many witnesses wait for the fleet's log.
    #[must_use]
    pub fn waiting_for_log(&self) -> usize {
        self.cosigned.values().filter(|standing| standing.waits_for_log).count()
    }

    /// Whether enough witnesses cosigned that many rows. Never without witnesses.
    #[must_use]
    pub fn covers(&self, rows: u64) -> bool {
        self.needed > 0 && self.cosigned.values().filter(|standing| standing.rows >= rows).count() >= self.needed
    }

    /// Whether enough witnesses answered when they were asked last.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.needed > 0 && self.cosigned.values().filter(|standing| standing.answers).count() >= self.needed
    }

    /// How many must cosign, and out of how many.
    #[must_use]
    pub fn quorum(&self) -> (usize, usize) {
        (self.needed, self.cosigned.len())
    }

    /// The rows that enough witnesses cosigned.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let mut rows: Vec<u64> = self.cosigned.values().map(|standing| standing.rows).collect();
        rows.sort_unstable_by(|a, b| b.cmp(a));
        self.needed.checked_sub(1).and_then(|place| rows.get(place)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    #[test]
    fn as_many_as_are_needed_must_have_cosigned_the_rows() {
        let mut coverage = Coverage::default();
        assert!(!coverage.covers(0) && !coverage.is_ready(), "nobody is nobody");
        coverage.set_witnesses([1, 2, 3, 4].map(node), 2);
        coverage.cosigned(node(1), 10);
        assert!(!coverage.covers(10) && !coverage.is_ready());
        coverage.cosigned(node(2), 8);
        assert_eq!((coverage.covers(8), coverage.covers(9), coverage.rows()), (true, false, 8));
        coverage.cosigned(node(9), 99);
        assert_eq!(coverage.rows(), 8, "a stranger counts for nothing");
        coverage.cosigned(node(2), 3);
        assert_eq!(coverage.rows(), 8, "what was cosigned stays");
    }

    #[test]
    fn a_witness_that_fails_is_not_ready_and_one_that_left_counts_no_more() {
        let mut coverage = Coverage::default();
        coverage.set_witnesses([1, 2].map(node), 1);
        coverage.cosigned(node(1), 10);
        assert!(coverage.is_ready());
        coverage.failed(node(1));
        assert!(!coverage.is_ready() && coverage.covers(10));
        assert!(coverage.waits_for_log(node(1)) && !coverage.waits_for_log(node(1)));
        assert_eq!((coverage.waiting_for_log(), coverage.is_ready(), coverage.rows()), (1, false, 10));
        coverage.failed(node(1));
        assert_eq!(coverage.waiting_for_log(), 0, "what it waits for is what it said last");
        assert!(coverage.waits_for_log(node(1)) && !coverage.waits_for_log(node(9)));
        coverage.cosigned(node(1), 10);
        assert_eq!((coverage.waiting_for_log(), coverage.is_ready()), (0, true));
        coverage.set_witnesses([node(2)], 1);
        assert!(!coverage.covers(1));
        coverage.set_witnesses([PublicKey::from_bytes([7; 32])], 1);
        coverage.cosigned(PublicKey::from_bytes([7; 32]), 5);
        assert!(coverage.covers(5), "an operator is a witness");
        coverage.set_witnesses([] as [NodeId; 0], 0);
        assert!(!coverage.covers(0), "a fleet of one has no witness");
        assert_eq!(coverage.quorum(), (0, 0));
    }
}
