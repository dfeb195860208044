//! Profiles, activations and the restore, with plain links and shell scripts.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it with the line that surprised them")]

use osmoda_journal::generation::{
    Action, Activation, ActivationError, Generation, GenerationStore, RESTORE_TRIES, Runner, SymlinkStore, restore,
};
use osmoda_journal::{Cause, Entry, HostClock, Journal, Moment, Origin, Periods, Phase, Plan, Writer};
use osmoda_kit::testing::look_until;
use osmoda_types::{AttemptId, ErrorCode, FleetEpoch, StorePath};
use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// A toplevel whose program runs `body`.
fn toplevel(root: &Path, name: &str, body: &str) -> StorePath {
    let path = root.join("store").join(name);
    std::fs::create_dir_all(path.join("bin")).unwrap();
    let program = path.join("bin/switch-to-configuration");
    std::fs::write(&program, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    StorePath::new(path.to_string_lossy().into_owned()).unwrap()
}

/// The usual program: notes the action, and makes itself the running system on `test`.
fn good(root: &Path, name: &str) -> StorePath {
    let body = format!(
        "echo \"{name} $1\" >> \"$OSMODA_HOST_ROOT/log\"\n\
         [ \"$1\" = boot ] || ln -sfn {} \"$OSMODA_HOST_ROOT/run/current-system\"",
        root.join("store").join(name).display()
    );
    toplevel(root, name, &body)
}

fn wait(what: &str, mut happened: impl FnMut() -> bool) {
    let Ok(found) = look_until(LIMIT, || Ok::<_, Infallible>(happened().then_some(())));
    found.unwrap_or_else(|| panic!("not in time: {what}"));
}

struct Host {
    root: tempfile::TempDir,
    store: SymlinkStore,
    activation: Activation,
    journal: Journal,
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run")).unwrap();
        let store = SymlinkStore::new(root.path().join("profiles/system"));
        let activation = Activation::new(root.path(), root.path(), Runner::Process);
        let journal = Journal::new(root.path().join("journal"));
        Self { root, store, activation, journal }
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    fn write(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let at = HostClock::default().now().unwrap();
            self.journal.append(Writer::Watch, AttemptId(1), at, entry).unwrap();
        }
    }

    fn restore(&mut self) -> osmoda_journal::generation::Restored {
        restore(&mut self.journal, Writer::Guard, &HostClock::default(), &self.store, &self.activation).unwrap()
    }
}

fn plan(baseline: &StorePath, target: &StorePath) -> Entry {
    Entry::Granted(Box::new(Plan {
        epoch: FleetEpoch(1),
        origin: Origin::Fleet,
        rollout: None,
        manifest: None,
        session: None,
        target: target.clone(),
        baseline: baseline.clone(),
        periods: Periods {
            healthy_ms: 1,
            check_deadline_ms: 1,
            dead_man_ms: None,
            activation_ms: 20_000,
            accept_ms: None,
        },
        contacts_required: 0,
        checks: Vec::new(),
        undo: None,
    }))
}

fn armed() -> Entry {
    Entry::Armed { guard_pid: 1, failing_before: Vec::new(), failed_units: Vec::new() }
}

fn cause() -> Cause {
    Cause::new(ErrorCode::CheckFailed, "test")
}

#[test]
fn generations_are_numbered_as_nix_numbers_them() {
    let host = Host::new();
    let (a, b) = (good(host.path(), "a"), good(host.path(), "b"));
    assert_eq!(host.store.current().unwrap(), None);
    for toplevel in [&a, &b, &b, &a, &a, &b] {
        host.store.set(toplevel).unwrap();
        assert_eq!(host.store.current().unwrap().as_ref(), Some(toplevel));
    }
    let numbers: Vec<(u64, bool)> = host.store.list().unwrap().iter().map(|g| (g.number, g.current)).collect();
    assert_eq!(numbers, [(1, false), (2, false), (3, false), (4, true)]);
    let last = host.store.list().unwrap().pop();
    assert_eq!(last, Some(Generation { number: 4, toplevel: b.clone(), current: true }));
    // An older generation is current, and the highest already holds what is set.
    let profile = host.path().join("profiles/system");
    std::fs::remove_file(&profile).unwrap();
    std::os::unix::fs::symlink("system-1-link", &profile).unwrap();
    host.store.set(&b).unwrap();
    assert_eq!(host.store.list().unwrap().len(), 4);
    assert_eq!(host.store.current().unwrap(), Some(b));
}

#[test]
fn a_toplevel_without_its_program_is_missing() {
    let host = Host::new();
    let nowhere = StorePath::new("/nowhere/at-all").unwrap();
    assert_eq!(host.store.verify(&nowhere).unwrap_err().code(), ErrorCode::ClosureMissing);
    let there = good(host.path(), "a");
    host.store.verify(&there).unwrap();
    let program = there.as_path().join("bin/switch-to-configuration");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(host.store.verify(&there).unwrap_err().code(), ErrorCode::ClosureMissing);
}

#[test]
fn an_activation_gets_only_the_host_root() {
    let host = Host::new();
    let shows = toplevel(host.path(), "env", "/usr/bin/env; pwd; exit 4");
    let ended = host.activation.run(&shows, Action::Test, LIMIT).unwrap();
    assert_eq!(ended.code(), 4);
    let mut names: Vec<&str> =
        ended.output.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.retain(|name| *name != "PWD" && *name != "_");
    assert_eq!(names, ["OSMODA_HOST_ROOT"], "{}", ended.output);
    assert!(ended.output.contains(&host.path().display().to_string()));
}

