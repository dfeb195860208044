//! Node-local command line: verify-ledger, events, stats, health.

fn main() {}
