//! One session of healing per room and node at a time. *Pure.*
//!
//! When two halves of a fleet meet again, every node would fetch the same
//! messages from every node of the other half. With one session at a time nodes
//! pair up, each pair brings itself up to date, and the pairs after it find
//! little or nothing to do: what is missing goes over the wire about once.

use std::collections::VecDeque;

use osmoda_types::NodeId;

/// Which side of a session this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It asked.
    Opener,
    /// It was asked.
    Answerer,
}

/// The slot of one room.
#[derive(Debug, Clone, Default)]
pub struct Slot {
    with: Option<(NodeId, Side)>,
    is_answered: bool,
    waiting: VecDeque<NodeId>,
}

impl Slot {
    /// Asks for a session with a peer; it waits for its turn.
    pub fn want(&mut self, peer: NodeId) {
        if !self.waiting.contains(&peer) {
            self.waiting.push_back(peer);
        }
    }

    /// A peer is gone, or no member any more: nothing waits for it. A session
    /// with it ends by itself, with its stream.
    pub fn forget(&mut self, peer: &NodeId) {
        self.waiting.retain(|waiting| waiting != peer);
    }

    /// Takes the slot for a session that this node opens, with one of those that
    /// wait; `random` chooses which, so that two halves do not queue up behind
    /// the same node.
    pub fn open(&mut self, random: u64) -> Option<NodeId> {
        if self.with.is_some() || self.waiting.is_empty() {
            return None;
        }
        // Below the length, so it fits.
        let place = (random % self.waiting.len() as u64) as usize;
        let peer = self.waiting.remove(place)?;
        self.with = Some((peer, Side::Opener));
        self.is_answered = false;
        Some(peer)
    }

    /// Whether a session that the peer opens may begin; takes the slot if so.
    /// When both opened one to each other, that of the smaller id goes on.
    pub fn answer(&mut self, own: &NodeId, peer: NodeId) -> bool {
        let free = match self.with {
            None => true,
            Some((with, Side::Opener)) => with == peer && !self.is_answered && peer < *own,
            Some((_, Side::Answerer)) => false,
        };
        if free {
            self.with = Some((peer, Side::Answerer));
            // This session does what the waiting one would do.
            self.forget(&peer);
        }
        free
    }

    /// The peer took the session that this node opened. False when it was given
    /// up meanwhile for one that the peer opened.
    pub fn answered(&mut self, peer: &NodeId) -> bool {
        let ours = self.with == Some((*peer, Side::Opener));
        self.is_answered |= ours;
        ours
    }

    /// A session is over.
    pub fn release(&mut self, peer: &NodeId, side: Side) {
        if self.with == Some((*peer, side)) {
            self.with = None;
        }
    }

    /// Whether somebody waits and nothing is going on.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.with.is_none() && !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn one_session_at_a_time_and_everybody_gets_a_turn() {
        let mut slot = Slot::default();
        assert_eq!(slot.open(0), None);
        for n in [1, 2, 1] {
            slot.want(node(n));
        }
        let first = slot.open(7).unwrap();
        assert_eq!(slot.open(0), None);
        assert!(slot.answered(&first));
        assert!(!slot.answer(&node(9), node(3)));
        slot.release(&first, Side::Answerer);
        assert!(!slot.is_ready());
        slot.release(&first, Side::Opener);
        let second = slot.open(7).unwrap();
        assert_ne!(first, second);
        slot.release(&second, Side::Opener);
        assert!(!slot.is_ready());
        assert!(slot.answer(&node(9), node(3)) && !slot.answer(&node(9), node(4)));
    }

    #[test]
    fn of_two_crossed_sessions_that_of_the_smaller_id_goes_on() {
        let (small, large) = (node(1), node(2));
        let (mut at_small, mut at_large) = (Slot::default(), Slot::default());
        at_small.want(large);
        at_large.want(small);
        at_small.open(0);
        at_large.open(0);
        assert!(!at_small.answer(&small, large));
        assert!(at_large.answer(&large, small));
        // The answers cross too.
        assert!(at_small.answered(&large) && !at_large.answered(&small));
        at_large.release(&small, Side::Opener);
        assert!(!at_large.answer(&large, node(3)), "still in the session that it answers");
    }
}
