//! What can be written to the log. Each command is a request or a fact; whether
//! it takes effect is decided by `apply` of `osmoda-rollout`, nowhere else.

use crate::code::ErrorCode;
use crate::ids::{
    AttemptId, FleetEpoch, InviteId, LedgerHash, ManifestHash, MeshEpoch, NetworkId, NodeId, PublicKey, RaftId,
    RequestId, RolloutId, SecretHash, Signature,
};
use crate::manifest::Manifest;
use crate::member::{Invite, Member, Subkey, Succession};
use crate::policy::Policy;
use crate::principal::{Principal, Right};
use crate::statement::Vote;
use crate::store_path::StorePath;

/// Most nodes of one grant: a batch of reports is as large (`rollout.md` 5.3).
pub const GRANT_NODES_MAX: usize = 256;

/// One command with the id that makes repeating it harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Chosen by the submitter; a repeat gets the first answer again.
    pub request: RequestId,
    /// What is asked or reported.
    pub body: Body,
}

/// What is asked or reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Begins a fleet; only the first command of a log.
    Genesis(Genesis),
    /// Announces an invite.
    OpenInvite(Invite),
    /// Ends an invite whose time is over.
    ExpireInvite(InviteId),
    /// Admits a joiner. Idempotent on (invite, mesh key).
    SpendInvite(SpendInvite),
    /// A member moved.
    UpdateAddresses {
        /// Who.
        node: NodeId,
        /// Where it is now.
        addresses: Vec<String>,
    },
    /// Makes a daemon's own key known.
    RegisterSubkey(Subkey),
    /// Makes a member an elector and binds its Raft id.
    RegisterVoter {
        /// Who.
        node: NodeId,
        /// Its Raft id, never used before.
        raft_id: RaftId,
    },
    /// Proposes a rollout.
    Propose(Box<Proposal>),
    /// One voter's answer.
    Ballot(Ballot),
    /// A node holds its closure, or says why not.
    Staged(Staged),
    /// Opens a wave.
    OpenWave(OpenWave),
    /// Lets nodes move.
    Grant(Grant),
    /// A granted node proved itself.
    Accept(NodeAttempt),
    /// How an attempt ended.
    Report(Report),
    /// A period is over.
    Deadline(Deadline),
    /// The quorum was lost and is back: pause what runs.
    HoldQuorumLost {
        /// What.
        rollout: RolloutId,
    },
    /// An operator's order.
    Control(SignedOrder),
    /// How long a node's ledger is, for witnessing.
    LedgerHead(LedgerHead),
    /// Begins the next mesh epoch, with a fresh secret.
    RotateEpoch {
        /// The epoch after the one in force.
        epoch: MeshEpoch,
        /// Hash of its network secret.
        secret_hash: SecretHash,
    },
    /// A member's keys change; its id stays.
    RotateKeys(Succession),
}

/// The beginning of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// The fleet.
    pub network: NetworkId,
    /// The first mesh epoch.
    pub mesh_epoch: MeshEpoch,
    /// Hash of that epoch's network secret.
    pub secret_hash: SecretHash,
    /// The first operators.
    pub principals: Vec<Principal>,
    /// The first node.
    pub member: Member,
}

/// A joiner with its invite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpendInvite {
    /// The fleet the invite names.
    pub network: NetworkId,
    /// The invite.
    pub invite: InviteId,
    /// The joiner; its role must be the invite's.
    pub member: Member,
    /// The issuer's clock when the joiner proved the secret, in milliseconds
    /// since 1970.
    pub at_ms: i64,
}

/// What the log needs of a manifest, with the operator's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Its id.
    pub rollout: RolloutId,
    /// Hash of the manifest.
    pub manifest: ManifestHash,
    /// The fleet epoch it was made against.
    pub parent: FleetEpoch,
    /// The manifest's name.
    pub name: String,
    /// The manifest's scope.
    pub scope: String,
    /// The manifest's nodes, in ascending order.
    pub rows: Vec<ProposalRow>,
    /// A rollout that gives way.
    pub supersedes: Option<RolloutId>,
    /// The manifest's policy.
    pub policy: Policy,
    /// Who signed.
    pub key: PublicKey,
    /// Over [`crate::statement::rollout`].
    pub signature: Signature,
}

/// One node of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposalRow {
    /// Who.
    pub node: NodeId,
    /// Where to.
    pub target: StorePath,
    /// Where from, as expected.
    pub baseline: StorePath,
}

impl Proposal {
    /// The proposal of a manifest.
    #[must_use]
    pub fn of(
        manifest: &Manifest,
        hash: ManifestHash,
        rollout: RolloutId,
        parent: FleetEpoch,
        key: PublicKey,
        signature: Signature,
    ) -> Self {
        let rows = manifest.nodes.iter().map(|(node, row)| ProposalRow {
            node: *node,
            target: row.target.clone(),
            baseline: row.baseline.clone(),
        });
        Self {
            rollout,
            manifest: hash,
            parent,
            name: manifest.name.clone(),
            scope: manifest.scope.clone(),
            rows: rows.collect(),
            supersedes: manifest.supersedes,
            policy: manifest.policy.clone(),
            key,
            signature,
        }
    }

