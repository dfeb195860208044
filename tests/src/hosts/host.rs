//! One running host: its processes, its address, and commands inside it.
//!
//! Invariant: a host is ended only when the process with its recorded id was
//! also started at the recorded moment; an id that was reused is left alone.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use osmoda_kit::http::{Credentials, UnixClient};
use osmoda_kit::process::{Spec, start_detached};
use rustix::process::{Pid, Signal, kill_process};

use super::cell::CellSpec;
use super::command::{run, run_within, until};
use super::network;

/// A host with systemd boots in two to five seconds; ten hosts at once in a minute.
const BOOT_TIME_MAX: Duration = Duration::from_secs(90);

/// A killed namespace is gone as soon as the kernel has reaped its processes.
const END_TIME_MAX: Duration = Duration::from_secs(20);

/// A daemon answers in milliseconds; during an election a proposal takes seconds.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

/// What a host runs, would boot, and has as its profile's generation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Systems {
    /// `/run/current-system`.
    pub(super) runs: Option<String>,
    /// The boot default.
    pub(super) boots: Option<String>,
    /// The generation of the system profile.
    pub(super) profile: Option<String>,
}

/// What is remembered of a host between two runs of the program.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Host {
    /// From 1.
    pub(super) index: u8,
    /// The bed's tag.
    pub(super) tag: String,
    /// The process that holds the namespaces, with the moment it was started
    /// (clock ticks since boot).
    pub(super) leader: Option<(i32, u64)>,
    /// PID 1 of the host, as the machine numbers it.
    pub(super) init: Option<i32>,
}

impl Host {
    /// A host that has not been started.
    pub(super) fn new(tag: &str, index: u8) -> Self {
        Self { index, tag: tag.to_owned(), leader: None, init: None }
    }

    /// Its name, inside and outside.
    pub(super) fn name(&self) -> String {
        format!("h{}", self.index)
    }

    /// Its address on the bridge.
    pub(super) fn address(&self) -> Ipv4Addr {
        network::address(&self.tag, self.index)
    }

    /// Starts it and waits until systemd says that it is running.
    pub(super) async fn start(&mut self, spec: &CellSpec) -> anyhow::Result<()> {
        let own = std::env::current_exe().context("finding this program")?;
        let description = serde_json::to_string(spec).context("writing the cell's description")?;
        // An own session, so that ending this program does not end the host.
        let child = start_detached(&Spec::new("/usr/bin/setsid").args([
            own.into_os_string(),
            "cell-enter".into(),
            description.into(),
        ]))?;
        let leader = child.id().context("the host's first process has ended")?.cast_signed();
        self.leader = Some((leader, start_moment(leader).context("the host's first process has ended")?));
        let init = until("the host's PID 1", BOOT_TIME_MAX, || async move { child_of(leader) }).await?;
        self.init = Some(init);
        let host = &*self;
        until("systemd on the host", BOOT_TIME_MAX, || async move {
            // The exit code only says whether the state is `running`.
            let state = host.run_any(&["systemctl", "is-system-running"]).await?;
            match state.trim() {
                "running" | "degraded" => Ok(Some(())),
                _ => Ok(None),
            }
        })
        .await
    }

