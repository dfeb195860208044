//! A node that changes its keys: the old identity names the new keys, and
//! whoever trusted the old follows. The node keeps its id. *Pure.*
//!
//! The log is what makes a change valid; there the same statement is judged with
//! everything that is known about keys. Here is what a peer does that slept
//! through it: a chain of statements leads from the keys it knows to those that
//! a handshake proved. Invariant: nobody is followed who is no member in the
//! newest snapshot; so a revoked key names nobody, and the follower trusts no
//! key that the one it trusted did not sign for.

use osmoda_types::{ErrorCode, MeshKey, NetworkId, NodeId, statement};

pub use osmoda_types::Succession;

use crate::members::{Member, Members, MembersError};

/// How many of its changes of keys a node shows to those that dial it. Whoever
/// slept through more needs another member that did not; each is about 530 bytes
/// of an answer that is read before the link is trusted.
pub const SUCCESSIONS_MAX: usize = 8;

/// The member `old` with its new keys, if both signatures are right.
///
/// # Errors
/// [`SuccessionError`] names what is wrong.
pub fn succeed(old: &Member, succession: &Succession, network: &NetworkId) -> Result<Member, SuccessionError> {
    if old.node != succession.node {
        return Err(SuccessionError::Unknown(succession.node));
    }
    let (mesh_key, identity_key) = (succession.mesh_key, succession.identity_key);
    // Half a change would keep a key that may be why they are changed.
    if mesh_key == old.mesh_key || identity_key == old.identity_key {
        return Err(SuccessionError::SameKey);
    }
    let said = succession.statement(network);
    for (key, signature) in [(&old.identity_key, &succession.by_old), (&identity_key, &succession.by_new)] {
        statement::verify(key, &said, signature).map_err(|_| SuccessionError::Signature)?;
    }
    Ok(Member { mesh_key, identity_key, ..old.clone() })
}

/// Follows a member through its changes of keys, oldest first, to the one that
/// gave it `mesh_key`. Those from before the known keys are passed over.
#[must_use]
pub fn follow(known: &Member, changes: &[Succession], mesh_key: &MeshKey, network: &NetworkId) -> Option<Member> {
    let mut now = known.clone();
    for change in changes.iter().take(SUCCESSIONS_MAX) {
        if let Ok(next) = succeed(&now, change, network) {
            now = next;
        }
    }
    (now.mesh_key == *mesh_key).then_some(now)
}

impl Members {
    /// This snapshot with a member's new keys in the place of the old ones, at
    /// the same index: the log says more when it comes.
    ///
    /// # Errors
    /// [`SuccessionError`]; the snapshot is unchanged then.
    pub fn succeeded(&self, succession: &Succession, network: &NetworkId) -> Result<Self, SuccessionError> {
        let old = self.by_node(&succession.node).ok_or(SuccessionError::Unknown(succession.node))?;
        self.with(succeed(old, succession, network)?)
    }

    /// This snapshot with that member in the place of the one with its id.
    ///
    /// # Errors
    /// [`SuccessionError`] when there is none, or when a key has another owner.
    pub fn with(&self, new: Member) -> Result<Self, SuccessionError> {
        let mut next = self.clone();
        let node = new.node;
        let place = next.members.iter_mut().find(|member| member.node == node);
        *place.ok_or(SuccessionError::Unknown(node))? = new;
        next.check().map_err(SuccessionError::Members)?;
        Ok(next)
    }
}

