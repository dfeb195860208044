//! Who is in the fleet, as the mesh needs to know it: a snapshot of the
//! committed log at one index.
//!
//! A node's id is the hash of the keys it was admitted with and stays when they
//! change, so the snapshot is what says which id a key has.
//! Invariant: in a checked snapshot no id and no key occurs twice, so a proven
//! key names at most one member
//! (`tests::a_snapshot_with_a_repeated_key_is_refused`).

use std::net::SocketAddr;

pub use osmoda_types::member::{NAME_BYTES_MAX, name_is_valid};
use osmoda_types::{MeshEpoch, MeshKey, NodeId, PublicKey, Role};
use serde::{Deserialize, Serialize};

/// Bound on the members of one fleet. A full mesh of links is meant for up to
/// 32 nodes; the rest is room for controllers and growth. It bounds what a
/// wrong snapshot can make every node hold.
pub const MEMBERS_MAX: usize = 1024;
/// Bound on the addresses of one member; each failed one costs a dial.
pub const ADDRESSES_MAX: usize = 8;

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// Its transport key, which the handshake proves.
    pub mesh_key: MeshKey,
    /// Its identity key, which signs its subkeys.
    pub identity_key: PublicKey,
    /// What it may do.
    pub role: Role,
    /// For people; not unique, never for lookup.
    pub name: String,
    /// Where it listens, best first. Empty for a member that only dials.
    #[serde(default)]
    pub addresses: Vec<SocketAddr>,
}

impl From<&osmoda_types::Member> for Member {
    /// The member as the log has it. The log allows host names; the mesh
    /// resolves none, so only addresses with an IP are taken over.
    fn from(member: &osmoda_types::Member) -> Self {
        let addresses = member.addresses.iter().filter_map(|address| address.parse().ok());
        Self {
            node: member.node,
            mesh_key: member.mesh_key,
            identity_key: member.identity_key,
            role: member.role,
            name: member.name.clone(),
            addresses: addresses.take(ADDRESSES_MAX).collect(),
        }
    }
}

impl From<&Member> for osmoda_types::Member {
    fn from(member: &Member) -> Self {
        Self {
            node: member.node,
            mesh_key: member.mesh_key,
            identity_key: member.identity_key,
            role: member.role,
            name: member.name.clone(),
            addresses: member.addresses.iter().map(ToString::to_string).collect(),
        }
    }
}

/// All members at one index of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// The log index this is the state of; an older snapshot never replaces a
    /// newer one.
    pub index: u64,
    /// The mesh epoch in force.
    pub epoch: MeshEpoch,
    /// The members, in any order.
    pub members: Vec<Member>,
}

impl Members {
    /// The members as the log has them. Those that the mesh cannot use are left out
    /// and named: one of them must neither lock out the others nor keep a revocation
    /// from coming into force.
    #[must_use]
    pub fn of_log<'a>(
        index: u64,
        epoch: MeshEpoch,
        members: impl Iterator<Item = &'a osmoda_types::Member>,
    ) -> (Self, Vec<(NodeId, MembersError)>) {
        let (mut usable, mut left_out) = (Self { index, epoch, members: Vec::new() }, Vec::new());
        for member in members {
            usable.members.push(Member::from(member));
            let last = usable.members.len() - 1;
            let alone = Self { members: usable.members[last..].to_vec(), ..Self::default() };
            let error = match alone.check() {
                Ok(()) if last < MEMBERS_MAX => continue,
                Ok(()) => MembersError::TooMany(last + 1),
                Err(error) => error,
            };
            usable.members.truncate(last);
            left_out.push((member.node, error));
        }
        (usable, left_out)
    }

    /// Checks the invariant and the bounds.
    ///
    /// # Errors
    /// [`MembersError`] names the first member that breaks them.
    pub fn check(&self) -> Result<(), MembersError> {
        if self.members.len() > MEMBERS_MAX {
            return Err(MembersError::TooMany(self.members.len()));
        }
        let mut nodes = std::collections::BTreeSet::new();
        for member in &self.members {
            let node = member.node;
            if !nodes.insert(node) {
                return Err(MembersError::Twice(node));
            }
            if member.addresses.len() > ADDRESSES_MAX {
                return Err(MembersError::Addresses(node));
            }
            if !name_is_valid(&member.name) {
                return Err(MembersError::Name(node));
            }
        }
        let (mut keys, mut identities) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        for member in &self.members {
            if !keys.insert(member.mesh_key) || !identities.insert(member.identity_key) {
                return Err(MembersError::Twice(member.node));
            }
        }
        Ok(())
    }

    /// The member with this id.
    #[must_use]
    pub fn by_node(&self, node: &NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == *node)
    }

    /// The member with this transport key.
    #[must_use]
    pub fn by_key(&self, key: &MeshKey) -> Option<&Member> {
        self.members.iter().find(|member| member.mesh_key == *key)
    }
}

