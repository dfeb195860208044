//! Starting programs: argument list, no shell, empty environment, time limit,
//! output cap, and the whole process group gone afterwards.
//!
//! Invariant: when [`run`] returns, or its future is dropped, no process of the
//! program's group is left. A program that is meant to outlive its caller makes
//! a session of its own (`setsid`) and is started with [`start_detached`].
//! This file does not decide what may be run, nor does it write to the ledger.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// How long output is still read after the group is gone. Only a process that
/// left the group can hold the pipe then; its words are not worth waiting for.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// Size of one read from a pipe: Linux pipes hand out at most 64 KiB at once.
const READ_BYTES: usize = 64 * 1024;

/// What to run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The program: absolute, or relative to `cwd`. `PATH` is not searched,
    /// unless the caller passes one in `env`.
    pub program: PathBuf,
    /// Its arguments, without the name.
    pub args: Vec<OsString>,
    /// The folder to run in.
    pub cwd: Option<PathBuf>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// After this the group is killed.
    pub time_limit: Duration,
    /// How much of each of stdout and stderr is kept; the rest is read and dropped.
    pub output_bytes_max: usize,
}

impl Spec {
    /// A program without arguments: 30 s, 64 KiB of output, empty environment.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            cwd: None,
            env: Vec::new(),
            time_limit: Duration::from_secs(30),
            output_bytes_max: 64 * 1024,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets the folder.
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<PathBuf>) -> Self {
        self.cwd = Some(cwd.into());
        self
    }

    /// Adds one variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the time limit.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Sets the output cap.
    #[must_use]
    pub fn output_bytes_max(mut self, bytes: usize) -> Self {
        self.output_bytes_max = bytes;
        self
    }

    #[allow(clippy::disallowed_methods, reason = "this is the door that every other program start goes through")]
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().stdin(Stdio::null());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        command
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended; killed by signal 9 when it ran out of time.
    pub status: ExitStatus,
    /// The first `output_bytes_max` bytes of stdout.
    pub stdout: Vec<u8>,
    /// The first `output_bytes_max` bytes of stderr.
    pub stderr: Vec<u8>,
    /// Whether the time limit ended it.
    pub timed_out: bool,
    /// Whether output was dropped.
    pub truncated: bool,
}

impl Output {
    /// Whether it ended by itself with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        !self.timed_out && self.status.success()
    }

    /// The last lines of stderr, else of stdout, at most `chars_max`, for a message.
    #[must_use]
    pub fn tail(&self, chars_max: usize) -> String {
        let bytes = if self.stderr.is_empty() { &self.stdout } else { &self.stderr };
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim();
        let skip = text.chars().count().saturating_sub(chars_max);
        text.chars().skip(skip).collect()
    }
}

/// Why nothing can be said about a program.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started: absent, not executable, no such folder.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It ran but could not be watched.
    #[error("cannot wait for {}", program.display())]
    Wait {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Runs a program to its end.
///
/// # Errors
/// [`RunError`]. A program that fails or runs out of time is an `Ok` whose
/// [`Output`] says so.
///
/// # Cancel safety
/// Dropping the future kills the whole process group.
pub async fn run(spec: &Spec) -> Result<Output, RunError> {
    let start_error = |source| RunError::Start { program: spec.program.clone(), source };
    let wait_error = |source| RunError::Wait { program: spec.program.clone(), source };
    let mut command = spec.command();
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(start_error)?;
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let mut group = Group { leader: pid };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());

    let mut reading = Box::pin(async {
        let (mut out, mut err) = (Captured::default(), Captured::default());
        tokio::join!(out.read(stdout, spec.output_bytes_max), err.read(stderr, spec.output_bytes_max));
        (out, err)
    });
    let mut captured = None;
    let timed_out = {
        let exited = tokio::time::timeout(spec.time_limit, exited(pid));
        tokio::pin!(exited);
        loop {
            tokio::select! {
                // Cancel-safe: readiness of a descriptor and a timer; neither is consumed.
                ended = &mut exited => match ended {
                    Ok(result) => break result.map(|()| false).map_err(wait_error)?,
                    Err(_) => break true,
                },
                // Polled by reference, so nothing read is lost when the other arm wins.
                both = &mut reading, if captured.is_none() => captured = Some(both),
            }
        }
    };
    // The leader is dead or dying but not yet reaped, so its group id is still
    // taken and the signal cannot reach a stranger.
    group.kill();
    let status = child.wait().await.map_err(wait_error)?;
    group.disarm();
    let (out, err) = match captured {
        Some(both) => both,
        None => tokio::time::timeout(OUTPUT_GRACE, reading).await.unwrap_or_default(),
    };
    let truncated = out.truncated || err.truncated;
    Ok(Output { status, stdout: out.bytes, stderr: err.bytes, timed_out, truncated })
}

