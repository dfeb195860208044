//! Removing a member for good, and the mesh epoch that must follow.
//!
//! Invariant: who was revoked has no seat, no key and no open invite of its own,
//! its keys are refused ever after, and the fleet knows that the secret of the
//! mesh epoch in force is no longer one of members only, until the next begins.

use osmoda_types::{ErrorCode, Member, MeshEpoch, NodeId, RolloutId, SecretHash};

use super::{Cx, Done, Handled};
use crate::outcome::What;
use crate::state::{FleetState, InviteState, REVOKED_MAX, Revoked};

impl FleetState {
    /// Removes a member. The last voter cannot be removed: nobody could commit
    /// anything any more.
    pub(super) fn revoke(&mut self, cx: &mut Cx, node: NodeId) -> Handled {
        let Some(entry) = self.members.get(&node) else {
            return if self.revoked.contains_key(&node) { Done::BEFORE } else { Err(ErrorCode::NodeUnknown) };
        };
        if self.voters.contains_key(&node) && self.voters.len() == 1 {
            return Err(ErrorCode::Conflict);
        }
        let Member { mesh_key, identity_key, name, .. } = entry.member.clone();
        self.members.remove(&node);
        self.voters.remove(&node);
        self.subkeys.retain(|(owner, _), _| *owner != node);
        self.revoked.insert(node, Revoked { mesh_key, identity_key, name, index: cx.index });
        while self.revoked.len() > REVOKED_MAX {
            let oldest = self.revoked.iter().min_by_key(|(_, revoked)| revoked.index).map(|(node, _)| *node);
            if let Some(oldest) = oldest {
                self.revoked.remove(&oldest);
            }
        }
        self.rotation_due = true;
        self.members_index = cx.index;
        cx.event(What::Revoked(node), "order");
        self.end_invites_of(cx, node, "revoked");
        self.exclude_everywhere(cx, node);
        Done::NOW
    }

    /// The next epoch, and no other. Only the leader's word: nobody can submit
    /// it, and a wrong hash only means that members find no secret for it.
    pub(super) fn rotate_epoch(&mut self, cx: &mut Cx, epoch: MeshEpoch, secret_hash: SecretHash) -> Handled {
        if (self.mesh_epoch, self.secret_hash) == (epoch, Some(secret_hash)) {
            return Done::BEFORE;
        }
        if self.mesh_epoch.0.checked_add(1) != Some(epoch.0) {
            return Err(ErrorCode::EpochStale);
        }
        self.mesh_epoch = epoch;
        self.secret_hash = Some(secret_hash);
        self.rotation_due = false;
        self.members_index = cx.index;
        cx.event(What::EpochBegun(epoch), "rotation");
        Done::NOW
    }

    /// Whether these are the keys of somebody who was removed.
    pub(super) fn is_revoked(&self, member: &Member) -> bool {
        self.revoked.contains_key(&member.node)
            || self
                .revoked
                .values()
                .any(|revoked| revoked.mesh_key == member.mesh_key || revoked.identity_key == member.identity_key)
    }

    /// The secrets of its invites are known to nobody else who could judge them.
    pub(super) fn end_invites_of(&mut self, cx: &mut Cx, node: NodeId, reason: &'static str) {
        for (id, entry) in &mut self.invites {
            if entry.invite.issuer == node && entry.state == InviteState::Open {
                entry.state = InviteState::Expired;
                cx.event(What::InviteExpired(*id), reason);
            }
        }
    }

    /// It is out of reach, so it is out of what runs. Where it was committed
    /// already it stays counted as that.
    fn exclude_everywhere(&mut self, cx: &mut Cx, node: NodeId) {
        let with_it = |id: &&RolloutId| {
            self.rollouts.get(*id).is_some_and(|of| !of.phase.is_terminal() && of.rows.contains_key(&node))
        };
        let ids: Vec<RolloutId> = self.rollouts.keys().filter(with_it).copied().collect();
        for id in ids {
            // A row that cannot be excluded is one that has ended.
            if self.exclude(cx, id, node).is_err() {
                continue;
            }
        }
    }
}
