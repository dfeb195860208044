//! A member's new keys. Its id, role, name, seat and subkeys stay.
//!
//! Invariant: no key is ever that of two members, nor twice that of one: a
//! replaced key is remembered and refused for good, so neither an old statement
//! nor an old key says anything once more
//! (`tests::rotate::a_statement_counts_once`).
//! Invariant: only the keys in force name the next ones, and only those that
//! the new holder proves.

use osmoda_types::{ErrorCode, Member, MeshKey, NodeId, PublicKey, Succession};

use super::{Cx, Done, Handled};
use crate::outcome::{Signer, What};
use crate::signature;
use crate::state::{FleetState, SPENT_KEYS_MAX, SpentKeys};

impl FleetState {
    /// Replaces both keys of a member. What it registered before stays: the log
    /// recorded those subkeys while the old identity was its word, and a ballot
    /// or a checkpoint made then must be checkable for ever.
    pub(super) fn rotate_keys(&mut self, cx: &mut Cx, succession: &Succession) -> Handled {
        let Succession { node, mesh_key, identity_key, .. } = *succession;
        let Some(entry) = self.members.get(&node) else {
            return Err(if self.revoked.contains_key(&node) { ErrorCode::NodeRevoked } else { ErrorCode::NodeUnknown });
        };
        let old = &entry.member;
        if (old.mesh_key, old.identity_key) == (mesh_key, identity_key) {
            return Done::BEFORE;
        }
        // Half a change would keep a key that may be why they are changed.
        if old.mesh_key == mesh_key || old.identity_key == identity_key {
            return Err(ErrorCode::BadRequest);
        }
        let network = self.network.ok_or(ErrorCode::Conflict)?;
        let message = succession.statement(&network);
        signature::verify(&old.identity_key, &message, &succession.by_old)?;
        signature::verify(&identity_key, &message, &succession.by_new)?;
        if self.are_taken(&mesh_key, &identity_key) {
            return Err(ErrorCode::Conflict);
        }
        if self.is_at_risk(&node) {
            return Err(ErrorCode::AttemptConflict);
        }
        let spent = SpentKeys { identity_key: old.identity_key, node, index: cx.index };
        self.spend_keys(old.mesh_key, spent);
        if let Some(entry) = self.members.get_mut(&node) {
            entry.member = Member { mesh_key, identity_key, ..entry.member.clone() };
        }
        self.members_index = cx.index;
        cx.signer = Signer::Node(node);
        cx.event(What::KeysRotated(node), "rotation");
        // The text of an invite names its issuer's transport key.
        self.end_invites_of(cx, node, "rotation");
        Done::NOW
    }

    /// Whether one of the keys is a member's, or was anybody's.
    fn are_taken(&self, mesh_key: &MeshKey, identity_key: &PublicKey) -> bool {
        let same = |mesh: &MeshKey, identity: &PublicKey| mesh == mesh_key || identity == identity_key;
        self.members.values().any(|entry| same(&entry.member.mesh_key, &entry.member.identity_key))
            || self.revoked.values().any(|revoked| same(&revoked.mesh_key, &revoked.identity_key))
            || self.spent_keys.iter().any(|(mesh, spent)| same(mesh, &spent.identity_key))
    }

    /// Whose keys these were once, if they were replaced.
    pub(super) fn spent_by(&self, member: &Member) -> Option<NodeId> {
        let same = |(mesh, spent): &(&MeshKey, &SpentKeys)| {
            **mesh == member.mesh_key || spent.identity_key == member.identity_key
        };
        self.spent_keys.iter().find(same).map(|(_, spent)| spent.node)
    }

    /// A node that must prove itself over the network does not change in the
    /// same moment how it is reached: the two could not be told apart.
    fn is_at_risk(&self, node: &NodeId) -> bool {
        self.active().any(|rollout| rollout.rows.get(node).is_some_and(|row| row.state.is_charged()))
    }

    fn spend_keys(&mut self, mesh_key: MeshKey, spent: SpentKeys) {
        self.spent_keys.insert(mesh_key, spent);
        while self.spent_keys.len() > SPENT_KEYS_MAX {
            let oldest = self.spent_keys.iter().min_by_key(|(_, spent)| spent.index).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                self.spent_keys.remove(&oldest);
            }
        }
    }
}
