//! A node that changes its keys: the old identity names the new one, and
//! whoever trusted the old follows.
//!
//! A node id is the hash of the keys, so new keys are a new id; what is carried
//! over is the place in the fleet: role, name, addresses. Invariant: a
//! succession is accepted only while the old node is a member, so a revoked key
//! can name nobody; and only with a signature by both identity keys, so nobody
//! can be named who does not hold the new one. The new transport key is proven
//! by its first handshake.

use osmoda_types::{ErrorCode, MeshKey, NetworkId, NodeId, PublicKey, Signature, statement};
use serde::{Deserialize, Serialize};

use crate::members::{Member, Members, MembersError, node_id};

const LINE: &[u8] = b"mesh1 succession";

/// The old identity's word for the new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Succession {
    /// Who changes its keys.
    pub node: NodeId,
    /// The new transport key.
    pub mesh_key: MeshKey,
    /// The new identity key.
    pub identity_key: PublicKey,
    /// By the old identity key, over [`Succession::statement`].
    pub by_old: Signature,
    /// The same by the new one.
    pub by_new: Signature,
}

impl Succession {
    /// The bytes both keys sign: `"mesh1 succession" | network | old node id |
    /// new transport key | new identity key`.
    #[must_use]
    pub fn statement(network: &NetworkId, node: &NodeId, mesh_key: &MeshKey, identity_key: &PublicKey) -> Vec<u8> {
        [LINE, network.as_bytes(), node.as_bytes(), mesh_key.as_bytes(), identity_key.as_bytes()].concat()
    }

    /// The id of the new keys.
    #[must_use]
    pub fn successor(&self) -> NodeId {
        node_id(&self.mesh_key, &self.identity_key)
    }

    /// The successor of `old`, if both signatures are right.
    ///
    /// # Errors
    /// [`SuccessionError`] names what is wrong.
    pub fn of(&self, old: &Member, network: &NetworkId) -> Result<Member, SuccessionError> {
        if old.node != self.node {
            return Err(SuccessionError::Unknown(self.node));
        }
        // Half a change would keep a key that may be why they are changed.
        if self.mesh_key == old.mesh_key || self.identity_key == old.identity_key {
            return Err(SuccessionError::SameKey);
        }
        let said = Self::statement(network, &self.node, &self.mesh_key, &self.identity_key);
        for (key, signature) in [(&old.identity_key, &self.by_old), (&self.identity_key, &self.by_new)] {
            statement::verify(key, &said, signature).map_err(|_| SuccessionError::Signature)?;
        }
        let (mesh_key, identity_key) = (self.mesh_key, self.identity_key);
        Ok(Member { node: self.successor(), mesh_key, identity_key, ..old.clone() })
    }
}

impl Members {
    /// This snapshot with the successor in the old node's place, at a later
    /// index.
    ///
    /// # Errors
    /// [`SuccessionError`]; the snapshot is unchanged then.
    pub fn succeeded(&self, succession: &Succession, network: &NetworkId, index: u64) -> Result<Self, SuccessionError> {
        let old = self.by_node(&succession.node).ok_or(SuccessionError::Unknown(succession.node))?;
        let new = succession.of(old, network)?;
        let member = |member: &Member| if member.node == succession.node { new.clone() } else { member.clone() };
        let next = Self { index, epoch: self.epoch, members: self.members.iter().map(member).collect() };
        next.check().map_err(SuccessionError::Members)?;
        Ok(next)
    }
}

/// Why a succession is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuccessionError {
    /// The old node is no member.
    #[error("{0} is no member, so it names no successor")]
    Unknown(NodeId),
    /// One of the keys is an old one.
    #[error("a succession changes both keys")]
    SameKey,
    /// One of the two is not right.
    #[error("a signature of the succession is not valid")]
    Signature,
    /// The successor is a member already, or shares a key with one.
    #[error("the successor does not fit into the membership")]
    Members(#[source] MembersError),
}

impl SuccessionError {
    /// The code for the caller.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            SuccessionError::Unknown(_) => ErrorCode::PeerUnknown,
            SuccessionError::SameKey => ErrorCode::BadRequest,
            SuccessionError::Signature => ErrorCode::SignatureInvalid,
            SuccessionError::Members(_) => ErrorCode::Conflict,
        }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use osmoda_types::{MeshEpoch, Role};

    use super::*;

    const NETWORK: NetworkId = NetworkId::from_bytes([1; 32]);

    fn signing(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn member(seed: u8) -> Member {
        let (mesh_key, identity_key) = (MeshKey::from_bytes([seed; 32]), statement::public_key(&signing(seed)));
        let node = node_id(&mesh_key, &identity_key);
        let addresses = vec!["127.0.0.1:1".parse().unwrap()];
        Member { node, mesh_key, identity_key, role: Role::Voter, name: format!("n{seed}"), addresses }
    }

    fn succession(old: u8, new: u8) -> Succession {
        let (from, to) = (member(old), member(new));
        let said = Succession::statement(&NETWORK, &from.node, &to.mesh_key, &to.identity_key);
        let (by_old, by_new) = (statement::sign(&signing(old), &said), statement::sign(&signing(new), &said));
        Succession { node: from.node, mesh_key: to.mesh_key, identity_key: to.identity_key, by_old, by_new }
    }

    fn members() -> Members {
        Members { index: 1, epoch: MeshEpoch(1), members: vec![member(1), member(2)] }
    }

    #[test]
    fn the_successor_takes_the_place() {
        let after = members().succeeded(&succession(1, 9), &NETWORK, 2).unwrap();
        assert_eq!(after.members.len(), 2);
        assert!(after.by_node(&member(1).node).is_none());
        let new = after.by_node(&member(9).node).unwrap();
        assert_eq!((new.role, new.name.as_str(), &new.addresses), (Role::Voter, "n1", &member(1).addresses));
        // The old identity is spent: it names nobody any more.
        let again = after.succeeded(&succession(1, 8), &NETWORK, 3);
        assert_eq!(again, Err(SuccessionError::Unknown(member(1).node)));
        // And the new one may change again.
        assert!(after.succeeded(&succession(9, 10), &NETWORK, 3).is_ok());
    }

    #[test]
    fn what_is_not_signed_by_both_changes_nothing() {
        let refused = |change: fn(&mut Succession)| {
            let mut succession = succession(1, 9);
            change(&mut succession);
            members().succeeded(&succession, &NETWORK, 2).unwrap_err()
        };
        assert_eq!(refused(|s| s.by_old = s.by_new), SuccessionError::Signature);
        assert_eq!(refused(|s| s.by_new = s.by_old), SuccessionError::Signature);
        assert_eq!(refused(|s| s.mesh_key = MeshKey::from_bytes([77; 32])), SuccessionError::Signature);
        assert_eq!(refused(|s| s.node = member(2).node), SuccessionError::Signature);
        assert_eq!(refused(|s| s.node = member(7).node), SuccessionError::Unknown(member(7).node));
        assert_eq!(refused(|s| s.mesh_key = member(1).mesh_key), SuccessionError::SameKey);
        let elsewhere = NetworkId::from_bytes([2; 32]);
        let other = members().succeeded(&succession(1, 9), &elsewhere, 2);
        assert_eq!(other, Err(SuccessionError::Signature));
        let taken = members().succeeded(&succession(1, 2), &NETWORK, 2);
        assert!(matches!(taken, Err(SuccessionError::Members(MembersError::Twice(_)))));
    }
}
