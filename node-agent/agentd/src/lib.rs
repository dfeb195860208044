//! The ledger daemon: what was done on this host, in order, unforgeably linked.
//!
//! `ledger` is the library: pure core, storage, one writer with group commit.

pub mod ledger;
