//! SIGKILL of the daemon, of the guard, and of both, at every arrow of the
//! journal: the host ends on its baseline or on a committed target, never
//! between, the journal says so, and every intent in the ledger has its outcome.
//!
//! The arrows are enumerated from the rules themselves. For each one a script
//! leads a real daemon and a real guard, in processes of their own, through it;
//! an observer in the journal kills right before or right after the record.
//! The daemon is started again, as a service manager would. An arrow for which
//! there is no script fails the test.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it with the line that surprised them")]

mod child;
mod fleet;
mod hook;
mod host;
#[path = "../ledger/mod.rs"]
mod ledger;

use hook::{Crash, Victim, When};
use osmoda_journal::arrows;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long anything that is waited for may take, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(90);

/// Cases at a time: they mostly wait.
const LANES: usize = 6;

/// Not a test: the daemon, when started by [`host::Host`].
#[test]
fn child_watch() {
    if std::env::var_os("CRASH_WATCH").is_some() {
        child::watch(&PathBuf::from(std::env::var_os("CRASH_ROOT").unwrap()));
    }
}

/// Not a test: the guard, when started by the daemon.
#[test]
fn child_guard() {
    if let Some(args) = std::env::var_os("CRASH_GUARD") {
        child::guard(&PathBuf::from(std::env::var_os("CRASH_ROOT").unwrap()), args.to_str().unwrap());
    }
}

#[test]
fn a_kill_at_any_arrow_ends_on_the_baseline_or_on_a_committed_target() {
    let mut cases = Vec::new();
    for arrow in arrows() {
        for (victim, when) in [
            (Victim::Watch, When::Before),
            (Victim::Watch, When::After),
            (Victim::Guard, When::After),
            (Victim::Both, When::Before),
            (Victim::Both, When::After),
        ] {
            cases.push(Crash { from: arrow.from, kind: arrow.kind, when, victim });
        }
    }
    let total = cases.len();
    let queue = Mutex::new(cases);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    let Some(case) = queue.lock().unwrap().pop() else { return };
                    if let Err(text) = fleet::run(case) {
                        failures.lock().unwrap().push(format!("{case:?}: {text}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {total} cases failed:\n{}", failures.len(), failures.join("\n\n"));
}

fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !look() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
