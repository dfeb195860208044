//! The only executor of typed system operations.
//!
//! `executor` is the path of a call: check, consume, act, say how it ended;
//! `hands` touch the host, one file a tool; `spent` remembers what was begun;
//! `reconcile` closes what an earlier run of this program left open.
//!
//! Invariant (A1): nothing here touches the host before the executor judged the
//! permit by itself and agentd made the intent durable in the transaction that
//! consumed it.
//! Invariant: a call that was cut off is recorded as `unknown`, never as done.

mod config;
mod executor;
pub mod hands;
mod http;
mod inherit;
mod reconcile;
mod service;
mod spent;

pub use config::{Backups as BackupConfig, Config};
pub use executor::{Executor, Parts};
pub use http::backups;
pub use service::Execd;
