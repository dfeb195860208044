//! The command: which body it carries.

use osmoda_types::command::{Body, Command};
use osmoda_types::{MeshEpoch, NodeId, RaftId};

use super::{ConvertError, id, required, rollout_id};
use crate::fleet::v1 as pb;
use pb::command::Body as Wire;

impl From<&Command> for pb::Command {
    fn from(command: &Command) -> Self {
        Self { request: command.request.as_bytes().to_vec(), body: Some((&command.body).into()) }
    }
}

impl TryFrom<pb::Command> for Command {
    type Error = ConvertError;
    fn try_from(wire: pb::Command) -> Result<Self, ConvertError> {
        Ok(Self {
            request: id("command.request", &wire.request)?,
            body: required("command.body", wire.body)?.try_into()?,
        })
    }
}

impl From<&Body> for Wire {
    fn from(body: &Body) -> Self {
        let bytes = |node: &NodeId| node.as_bytes().to_vec();
        match body {
            Body::Genesis(genesis) => Self::Genesis(genesis.into()),
            Body::OpenInvite(invite) => Self::OpenInvite(invite.into()),
            Body::ExpireInvite(invite) => Self::ExpireInvite(pb::ExpireInvite { invite: invite.as_bytes().to_vec() }),
            Body::SpendInvite(spend) => Self::SpendInvite(spend.into()),
            Body::UpdateAddresses { node, addresses } => {
                Self::UpdateAddresses(pb::UpdateAddresses { node: bytes(node), addresses: addresses.clone() })
            }
            Body::RegisterSubkey(subkey) => Self::RegisterSubkey(subkey.into()),
            Body::RegisterVoter { node, raft_id } => {
                Self::RegisterVoter(pb::RegisterVoter { node: bytes(node), raft_id: raft_id.0 })
            }
            Body::Propose(proposal) => Self::Propose(proposal.as_ref().into()),
            Body::Ballot(ballot) => Self::Ballot(ballot.into()),
            Body::Staged(staged) => Self::Staged(staged.into()),
            Body::OpenWave(open) => Self::OpenWave(open.into()),
            Body::Grant(grant) => Self::Grant(grant.into()),
            Body::Accept(of) => Self::Accept(of.into()),
            Body::Report(report) => Self::Report(report.into()),
            Body::Deadline(deadline) => Self::Deadline(deadline.into()),
            Body::HoldQuorumLost { rollout } => {
                Self::HoldQuorumLost(pb::OfRollout { rollout: rollout.as_bytes().to_vec() })
            }
            Body::Control(signed) => Self::Control(signed.into()),
            Body::LedgerHead(head) => Self::LedgerHead(head.into()),
            Body::RotateEpoch { epoch, secret_hash } => {
                Self::RotateEpoch(pb::RotateEpoch { epoch: epoch.0, secret_hash: secret_hash.as_bytes().to_vec() })
            }
            Body::RotateKeys(succession) => Self::RotateKeys(succession.into()),
        }
    }
}

impl TryFrom<Wire> for Body {
    type Error = ConvertError;
    fn try_from(wire: Wire) -> Result<Self, ConvertError> {
        Ok(match wire {
            Wire::Genesis(wire) => Self::Genesis(wire.try_into()?),
            Wire::OpenInvite(wire) => Self::OpenInvite(wire.try_into()?),
            Wire::ExpireInvite(wire) => Self::ExpireInvite(id("expire_invite.invite", &wire.invite)?),
            Wire::SpendInvite(wire) => Self::SpendInvite(wire.try_into()?),
            Wire::UpdateAddresses(wire) => {
                Self::UpdateAddresses { node: id("update_addresses.node", &wire.node)?, addresses: wire.addresses }
            }
            Wire::RegisterSubkey(wire) => Self::RegisterSubkey(wire.try_into()?),
            Wire::RegisterVoter(wire) => {
                Self::RegisterVoter { node: id("register_voter.node", &wire.node)?, raft_id: RaftId(wire.raft_id) }
            }
            Wire::Propose(wire) => Self::Propose(Box::new(wire.try_into()?)),
            Wire::Ballot(wire) => Self::Ballot(wire.try_into()?),
            Wire::Staged(wire) => Self::Staged(wire.try_into()?),
            Wire::OpenWave(wire) => Self::OpenWave(wire.try_into()?),
            Wire::Grant(wire) => Self::Grant(wire.try_into()?),
            Wire::Accept(wire) => Self::Accept(wire.try_into()?),
            Wire::Report(wire) => Self::Report(wire.try_into()?),
            Wire::Deadline(wire) => Self::Deadline(wire.try_into()?),
            Wire::HoldQuorumLost(wire) => {
                Self::HoldQuorumLost { rollout: rollout_id("hold_quorum_lost.rollout", &wire.rollout)? }
            }
            Wire::Control(wire) => Self::Control(wire.try_into()?),
            Wire::LedgerHead(wire) => Self::LedgerHead(wire.try_into()?),
            Wire::RotateEpoch(wire) => Self::RotateEpoch {
                epoch: MeshEpoch(wire.epoch),
                secret_hash: id("rotate_epoch.secret_hash", &wire.secret_hash)?,
            },
            Wire::RotateKeys(wire) => Self::RotateKeys(wire.try_into()?),
        })
    }
}
