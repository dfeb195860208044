//! Identifiers. Each thing that is named across programs has its own type, so
//! that one cannot be passed for another.

use crate::bytes::hex_id;

hex_id!(
    /// A node: `BLAKE3("mesh1 node" | X25519 public key | Ed25519 public key)`
    /// (`mesh.md` section 8). Stable for the life of the node's identity.
    NodeId, 32
);
hex_id!(
    /// A node's static X25519 public key, which the mesh handshake proves.
    MeshKey, 32
);
hex_id!(
    /// A fleet. Random, made once by `osmoda-node init`; part of every
    /// handshake's prologue, so that two fleets never talk by accident.
    NetworkId, 32
);
hex_id!(
    /// The public name of an invite; the secret is separate.
    InviteId, 16
);
hex_id!(
    /// SHA-256 of the exact bytes of a release manifest.
    ManifestHash, 32
);
hex_id!(
    /// SHA-256 of an epoch's network secret; the log holds only this.
    SecretHash, 32
);
hex_id!(
    /// An Ed25519 public key: of an operator, of a node's identity, or a subkey.
    PublicKey, 32
);
hex_id!(
    /// An Ed25519 signature.
    Signature, 64
);
hex_id!(
    /// A request to the log, chosen by whoever submits it, so that a repeat is
    /// recognised and answered as the first time.
    RequestId, 16
);
hex_id!(
    /// The hash of a row of a node's ledger.
    LedgerHash, 32
);
hex_id!(
    /// An approval of one call, or of one plan of calls.
    PermitId, 16
);
hex_id!(
    /// The hash of a canonical call: what a permit is bound to.
    CallHash, 32
);

impl ManifestHash {
    /// The hash of a manifest's exact bytes.
    #[must_use]
    pub fn of(manifest: &[u8]) -> Self {
        use sha2::Digest;
        Self::from_bytes(sha2::Sha256::digest(manifest).into())
    }
}

/// A Raft voter: a random number bound to a node key and one incarnation of
/// its data directory. Never reused: a lost disk is a new voter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct RaftId(pub u64);

impl std::fmt::Display for RaftId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A rollout, named by whoever proposes it (UUID version 7), so that a
/// repeated proposal is recognised as the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct RolloutId(pub uuid::Uuid);

impl RolloutId {
    /// A new id that sorts by time.
    #[must_use]
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7())
    }
}

impl Default for RolloutId {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Display for RolloutId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for RolloutId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// The fleet epoch: counts accepted proposals. A proposal names the epoch it
/// was made against (its parent) and is refused when the fleet has moved on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct FleetEpoch(pub u64);

/// The mesh epoch: which network secret is in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct MeshEpoch(pub u32);

/// One try of one node to move to one target: the place of its grant in the
/// log, `index << 16 | position of the command in the entry`.
///
/// A place holds one grant, so a node and an attempt name one try across the
/// fleet, and a later attempt always compares greater (invariant I3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct AttemptId(pub u64);

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_number!(FleetEpoch, MeshEpoch, AttemptId);

impl RolloutId {
    /// Wraps 16 bytes as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(uuid::Uuid::from_bytes(bytes))
    }

    /// The 16 bytes, as they stand in signed statements.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl FleetEpoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// What a peer of the mesh is, and so which services it may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A node with a vote: takes part in Raft and in ballots.
    Voter,
    /// A node without a vote.
    Node,
    /// A controller: reads the committed log and submits signed things.
    Controller,
    /// A guest of one mesh room.
    RoomGuest,
}

impl Role {
    /// Every role, for tables and tests.
    pub const ALL: [Role; 4] = [Role::Voter, Role::Node, Role::Controller, Role::RoomGuest];

    /// The stable text of the role.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Voter => "voter",
            Role::Node => "node",
            Role::Controller => "controller",
            Role::RoomGuest => "room_guest",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Role {
    type Err = UnknownRole;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Role::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| UnknownRole(text.chars().take(40).collect()))
    }
}

/// A role name that is none of [`Role::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown role {0:?}; roles are voter, node, controller, room_guest")]
pub struct UnknownRole(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_ids_round_trip_and_refuse_other_lengths_and_case() {
        let id = NodeId::from_bytes([0xab; 32]);
        assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
        assert!("ab".parse::<NodeId>().is_err());
        assert!(id.to_string().to_uppercase().parse::<NodeId>().is_err());
        assert!(NodeId::try_from(&[0u8; 31][..]).is_err());
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), id);
    }

    #[test]
    fn every_role_parses_back() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse::<Role>(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
    }
}
