//! The scripts: what the fleet, and fate, do to the host on the way to an arrow.

use crate::LIMIT;
use crate::child::{TestGrant, callers};
use crate::hook::{CRASHED, Crash, When, kill};
use crate::host::{Host, ROLLOUT};
use osmoda_journal::{Attempt, Cause, Entry, Kind, Phase, Plan, State, Writer};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::serve_unix;
use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_kit::tasks::Tasks;
use osmoda_kit::testing::look_until;
use osmoda_node_api::watch::{AcceptRequest, AttemptView, ContactRequest, GrantRequest, RevertRequest, WatchClient};
use osmoda_types::{AttemptId, ErrorCode, FleetEpoch, ManifestHash};
use std::time::{Duration, Instant};

/// How often the fleet speaks to the host.
const BEAT: Duration = Duration::from_millis(30);

/// One thing that happens.
enum Step {
    /// A grant; the attempt is followed to its end.
    Attempt(Follow),
    /// The fleet undoes the attempt.
    Revert(AttemptId),
    /// The host restarts. With `true` the baseline is mended first.
    Reboot(bool),
    /// A flag of [`Host::make_toplevel`], or `well` for the check.
    Flag(&'static str, bool),
    /// The administrator has switched to `b` himself.
    SwitchedByHand,
    /// The ledger takes no intent to commit.
    RefuseCommits,
    /// Granted, armed and in contact, written while no daemon runs.
    Prepared,
}

/// How an attempt is followed.
struct Follow {
    id: AttemptId,
    baseline: &'static str,
    target: &'static str,
    contacts: bool,
    /// The fleet changes its mind when the host is in this phase.
    revert_in: Option<Phase>,
    /// It only undoes what somebody else did.
    undo: bool,
    /// The fleet does not accept before the crash.
    late: bool,
}

fn attempt(id: u64, baseline: &'static str, target: &'static str) -> Follow {
    Follow { id: AttemptId(id), baseline, target, contacts: true, revert_in: None, undo: false, late: false }
}

/// What leads through an arrow; `None` for an arrow nobody has thought of.
fn script(from: Phase, kind: Kind) -> Option<Vec<Step>> {
    use Step::{Attempt, Flag, Prepared, Reboot, RefuseCommits, Revert, SwitchedByHand};
    let good = || vec![Attempt(attempt(1, "a", "b"))];
    let sick = || vec![Flag("fail-test-b", true), Attempt(attempt(1, "a", "b"))];
    let then_good = |mut steps: Vec<Step>, baseline| {
        steps.push(Flag("fail-test-b", false));
        steps.push(Attempt(attempt(2, baseline, "c")));
        steps
    };
    let missing = || vec![Attempt(Follow { target: "nowhere", ..attempt(1, "a", "b") })];
    let unrestorable = || vec![Flag("fail-test-a", true), Flag("well", false), Attempt(attempt(1, "a", "b"))];
    let silent = || vec![Attempt(Follow { contacts: false, ..attempt(1, "a", "b") })];
    Some(match (from, kind) {
        (Phase::Idle, Kind::Granted)
        | (Phase::Granted, Kind::Armed)
        | (Phase::Armed, Kind::Activating)
        | (Phase::Activating, Kind::Probation | Kind::Contact)
        | (Phase::Probation, Kind::Ready | Kind::Contact)
        | (Phase::Ready, Kind::Accepted)
        | (Phase::Accepted, Kind::Committing)
        | (Phase::Committing, Kind::Committed) => good(),
        (Phase::Granted, Kind::Deferred) => missing(),
        (Phase::Armed, Kind::Contact) => vec![Prepared, Attempt(attempt(1, "a", "b"))],
        (Phase::Armed, Kind::RollingBack) => {
            vec![SwitchedByHand, Attempt(Follow { undo: true, ..attempt(1, "a", "b") })]
        }
        (Phase::Activating, Kind::RollingBack) | (Phase::RollingBack, Kind::RolledBack) => sick(),
        (Phase::Probation, Kind::RollingBack) => vec![Flag("well", false), Attempt(attempt(1, "a", "b"))],
        (Phase::Ready, Kind::Contact) => vec![Attempt(Follow { late: true, ..attempt(1, "a", "b") })],
        (Phase::Ready, Kind::RollingBack) => silent(),
        (Phase::Accepted, Kind::Reverting) => {
            let follow = Follow { revert_in: Some(Phase::Accepted), ..attempt(1, "a", "b") };
            vec![RefuseCommits, Attempt(follow)]
        }
        (Phase::Committing, Kind::Reverting) => vec![Flag("fail-boot-b", true), Attempt(attempt(1, "a", "b"))],
        (Phase::Committed, Kind::Reverting) => {
            let mut steps = good();
            steps.push(Revert(AttemptId(1)));
            steps
        }
        (Phase::RollingBack, Kind::RollbackFailed) => unrestorable(),
        (Phase::RollbackFailed, Kind::RolledBack) => {
            let mut steps = unrestorable();
            steps.push(Reboot(true));
            steps
        }
        (Phase::RollbackFailed, Kind::Quarantined) => {
            let mut steps = unrestorable();
            steps.push(Reboot(false));
            steps
        }
        (Phase::Deferred, Kind::Granted) => then_good(missing(), "a"),
        (Phase::RolledBack, Kind::Granted) => then_good(sick(), "a"),
        (Phase::Committed, Kind::Granted) => then_good(good(), "b"),
        (Phase::Quarantined, Kind::Granted) => {
            let mut steps = unrestorable();
            steps.extend([Reboot(false), Reboot(true), Flag("well", true)]);
            then_good(steps, "a")
        }
        _ => return None,
    })
}

/// Runs one case; the error says what was wrong.
pub(crate) fn run(case: Crash) -> Result<(), String> {
    let steps = script(case.from, case.kind).ok_or("there is no script for this arrow")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut host = Host::new(case);
    let tasks = Tasks::new(Shutdown::new());
    let ended = runtime.block_on(async {
        serve_ledger(&host, &tasks);
        play(&mut host, &steps, case).await
    });
    tasks.shutdown().request(StopReason::Asked("end of case".to_owned()));
    runtime.block_on(tasks.drain(Duration::from_secs(5)));
    ended.map_err(|text| format!("{text}\n{}", host.logs()))
}

async fn play(host: &mut Host, steps: &[Step], case: Crash) -> Result<(), String> {
    for step in steps {
        match step {
            Step::Flag(name, is_set) => host.set_flag(name, *is_set),
            Step::RefuseCommits => host.ledger.lock().refused = Some(("watch.commit.intent", ErrorCode::DiskFull)),
            Step::SwitchedByHand => {
                osmoda_journal::generation::GenerationStore::set(&host.store(), &host.toplevel("b")).unwrap();
                host.run_toplevel("b");
            }
            Step::Prepared => prepare(host, case),
            Step::Reboot(is_mended) => reboot(host, *is_mended).await?,
            Step::Revert(id) => {
                let is_undone = |view: &AttemptView| view.resting && view.state != Phase::Committed.as_str();
                follow(host, is_undone, async |watch, _| {
                    let baseline = host_baseline(watch).await?;
                    watch.revert(&RevertRequest { rollout: ROLLOUT, attempt: *id, to: baseline }).await
                })
                .await?;
                settle(host).await?;
            }
            Step::Attempt(follow) => carry_through(host, follow).await?,
        }
    }
    // Who takes the last arrow says so after the record that was waited for, and dies.
    let crashed = || Ok::<_, String>(host.path().join(CRASHED).exists().then_some(()));
    look_until(Duration::from_secs(5), crashed)?.ok_or("the arrow was never taken")?;
    check_end(host)?;
    check_ledger(host).await
}

/// Once the ledger takes rows again, every intent in it gets its outcome.
async fn check_ledger(host: &mut Host) -> Result<(), String> {
    host.ledger.lock().refused = None;
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        host.keep_watch_running();
        if is_all_told(host) && host.ledger.unpaired().is_empty() {
            return Ok(());
        }
        tokio::time::sleep(BEAT).await;
    }
    Err(format!("unpaired: {:?} in {:?}", host.ledger.unpaired(), host.ledger.kinds()))
}

