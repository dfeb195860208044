//! The state as bytes (`osmoda.fleet.v1.State`, version 1).
//!
//! Invariant: decoding what was encoded gives the same state, and one state has
//! one encoding, so that its hash can be compared between nodes.

mod rollout;

use std::collections::BTreeMap;

use osmoda_proto::ConvertError;
use osmoda_proto::fleet::v1 as pb;
use osmoda_types::{
    ErrorCode, FleetEpoch, InviteId, MeshEpoch, MeshKey, NetworkId, NodeId, PublicKey, RaftId, RequestId, RolloutId,
    SecretHash, StorePath,
};
use prost::Message as _;
use sha2::Digest as _;

use crate::outcome::Reply;
use crate::state::{
    Denied, FleetState, Freeze, InviteEntry, InviteState, MemberEntry, PrincipalEntry, Revoked, SpentKeys,
};

/// The only format there is.
const VERSION: u32 = 1;

/// Why a snapshot is refused.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is no protobuf of this kind.
    #[error("the snapshot is no message")]
    Wire(#[source] prost::DecodeError),
    /// It was written by another version.
    #[error("the snapshot has version {0}; this program reads version 1")]
    Version(u32),
    /// A part of it is invalid.
    #[error("the snapshot has an invalid command part")]
    Part(#[source] ConvertError),
    /// A field of it is invalid.
    #[error("the snapshot's field {0} is invalid")]
    Field(&'static str),
}

impl SnapshotError {
    /// The code for programs.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::RaftLogCorrupt
    }
}

impl From<ConvertError> for SnapshotError {
    fn from(error: ConvertError) -> Self {
        Self::Part(error)
    }
}

/// Reads a fixed-size identifier.
fn id<T: for<'a> TryFrom<&'a [u8]>>(field: &'static str, bytes: &[u8]) -> Result<T, SnapshotError> {
    T::try_from(bytes).map_err(|_| SnapshotError::Field(field))
}

fn rollout_id(field: &'static str, bytes: &[u8]) -> Result<RolloutId, SnapshotError> {
    bytes.try_into().map(RolloutId::from_bytes).map_err(|_| SnapshotError::Field(field))
}

fn path(field: &'static str, text: String) -> Result<StorePath, SnapshotError> {
    StorePath::new(text).map_err(|_| SnapshotError::Field(field))
}

fn required<T>(field: &'static str, value: Option<T>) -> Result<T, SnapshotError> {
    value.ok_or(SnapshotError::Field(field))
}

/// Reads an identifier that may be empty.
fn optional_id<T: for<'a> TryFrom<&'a [u8]>>(field: &'static str, bytes: &[u8]) -> Result<Option<T>, SnapshotError> {
    if bytes.is_empty() { Ok(None) } else { id(field, bytes).map(Some) }
}

impl FleetState {
    /// Encodes the whole state.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        pb::State {
            version: VERSION,
            last_index: self.last_index,
            position: u32::from(self.position),
            epoch: self.epoch.0,
            state_epochs: self.state_epochs,
            network: self.network.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
            mesh_epoch: self.mesh_epoch.0,
            secret_hash: self.secret_hash.map(|hash| hash.as_bytes().to_vec()).unwrap_or_default(),
            members_index: self.members_index,
            members: self.members.values().map(encode_member).collect(),
            principals: self.principals.values().map(encode_principal).collect(),
            invites: self.invites.values().map(encode_invite).collect(),
            subkeys: self.subkeys.values().map(Into::into).collect(),
            voters: self.voters.iter().map(encode_voter).collect(),
            used_raft_ids: self.used_raft_ids.iter().map(|raft_id| raft_id.0).collect(),
            freezes: self.freezes.iter().map(encode_freeze).collect(),
            denied: self.denied.iter().map(encode_denied).collect(),
            rollouts: self.rollouts.values().map(Into::into).collect(),
            ledger_heads: self.ledger_heads.values().map(Into::into).collect(),
            answers: self.answers.iter().filter_map(|request| self.encode_answer(request)).collect(),
            revoked: self.revoked.iter().map(encode_revoked).collect(),
            rotation_due: self.rotation_due,
            spent_keys: self.spent_keys.iter().map(encode_spent).collect(),
        }
        .encode_to_vec()
    }

    /// Decodes and checks a whole state.
    ///
    /// # Errors
    /// [`SnapshotError`] when the bytes are damaged or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let wire = pb::State::decode(bytes).map_err(SnapshotError::Wire)?;
        if wire.version != VERSION {
            return Err(SnapshotError::Version(wire.version));
        }
        let answered = wire.answers.into_iter().map(decode_answer).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            last_index: wire.last_index,
            position: u16::try_from(wire.position).map_err(|_| SnapshotError::Field("position"))?,
            epoch: FleetEpoch(wire.epoch),
            state_epochs: wire.state_epochs,
            network: optional_id::<NetworkId>("network", &wire.network)?,
            mesh_epoch: MeshEpoch(wire.mesh_epoch),
            secret_hash: optional_id::<SecretHash>("secret_hash", &wire.secret_hash)?,
            members_index: wire.members_index,
            members: collect(wire.members, decode_member)?,
            principals: collect(wire.principals, decode_principal)?,
            invites: collect(wire.invites, decode_invite)?,
            subkeys: collect(wire.subkeys, |subkey| {
                let subkey = osmoda_types::Subkey::try_from(subkey)?;
                Ok(((subkey.node, subkey.purpose), subkey))
            })?,
            voters: collect(wire.voters, |voter| Ok((id("voters.node", &voter.node)?, RaftId(voter.raft_id))))?,
            used_raft_ids: wire.used_raft_ids.into_iter().map(RaftId).collect(),
            freezes: collect(wire.freezes, |freeze| {
                let key = id::<PublicKey>("freezes.key", &freeze.key)?;
                Ok((freeze.scope, Freeze { key, index: freeze.index }))
            })?,
            denied: collect(wire.denied, |denied| {
                let rollout = rollout_id("denied.rollout", &denied.rollout)?;
                Ok((path("denied.target", denied.target)?, Denied { rollout, index: denied.index }))
            })?,
            rollouts: collect(wire.rollouts, |rollout| {
                let rollout = crate::rollout::Rollout::try_from(rollout)?;
                Ok((rollout.id, rollout))
            })?,
            ledger_heads: collect(signed(wire.ledger_heads), |head| {
                let head = osmoda_types::command::LedgerHead::try_from(head)?;
                Ok((head.node, head))
            })?,
            answers: answered.iter().map(|(request, _)| *request).collect(),
            answered: answered.into_iter().collect(),
            revoked: collect(wire.revoked, decode_revoked)?,
            rotation_due: wire.rotation_due,
            spent_keys: collect(wire.spent_keys, decode_spent)?,
        })
    }

    /// SHA-256 of the encoded state, for comparing nodes at the same index.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        sha2::Sha256::digest(self.encode()).into()
    }

    fn encode_answer(&self, request: &RequestId) -> Option<pb::StateAnswer> {
        let reply = self.answered.get(request)?;
        Some(pb::StateAnswer { request: request.as_bytes().to_vec(), reply: Some(reply.into()) })
    }
}