/// Starts a program that outlives this process, such as the guard; the program
/// makes its own session. Nothing is captured; `kill_on_drop` is off.
///
/// # Errors
/// [`RunError::Start`].
pub fn start_detached(spec: &Spec) -> Result<Child, RunError> {
    spec.command()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(false)
        .spawn()
        .map_err(|source| RunError::Start { program: spec.program.clone(), source })
}

/// Resolves when the process has exited, without reaping it. Cancel-safe.
async fn exited(pid: Option<Pid>) -> io::Result<()> {
    let Some(pid) = pid else { return Ok(()) };
    let descriptor: OwnedFd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    #[allow(deprecated, reason = "unsound only for types that lie about their descriptor; its successor is unsafe")]
    let descriptor = AsyncFd::with_interest(descriptor, tokio::io::Interest::READABLE)?;
    descriptor.readable().await?.retain_ready();
    Ok(())
}

/// The process group; killed when dropped unless disarmed.
struct Group {
    leader: Option<Pid>,
}

impl Group {
    fn kill(&self) {
        let Some(leader) = self.leader else { return };
        match kill_process_group(leader, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::warn!(group = leader.as_raw_nonzero().get(), %error, "process group not killed"),
        }
    }

    fn disarm(&mut self) {
        self.leader = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Default)]
struct Captured {
    bytes: Vec<u8>,
    truncated: bool,
}

impl Captured {
    /// Reads to the end, keeping the first `bytes_max` bytes.
    async fn read(&mut self, pipe: Option<impl AsyncRead + Unpin>, bytes_max: usize) {
        let Some(mut pipe) = pipe else { return };
        let mut buffer = vec![0; READ_BYTES];
        loop {
            // A read error on a pipe means its other end is gone.
            let count = pipe.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return;
            }
            let room = bytes_max - self.bytes.len();
            self.bytes.extend_from_slice(&buffer[..count.min(room)]);
            self.truncated |= count > room;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::wait_for;

    fn shell(script: &str) -> Spec {
        Spec::new("/bin/sh").args(["-c", script])
    }

    fn alive(pid: i32) -> bool {
        // A killed process whose new parent has not reaped it is a zombie, not alive.
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
    }

    #[tokio::test]
    async fn output_and_status_are_returned() {
        let output = run(&shell("echo out; echo err >&2; exit 3")).await.unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        assert!(!output.success() && !output.timed_out && !output.truncated);
        assert_eq!(output.tail(2), "rr");
    }

    #[tokio::test]
    async fn the_environment_is_empty_but_for_what_is_given() {
        let output = run(&Spec::new("/usr/bin/env").env("ONLY", "this")).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "ONLY=this\n");
    }

    #[tokio::test]
    async fn output_over_the_cap_is_dropped_and_the_program_still_ends() {
        let output = run(&shell("head -c 1000000 /dev/zero").output_bytes_max(1000)).await.unwrap();
        assert!(output.success() && output.truncated);
        assert_eq!(output.stdout.len(), 1000);
    }

    #[tokio::test]
    async fn a_timeout_kills_grandchildren_too() {
        let script = "sleep 300 & echo $!; sleep 300";
        // Time enough to start on a busy machine.
        let output = run(&shell(script).time_limit(Duration::from_secs(3))).await.unwrap();
        assert!(output.timed_out && !output.success());
        let grandchild: i32 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
        wait_for("the grandchild to be gone", Duration::from_secs(5), async || (!alive(grandchild)).then_some(()))
            .await;
    }

    #[tokio::test]
    async fn what_a_program_leaves_behind_in_its_group_is_killed_at_its_end() {
        let output = run(&shell("sleep 300 & echo $!")).await.unwrap();
        assert!(output.success());
        let left: i32 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
        wait_for("the leftover to be gone", Duration::from_secs(5), async || (!alive(left)).then_some(())).await;
    }

    #[tokio::test]
    async fn dropping_the_run_kills_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("pid");
        let spec = shell("sleep 300 & echo $! > pid.tmp && mv pid.tmp pid; wait").cwd(dir.path());
        let mut running = Box::pin(run(&spec));
        let grandchild = tokio::select! {
            _ = &mut running => panic!("ended early"),
            pid = wait_for("the pid", Duration::from_secs(5), async || std::fs::read_to_string(&note).ok()) => pid,
        };
        let grandchild: i32 = grandchild.trim().parse().unwrap();
        assert!(alive(grandchild));
        drop(running);
        wait_for("the grandchild to be gone", Duration::from_secs(5), async || (!alive(grandchild)).then_some(()))
            .await;
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_an_error_with_its_name() {
        let error = run(&Spec::new("/no/such/program")).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/program"));
    }
}
