//! Members, principals, subkeys and invites.

use osmoda_types::command::{Genesis, LedgerHead, SpendInvite};
use osmoda_types::{Invite, Member, MeshEpoch, Principal, Purpose, Right, Role, Subkey, Succession};

use super::{ConvertError, id, required};
use crate::fleet::v1 as pb;

impl From<Role> for pb::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Voter => Self::Voter,
            Role::Node => Self::Node,
            Role::Controller => Self::Controller,
            Role::RoomGuest => Self::RoomGuest,
        }
    }
}

/// Reads a role's number.
pub(crate) fn role(field: &'static str, number: i32) -> Result<Role, ConvertError> {
    match pb::Role::try_from(number) {
        Ok(pb::Role::Voter) => Ok(Role::Voter),
        Ok(pb::Role::Node) => Ok(Role::Node),
        Ok(pb::Role::Controller) => Ok(Role::Controller),
        Ok(pb::Role::RoomGuest) => Ok(Role::RoomGuest),
        Ok(pb::Role::Unspecified) | Err(_) => Err(ConvertError::unknown(field, number)),
    }
}

impl TryFrom<pb::Role> for Role {
    type Error = ConvertError;
    fn try_from(wire: pb::Role) -> Result<Self, ConvertError> {
        role("role", wire.into())
    }
}

impl From<&Principal> for pb::Principal {
    fn from(principal: &Principal) -> Self {
        Self {
            name: principal.name.clone(),
            key: principal.key.as_bytes().to_vec(),
            rights: principal.rights.iter().map(|right| u32::from(right.number())).collect(),
        }
    }
}

impl TryFrom<pb::Principal> for Principal {
    type Error = ConvertError;
    fn try_from(wire: pb::Principal) -> Result<Self, ConvertError> {
        let right = |number: u32| {
            let right = u8::try_from(number).ok().and_then(Right::from_number);
            right.ok_or_else(|| ConvertError::unknown("principal.rights", number))
        };
        Ok(Self {
            key: id("principal.key", &wire.key)?,
            rights: wire.rights.into_iter().map(right).collect::<Result<_, _>>()?,
            name: wire.name,
        })
    }
}

impl From<&Member> for pb::Member {
    fn from(member: &Member) -> Self {
        Self {
            node: member.node.as_bytes().to_vec(),
            name: member.name.clone(),
            role: pb::Role::from(member.role).into(),
            mesh_key: member.mesh_key.as_bytes().to_vec(),
            identity_key: member.identity_key.as_bytes().to_vec(),
            addresses: member.addresses.clone(),
        }
    }
}

impl TryFrom<pb::Member> for Member {
    type Error = ConvertError;
    fn try_from(wire: pb::Member) -> Result<Self, ConvertError> {
        Ok(Self {
            node: id("member.node", &wire.node)?,
            name: wire.name,
            role: role("member.role", wire.role)?,
            mesh_key: id("member.mesh_key", &wire.mesh_key)?,
            identity_key: id("member.identity_key", &wire.identity_key)?,
            addresses: wire.addresses,
        })
    }
}

impl From<&Subkey> for pb::Subkey {
    fn from(subkey: &Subkey) -> Self {
        let purpose = match subkey.purpose {
            Purpose::Ledger => pb::Purpose::Ledger,
            Purpose::Ballot => pb::Purpose::Ballot,
        };
        Self {
            node: subkey.node.as_bytes().to_vec(),
            purpose: purpose.into(),
            key: subkey.key.as_bytes().to_vec(),
            epoch: subkey.epoch.0,
            endorsement: subkey.endorsement.as_bytes().to_vec(),
        }
    }
}

impl TryFrom<pb::Subkey> for Subkey {
    type Error = ConvertError;
    fn try_from(wire: pb::Subkey) -> Result<Self, ConvertError> {
        let purpose = match pb::Purpose::try_from(wire.purpose) {
            Ok(pb::Purpose::Ledger) => Purpose::Ledger,
            Ok(pb::Purpose::Ballot) => Purpose::Ballot,
            Ok(pb::Purpose::Unspecified) | Err(_) => {
                return Err(ConvertError::unknown("subkey.purpose", wire.purpose));
            }
        };
        Ok(Self {
            node: id("subkey.node", &wire.node)?,
            purpose,
            key: id("subkey.key", &wire.key)?,
            epoch: MeshEpoch(wire.epoch),
            endorsement: id("subkey.endorsement", &wire.endorsement)?,
        })
    }
}

