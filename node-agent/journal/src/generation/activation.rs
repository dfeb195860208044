//! Activates a generation: runs `<toplevel>/bin/switch-to-configuration`.
//!
//! Only `test` and `boot` are ever used: `switch` would make a system the boot
//! default before a single unit of it has been started. The activation runs
//! outside the daemon that asked for it, because it may restart that daemon:
//! in a transient systemd unit, or in its own process group whose standard
//! input is a marker file, by which it can be found again after its parent
//! has died.

use super::program::{Ended, Program, ProgramError, Started, find_program};
use osmoda_types::{ErrorCode, StorePath};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The name NixOS itself uses, so that a person's `nixos-rebuild` and ours
/// exclude each other.
const UNIT: &str = "nixos-rebuild-switch-to-configuration.service";

/// One question to the service manager. It answers in milliseconds; during its
/// own re-execution, which an activation may cause, in seconds.
const SYSTEMCTL_TIME_MAX: Duration = Duration::from_secs(30);

/// How often a running activation is looked at. Bounds the delay added to an
/// activation, which takes seconds.
const POLL: Duration = Duration::from_millis(100);

/// How long killed processes may take to disappear.
const KILL_TIME_MAX: Duration = Duration::from_secs(10);

/// What runs the activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runner {
    /// A transient unit of the service manager.
    Systemd,
    /// An own process group; always used when the host root is not `/`.
    Process,
}

impl Runner {
    /// The stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Runner::Systemd => "systemd",
            Runner::Process => "process",
        }
    }
}

/// What `switch-to-configuration` is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Activate now; the boot default stays.
    Test,
    /// Make it the boot default; nothing is activated.
    Boot,
}

impl Action {
    const fn as_str(self) -> &'static str {
        match self {
            Action::Test => "test",
            Action::Boot => "boot",
        }
    }
}

/// Why an activation could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// Somebody else is activating.
    #[error("another activation holds the host's switch lock")]
    LockBusy,
    /// The journal does not ask for this activation any more.
    #[error("the activation is not wanted any more")]
    Withdrawn,
    /// A program did not run.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The service manager refused.
    #[error("the service manager refused: {0}")]
    Refused(String),
    /// This host has no service manager.
    #[error("{0} is not installed, so the process runner must be chosen")]
    NoSystemd(&'static str),
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// What the host says it runs is no store path.
    #[error("the running system is no store path")]
    Foreign(#[from] osmoda_types::StorePathError),
}

impl ActivationError {
    /// The code for the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            ActivationError::LockBusy => ErrorCode::LockBusy,
            ActivationError::NoSystemd(_) => ErrorCode::NoSystemd,
            _ => ErrorCode::ActivationFailed,
        }
    }
}

/// The activation machinery of one host.
#[derive(Debug, Clone)]
pub struct Activation {
    host_root: PathBuf,
    state_dir: PathBuf,
    runner: Runner,
}

impl Activation {
    /// For the host whose root is `host_root`; marker and log live in `state_dir`.
    #[must_use]
    pub fn new(host_root: impl Into<PathBuf>, state_dir: impl Into<PathBuf>, runner: Runner) -> Self {
        Self { host_root: host_root.into(), state_dir: state_dir.into(), runner }
    }

    /// What runs activations here.
    #[must_use]
    pub fn runner(&self) -> Runner {
        self.runner
    }

    /// The root of the host.
    #[must_use]
    pub fn host_root(&self) -> &Path {
        &self.host_root
    }

