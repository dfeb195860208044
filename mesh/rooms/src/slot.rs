//! One session of healing per room and node at a time. *Pure.*
//!
//! When two halves of a fleet meet again, every node would fetch the same
//! messages from every node of the other half. With one session at a time nodes
//! pair up, each pair brings itself up to date, and the pairs after it find
//! little or nothing to do: what is missing goes over the wire about once.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use osmoda_types::NodeId;

/// How long the peer of the last session lets others go first after it has ended. Who
/// was told that it is busy asks again within an eighth of this (`heal::BUSY_PAUSE_MS`), or
/// half of it in the end, and a peer may be in another room's session meanwhile. Shorter,
/// and one that asks on many streams at once has the slot always; longer, and a room
/// stands still for those who went elsewhere.
const OTHERS_FIRST: Duration = Duration::from_secs(1);

/// Who has been told for this long that it is busy goes before all who had a session
/// meanwhile: two that take turns would have the slot always. Two halves of a fleet that
/// meet again are through in about this time, and pair up freely until then.
const OVERDUE: Duration = Duration::from_secs(3);

/// One that was told that it is busy and does not ask for this long begins to wait anew.
const AWAY_KEPT: Duration = Duration::from_secs(10);

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
    since: Duration,
}

/// A session that was, or a question that took as long as one.
#[derive(Debug, Clone, Copy)]
struct Last {
    /// With whom, whoever opened it.
    peer: NodeId,
    began: Duration,
    /// While it goes on, when it began.
    ended: Duration,
}

/// One that was told that it is busy.
#[derive(Debug, Clone, Copy)]
struct Away {
    /// The first time since its own last session.
    since: Duration,
    /// The last time.
    asked: Duration,
}