fn is_all_told(host: &Host) -> bool {
    let trail = std::fs::read(host.path().join("trail.json")).unwrap_or_default();
    let trail: serde_json::Value = serde_json::from_slice(&trail).unwrap_or_default();
    let is_empty = |list: &serde_json::Value| list.as_array().is_some_and(Vec::is_empty);
    let intended = trail["intended"].as_array().cloned().unwrap_or_default();
    !trail["told"].is_null() && is_empty(&trail["spool"]) && intended.iter().all(|act| act["has_outcome"] == true)
}

/// Writes what a daemon would have written up to the arrow, and kills.
fn prepare(host: &Host, case: Crash) {
    let mut journal = host.journal();
    let mut write = |entry| {
        journal.append(Writer::Watch, AttemptId(1), host.clock().now().unwrap(), entry).unwrap();
    };
    write(Entry::Granted(Box::new(host.plan("a", "b"))));
    let mut guard = host.start_guard();
    write(Entry::Armed { guard_pid: guard.id(), failing_before: Vec::new(), failed_units: Vec::new() });
    if case.when == When::After {
        write(Entry::Contact { index: 1, leader: "test".to_owned() });
    }
    std::fs::write(host.path().join(CRASHED), "").unwrap();
    // No daemon runs, so the daemon is as good as killed.
    kill(host.path(), case.victim);
    // Collected when it has been killed; else it is collected with this process.
    guard.try_wait().unwrap();
}