    /// What was last activated on this host.
    ///
    /// # Errors
    /// [`ActivationError`] when that cannot be told.
    pub fn running(&self) -> Result<Option<StorePath>, ActivationError> {
        let path = self.host_root.join("run/current-system");
        match std::fs::read_link(&path) {
            Ok(target) => Ok(Some(StorePath::new(target.to_string_lossy().into_owned())?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ActivationError::Io { action: "read", path, source }),
        }
    }

    /// Whether somebody is activating right now, we or a person.
    ///
    /// # Errors
    /// [`ActivationError`] when that cannot be told.
    pub fn is_busy(&self) -> Result<bool, ActivationError> {
        if self.switch_lock_is_held()? || !self.leaders()?.is_empty() {
            return Ok(true);
        }
        Ok(self.runner == Runner::Systemd && self.unit()?.is_running())
    }

    /// Runs `switch-to-configuration ACTION` of `toplevel` to its end.
    ///
    /// # Errors
    /// [`ActivationError`] when it could not be run; an activation that ran
    /// and failed is an [`Ended`].
    pub fn run(&self, toplevel: &StorePath, action: Action, limit: Duration) -> Result<Ended, ActivationError> {
        self.run_if(toplevel, action, limit, || true)
    }

    /// As [`Activation::run`], if `is_wanted` still says so at the last moment.
    ///
    /// The question and the start of the program lie under one lock, which
    /// [`Activation::stop`] passes through. So an activation that was withdrawn
    /// in the journal before a `stop` is either found by it or never starts,
    /// however long its process was suspended in between.
    ///
    /// # Errors
    /// As [`Activation::run`], and [`ActivationError::Withdrawn`].
    pub fn run_if(
        &self,
        toplevel: &StorePath,
        action: Action,
        limit: Duration,
        is_wanted: impl FnOnce() -> bool,
    ) -> Result<Ended, ActivationError> {
        let lock = self.lock()?;
        if self.is_busy()? {
            return Err(ActivationError::LockBusy);
        }
        if !is_wanted() {
            return Err(ActivationError::Withdrawn);
        }
        match self.runner {
            Runner::Process => {
                let started = self.start_process(toplevel, action, limit)?;
                drop(lock);
                Ok(started.wait()?)
            }
            Runner::Systemd => {
                self.start_unit(toplevel, action, limit)?;
                drop(lock);
                self.wait_for_unit(limit)
            }
        }
    }

    /// Waits for an activation that another process began. Its exit code is
    /// known only where the service manager kept it.
    ///
    /// # Errors
    /// [`ActivationError`] when that cannot be told.
    pub fn join(&self, limit: Duration) -> Result<Option<Ended>, ActivationError> {
        if self.runner == Runner::Systemd {
            return if self.unit()?.is_known() { self.wait_for_unit(limit).map(Some) } else { Ok(None) };
        }
        let deadline = Instant::now() + limit;
        while !self.leaders()?.is_empty() {
            if Instant::now() >= deadline {
                self.stop()?;
                return Ok(Some(Ended::of(-1, true, String::new())));
            }
            std::thread::sleep(POLL);
        }
        Ok(None)
    }

    /// Kills whatever activation of ours is still running, for instance one
    /// whose parent has died, and waits until it is gone.
    ///
    /// # Errors
    /// [`ActivationError`] when processes remain.
    pub fn stop(&self) -> Result<(), ActivationError> {
        drop(self.lock()?);
        if self.runner == Runner::Systemd && self.unit()?.is_running() {
            self.systemctl(&["kill", "--signal=KILL", UNIT])?;
        }
        let deadline = Instant::now() + KILL_TIME_MAX;
        loop {
            let leaders = self.leaders()?;
            let unit_runs = self.runner == Runner::Systemd && self.unit()?.is_running();
            if leaders.is_empty() && !unit_runs {
                return Ok(());
            }
            for leader in leaders {
                match rustix::process::kill_process_group(leader, rustix::process::Signal::KILL) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(errno) => return Err(self.io("stop", self.marker(), errno.into())),
                }
            }
            if Instant::now() >= deadline {
                return Err(self.io("stop", self.marker(), std::io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(POLL);
        }
    }

    /// The names of failed units, empty where there is no service manager.
    ///
    /// # Errors
    /// [`ActivationError`] when the service manager does not answer.
    pub fn failed_units(&self) -> Result<Vec<String>, ActivationError> {
        if self.runner == Runner::Process {
            return Ok(Vec::new());
        }
        let text = self.systemctl(&["list-units", "--state=failed", "--plain", "--no-legend", "--no-pager"])?;
        Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// Held only while a program is being started, so it is waited for.
    fn lock(&self) -> Result<std::fs::File, ActivationError> {
        let path = self.state_dir.join("activation.lock");
        let mut options = std::fs::OpenOptions::new();
        let file =
            options.create(true).append(true).open(&path).map_err(|source| self.io("open", path.clone(), source))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|errno| self.io("lock", path, errno.into()))?;
        Ok(file)
    }

    fn start_process(&self, toplevel: &StorePath, action: Action, limit: Duration) -> Result<Started, ActivationError> {
        self.make_marker()?;
        Ok(Program::new(program_of(toplevel), &[action.as_str()], limit)
            .env("OSMODA_HOST_ROOT", &self.host_root)
            .folder(&self.host_root)
            .input_from(&self.marker())
            .output_to(&self.log())
            .start()?)
    }

    fn start_unit(&self, toplevel: &StorePath, action: Action, limit: Duration) -> Result<(), ActivationError> {
        self.clear_unit()?;
        let program = find_program("systemd-run").ok_or(ActivationError::NoSystemd("systemd-run"))?;
        let unit = format!("--unit={UNIT}");
        let log = self.log();
        let output = format!("--property=StandardOutput=truncate:{}", log.display());
        let errors = format!("--property=StandardError=append:{}", log.display());
        let time = format!("--property=RuntimeMaxSec={}", limit.as_secs().max(1));
        let switch = program_of(toplevel);
        let switch = switch.to_string_lossy();
        let args = [
            "--no-ask-password",
            "--quiet",
            "--service-type=exec",
            "--remain-after-exit",
            &unit,
            &time,
            "--property=KillMode=mixed",
            &output,
            &errors,
            "--setenv=OSMODA_HOST_ROOT=/",
            "--",
            &switch,
            action.as_str(),
        ];
        let asked = Program::new(program, &args, SYSTEMCTL_TIME_MAX).output_to(&self.answer()).run()?;
        if !asked.success() {
            return Err(ActivationError::Refused(asked.describe()));
        }
        Ok(())
    }

    fn wait_for_unit(&self, limit: Duration) -> Result<Ended, ActivationError> {
        // The unit stops itself at its own limit; this one only covers a
        // service manager that does not.
        let deadline = Instant::now() + limit + SYSTEMCTL_TIME_MAX;
        let mut last_error = None;
        while Instant::now() < deadline {
            match self.unit() {
                Ok(unit) if !unit.is_running() => {
                    let output = std::fs::read(self.log()).unwrap_or_default();
                    let tail = output.len().saturating_sub(1500);
                    let output = String::from_utf8_lossy(&output[tail..]).into_owned();
                    self.clear_unit()?;
                    return Ok(Ended::of(unit.exit, unit.result == "timeout", output));
                }
                Ok(_) => {}
                // Expected while the service manager executes itself anew.
                Err(error) => last_error = Some(error),
            }
            std::thread::sleep(POLL);
        }
        self.stop()?;
        match last_error {
            Some(error) => Err(error),
            None => Ok(Ended::of(-1, true, String::new())),
        }
    }

    fn clear_unit(&self) -> Result<(), ActivationError> {
        let unit = self.unit()?;
        if unit.active == "active" {
            self.systemctl(&["stop", UNIT])?;
        }
        if unit.active == "failed" {
            self.systemctl(&["reset-failed", UNIT])?;
        }
        Ok(())
    }

    fn unit(&self) -> Result<Unit, ActivationError> {
        let text = self.systemctl(&[
            "show",
            UNIT,
            "--property=LoadState",
            "--property=ActiveState",
            "--property=SubState",
            "--property=Result",
            "--property=ExecMainStatus",
        ])?;
        Ok(Unit::parse(&text))
    }

    fn systemctl(&self, args: &[&str]) -> Result<String, ActivationError> {
        let program = find_program("systemctl").ok_or(ActivationError::NoSystemd("systemctl"))?;
        let answer = self.answer();
        let ended = Program::new(program, args, SYSTEMCTL_TIME_MAX).output_to(&answer).run()?;
        if !ended.success() {
            return Err(ActivationError::Refused(ended.describe()));
        }
        let text = std::fs::read_to_string(&answer).map_err(|source| self.io("read", answer.clone(), source))?;
        // A file that stays is one small file per process that ever asked.
        std::fs::remove_file(&answer).unwrap_or_default();
        Ok(text)
    }

    fn switch_lock_is_held(&self) -> Result<bool, ActivationError> {
        let path = self.host_root.join("run/nixos/switch-to-configuration.lock");
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(self.io("open", path, source)),
        };
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(self.io("lock", path, errno.into())),
        }
    }

    /// Leaders of process groups whose standard input is the marker. Services
    /// an activation left behind may have the marker too, but lead no group
    /// whose leader is the activation itself.
    fn leaders(&self) -> Result<Vec<rustix::process::Pid>, ActivationError> {
        let Ok(marker) = self.marker().canonicalize() else { return Ok(Vec::new()) };
        let proc = PathBuf::from("/proc");
        let entries = std::fs::read_dir(&proc).map_err(|source| self.io("list", proc, source))?;
        // A process that ends while it is being looked at is simply gone.
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let uses_marker = |pid: &i32| std::fs::read_link(format!("/proc/{pid}/fd/0")).is_ok_and(|path| path == marker);
        let leads = |pid: &i32| group_of(*pid) == Some(*pid);
        Ok(pids.filter(|pid| uses_marker(pid) && leads(pid)).filter_map(rustix::process::Pid::from_raw).collect())
    }

    fn make_marker(&self) -> Result<(), ActivationError> {
        let path = self.marker();
        let mut options = std::fs::OpenOptions::new();
        let made = options.create(true).append(true).open(&path);
        made.map(drop).map_err(|source| self.io("create", path, source))
    }

    fn marker(&self) -> PathBuf {
        self.state_dir.join("activation.marker")
    }

    fn log(&self) -> PathBuf {
        self.state_dir.join("activation.log")
    }

    /// Answers of the service manager; guard and daemon ask at the same time,
    /// so each process has its own file.
    fn answer(&self) -> PathBuf {
        self.state_dir.join(format!("systemctl-{}.out", std::process::id()))
    }

    fn io(&self, action: &'static str, path: PathBuf, source: std::io::Error) -> ActivationError {
        ActivationError::Io { action, path, source }
    }
}

fn program_of(toplevel: &StorePath) -> PathBuf {
    toplevel.as_path().join("bin/switch-to-configuration")
}

/// The process group, from the fifth field of `/proc/PID/stat`; the second is
/// the name in parentheses and may contain anything.
fn group_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    (state != "Z").then_some(group)
}