/// The slot of one room. All times are of one clock that never runs backwards.
#[derive(Debug, Clone, Default)]
pub struct Slot {
    taken: Option<Taken>,
    tickets: u64,
    waiting: VecDeque<NodeId>,
    last: Option<Last>,
    /// Who was told that it is busy and had no session since. Bounded by the members, who
    /// alone may ask, and by those who were members within [`AWAY_KEPT`].
    turned_away: BTreeMap<NodeId, Away>,
    /// How often this node asked whom since the last session with it. Bounded by the peers
    /// that are linked.
    in_vain: BTreeMap<NodeId, u32>,
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
        self.in_vain.remove(peer);
    }

    /// How often this node asked a peer since the last session with it.
    #[must_use]
    pub fn in_vain(&self, peer: &NodeId) -> u32 {
        self.in_vain.get(peer).copied().unwrap_or(0)
    }

    /// Takes the slot for a session that this node opens, with one of those that
    /// wait; `random` chooses which, so that two halves do not queue up behind
    /// the same node.
    pub fn open(&mut self, now: Duration, random: u64) -> Option<(NodeId, Ticket)> {
        if self.taken.is_some() {
            return None;
        }
        let may: Vec<NodeId> = self.waiting.iter().filter(|peer| !self.lets_others_go(peer, now)).copied().collect();
        if may.is_empty() {
            return None;
        }
        // Below the length, so it fits.
        let peer = may[(random % may.len() as u64) as usize];
        self.waiting.retain(|waiting| *waiting != peer);
        let in_vain = self.in_vain.entry(peer).or_insert(0);
        *in_vain = in_vain.saturating_add(1);
        Some((peer, self.take(peer, Side::Asking, now)))
    }

    /// Takes the slot for a session that the peer opens, if it may begin. When
    /// both opened one to each other, that of the smaller id goes on.
    pub fn answer(&mut self, own: &NodeId, peer: NodeId, now: Duration) -> Option<Ticket> {
        let may = match self.taken {
            None => !self.lets_others_go(&peer, now),
            Some(taken) => taken.side == Side::Asking && taken.peer == peer && peer < *own,
        };
        if !may {
            self.turned_away.retain(|_, away| now.saturating_sub(away.asked) < AWAY_KEPT);
            self.turned_away.entry(peer).or_insert(Away { since: now, asked: now }).asked = now;
            return None;
        }
        self.begun(peer, now);
        // This session does what the waiting one would do.
        self.forget(&peer);
        Some(self.take(peer, Side::Answerer, now))
    }

    fn begun(&mut self, peer: NodeId, now: Duration) {
        self.last = Some(Last { peer, began: now, ended: now });
        self.turned_away.remove(&peer);
        self.in_vain.remove(&peer);
    }

    /// Whether a peer waits although the slot is free: the last session was with it and
    /// others wait, for each of its streams asks for itself, and all may ask at once; or
    /// another is overdue and waits for longer. Only for a while after the last session,
    /// because those others may not come, and it may be the only one that still has
    /// something.
    fn lets_others_go(&self, peer: &NodeId, now: Duration) -> bool {
        let Some(last) = self.last.filter(|last| now.saturating_sub(last.ended) < OTHERS_FIRST) else { return false };
        let was_last = last.peer == *peer;
        let since = self.turned_away.get(peer).map_or(now, |own| own.since);
        let goes_first = |away: &Away| {
            let asks_still = now.saturating_sub(away.asked) < OTHERS_FIRST;
            let is_overdue = asks_still && away.since < since && now.saturating_sub(away.since) >= OVERDUE;
            is_overdue || (was_last && away.asked >= last.began)
        };
        (was_last && self.waiting.iter().any(|other| other != peer))
            || self.turned_away.iter().any(|(other, away)| other != peer && goes_first(away))
    }

    fn take(&mut self, peer: NodeId, side: Side, now: Duration) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.taken = Some(Taken { peer, side, ticket, since: now });
        ticket
    }

    /// The peer took the session that this node opened. False when it was given
    /// up meanwhile for one that the peer opened.
    pub fn answered(&mut self, ticket: Ticket, now: Duration) -> bool {
        match &mut self.taken {
            Some(taken) if taken.ticket == ticket => {
                taken.side = Side::Opener;
                let peer = taken.peer;
                self.begun(peer, now);
                true
            }
            _ => false,
        }
    }

    /// A session is over. One that was asked for and did not begin counts as one too, if
    /// it had the slot for as long as others go first: a peer that is silent when it is
    /// asked, and that this node soon wants again, would have the slot always.
    pub fn release(&mut self, ticket: Ticket, now: Duration) {
        let Some(taken) = self.taken.take_if(|taken| taken.ticket == ticket) else { return };
        if taken.side == Side::Asking {
            if now.saturating_sub(taken.since) < OTHERS_FIRST {
                return;
            }
            self.begun(taken.peer, taken.since);
        }
        if let Some(last) = &mut self.last {
            last.ended = now;
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

    const NOW: Duration = Duration::from_secs(100);

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn one_session_at_a_time_and_everybody_gets_a_turn() {
        let mut slot = Slot::default();
        assert_eq!(slot.open(NOW, 0), None);
        for n in [1, 2, 1] {
            slot.want(node(n));
        }
        let (first, ticket) = slot.open(NOW, 7).unwrap();
        assert_eq!(slot.open(NOW, 0), None);
        assert!(slot.answered(ticket, NOW));
        assert_eq!(slot.answer(&node(9), node(3), NOW), None);
        assert!(!slot.is_ready());
        slot.release(ticket, NOW);
        let (second, again) = slot.open(NOW, 7).unwrap();
        assert_ne!(first, second);
        // What is over frees nothing that came after it.
        slot.release(ticket, NOW);
        assert_eq!(slot.answer(&node(9), node(3), NOW), None);
        slot.release(again, NOW);
        assert!(!slot.is_ready());
        assert!(slot.answer(&node(9), node(3), NOW).is_some() && slot.answer(&node(9), node(4), NOW).is_none());
    }

    #[test]
    fn who_had_the_last_session_lets_others_go_first_however_often_it_asks() {
        let (own, later) = (node(9), NOW + OTHERS_FIRST);
        let mut slot = Slot::default();
        let first = slot.answer(&own, node(1), NOW).unwrap();
        slot.release(first, NOW);
        // Nobody else is there.
        let again = slot.answer(&own, node(1), NOW).unwrap();
        assert_eq!(slot.answer(&own, node(2), NOW), None);
        // The time runs from the end of the session.
        slot.release(again, later);
        for _ in 0..60 {
            assert_eq!(slot.answer(&own, node(1), later), None);
        }
        let other = slot.answer(&own, node(2), later).unwrap();
        slot.release(other, later);
        let again = slot.answer(&own, node(1), later).unwrap();
        // Those with whom this node would open one count too; one that is gone does not.
        slot.want(node(3));
        slot.release(again, later);
        for _ in 0..60 {
            assert_eq!(slot.answer(&own, node(1), later), None);
        }
        slot.forget(&node(3));
        let again = slot.answer(&own, node(1), later).unwrap();
        // One that asked once and does not come holds up nobody for long.
        assert_eq!(slot.answer(&own, node(2), later), None);
        slot.release(again, later);
        let waited = later + OTHERS_FIRST;
        assert_eq!(slot.answer(&own, node(1), waited - Duration::from_millis(1)), None);
        assert!(slot.answer(&own, node(1), waited).is_some());
    }

    /// One, two or more that take turns as fast as they can: one of them asks in the moment
    /// in which the slot is free, and the honest one two or eight times a second.
    #[test]
    fn those_that_take_turns_do_not_keep_another_one_out() {
        let (own, honest) = (node(9), node(8));
        let lengths = [Duration::from_millis(1), Duration::from_secs(120)];
        let cases = lengths.into_iter().flat_map(|length| [1, 2, 5].map(|turns| (length, turns)));
        let pauses = [120, 480].map(Duration::from_millis);
        for ((length, turns), pause) in cases.flat_map(|case| pauses.map(|pause| (case, pause))) {
            let mut slot = Slot::default();
            let (mut now, mut asked, mut waited) = (NOW, NOW, None);
            for turn in 0..10_000_u32 {
                let all = (0..turns).map(|n| node(1 + ((turn + n) % turns) as u8));
                let Some(ticket) = all.into_iter().find_map(|peer| slot.answer(&own, peer, now)) else {
                    now = asked;
                    waited = slot.answer(&own, honest, now).map(|_| now - NOW);
                    if waited.is_some() {
                        break;
                    }
                    asked += pause;
                    continue;
                };
                while asked < now + length {
                    assert_eq!(slot.answer(&own, honest, asked), None);
                    asked += pause;
                }
                now += length;
                slot.release(ticket, now);
            }
            assert!(waited.unwrap() <= OVERDUE + length + OTHERS_FIRST, "{turns} of {length:?}: {waited:?}");
        }
    }

    #[test]
    fn one_that_is_overdue_and_does_not_come_holds_up_nobody_for_long() {
        let own = node(9);
        let mut slot = Slot::default();
        let first = slot.answer(&own, node(1), NOW).unwrap();
        assert_eq!(slot.answer(&own, node(3), NOW), None);
        let end = NOW + OVERDUE;
        assert_eq!(slot.answer(&own, node(3), end), None);
        slot.release(first, end);
        let late = end + OTHERS_FIRST;
        assert_eq!(slot.answer(&own, node(2), late - Duration::from_millis(1)), None);
        let second = slot.answer(&own, node(2), late).unwrap();
        // It has not asked for as long: after the next session nobody waits for it.
        slot.release(second, late);
        let third = slot.answer(&own, node(1), late).unwrap();
        // It is forgotten only after a longer time; until then it is still the first.
        assert_eq!(slot.answer(&own, node(3), late), None);
        slot.release(third, late);
        assert_eq!(slot.answer(&own, node(2), late), None);
        assert!(slot.answer(&own, node(3), late).is_some());
    }

    #[test]
    fn it_is_counted_how_often_a_peer_is_asked_in_vain() {
        let mut slot = Slot::default();
        for n in 1..=3 {
            slot.want(node(1));
            let (peer, ticket) = slot.open(NOW, 0).unwrap();
            assert_eq!(slot.in_vain(&peer), n);
            slot.release(ticket, NOW);
        }
        slot.want(node(1));
        let (peer, ticket) = slot.open(NOW, 0).unwrap();
        assert!(slot.answered(ticket, NOW));
        assert_eq!(slot.in_vain(&peer), 0);
        slot.release(ticket, NOW);
        // As much as a session that it opened itself, or when it is gone.
        for is_gone in [true, false] {
            slot.want(node(1));
            let (_, ticket) = slot.open(NOW, 0).unwrap();
            slot.release(ticket, NOW);
            if is_gone {
                slot.forget(&node(1));
            } else {
                assert!(slot.answer(&node(9), node(1), NOW).is_some());
            }
            assert_eq!(slot.in_vain(&node(1)), 0);
        }
    }

    #[test]
    fn a_session_that_this_node_opened_counts_as_one_that_it_answered() {
        let own = node(9);
        let mut slot = Slot::default();
        for n in [1, 2] {
            slot.want(node(n));
        }
        let (peer, ticket) = slot.open(NOW, 0).unwrap();
        let other = node(if peer == node(1) { 2 } else { 1 });
        assert!(slot.answered(ticket, NOW));
        slot.release(ticket, NOW);
        slot.want(peer);
        assert_eq!(slot.answer(&own, peer, NOW), None);
        // Whatever number comes up.
        for random in 0..2 {
            let (next, ticket) = slot.clone().open(NOW, random).unwrap();
            assert_eq!(next, other);
            // That one does not want any, so it had none.
            let mut slot = slot.clone();
            slot.release(ticket, NOW);
            assert_eq!(slot.answer(&own, peer, NOW), None);
        }
        // One that was told that it is busy asks again itself, and needs a free slot.
        slot.forget(&other);
        slot.turned_away.insert(other, Away { since: NOW, asked: NOW });
        assert_eq!(slot.open(NOW, 0), None);
        assert!(slot.is_ready());
        assert_eq!(slot.open(NOW + OTHERS_FIRST, 0).map(|(next, _)| next), Some(peer));
    }

    /// Those that say nothing when they are asked, and are wanted again at once: their other
    /// rooms have this node ask.
    #[test]
    fn those_that_are_silent_when_they_are_asked_do_not_keep_another_one_out() {
        let (own, honest, silence) = (node(9), node(8), Duration::from_secs(15));
        for stallers in [1, 2, 5] {
            let mut slot = Slot::default();
            (1..=stallers).for_each(|n| slot.want(node(n)));
            let (peer, ticket) = slot.open(NOW, 0).unwrap();
            assert_eq!(slot.answer(&own, honest, NOW), None);
            let (end, mut asked) = (NOW + silence, NOW);
            while asked < end {
                assert_eq!(slot.answer(&own, honest, asked), None);
                asked += Duration::from_millis(120);
            }
            slot.release(ticket, end);
            slot.want(peer);
            assert_eq!(slot.open(end, 0), None, "{stallers}");
            assert!(slot.answer(&own, honest, end).is_some(), "{stallers}");
        }
        // One that waits no more than once holds up nobody for long.
        let mut slot = Slot::default();
        slot.want(node(1));
        let (peer, ticket) = slot.open(NOW, 0).unwrap();
        assert_eq!(slot.answer(&own, honest, NOW), None);
        slot.release(ticket, NOW + silence);
        slot.want(peer);
        assert_eq!(slot.open(NOW + silence, 0), None);
        assert!(slot.open(NOW + silence + OTHERS_FIRST, 0).is_some());
    }

    #[test]
    fn of_two_crossed_sessions_that_of_the_smaller_id_goes_on() {
        let (small, large) = (node(1), node(2));
        let (mut at_small, mut at_large) = (Slot::default(), Slot::default());
        at_small.want(large);
        at_large.want(small);
        let (_, of_small) = at_small.open(NOW, 0).unwrap();
        let (_, of_large) = at_large.open(NOW, 0).unwrap();
        assert_eq!(at_small.answer(&small, large, NOW), None);
        let answering = at_large.answer(&large, small, NOW).unwrap();
        // The answers cross too.
        assert!(at_small.answered(of_small, NOW) && !at_large.answered(of_large, NOW));
        at_large.release(of_large, NOW);
        assert_eq!(at_large.answer(&large, node(3), NOW), None, "still in the session that it answers");
        at_large.release(answering, NOW);
        assert!(at_large.answer(&large, node(3), NOW).is_some());
    }
}