/// The id of a node that is admitted with these keys (`mesh.md` section 8). Of a
/// member, look it up: its keys may be others by now.
#[must_use]
pub fn node_id(mesh_key: &MeshKey, identity_key: &PublicKey) -> NodeId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"mesh1 node");
    hasher.update(mesh_key.as_bytes());
    hasher.update(identity_key.as_bytes());
    NodeId::from_bytes(*hasher.finalize().as_bytes())
}

/// Why a snapshot is not usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MembersError {
    /// Over [`MEMBERS_MAX`].
    #[error("{0} members are more than {MEMBERS_MAX}")]
    TooMany(usize),
    /// The id or one of the keys occurs twice.
    #[error("member {0} or one of its keys occurs twice")]
    Twice(NodeId),
    /// Over [`ADDRESSES_MAX`].
    #[error("member {0} has more than {ADDRESSES_MAX} addresses")]
    Addresses(NodeId),
    /// See [`name_is_valid`].
    #[error("member {0} has a name that is not 1 to {NAME_BYTES_MAX} of a-z, 0-9, dot and hyphen")]
    Name(NodeId),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(seed: u8) -> Member {
        let (mesh_key, identity_key) = (MeshKey::from_bytes([seed; 32]), PublicKey::from_bytes([seed + 100; 32]));
        Member {
            node: node_id(&mesh_key, &identity_key),
            mesh_key,
            identity_key,
            role: Role::Node,
            name: format!("n{seed}"),
            addresses: vec!["127.0.0.1:1".parse().unwrap()],
        }
    }

    fn members(list: Vec<Member>) -> Members {
        Members { index: 1, epoch: MeshEpoch(1), members: list }
    }

    #[test]
    fn members_are_found_by_id_and_by_key() {
        let all = members(vec![member(1), member(2)]);
        assert_eq!(all.check(), Ok(()));
        assert_eq!(all.by_node(&member(2).node), Some(&member(2)));
        assert_eq!(all.by_key(&member(1).mesh_key), Some(&member(1)));
        assert_eq!(all.by_key(&MeshKey::from_bytes([9; 32])), None);
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Members>(&json).unwrap(), all);
    }

    #[test]
    fn a_snapshot_with_a_repeated_key_is_refused() {
        let one = member(1);
        assert_eq!(members(vec![one.clone(), one.clone()]).check(), Err(MembersError::Twice(one.node)));
        let mut other_keys = one.clone();
        other_keys.mesh_key = MeshKey::from_bytes([9; 32]);
        assert_eq!(members(vec![other_keys]).check(), Ok(()), "the id stays when the keys change");
        let (mut same_key, mut same_identity) = (member(2), member(2));
        same_key.mesh_key = one.mesh_key;
        same_identity.identity_key = one.identity_key;
        for twice in [same_key, same_identity] {
            assert_eq!(members(vec![one.clone(), twice.clone()]).check(), Err(MembersError::Twice(twice.node)));
        }
        let mut named = one;
        named.name = "../etc".into();
        assert!(matches!(members(vec![named]).check(), Err(MembersError::Name(_))));
    }

    #[test]
    fn a_member_of_the_log_keeps_its_ip_addresses() {
        let mut logged = osmoda_types::Member::from(&member(1));
        assert_eq!(Member::from(&logged), member(1));
        logged.addresses.insert(0, "host.example:18800".to_owned());
        assert_eq!(Member::from(&logged), member(1));
    }

    #[test]
    fn members_that_cannot_be_used_are_left_out_and_lock_nobody_out() {
        let named = |seed: u16, name: &str| {
            let bytes = |tag: u8| {
                let mut bytes = [tag; 32];
                bytes[..2].copy_from_slice(&seed.to_be_bytes());
                bytes
            };
            osmoda_types::Member {
                node: NodeId::from_bytes(bytes(1)),
                name: name.to_owned(),
                role: Role::Node,
                mesh_key: MeshKey::from_bytes(bytes(2)),
                identity_key: PublicKey::from_bytes(bytes(3)),
                addresses: vec!["10.0.0.1:1".to_owned(), "a.host.name:1".to_owned()],
            }
        };
        let all = [named(1, "a"), named(2, "../x"), named(3, "c")];
        let (usable, left_out) = Members::of_log(7, MeshEpoch(2), all.iter());
        assert_eq!((usable.index, usable.epoch, usable.check()), (7, MeshEpoch(2), Ok(())));
        assert_eq!(usable.members.iter().map(|of| of.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(left_out, [(all[1].node, MembersError::Name(all[1].node))]);
        let many: Vec<_> = (0..MEMBERS_MAX as u16 + 2).map(|seed| named(seed, "n")).collect();
        let (usable, left_out) = Members::of_log(8, MeshEpoch(2), many.iter());
        assert_eq!((usable.members.len(), usable.check(), left_out.len()), (MEMBERS_MAX, Ok(()), 2));
    }
}
