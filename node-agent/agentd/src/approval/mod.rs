//! Approvals on this host: who asked for what, who signed, what was begun.
//!
//! Permits live in the ledger's own database, so that a permit is consumed in
//! the transaction that records the intent; every transition is a row of the
//! ledger (A7). The rules are `osmoda-permit`'s; the executor checks each permit
//! again by itself and trusts nothing said here.
//!
//! Invariant (A1, A2): [`Approvals::begin`] is the only way to a run, and one
//! `UPDATE` whose row count must be one is the only way through it.
//! Invariant (A5): what cannot be read or asked, the policy, the trust file, the
//! executor, the ledger or the witnesses, refuses.

mod ask;
mod asked;
mod decide;
mod denials;
pub mod gate;
pub mod http;
mod reference;
mod refusal;
mod run;
mod runs;
mod session;
mod store;
mod sweep;
#[cfg(test)]
mod testing;
mod tried;
mod view;
mod words;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::Isolation;
use osmoda_kit::tasks::Tasks;
use osmoda_node_api::approval::AskedCall;
use osmoda_node_api::approval_files::{load_policy, load_trust};
use osmoda_node_api::execd::ExecdClient;
use osmoda_permit::{HostTrust, Moment, Policy};
use serde_json::{Map, Value};

use crate::ledger::Ledger;
use gate::HeadGate;

pub(crate) use store::SCHEMA;

/// A future of a trait object.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'a>>;

/// Looks at what a call would be done to; the executor does, as root.
pub trait Resolver: Send + Sync + 'static {
    /// The object as it is now.
    fn resolve<'a>(&'a self, call: &'a AskedCall) -> Answer<'a, Map<String, Value>>;
}

impl Resolver for ExecdClient {
    fn resolve<'a>(&'a self, call: &'a AskedCall) -> Answer<'a, Map<String, Value>> {
        Box::pin(async move { Ok(self.resolve(call).await?.object) })
    }
}

/// What approvals stand on.
#[derive(Clone)]
pub struct Parts {
    /// The ledger, whose database holds the permits.
    pub ledger: Ledger,
    /// Time.
    pub clock: SharedClock,
    /// For what blocks.
    pub tasks: Tasks,
    /// agentd's state folder, with its trust file.
    pub state_dir: PathBuf,
    /// The policy file.
    pub policy: PathBuf,
    /// The executor's eyes.
    pub resolver: Arc<dyn Resolver>,
    /// The witnesses.
    pub gate: Arc<dyn HeadGate>,
    /// How far daemons are kept apart here.
    pub isolation: Isolation,
}

/// The approvals of a host; cheap to clone.
#[derive(Clone)]
pub struct Approvals {
    parts: Arc<Parts>,
    asked: asked::Asked,
    tried: tried::Tried,
}

impl std::fmt::Debug for Approvals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Approvals")
    }
}

impl Approvals {
    /// Stands on these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(parts), asked: asked::Asked::default(), tried: tried::Tried::default() }
    }

    /// The present moment by both clocks.
    fn now(&self) -> Moment {
        now(&self.parts.clock)
    }

    /// The policy and whom we believe, read now.
    async fn rules(&self) -> Result<(Policy, HostTrust), ApiError> {
        let (policy, state_dir) = (self.parts.policy.clone(), self.parts.state_dir.clone());
        let read = move || Ok((load_policy(&policy)?, load_trust(&state_dir)?));
        self.parts.tasks.blocking("read approval rules", read).await.map_err(ApiError::internal)?
    }
}

/// The present moment by both clocks.
fn now(clock: &SharedClock) -> Moment {
    Moment {
        wall_ms: clock.now_wall().as_millis(),
        boot_ms: u64::try_from(clock.now_boot().as_millis()).unwrap_or(u64::MAX),
        boot_id: clock.boot_id(),
    }
}
