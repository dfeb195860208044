//! Types, callers table and one typed client per node daemon.

pub mod agentd;
pub mod blobs;
pub mod callers;
pub mod mesh;
pub mod pipes;
pub mod registry;
pub mod rooms;
pub mod watch;