    /// Whether the proposal says what the manifest says. A voter asks this
    /// before it votes yes, because only the hash is signed.
    #[must_use]
    pub fn is_of(&self, manifest: &Manifest, hash: ManifestHash) -> bool {
        *self == Self::of(manifest, hash, self.rollout, self.parent, self.key, self.signature)
    }
}

/// One voter's answer to a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ballot {
    /// Which proposal.
    pub rollout: RolloutId,
    /// Who votes.
    pub voter: NodeId,
    /// The answer.
    pub vote: Vote,
    /// Why not; informative.
    pub reason: Option<ErrorCode>,
    /// The voter's ballot key over [`crate::statement::ballot`].
    pub signature: Signature,
}

/// What a node says about its closure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// Of which rollout.
    pub rollout: RolloutId,
    /// Who.
    pub node: NodeId,
    /// What it runs now, which becomes its recorded baseline; or why it cannot.
    pub result: Result<StorePath, ErrorCode>,
}

/// Opens a wave with the nodes that are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenWave {
    /// Of which rollout.
    pub rollout: RolloutId,
    /// Which wave, from 0.
    pub wave: u32,
    /// Online, staged and healthy: the frozen denominator.
    pub eligible: Vec<NodeId>,
    /// Away: not charged, may come in a later wave.
    pub deferred: Vec<NodeId>,
}

/// Lets a batch of nodes move. All of them or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Of which rollout.
    pub rollout: RolloutId,
    /// In which wave.
    pub wave: u32,
    /// Who.
    pub nodes: Vec<NodeId>,
}

/// One try of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeAttempt {
    /// Of which rollout.
    pub rollout: RolloutId,
    /// Who.
    pub node: NodeId,
    /// Which try.
    pub attempt: AttemptId,
}

/// How a try ended, as the node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which try.
    pub attempt: NodeAttempt,
    /// How.
    pub ending: Ending,
}

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It runs and boots this closure.
    Committed {
        /// Read back from the host, not from a counter (I15).
        observed: StorePath,
    },
    /// It is back on this closure.
    RolledBack {
        /// Read back from the host.
        observed: StorePath,
        /// Why.
        code: ErrorCode,
    },
    /// It could not go back; it will reboot into the baseline.
    RollbackFailed {
        /// Why.
        code: ErrorCode,
    },
    /// It runs neither, after the reboot too.
    Quarantined {
        /// Why.
        code: ErrorCode,
    },
}

/// Which period is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// The one of a rollout's present state.
    State {
        /// Which rollout.
        rollout: RolloutId,
        /// The state it was started for; another one makes it stale.
        state_epoch: u64,
    },
    /// The bound on a node's silence since its grant.
    Node(NodeAttempt),
}

/// An order with its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedOrder {
    /// What.
    pub order: Order,
    /// Grows from one order of a key to the next, so that none works twice.
    pub serial: u64,
    /// Who.
    pub key: PublicKey,
    /// Over [`crate::statement::control`].
    pub signature: Signature,
}

/// What an operator can order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Adds a principal, or replaces the rights of one.
    AddPrincipal(Principal),
    /// No new grants until resumed.
    Pause {
        /// What.
        rollout: RolloutId,
    },
    /// Goes on.
    Resume {
        /// What.
        rollout: RolloutId,
    },
    /// Undoes it.
    Abort {
        /// What.
        rollout: RolloutId,
    },
    /// Takes a node out of a rollout; it is no longer charged.
    Exclude {
        /// Of which rollout.
        rollout: RolloutId,
        /// Who.
        node: NodeId,
    },
    /// No proposals and no grants in a scope.
    Freeze {
        /// Which scope; `*` is every scope.
        scope: String,
    },
    /// Ends a freeze.
    Unfreeze {
        /// Which scope.
        scope: String,
    },
    /// Takes a target off the deny-list.
    Allow {
        /// Which target.
        target: StorePath,
    },
    /// Removes a member for good: its keys are never admitted again.
    Revoke {
        /// Who.
        node: NodeId,
    },
}

impl Order {
    /// The word for it, also in the signed statement.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::AddPrincipal(_) => "add_principal",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::Abort { .. } => "abort",
            Self::Exclude { .. } => "exclude",
            Self::Freeze { .. } => "freeze",
            Self::Unfreeze { .. } => "unfreeze",
            Self::Allow { .. } => "allow",
            Self::Revoke { .. } => "revoke",
        }
    }

    /// The right it needs.
    #[must_use]
    pub const fn right(&self) -> Right {
        match self {
            Self::AddPrincipal(_) | Self::Revoke { .. } => Right::Admin,
            _ => Right::Control,
        }
    }
}

/// The head of a node's ledger, as its checkpoint of that size has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerHead {
    /// Whose.
    pub node: NodeId,
    /// Rows.
    pub size: u64,
    /// Hash of the last row.
    pub hash: LedgerHash,
    /// Root of the tree over the rows.
    pub root: LedgerHash,
    /// The ledger key's over [`statement::checkpoint`](crate::statement::checkpoint).
    pub signature: Signature,
}