impl From<&Succession> for pb::Succession {
    fn from(succession: &Succession) -> Self {
        Self {
            node: succession.node.as_bytes().to_vec(),
            mesh_key: succession.mesh_key.as_bytes().to_vec(),
            identity_key: succession.identity_key.as_bytes().to_vec(),
            by_old: succession.by_old.as_bytes().to_vec(),
            by_new: succession.by_new.as_bytes().to_vec(),
        }
    }
}

impl TryFrom<pb::Succession> for Succession {
    type Error = ConvertError;
    fn try_from(wire: pb::Succession) -> Result<Self, ConvertError> {
        Ok(Self {
            node: id("succession.node", &wire.node)?,
            mesh_key: id("succession.mesh_key", &wire.mesh_key)?,
            identity_key: id("succession.identity_key", &wire.identity_key)?,
            by_old: id("succession.by_old", &wire.by_old)?,
            by_new: id("succession.by_new", &wire.by_new)?,
        })
    }
}

impl From<&Invite> for pb::Invite {
    fn from(invite: &Invite) -> Self {
        Self {
            id: invite.id.as_bytes().to_vec(),
            role: pb::Role::from(invite.role).into(),
            expires_ms: invite.expires_ms,
            issuer: invite.issuer.as_bytes().to_vec(),
        }
    }
}

impl TryFrom<pb::Invite> for Invite {
    type Error = ConvertError;
    fn try_from(wire: pb::Invite) -> Result<Self, ConvertError> {
        Ok(Self {
            id: id("invite.id", &wire.id)?,
            role: role("invite.role", wire.role)?,
            expires_ms: wire.expires_ms,
            issuer: id("invite.issuer", &wire.issuer)?,
        })
    }
}

impl From<&Genesis> for pb::Genesis {
    fn from(genesis: &Genesis) -> Self {
        Self {
            network: genesis.network.as_bytes().to_vec(),
            mesh_epoch: genesis.mesh_epoch.0,
            secret_hash: genesis.secret_hash.as_bytes().to_vec(),
            principals: genesis.principals.iter().map(Into::into).collect(),
            member: Some((&genesis.member).into()),
        }
    }
}

impl TryFrom<pb::Genesis> for Genesis {
    type Error = ConvertError;
    fn try_from(wire: pb::Genesis) -> Result<Self, ConvertError> {
        Ok(Self {
            network: id("genesis.network", &wire.network)?,
            mesh_epoch: MeshEpoch(wire.mesh_epoch),
            secret_hash: id("genesis.secret_hash", &wire.secret_hash)?,
            principals: wire.principals.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            member: required("genesis.member", wire.member)?.try_into()?,
        })
    }
}

impl From<&SpendInvite> for pb::SpendInvite {
    fn from(spend: &SpendInvite) -> Self {
        Self {
            network: spend.network.as_bytes().to_vec(),
            invite: spend.invite.as_bytes().to_vec(),
            member: Some((&spend.member).into()),
            at_ms: spend.at_ms,
        }
    }
}

impl TryFrom<pb::SpendInvite> for SpendInvite {
    type Error = ConvertError;
    fn try_from(wire: pb::SpendInvite) -> Result<Self, ConvertError> {
        Ok(Self {
            network: id("spend_invite.network", &wire.network)?,
            invite: id("spend_invite.invite", &wire.invite)?,
            member: required("spend_invite.member", wire.member)?.try_into()?,
            at_ms: wire.at_ms,
        })
    }
}

impl From<&LedgerHead> for pb::LedgerHead {
    fn from(head: &LedgerHead) -> Self {
        Self {
            node: head.node.as_bytes().to_vec(),
            size: head.size,
            hash: head.hash.as_bytes().to_vec(),
            root: head.root.as_bytes().to_vec(),
            signature: head.signature.as_bytes().to_vec(),
        }
    }
}

impl TryFrom<pb::LedgerHead> for LedgerHead {
    type Error = ConvertError;
    fn try_from(wire: pb::LedgerHead) -> Result<Self, ConvertError> {
        Ok(Self {
            node: id("ledger_head.node", &wire.node)?,
            size: wire.size,
            hash: id("ledger_head.hash", &wire.hash)?,
            root: id("ledger_head.root", or_zeros(&wire.root, &[0; 32]))?,
            signature: id("ledger_head.signature", or_zeros(&wire.signature, &[0; 64]))?,
        })
    }
}

/// A field that entries of before do not have: zeros, which verify nothing.
fn or_zeros<'a>(bytes: &'a [u8], zeros: &'a [u8]) -> &'a [u8] {
    if bytes.is_empty() { zeros } else { bytes }
}
