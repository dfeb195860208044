//! Which links a node keeps up by itself. *Pure.*
//!
//! Up to [`FULL_MESH_MAX`] members, and without the feature `swim`: all. Above:
//! voters among each other, controllers and guests with everybody they may call
//! as before, and each node with its neighbours on the ring of node ids. Other
//! links are made when a stream wants one and end when nothing uses them.
//! Invariant: both ends of a link come to the same answer from one snapshot.

use osmoda_mesh_protocol::Members;
use osmoda_types::{NodeId, Role};

/// Members up to which everybody is linked with everybody: 31 probes per second
/// and node are nothing, and 496 links are the tested size (`mesh.md` section 6).
pub(crate) const FULL_MESH_MAX: usize = 32;

/// Neighbours to each side of the ring. Eight links carry the gossip; a node is
/// cut off only if all eight die within the time of one detection.
const NEIGHBOURS: usize = 4;

/// The links of one snapshot.
#[derive(Debug)]
pub(crate) enum Overlay {
    /// Everybody with everybody.
    Full,
    /// A bounded set.
    Ring {
        /// Voters and nodes in the order of their ids, with their roles.
        ring: Vec<(NodeId, Role)>,
    },
}

impl Overlay {
    /// The links of that snapshot; only a program with SWIM leaves any out.
    pub(crate) fn of(members: &Members) -> Self {
        if !cfg!(feature = "swim") || members.members.len() <= FULL_MESH_MAX {
            return Self::Full;
        }
        Self::ring(members)
    }

    fn ring(members: &Members) -> Self {
        let on_ring = |role| matches!(role, Role::Voter | Role::Node);
        let members = members.members.iter().filter(|member| on_ring(member.role));
        let mut ring: Vec<_> = members.map(|member| (member.node, member.role)).collect();
        ring.sort_by_key(|(node, _)| *node);
        Self::Ring { ring }
    }

    /// Whether the two keep a link without being asked.
    pub(crate) fn keeps(&self, one: &NodeId, other: &NodeId) -> bool {
        let Self::Ring { ring } = self else { return true };
        let place = |node: &NodeId| ring.binary_search_by_key(node, |(node, _)| *node).ok();
        let (Some(one), Some(other)) = (place(one), place(other)) else { return true };
        if ring[one].1 == Role::Voter && ring[other].1 == Role::Voter {
            return true;
        }
        let apart = one.abs_diff(other);
        apart.min(ring.len() - apart) <= NEIGHBOURS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osmoda_mesh_protocol::Member;
    use osmoda_types::{MeshEpoch, MeshKey, PublicKey};

    fn fleet(size: u8) -> Members {
        let member = |number: u8| Member {
            node: id(number),
            mesh_key: MeshKey::from_bytes([number; 32]),
            identity_key: PublicKey::from_bytes([number; 32]),
            role: if number.is_multiple_of(20) { Role::Voter } else { Role::Node },
            name: format!("n{number}"),
            addresses: vec![],
        };
        Members { index: 1, epoch: MeshEpoch(1), members: (0..size).rev().map(member).collect() }
    }

    fn id(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    #[test]
    fn links_are_few_symmetric_and_voters_are_fully_meshed() {
        let mut members = fleet(100);
        members.members[7].role = Role::Controller;
        let controller = members.members[7].node;
        let overlay = Overlay::ring(&members);
        for one in 0..100 {
            let mut kept = 0;
            for other in (0..100).filter(|other| *other != one) {
                let keeps = overlay.keeps(&id(one), &id(other));
                assert_eq!(keeps, overlay.keeps(&id(other), &id(one)));
                assert!(keeps || one % 20 != 0 || other % 20 != 0, "{one} {other}");
                kept += usize::from(keeps);
            }
            let most = if one % 20 == 0 { 8 + 4 + 1 } else { 8 + 1 };
            assert!(id(one) == controller || (8..=most).contains(&kept), "{one} keeps {kept}");
        }
        assert!(overlay.keeps(&id(0), &id(99)), "the ring closes");
        assert!(overlay.keeps(&controller, &id(50)));
    }

    #[test]
    fn a_small_fleet_is_a_full_mesh_and_a_large_one_only_without_the_feature() {
        assert!(Overlay::of(&fleet(32)).keeps(&id(1), &id(17)));
        assert_eq!(Overlay::of(&fleet(33)).keeps(&id(1), &id(17)), !cfg!(feature = "swim"));
    }
}
