//! The nodes' ledgers as other nodes witness them: signed notes, carried.
//!
//! Nothing here is to be believed because a controller says it. A note is worth
//! its signatures, and the reader checks them.

use osmoda_types::{NodeId, PublicKey};

/// A node's ledger, and all signed notes of it that the controller has.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct NodeLedger {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The key of its ledger as the fleet's log has it, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub key: Option<PublicKey>,
    /// The newest head of it that the fleet's log has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logged: Option<LedgerLogged>,
    /// What the node last said; absent when it never said anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<LedgerReport>,
    /// What the other nodes hold of it.
    pub held: Vec<LedgerHeld>,
    /// How other nodes caught it.
    pub alarms: Vec<LedgerAlarm>,
}

/// A ledger's head in the fleet's log.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct LedgerLogged {
    /// Rows.
    pub size: u64,
    /// The hash of the last of them, 64 hex digits.
    pub hash: String,
}

/// What is wrong with a node's ledger, as nodes say; the later, the worse.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum LedgerTrouble {
    /// One other node accuses it, and nothing else says so.
    Accused,
    /// It told fewer rows, or another row, than it had told before.
    Changed,
    /// It takes no more rows: its witnesses remember another past.
    Sealed,
    /// Its own verification found a fault.
    Faulty,
    /// Other nodes caught it, or one did and it takes no more rows itself; `GET
    /// /ledger/{id}` has the signed notes.
    Caught,
}

/// What a node says of its own ledger.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct LedgerReport {
    /// The key it signs with, 64 hex digits.
    #[schema(value_type = String)]
    pub key: PublicKey,
    /// How many rows it has.
    pub rows: u64,
    /// Its newest checkpoint that enough witnesses cosigned, a signed note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered: Option<String>,
    /// How many witnesses must cosign, as the node counts.
    pub quorum: u32,
    /// Out of how many.
    pub witnesses: u32,
    /// Why it takes no more rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The first fault that its own verification found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// When this controller received it.
    pub received_at: String,
}

/// The newest note that a witness holds of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct LedgerHeld {
    /// The witness.
    #[schema(value_type = String)]
    pub witness: NodeId,
    /// The ledger's size, as the witness says.
    pub size: u64,
    /// The note, signed by the ledger.
    pub note: String,
    /// When the witness cosigned it, in seconds since 1970.
    pub time_s: u64,
}

/// A ledger caught by a witness.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct LedgerAlarm {
    /// The witness.
    #[schema(value_type = String)]
    pub witness: NodeId,
    /// `forked`, `rewritten` or `shortened`.
    pub finding: String,
    /// The note the ledger signed before.
    pub held: String,
    /// The note it signed later.
    pub shown: String,
    /// When the witness saw it, in seconds since 1970.
    pub time_s: u64,
    /// When this controller received it.
    pub received_at: String,
}
