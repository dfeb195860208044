//! The words of witnessing: what one ledger asks another over the mesh, who
//! witnesses whom, and what a node can tell about both.
//!
//! A checkpoint, a cosignature and the request around them are C2SP texts, which
//! `osmoda_ledger` reads; here they are carried, not understood.

use osmoda_types::{LedgerHash, NodeId, PublicKey, Signature};
use serde::{Deserialize, Serialize};

/// What a ledger asks a witness, which knows from the mesh whose ledger it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// To cosign a checkpoint of the asker's ledger: the body of a C2SP
    /// `add-checkpoint`.
    AddCheckpoint(String),
    /// The same, and that the checkpoint continues the head of the ledger that the
    /// fleet's log has: asked for with status 428.
    Anchored {
        /// The body of the `add-checkpoint`.
        request: String,
        /// A second one, of the same checkpoint, whose old size is the head's.
        anchor: String,
    },
    /// What the witness holds of the asker's ledger.
    Held,
}

/// What a witness answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// To a checkpoint: C2SP's status and body.
    Judged {
        /// 200, 400, 403, 404, 409 or 422; 424 and 428 are ours (`osmoda_ledger::exchange`).
        status: u16,
        /// Signature lines, a size, or nothing.
        body: String,
    },
    /// The note it cosigned last, if it has one.
    Held(Option<String>),
}

/// Another node of the fleet as a witness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its ledger's key, once the log has it.
    pub key: Option<PublicKey>,
    /// The newest head of its ledger that the log has.
    #[serde(default)]
    pub logged: Option<LoggedHead>,
}

/// A ledger's head in the fleet's log, with what its key signed: whoever reads it
/// checks it, because it came by way of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedHead {
    /// Rows.
    pub size: u64,
    /// Hash of the last of them.
    pub hash: LedgerHash,
    /// Root of the tree over them.
    pub root: LedgerHash,
    /// The ledger key's over its checkpoint.
    pub signature: Signature,
}

/// The answer of `GET /ledger/roster` at fleetd: who witnesses this node's
/// ledger, and whose it witnesses. Controllers and revoked members are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// This node.
    pub node: NodeId,
    /// The other nodes.
    pub others: Vec<Peer>,
    /// How many of them must cosign: ⌊N/2⌋ of a fleet of N nodes. 0 in a fleet of
    /// one, which has no witness.
    pub needed: usize,
    /// The newest head of this node's ledger that the log has.
    pub logged: Option<LoggedHead>,
}

/// How a ledger contradicts what it signed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Two checkpoints of one size and two roots: the notes alone prove it.
    Forked,
    /// It cannot show that what it signed before is the beginning of what it
    /// signs now.
    Rewritten,
    /// It signs less than it signed before.
    Shortened,
}

/// A ledger caught by a witness: two notes that it signed, and what is between
/// them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Whose ledger.
    pub node: NodeId,
    /// What was found.
    pub finding: Finding,
    /// What it signed before, as the witness holds it.
    pub held: String,
    /// What it signed later.
    pub shown: String,
    /// When the witness saw it, in seconds since the epoch.
    pub time_s: u64,
}

/// The newest note that a witness holds of another node's ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldNote {
    /// Whose ledger.
    pub node: NodeId,
    /// Its size.
    pub size: u64,
    /// The note as that ledger signed it.
    pub note: String,
    /// When it was cosigned, in seconds since the epoch.
    pub time_s: u64,
}

/// The answer of `GET /ledger/witness` at agentd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessReport {
    /// The key of this node's ledger.
    pub key: PublicKey,
    /// Rows that this ledger has.
    pub rows: u64,
    /// Its newest checkpoint that enough witnesses cosigned, with the
    /// cosignatures; in a fleet of one the newest of all.
    pub covered: Option<String>,
    /// How many witnesses must cosign, and out of how many.
    pub quorum: (usize, usize),
    /// Why this ledger takes no more rows: its witnesses hold a newer or another
    /// past than it has.
    pub refused: Option<String>,
    /// The first fault that this node's own verification found, which it repeats
    /// on a timer.
    #[serde(default)]
    pub fault: Option<String>,
    /// What this node holds of the others.
    pub held: Vec<HeldNote>,
    /// Whom it caught; at most [`ALARMS_MAX`], the oldest of each ledger first.
    pub alarms: Vec<Alarm>,
}

/// `POST /ledger/cosign` at agentd: an operator's cosignature, for a fleet of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cosign {
    /// The size of the checkpoint.
    pub size: u64,
    /// The operator's key.
    pub key: PublicKey,
    /// The signature line.
    pub line: String,
}

/// The answer to [`Cosign`]: it is durable and counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cosigned {
    /// The rows that the operator has cosigned.
    pub size: u64,
}

/// Alarms of one ledger that a witness keeps: one that is caught every second
/// must not fill its disk, and the first ones prove as much as all. Of each ledger
/// on its own, so that one cannot hide what another does.
pub const ALARMS_OF_LEDGER_MAX: usize = 8;

/// Alarms in one report.
pub const ALARMS_MAX: usize = 64;
