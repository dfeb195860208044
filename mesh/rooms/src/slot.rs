//! One session of healing per room and node at a time. *Pure.*
//!
//! When two halves of a fleet meet again, every node would fetch the same
//! messages from every node of the other half. With one session at a time nodes
//! pair up, each pair brings itself up to date, and the pairs after it find
//! little or nothing to do: what is missing goes over the wire about once.

use std::collections::{BTreeSet, VecDeque};

use osmoda_types::NodeId;

/// The right to a session. Each is given back once; one that was overtaken
/// meanwhile frees nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// This node asked, and waits for the answer.
    Asking,
    /// The session that this node asked for goes on.
    Opener,
    /// The peer asked.
    Answerer,
}

#[derive(Debug, Clone, Copy)]
struct Taken {
    peer: NodeId,
    side: Side,
    ticket: Ticket,
}

/// The slot of one room.
#[derive(Debug, Clone, Default)]
pub struct Slot {
    taken: Option<Taken>,
    tickets: u64,
    waiting: VecDeque<NodeId>,
    /// Whom this node answered last.
    answered: Option<NodeId>,
    /// Who was told since that it is busy. Bounded by the members, who alone may ask.
    turned_away: BTreeSet<NodeId>,
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
        self.turned_away.remove(peer);
    }

    /// Takes the slot for a session that this node opens, with one of those that
    /// wait; `random` chooses which, so that two halves do not queue up behind
    /// the same node.
    pub fn open(&mut self, random: u64) -> Option<(NodeId, Ticket)> {
        if self.taken.is_some() || self.waiting.is_empty() {
            return None;
        }
        // Below the length, so it fits.
        let place = (random % self.waiting.len() as u64) as usize;
        let peer = self.waiting.remove(place)?;
        Some((peer, self.take(peer, Side::Asking)))
    }

    /// Takes the slot for a session that the peer opens, if it may begin. When
    /// both opened one to each other, that of the smaller id goes on. A peer that was
    /// answered last lets another go first, once: it may be the only one that
    /// still has something.
    pub fn answer(&mut self, own: &NodeId, peer: NodeId) -> Option<Ticket> {
        let free = match self.taken {
            None => true,
            Some(taken) => taken.side == Side::Asking && taken.peer == peer && peer < *own,
        };
        let has_others = self.turned_away.iter().chain(&self.waiting).any(|other| *other != peer);
        if !free {
            self.turned_away.insert(peer);
            return None;
        }
        if self.taken.is_none() && self.answered == Some(peer) && has_others {
            self.answered = None;
            return None;
        }
        self.answered = Some(peer);
        self.turned_away.clear();
        // This session does what the waiting one would do.
        self.forget(&peer);
        Some(self.take(peer, Side::Answerer))
    }

    fn take(&mut self, peer: NodeId, side: Side) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.taken = Some(Taken { peer, side, ticket });
        ticket
    }

    /// The peer took the session that this node opened. False when it was given
    /// up meanwhile for one that the peer opened.
    pub fn answered(&mut self, ticket: Ticket) -> bool {
        match &mut self.taken {
            Some(taken) if taken.ticket == ticket => {
                taken.side = Side::Opener;
                true
            }
            _ => false,
        }
    }

    /// A session is over.
    pub fn release(&mut self, ticket: Ticket) {
        if self.taken.is_some_and(|taken| taken.ticket == ticket) {
            self.taken = None;
        }
    }

    /// Whether somebody waits and nothing is going on.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.taken.is_none() && !self.waiting.is_empty()
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
        let (first, ticket) = slot.open(7).unwrap();
        assert_eq!(slot.open(0), None);
        assert!(slot.answered(ticket));
        assert_eq!(slot.answer(&node(9), node(3)), None);
        assert!(!slot.is_ready());
        slot.release(ticket);
        let (second, again) = slot.open(7).unwrap();
        assert_ne!(first, second);
        // What is over frees nothing that came after it.
        slot.release(ticket);
        assert_eq!(slot.answer(&node(9), node(3)), None);
        slot.release(again);
        assert!(!slot.is_ready());
        assert!(slot.answer(&node(9), node(3)).is_some() && slot.answer(&node(9), node(4)).is_none());
    }

    #[test]
    fn who_was_answered_last_lets_others_go_first_once() {
        let own = node(9);
        let mut slot = Slot::default();
        let first = slot.answer(&own, node(1)).unwrap();
        slot.release(first);
        // Nobody else is there.
        let again = slot.answer(&own, node(1)).unwrap();
        assert_eq!(slot.answer(&own, node(2)), None);
        slot.release(again);
        assert_eq!(slot.answer(&own, node(1)), None);
        let other = slot.answer(&own, node(2)).unwrap();
        slot.release(other);
        let again = slot.answer(&own, node(1)).unwrap();
        // Those that this node would open one to count too; one that is gone does not.
        slot.want(node(3));
        slot.release(again);
        assert_eq!(slot.answer(&own, node(1)), None);
        let again = slot.answer(&own, node(1)).unwrap();
        slot.forget(&node(3));
        slot.release(again);
        assert!(slot.answer(&own, node(1)).is_some());
    }

    #[test]
    fn of_two_crossed_sessions_that_of_the_smaller_id_goes_on() {
        let (small, large) = (node(1), node(2));
        let (mut at_small, mut at_large) = (Slot::default(), Slot::default());
        at_small.want(large);
        at_large.want(small);
        let (_, of_small) = at_small.open(0).unwrap();
        let (_, of_large) = at_large.open(0).unwrap();
        assert_eq!(at_small.answer(&small, large), None);
        let answering = at_large.answer(&large, small).unwrap();
        // The answers cross too.
        assert!(at_small.answered(of_small) && !at_large.answered(of_large));
        at_large.release(of_large);
        assert_eq!(at_large.answer(&large, node(3)), None, "still in the session that it answers");
        at_large.release(answering);
        assert!(at_large.answer(&large, node(3)).is_some());
    }
}
