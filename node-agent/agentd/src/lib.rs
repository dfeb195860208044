//! The ledger daemon: what was done on this host, in order, linked by hashes.
//!
//! `approval` keeps permits and consumes them.
//! `ledger` is the library: pure core, storage, one writer with group commit.
//! `memory` finds rows by their words, `receipts` and `incidents` are views of them.
//! `service` is the daemon around it, `api` its endpoints, `host` the health of
//! the machine, `subkey` the ledger's key in the fleet's log.
//! Invariant: an append is acknowledged only when it is durable; when the ledger
//! cannot be written, callers are told so and must not act.

pub mod api;
pub mod approval;
pub mod backup;
pub mod card;
pub mod checkpoint;
mod config;
pub mod host;
pub mod incidents;
pub mod ledger;
pub mod ledger_key;
mod limits;
pub mod memory;
mod parts;
pub mod reads;
pub mod receipts;
pub mod retention;
mod service;
mod subkey;
pub mod system;
mod timeframe;
pub mod witness;

pub use config::{Backups as BackupConfig, Config, Retention as RetentionConfig};
pub use service::Agentd;
