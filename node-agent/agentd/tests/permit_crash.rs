//! The real daemon, killed with SIGKILL while permits are asked for, signed and
//! consumed, each by two clients at once: no permit is consumed twice, and every
//! consumption that was acknowledged is in the ledger.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

#[path = "common/permits.rs"]
mod permits;
#[path = "common/process.rs"]
mod process;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_kit::tasks::Tasks;
use osmoda_kit::testing::{TempRoot, wait_for};

use permits::{Clients, Tried, check_permits};
use process::{LIMIT, Tokens, prepare_approvals, start};

/// Kills in CI; `OSMODA_KILLS` asks for more.
const KILLS: usize = 15;

/// Permits in flight at the same time.
const CLIENTS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p04_no_permit_is_consumed_twice_whatever_is_killed() {
    let kills = std::env::var("OSMODA_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let root = TempRoot::new();
    let tokens = Tokens::mint();
    let tasks = Tasks::new(Shutdown::new());
    prepare_approvals(&root, &tokens, &tasks);
    let clients = Clients::new(&root, &tokens);
    let mut all: Vec<Tried> = Vec::new();
    for kill in 0..=kills {
        let mut child = start(&root, &tokens, &[]);
        wait_for("the daemon", LIMIT, || async { clients.admin.list().await.ok() }).await;
        for tried in all.iter_mut().rev().take(2 * CLIENTS) {
            clients.again(tried).await;
        }
        let consumed = AtomicUsize::new(0);
        let work = (0..CLIENTS).map(|n| clients.work(format!("{kill}-{n}"), &consumed));
        let work = futures_util::future::join_all(work);
        let killed = async {
            let wanted = [0, 1, 3, 9, 20][kill % 5];
            wait_for("consumptions", LIMIT, || async { (consumed.load(SeqCst) >= wanted).then_some(()) }).await;
            child.kill().unwrap();
            child.wait().unwrap();
        };
        let (done, ()) = tokio::join!(work, killed);
        all.extend(done.into_iter().flatten());
    }
    let used = check_permits(&root, &all);
    assert!(used > kills, "only {used} permits were consumed");
    tasks.shutdown().request(StopReason::Asked("end of test".into()));
    tasks.drain(LIMIT).await;
}
