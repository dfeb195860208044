//! The replicated state: all that the log says, and nothing else.
//!
//! Invariant: the same entries give the same state on every voter, on the
//! controller and in a test. So: ordered maps, integers, no clock, no random
//! numbers, and every list has a bound. The only way in is `apply` (or a
//! snapshot of a state that came from it).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use osmoda_types::command::{LedgerHead, SignedOrder};
use osmoda_types::{
    FleetEpoch, Invite, InviteId, Member, MeshEpoch, MeshKey, NetworkId, NodeId, Principal, PublicKey, Purpose, RaftId,
    RequestId, RolloutId, SecretHash, StorePath, Subkey,
};

use crate::outcome::Reply;
use crate::rollout::Rollout;

/// How many answers are remembered. A submitter retries within seconds; at the
/// most this is the traffic of a 10,000-node rollout several times over.
pub(crate) const ANSWERS_MAX: usize = 4096;
/// How many ended rollouts are kept for people to look at.
pub(crate) const ENDED_ROLLOUTS_MAX: usize = 32;
/// How many rejected targets are remembered: ten full rollouts of 10,000 nodes.
pub(crate) const DENIED_MAX: usize = 100_000;
/// How many members a fleet has: 10,000 nodes (`rollout.md` 5.6) and controllers.
pub(crate) const MEMBERS_MAX: usize = 10_100;
/// How many ended invites are remembered, so that a second use is told apart.
pub(crate) const ENDED_INVITES_MAX: usize = 4096;

/// How many replaced pairs of keys are remembered: every member four times over,
/// which is a change a year for as long as a host lives. The oldest are forgotten
/// then; whoever still holds one needs a new invite to use it.
pub(crate) const SPENT_KEYS_MAX: usize = 4 * MEMBERS_MAX;

/// How many revoked members are remembered: every member twice over. The oldest
/// are forgotten then; a forgotten one still needs a new invite to come back.
pub(crate) const REVOKED_MAX: usize = 2 * MEMBERS_MAX;

/// The replicated state of a fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetState {
    pub(crate) last_index: u64,
    pub(crate) position: u16,
    pub(crate) epoch: FleetEpoch,
    pub(crate) state_epochs: u64,
    pub(crate) network: Option<NetworkId>,
    pub(crate) mesh_epoch: MeshEpoch,
    pub(crate) secret_hash: Option<SecretHash>,
    pub(crate) members_index: u64,
    pub(crate) members: BTreeMap<NodeId, MemberEntry>,
    pub(crate) principals: BTreeMap<PublicKey, PrincipalEntry>,
    pub(crate) invites: BTreeMap<InviteId, InviteEntry>,
    pub(crate) subkeys: BTreeMap<(NodeId, Purpose), Subkey>,
    pub(crate) voters: BTreeMap<NodeId, RaftId>,
    pub(crate) used_raft_ids: BTreeSet<RaftId>,
    pub(crate) freezes: BTreeMap<String, Freeze>,
    pub(crate) denied: BTreeMap<StorePath, Denied>,
    pub(crate) rollouts: BTreeMap<RolloutId, Rollout>,
    pub(crate) ledger_heads: BTreeMap<NodeId, LedgerHead>,
    pub(crate) answers: VecDeque<RequestId>,
    pub(crate) answered: BTreeMap<RequestId, Reply>,
    pub(crate) revoked: BTreeMap<NodeId, Revoked>,
    /// A member was revoked that knows the secret of the epoch in force.
    pub(crate) rotation_due: bool,
    /// Keys that were replaced, by transport key.
    pub(crate) spent_keys: BTreeMap<MeshKey, SpentKeys>,
}

/// A member and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberEntry {
    /// The member.
    pub member: Member,
    /// Index of the entry that admitted it.
    pub joined_index: u64,
}

/// A member that was removed for good: the keys, because those are what must
/// never be admitted again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Its transport key.
    pub mesh_key: MeshKey,
    /// Its identity key.
    pub identity_key: PublicKey,
    /// Its name of then; the name is free again.
    pub name: String,
    /// Index of the order.
    pub index: u64,
}

/// What is remembered of a transport key that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpentKeys {
    /// The identity key that was replaced with it.
    pub identity_key: PublicKey,
    /// Whose they were.
    pub node: NodeId,
    /// Index of the change.
    pub index: u64,
}

/// A principal and its last serial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalEntry {
    /// The principal.
    pub principal: Principal,
    /// The serial of its last order; the next one is greater.
    pub serial: u64,
    /// The signed order that set it, which every host checks again; none for a
    /// principal of the genesis.
    pub order: Option<SignedOrder>,
}

/// An invite and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteEntry {
    /// The invite.
    pub invite: Invite,
    /// What became of it.
    pub state: InviteState,
}

/// What became of an invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InviteState {
    /// It can be used.
    Open,
    /// It was used by this key.
    Spent {
        /// The joiner's key.
        joiner: MeshKey,
        /// The joiner.
        node: NodeId,
    },
    /// Its time was over.
    Expired,
}

/// Who froze a scope, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freeze {
    /// The operator.
    pub key: PublicKey,
    /// Index of the order.
    pub index: u64,
}

/// Which rollout rejected a target, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// The rollout.
    pub rollout: RolloutId,
    /// Index of its verdict.
    pub index: u64,
}