/// Why a succession is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuccessionError {
    /// The node is no member.
    #[error("{0} is no member, so it names no keys")]
    Unknown(NodeId),
    /// One of the keys is an old one.
    #[error("a succession changes both keys")]
    SameKey,
    /// One of the two is not right.
    #[error("a signature of the succession is not valid")]
    Signature,
    /// One of the keys is another member's.
    #[error("the new keys do not fit into the membership")]
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
    use crate::members::node_id;

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

    /// Member `first` goes from the keys of seed `old` to those of seed `new`.
    fn succession(first: u8, old: u8, new: u8) -> Succession {
        let (node, to) = (member(first).node, member(new));
        let said = statement::succession(&node, &to.mesh_key, &to.identity_key, &NETWORK);
        let (by_old, by_new) = (statement::sign(&signing(old), &said), statement::sign(&signing(new), &said));
        Succession { node, mesh_key: to.mesh_key, identity_key: to.identity_key, by_old, by_new }
    }

    fn members() -> Members {
        Members { index: 1, epoch: MeshEpoch(1), members: vec![member(1), member(2)] }
    }

    #[test]
    fn a_node_keeps_everything_but_its_keys() {
        let after = members().succeeded(&succession(1, 1, 9), &NETWORK).unwrap();
        let new = after.by_node(&member(1).node).unwrap();
        assert_eq!((new.mesh_key, new.identity_key), (member(9).mesh_key, member(9).identity_key));
        assert_eq!(
            Member { mesh_key: member(1).mesh_key, identity_key: member(1).identity_key, ..new.clone() },
            member(1)
        );
        assert!(after.by_key(&member(1).mesh_key).is_none());
        // The old identity is spent, and the new one may change again.
        let again = after.succeeded(&succession(1, 1, 8), &NETWORK);
        assert_eq!(again, Err(SuccessionError::Signature));
        assert!(after.succeeded(&succession(1, 9, 10), &NETWORK).is_ok());
    }

    #[test]
    fn what_is_not_signed_by_both_changes_nothing() {
        let refused = |change: fn(&mut Succession)| {
            let mut succession = succession(1, 1, 9);
            change(&mut succession);
            members().succeeded(&succession, &NETWORK).unwrap_err()
        };
        assert_eq!(refused(|s| s.by_old = s.by_new), SuccessionError::Signature);
        assert_eq!(refused(|s| s.by_new = s.by_old), SuccessionError::Signature);
        assert_eq!(refused(|s| s.mesh_key = MeshKey::from_bytes([77; 32])), SuccessionError::Signature);
        assert_eq!(refused(|s| s.node = member(2).node), SuccessionError::Signature);
        assert_eq!(refused(|s| s.node = member(7).node), SuccessionError::Unknown(member(7).node));
        assert_eq!(refused(|s| s.mesh_key = member(1).mesh_key), SuccessionError::SameKey);
        let elsewhere = NetworkId::from_bytes([2; 32]);
        assert_eq!(members().succeeded(&succession(1, 1, 9), &elsewhere), Err(SuccessionError::Signature));
        let taken = members().succeeded(&succession(1, 1, 2), &NETWORK);
        assert!(matches!(taken, Err(SuccessionError::Members(MembersError::Twice(_)))));
    }

    #[test]
    fn a_sleeper_follows_from_whatever_it_knows_and_only_over_an_unbroken_chain() {
        let chain: Vec<_> = (1..=5).map(|step| succession(1, step, step + 1)).collect();
        let with_keys = |seed: u8| {
            let (mesh_key, identity_key) = (member(seed).mesh_key, member(seed).identity_key);
            Member { mesh_key, identity_key, ..member(1) }
        };
        for known in 1..=6 {
            let found = follow(&with_keys(known), &chain, &member(6).mesh_key, &NETWORK);
            assert_eq!(found, Some(with_keys(6)), "from {known}");
        }
        assert_eq!(follow(&with_keys(1), &chain, &member(5).mesh_key, &NETWORK), None, "an older key is none");
        let broken = [chain[0], chain[2], chain[3], chain[4]];
        assert_eq!(follow(&with_keys(1), &broken, &member(6).mesh_key, &NETWORK), None);
        assert_eq!(follow(&member(2), &chain, &member(6).mesh_key, &NETWORK), None, "another member");
        let long: Vec<_> = (1..=9).map(|step| succession(1, step, step + 1)).collect();
        assert_eq!(follow(&with_keys(1), &long, &member(10).mesh_key, &NETWORK), None, "over the bound");
    }
}
