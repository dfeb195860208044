//! Two links between the same two nodes: which one stays. *Pure.*
//!
//! Both ends decide alone and must decide alike:
//! 1. A link to another incarnation of the peer always replaces the old one:
//!    the peer was restarted, so the old link is dead even if this side has not
//!    noticed.
//! 2. Otherwise the link that the smaller node id began is kept. The other one
//!    works too, and streams may run on it already: it is drained.
//! 3. Of two begun by the same node the newer is kept: it dialled again because
//!    it lost the older, or made it anew on purpose, and then the older is
//!    drained.
//!
//! A drained link takes no new stream. Those that run on it end by themselves,
//! or with it when its time is over (`lifetime::Drain`).

use std::cmp::Ordering;

use osmoda_types::NodeId;

/// Where a link came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Who dialled.
    pub(crate) initiator: NodeId,
    /// The peer's incarnation.
    pub(crate) peer_incarnation: u64,
}

/// What becomes of the link there is when another one has come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Old {
    /// It stays, and the new one goes. Nothing runs on that: its listener has not
    /// admitted it, or its dialler has not let it open streams.
    Stays,
    /// It finishes what runs on it.
    Drains,
    /// It ends at once.
    Ends,
}

/// What becomes of `old` beside `new`, which `renews` it or not; both are links
/// between the local node and one peer.
pub(crate) fn beside(old: Origin, new: Origin, renews: bool) -> Old {
    match new.initiator.cmp(&old.initiator) {
        _ if old.peer_incarnation != new.peer_incarnation => Old::Ends,
        Ordering::Less => Old::Drains,
        Ordering::Equal if renews => Old::Drains,
        Ordering::Equal => Old::Ends,
        Ordering::Greater => Old::Stays,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(initiator: u8, peer_incarnation: u64) -> Origin {
        Origin { initiator: NodeId::from_bytes([initiator; 32]), peer_incarnation }
    }

    #[test]
    fn crossed_links_converge_on_the_one_of_the_smaller_id_in_any_order() {
        // At either end the incarnations are those of one running peer.
        for (incarnation, renews) in [(7, false), (8, false), (7, true)] {
            assert_eq!(beside(by(2, incarnation), by(1, incarnation), renews), Old::Drains);
            assert_eq!(beside(by(1, incarnation), by(2, incarnation), renews), Old::Stays);
        }
    }

    #[test]
    fn a_restarted_peer_replaces_its_old_link_whoever_dialled() {
        for (old, new) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            assert_eq!(beside(by(old, 7), by(new, 8), false), Old::Ends);
            assert_eq!(beside(by(old, 7), by(new, 8), true), Old::Ends);
        }
    }

    #[test]
    fn dialling_again_ends_the_lost_link_and_making_it_anew_drains_it() {
        for initiator in [1, 2] {
            assert_eq!(beside(by(initiator, 7), by(initiator, 7), false), Old::Ends);
            assert_eq!(beside(by(initiator, 7), by(initiator, 7), true), Old::Drains);
        }
    }
}
