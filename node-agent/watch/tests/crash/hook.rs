//! The observer that stops processes at one arrow of the journal.

use osmoda_journal::{GuardLock, Kind, LOCK_FILE, Observer, Phase, Record};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};

/// When, measured by the record of the arrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum When {
    /// Everything that leads to it is done, the record is not written.
    Before,
    /// The record is on the disk, nothing it leads to has begun.
    After,
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Victim {
    /// The daemon.
    Watch,
    /// The guard.
    Guard,
    /// Both.
    Both,
}

/// What is to happen, as `crash.json` in the root of the case.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(crate) struct Crash {
    pub from: Phase,
    pub kind: Kind,
    pub when: When,
    pub victim: Victim,
}

/// Written once the crash has happened.
pub(crate) const CRASHED: &str = "crashed";

/// Holds the daemon's process id.
pub(crate) const WATCH_PID: &str = "watch.pid";

pub(crate) struct Hook {
    root: PathBuf,
    crash: Crash,
}

impl Hook {
    pub(crate) fn new(root: &Path) -> Self {
        let crash = serde_json::from_slice(&std::fs::read(root.join("crash.json")).unwrap()).unwrap();
        Self { root: root.to_owned(), crash }
    }

    fn meet(&self, when: When, from: Phase, record: &Record) {
        let crash = &self.crash;
        if when != crash.when || from != crash.from || record.entry.kind() != Some(crash.kind) {
            return;
        }
        // Once per case, whichever process comes first.
        if std::fs::OpenOptions::new().create_new(true).write(true).open(self.root.join(CRASHED)).is_err() {
            return;
        }
        kill(&self.root, crash.victim);
    }
}

impl Observer for Hook {
    fn before(&self, from: Phase, record: &Record) {
        self.meet(When::Before, from, record);
    }

    fn after(&self, from: Phase, record: &Record) {
        self.meet(When::After, from, record);
    }
}

/// Kills the victims that live; this process last.
pub(crate) fn kill(root: &Path, victim: Victim) {
    let guard = GuardLock::holder(&root.join(LOCK_FILE)).unwrap().map(|holder| holder.pid);
    let watch = std::fs::read_to_string(root.join(WATCH_PID)).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let mut pids: Vec<u32> = match victim {
        Victim::Watch => watch.into_iter().collect(),
        Victim::Guard => guard.into_iter().collect(),
        Victim::Both => guard.into_iter().chain(watch).collect(),
    };
    pids.sort_by_key(|pid| *pid == std::process::id());
    for pid in pids {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        // It may have ended by itself.
        kill_process(pid, Signal::KILL).unwrap_or_default();
    }
}