impl FleetState {
    /// The state before the first entry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Index of the last entry with a command.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// The fleet, once begun.
    #[must_use]
    pub fn network(&self) -> Option<NetworkId> {
        self.network
    }

    /// How many proposals were accepted; the parent of the next one.
    #[must_use]
    pub fn epoch(&self) -> FleetEpoch {
        self.epoch
    }

    /// The mesh epoch in force and the hash of its secret.
    #[must_use]
    pub fn mesh_epoch(&self) -> (MeshEpoch, Option<SecretHash>) {
        (self.mesh_epoch, self.secret_hash)
    }

    /// Whether the mesh needs a new epoch: a revoked member knows the secret of
    /// the one in force.
    #[must_use]
    pub fn rotation_due(&self) -> bool {
        self.rotation_due
    }

    /// Members that were removed for good.
    pub fn revoked(&self) -> impl Iterator<Item = (&NodeId, &Revoked)> {
        self.revoked.iter()
    }

    /// Keys that members had before, by transport key.
    pub fn spent_keys(&self) -> impl Iterator<Item = (&MeshKey, &SpentKeys)> {
        self.spent_keys.iter()
    }

    /// Index of the last change of members or of the mesh epoch; names a version of the allow-list.
    #[must_use]
    pub fn members_index(&self) -> u64 {
        self.members_index
    }

    /// Every member.
    pub fn members(&self) -> impl Iterator<Item = &MemberEntry> {
        self.members.values()
    }

    /// One member.
    #[must_use]
    pub fn member(&self, node: &NodeId) -> Option<&MemberEntry> {
        self.members.get(node)
    }

    /// Every principal.
    pub fn principals(&self) -> impl Iterator<Item = &PrincipalEntry> {
        self.principals.values()
    }

    /// One invite.
    #[must_use]
    pub fn invite(&self, id: &InviteId) -> Option<&InviteEntry> {
        self.invites.get(id)
    }

    /// Every invite that is remembered.
    pub fn invites(&self) -> impl Iterator<Item = &InviteEntry> {
        self.invites.values()
    }

    /// A daemon's endorsed key.
    #[must_use]
    pub fn subkey(&self, node: NodeId, purpose: Purpose) -> Option<&Subkey> {
        self.subkeys.get(&(node, purpose))
    }

    /// Every elector with its Raft id.
    pub fn voters(&self) -> impl Iterator<Item = (&NodeId, &RaftId)> {
        self.voters.iter()
    }

    /// The elector with that Raft id.
    #[must_use]
    pub fn voter_by_raft_id(&self, raft_id: RaftId) -> Option<NodeId> {
        self.voters.iter().find(|(_, id)| **id == raft_id).map(|(node, _)| *node)
    }

    /// Every frozen scope.
    pub fn freezes(&self) -> impl Iterator<Item = (&str, &Freeze)> {
        self.freezes.iter().map(|(scope, freeze)| (scope.as_str(), freeze))
    }

    /// Why a target may not be deployed, if it may not.
    #[must_use]
    pub fn denied(&self, target: &StorePath) -> Option<&Denied> {
        self.denied.get(target)
    }

    /// Every rejected target.
    pub fn deny_list(&self) -> impl Iterator<Item = (&StorePath, &Denied)> {
        self.denied.iter()
    }

    /// One rollout.
    #[must_use]
    pub fn rollout(&self, id: &RolloutId) -> Option<&Rollout> {
        self.rollouts.get(id)
    }

    /// Every rollout that is remembered.
    pub fn rollouts(&self) -> impl Iterator<Item = &Rollout> {
        self.rollouts.values()
    }

    /// Every rollout that has not ended.
    pub fn active(&self) -> impl Iterator<Item = &Rollout> {
        self.rollouts.values().filter(|rollout| !rollout.phase.is_terminal())
    }

    /// The last known head of a node's ledger.
    #[must_use]
    pub fn ledger_head(&self, node: &NodeId) -> Option<&LedgerHead> {
        self.ledger_heads.get(node)
    }

    /// Every known head.
    pub fn ledger_heads(&self) -> impl Iterator<Item = &LedgerHead> {
        self.ledger_heads.values()
    }

    /// The answer to a request, if it was answered lately.
    #[must_use]
    pub fn answer(&self, request: &RequestId) -> Option<&Reply> {
        self.answered.get(request)
    }

    /// Whether a freeze covers the scope.
    #[must_use]
    pub fn is_frozen(&self, scope: &str) -> bool {
        self.freezes.contains_key(scope) || self.freezes.contains_key("*")
    }

    /// Whether another rollout still has a hold on the node: it is in flight or
    /// lost there, or has to return from there.
    #[must_use]
    pub(crate) fn is_held_elsewhere(&self, node: &NodeId, here: &RolloutId) -> bool {
        self.rollouts.values().filter(|rollout| rollout.id != *here).any(|rollout| {
            rollout
                .rows
                .get(node)
                .is_some_and(|row| row.state.is_charged() || (rollout.phase.is_undoing() && row.must_return()))
        })
    }

    /// Voters at risk in any rollout (I11).
    pub(crate) fn voters_charged(&self) -> usize {
        let charged = |node: &NodeId| {
            self.rollouts.values().any(|rollout| rollout.rows.get(node).is_some_and(|row| row.state.is_charged()))
        };
        self.voters.keys().filter(|node| charged(node)).count()
    }
}
