//! Types, callers table and one typed client per node daemon.

pub mod agentd;
