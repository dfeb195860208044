//! What the machine must offer before a host can be started.
//!
//! All missing things are named at once. Nothing is installed here; that is a
//! task's business (`cargo xtask hosts`).

use std::path::{Path, PathBuf};

use super::command::find;

/// Programs of the machine, each with the distribution package it comes in.
const PROGRAMS: &[(&str, &str)] = &[
    ("debootstrap", "debootstrap"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setsid", "util-linux"),
];

/// Lists what is missing; empty means hosts can be started.
#[must_use]
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root".to_owned());
    }
    for (program, package) in PROGRAMS.iter().filter(|(program, _)| find(program).is_none()) {
        missing.push(format!("program {program} (package {package})"));
    }
    if cgroup2_mount().is_none() {
        missing.push("a mounted cgroup2 hierarchy".to_owned());
    }
    let overlay = std::fs::read_to_string("/proc/filesystems")
        .is_ok_and(|list| list.lines().any(|line| line.ends_with("overlay")));
    if !overlay {
        missing.push("overlay file systems in the kernel".to_owned());
    }
    for namespace in ["pid", "mnt", "net", "uts", "ipc", "cgroup"] {
        if !Path::new("/proc/self/ns").join(namespace).exists() {
            missing.push(format!("{namespace} namespaces in the kernel"));
        }
    }
    missing
}

/// Where the machine's cgroup2 hierarchy is mounted; beside v1 it is often not
/// at the usual place.
pub(super) fn cgroup2_mount() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })
}
