//! Members of a fleet, their subkeys and their invites.

use crate::ids::{InviteId, MeshEpoch, MeshKey, NetworkId, NodeId, PublicKey, Role, Signature};

/// Most addresses of a member; a dialler tries them all.
pub const ADDRESSES_MAX: usize = 8;
/// Longest address as text, `[v6]:port` with a zone.
pub const ADDRESS_BYTES_MAX: usize = 128;
/// Most open invites: each costs one HMAC per unknown Initial (`mesh.md` 8).
pub const INVITES_OPEN_MAX: usize = 64;

/// Longest name of a member, as for a DNS label.
pub const NAME_BYTES_MAX: usize = 63;

/// Whether a member may be called this: 1 to 63 of `a-z 0-9 . -`, beginning
/// with a letter or digit. Names are printed on terminals and used in paths. One
/// rule for the log and the mesh: what one admits the other can use.
#[must_use]
pub fn name_is_valid(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= NAME_BYTES_MAX
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|byte| plain(byte) || byte == b'-' || byte == b'.')
}

/// A node or controller that was admitted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its id: the hash of the keys it joined with. It stays when they change.
    pub node: NodeId,
    /// What people call it; unique in the fleet.
    pub name: String,
    /// What it may do in the mesh.
    pub role: Role,
    /// Its X25519 public key.
    pub mesh_key: MeshKey,
    /// Its Ed25519 identity key, which endorses its subkeys.
    pub identity_key: PublicKey,
    /// Where it can be reached, `host:port`.
    pub addresses: Vec<String>,
}

/// What a subkey is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// agentd: checkpoints and cosignatures.
    Ledger,
    /// fleetd: ballots.
    Ballot,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 2] = [Self::Ledger, Self::Ballot];

    /// The stable text, also in the signed statement.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Ballot => "ballot",
        }
    }
}

/// A daemon's own key, endorsed by its node's identity key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subkey {
    /// Whose.
    pub node: NodeId,
    /// What for.
    pub purpose: Purpose,
    /// The key.
    pub key: PublicKey,
    /// The mesh epoch it was endorsed in.
    pub epoch: MeshEpoch,
    /// The identity key's signature over [`crate::statement::subkey`].
    pub endorsement: Signature,
}

/// The old identity's word for a node's new keys. The node keeps its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Succession {
    /// Who changes its keys.
    pub node: NodeId,
    /// The new transport key.
    pub mesh_key: MeshKey,
    /// The new identity key.
    pub identity_key: PublicKey,
    /// By the identity key that is replaced, over [`crate::statement::succession`].
    pub by_old: Signature,
    /// The same by the new identity key, so that nobody names a key he does not
    /// hold.
    pub by_new: Signature,
}

impl Succession {
    /// The bytes that both keys sign.
    #[must_use]
    pub fn statement(&self, network: &NetworkId) -> Vec<u8> {
        crate::statement::succession(&self.node, &self.mesh_key, &self.identity_key, network)
    }
}

/// An invite as the log knows it; the secret stays with its issuer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// Its public name.
    pub id: InviteId,
    /// The role it admits to.
    pub role: Role,
    /// When it ends, in milliseconds since 1970, by the issuer's clock.
    pub expires_ms: i64,
    /// The voter that holds the secret.
    pub issuer: NodeId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["a", "node-1.rack.2", "0"] {
            assert!(name_is_valid(good), "{good}");
        }
        for bad in ["", "-a", ".", "A", "a b", "ä", &"a".repeat(64)] {
            assert!(!name_is_valid(bad), "{bad}");
        }
    }
}
