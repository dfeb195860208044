//! Approvals over a real ledger, for tests of their parts.

use std::path::Path;
use std::sync::Arc;

use osmoda_kit::http::Isolation;
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::Tasks;
use osmoda_kit::testing::FakeClock;
use osmoda_node_api::approval::AskedCall;
use serde_json::{Map, Value};

use super::gate::NoWitness;
use super::{Answer, Approvals, Parts, Resolver};
use crate::ledger::file::FILE_NAME;
use crate::ledger::{Ledger, LedgerThreads, WriterOptions};

struct Blind;

impl Resolver for Blind {
    fn resolve<'a>(&'a self, _: &'a AskedCall) -> Answer<'a, Map<String, Value>> {
        Box::pin(async { Ok(Map::new()) })
    }
}

/// Approvals in a folder, with an executor that sees nothing and without witnesses.
pub(super) fn approvals(dir: &Path) -> (Approvals, Ledger, LedgerThreads) {
    let clock = Arc::new(FakeClock::new());
    let (ledger, threads, _) = Ledger::open(&dir.join(FILE_NAME), WriterOptions::default(), clock.clone()).unwrap();
    let approvals = Approvals::new(Parts {
        ledger: ledger.clone(),
        clock,
        tasks: Tasks::new(Shutdown::new()),
        state_dir: dir.to_owned(),
        policy: dir.join("approvals.toml"),
        resolver: Arc::new(Blind),
        gate: Arc::new(NoWitness),
        isolation: Isolation::Users,
    });
    (approvals, ledger, threads)
}
