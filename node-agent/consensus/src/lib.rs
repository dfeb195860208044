//! Raft among voters: log store, batching proposer, election gate.
