//! One case's host: a root directory, three toplevels, a ledger, and a
//! supervisor that starts the daemon again when it has died.

use crate::hook::{Crash, Victim, WATCH_PID, kill};
use crate::ledger::Ledger;
use osmoda_journal::generation::{Activation, GenerationStore, Runner, SymlinkStore};
use osmoda_journal::{GuardLock, HostClock, JOURNAL_FILE, Journal, LOCK_FILE, Origin, Periods, Plan, State};
use osmoda_kit::http::{Credentials, UnixClient};
use osmoda_types::{FleetEpoch, RolloutId, StorePath};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// The rollout every fleet attempt belongs to.
pub(crate) const ROLLOUT: RolloutId = RolloutId::from_bytes([7; 16]);

pub(crate) struct Host {
    root: tempfile::TempDir,
    watch: Option<Child>,
    pub starts: u32,
    pub ledger: Ledger,
}

impl Host {
    /// A host that runs and boots toplevel `a`.
    pub(crate) fn new(crash: Crash) -> Self {
        let root = tempfile::Builder::new().prefix("crash").tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run")).unwrap();
        std::fs::write(root.path().join("boot_id"), "boot-1").unwrap();
        std::fs::write(root.path().join("crash.json"), serde_json::to_vec(&crash).unwrap()).unwrap();
        let host = Self { root, watch: None, starts: 0, ledger: Ledger::default() };
        for name in ["a", "b", "c"] {
            host.make_toplevel(name);
        }
        host.make_guard();
        host.set_flag("well", true);
        host.store().set(&host.toplevel("a")).unwrap();
        host.run_toplevel("a");
        host
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn toplevel(&self, name: &str) -> StorePath {
        StorePath::new(self.path().join("store").join(name).to_string_lossy().into_owned()).unwrap()
    }

    /// `test` takes a moment, fails when `fail-test-NAME` exists, and else
    /// becomes the running system; `boot` fails when `fail-boot-NAME` exists.
    fn make_toplevel(&self, name: &str) {
        let toplevel = self.toplevel(name);
        let folder = toplevel.as_path().join("bin");
        std::fs::create_dir_all(&folder).unwrap();
        let body = format!(
            "#!/bin/sh\n\
             echo \"{name} $1\" >> \"$OSMODA_HOST_ROOT/activations\"\n\
             [ -e \"$OSMODA_HOST_ROOT/fail-$1-{name}\" ] && exit 1\n\
             [ \"$1\" = boot ] && exit 0\n\
             sleep 0.3\n\
             ln -sfn {} \"$OSMODA_HOST_ROOT/run/current-system\"\n",
            toplevel.as_str()
        );
        write_program(&folder.join("switch-to-configuration"), &body);
    }

    /// The guard is this test program again, with the hook in its journal.
    fn make_guard(&self) {
        let own = std::env::current_exe().unwrap();
        let body = format!(
            "#!/bin/sh\nCRASH_ROOT={} CRASH_GUARD=\"$*\" exec {} --exact child_guard --nocapture\n",
            self.path().display(),
            own.display()
        );
        write_program(&self.guard_program(), &body);
    }

    pub(crate) fn guard_program(&self) -> PathBuf {
        self.path().join("guard.sh")
    }

    pub(crate) fn store(&self) -> SymlinkStore {
        SymlinkStore::new(self.path().join("profiles/system"))
    }

    pub(crate) fn activation(&self) -> Activation {
        Activation::new(self.path(), self.path(), Runner::Process)
    }

    /// What the host runs and what it would boot.
    pub(crate) fn observed(&self) -> (StorePath, StorePath) {
        (self.activation().running().unwrap().unwrap(), self.store().current().unwrap().unwrap())
    }

    pub(crate) fn run_toplevel(&self, name: &str) {
        let link = self.path().join("run/current-system");
        std::fs::remove_file(&link).unwrap_or_default();
        std::os::unix::fs::symlink(self.toplevel(name).as_path(), link).unwrap();
    }

    pub(crate) fn set_flag(&self, name: &str, is_set: bool) {
        let path = self.path().join(name);
        if is_set {
            std::fs::write(path, "").unwrap();
        } else {
            std::fs::remove_file(path).unwrap_or_default();
        }
    }

    pub(crate) fn journal(&self) -> Journal {
        Journal::new(self.path().join(JOURNAL_FILE))
    }

    pub(crate) fn state(&self) -> State {
        self.journal().read().unwrap().clone()
    }

    pub(crate) fn clock(&self) -> HostClock {
        HostClock::new(self.path().join("boot_id"))
    }

    pub(crate) fn plan(&self, baseline: &str, target: &str) -> Plan {
        let check = serde_json::json!({"type": "command", "cmd": "/usr/bin/test", "args": ["-e", "well"]});
        Plan {
            epoch: FleetEpoch(1),
            origin: Origin::Fleet,
            rollout: Some(ROLLOUT),
            manifest: None,
            session: None,
            target: self.toplevel(target),
            baseline: self.toplevel(baseline),
            periods: Periods {
                healthy_ms: 200,
                check_deadline_ms: 1_500,
                dead_man_ms: Some(2_500),
                activation_ms: 5_000,
                accept_ms: None,
            },
            contacts_required: 2,
            checks: vec![check],
            undo: None,
        }
    }

    pub(crate) fn client(&self) -> UnixClient {
        UnixClient::new(self.path().join("watch.sock"), Credentials::none())
    }

    /// Starts the daemon if it does not run.
    pub(crate) fn keep_watch_running(&mut self) {
        if let Some(watch) = &mut self.watch
            && watch.try_wait().unwrap().is_none()
        {
            return;
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path().join("watch.log")).unwrap();
        let mut command = own_program("child_watch");
        command.env("CRASH_ROOT", self.path()).env("CRASH_WATCH", "1");
        let watch = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        std::fs::write(self.path().join(WATCH_PID), watch.id().to_string()).unwrap();
        self.watch = Some(watch);
        self.starts += 1;
    }

    /// Takes the power away and boots what the profile says.
    pub(crate) fn reboot(&mut self) {
        self.stop();
        let boots = self.starts + 100;
        std::fs::write(self.path().join("boot_id"), format!("boot-{boots}")).unwrap();
        let default = self.store().current().unwrap().unwrap();
        self.run_toplevel(default.name());
    }

    pub(crate) fn stop(&mut self) {
        kill(self.path(), Victim::Both);
        if let Some(mut watch) = self.watch.take() {
            watch.kill().unwrap();
            watch.wait().unwrap();
        }
        self.activation().stop().unwrap();
    }

    /// Starts a guard as the daemon would, and waits for its acknowledgement.
    pub(crate) fn start_guard(&self) -> Child {
        let options = osmoda_guard::Options {
            attempt: osmoda_types::AttemptId(1),
            state_dir: self.path().into(),
            host_root: self.path().into(),
            profile: self.path().join("profiles/system"),
            store: osmoda_journal::generation::StoreKind::Symlink,
            runner: Runner::Process,
            boot_id: self.path().join("boot_id"),
        };
        let guard = program(&self.guard_program()).args(options.to_args()).stdin(Stdio::null()).spawn().unwrap();
        let lock = self.path().join(LOCK_FILE);
        crate::wait_until("the guard's acknowledgement", || GuardLock::holder(&lock).unwrap().is_some());
        guard
    }

    pub(crate) fn logs(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.path().join(name)).unwrap_or_default();
        format!("journal:\n{}\nactivations:\n{}\nwatch:\n{}", read("journal"), read("activations"), read("watch.log"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}

fn write_program(path: &Path, body: &str) {
    std::fs::write(path, body).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn own_program(test: &str) -> std::process::Command {
    let mut command = program(&std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    command
}

#[expect(clippy::disallowed_methods, reason = "the test plays the service manager")]
fn program(path: &Path) -> std::process::Command {
    std::process::Command::new(path)
}
