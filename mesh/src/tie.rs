//! Two links between the same two nodes: which one stays. *Pure.*
//!
//! Both ends decide alone and must decide alike:
//! 1. A link to another incarnation of the peer always replaces the old one:
//!    the peer was restarted, so the old link is dead even if this side has not
//!    noticed.
//! 2. Otherwise the link that the smaller node id began is kept.
//! 3. Of two begun by the same node the newer is kept: it dialled again because
//!    it lost the older.

use osmoda_types::NodeId;

/// Where a link came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Who dialled.
    pub(crate) initiator: NodeId,
    /// The peer's incarnation.
    pub(crate) peer_incarnation: u64,
}

/// Whether `new` replaces `old`; both are links between `local` and one peer.
pub(crate) fn replaces(old: Origin, new: Origin) -> bool {
    old.peer_incarnation != new.peer_incarnation || new.initiator <= old.initiator
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
        for incarnation in [7, 8] {
            assert!(replaces(by(2, incarnation), by(1, incarnation)));
            assert!(!replaces(by(1, incarnation), by(2, incarnation)));
        }
    }

    #[test]
    fn a_restarted_peer_replaces_its_old_link_whoever_dialled() {
        for (old, new) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            assert!(replaces(by(old, 7), by(new, 8)));
        }
    }

    #[test]
    fn dialling_again_replaces_the_lost_link() {
        assert!(replaces(by(1, 7), by(1, 7)));
        assert!(replaces(by(2, 7), by(2, 7)));
    }
}
