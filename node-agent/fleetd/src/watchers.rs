//! Who follows the log here: so many in all, and so many of one peer.
//!
//! Invariant: no peer takes the places of the others, and a place is free again
//! when its stream is dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use osmoda_types::NodeId;

/// Followers of the log at once: every node of a full mesh, its controllers,
/// and room for reconnects. More are told `busy` and come back.
const ALL_MAX: usize = 256;

/// Of one peer: the one it uses, and those of connections that it has left and
/// this side has not yet seen end.
const ONE_MAX: usize = 4;

/// The places; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watchers {
    of: Arc<Mutex<BTreeMap<NodeId, usize>>>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Watching {
    watchers: Watchers,
    node: NodeId,
}

impl Watchers {
    /// A place for a peer, if it may have one more.
    pub(crate) fn take(&self, node: NodeId) -> Option<Watching> {
        let mut of = self.lock();
        let all: usize = of.values().sum();
        let own = of.get(&node).copied().unwrap_or(0);
        if all >= ALL_MAX || own >= ONE_MAX {
            return None;
        }
        of.insert(node, own + 1);
        Some(Watching { watchers: self.clone(), node })
    }

    /// Every change is whole, so a panic elsewhere does not matter.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, usize>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut of = self.watchers.lock();
        match of.get_mut(&self.node) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                of.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_takes_no_place_of_another_and_places_come_back() {
        let watchers = Watchers::default();
        let node = |n: u8| NodeId::from_bytes([n; 32]);
        let mut own: Vec<_> = (0..ONE_MAX).map(|_| watchers.take(node(1)).expect("a place")).collect();
        assert!(watchers.take(node(1)).is_none(), "its share is used");
        let all: Vec<_> = (2..=u8::MAX).map_while(|n| watchers.take(node(n))).collect();
        assert_eq!(own.len() + all.len(), ALL_MAX);
        assert!(watchers.take(node(0)).is_none(), "all are taken");
        own.pop();
        assert!(watchers.take(node(1)).is_some());
        drop((own, all));
        assert!(watchers.lock().is_empty());
    }
}
