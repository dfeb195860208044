//! Types, callers table and one typed client per node daemon.

pub mod agentd;
pub mod agentd_backup;
pub mod agentd_card;
pub mod agentd_memory;
pub mod agentd_records;
pub mod agentd_system;
pub mod approval;
pub mod approval_files;
pub mod blobs;
pub mod callers;
pub mod execd;
pub mod fleet;
pub mod ledger;
pub mod mesh;
pub mod pipes;
pub mod registry;
pub mod rooms;
pub mod watch;
pub mod witness;
