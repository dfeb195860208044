//! The fleet as a whole: status, invites, principals, freezes, ledger heads.

use osmoda_types::{InviteId, MeshEpoch, NetworkId, NodeId, PublicKey, Right, Role, Signature};

/// The fleet and this controller's view of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct FleetStatus {
    /// The fleet.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub network_id: NetworkId,
    /// The fleet epoch: the parent of the next proposal.
    pub epoch: u64,
    /// The mesh epoch: which network secret is in force.
    #[schema(value_type = u32)]
    pub mesh_epoch: MeshEpoch,
    /// The leader, as the followed voter last said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub leader: Option<NodeId>,
    /// The voters.
    pub voters: Vec<Voter>,
    /// Members of the fleet, controllers included.
    pub members: u32,
    /// Nodes whose link to this controller is up.
    pub online: u32,
    /// The last log index this controller has applied.
    pub applied_index: u64,
    /// Whether this controller follows a voter at this moment. When it does
    /// not, everything else here is as of `applied_index`.
    pub following: bool,
    /// The rollouts that are not over.
    #[schema(value_type = Vec<String>)]
    pub active_rollouts: Vec<osmoda_types::RolloutId>,
    /// Scopes under a freeze lock.
    pub freezes: Vec<Freeze>,
    /// Members with trouble in their ledger; `GET /ledger` has the evidence.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub ledger_alarms: Vec<NodeId>,
    /// The controller's version.
    pub version: String,
}

/// A voter of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Voter {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its voter number, 16 hex digits.
    pub raft_id: String,
}

/// The head of a node's ledger.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct LedgerHead {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// How many rows the ledger has.
    pub size: u64,
    /// The hash of its last row, 64 hex digits; empty for an empty ledger.
    pub hash: String,
    /// When this controller received it.
    pub seen_at: String,
    /// Set when a later head contradicted this one: a smaller size, or another
    /// hash for the same size. The ledger was rewritten or lost rows.
    pub broken: bool,
}

/// The order to make an invite.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MintInvite {
    /// What the joiner becomes.
    #[schema(value_type = String, example = "node")]
    pub role: Role,
    /// How long it can be spent, in seconds; 1 minute to 24 hours, 1 hour when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
}

/// A fresh invite. Its text is a secret: whoever spends it first joins.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct MintedInvite {
    /// The public id.
    #[schema(value_type = String)]
    pub id: InviteId,
    /// What to give to `osmoda-node join`. Shown once.
    pub invite: String,
    /// What the joiner becomes.
    #[schema(value_type = String)]
    pub role: Role,
    /// Until when it can be spent.
    pub expires_at: String,
}

impl std::fmt::Debug for MintedInvite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MintedInvite").field("id", &self.id).field("role", &self.role).finish_non_exhaustive()
    }
}

/// What became of an invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InviteState {
    /// It can be spent.
    Open,
    /// A node joined with it.
    Spent,
    /// Its time is over.
    Expired,
}

/// An invite in the list; the secret is not known here.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct InviteRow {
    /// The public id.
    #[schema(value_type = String)]
    pub id: InviteId,
    /// What the joiner becomes.
    #[schema(value_type = String)]
    pub role: Role,
    /// What became of it.
    pub state: InviteState,
    /// Until when it can be spent.
    pub expires_at: String,
    /// Who joined with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub joiner: Option<NodeId>,
}

/// A person's or a CI system's key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Principal {
    /// Its name in the fleet.
    pub name: String,
    /// Its Ed25519 public key, 64 hex digits.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub key: PublicKey,
    /// What it may sign: `deploy`, `control`, `admin`, `approve`.
    #[schema(value_type = Vec<String>)]
    pub rights: Vec<Right>,
}

/// A signed order to add a principal.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddPrincipal {
    /// Larger than that of every earlier order of this key; the clock in
    /// milliseconds does.
    pub serial: u64,
    /// Its name in the fleet.
    pub name: String,
    /// Its Ed25519 public key, 64 hex digits.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub key: PublicKey,
    /// What it may sign.
    #[schema(value_type = Vec<String>)]
    pub rights: Vec<Right>,
    /// The signing operator's public key, 64 hex digits.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub operator_key: PublicKey,
    /// The signature over the statement, 128 hex digits.
    #[schema(value_type = String, pattern = "^[0-9a-f]{128}$")]
    pub signature: Signature,
}

/// A scope on which no rollout may start.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Freeze {
    /// The scope; `*` is every scope.
    pub scope: String,
    /// The principal who ordered it, by name.
    pub by: String,
    /// The log index of the order.
    pub index: u64,
}

/// A signed order to freeze or thaw a scope, as the path says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FreezeOrder {
    /// Larger than that of every earlier order of this key; the clock in
    /// milliseconds does.
    pub serial: u64,
    /// The scope; `*` is every scope.
    pub scope: String,
    /// The operator's public key, 64 hex digits.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub operator_key: PublicKey,
    /// The signature over the statement, 128 hex digits.
    #[schema(value_type = String, pattern = "^[0-9a-f]{128}$")]
    pub signature: Signature,
}
