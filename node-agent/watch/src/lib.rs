//! SafeSwitch on one host: activation, probation, acceptance, rollback.
//!
//! The journal says where the host stands; the driver carries the present
//! attempt from record to record; orders from fleetd or the local administrator
//! are records too, or refusals. A guard, which is another process, stands by
//! from before the activation until the acceptance. The pieces:
//!
//! - `stage`, `fetch`, `trust`: what may be moved to, from where, and who said so;
//! - `engine`, `driver`, `probe`: one attempt, step by step;
//! - `host`, `checks`: the effects, and the questions asked of the host;
//! - `trail`, `telling`: what the ledger is told;
//! - `switch`: the sessions of the earlier product.

mod api;
mod checks;
mod config;
mod driver;
mod engine;
mod fetch;
mod host;
mod probe;
mod records;
mod service;
mod stage;
mod switch;
mod telling;
mod trail;
mod trust;
mod view;

pub use config::{Config, Settings};
pub use engine::Engine;
pub use host::Host;
pub use records::{LogSteps, MakeObserver, Records};
pub use service::{Outside, Watch, assemble};
