//! The ledger daemon.