/// Heads that were stored before they were signed say nothing: `apply` takes none
/// of them from the log either.
fn signed(heads: Vec<pb::LedgerHead>) -> Vec<pb::LedgerHead> {
    heads.into_iter().filter(|head| !head.signature.is_empty()).collect()
}

/// Decodes a list into a map; a key given twice is an error.
fn collect<W, K: Ord, V>(
    wire: Vec<W>,
    decode: impl Fn(W) -> Result<(K, V), SnapshotError>,
) -> Result<BTreeMap<K, V>, SnapshotError> {
    let mut map = BTreeMap::new();
    for item in wire {
        let (key, value) = decode(item)?;
        if map.insert(key, value).is_some() {
            return Err(SnapshotError::Field("a key that is there twice"));
        }
    }
    Ok(map)
}

fn encode_member(entry: &MemberEntry) -> pb::StateMember {
    pb::StateMember { member: Some((&entry.member).into()), joined_index: entry.joined_index }
}

fn decode_member(wire: pb::StateMember) -> Result<(NodeId, MemberEntry), SnapshotError> {
    let member = osmoda_types::Member::try_from(required("members.member", wire.member)?)?;
    Ok((member.node, MemberEntry { member, joined_index: wire.joined_index }))
}

fn encode_principal(entry: &PrincipalEntry) -> pb::StatePrincipal {
    let order = entry.order.as_ref().map(Into::into);
    pb::StatePrincipal { principal: Some((&entry.principal).into()), serial: entry.serial, order }
}

