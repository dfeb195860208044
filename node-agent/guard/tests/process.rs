//! The real program on a real journal.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it with the line that surprised them")]

use osmoda_guard::Options;
use osmoda_journal::generation::{Action, Activation, GenerationStore, Runner, StoreKind, SymlinkStore};
use osmoda_journal::{
    ALARM_FILE, Cause, Entry, GuardLock, HostClock, JOURNAL_FILE, Journal, LOCK_FILE, Origin, Periods, Phase, Plan,
    Writer,
};
use osmoda_kit::testing::look_until;
use osmoda_types::{AttemptId, ErrorCode, FleetEpoch, StorePath};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const ATTEMPT: AttemptId = AttemptId(1);

/// How long contact may be lost where the test is about something else: longer
/// than anything here takes.
const DEAD_MAN_MS: u64 = 60_000;

struct Host {
    root: tempfile::TempDir,
    journal: Journal,
    a: StorePath,
    b: StorePath,
}

impl Host {
    fn new() -> Self {
        Self::with_dead_man(DEAD_MAN_MS)
    }

    fn with_dead_man(dead_man_ms: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run")).unwrap();
        std::fs::write(root.path().join("boot_id"), "one").unwrap();
        let make = |name: &str| {
            let path = root.path().join("store").join(name);
            std::fs::create_dir_all(path.join("bin")).unwrap();
            let program = path.join("bin/switch-to-configuration");
            let body = format!("#!/bin/sh\nln -sfn {} \"$OSMODA_HOST_ROOT/run/current-system\"\n", path.display());
            std::fs::write(&program, body).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            StorePath::new(path.to_string_lossy().into_owned()).unwrap()
        };
        let (a, b) = (make("a"), make("b"));
        let journal = Journal::new(root.path().join(JOURNAL_FILE));
        let mut host = Self { root, journal, a, b };
        SymlinkStore::new(host.root.path().join("profiles/system")).set(&host.a).unwrap();
        host.write(host.grant(dead_man_ms));
        host
    }

    fn grant(&self, dead_man_ms: u64) -> Entry {
        Entry::Granted(Box::new(Plan {
            epoch: FleetEpoch(1),
            origin: Origin::Fleet,
            rollout: None,
            manifest: None,
            session: None,
            target: self.b.clone(),
            baseline: self.a.clone(),
            periods: Periods {
                healthy_ms: 100,
                check_deadline_ms: 60_000,
                dead_man_ms: Some(dead_man_ms),
                activation_ms: 10_000,
                accept_ms: None,
            },
            contacts_required: 2,
            checks: Vec::new(),
            undo: None,
        }))
    }

    fn write(&mut self, entry: Entry) {
        let at = HostClock::new(self.root.path().join("boot_id")).now().unwrap();
        self.journal.append(Writer::Watch, ATTEMPT, at, entry).unwrap();
    }

    fn activation(&self) -> Activation {
        Activation::new(self.root.path(), self.root.path(), Runner::Process)
    }

    fn activate_target(&self) {
        assert!(self.activation().run(&self.b, Action::Test, LIMIT).unwrap().success());
    }

    fn running(&self) -> StorePath {
        self.activation().running().unwrap().unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "the test plays the daemon that starts the guard")]
    fn start(&self) -> Child {
        let options = Options {
            attempt: ATTEMPT,
            state_dir: self.root.path().into(),
            host_root: self.root.path().into(),
            profile: self.root.path().join("profiles/system"),
            store: StoreKind::Symlink,
            runner: Runner::Process,
            boot_id: self.root.path().join("boot_id"),
        };
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_osmoda-guard"));
        command.args(options.to_args()).env_clear().stdin(Stdio::null()).spawn().unwrap()
    }

    /// A guard that has acknowledged and is armed.
    fn start_armed(&mut self) -> Child {
        let guard = self.start();
        self.wait_for_ack(&guard);
        self.write(Entry::Armed { guard_pid: guard.id(), failing_before: Vec::new(), failed_units: Vec::new() });
        guard
    }

    fn wait_for_ack(&self, guard: &Child) {
        let acknowledged = || {
            let holder = GuardLock::holder(&self.root.path().join(LOCK_FILE))?;
            Ok::<_, std::io::Error>(
                holder.filter(|holder| holder.pid == guard.id() && holder.attempt == ATTEMPT).map(drop),
            )
        };
        look_until(LIMIT, acknowledged).unwrap().expect("an acknowledgement in time");
    }
}

#[test]
fn lost_contact_restores_the_baseline_without_anyone() {
    let mut host = Host::with_dead_man(3_000);
    let mut guard = host.start_armed();
    host.write(Entry::Activating);
    host.activate_target();
    // While it is activated, no contact is asked for.
    assert_eq!(host.running(), host.b);
    host.write(Entry::Probation { exit: Some(0) });
    assert!(guard.wait().unwrap().success());
    let state = host.journal.read().unwrap().clone();
    assert_eq!(state.phase, Phase::RolledBack);
    assert_eq!(state.attempt.unwrap().cause.unwrap().code, ErrorCode::GuardFired);
    assert_eq!(host.running(), host.a);
    assert!(GuardLock::holder(&host.root.path().join(LOCK_FILE)).unwrap().is_none());
}

#[test]
fn a_recorded_rollback_is_carried_out() {
    let mut host = Host::new();
    let mut guard = host.start_armed();
    host.write(Entry::Activating);
    host.activate_target();
    host.write(Entry::RollingBack(Cause::new(ErrorCode::CheckFailed, "by the daemon")));
    assert!(guard.wait().unwrap().success());
    assert_eq!(host.journal.read().unwrap().phase, Phase::RolledBack);
    assert_eq!(host.running(), host.a);
}

#[test]
fn a_restart_of_the_host_is_a_reason_of_its_own() {
    let mut host = Host::new();
    let mut guard = host.start_armed();
    std::fs::write(host.root.path().join("boot_id"), "two").unwrap();
    guard.wait().unwrap();
    let cause = host.journal.read().unwrap().attempt.clone().unwrap().cause.unwrap();
    assert!(cause.detail.contains("restarted"), "{}", cause.detail);
}

#[test]
fn without_a_way_back_there_is_no_acknowledgement() {
    let host = Host::new();
    std::fs::remove_file(host.a.as_path().join("bin/switch-to-configuration")).unwrap();
    assert_eq!(host.start().wait().unwrap().code(), Some(1));
    let alarm = std::fs::read_to_string(host.root.path().join(ALARM_FILE)).unwrap();
    assert!(alarm.contains("could not be restored"), "{alarm}");
}

#[test]
fn a_damaged_journal_stops_the_guard_and_changes_nothing() {
    let mut host = Host::new();
    let mut guard = host.start_armed();
    host.activate_target();
    // Appended, as the journal is written: the guard sees no half of the file.
    let mut journal = std::fs::OpenOptions::new().append(true).open(host.root.path().join(JOURNAL_FILE)).unwrap();
    journal.write_all(b"OMJ1 3 nonsense\n").unwrap();
    assert_eq!(guard.wait().unwrap().code(), Some(1));
    assert_eq!(host.running(), host.b, "the host stays on what it runs");
    assert!(host.root.path().join(ALARM_FILE).exists());
}

#[test]
fn a_second_guard_finds_the_place_taken() {
    let host = Host::new();
    let mut first = host.start();
    host.wait_for_ack(&first);
    assert_eq!(host.start().wait().unwrap().code(), Some(1));
    assert!(!host.root.path().join(ALARM_FILE).exists(), "that is no alarm");
    first.kill().unwrap();
    first.wait().unwrap();
}