#[test]
fn a_hanging_activation_is_stopped_with_all_its_children() {
    let host = Host::new();
    let hangs = toplevel(host.path(), "hang", "sleep 600 & echo $! > \"$OSMODA_HOST_ROOT/child\"; sleep 600");
    // Time enough to start on a busy machine.
    let ended = host.activation.run(&hangs, Action::Test, Duration::from_secs(3)).unwrap();
    assert!(ended.timed_out && !ended.success());
    let child = std::fs::read_to_string(host.path().join("child")).unwrap();
    let gone =
        || std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).map_or(true, |stat| stat.contains(") Z"));
    wait(&format!("the end of child {child}"), gone);
}

#[test]
fn an_activation_whose_parent_forgot_it_is_found_joined_and_stopped() {
    let host = Host::new();
    let waits = toplevel(host.path(), "wait", "echo up > \"$OSMODA_HOST_ROOT/up\"; sleep 600");
    let other = host.activation.clone();
    let run = std::thread::spawn(move || other.run(&waits, Action::Test, LIMIT));
    wait("the activation's sign", || host.path().join("up").exists());
    assert!(host.activation.is_busy().unwrap());
    let again = good(host.path(), "a");
    assert!(matches!(host.activation.run(&again, Action::Test, LIMIT), Err(ActivationError::LockBusy)));
    host.activation.stop().unwrap();
    assert!(!host.activation.is_busy().unwrap());
    assert_eq!(run.join().unwrap().unwrap().code(), 137);
    assert!(host.activation.join(LIMIT).unwrap().is_none());
}

#[test]
fn an_activation_that_was_withdrawn_meanwhile_does_not_start() {
    let host = Host::new();
    let a = good(host.path(), "a");
    let withdrawn = host.activation.run_if(&a, Action::Test, LIMIT, || false);
    assert!(matches!(withdrawn, Err(ActivationError::Withdrawn)));
    assert_eq!(host.log(), "");
}

#[test]
fn a_restore_brings_profile_boot_default_and_running_system_back() {
    let mut host = Host::new();
    let (a, b) = (good(host.path(), "a"), good(host.path(), "b"));
    host.store.set(&a).unwrap();
    host.write(vec![
        plan(&a, &b),
        armed(),
        Entry::Activating,
        Entry::Probation { exit: Some(0) },
        Entry::Ready,
        Entry::Accepted,
        Entry::Committing,
    ]);
    host.store.set(&b).unwrap();
    host.activation.run(&b, Action::Test, LIMIT).unwrap();
    host.write(vec![Entry::Committed, Entry::Reverting(cause())]);
    let restored = host.restore();
    assert_eq!(restored.phase, Phase::RolledBack, "{}", restored.detail);
    assert_eq!(host.store.current().unwrap(), Some(a.clone()));
    assert_eq!(host.activation.running().unwrap(), Some(a));
    assert_eq!(host.log(), "b test\na boot\na test\n");
    assert_eq!(host.store.list().unwrap().len(), 3, "the generation that was left stays listed");
    assert_eq!(host.restore().phase, Phase::RolledBack, "a second restore does nothing");
    assert_eq!(host.log(), "b test\na boot\na test\n");
}

#[test]
fn nothing_runs_when_nothing_had_been_activated() {
    let mut host = Host::new();
    let (a, b) = (good(host.path(), "a"), good(host.path(), "b"));
    host.store.set(&a).unwrap();
    host.activation.run(&a, Action::Test, LIMIT).unwrap();
    host.write(vec![plan(&a, &b), armed(), Entry::RollingBack(cause())]);
    assert_eq!(host.restore().phase, Phase::RolledBack);
    assert_eq!(host.log(), "a test\n");
}

#[test]
fn a_restore_that_fails_is_recorded_as_failed() {
    let mut host = Host::new();
    let b = good(host.path(), "b");
    let a = toplevel(host.path(), "a", "echo try >> \"$OSMODA_HOST_ROOT/log\"; exit 1");
    host.store.set(&a).unwrap();
    host.write(vec![plan(&a, &b), armed(), Entry::Activating, Entry::RollingBack(cause())]);
    let restored = host.restore();
    assert_eq!(restored.phase, Phase::RollbackFailed);
    assert_eq!(host.log().lines().count() as u32, RESTORE_TRIES);
    assert!(restored.detail.contains("instead of"), "{}", restored.detail);
}

#[test]
fn a_program_that_changes_nothing_is_not_believed() {
    let mut host = Host::new();
    let b = good(host.path(), "b");
    let a = toplevel(host.path(), "a", "exit 0");
    host.store.set(&a).unwrap();
    host.activation.run(&b, Action::Test, LIMIT).unwrap();
    host.write(vec![plan(&a, &b), armed(), Entry::Activating, Entry::RollingBack(cause())]);
    assert_eq!(host.restore().phase, Phase::RollbackFailed);
}

#[test]
fn moments_of_two_boots_do_not_compare() {
    let moment = |boot: &str, boot_ms| Moment { boot_id: boot.to_owned(), boot_ms, wall_ms: 0 };
    assert_eq!(moment("a", 50).since(&moment("a", 20)), Some(Duration::from_millis(30)));
    assert_eq!(moment("b", 50).since(&moment("a", 20)), None);
}