    /// Runs a program inside and returns what it printed; failure is an error.
    pub(super) async fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        self.run_within(command, Duration::from_secs(60)).await
    }

    /// Like [`Host::run`], with another time limit.
    pub(super) async fn run_within(&self, command: &[&str], limit: Duration) -> anyhow::Result<String> {
        let init = self.init.context("the host is not running")?.to_string();
        let mut words = vec!["-t", &init, "-p", "-m", "-u", "-i", "-n", "-C", "-r", "-w", "--"];
        words.extend(command);
        run_within("nsenter", &words, limit).await.with_context(|| format!("on host {}", self.name()))
    }

    /// Runs a program inside and returns what it printed, however it ended.
    pub(super) async fn run_any(&self, command: &[&str]) -> anyhow::Result<String> {
        let mut words = vec!["sh", "-c", "\"$@\" 2>&1; true", "sh"];
        words.extend(command);
        self.run(&words).await
    }

    /// A file of the host, as the machine sees it.
    pub(super) fn file(&self, path: &str) -> anyhow::Result<PathBuf> {
        let init = self.init.context("the host is not running")?;
        Ok(PathBuf::from(format!("/proc/{init}/root")).join(path.trim_start_matches('/')))
    }

    /// A client of a daemon; to it the caller is root of the host.
    pub(super) fn client(&self, daemon: &str) -> anyhow::Result<UnixClient> {
        let socket = self.file("/run/osmoda")?.join(format!("{daemon}.sock"));
        Ok(UnixClient::new(socket, Credentials::none()).with_time_limit(ANSWER_TIME_MAX))
    }

    /// Reads a link inside, `None` where there is none.
    pub(super) fn link(&self, path: &str) -> anyhow::Result<Option<String>> {
        match std::fs::read_link(self.file(path)?) {
            Ok(target) => Ok(Some(target.to_string_lossy().into_owned())),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause).with_context(|| format!("reading {path} on host {}", self.name())),
        }
    }

    /// What the host runs, boots next, and has in its profile.
    pub(super) fn systems(&self) -> anyhow::Result<Systems> {
        let folder = Path::new("/nix/var/nix/profiles");
        let current = self.link("/nix/var/nix/profiles/system")?;
        let profile = match &current {
            Some(link) => self.link(&folder.join(link).to_string_lossy())?,
            None => None,
        };
        Ok(Systems { runs: self.link("/run/current-system")?, boots: self.link("/boot/default")?, profile })
    }

    /// Ends it at once, as a loss of power would, and waits until it is gone.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        self.init = None;
        let Some((id, moment)) = self.leader.take() else { return Ok(()) };
        let Some(pid) = Pid::from_raw(id) else { bail!("{id} is no process id") };
        if start_moment(id) != Some(moment) {
            return Ok(());
        }
        // Its death signal ends the host's PID 1, and with it the namespace.
        match kill_process(pid, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(cause) => return Err(cause).with_context(|| format!("ending process {id}")),
        }
        until("the host's end", END_TIME_MAX, || async move {
            Ok((start_moment(id) != Some(moment) || is_zombie(id)).then_some(()))
        })
        .await
    }
}

/// The only child of a process, once it has one that is not a copy of itself.
fn child_of(parent: i32) -> anyhow::Result<Option<i32>> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let Ok(list) = std::fs::read_to_string(&path) else { bail!("process {parent} has ended") };
    let Some(child) = list.split_whitespace().next() else { return Ok(None) };
    let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
    Ok((name.trim() == "systemd").then(|| child.parse().ok()).flatten())
}

fn start_moment(id: i32) -> Option<u64> {
    stat_field(id, 19)?.parse().ok()
}

fn is_zombie(id: i32) -> bool {
    stat_field(id, 0).as_deref() == Some("Z")
}

/// A field of `/proc/ID/stat`, counted from 0 after the name, which may hold spaces.
fn stat_field(id: i32, index: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(index).map(str::to_owned)
}

/// Removes a cgroup folder and everything below it; processes in it are gone.
pub(super) async fn remove_cgroup(folder: &Path) -> anyhow::Result<()> {
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    let mut next = 0;
    while next < folders.len() {
        let Ok(entries) = std::fs::read_dir(&folders[next]) else { return Ok(()) };
        let below = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir());
        folders.extend(below.collect::<Vec<_>>());
        next += 1;
    }
    for folder in folders.iter().rev() {
        let text = folder.to_str().context("a cgroup's name is not UTF-8")?;
        until("an empty cgroup", END_TIME_MAX, || async move {
            match std::fs::remove_dir(text) {
                Ok(()) => Ok(Some(())),
                Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(Some(())),
                // Killed processes leave it a moment later.
                Err(cause) if cause.kind() == std::io::ErrorKind::ResourceBusy => Ok(None),
                Err(cause) => Err(cause).with_context(|| format!("removing {text}")),
            }
        })
        .await?;
    }
    Ok(())
}

/// Whether a bed's network namespace is still there.
pub(super) async fn namespace_exists(name: &str) -> anyhow::Result<bool> {
    let list = run("ip", &["netns", "list"]).await?;
    Ok(list.lines().any(|line| line.split_whitespace().next() == Some(name)))
}
