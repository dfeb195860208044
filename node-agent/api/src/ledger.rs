//! The words of `agentd.sock` about checkpoints, proofs and the export of rows.
//!
//! Hashes of the tree are standard base64, as in C2SP; a note is text as it was
//! signed. Whoever checks them uses `osmoda-ledger`.

use serde::{Deserialize, Serialize};

/// Most rows of one answer of `GET /ledger/export`: a page of an export is
/// asked for again, so that one caller cannot hold a connection for hours.
pub const EXPORT_ROWS_MAX: u64 = 65_536;

/// On an answer of `GET /ledger/export`: the id to go on from.
pub const NEXT_HEADER: &str = "x-osmoda-next";

/// The answer of `GET /ledger/checkpoint`: the newest one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerCheckpoint {
    /// The key that signed it, as a C2SP verifier key.
    pub key: String,
    /// How many rows it covers.
    pub size: u64,
    /// How many witnesses cosigned it so far.
    pub cosignatures: u64,
    /// The signed note.
    pub note: String,
}

/// The query of `GET /ledger/proof/inclusion`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InclusionQuery {
    /// The row.
    pub id: u64,
    /// The size of the tree.
    pub size: u64,
}

/// That a row is in the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InclusionProof {
    /// The row; its leaf is number `id - 1`.
    pub id: u64,
    /// The size of the tree.
    pub size: u64,
    /// The leaf's hash.
    pub leaf: String,
    /// The root of the tree.
    pub root: String,
    /// The siblings, from the leaf up.
    pub hashes: Vec<String>,
}

/// The query of `GET /ledger/proof/consistency`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsistencyQuery {
    /// The older size.
    pub from: u64,
    /// The newer size.
    pub to: u64,
}

/// That one tree is the beginning of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsistencyProof {
    /// The older size.
    pub from: u64,
    /// The newer size.
    pub to: u64,
    /// The root of the older.
    pub old: String,
    /// The root of the newer.
    pub new: String,
    /// The proof.
    pub hashes: Vec<String>,
}

/// The query of `GET /ledger/export`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExportQuery {
    /// The first row wanted.
    pub from: u64,
    /// How many at most; [`EXPORT_ROWS_MAX`] is the cap.
    pub rows: u64,
}

impl Default for ExportQuery {
    fn default() -> Self {
        Self { from: 1, rows: EXPORT_ROWS_MAX }
    }
}

/// How sure the daemon is of its ledger; part of `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerHealth {
    /// Rows that are durable.
    pub rows: u64,
    /// Rows that the newest checkpoint covers; 0 before the first.
    pub signed: u64,
    /// Rows that the last full verification found sound.
    pub verified: u64,
    /// When that was, `YYYY-MM-DDTHH:MM:SS.mmmZ`; none before the first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub checked: Option<String>,
    /// The first fault it found: somebody must look.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub alarm: Option<String>,
}