async fn reboot(host: &mut Host, is_mended: bool) -> Result<(), String> {
    if is_mended {
        host.set_flag("fail-test-a", false);
    }
    host.reboot();
    if !is_mended {
        // The boot loader had its own idea.
        host.run_toplevel("b");
    }
    settle(host).await?;
    if is_mended {
        // The person who had to look has looked.
        host.run_toplevel("a");
    }
    Ok(())
}

async fn carry_through(host: &mut Host, wanted: &Follow) -> Result<(), String> {
    let mut plan = host.plan(wanted.baseline, wanted.target);
    if wanted.undo {
        plan.undo = Some(Cause::new(ErrorCode::CheckFailed, "undone by the test"));
    }
    let id = wanted.id;
    let grant = GrantRequest {
        rollout: ROLLOUT,
        attempt: id,
        epoch: FleetEpoch(1),
        manifest: ManifestHash::from_bytes([1; 32]),
    };
    let baseline = plan.baseline.clone();
    let request = TestGrant { grant, plan };
    let client = host.client();
    let crashed = host.path().join(CRASHED);
    let is_over =
        |view: &AttemptView| view.attempt == Some(id) && (view.resting || view.state == Phase::RollbackFailed.as_str());
    follow(host, is_over, async |watch, view| {
        if view.attempt != Some(id) {
            return client.post("/test/grant", &request).await;
        }
        if wanted.revert_in.is_some_and(|phase| phase.as_str() == view.state) {
            return watch.revert(&RevertRequest { rollout: ROLLOUT, attempt: id, to: baseline.clone() }).await;
        }
        if view.acceptable && (!wanted.late || crashed.exists()) {
            return watch.accept(&AcceptRequest { attempt: id }).await;
        }
        if wanted.contacts {
            return watch.contact(&ContactRequest { attempt: id, index: 1, leader: "test".to_owned() }).await;
        }
        Ok(view)
    })
    .await
}

/// Waits until nothing is under way.
async fn settle(host: &mut Host) -> Result<(), String> {
    follow(host, |view| view.resting, async |_, view| Ok(view)).await
}

/// Keeps the daemon running and speaks to it until `is_over`. What it answers
/// does not matter: the next look decides.
async fn follow(
    host: &mut Host,
    is_over: impl Fn(&AttemptView) -> bool,
    mut speak: impl AsyncFnMut(&WatchClient, AttemptView) -> Result<AttemptView, ApiError>,
) -> Result<(), String> {
    let deadline = Instant::now() + LIMIT;
    let watch = WatchClient::new(host.client());
    let mut last = String::new();
    while Instant::now() < deadline {
        host.keep_watch_running();
        match watch.attempt().await {
            Ok(view) if is_over(&view) => return Ok(()),
            Ok(view) => {
                last = format!("{view:?}");
                if let Err(error) = speak(&watch, view).await {
                    last = format!("{last} {error}");
                }
            }
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(BEAT).await;
    }
    Err(format!("did not end in {LIMIT:?}; last: {last}"))
}

async fn host_baseline(watch: &WatchClient) -> Result<osmoda_types::StorePath, ApiError> {
    let view = watch.attempt().await?;
    view.baseline.ok_or_else(|| ApiError::new(ErrorCode::AttemptUnknown, "no attempt"))
}

/// The heart of it: journal, running system and boot default agree.
fn check_end(host: &Host) -> Result<(), String> {
    let state: State = host.state();
    let (running, default) = host.observed();
    let Some(Attempt { plan: Plan { target, baseline, undo, .. }, .. }) = state.attempt.as_ref() else {
        return Err("no attempt is in the journal".to_owned());
    };
    // A deferred attempt has changed nothing; an undo begins on its target.
    let untouched = if undo.is_some() { target } else { baseline };
    let (wanted_running, wanted_default) = match state.phase {
        Phase::Committed => (Some(target), target),
        Phase::RolledBack => (Some(baseline), baseline),
        Phase::Deferred => (Some(untouched), untouched),
        // The baseline refuses to be activated; it is still what boots.
        Phase::RollbackFailed | Phase::Quarantined => (None, baseline),
        other => return Err(format!("ended in {other}")),
    };
    if &default != wanted_default || wanted_running.is_some_and(|wanted| &running != wanted) {
        return Err(format!("{}: runs {running}, boots {default}", state.phase));
    }
    Ok(())
}

fn serve_ledger(host: &Host, tasks: &Tasks) {
    let listener = tokio::net::UnixListener::bind(host.path().join("agentd.sock")).unwrap();
    serve_unix(tasks, "agentd", listener, host.ledger.router(), callers());
}