fn decode_principal(wire: pb::StatePrincipal) -> Result<(PublicKey, PrincipalEntry), SnapshotError> {
    let principal = osmoda_types::Principal::try_from(required("principals.principal", wire.principal)?)?;
    let order = wire.order.map(osmoda_types::command::SignedOrder::try_from).transpose()?;
    Ok((principal.key, PrincipalEntry { principal, serial: wire.serial, order }))
}

fn encode_invite(entry: &InviteEntry) -> pb::StateInvite {
    let (state, joiner, node) = match &entry.state {
        InviteState::Open => ("open", Vec::new(), Vec::new()),
        InviteState::Expired => ("expired", Vec::new(), Vec::new()),
        InviteState::Spent { joiner, node } => ("spent", joiner.as_bytes().to_vec(), node.as_bytes().to_vec()),
    };
    pb::StateInvite { invite: Some((&entry.invite).into()), state: state.to_owned(), joiner, node }
}

fn decode_invite(wire: pb::StateInvite) -> Result<(InviteId, InviteEntry), SnapshotError> {
    let invite = osmoda_types::Invite::try_from(required("invites.invite", wire.invite)?)?;
    let state = match wire.state.as_str() {
        "open" => InviteState::Open,
        "expired" => InviteState::Expired,
        "spent" => InviteState::Spent {
            joiner: id::<MeshKey>("invites.joiner", &wire.joiner)?,
            node: id::<NodeId>("invites.node", &wire.node)?,
        },
        _ => return Err(SnapshotError::Field("invites.state")),
    };
    Ok((invite.id, InviteEntry { invite, state }))
}

fn encode_voter((node, raft_id): (&NodeId, &RaftId)) -> pb::StateVoter {
    pb::StateVoter { node: node.as_bytes().to_vec(), raft_id: raft_id.0 }
}

fn encode_freeze((scope, freeze): (&String, &Freeze)) -> pb::StateFreeze {
    pb::StateFreeze { scope: scope.clone(), key: freeze.key.as_bytes().to_vec(), index: freeze.index }
}

fn encode_denied((target, denied): (&StorePath, &Denied)) -> pb::StateDenied {
    let rollout = denied.rollout.as_bytes().to_vec();
    pb::StateDenied { target: target.to_string(), rollout, index: denied.index }
}

fn encode_revoked((node, revoked): (&NodeId, &Revoked)) -> pb::StateRevoked {
    pb::StateRevoked {
        node: node.as_bytes().to_vec(),
        mesh_key: revoked.mesh_key.as_bytes().to_vec(),
        identity_key: revoked.identity_key.as_bytes().to_vec(),
        name: revoked.name.clone(),
        index: revoked.index,
    }
}

fn decode_revoked(wire: pb::StateRevoked) -> Result<(NodeId, Revoked), SnapshotError> {
    let revoked = Revoked {
        mesh_key: id("revoked.mesh_key", &wire.mesh_key)?,
        identity_key: id("revoked.identity_key", &wire.identity_key)?,
        name: wire.name,
        index: wire.index,
    };
    Ok((id("revoked.node", &wire.node)?, revoked))
}

fn encode_spent((mesh_key, spent): (&MeshKey, &SpentKeys)) -> pb::StateSpentKeys {
    pb::StateSpentKeys {
        mesh_key: mesh_key.as_bytes().to_vec(),
        identity_key: spent.identity_key.as_bytes().to_vec(),
        node: spent.node.as_bytes().to_vec(),
        index: spent.index,
    }
}

fn decode_spent(wire: pb::StateSpentKeys) -> Result<(MeshKey, SpentKeys), SnapshotError> {
    let spent = SpentKeys {
        identity_key: id("spent_keys.identity_key", &wire.identity_key)?,
        node: id("spent_keys.node", &wire.node)?,
        index: wire.index,
    };
    Ok((id("spent_keys.mesh_key", &wire.mesh_key)?, spent))
}

fn decode_answer(wire: pb::StateAnswer) -> Result<(RequestId, Reply), SnapshotError> {
    let reply = required("answers.reply", wire.reply)?;
    let reply = Reply::try_from(reply).map_err(|_| SnapshotError::Field("answers.reply"))?;
    Ok((id("answers.request", &wire.request)?, reply))
}