/// What the service manager knows about the transient unit.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unit {
    load: String,
    active: String,
    sub: String,
    result: String,
    exit: i32,
}

impl Unit {
    fn parse(text: &str) -> Self {
        let mut unit = Unit::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match name {
                "LoadState" => value.clone_into(&mut unit.load),
                "ActiveState" => value.clone_into(&mut unit.active),
                "SubState" => value.clone_into(&mut unit.sub),
                "Result" => value.clone_into(&mut unit.result),
                "ExecMainStatus" => unit.exit = value.parse().unwrap_or(-1),
                _ => {}
            }
        }
        unit
    }

    fn is_known(&self) -> bool {
        self.load == "loaded"
    }

    fn is_running(&self) -> bool {
        matches!(self.active.as_str(), "activating" | "deactivating" | "reloading")
            || (self.active == "active" && self.sub != "exited")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_running_until_its_program_has_exited() {
        let unit = |active: &str, sub: &str| {
            Unit::parse(&format!("LoadState=loaded\nActiveState={active}\nSubState={sub}\nExecMainStatus=4"))
        };
        assert!(unit("active", "running").is_running());
        assert!(unit("activating", "start").is_running());
        assert!(!unit("active", "exited").is_running());
        assert!(!unit("failed", "failed").is_running());
        assert_eq!(unit("failed", "failed").exit, 4);
        assert!(!Unit::parse("LoadState=not-found\nActiveState=inactive").is_known());
    }

    #[test]
    fn the_switch_lock_of_a_person_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let activation = Activation::new(root.path(), root.path(), Runner::Process);
        assert!(!activation.is_busy().unwrap());
        std::fs::create_dir_all(root.path().join("run/nixos")).unwrap();
        let file = std::fs::File::create(root.path().join("run/nixos/switch-to-configuration.lock")).unwrap();
        assert!(!activation.is_busy().unwrap());
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert!(activation.is_busy().unwrap());
    }
}
