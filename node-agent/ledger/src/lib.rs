//! The ledger without I/O: what a row is, how rows are linked, and how anybody
//! can tell that nothing was taken back.
//!
//! ```text
//!  row ─► record ─► chain hash          (record, grammar, payload, redact; look, walk, verify)
//!            └────► leaf ─► tree        (tree: frontier, proofs, tiles)
//!                            └─► checkpoint, signed      (note, checkpoint)
//!                                    └─► cosignatures    (exchange, witness, policy)
//! ```
//! `audit` is the verdict over all of it, `export` the folder it is handed over
//! in, the only file with I/O. Everything else is pure: time, randomness and keys
//! are arguments. Invariant: an input that can be read in two ways is refused.
//!
//! Not here: the database, the wire, the keys' files (`osmoda-agentd`).

mod acts;
pub mod anchor;
pub mod audit;
mod base64;
mod canonical;
pub mod checkpoint;
pub mod evidence;
pub mod exchange;
pub mod export;
pub mod grammar;
pub mod look;
pub mod note;
pub mod payload;
pub mod policy;
pub mod record;
pub mod redact;
pub mod strict;
pub mod tree;
pub mod verify;
pub mod walk;
pub mod witness;

#[cfg(test)]
mod chain_tests;
