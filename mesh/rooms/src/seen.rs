//! A bounded memory of message ids, the oldest forgotten first.
//!
//! Asked before a signature is checked, so that a message that comes from
//! fifteen peers is checked once. Only ids whose signature was checked go in: an
//! id with a false signature must not hide the true one.

use std::collections::{BTreeSet, VecDeque};

use crate::id::MessageId;

/// The memory.
#[derive(Debug, Clone)]
pub struct Seen {
    ids: BTreeSet<MessageId>,
    order: VecDeque<MessageId>,
    max: usize,
}

impl Seen {
    /// Remembers at most `max` ids.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { ids: BTreeSet::new(), order: VecDeque::new(), max: max.max(1) }
    }

    /// Remembers an id.
    pub fn add(&mut self, id: MessageId) {
        if !self.ids.insert(id) {
            return;
        }
        self.order.push_back(id);
        while self.order.len() > self.max {
            if let Some(oldest) = self.order.pop_front() {
                self.ids.remove(&oldest);
            }
        }
    }

    /// Whether it is remembered.
    #[must_use]
    pub fn has(&self, id: &MessageId) -> bool {
        self.ids.contains(id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = MessageId> + '_ {
        self.order.iter().copied()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let ids: Vec<_> = (0..4u8).map(|n| MessageId::of(&[n])).collect();
        let mut seen = Seen::new(3);
        for id in [ids[0], ids[0], ids[1], ids[2], ids[3]] {
            seen.add(id);
        }
        let known: Vec<_> = ids.iter().map(|id| seen.has(id)).collect();
        assert_eq!(known, [false, true, true, true]);
        assert_eq!(seen.iter().count(), 3);
    }
}
